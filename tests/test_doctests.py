"""Docstring examples run and print what they show."""

import doctest
import importlib
import pkgutil

import jax
import jax.numpy as jnp
import pytest

import stn_jax

MODULES = [m.name for m in pkgutil.walk_packages(stn_jax.__path__, "stn_jax.")]


@pytest.mark.slow
@pytest.mark.parametrize("name", MODULES)
def test_docstring_examples_run(name: str) -> None:
    module = importlib.import_module(name)
    failed, _ = doctest.testmod(
        module, extraglobs={"jax": jax, "jnp": jnp}, optionflags=doctest.NORMALIZE_WHITESPACE
    )
    assert failed == 0
