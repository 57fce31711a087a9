"""Conventions that every public function follows."""

import importlib
import inspect
import pkgutil
import re
import types

import pytest

import stn_jax

PUBLIC = [getattr(stn_jax, name) for name in stn_jax.__all__]
MODULES = (stn_jax, *(value for value in PUBLIC if isinstance(value, types.ModuleType)))


def functions_of(module: types.ModuleType) -> dict[str, types.FunctionType]:
    """The functions in `__all__`, or those defined in the module if it has no `__all__`."""
    found = {name: value for name, value in vars(module).items() if inspect.isfunction(value)}
    if hasattr(module, "__all__"):
        return {name: found[name] for name in module.__all__ if name in found}
    return {n: f for n, f in found.items() if n[0] != "_" and f.__module__ == module.__name__}


def public_functions() -> list:
    found = {
        f"{function.__module__}.{name}": function
        for module in MODULES
        for name, function in functions_of(module).items()
    }
    return sorted(found.items())


FUNCTIONS = public_functions()
every_function = pytest.mark.parametrize(
    ("name", "function"), FUNCTIONS, ids=[n for n, _ in FUNCTIONS]
)


def test_promised_names_exist() -> None:
    names = "affine_grid grid_sample spatial_transform transforms nn linen nnx"
    for name in names.split():
        assert hasattr(stn_jax, name)
    for name in ("distortions", "training"):
        assert getattr(stn_jax, name).__name__ == f"stn_jax.{name}"
        assert name in stn_jax.__all__
    for name in ("translation", "rotation", "translation_scale", "similarity", "affine"):
        assert getattr(stn_jax.transforms, name).name == name
    for name in ("projective", "affine_3d", "rigid_3d"):
        assert getattr(stn_jax.transforms, name).name == name
    assert stn_jax.transforms.thin_plate_spline(control_points=(4, 4)).num_params == 32


@pytest.mark.parametrize("name", [found.name for found in pkgutil.iter_modules(stn_jax.__path__)])
def test_modules_without_underscore_are_public_or_reexported(name: str) -> None:
    if name[0] != "_" and name not in stn_jax.__all__:
        assert {*functions_of(importlib.import_module(f"stn_jax.{name}"))} <= {*stn_jax.__all__}


def test_all_lists_existing_names() -> None:
    for module in MODULES:
        for name in getattr(module, "__all__", ()):
            assert hasattr(module, name)
    assert {"stn_jax.contrast", "stn_jax.training.population"} <= {
        module.__name__ for module in MODULES
    }
    expected = {"stn_jax.distortions.solids.extrude", "stn_jax.nn.pooling.max_pool"}
    assert expected <= {name for name, _ in FUNCTIONS}


def section(documentation: str, title: str) -> str:
    """The text under a section title, up to the next line without indentation."""
    found = re.search(rf"^{title}:\n((?: .*\n|\n)+)", documentation + "\n", re.MULTILINE)
    return found[1] if found else ""


@every_function
def test_docstrings_describe_all_arguments_and_the_result(
    name: str, function: types.FunctionType
) -> None:
    documentation, signature = inspect.getdoc(function), inspect.signature(function)
    assert documentation
    described = re.findall(
        r"^ {4}((?:\w+, )*\w+): \S", section(documentation, "Args"), re.MULTILINE
    )
    assert {n for names in described for n in names.split(", ")} == {*signature.parameters}
    if signature.return_annotation is not None:
        assert section(documentation, "Returns").strip()


@every_function
def test_arguments_and_results_are_annotated(name: str, function: types.FunctionType) -> None:
    signature = inspect.signature(function)
    assert signature.return_annotation is not inspect.Signature.empty
    for parameter in signature.parameters.values():
        assert parameter.annotation is not inspect.Parameter.empty, parameter.name


# Functions that `functools.partial` binds.
BOUND = ("objective", "optimizer", "preprocess", "make_trainable")


@every_function
def test_the_key_comes_first_after_bound_functions(name: str, function: types.FunctionType) -> None:
    parameters = [each for each in inspect.signature(function).parameters if each not in BOUND]
    for key in {"key", "keys"} & {*parameters}:
        assert parameters[0] == key


@every_function
def test_options_are_keyword_only(name: str, function: types.FunctionType) -> None:
    for parameter in inspect.signature(function).parameters.values():
        option = isinstance(parameter.default, str | bool | float)
        if option and not name.endswith(".thin_plate_spline"):
            assert parameter.kind is inspect.Parameter.KEYWORD_ONLY, parameter.name


@every_function
def test_each_option_has_one_default(name: str, function: types.FunctionType) -> None:
    defaults = {"mode": "bilinear", "padding_mode": "zeros", "align_corners": False, "fill": 0.0}
    for parameter in inspect.signature(function).parameters.values():
        if parameter.name in defaults and parameter.default is not inspect.Parameter.empty:
            assert parameter.default == defaults[parameter.name]
