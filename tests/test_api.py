"""The public functions keep one set of house rules."""

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
    """By name, those of `__all__`; without it, those that are defined there, not imported."""
    found = {name: value for name, value in vars(module).items() if inspect.isfunction(value)}
    if hasattr(module, "__all__"):
        return {name: found[name] for name in module.__all__ if name in found}
    here = module.__name__
    return {n: f for n, f in found.items() if n[0] != "_" and f.__module__ == here}


def public_functions() -> list:
    found = {
        f"{function.__module__}.{name}": function
        for module in MODULES
        for name, function in functions_of(module).items()
    }
    return sorted(found.items())


FUNCTIONS = public_functions()
names = pytest.mark.parametrize(("name", "function"), FUNCTIONS, ids=[n for n, _ in FUNCTIONS])


def test_the_contract_is_there() -> None:
    for name in ("affine_grid", "grid_sample", "spatial_transform", "transforms", "nn"):
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
def test_a_module_is_public_or_its_functions_are(name: str) -> None:
    """What has no underscore is promised, under its own name or by `stn_jax` itself."""
    if name[0] != "_" and name not in stn_jax.__all__:
        assert {*functions_of(importlib.import_module(f"stn_jax.{name}"))} <= {*stn_jax.__all__}


def test_what_is_public_is_there() -> None:
    for module in MODULES:
        for name in getattr(module, "__all__", ()):
            assert hasattr(module, name)
    assert {"stn_jax.contrast", "stn_jax.population"} <= {module.__name__ for module in MODULES}
    assert {"stn_jax.extrusion.extruded", "stn_jax.nn.layers.max_pool"} <= {n for n, _ in FUNCTIONS}


def section(documentation: str, title: str) -> str:
    """What stands under a title, up to the next line that is not indented."""
    found = re.search(rf"^{title}:\n((?: .*\n|\n)+)", documentation + "\n", re.MULTILINE)
    return found[1] if found else ""


@names
def test_documented(name: str, function: types.FunctionType) -> None:
    documentation, signature = inspect.getdoc(function), inspect.signature(function)
    assert documentation
    said = re.findall(r"^ {4}((?:\w+, )*\w+): \S", section(documentation, "Args"), re.MULTILINE)
    assert {n for names in said for n in names.split(", ")} == {*signature.parameters}
    if signature.return_annotation is not None:
        assert section(documentation, "Returns").strip()


@names
def test_annotated(name: str, function: types.FunctionType) -> None:
    signature = inspect.signature(function)
    assert signature.return_annotation is not inspect.Signature.empty
    for parameter in signature.parameters.values():
        assert parameter.annotation is not inspect.Parameter.empty, parameter.name


# Of these the key comes last: the arguments are an objective's.
MEASURING = ("stn_jax.training.evaluate", "stn_jax.training.each_example")


@names
def test_the_key_comes_first(name: str, function: types.FunctionType) -> None:
    parameters = list(inspect.signature(function).parameters)
    if "key" in parameters and name not in MEASURING:
        assert parameters[0] == "key"


@names
def test_options_are_keyword_only(name: str, function: types.FunctionType) -> None:
    for parameter in inspect.signature(function).parameters.values():
        option = isinstance(parameter.default, str | bool | float)
        makes_a_transform = name.endswith(".thin_plate_spline")  # the contract's own signature
        if option and not makes_a_transform:
            assert parameter.kind is inspect.Parameter.KEYWORD_ONLY, parameter.name


@names
def test_one_default_of_each_option(name: str, function: types.FunctionType) -> None:
    defaults = {"mode": "bilinear", "padding_mode": "zeros", "align_corners": False, "fill": 0.0}
    for parameter in inspect.signature(function).parameters.values():
        if parameter.name in defaults and parameter.default is not inspect.Parameter.empty:
            assert parameter.default == defaults[parameter.name]
