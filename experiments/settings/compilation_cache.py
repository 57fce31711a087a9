"""JAX's persistent compilation cache: later commands load the programs that earlier ones compiled.

The folder is `stn_jax` in the user's folder of caches: `XDG_CACHE_HOME`, or else `~/.cache`. It is
not among the data sets, which users may share: whoever writes compiled programs chooses the code
that runs. The key of a program holds its text, the versions, the flags and the processor.
"""

import os
import pathlib

from experiments.settings.errors import UserError, print_warning
from experiments.settings.machine import expand_user

FLAG = "--no-compilation-cache"
# In bytes. JAX removes the programs that were not used for longest. The demo has 1 MB of them.
MAX_SIZE = 1 << 28


def cache_folder() -> pathlib.Path:
    """Returns the folder of compiled programs.

    Raises:
        UserError: the home directory is needed and not known.
    """
    return expand_user(os.environ.get("XDG_CACHE_HOME") or "~/.cache") / "stn_jax"


def use_compilation_cache(wanted: bool) -> None:
    """Keeps the compiled programs of this process, or compiles all of them again.

    Several processes may share the folder: JAX locks it for each read and write. A folder that
    cannot be written costs time only, so it gives a warning. If `JAX_COMPILATION_CACHE_DIR` names
    another folder, that one is used, with JAX's own settings.

    Args:
        wanted: whether to keep programs.
    """
    import jax

    if not wanted:
        jax.config.update("jax_enable_compilation_cache", False)
        return
    if jax.config.values["jax_compilation_cache_dir"] is not None:
        return
    try:
        folder = _make_folder()
    except UserError as error:
        print_warning(f"compiled programs are not kept: {error}; {FLAG} omits this warning")
        return
    jax.config.update("jax_compilation_cache_dir", str(folder))
    jax.config.update("jax_compilation_cache_max_size", MAX_SIZE)  # also turns the locks on
    # Most programs are small, and there are many: all are kept.
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)
    jax.config.update("jax_persistent_cache_min_entry_size_bytes", -1)


def _make_folder() -> pathlib.Path:
    """Makes the folder. A new one can be read by its user only.

    Raises:
        UserError: the folder cannot be made or written.
    """
    folder = cache_folder()
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"{folder}: {error.strerror}") from None
    if not os.access(folder, os.W_OK | os.X_OK):
        raise UserError(f"{folder}: cannot be written")
    return folder
