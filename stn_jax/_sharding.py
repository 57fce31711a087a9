"""Support for meshes with Explicit axes, the default of `jax.make_mesh`."""

from collections.abc import Callable, Hashable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import PartitionSpec


def run_on_auto_axes(
    function: Callable[..., Any],
    *arguments: Any,
    out_spec: Sequence[Any] = (),
    **static: Hashable,
) -> Any:
    """Returns `function(*arguments, **static)`, with the Explicit axes of the mesh as Auto axes.

    JAX rejects gathers, reshapes and custom primitives on Explicit axes unless each states the
    sharding of its result. On Auto axes the compiler finds it. If the current mesh has no Explicit
    axes, this is a plain call.

    Args:
        function: a function of arrays. It must not use sharded arrays from its closure. Eager calls
            on Explicit axes compile it once per function object.
        arguments: trees of arrays.
        out_spec: the mesh axes over which the results are sharded, as in `partition_spec`, without
            the axes added by `vmap`; by default results are replicated.
        static: settings of the function that are not traced.
    """
    axes = jax.sharding.get_abstract_mesh().explicit_axes
    if not axes:
        return function(*arguments, **static)
    # As one call, whose transpose also runs on Auto axes.
    call = jax.jit(function, static_argnames=tuple(static))
    out_sharding = PartitionSpec(*out_spec)
    return jax.sharding.auto_axes(call, axes=axes, out_sharding=out_sharding)(*arguments, **static)


def partition_spec(array: Any) -> tuple[Any, ...]:
    """The mesh axes over which each axis of `array` is sharded, or None; one entry per axis."""
    spec = tuple(jax.typeof(array).sharding.spec) if isinstance(array, jax.Array) else ()
    return spec + (None,) * (jnp.ndim(array) - len(spec))
