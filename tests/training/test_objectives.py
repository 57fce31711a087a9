"""Objectives must return one value per example."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
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
        (3, lambda: training.evaluate(objective, identity, KEY, 1.0, data, batch_size=3)),
        (3, lambda: training.per_example(objective, identity, KEY, 1.0, data, batch_size=3)),
        (7, lambda: training.train_step(objective, OPTIMIZER, state, data)),
    ):
        expected = found % size if "%d" in found else found
        with pytest.raises(ValueError, match=f"objective must return .*; got .*{expected}"):
            call()


LOGITS = jnp.zeros((4, 3))


@pytest.mark.parametrize(
    ("outputs", "found"),
    [
        (LOGITS, r"such as \(logits, None\); got an array \[4, 3\]"),
        (LOGITS[:2], r"such as \(logits, None\); got an array \[2, 3\]"),
        ((LOGITS,), r"such as \(logits, None\); got tuple of 1"),
        ((LOGITS, None, None), r"such as \(logits, None\); got tuple of 3"),
        (({}, LOGITS), r"logits must be an array \[b, classes\]; got dict"),
        ((LOGITS[0], None), r"logits must be an array \[b, classes\]; got an array \[3\]"),
    ],
)
def test_apply_fn_that_returns_no_logits_raises(outputs: Any, found: str) -> None:
    objective = training.classification(lambda params, images, key: outputs)
    with pytest.raises(ValueError, match=found):
        objective({}, {"image": jnp.zeros(4), "label": jnp.zeros(4, int)}, None)


def test_apply_fn_that_returns_no_variables_raises() -> None:
    objective = training.classification(lambda params, images, key, variables: (LOGITS, None))
    batch = {"image": jnp.zeros(4), "label": jnp.zeros(4, int)}
    with pytest.raises(ValueError, match=r"\(logits, None\); got an array"):
        objective({}, batch, None, {})
    objective = training.classification(lambda params, images, key, variables: LOGITS)
    with pytest.raises(ValueError, match=r"\(\(logits, intermediates\), variables\); got an array"):
        objective({}, batch, None, {})


@pytest.mark.parametrize(
    ("labels", "found"),
    [
        (np.eye(4, 3, dtype=int), r"int\w+\[4, 3\]; use argmax\(labels, axis=-1\) if they are one"),
        (np.zeros((4, 1), int), r"int\w+\[4, 1\]; use labels\[:, 0\]"),
        (np.zeros(4, np.float32), r"float32\[4\]; convert them with astype\(int\)"),
        (np.zeros(4, bool), r"bool\[4\]; convert them with astype\(int\)"),
    ],
)
@pytest.mark.parametrize("jitted", [True, False], ids=["jit", "eager"])
def test_labels_that_are_not_integers_per_example_raise(
    labels: np.ndarray, found: str, jitted: bool, unchecked: None
) -> None:
    objective = training.classification(lambda params, images, key: (LOGITS, None))

    def evaluate(labels: Any) -> Any:
        batch = {"image": jnp.zeros(4), "label": labels}
        return training.evaluate(objective, identity, KEY, {}, batch)

    expected = rf"labels must be integers \[4\] in \[0, 3\); got {found}"
    with pytest.raises(ValueError, match=expected):
        (jax.jit(evaluate) if jitted else evaluate)(labels)


@pytest.mark.parametrize("labels", [[0, 1, 2, 3], [0, 1, 2, -1]])
def test_concrete_labels_out_of_range_raise(labels: list[int]) -> None:
    objective = training.classification(lambda params, images, key: (LOGITS + params, None))
    batch = {"image": jnp.zeros(4), "label": jnp.asarray(labels)}
    expected = rf"labels must be in \[0, 3\); got {min(labels)} to {max(labels)}"
    state = training.init_state(KEY, jnp.zeros(3), OPTIMIZER)
    for call in (
        lambda: objective(jnp.zeros(3), batch, None),
        lambda: training.train_step(objective, OPTIMIZER, state, batch),
        jax.jit(lambda: training.train_step(objective, OPTIMIZER, state, batch)),
    ):
        with pytest.raises(ValueError, match=expected):
            call()


def test_integers_that_jax_would_truncate_raise(unchecked: None) -> None:
    """Otherwise the label 2 ** 40 would be class 0."""
    objective = training.classification(lambda params, images, key: (LOGITS + params, None))
    labels = np.asarray([0, 1, 2, 2**40])
    data = {"image": np.zeros(4), "label": labels}
    state = training.init_state(KEY, jnp.zeros(3), OPTIMIZER)
    expected = r"data\['label'\] must be integers that fit in int32; got 0 to 1099511627776"
    options = {"num_epochs": 1, "batch_size": 2}
    for call in (
        lambda: training.fit(objective, OPTIMIZER, identity, state, data, **options),
        lambda: training.evaluate(objective, identity, KEY, state.params, data),
    ):
        with pytest.raises(ValueError, match=expected):
            call()


@pytest.mark.parametrize("label", [-1, 3])
def test_traced_labels_out_of_range_give_nan(label: int) -> None:
    objective = training.classification(lambda params, images, key: (LOGITS, None))
    batch = {"image": jnp.zeros(4), "label": jnp.full(4, label)}
    values = jax.jit(lambda batch: objective({}, batch, None))(batch)
    assert jnp.isnan(values["loss"]).all()
    assert (values["error"] == 1).all()
