"""Two linear operations, each the other's transpose, that JAX can differentiate, batch and shard.

JAX has no ready way to give a linear function a transpose and to `vmap` it too: `custom_vjp` has
no forward mode, `linear_call` cannot be batched, and `custom_linear_solve` would copy an image that
many thetas share. Hence two primitives.
"""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jax.extend.core import Primitive
from jax.interpreters import ad, batching, mlir
from jax.sharding import NamedSharding, PartitionSpec


class LinearPair(NamedTuple):
    """The two operations.

    Attributes:
        read: `(image [h, w, c], points [*out]) -> samples [*out, c]`.
        splat: `(samples, points, height, width) -> image`, its transpose.
    """

    read: Callable[[jax.Array, jax.Array], jax.Array]
    splat: Callable[[jax.Array, jax.Array, int, int], jax.Array]


def linear_pair(
    name: str,
    read: Callable[[jax.Array, jax.Array], jax.Array],
    splat: Callable[[jax.Array, jax.Array, int, int], jax.Array],
    shift: Callable[[jax.Array, jax.Array, jax.Array], jax.Array],
) -> LinearPair:
    """Makes a pair of two functions, which from then on know each other as transposes.

    Args:
        name: of the pair.
        read, splat: as in `LinearPair`; both linear in their first argument.
        shift: `(image, points, step) -> samples`, the derivative of `read` along a step of the
            points; linear in the image and in the step.
    """
    read_p, splat_p = Primitive(f"{name}_read"), Primitive(f"{name}_splat")

    # `batch` counts the leading axes that the first argument shares with the points. What the
    # points have beyond those is more points.
    def run_read(image: jax.Array, points: jax.Array, *, batch: int) -> jax.Array:
        return _batched(read, batch)(image, points)

    def run_splat(
        samples: jax.Array, points: jax.Array, *, height: int, width: int, batch: int
    ) -> jax.Array:
        def one(samples: jax.Array, points: jax.Array) -> jax.Array:
            return splat(samples, points, height, width)

        return _batched(one, batch)(samples, points)

    def shift_of_splat(
        samples: jax.Array, points: jax.Array, step: jax.Array, *, height: int, width: int
    ) -> jax.Array:
        image = jax.ShapeDtypeStruct((height, width, samples.shape[-1]), samples.dtype)
        return jax.linear_transpose(lambda image: shift(image, points, step), image)(samples)[0]

    def read_aval(image: Any, points: Any, *, batch: int) -> Any:
        return _aval(image, (*points.shape, image.shape[-1]))

    def splat_aval(samples: Any, points: Any, *, height: int, width: int, batch: int) -> Any:
        return _aval(samples, (*points.shape[:batch], height, width, samples.shape[-1]))

    def read_jvp(primals: tuple, tangents: tuple, *, batch: int) -> tuple:
        moved = _batched(shift, batch)
        return _jvp(read_p, primals, tangents, moved, batch=batch)

    def splat_jvp(primals: tuple, tangents: tuple, *, batch: int, **size: int) -> tuple:
        moved = _batched(functools.partial(shift_of_splat, **size), batch)
        return _jvp(splat_p, primals, tangents, moved, batch=batch, **size)

    def read_transpose(cotangent: Any, image: Any, points: Any, *, batch: int) -> list:
        if type(cotangent) is ad.Zero:
            return [None, None]
        height, width = image.aval.shape[batch : batch + 2]
        size = {"height": height, "width": width}
        return [splat_p.bind(cotangent, points, batch=batch, **size), None]

    def splat_transpose(
        cotangent: Any, samples: Any, points: Any, *, batch: int, **size: int
    ) -> list:
        if type(cotangent) is ad.Zero:
            return [None, None]
        return [read_p.bind(cotangent, points, batch=batch), None]

    def read_batcher(args: Any, dims: Any, *, batch: int) -> tuple:
        (image, points), size = args, _size(args, dims)
        if dims[0] is None:  # one image for all: it is read at more points, not copied
            points = jnp.moveaxis(points, dims[1], batch)
            return read_p.bind(image, points, batch=batch), batch
        mapped = [_mapped(each, dim, size) for each, dim in zip(args, dims, strict=True)]
        return read_p.bind(*mapped, batch=batch + 1), 0

    def splat_batcher(args: Any, dims: Any, *, batch: int, **shape: int) -> tuple:
        size = _size(args, dims)
        mapped = [_mapped(each, dim, size) for each, dim in zip(args, dims, strict=True)]
        return splat_p.bind(*mapped, batch=batch + 1, **shape), 0

    _register(read_p, run_read, ("batch",), read_aval, read_jvp, read_transpose, read_batcher)
    static = ("batch", "height", "width")
    _register(splat_p, run_splat, static, splat_aval, splat_jvp, splat_transpose, splat_batcher)

    def bound_read(image: jax.Array, points: jax.Array) -> jax.Array:
        return read_p.bind(*_equally_varying(image, points), batch=0)

    def bound_splat(samples: jax.Array, points: jax.Array, height: int, width: int) -> jax.Array:
        size = {"height": height, "width": width}
        return splat_p.bind(*_equally_varying(samples, points), batch=0, **size)

    return LinearPair(bound_read, bound_splat)


def _register(
    primitive: Primitive,
    run: Callable[..., jax.Array],
    static: tuple[str, ...],
    aval: Callable[..., Any],
    jvp: Callable[..., tuple],
    transpose: Callable[..., list],
    batcher: Callable[..., tuple],
) -> None:
    """Tells JAX all that it asks of a primitive."""
    primitive.def_impl(jax.jit(run, static_argnames=static))
    primitive.def_abstract_eval(aval)
    mlir.register_lowering(primitive, mlir.lower_fun(run, multiple_results=False))
    ad.primitive_jvps[primitive] = jvp
    ad.primitive_transposes[primitive] = transpose
    batching.primitive_batchers[primitive] = batcher


def _jvp(
    primitive: Primitive,
    primals: tuple,
    tangents: tuple,
    moved: Callable[..., jax.Array],
    **settings: int,
) -> tuple:
    """The rule of both: linear in the first argument, `moved` by a step of the points."""
    (first, points), (change, step) = primals, tangents
    terms = []
    if type(change) is not ad.Zero:
        terms.append(primitive.bind(change, points, **settings))
    if type(step) is not ad.Zero:
        terms.append(moved(first, points, step))
    return primitive.bind(first, points, **settings), sum(terms[1:], terms[0])


def _batched(function: Callable[..., jax.Array], batch: int) -> Callable[..., jax.Array]:
    for _ in range(batch):
        function = jax.vmap(function)
    return function


def _size(args: Any, dims: Any) -> int:
    return next(a.shape[d] for a, d in zip(args, dims, strict=True) if d is not None)


def _mapped(array: jax.Array, dim: int | None, size: int) -> jax.Array:
    """The array with its mapped axis, or a new one, in front."""
    if dim is None:
        return jnp.broadcast_to(array, (size, *array.shape))
    return jnp.moveaxis(array, dim, 0)


def _aval(like: Any, shape: tuple[int, ...]) -> Any:
    """The abstract value of a result: on the argument's mesh, and varying there as it does."""
    sharding = NamedSharding(like.sharding.mesh, PartitionSpec(*(None for _ in shape)))
    return like.update(shape=shape, sharding=sharding, weak_type=False)


def _equally_varying(*arrays: jax.Array) -> list[jax.Array]:
    """The arrays, all varying over the mesh axes of `shard_map` that any of them varies over."""
    axes = [jax.typeof(array).manual_axis_type.varying for array in arrays]
    every = frozenset().union(*axes)
    return [
        lax.pcast(array, tuple(every - own), to="varying") if every - own else array
        for array, own in zip(arrays, axes, strict=True)
    ]
