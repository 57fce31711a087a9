"""Objectives: functions that return a loss and other values for each example of a batch."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Float, PRNGKeyArray

from stn_jax.training.state import Params, Variables

Batch = dict[str, Array]
Values = dict[str, Float[Array, " b"]]
Means = dict[str, Float[Array, ""]]
# Returns per-example values of a batch. "loss" is minimised. The key is None in evaluation.
Objective = Callable[[Params, Batch, PRNGKeyArray | None], Values]
# An objective of a network with variables also returns their new values, which evaluation ignores.
StatefulObjective = Callable[
    [Params, Batch, PRNGKeyArray | None, Variables], tuple[Values, Variables]
]
# A function applied to each batch before the objective, with one key per example.
Preprocess = Callable[[PRNGKeyArray, Batch], Batch]


def classification(
    apply_fn: Callable[..., tuple[Any, Any]],
    measure: Callable[[Any], Values] | None = None,
) -> Objective:
    """Creates the objective of classifying `batch["image"]` as `batch["label"]`.

    Labels are integers in [0, classes). This is checked only for concrete labels. Under `jit`,
    another label gives a loss of NaN.

    Args:
        apply_fn: `(params, images, key) -> (logits [b, classes], intermediates)`. For a network
            with variables, such as the statistics of batch normalisation: `(params, images, key,
            variables) -> ((logits, intermediates), variables)`. The key is None in evaluation, and
            the new variables are ignored then.
        measure: returns further per-example values to report, given the intermediates.

    Returns:
        An objective with the values `loss` (cross-entropy in nats), `error` (0 or 1) and those of
        `measure`. It raises `ValueError` if `apply_fn` returns anything else, or unless labels are
        integers `[b]`. For an `apply_fn` with variables, it is a `StatefulObjective`.

    Example:
        >>> def apply_fn(params, images, key, variables):  # counts its calls
        ...     return (images @ params, None), variables + 1
        >>> batch = {"image": jnp.eye(2), "label": jnp.arange(2)}
        >>> values, variables = classification(apply_fn)(jnp.eye(2), batch, None, 0)
        >>> values["error"].tolist(), variables
        ([0.0, 0.0], 1)
    """

    def evaluate(outputs: Any, labels: Array) -> Values:
        logits, intermediates = _check_outputs(outputs)
        _check_labels(labels, logits)
        loss = optax.softmax_cross_entropy_with_integer_labels(logits, labels)
        values = {
            "loss": jnp.where(labels < 0, jnp.nan, loss),  # instead of counting from the last class
            "error": (jnp.argmax(logits, axis=-1) != labels).astype(jnp.float32),
        }
        return values | (measure(intermediates) if measure else {})

    def objective(
        params: Params, batch: Batch, key: PRNGKeyArray | None, *variables: Variables
    ) -> Any:
        outputs = apply_fn(params, batch["image"], key, *variables)
        if not variables:
            return evaluate(outputs, batch["label"])
        outputs, updated = _check_pair(outputs, "apply_fn", "((logits, intermediates), variables)")
        return evaluate(outputs, batch["label"]), updated

    return objective


def call_objective(
    objective: Objective | StatefulObjective,
    params: Params,
    batch: Batch,
    key: PRNGKeyArray | None,
    variables: Variables | None,
    batch_size: int,
) -> tuple[Values, Variables | None]:
    """Calls an objective with the variables if there are any, and checks its values.

    Returns:
        The values of each example, and the new variables or None.

    Raises:
        ValueError: if the objective returns anything else.
    """
    call: Any = objective
    if variables is None:
        values, updated = call(params, batch, key), None
    else:
        found = call(params, batch, key, variables)
        values, updated = _check_pair(found, "objective", "(values, variables)")
    check_values(values, batch_size)
    return values, updated


def check_variables(variables: Variables | None, expected: Variables | None) -> None:
    """Raises `ValueError` unless an objective returned variables of the structure that it got."""
    new, old = (_array_types(tree) for tree in (variables, expected))
    for name in old | new:
        if new.get(name) != old.get(name):
            raise ValueError(
                f"objective must return variables of the same structure; got "
                f"{new.get(name, 'nothing')} for variables{name}, {old.get(name, 'nothing')}"
            )
    if jax.tree.structure(variables) != jax.tree.structure(expected):
        raise ValueError(
            "objective must return variables of the same structure; "
            f"got {jax.tree.structure(variables)} instead of {jax.tree.structure(expected)}"
        )


def _array_types(tree: Any) -> dict[str, str]:
    leaves = jax.tree_util.tree_leaves_with_path(tree)
    types = ((jax.tree_util.keystr(path), jax.typeof(leaf)) for path, leaf in leaves)
    return {name: f"{each.dtype}{list(each.shape)}" for name, each in types}


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


def _describe(found: Any) -> str:
    """The type of an object; for an array also the shape."""
    return f"an array {list(found.shape)}" if hasattr(found, "shape") else type(found).__name__


def _check_pair(found: Any, source: str, expected: str) -> tuple[Any, Any]:
    """Raises `ValueError` unless a function returned a pair."""
    if not (isinstance(found, tuple | list) and len(found) == 2):
        parts = f" of {len(found)}" if isinstance(found, tuple | list) else ""
        raise ValueError(f"{source} must return {expected}; got {_describe(found)}{parts}")
    return found[0], found[1]


def _check_outputs(outputs: Any) -> tuple[Array, Any]:
    """Raises `ValueError` unless `apply_fn` returned logits and intermediates."""
    expected = "(logits, intermediates), such as (logits, None)"
    logits, intermediates = _check_pair(outputs, "apply_fn", expected)
    if getattr(logits, "ndim", None) != 2:
        raise ValueError(f"logits must be an array [b, classes]; got {_describe(logits)}")
    return logits, intermediates


def _label_remedy(labels: Array, size: int) -> str:
    """How to convert labels, as the end of an error message."""
    shape = jnp.shape(labels)
    if shape == (size,):
        return "; convert them with astype(int)"
    if shape == (size, 1):
        return "; use labels[:, 0]"
    return "; use argmax(labels, axis=-1) if they are one-hot"


def _check_labels(labels: Array, logits: Array) -> None:
    """Raises `ValueError` unless labels are integers `[b]` and, if concrete, in range."""
    size, classes = logits.shape
    if jnp.shape(labels) != (size,) or not jnp.issubdtype(jnp.result_type(labels), jnp.integer):
        found = f"{jnp.result_type(labels)}{list(jnp.shape(labels))}"
        raise ValueError(
            f"labels must be integers [{size}] in [0, {classes}); got {found}"
            f"{_label_remedy(labels, size)}"
        )
    if isinstance(labels, jax.core.Tracer) or not getattr(labels, "is_fully_addressable", True):
        return
    values = np.asarray(labels)
    if size and (values.min() < 0 or values.max() >= classes):
        raise ValueError(f"labels must be in [0, {classes}); got {values.min()} to {values.max()}")
