"""Training as pure functions: a state, a step, many steps in one program, an evaluation.

What is trained is given by an objective, `(params, batch, key) -> values per example`, and an optax
transformation; nothing here knows of networks, images or transformers. Data is a dictionary of
arrays with one leading axis, kept on the device as a whole.

Randomness is counted, not carried. Three keys are folded from a run's: one for what the objective
draws, one for what prepares the data, one for the order. Step i draws from `fold_in(key, i)` of the
first two, the order of epoch j from `fold_in(key, j)` of the third. A state restored from a
checkpoint therefore continues as if nothing had happened.

A step that leads to a number that is not finite is not taken, and none after it: the state stays
the last good one and says so. It is chosen by `where`, so that members of a population do not
disturb each other.
"""

import functools
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Bool, Float, Int, PRNGKeyArray, Shaped

from stn_jax._types import Number

Params = Any
Batch = dict[str, Array]
Values = dict[str, Float[Array, " b"]]
Means = dict[str, Float[Array, ""]]
# Per-example values of a batch, of which "loss" is minimised; no key means evaluation.
Objective = Callable[[Params, Batch, PRNGKeyArray | None], Values]
# What becomes of a batch before the objective sees it, given a key for each of its examples.
Prepare = Callable[[PRNGKeyArray, Batch], Batch]


# What is folded into a run's key for each of its uses.
OBJECTIVE, DATA, ORDER = 0x0B1E, 0xDA7A, 0x0DE5


class TrainState(NamedTuple):
    """All that a run carries from step to step.

    Attributes:
        step: how many steps were taken.
        params: a pytree of parameters.
        opt_state: the optax transformation's state.
        key: the run's randomness, the same at every step.
        diverged: whether the step after these was not finite; then no more are taken.
    """

    step: Int[Array, ""]
    params: Params
    opt_state: optax.OptState
    key: PRNGKeyArray
    diverged: Bool[Array, ""]


def init_state(
    key: PRNGKeyArray, params: Params, optimizer: optax.GradientTransformation
) -> TrainState:
    """The state before the first step.

    Args:
        key: the run's randomness.
        params: to start from.
        optimizer: whose state to start.

    Returns:
        It, of step 0.
    """
    step, diverged = jnp.zeros((), jnp.int32), jnp.zeros((), bool)
    return TrainState(step, params, optimizer.init(params), key, diverged)


def classification(
    apply_fn: Callable[[Params, Array, PRNGKeyArray | None], tuple[Array, Any]],
    measure: Callable[[Any], Values] | None = None,
) -> Objective:
    """The objective of classifying `batch["image"]` as `batch["label"]`.

    Labels are integers in [0, classes), which is not checked: one that is larger gives a loss of
    NaN, and a negative one counts from the last class.

    Args:
        apply_fn: `(params, images, key) -> (logits [b, classes], intermediates)`.
        measure: per-example values to report of the intermediates.

    Returns:
        An objective with the values `loss` (cross-entropy in nats), `error` (0 or 1) and
        `measure`'s.
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


def scale_updates(
    factor: Number, selects: Callable[[Sequence[Any]], bool]
) -> optax.GradientTransformation:
    """Scales the updates of some parameters: chained after an optimiser, a learning rate of theirs.

    Args:
        factor: by which updates are multiplied.
        selects: whether a parameter's path in the tree is meant.

    Returns:
        An optax transformation, to stand behind the optimiser in `optax.chain`.

    Raises:
        ValueError: by what is returned, if no parameter is.
    """

    def mask(params: Params) -> Any:
        selected = jax.tree_util.tree_map_with_path(lambda path, _: selects(path), params)
        if not any(jax.tree.leaves(selected)):
            raise ValueError("selects must select a parameter at least; got none of the tree's")
        return selected

    return optax.masked(optax.scale(factor), mask)


def train_step(
    objective: Objective,
    optimizer: optax.GradientTransformation,
    state: TrainState,
    batch: Batch,
) -> tuple[TrainState, Means]:
    """One step of gradient descent on the mean loss of a batch.

    Args:
        objective: what is minimised.
        optimizer: by what.
        state: before the step.
        batch: as the objective takes it, prepared.

    Returns:
        The next state, and the batch's means of the objective's values with the norm of the
        gradient as `gradient_norm`. Where the loss, that norm or the new parameters are not
        finite, the state is the one before, and `diverged`.

    Raises:
        ValueError: unless the objective returns a dictionary with `loss`, of values `[b]`, and the
            batch's arrays have one leading axis.
    """
    key = _key(state.key, OBJECTIVE, state.step)

    def loss(params: Params) -> tuple[Array, Values]:
        values = objective(params, batch, key)
        _check_values(values, _num_examples(batch))
        return jnp.mean(values["loss"]), values

    (value, values), gradients = jax.value_and_grad(loss, has_aux=True)(state.params)
    updates, opt_state = optax.with_extra_args_support(optimizer).update(
        gradients,
        state.opt_state,
        state.params,
        # For those that look at the loss, such as a line search.
        value=value,
        grad=gradients,
        value_fn=lambda params: loss(params)[0],
    )
    params = optax.apply_updates(state.params, updates)
    means = jax.tree.map(jnp.mean, values) | {"gradient_norm": optax.tree.norm(gradients)}
    good = ~state.diverged & _all_finite((means["loss"], means["gradient_norm"], params))
    before, after = state[:3], (state.step + 1, params, opt_state)
    step, params, opt_state = jax.tree.map(functools.partial(jnp.where, good), after, before)
    return TrainState(step, params, opt_state, state.key, ~good), means


def _check_values(values: Any, batch_size: int) -> None:
    """Raises `ValueError` unless an objective's values are one of each example, `loss` among them.

    Others would be broadcast, or their mean be one of means.
    """
    found: Any = type(values).__name__
    if isinstance(values, dict):
        found = {name: list(jnp.shape(each)) for name, each in values.items()}
        alike = all(each == [batch_size] for each in found.values())
        if alike and "loss" in found and "gradient_norm" not in found:
            return
    raise ValueError(
        f"objective must return a dictionary with 'loss', and without 'gradient_norm', of values "
        f"[{batch_size}]; got {found}"
    )


def _all_finite(tree: Any) -> Bool[Array, ""]:
    leaves = [jnp.all(jnp.isfinite(leaf)) for leaf in jax.tree.leaves(tree)]
    return jnp.all(jnp.stack(leaves))


def _key(key: PRNGKeyArray, use: int, count: Int[Array, ""] | int) -> PRNGKeyArray:
    """The key of a step or an epoch for one of its uses."""
    return jax.random.fold_in(jax.random.fold_in(key, use), count)


def epoch_order(
    key: PRNGKeyArray, epoch: Int[Array, ""] | int, num_examples: int, batch_size: int
) -> Int[Array, "steps b"]:
    """The examples of each batch of an epoch, in a new order each epoch.

    Examples that do not fill a last batch are left out of this epoch.

    Args:
        key: of the run.
        epoch: counted from 0.
        num_examples: of the data. Static.
        batch_size: examples a step. Static.

    Returns:
        `[steps, batch_size]`, indices of examples.

    Raises:
        ValueError: if there are fewer examples than a batch holds.
    """
    steps = _steps_per_epoch(num_examples, batch_size)
    order = jax.random.permutation(_key(key, ORDER, epoch), num_examples)
    return order[: steps * batch_size].reshape(steps, batch_size)


def _steps_per_epoch(num_examples: int, batch_size: int) -> int:
    if not 1 <= batch_size <= num_examples:
        raise ValueError(
            f"batch_size must be between 1 and the number of examples, {num_examples}; "
            f"got {batch_size}"
        )
    return num_examples // batch_size


def train_steps(
    objective: Objective,
    optimizer: optax.GradientTransformation,
    prepare: Prepare,
    state: TrainState,
    data: Batch,
    order: Int[Array, "steps b"],
) -> tuple[TrainState, dict[str, Float[Array, " steps"]]]:
    """Many steps in one program: step i takes the examples `order[i]` of the data.

    Args:
        objective: what is minimised.
        optimizer: by what.
        prepare: what becomes of a batch before, given a key for each example.
        state: before the first of them.
        data: arrays with one leading axis of examples.
        order: as `epoch_order` makes it, or a part of that.

    Returns:
        The state after them, and each step's means.
    """

    def body(state: TrainState, indices: Array) -> tuple[TrainState, Means]:
        keys = jax.random.split(_key(state.key, DATA, state.step), len(indices))
        batch = prepare(keys, take(data, indices))
        return train_step(objective, optimizer, state, batch)

    return jax.lax.scan(body, state, order)


def take(data: Batch, indices: Int[Array, " b"]) -> Batch:
    """Some examples of the data.

    Args:
        data: arrays with one leading axis of examples.
        indices: which; those beyond the end would be filled up, floats with NaN.

    Returns:
        The same arrays, `[b, ...]`.
    """
    return jax.tree.map(lambda array: jnp.take(array, indices, axis=0), data)


def _num_examples(data: Batch) -> int:
    """The size of the leading axis, which all arrays must share: `take` would fill them up."""
    leaves = jax.tree_util.tree_leaves_with_path(data)
    shapes = {jax.tree_util.keystr(path): jnp.shape(leaf) for path, leaf in leaves}
    if len({shape[:1] for shape in shapes.values()}) > 1 or () in shapes.values():
        found = ", ".join(f"{name} {list(shape)}" for name, shape in shapes.items())
        raise ValueError(f"data must hold arrays with one leading axis of examples; got {found}")
    return next(iter(shapes.values()))[0] if shapes else 0


def fit(
    objective: Objective,
    optimizer: optax.GradientTransformation,
    prepare: Prepare,
    state: TrainState,
    data: Batch,
    *,
    num_epochs: int,
    batch_size: int,
) -> tuple[TrainState, dict[str, Float[Array, "epochs steps"]]]:
    """A whole training as one pure function, to be jitted once, or mapped over states.

    A bare call compiles anew each time, as does `evaluate`: jit `functools.partial(fit, objective,
    optimizer, prepare, num_epochs=..., batch_size=...)`, which takes the state and the data.

    Args:
        objective: what is minimised.
        optimizer: by what.
        prepare: what becomes of a batch before, such as a distortion of its images.
        state: where to start; from the epoch that its step is in, whole: for a state in the middle
            of one, call `train_steps` with what is left of its order first.
        data: arrays with one leading axis of examples.
        num_epochs: how many to train.
        batch_size: examples a step; those that do not fill a last batch are left out.

    Returns:
        The state after `num_epochs` more epochs, and each step's means. Look at `state.diverged`:
        after a step that was not finite none is taken, and what the history says of the steps that
        follow is of the parameters before it.

    Raises:
        ValueError: if there are fewer examples than a batch holds, or arrays differ in their
            leading axis.

    Example:
        >>> objective = classification(lambda w, x, key: (x @ w, None))
        >>> data = {"image": jnp.eye(4), "label": jnp.arange(4) % 2}
        >>> state = init_state(jax.random.key(0), jnp.zeros((4, 2)), optax.sgd(1.0))
        >>> unprepared = lambda keys, batch: batch
        >>> given = functools.partial(fit, objective, optax.sgd(1.0), unprepared)
        >>> train = jax.jit(functools.partial(given, num_epochs=9, batch_size=2))
        >>> state, history = train(state, data)
        >>> int(state.step), history["loss"].shape, float(history["error"][-1].max())
        (18, (9, 2), 0.0)
    """
    num_examples = _num_examples(data)
    first_epoch = state.step // _steps_per_epoch(num_examples, batch_size)

    def epoch(state: TrainState, index: Array) -> tuple[TrainState, dict[str, Array]]:
        order = epoch_order(state.key, first_epoch + index, num_examples, batch_size)
        return train_steps(objective, optimizer, prepare, state, data, order)

    return jax.lax.scan(epoch, state, jnp.arange(num_epochs))


def evaluate(
    objective: Objective,
    prepare: Prepare,
    params: Params,
    data: Batch,
    key: PRNGKeyArray,
    *,
    batch_size: int,
) -> Means:
    """The means of the objective's values over every example, each counted once.

    Example i is prepared with `fold_in(key, i)`, whatever the size of a batch.

    Args:
        objective: what is evaluated, without a key.
        prepare: what becomes of a batch before, given a key for each example.
        params: parameters.
        data: arrays with one leading axis of examples.
        key: what examples are prepared with.
        batch_size: examples computed at a time.

    Returns:
        Each value's mean, a scalar.

    Raises:
        ValueError: if there is no example, arrays differ in their leading axis, or `batch_size` is
            less than 1.

    Example:
        >>> objective = classification(lambda w, x, key: (x @ w, None))
        >>> data = {"image": jnp.eye(4), "label": jnp.arange(4) % 2}
        >>> params, unprepared = 9 * jnp.eye(4), lambda keys, batch: batch
        >>> key = jax.random.key(0)
        >>> float(evaluate(objective, unprepared, params, data, key, batch_size=3)["error"])
        0.5
    """
    num_examples = _num_examples(data)

    def batch_sums(positions: Int[Array, " b"], values: Values) -> Means:
        counts: Bool[Array, " b"] = positions < num_examples
        return jax.tree.map(lambda each: jnp.sum(jnp.where(counts, each, 0)), values)

    sums = _over_batches(objective, prepare, params, data, key, batch_size, batch_sums)
    return jax.tree.map(lambda each: jnp.sum(each) / num_examples, sums)


def each_example(
    objective: Objective,
    prepare: Prepare,
    params: Params,
    data: Batch,
    key: PRNGKeyArray,
    *,
    batch_size: int,
) -> dict[str, Shaped[Array, " n"]]:
    """The objective's values of every example, in order: those that `evaluate` takes the mean of.

    Args:
        objective, prepare, params, data, key, batch_size: as for `evaluate`.

    Returns:
        Each value, `[n]`.

    Raises:
        ValueError: as `evaluate`.

    Example:
        >>> objective = classification(lambda w, x, key: (x @ w, None))
        >>> data = {"image": jnp.eye(4), "label": jnp.arange(4) % 2}
        >>> params, unprepared = 9 * jnp.eye(4), lambda keys, batch: batch
        >>> key = jax.random.key(0)
        >>> each_example(objective, unprepared, params, data, key, batch_size=3)["error"].tolist()
        [0.0, 0.0, 1.0, 1.0]
    """
    values = _over_batches(
        objective, prepare, params, data, key, batch_size, lambda _, values: values
    )
    return jax.tree.map(lambda each: jnp.ravel(each)[: _num_examples(data)], values)


def _over_batches(
    objective: Objective,
    prepare: Prepare,
    params: Params,
    data: Batch,
    key: PRNGKeyArray,
    batch_size: int,
    reduce: Callable[[Array, Values], Any],
) -> Any:
    """`reduce` of each batch's positions and values, with a leading axis of batches.

    The last batch is filled up with examples from the start, whose positions are beyond the end.
    """
    num_examples = _num_examples(data)
    if batch_size < 1:
        raise ValueError(f"batch_size must be at least 1; got {batch_size}")
    if num_examples < 1:
        raise ValueError("data must hold at least one example; got none")
    batch_size = min(batch_size, num_examples)
    steps = -(-num_examples // batch_size)
    positions = jnp.arange(steps * batch_size).reshape(steps, batch_size)

    def of_batch(positions: Int[Array, " b"]) -> Any:
        indices = positions % num_examples
        keys = jax.vmap(jax.random.fold_in, in_axes=(None, 0))(key, indices)
        values = objective(params, prepare(keys, take(data, indices)), None)
        _check_values(values, batch_size)
        return reduce(positions, values)

    return jax.lax.map(of_batch, positions)
