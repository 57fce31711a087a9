"""Two linear operations, each the other's transpose, that JAX can differentiate, batch and shard.

JAX has no ready way to give a linear function a transpose and to `vmap` it too: `custom_vjp` has
no forward mode, `linear_call` cannot be batched, and `custom_linear_solve` would copy an image that
many thetas share. Hence two primitives.

Both take `(first, points)`, where `first` is what they are linear in, an image or samples. `batch`
counts the leading axes that it shares with the points. What the points have beyond those is more
points.
"""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from jax.extend.core import Primitive
from jax.interpreters import ad, batching, mlir
from jax.sharding import NamedSharding, PartitionSpec

STATIC = ("batch", "height", "width")


def linear_pair(
    name: str,
    read: Callable[[jax.Array, jax.Array], jax.Array],
    splat: Callable[[jax.Array, jax.Array, int, int], jax.Array],
    shift: Callable[[jax.Array, jax.Array, jax.Array], jax.Array],
) -> Callable[[jax.Array, jax.Array], jax.Array]:
    """Makes `read` know `splat` as its transpose, and the other way round.

    Args:
        name: of the pair.
        read: `(image [h, w, c], points [*out]) -> samples [*out, c]`, linear in the image.
        splat: `(samples, points, height, width) -> image`, linear in the samples.
        shift: `(image, points, step) -> samples`, the derivative of `read` along a step of the
            points; linear in the image and in the step.

    Returns:
        `read`.
    """
    read_p, splat_p = Primitive(f"{name}_read"), Primitive(f"{name}_splat")
    shift_splat = functools.partial(_shift_splat, shift)
    _define(read_p, read, shift, _read_shape, functools.partial(_transpose_read, splat_p))
    _define(splat_p, splat, shift_splat, _splat_shape, functools.partial(_transpose_splat, read_p))
    batching.primitive_batchers[read_p] = functools.partial(_batch_read, read_p)
    batching.primitive_batchers[splat_p] = functools.partial(_batch, splat_p)

    def bound(image: jax.Array, points: jax.Array) -> jax.Array:
        return read_p.bind(*_equally_varying(image, points), batch=0)

    return bound


def _define(
    primitive: Primitive,
    function: Callable[..., jax.Array],
    shift: Callable[..., jax.Array],
    shape: Callable[..., tuple[int, ...]],
    transpose: Callable[..., list],
) -> None:
    """Tells JAX what a primitive computes, its result's shape, its derivative and transpose."""

    def run(first: jax.Array, points: jax.Array, *, batch: int, **size: int) -> jax.Array:
        return _batched(function, batch, size)(first, points)

    def along_first(change: Any, first: Any, points: Any, **settings: int) -> jax.Array:
        return primitive.bind(change, points, **settings)

    def along_points(step: Any, first: Any, points: Any, *, batch: int, **size: int) -> jax.Array:
        return _batched(shift, batch, size)(first, points, step)

    primitive.def_impl(jax.jit(run, static_argnames=STATIC))
    primitive.def_abstract_eval(functools.partial(_aval, shape))
    mlir.register_lowering(primitive, mlir.lower_fun(run, multiple_results=False))
    ad.deflinear2(primitive, transpose)  # its own derivative is for what is linear in all it takes
    ad.defjvp(primitive, along_first, along_points)


def _batched(
    function: Callable[..., jax.Array], batch: int, size: dict[str, int]
) -> Callable[..., jax.Array]:
    function = functools.partial(function, **size)
    for _ in range(batch):
        function = jax.vmap(function)
    return function


def _shift_splat(
    shift: Callable[..., jax.Array],
    samples: jax.Array,
    points: jax.Array,
    step: jax.Array,
    height: int,
    width: int,
) -> jax.Array:
    """The derivative of `splat` along a step of the points: the transpose of `read`'s."""
    image = jax.ShapeDtypeStruct((height, width, samples.shape[-1]), samples.dtype)
    return jax.linear_transpose(lambda image: shift(image, points, step), image)(samples)[0]


def _read_shape(image: Any, points: Any, *, batch: int) -> tuple[int, ...]:
    return (*points.shape, image.shape[-1])


def _splat_shape(
    samples: Any, points: Any, *, batch: int, height: int, width: int
) -> tuple[int, ...]:
    return (*points.shape[:batch], height, width, samples.shape[-1])


def _aval(shape: Callable[..., tuple[int, ...]], first: Any, points: Any, **settings: int) -> Any:
    """The abstract value of a result: on the argument's mesh, and varying there as it does."""
    result = shape(first, points, **settings)
    sharding = NamedSharding(first.sharding.mesh, PartitionSpec(*(None for _ in result)))
    return first.update(shape=result, sharding=sharding, weak_type=False)


def _transpose_read(
    splat_p: Primitive, cotangent: jax.Array, image: Any, points: jax.Array, *, batch: int
) -> list:
    height, width = image.aval.shape[batch : batch + 2]
    return [splat_p.bind(cotangent, points, batch=batch, height=height, width=width), None]


def _transpose_splat(
    read_p: Primitive,
    cotangent: jax.Array,
    samples: Any,
    points: jax.Array,
    *,
    batch: int,
    **_: int,
) -> list:
    return [read_p.bind(cotangent, points, batch=batch), None]


def _batch(primitive: Primitive, args: Any, dims: Any, *, batch: int, **size: int) -> tuple:
    count = next(a.shape[d] for a, d in zip(args, dims, strict=True) if d is not None)
    mapped = [batching.bdim_at_front(a, d, count) for a, d in zip(args, dims, strict=True)]
    return primitive.bind(*mapped, batch=batch + 1, **size), 0


def _batch_read(read_p: Primitive, args: Any, dims: Any, *, batch: int) -> tuple:
    (image, points), (image_dim, points_dim) = args, dims
    if image_dim is not None:
        return _batch(read_p, args, dims, batch=batch)
    # One image for all: it is read at more points, not copied.
    points = jnp.moveaxis(points, points_dim, batch)
    return read_p.bind(image, points, batch=batch), batch


def _equally_varying(*arrays: jax.Array) -> list[jax.Array]:
    """The arrays, all varying over the mesh axes of `shard_map` that any of them varies over."""
    axes = [jax.typeof(array).manual_axis_type.varying for array in arrays]
    every = frozenset().union(*axes)
    return [
        lax.pcast(array, tuple(every - own), to="varying") if every - own else array
        for array, own in zip(arrays, axes, strict=True)
    ]
