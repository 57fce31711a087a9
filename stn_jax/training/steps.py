"""Training steps, and the order in which they use the examples."""

import functools
import textwrap
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Bool, Float, Int, PRNGKeyArray

from stn_jax._checks import check_dtype, check_integer
from stn_jax.training.loops import scan
from stn_jax.training.objectives import (
    Batch,
    Means,
    Objective,
    Preprocess,
    StatefulObjective,
    Values,
    call_objective,
    check_variables,
)
from stn_jax.training.state import Params, TrainState, Variables

# Folded into a run's key, one for each use of random numbers.
_OBJECTIVE, _PREPROCESSING, _ORDER = 0x0B1E, 0xDA7A, 0x0DE5


def train_step(
    objective: Objective | StatefulObjective,
    optimizer: optax.GradientTransformation,
    state: TrainState,
    batch: Batch,
) -> tuple[TrainState, Means]:
    """Takes one step of gradient descent on the mean loss of a batch.

    Args:
        objective: the objective whose `loss` is minimised.
        optimizer: an optax gradient transformation.
        state: the state before the step.
        batch: a preprocessed batch, as the objective expects it.

    Returns:
        The next state, and the means of the objective's values over the batch, with the norm of
        the gradient as `gradient_norm`. If the loss, this norm, the new parameters or the new
        variables are not finite, the state is the previous one with `diverged` set.

    Raises:
        ValueError: unless the objective returns a dictionary with `loss`, of values `[b]`, and the
            arrays of the batch have one leading axis. With `state.variables`, unless it also
            returns variables of the same structure.
    """
    key = _counted_key(state.key, _OBJECTIVE, state.step)

    def loss(params: Params) -> tuple[Array, tuple[Values, Variables]]:
        size = count_examples(batch)
        values, variables = call_objective(objective, params, batch, key, state.variables, size)
        check_variables(variables, state.variables)
        return jnp.mean(values["loss"]), (values, variables)

    (value, (values, variables)), gradients = jax.value_and_grad(loss, has_aux=True)(state.params)
    updates, opt_state = optax.with_extra_args_support(optimizer).update(
        gradients,
        state.opt_state,
        state.params,
        # For optimizers that use the loss, such as those with a line search.
        value=value,
        grad=gradients,
        value_fn=lambda params: loss(params)[0],
    )
    params = optax.apply_updates(state.params, updates)
    means = jax.tree.map(jnp.mean, values) | {"gradient_norm": optax.tree.norm(gradients)}
    results = (means["loss"], means["gradient_norm"], params, variables)
    finite = ~state.diverged & _all_finite(results)
    before = (state.step, state.params, state.opt_state, state.variables)
    after = (state.step + 1, params, opt_state, variables)
    step, params, opt_state, variables = jax.tree.map(
        functools.partial(jnp.where, finite), after, before
    )
    return TrainState(step, params, opt_state, state.key, ~finite, variables), means


def train_steps(
    objective: Objective | StatefulObjective,
    optimizer: optax.GradientTransformation,
    preprocess: Preprocess,
    state: TrainState,
    data: Batch,
    order: Int[Array, "steps b"],
) -> tuple[TrainState, dict[str, Float[Array, " steps"]]]:
    """Takes many steps in one program; step i uses the examples `order[i]`.

    Args:
        objective: the objective whose `loss` is minimised.
        optimizer: an optax gradient transformation.
        preprocess: a function applied to each batch before the objective, with one key per example.
        state: the state before the first of these steps.
        data: arrays with one leading axis of examples.
        order: the result of `epoch_order`, or some of its rows.

    Returns:
        The state after the last step, and the means of each step.
    """

    def body(state: TrainState, indices: Array) -> tuple[TrainState, Means]:
        step_key = _counted_key(state.key, _PREPROCESSING, state.step)
        batch = preprocess(jax.random.split(step_key, len(indices)), take(data, indices))
        return train_step(objective, optimizer, state, batch)

    return scan(body, state, order)


def epoch_order(
    key: PRNGKeyArray, epoch: Int[Array, ""] | int, num_examples: int, batch_size: int
) -> Int[Array, "steps b"]:
    """Shuffles the examples of an epoch into batches, differently in each epoch.

    The epoch omits the examples that do not fill a last batch.

    Args:
        key: the run's PRNG key.
        epoch: the epoch, counted from 0.
        num_examples: number of examples in the data. Static.
        batch_size: examples per step. Static.

    Returns:
        `[steps, batch_size]`, indices of examples.

    Raises:
        ValueError: if there are fewer examples than a batch holds.
    """
    steps = steps_per_epoch(num_examples, batch_size)
    order = jax.random.permutation(_counted_key(key, _ORDER, epoch), num_examples)
    return order[: steps * batch_size].reshape(steps, batch_size)


def steps_per_epoch(num_examples: int, batch_size: int) -> int:
    """The number of full batches, or `ValueError` if there is none."""
    allowed = f"between 1 and the number of examples, {num_examples}"
    return num_examples // check_integer("batch_size", batch_size, allowed, 1, num_examples)


def take(data: Batch, indices: Int[Array, " b"]) -> Batch:
    """Selects examples of the data.

    Args:
        data: arrays with one leading axis of examples.
        indices: `[b]`, in range: `jnp.take` fills floats with NaN for an index past the end.

    Returns:
        The same arrays, `[b, ...]`.
    """
    return jax.tree.map(lambda array: jnp.take(check_dtype("data", array), indices, axis=0), data)


def count_examples(data: Batch) -> int:
    """The size of the leading axis, or `ValueError` unless all arrays share it."""
    leaves = jax.tree_util.tree_leaves_with_path(data)
    shapes = {jax.tree_util.keystr(path): jnp.shape(leaf) for path, leaf in leaves}
    if len({shape[:1] for shape in shapes.values()}) > 1 or () in shapes.values():
        found = ", ".join(f"{name} {list(shape)}" for name, shape in shapes.items())
        raise ValueError(
            "data must hold arrays, not lists, with one leading axis of examples; "
            f"got {textwrap.shorten(found, 200, placeholder=' ...')}"
        )
    for path, leaf in leaves:
        check_dtype(f"data{jax.tree_util.keystr(path)}", leaf)
    return next(iter(shapes.values()))[0] if shapes else 0


def _all_finite(tree: Any) -> Bool[Array, ""]:
    leaves = jax.tree.leaves(tree)
    # Variables may contain counters and keys.
    inexact = [leaf for leaf in leaves if jnp.issubdtype(jnp.result_type(leaf), jnp.inexact)]
    return jnp.all(jnp.stack([jnp.all(jnp.isfinite(leaf)) for leaf in inexact]))


def _counted_key(key: PRNGKeyArray, use: int, count: Int[Array, ""] | int) -> PRNGKeyArray:
    """The key of a step or an epoch, for one use of random numbers."""
    return jax.random.fold_in(jax.random.fold_in(key, use), count)
