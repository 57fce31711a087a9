"""Objectives: functions that return a loss and other values for each example of a batch."""

from collections.abc import Callable
from typing import Any

import jax.numpy as jnp
import optax
from jaxtyping import Array, Float, PRNGKeyArray

from stn_jax.training.state import Params

Batch = dict[str, Array]
Values = dict[str, Float[Array, " b"]]
Means = dict[str, Float[Array, ""]]
# Returns per-example values of a batch. "loss" is minimised. The key is None in evaluation.
Objective = Callable[[Params, Batch, PRNGKeyArray | None], Values]
# A function applied to each batch before the objective, with one key per example.
Preprocess = Callable[[PRNGKeyArray, Batch], Batch]


def classification(
    apply_fn: Callable[[Params, Array, PRNGKeyArray | None], tuple[Array, Any]],
    measure: Callable[[Any], Values] | None = None,
) -> Objective:
    """Creates the objective of classifying `batch["image"]` as `batch["label"]`.

    Labels are integers in [0, classes). This is not checked: a larger label gives a loss of NaN,
    and a negative one counts from the last class.

    Args:
        apply_fn: `(params, images, key) -> (logits [b, classes], intermediates)`.
        measure: returns further per-example values to report, given the intermediates.

    Returns:
        An objective with the values `loss` (cross-entropy in nats), `error` (0 or 1) and those of
        `measure`.
    """

    def objective(params: Params, batch: Batch, key: PRNGKeyArray | None) -> Values:
        logits, intermediates = apply_fn(params, batch["image"], key)
        labels = batch["label"]
        values = {
            "loss": optax.softmax_cross_entropy_with_integer_labels(logits, labels),
            "error": (jnp.argmax(logits, axis=-1) != labels).astype(jnp.float32),
        }
        return values | (measure(intermediates) if measure else {})

    return objective


def check_values(values: object, batch_size: int) -> None:
    """Raises `ValueError` unless an objective returned one value per example, with a `loss`.

    Other shapes would be broadcast, or averaged twice.
    """
    found: object = type(values).__name__
    if isinstance(values, dict):
        found = {name: list(jnp.shape(each)) for name, each in values.items()}
        per_example = all(shape == [batch_size] for shape in found.values())
        if per_example and "loss" in found and "gradient_norm" not in found:
            return
    raise ValueError(
        f"objective must return a dictionary with 'loss', and without 'gradient_norm', of values "
        f"[{batch_size}]; got {found}"
    )
