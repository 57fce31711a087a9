"""Linear operations with their transposes, as pairs of JAX primitives.

They support differentiation, batching and sharding, and have an algorithm of their own for each
platform. JAX has no simpler way to give a linear function a custom transpose and to `vmap` it:
`custom_vjp` has no forward mode, `linear_call` cannot be batched, and `custom_linear_solve` would
copy an image that many thetas share. The bodies are traced only when a program is lowered, for one
platform, and only the arguments are stored between the forward and the reverse pass.

Both primitives take `(linear, *others)`. `batch` is the number of leading axes that all arguments
share.
"""

import functools
import math
from collections.abc import Callable, Hashable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jax.extend.core import Primitive
from jax.interpreters import ad, batching, mlir
from jax.sharding import NamedSharding, PartitionSpec

STATIC_ARGUMENTS = ("batch", "linear_type", "result_type", "layout")
Function = Callable[..., jax.Array]
Tangents = tuple[jax.Array | None, ...]


class Axes(NamedTuple):
    """Where the axes that enumerate points begin in each array; None if it has no such axes.

    An array without them, such as an image, belongs to all points of an example.
    """

    linear: int | None
    others: tuple[int | None, ...]
    result: int | None


def linear_pair(
    name: str,
    function: Function,
    axes: Axes,
    *,
    on_cpu: Function | None = None,
    transpose_on_cpu: Function | None = None,
    others_jvp: Function | None = None,
    homogeneous: Callable[..., Sequence[jax.Array]] = lambda *others: others,
) -> Function:
    """Defines a linear function and its transpose as primitives.

    Args:
        name: of the primitive; its transpose has a suffix.
        function: `(linear, *others, layout) -> result` for one example, by plain operations.
        axes: of the arguments and the result of `function`.
        on_cpu: `(linear, *others, layout, copies) -> result`, another algorithm for CPUs; `copies`
            is the number of examples that run at once.
        transpose_on_cpu: `(result, *others, layout, linear_shape, copies) -> linear`. By default,
            and on other platforms, JAX derives the transpose of `function`.
        others_jvp: `(linear, others, tangents, layout, plain) -> result`, the derivative along
            tangents of the other arguments. A tangent is None if it is zero or its argument has
            integers. If `plain`, JAX must be able to transpose it with respect to `linear`. By
            default JAX derives it from `function`.
        homogeneous: changes the other arguments so that `function` is linear in the first. By
            default it is linear with all others, otherwise affine.

    Returns:
        `(linear, *others, result_shape, result_dtype=None, layout=None) -> result`, which JAX can
        differentiate, transpose, batch and shard. The dtype of the result is by default that of
        the linear argument. `layout` is static and passed on to the functions.
    """
    forward, backward = Primitive(name), Primitive(f"{name}_transpose")

    def run(
        linear: Any, *others: Any, batch: int, layout: Hashable, custom: bool = False, **_: Any
    ) -> jax.Array:
        static = functools.partial(function, layout=layout)
        if custom and on_cpu is not None:
            copies = math.prod(linear.shape[:batch])
            static = functools.partial(on_cpu, layout=layout, copies=copies)
        return _batched(static, batch)(linear, *others)

    def run_transpose(
        result: Any,
        *others: Any,
        batch: int,
        linear_type: Any,
        custom: bool = False,
        **settings: Any,
    ) -> jax.Array:
        batch_shape = result.shape[:batch]
        if custom and transpose_on_cpu is not None:
            static = {"linear_shape": linear_type.shape, "layout": settings["layout"]}
            static["copies"] = math.prod(batch_shape)
            return _batched(functools.partial(transpose_on_cpu, **static), batch)(result, *others)
        linear = _add_axes(batch_shape, linear_type)
        return apply_transpose(
            lambda linear: run(linear, *others, batch=batch, **settings), linear, result
        )

    def derivative(
        linear: Any, others: Any, tangents: Any, plain: bool = False, **settings: Any
    ) -> jax.Array:
        """The derivative of `function` along tangents of the other arguments."""
        if others_jvp is not None:
            along = functools.partial(others_jvp, layout=settings["layout"], plain=plain)
            return _batched(along, settings["batch"])(linear, others, tangents)
        return _jvp(functools.partial(run, linear, **settings), others, tangents)

    def transposed_derivative(
        result: Any, others: Any, tangents: Any, *, linear_type: Any, **settings: Any
    ) -> jax.Array:
        linear = _add_axes(result.shape[: settings["batch"]], linear_type)
        along = functools.partial(derivative, others=others, tangents=tangents, plain=True)
        return apply_transpose(lambda linear: along(linear, **settings), linear, result)

    _define(forward, backward, run, derivative, homogeneous, "result_type")
    _define(backward, forward, run_transpose, transposed_derivative, homogeneous, "linear_type")
    transposed_axes = Axes(axes.result, axes.others, axes.linear)
    for primitive, own_axes in ((forward, axes), (backward, transposed_axes)):
        rule = functools.partial(_batch, primitive, own_axes, axes)
        batching.primitive_batchers[primitive] = rule

    def bind(
        linear: jax.Array,
        *others: jax.Array,
        result_shape: tuple[Any, ...],
        result_dtype: Any = None,
        layout: Hashable = None,
    ) -> jax.Array:
        arrays = equally_varying(linear, *others)
        types = {
            "linear_type": jax.ShapeDtypeStruct(linear.shape, linear.dtype),
            "result_type": jax.ShapeDtypeStruct(result_shape, result_dtype or linear.dtype),
        }
        return forward.bind(*arrays, batch=0, layout=layout, **types)

    return bind


def _define(
    primitive: Primitive,
    transposed: Primitive,
    run: Function,
    others_jvp: Function,
    homogeneous: Callable[..., Sequence[jax.Array]],
    which: str,
) -> None:
    """Registers the evaluation, type, lowering, derivatives and transpose of a primitive."""

    def jvp(primals: Sequence[Any], tangents: Sequence[Any], **settings: Any) -> tuple[Any, Any]:
        (linear, *others), (linear_tangent, *other_tangents) = primals, tangents
        output = primitive.bind(*primals, **settings)
        terms = []
        if type(linear_tangent) is not ad.Zero:
            terms.append(primitive.bind(linear_tangent, *homogeneous(*others), **settings))
        given = tuple(None if type(each) is ad.Zero else each for each in other_tangents)
        if any(each is not None for each in given):
            terms.append(others_jvp(linear, tuple(others), given, **settings))
        zero = ad.Zero(jax.typeof(output).to_tangent_aval())
        return output, sum(terms[1:], terms[0]) if terms else zero

    def transpose(cotangent: Any, linear: Any, *others: Any, **settings: Any) -> list:
        return [transposed.bind(cotangent, *others, **settings), *(None for _ in others)]

    @functools.partial(jax.jit, static_argnames=STATIC_ARGUMENTS)
    def compiled(*arrays: Any, **settings: Any) -> jax.Array:
        return primitive.bind(*arrays, **settings)

    @primitive.def_impl
    def evaluate(*arrays: Any, **settings: Any) -> jax.Array:
        with jax.disable_jit(False):  # only lowering chooses an algorithm
            return compiled(*arrays, **settings)

    primitive.def_abstract_eval(functools.partial(_abstract_value, which))
    for platform, custom in ((None, False), ("cpu", True)):
        lowering = mlir.lower_fun(functools.partial(run, custom=custom), multiple_results=False)
        mlir.register_lowering(primitive, lowering, platform)
    ad.deflinear2(primitive, transpose)  # its JVP assumes linearity in all arguments, so replace it
    ad.primitive_jvps[primitive] = jvp


def _jvp(function: Function, arrays: Sequence[Any], tangents: Tangents) -> jax.Array:
    """The derivative of a function along tangents, of which None stands for zero."""
    moving = [tangent is not None for tangent in tangents]

    def of_moving(*given: jax.Array) -> jax.Array:
        rest = iter(given)
        return function(*(next(rest) if m else a for m, a in zip(moving, arrays, strict=True)))

    primals = [a for a, m in zip(arrays, moving, strict=True) if m]
    return jax.jvp(of_moving, primals, [t for t in tangents if t is not None])[1]


def apply_transpose(
    function: Callable[[jax.Array], jax.Array], linear: jax.ShapeDtypeStruct, result: jax.Array
) -> jax.Array:
    """Applies the transpose of a linear function, whose argument is of type `linear`."""
    # In `shard_map`, the gradient to an image that all devices share is a sum over devices.
    zeros, result = equally_varying(jnp.zeros(linear.shape, linear.dtype), result)
    return jax.linear_transpose(function, zeros)(result)[0]


def _batched(function: Function, batch: int) -> Function:
    for _ in range(batch):
        function = jax.vmap(function)
    return function


def _add_axes(batch_shape: tuple[Any, ...], each: jax.ShapeDtypeStruct) -> jax.ShapeDtypeStruct:
    return jax.ShapeDtypeStruct((*batch_shape, *each.shape), each.dtype)


def _abstract_value(which: str, linear: Any, *_: Any, batch: int, **settings: Any) -> Any:
    """The abstract value of a result: varies as the linear argument, unsharded."""
    result = _add_axes(linear.shape[:batch], settings[which])
    sharding = NamedSharding(linear.sharding.mesh, PartitionSpec(*(None for _ in result.shape)))
    return linear.update(shape=result.shape, dtype=result.dtype, sharding=sharding, weak_type=False)


def _batch(
    primitive: Primitive,
    axes: Axes,
    forward_axes: Axes,
    args: Sequence[Any],
    dims: Sequence[int | None],
    *,
    batch: int,
    linear_type: jax.ShapeDtypeStruct,
    result_type: jax.ShapeDtypeStruct,
    layout: Hashable,
) -> tuple[jax.Array, int]:
    starts = (axes.linear, *axes.others)
    count = next(a.shape[d] for a, d in zip(args, dims, strict=True) if d is not None)

    def to_front(array: Any, dim: int | None) -> Any:
        return batching.bdim_at_front(array, dim, count)

    shared = all(dim is None for dim, start in zip(dims, starts, strict=True) if start is None)
    if axes.result is None or not shared:
        mapped = list(map(to_front, args, dims))
        types = {"linear_type": linear_type, "result_type": result_type}
        return primitive.bind(*mapped, batch=batch + 1, layout=layout, **types), 0
    # A shared image is read at more points instead of being copied.
    folded = [
        arg if start is None else jnp.moveaxis(to_front(arg, dim), 0, batch + start)
        for arg, dim, start in zip(args, dims, starts, strict=True)
    ]
    types = {
        "linear_type": _insert(linear_type, forward_axes.linear, count),
        "result_type": _insert(result_type, forward_axes.result, count),
    }
    result = primitive.bind(*folded, batch=batch, layout=layout, **types)
    return result, batch + axes.result


def _insert(each: jax.ShapeDtypeStruct, start: int | None, count: int) -> jax.ShapeDtypeStruct:
    """The type with one more axis of points."""
    if start is None:
        return each
    shape = (*each.shape[:start], count, *each.shape[start:])
    return jax.ShapeDtypeStruct(shape, each.dtype)


def equally_varying(*arrays: jax.Array) -> list[jax.Array]:
    """Marks all arrays as varying over every `shard_map` axis that any of them varies over."""
    varying_axes = [jax.typeof(array).manual_axis_type.varying for array in arrays]
    union = frozenset().union(*varying_axes)
    return [
        lax.pcast(array, tuple(union - own), to="varying") if union - own else array
        for array, own in zip(arrays, varying_axes, strict=True)
    ]
