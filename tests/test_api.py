"""The public functions keep one set of house rules."""

import inspect
import re
import types

import pytest

import stn_jax
import stn_jax.nn
from stn_jax import colocalisation, contrast, distortions, extrusion, population, poses, training

MODULES = (
    stn_jax,
    stn_jax.nn,
    stn_jax.transforms,
    colocalisation,
    contrast,
    distortions,
    extrusion,
    population,
    poses,
    training,
)


def public_functions() -> list:
    found = {}
    for module in MODULES:
        exported = getattr(module, "__all__", None)
        for name in exported or [n for n in vars(module) if n[0] != "_"]:
            value = getattr(module, name)
            here = "stn_jax" if exported else module.__name__
            if isinstance(value, types.FunctionType) and value.__module__.startswith(here):
                found[f"{value.__module__}.{name}"] = value
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


@names
def test_documented_and_annotated(name: str, function: types.FunctionType) -> None:
    documentation, signature = inspect.getdoc(function), inspect.signature(function)
    assert documentation
    _, _, arguments = documentation.partition("Args:\n")
    said = re.findall(r"^ +((?:\w+, )*\w+):", arguments, re.MULTILINE)
    assert {*signature.parameters} <= {name for names in said for name in names.split(", ")}
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
