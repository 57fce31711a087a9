"""Populations: many trainings in one program.

The functions of `stn_jax.training`, lifted over members. Every array of a state has a leading axis
of members, `m`; so has every number of `hyper`, a pytree of what else differs between members, such
as learning rates. `make` turns one member's numbers into what is trained, where they enter:

    def make(hyper):
        return Trainable(objective, optax.adamw(hyper["learning_rate"]), prepare)

Members share nothing but the program and the data: member i equals the training of its state and
numbers alone, up to the rounding of sums, and a member that diverges leaves the others as they are.
"""

from collections.abc import Callable
from typing import Any, Literal, NamedTuple, TypeVar

import jax
import jax.numpy as jnp
import optax
from jax.sharding import AxisType, Mesh, PartitionSpec
from jaxtyping import Array, Bool, Float, Int

import stn_jax.training as training
from stn_jax._checks import check_choice
from stn_jax.training import Batch, Means, Objective, Params, Prepare, TrainState

# The numbers of one member, or, with an axis of members in front, of all.
Hyper = Any
How = Literal["vmap", "loop"]
Returned = TypeVar("Returned")

# The name of the mesh axis over which members are spread.
MEMBER = "member"


class Trainable(NamedTuple):
    """What a member trains.

    Attributes:
        objective: what is minimised.
        optimizer: by what.
        prepare: what becomes of a batch before.
    """

    objective: Objective
    optimizer: optax.GradientTransformation
    prepare: Prepare


Make = Callable[[Hyper], Trainable]


def faster_how(mesh: Mesh | None) -> How:
    """The quicker way to compute members: `loop` on several CPU devices, else `vmap`.

    Args:
        mesh: the devices; None for one.

    Returns:
        `loop` or `vmap`.
    """
    return "loop" if mesh is not None and mesh.devices.flat[0].platform == "cpu" else "vmap"


def over_members(
    function: Callable[..., Returned], *, how: How | None = None, mesh: Mesh | None = None
) -> Callable[..., Returned]:
    """Lifts a function of one member to all: each argument and result gets a leading axis.

    Args:
        function: of pytrees of arrays.
        how: `vmap` computes members together, `loop` one after another; None takes the quicker.
        mesh: devices; their axis `member` is what members are spread over, in equal parts. Other
            axes are left to the function. None: one device.

    Returns:
        A function of the same arguments, each with an axis of members in front.

    Raises:
        ValueError: on another `how`, a mesh without the axis or whose axes are not `Auto`, or as
            many members as cannot be in equal parts.

    Example:
        >>> over_members(lambda x, y: x + y)(jnp.arange(3), jnp.ones(3)).tolist()
        [1.0, 2.0, 3.0]
    """
    how = faster_how(mesh) if how is None else how
    check_choice("how", how, ("vmap", "loop"))

    def lifted(*arguments: Any) -> Returned:
        if how == "vmap":
            return jax.vmap(function)(*arguments)
        return jax.lax.map(lambda member: function(*member), arguments)

    if mesh is None:
        return lifted
    if MEMBER not in mesh.axis_names:
        raise ValueError(f"mesh must have an axis {MEMBER!r}; got {mesh.axis_names}")
    if set(mesh.axis_types) != {AxisType.Auto}:
        raise ValueError(
            "mesh must have axes of type Auto, as jax.make_mesh(..., axis_types=...) makes them; "
            f"got {mesh.axis_types}"
        )
    spec = PartitionSpec(MEMBER)
    # Members exchange nothing, so there is nothing to check, and `function` is anyone's.
    spread = jax.shard_map(
        lifted, mesh=mesh, in_specs=spec, out_specs=spec, axis_names={MEMBER}, check_vma=False
    )
    parts = mesh.shape[MEMBER]

    def checked(*arguments: Any) -> Returned:
        for shape in {jnp.shape(leaf) for leaf in jax.tree.leaves(arguments)}:
            if not shape or shape[0] % parts:
                allowed = f"as many as a multiple of the mesh's axis {MEMBER!r}, {parts}"
                raise ValueError(f"members must be {allowed}; got an array {list(shape)}")
        return spread(*arguments)

    return checked


def train_steps(
    make: Make,
    states: TrainState,
    hyper: Hyper,
    data: Batch,
    orders: Int[Array, "m steps b"],
    active: Bool[Array, " m"],
    *,
    how: How | None = None,
    mesh: Mesh | None = None,
) -> tuple[TrainState, dict[str, Float[Array, "m steps"]]]:
    """`training.train_steps` of the active members, on the same data, each in its own order.

    Args:
        make: what a member trains, of its numbers.
        states: of the members.
        hyper: the members' numbers.
        data: arrays of one leading axis.
        orders: the examples of each member's batches.
        active: who takes these steps. The others stay as they are, and their means are NaN; in a
            loop they take no time.
        how, mesh: as for `over_members`.

    Returns:
        The states after them, and each step's means, `[m, steps]`.
    """

    def one(state: TrainState, hyper: Hyper, order: Array, active: Array) -> Any:
        def steps(state: TrainState) -> Any:
            return training.train_steps(*make(hyper), state, data, order)

        def none(state: TrainState) -> Any:
            return state, _nans(jax.eval_shape(steps, state)[1])

        return jax.lax.cond(active, steps, none, state)

    return over_members(one, how=how, mesh=mesh)(states, hyper, orders, active)


def _nans(like: Any) -> Any:
    return jax.tree.map(lambda leaf: jnp.full(leaf.shape, jnp.nan, leaf.dtype), like)


def fit(
    make: Make,
    states: TrainState,
    hyper: Hyper,
    data: Batch,
    *,
    num_epochs: int,
    batch_size: int,
    how: How | None = None,
    mesh: Mesh | None = None,
) -> tuple[TrainState, dict[str, Float[Array, "m epochs steps"]]]:
    """`training.fit` of every member: whole trainings as one pure function, to be jitted.

    Args:
        make: what a member trains, of its numbers.
        states: of the members.
        hyper: the members' numbers.
        data: arrays with one leading axis of examples, which all members learn from.
        num_epochs, batch_size: as for `training.fit`.
        how, mesh: as for `over_members`.

    Returns:
        The states after it, and each step's means, `[m, num_epochs, steps]`.

    Raises:
        ValueError: if there are fewer examples than a batch holds.

    Example:
        >>> def make(hyper):
        ...     objective = training.classification(lambda w, x, key: (x @ w, None))
        ...     return Trainable(objective, optax.sgd(hyper["rate"]), lambda keys, batch: batch)
        >>> data = {"image": jnp.eye(4), "label": jnp.arange(4) % 2}
        >>> hyper = {"rate": jnp.asarray([0.0, 1.0])}
        >>> def init(key, hyper):
        ...     return training.init_state(key, jnp.zeros((4, 2)), make(hyper).optimizer)
        >>> states = over_members(init)(jax.random.split(jax.random.key(0), 2), hyper)
        >>> options = {"num_epochs": 9, "batch_size": 2}
        >>> states, history = fit(make, states, hyper, data, **options)
        >>> history["error"][:, -1].mean(axis=1).tolist()
        [0.5, 0.0]
    """

    def one(state: TrainState, hyper: Hyper) -> Any:
        sizes = {"num_epochs": num_epochs, "batch_size": batch_size}
        return training.fit(*make(hyper), state, data, **sizes)

    return over_members(one, how=how, mesh=mesh)(states, hyper)


def evaluate(
    make: Make,
    params: Params,
    hyper: Hyper,
    data: Batch,
    keys: Array,
    active: Bool[Array, " m"],
    *,
    batch_size: int,
    how: How | None = None,
    mesh: Mesh | None = None,
) -> dict[str, Float[Array, " m"]]:
    """`training.evaluate` of the active members, each with a key of its own; NaN of the others.

    Args:
        make: what a member trains, of its numbers.
        params: of the members.
        hyper: the members' numbers.
        data: arrays with one leading axis of examples.
        keys: `[m]`, what each member's examples are prepared with.
        active: who is evaluated.
        batch_size: examples computed at a time.
        how, mesh: as for `over_members`.

    Returns:
        Each value's mean, `[m]`.

    Raises:
        ValueError: if there is no example, or `batch_size` is less than 1.
    """

    def one(params: Params, hyper: Hyper, key: Array, active: Array) -> Means:
        objective, _, prepare = make(hyper)

        def means(params: Params) -> Means:
            return training.evaluate(objective, prepare, params, data, key, batch_size=batch_size)

        def none(params: Params) -> Means:
            return _nans(jax.eval_shape(means, params))

        return jax.lax.cond(active, means, none, params)

    return over_members(one, how=how, mesh=mesh)(params, hyper, keys, active)
