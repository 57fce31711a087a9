"""User-defined families of transformations, which `--transform package.module:object` names."""

import dataclasses
import difflib
import functools
import importlib
import traceback
from types import ModuleType

from experiments.settings.config import PROJECTION_MODELS, Model
from experiments.settings.errors import ConfigError
from stn_jax.transforms import Transform


def load_fitting_family(settings: Model) -> Transform:
    """Loads the user-defined family of a model.

    Raises:
        ConfigError: as `load_family`, or if the family is for images and the model for volumes, or
            the reverse.
    """
    family = load_family(settings.transform)
    ndim = 3 if settings.model in PROJECTION_MODELS else 2
    if family.ndim != ndim:
        raise ConfigError(
            f"--transform must have ndim {ndim} with --model {settings.model}; "
            f"got {settings.transform}, which has ndim {family.ndim}"
        )
    return family


@functools.cache  # a family is compared by identity, so a second object would be another family
def load_family(reference: str) -> Transform:
    """Imports a user-defined family.

    Args:
        reference: package.module:object, as in `--transform`.

    Returns:
        The family. Equal references return the same object.

    Raises:
        ConfigError: if the module cannot be imported, or if the object is missing or not a valid
            `Transform`.
    """
    module_name, _, name = reference.partition(":")
    module = _import(reference, module_name)
    if not hasattr(module, name):
        raise ConfigError(f"--transform {reference}: {_describe_missing(module, name)}")
    family = getattr(module, name)
    if not isinstance(family, Transform):
        raise ConfigError(
            f"--transform {reference}: must be a stn_jax.transforms.Transform; "
            f"got an object of type {type(family).__name__}"
        )
    try:
        dataclasses.replace(family)  # checks a family that was made with check=False
    except ValueError as error:
        raise ConfigError(f"--transform {reference}: {_first_line(error)}") from error
    return family


def _import(reference: str, name: str) -> ModuleType:
    """Imports the module of a reference."""
    try:
        return importlib.import_module(name)
    except (Exception, SystemExit) as error:  # user code can raise anything
        missing = error.name if isinstance(error, ModuleNotFoundError) else None
        if missing and f"{name}.".startswith(f"{missing}."):
            reason = (
                f"there is no module {missing}; run the command in the folder that contains it, "
                "or add that folder to PYTHONPATH"
            )
        else:
            reason = f"importing {name} raises {type(error).__name__}: {_first_line(error)}"
            reason += _place(error)
        raise ConfigError(f"--transform {reference}: {reason}") from error


def _first_line(error: BaseException) -> str:
    return (str(error).splitlines() or [""])[0]


def _place(error: BaseException) -> str:
    """The file and line of the statement that fails while a module is imported."""
    frames = [
        frame for frame in traceback.extract_tb(error.__traceback__) if frame.name == "<module>"
    ]
    return f" ({frames[-1].filename}, line {frames[-1].lineno})" if frames else ""


def _describe_missing(module: ModuleType, name: str) -> str:
    """The message for an object that a module does not contain."""
    families = [key for key, value in vars(module).items() if isinstance(value, Transform)]
    hint = f"its transformations are {', '.join(families)}"
    if near := difflib.get_close_matches(name, vars(module), n=1):
        hint = f"perhaps you meant {near[0]}"
    elif not families:
        hint = "it defines no Transform"
    return f"module {module.__name__} has no object {name}; {hint}"
