"""Whole trainings and evaluations as pure functions."""

import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Bool, Float, Int, PRNGKeyArray, Shaped

from stn_jax._checks import check_integer
from stn_jax._sharding import run_on_auto_axes
from stn_jax.training.loops import scan
from stn_jax.training.objectives import (
    Batch,
    Means,
    Objective,
    Preprocess,
    StatefulObjective,
    Values,
    call_objective,
)
from stn_jax.training.state import Params, TrainState, Variables
from stn_jax.training.steps import count_examples, epoch_order, steps_per_epoch, take, train_steps


def fit(
    objective: Objective | StatefulObjective,
    optimizer: optax.GradientTransformation,
    preprocess: Preprocess,
    state: TrainState,
    data: Batch,
    *,
    num_epochs: int,
    batch_size: int,
) -> tuple[TrainState, dict[str, Float[Array, "epochs steps"]]]:
    """Trains for some epochs, as one pure function to transform with `jax.jit` or `jax.vmap`.

    Without `jit`, each call of `fit` or `evaluate` compiles again. Jit `functools.partial(fit,
    objective, optimizer, preprocess, num_epochs=..., batch_size=...)`, which takes the state and
    the data. With any layers, a step takes about as long as `train_step` in a program of its own.

    Args:
        objective: the objective whose `loss` is minimised.
        optimizer: an optax gradient transformation.
        preprocess: a function applied to each batch before the objective, such as a distortion of
            its images, with one key per example.
        state: the initial state. Training starts with the first step of the epoch that contains
            `state.step`. For a state in the middle of an epoch, first call `train_steps` with the
            rest of the epoch's order.
        data: arrays with one leading axis of examples. On a mesh, they must be replicated:
            examples that are spread over devices cannot be shuffled.
        num_epochs: number of epochs to train. Static.
        batch_size: examples per step; those that do not fill a last batch are omitted. Static.

    Returns:
        The state after `num_epochs` more epochs, and the means of each step. Check
        `state.diverged`: training stops at the first non-finite update, and the means of later
        steps are computed with the last good parameters.

    Raises:
        ValueError: if there are fewer examples than a batch holds, the arrays differ in their
            leading axis, or the integers of a NumPy array do not fit in JAX's integers.

    Example:
        >>> import functools
        >>> from stn_jax.training import classification, init_state
        >>> objective = classification(lambda w, x, key: (x @ w, None))
        >>> data = {"image": jnp.eye(4), "label": jnp.arange(4) % 2}
        >>> state = init_state(jax.random.key(0), jnp.zeros((4, 2)), optax.sgd(1.0))
        >>> identity = lambda keys, batch: batch
        >>> fit_epochs = functools.partial(fit, num_epochs=9, batch_size=2)
        >>> train = jax.jit(functools.partial(fit_epochs, objective, optax.sgd(1.0), identity))
        >>> state, history = train(state, data)
        >>> int(state.step), history["loss"].shape, float(history["error"][-1].max())
        (18, (9, 2), 0.0)
    """
    num_examples = count_examples(data)
    first_epoch = state.step // steps_per_epoch(num_examples, batch_size)

    def epoch(state: TrainState, index: Array) -> tuple[TrainState, dict[str, Array]]:
        order = epoch_order(state.key, first_epoch + index, num_examples, batch_size)
        return train_steps(objective, optimizer, preprocess, state, data, order)

    return jax.lax.scan(epoch, state, jnp.arange(num_epochs))


def evaluate(
    objective: Objective | StatefulObjective,
    preprocess: Preprocess,
    key: PRNGKeyArray,
    params: Params,
    data: Batch,
    *,
    batch_size: int = 512,
    variables: Variables | None = None,
) -> Means:
    """Averages the objective's values over all examples, each counted once.

    Example i is preprocessed with `fold_in(key, i)`, whatever the batch size.

    Args:
        objective: the objective, called without a key.
        preprocess: a function applied to each batch before the objective, with one key per example.
        key: the source of the keys for preprocessing.
        params: parameters.
        data: arrays with one leading axis of examples.
        batch_size: examples computed at a time. Static.
        variables: the network's other arrays, `state.variables`; None for networks without them.

    Returns:
        The mean of each value, a scalar.

    Raises:
        ValueError: if there is no example, the arrays differ in their leading axis, or `batch_size`
            is less than 1.

    Example:
        >>> from stn_jax.training import classification
        >>> objective = classification(lambda w, x, key: (x @ w, None))
        >>> data = {"image": jnp.eye(4), "label": jnp.arange(4) % 2}
        >>> params, identity = 9 * jnp.eye(4), lambda keys, batch: batch
        >>> key = jax.random.key(0)
        >>> float(evaluate(objective, identity, key, params, data, batch_size=3)["error"])
        0.5
    """
    num_examples = count_examples(data)

    def batch_sums(positions: Int[Array, " b"], values: Values) -> Means:
        counts: Bool[Array, " b"] = positions < num_examples
        return jax.tree.map(lambda each: jnp.sum(jnp.where(counts, each, 0)), values)

    call = functools.partial(_call, objective, params, variables)
    sums = _map_batches(call, preprocess, key, data, batch_size, batch_sums)
    return jax.tree.map(lambda each: jnp.sum(each) / num_examples, sums)


def per_example(
    objective: Objective | StatefulObjective,
    preprocess: Preprocess,
    key: PRNGKeyArray,
    params: Params,
    data: Batch,
    *,
    batch_size: int = 512,
    variables: Variables | None = None,
) -> dict[str, Shaped[Array, " n"]]:
    """Computes the objective's values of every example, in order; `evaluate` returns their means.

    Args:
        objective, preprocess, key, params, data, batch_size, variables: as for `evaluate`.

    Returns:
        Each value, `[n]`.

    Raises:
        ValueError: as for `evaluate`.

    Example:
        >>> from stn_jax.training import classification
        >>> objective = classification(lambda w, x, key: (x @ w, None))
        >>> data = {"image": jnp.eye(4), "label": jnp.arange(4) % 2}
        >>> params, identity = 9 * jnp.eye(4), lambda keys, batch: batch
        >>> key = jax.random.key(0)
        >>> per_example(objective, identity, key, params, data, batch_size=3)["error"].tolist()
        [0.0, 0.0, 1.0, 1.0]
    """
    call = functools.partial(_call, objective, params, variables)
    values = _map_batches(call, preprocess, key, data, batch_size, lambda _, values: values)
    # On meshes with Explicit axes, batches may be sharded by example; the result is replicated.
    return run_on_auto_axes(_join_batches, values, num_examples=count_examples(data))


def _call(
    objective: Objective | StatefulObjective,
    params: Params,
    variables: Variables | None,
    batch: Batch,
    batch_size: int,
) -> Values:
    """The values of a batch in evaluation."""
    return call_objective(objective, params, batch, None, variables, batch_size)[0]


def _join_batches(values: dict[str, Array], num_examples: int) -> dict[str, Array]:
    return jax.tree.map(lambda each: jnp.ravel(each)[:num_examples], values)


def _map_batches(
    call: Callable[[Batch, int], Values],
    preprocess: Preprocess,
    key: PRNGKeyArray,
    data: Batch,
    batch_size: int,
    reduce: Callable[[Array, Values], dict[str, Array]],
) -> dict[str, Array]:
    """Applies `reduce` to the positions and values of each batch, and stacks the results.

    Examples from the start fill up the last batch; their positions are past the end.
    """
    num_examples = count_examples(data)
    batch_size = check_integer("batch_size", batch_size, "at least 1", 1)
    if num_examples < 1:
        raise ValueError("data must hold at least one example; got none")
    batch_size = min(batch_size, num_examples)
    steps = -(-num_examples // batch_size)
    positions = jnp.arange(steps * batch_size).reshape(steps, batch_size)

    def reduce_batch(_: None, positions: Int[Array, " b"]) -> tuple[None, dict[str, Array]]:
        indices = positions % num_examples
        keys = jax.vmap(jax.random.fold_in, in_axes=(None, 0))(key, indices)
        values = call(preprocess(keys, take(data, indices)), batch_size)
        return None, reduce(positions, values)

    return scan(reduce_batch, None, positions)[1]
