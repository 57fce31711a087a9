"""Objectives must return one value per example."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import pytest

from stn_jax import training
from tests.training.linear_model import KEY, OPTIMIZER, identity


@pytest.mark.parametrize(
    ("values", "found"),
    [
        (lambda x: {"loss": x[:, None] ** 2}, r"{'loss': \[%d, 1\]}"),
        (lambda x: {"loss": jnp.mean(x)}, r"{'loss': \[\]}"),
        (lambda x: {"loss": x, "error": jnp.mean(x)}, r"{'loss': \[%d\], 'error': \[\]}"),
        (lambda x: {"error": x}, r"{'error': \[%d\]}"),
        (lambda x: {"loss": x, "gradient_norm": x}, r"'gradient_norm': \[%d\]}"),
        (lambda x: {"loss": jnp.mean(x)[None]}, r"{'loss': \[1\]}"),
        (jnp.mean, "(Array|Tracer)"),
    ],
)
def test_values_that_are_not_per_example_raise(
    values: Callable[[jax.Array], Any], found: str, unchecked: None
) -> None:
    """Means would be wrong if the last batch is filled up, and columns would be broadcast."""

    def objective(params: jax.Array, batch: training.Batch, key: jax.Array | None) -> Any:
        return values(params * batch["x"])

    data = {"x": jnp.arange(7.0)}
    state = training.init_state(KEY, jnp.ones(()), OPTIMIZER)
    for size, call in (
        (3, lambda: training.evaluate(objective, identity, 1.0, data, KEY, batch_size=3)),
        (3, lambda: training.per_example(objective, identity, 1.0, data, KEY, batch_size=3)),
        (7, lambda: training.train_step(objective, OPTIMIZER, state, data)),
    ):
        expected = found % size if "%d" in found else found
        with pytest.raises(ValueError, match=f"objective must return .*; got .*{expected}"):
            call()
