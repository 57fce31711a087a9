"""The state of a training run, and learning rates of parts of its parameters."""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Bool, Int, PRNGKeyArray

from stn_jax._types import Number

# A pytree of arrays.
Params = Any
# A pytree of a network's other arrays, such as the statistics of batch normalisation.
Variables = Any


class TrainState(NamedTuple):
    """Everything that a run carries from step to step.

    Attributes:
        step: number of steps taken.
        params: a pytree of parameters.
        opt_state: the state of the optimizer.
        key: the run's PRNG key, the same at every step.
        diverged: whether the next update was not finite; no more steps are taken then.
        variables: a pytree of the network's other arrays, such as the statistics of batch
            normalisation; None for networks without them.
    """

    step: Int[Array, ""]
    params: Params
    opt_state: optax.OptState
    key: PRNGKeyArray
    diverged: Bool[Array, ""]
    variables: Variables | None = None


def init_state(
    key: PRNGKeyArray,
    params: Params,
    optimizer: optax.GradientTransformation,
    variables: Variables | None = None,
) -> TrainState:
    """Creates the state before the first step.

    Args:
        key: the run's PRNG key.
        params: initial parameters.
        optimizer: an optax gradient transformation.
        variables: initial values of the network's other arrays, such as the statistics of batch
            normalisation, which the objective updates. None for networks without them.

    Returns:
        The state of step 0.
    """
    step, diverged = jnp.zeros((), jnp.int32), jnp.zeros((), bool)
    return TrainState(step, params, optimizer.init(params), key, diverged, variables)


def scale_updates(
    factor: Number, selects: Callable[[Sequence[Any]], bool]
) -> optax.GradientTransformation:
    """Scales the updates of some parameters, which gives them their own learning rate.

    Args:
        factor: multiplies the updates.
        selects: whether to scale a parameter, given its path in the tree.

    Returns:
        An optax gradient transformation, to place after the optimizer in `optax.chain`.

    Raises:
        ValueError: from the transformation's `init`, if no parameter is selected.
    """

    def mask(params: Params) -> Params:
        selected = jax.tree_util.tree_map_with_path(lambda path, _: selects(path), params)
        if not any(jax.tree.leaves(selected)):
            raise ValueError("selects must select at least one parameter; got none")
        return selected

    return optax.masked(optax.scale(factor), mask)
