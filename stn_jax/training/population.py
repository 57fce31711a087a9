"""Populations: many trainings in one program.

These are the functions of `stn_jax.training`, lifted over members. Every array of a state has a
leading axis of members, `m`, and so has every array of `hparams`, a pytree of the members'
hyper-parameters. `make_trainable` builds what one member trains from its hyper-parameters:

    def make_trainable(hparams):
        return Trainable(objective, optax.adamw(hparams["learning_rate"]), preprocess)

Members train independently; they share only the program and the data. Member i equals a separate
run with its state and hyper-parameters, up to the rounding of sums. A member that diverges does
not affect the others.
"""

import functools
from collections.abc import Callable
from typing import Any, Literal, NamedTuple, TypeVar

import jax
import jax.numpy as jnp
import optax
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec
from jaxtyping import Array, Bool, Float, Int

import stn_jax.training as training
from stn_jax._checks import check_choice
from stn_jax.training import (
    Batch,
    Means,
    Objective,
    Params,
    Preprocess,
    StatefulObjective,
    TrainState,
    Variables,
)
from stn_jax.training.loops import scan

# The hyper-parameters of one member or, with a leading axis of members, of all.
HParams = Any
Strategy = Literal["vmap", "loop"]
Returned = TypeVar("Returned")

# The name of the mesh axis over which members are spread.
MEMBER = "member"


class Trainable(NamedTuple):
    """What a member trains.

    Attributes:
        objective: the objective whose `loss` is minimised.
        optimizer: an optax gradient transformation.
        preprocess: a function applied to each batch before the objective, with one key per example.
    """

    objective: Objective | StatefulObjective
    optimizer: optax.GradientTransformation
    preprocess: Preprocess


MakeTrainable = Callable[[HParams], Trainable]


def faster_strategy(mesh: Mesh | None) -> Strategy:
    """Returns the faster strategy: `loop` on a mesh of CPU devices, otherwise `vmap`.

    Args:
        mesh: a mesh of devices, or None for one device.

    Returns:
        `loop` or `vmap`.
    """
    return "loop" if mesh is not None and mesh.devices.flat[0].platform == "cpu" else "vmap"


def over_members(
    function: Callable[..., Returned], *, strategy: Strategy | None = None, mesh: Mesh | None = None
) -> Callable[..., Returned]:
    """Lifts a function of one member to all: each argument and result gets a leading axis.

    Args:
        function: a function of pytrees of arrays.
        strategy: `vmap` computes members together, `loop` one after another. None selects the
            faster one.
        mesh: a mesh of devices. Members are spread over its axis `member`, in equal parts; the
            function may use the other axes. None for one device.

    Returns:
        A function of the same arguments, each with a leading axis of members.

    Raises:
        ValueError: if `strategy` has another value, the mesh lacks the axis `member`, or the number
            of members is not a multiple of the axis size.

    Example:
        >>> over_members(lambda x, y: x + y)(jnp.arange(3), jnp.ones(3)).tolist()
        [1.0, 2.0, 3.0]
    """
    lifted = _over_members(lambda _, *arguments: function(*arguments), strategy, mesh)
    return functools.partial(lifted, ())


def _over_members(
    function: Callable[..., Returned], strategy: Strategy | None, mesh: Mesh | None
) -> Callable[..., Returned]:
    """Lifts all arguments but the first, which members share.

    `shard_map` rejects arrays of a mesh with Explicit axes in the closure of its function, so
    shared data is an argument.
    """
    strategy = faster_strategy(mesh) if strategy is None else strategy
    check_choice("strategy", strategy, ("vmap", "loop"))

    def lifted(shared: Any, arguments: tuple[Any, ...]) -> Returned:
        if strategy == "vmap":
            return jax.vmap(functools.partial(function, shared))(*arguments)
        return scan(lambda _, member: (None, function(shared, *member)), None, arguments)[1]

    if mesh is None:
        return lambda shared, *arguments: lifted(shared, arguments)
    if MEMBER not in mesh.axis_names:
        raise ValueError(f"mesh must have an axis {MEMBER!r}; got {mesh.axis_names}")
    specs = (PartitionSpec(), PartitionSpec(MEMBER))
    # Members exchange nothing, so the check adds nothing, and user-defined functions may fail it.
    spread = jax.shard_map(
        lifted,
        mesh=mesh,
        in_specs=specs,
        out_specs=specs[1],
        axis_names={MEMBER},
        check_vma=False,
    )

    def checked(shared: Any, *arguments: Any) -> Returned:
        _check_members(arguments, mesh.shape[MEMBER])
        if AxisType.Explicit in mesh.axis_types:
            shared, arguments = (
                jax.sharding.reshard(tree, NamedSharding(mesh, spec))
                for tree, spec in zip((shared, arguments), specs, strict=True)
            )
        return spread(shared, arguments)

    return checked


def _check_members(arguments: Any, parts: int) -> None:
    """Raises `ValueError` unless the leading axis of all arrays divides into equal parts."""
    for shape in {jnp.shape(leaf) for leaf in jax.tree.leaves(arguments)}:
        if not shape or shape[0] % parts:
            allowed = f"a multiple of the size of the mesh's axis {MEMBER!r}, {parts}"
            raise ValueError(f"the number of members must be {allowed}; got an array {list(shape)}")


def train_steps(
    make_trainable: MakeTrainable,
    states: TrainState,
    hparams: HParams,
    data: Batch,
    orders: Int[Array, "m steps b"],
    active: Bool[Array, " m"] | None = None,
    *,
    strategy: Strategy | None = None,
    mesh: Mesh | None = None,
) -> tuple[TrainState, dict[str, Float[Array, "m steps"]]]:
    """Applies `training.train_steps` to the active members, each with its own order of the data.

    Args:
        make_trainable: builds what a member trains from its hyper-parameters.
        states: the members' states.
        hparams: the members' hyper-parameters.
        data: arrays with one leading axis of examples, which all members share.
        orders: the examples of each member's batches.
        active: which members take these steps; None: all. The states of the others do not change,
            and their means are NaN, or 0 with `jax_debug_nans`. With the strategy `loop` they take
            no time.
        strategy, mesh: as for `over_members`.

    Returns:
        The states after the last step, and the means of each step, `[m, steps]`.
    """

    def train_member(
        data: Batch, state: TrainState, hparams: HParams, order: Array, active: Array | None
    ) -> Any:
        def steps(state: TrainState) -> Any:
            return training.train_steps(*make_trainable(hparams), state, data, order)

        def skip(state: TrainState) -> Any:
            return state, _missing(jax.eval_shape(steps, state)[1])

        return steps(state) if active is None else jax.lax.cond(active, steps, skip, state)

    return _over_members(train_member, strategy, mesh)(data, states, hparams, orders, active)


def _missing(tree: Any) -> Any:
    """Values of inactive members: NaN, or 0 if JAX would report the NaN as an error."""
    value = 0.0 if jax.config.values["jax_debug_nans"] else jnp.nan
    return jax.tree.map(lambda leaf: jnp.full(leaf.shape, value, leaf.dtype), tree)


def fit(
    make_trainable: MakeTrainable,
    states: TrainState,
    hparams: HParams,
    data: Batch,
    *,
    num_epochs: int,
    batch_size: int,
    strategy: Strategy | None = None,
    mesh: Mesh | None = None,
) -> tuple[TrainState, dict[str, Float[Array, "m epochs steps"]]]:
    """Applies `training.fit` to every member, as one pure function to transform with `jax.jit`.

    Args:
        make_trainable: builds what a member trains from its hyper-parameters.
        states: the members' states.
        hparams: the members' hyper-parameters.
        data: arrays with one leading axis of examples, which all members share.
        num_epochs, batch_size: as for `training.fit`.
        strategy, mesh: as for `over_members`.

    Returns:
        The states after the last epoch, and the means of each step, `[m, num_epochs, steps]`.

    Raises:
        ValueError: if there are fewer examples than a batch holds.

    Example:
        >>> def make_trainable(hparams):
        ...     objective = training.classification(lambda w, x, key: (x @ w, None))
        ...     return Trainable(objective, optax.sgd(hparams["rate"]), lambda keys, batch: batch)
        >>> data = {"image": jnp.eye(4), "label": jnp.arange(4) % 2}
        >>> hparams = {"rate": jnp.asarray([0.0, 1.0])}
        >>> def init(key, hparams):
        ...     optimizer = make_trainable(hparams).optimizer
        ...     return training.init_state(key, jnp.zeros((4, 2)), optimizer)
        >>> states = over_members(init)(jax.random.split(jax.random.key(0), 2), hparams)
        >>> options = {"num_epochs": 9, "batch_size": 2}
        >>> states, history = fit(make_trainable, states, hparams, data, **options)
        >>> history["error"][:, -1].mean(axis=1).tolist()
        [0.5, 0.0]
    """

    def train_member(data: Batch, state: TrainState, hparams: HParams) -> Any:
        sizes = {"num_epochs": num_epochs, "batch_size": batch_size}
        return training.fit(*make_trainable(hparams), state, data, **sizes)

    return _over_members(train_member, strategy, mesh)(data, states, hparams)


def evaluate(
    make_trainable: MakeTrainable,
    keys: Array,
    params: Params,
    hparams: HParams,
    data: Batch,
    active: Bool[Array, " m"] | None = None,
    *,
    batch_size: int = 512,
    variables: Variables | None = None,
    strategy: Strategy | None = None,
    mesh: Mesh | None = None,
) -> dict[str, Float[Array, " m"]]:
    """Applies `training.evaluate` to the active members; the means of the others are NaN.

    With `jax_debug_nans`, which rejects results with NaN, they are 0.

    Args:
        make_trainable: builds what a member trains from its hyper-parameters.
        keys: `[m]`, the source of each member's keys for preprocessing.
        params: the members' parameters.
        hparams: the members' hyper-parameters.
        data: arrays with one leading axis of examples, which all members share.
        active: which members are evaluated; None: all.
        batch_size: examples computed at a time. Static.
        variables: the other arrays of the members' networks, `states.variables`; None for networks
            without them.
        strategy, mesh: as for `over_members`.

    Returns:
        The mean of each value, `[m]`.

    Raises:
        ValueError: if there is no example, or `batch_size` is less than 1.
    """

    def evaluate_member(
        data: Batch,
        key: Array,
        params: Params,
        variables: Variables | None,
        hparams: HParams,
        active: Array | None,
    ) -> Means:
        objective, _, preprocess = make_trainable(hparams)

        def means(params: Params) -> Means:
            options: Any = {"batch_size": batch_size, "variables": variables}
            return training.evaluate(objective, preprocess, key, params, data, **options)

        def skip(params: Params) -> Means:
            return _missing(jax.eval_shape(means, params))

        return means(params) if active is None else jax.lax.cond(active, means, skip, params)

    return _over_members(evaluate_member, strategy, mesh)(
        data, keys, params, variables, hparams, active
    )
