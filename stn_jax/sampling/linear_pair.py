"""A pair of linear operations that are each other's transpose, as two JAX primitives.

They support differentiation, batching and sharding. JAX has no simpler way to give a linear
function a custom transpose and to `vmap` it: `custom_vjp` has no forward mode, `linear_call` cannot
be batched, and `custom_linear_solve` would copy an image that many thetas share.

Both primitives take `(linear, points)`; they are linear in the first argument, an image or samples.
`batch` is the number of leading axes that it shares with the points. All further axes of the points
enumerate points.
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

STATIC_ARGUMENTS = ("batch", "height", "width")


def linear_pair(
    name: str,
    read: Callable[[jax.Array, jax.Array], jax.Array],
    splat: Callable[[jax.Array, jax.Array, int, int], jax.Array],
    points_jvp: Callable[[jax.Array, jax.Array, jax.Array], jax.Array],
) -> Callable[[jax.Array, jax.Array], jax.Array]:
    """Defines `read` and `splat` as primitives that are each other's transpose.

    Args:
        name: prefix of the names of the primitives.
        read: `(image [h, w, c], points [*out]) -> samples [*out, c]`, linear in the image.
        splat: `(samples, points, height, width) -> image`, linear in the samples.
        points_jvp: `(image, points, tangent) -> samples`, the derivative of `read` along a tangent
            of the points; linear in the image and in the tangent.

    Returns:
        `read` as a primitive that JAX can differentiate, transpose, batch and shard.
    """
    read_p, splat_p = Primitive(f"{name}_read"), Primitive(f"{name}_splat")
    splat_jvp = functools.partial(_splat_points_jvp, points_jvp)
    _define(read_p, read, points_jvp, _read_shape, functools.partial(_transpose_read, splat_p))
    _define(splat_p, splat, splat_jvp, _splat_shape, functools.partial(_transpose_splat, read_p))
    batching.primitive_batchers[read_p] = functools.partial(_batch_read, read_p)
    batching.primitive_batchers[splat_p] = functools.partial(_batch, splat_p)

    def bind_read(image: jax.Array, points: jax.Array) -> jax.Array:
        return read_p.bind(*_equally_varying(image, points), batch=0)

    return bind_read


def _define(
    primitive: Primitive,
    function: Callable[..., jax.Array],
    points_jvp: Callable[..., jax.Array],
    shape: Callable[..., tuple[int, ...]],
    transpose: Callable[..., list],
) -> None:
    """Registers the implementation, shape, derivatives and transpose of a primitive."""

    def run(linear: jax.Array, points: jax.Array, *, batch: int, **size: int) -> jax.Array:
        return _batched(function, batch, size)(linear, points)

    def linear_tangent(tangent: Any, linear: Any, points: Any, **settings: int) -> jax.Array:
        return primitive.bind(tangent, points, **settings)

    def points_tangent(
        tangent: Any, linear: Any, points: Any, *, batch: int, **size: int
    ) -> jax.Array:
        return _batched(points_jvp, batch, size)(linear, points, tangent)

    primitive.def_impl(jax.jit(run, static_argnames=STATIC_ARGUMENTS))
    primitive.def_abstract_eval(functools.partial(_abstract_value, shape))
    mlir.register_lowering(primitive, mlir.lower_fun(run, multiple_results=False))
    ad.deflinear2(primitive, transpose)  # its JVP assumes linearity in all arguments, so replace it
    ad.defjvp(primitive, linear_tangent, points_tangent)


def _batched(
    function: Callable[..., jax.Array], batch: int, size: dict[str, int]
) -> Callable[..., jax.Array]:
    function = functools.partial(function, **size)
    for _ in range(batch):
        function = jax.vmap(function)
    return function


def _splat_points_jvp(
    points_jvp: Callable[..., jax.Array],
    samples: jax.Array,
    points: jax.Array,
    tangent: jax.Array,
    height: int,
    width: int,
) -> jax.Array:
    """The derivative of `splat` along a tangent of the points: the transpose of that of `read`."""
    return apply_transpose(lambda image: points_jvp(image, points, tangent), samples, height, width)


def apply_transpose(
    linear: Callable[[jax.Array], jax.Array], samples: jax.Array, height: int, width: int
) -> jax.Array:
    """Applies the transpose of a linear function from images to samples."""
    image = jnp.zeros((height, width, samples.shape[-1]), samples.dtype)
    # In `shard_map`, the gradient to an image that all devices share is a sum over devices.
    image, samples = _equally_varying(image, samples)
    return jax.linear_transpose(linear, image)(samples)[0]


def _read_shape(image: Any, points: Any, *, batch: int) -> tuple[int, ...]:
    return (*points.shape, image.shape[-1])


def _splat_shape(
    samples: Any, points: Any, *, batch: int, height: int, width: int
) -> tuple[int, ...]:
    return (*points.shape[:batch], height, width, samples.shape[-1])


def _abstract_value(
    shape: Callable[..., tuple[int, ...]], linear: Any, points: Any, **settings: int
) -> Any:
    """The abstract value of a result: as the linear argument, with another shape, unsharded."""
    result = shape(linear, points, **settings)
    sharding = NamedSharding(linear.sharding.mesh, PartitionSpec(*(None for _ in result)))
    return linear.update(shape=result, sharding=sharding, weak_type=False)


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
    # A shared image is read at more points instead of being copied.
    points = jnp.moveaxis(points, points_dim, batch)
    return read_p.bind(image, points, batch=batch), batch


def _equally_varying(*arrays: jax.Array) -> list[jax.Array]:
    """Marks all arrays as varying over every `shard_map` axis that any of them varies over."""
    varying_axes = [jax.typeof(array).manual_axis_type.varying for array in arrays]
    union = frozenset().union(*varying_axes)
    return [
        lax.pcast(array, tuple(union - own), to="varying") if union - own else array
        for array, own in zip(arrays, varying_axes, strict=True)
    ]
