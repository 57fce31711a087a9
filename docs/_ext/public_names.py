"""Warns about public names that the API reference does not describe."""

import inspect
import types
from collections.abc import Iterator

from sphinx.application import Sphinx
from sphinx.environment import BuildEnvironment
from sphinx.util import logging

import stn_jax
from stn_jax import linen, nnx

LOGGER = logging.getLogger(__name__)


def public_names() -> Iterator[str]:
    """The full name of every public function, class and constant."""
    for name in stn_jax.__all__:
        value = {"linen": linen, "nnx": nnx}.get(name) or getattr(stn_jax, name)
        if isinstance(value, types.ModuleType):
            yield from (f"{value.__name__}.{each}" for each in _names_of(value))
        else:
            yield f"stn_jax.{name}"


def _names_of(module: types.ModuleType) -> list[str]:
    """The names in `__all__`, or those of functions and classes that the module defines."""
    if hasattr(module, "__all__"):
        return list(module.__all__)
    return [
        name
        for name, value in vars(module).items()
        if (inspect.isfunction(value) or inspect.isclass(value))
        and name[0] != "_"
        and value.__module__ == module.__name__
    ]


def warn_about_missing(app: Sphinx, env: BuildEnvironment) -> None:
    """Warns about each public name without an entry."""
    described = set(env.domaindata["py"]["objects"])
    for name in public_names():
        if name not in described:
            LOGGER.warning("docs/api does not describe %s", name)


def setup(app: Sphinx) -> dict[str, bool]:
    """Registers the check."""
    app.connect("env-check-consistency", warn_about_missing)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
