"""`jax.lax.scan` with convolutions that are as fast as outside of a loop on a CPU.

XLA's CPU backend has a fast kernel for convolutions whose arrays have the batch first and the
features last. It transposes the arrays of other convolutions, but only outside of loops
(`ConvCanonicalization` visits the entry computation only). In a loop, the others run in a generic
kernel, which is 10 to 100 times slower. The gradients of every convolution are among them. So this
module inserts the transpositions itself. Values are those of the same steps outside of a loop.
"""

import functools
from collections.abc import Callable, Sequence
from math import prod
from typing import Any, NamedTuple, TypeVar

import jax
import jax.numpy as jnp
from jax import lax
from jax.extend.core import ClosedJaxpr, Jaxpr, JaxprEqn

Carry = TypeVar("Carry")


def scan(
    body: Callable[[Carry, Any], tuple[Carry, Any]], init: Carry, xs: Any
) -> tuple[Carry, Any]:
    """Computes `jax.lax.scan(body, init, xs)` with fast convolutions on a CPU.

    Programs without convolutions, and those of other devices, are the same as with `lax.scan`.

    Args:
        body: `(carry, x) -> (carry, y)`.
        init: the initial carry.
        xs: a pytree of arrays with one leading axis of iterations.

    Returns:
        The final carry, and the stacked `y`.
    """
    loop = functools.partial(lax.scan, body)
    if jax.config.values["jax_disable_jit"]:  # the loop runs in Python, with concrete values
        return loop(init, xs)
    jaxpr, result = jax.make_jaxpr(loop, return_shape=True)(init, xs)
    jaxpr = _with_fast_convolutions(jaxpr, {})
    leaves = jax.core.eval_jaxpr(jaxpr.jaxpr, jaxpr.consts, *jax.tree.leaves((init, xs)))
    return jax.tree.unflatten(jax.tree.structure(result), leaves)


def _with_fast_convolutions(jaxpr: Any, done: dict[int, Any]) -> Any:
    """Replaces convolutions of a jaxpr and of those that it calls, each of which once."""
    if id(jaxpr) not in done:
        inner = getattr(jaxpr, "jaxpr", jaxpr)
        eqns = [_with_fast_convolution(eqn, done) for eqn in inner.eqns]
        if all(new is old for new, old in zip(eqns, inner.eqns, strict=True)):
            done[id(jaxpr)] = jaxpr
        else:
            replaced = inner.replace(eqns=eqns)
            done[id(jaxpr)] = replaced if inner is jaxpr else jaxpr.replace(jaxpr=replaced)
    return done[id(jaxpr)]


def _with_fast_convolution(eqn: JaxprEqn, done: dict[int, Any]) -> JaxprEqn:
    if eqn.primitive is lax.conv_general_dilated_p:
        return _fast(eqn)

    def replace(value: Any) -> Any:
        if isinstance(value, Jaxpr | ClosedJaxpr):
            return _with_fast_convolutions(value, done)
        return tuple(map(replace, value)) if type(value) is tuple else value

    params = {name: replace(value) for name, value in eqn.params.items()}
    same = all(_same(value, eqn.params[name]) for name, value in params.items())
    return eqn if same else eqn.replace(params=params)


def _same(new: Any, old: Any) -> bool:
    """Whether nothing was replaced. Tuples are rebuilt, so their elements are compared."""
    if type(new) is tuple:
        return all(map(_same, new, old))
    return new is old


class _Convolution(NamedTuple):
    """The settings of `lax.conv_general_dilated` that depend on the order of its operands."""

    dimension_numbers: lax.ConvDimensionNumbers
    padding: Sequence[tuple[int, int]]
    lhs_dilation: Sequence[int]
    rhs_dilation: Sequence[int]


def _fast(eqn: JaxprEqn) -> JaxprEqn:
    """Transposes the arrays of a convolution if XLA's fast kernel needs it."""
    plain = functools.partial(eqn.primitive.bind, **eqn.params)
    settings = _Convolution(*(eqn.params[name] for name in _Convolution._fields))
    ndim = len(settings.dimension_numbers.lhs_spec)
    images, kernel = (0, ndim - 1, *range(1, ndim - 1)), (ndim - 1, ndim - 2, *range(ndim - 2))
    numbers = lax.ConvDimensionNumbers(images, kernel, images)
    swaps = _is_swapped(eqn)
    is_fast = settings.dimension_numbers == numbers and not swaps
    if is_fast or eqn.params.get("out_sharding") is not None:
        return eqn

    def transposed(lhs: jax.Array, rhs: jax.Array) -> jax.Array:
        lhs, rhs, used = _swap(lhs, rhs, settings) if swaps else (lhs, rhs, settings)
        lhs, used = _crop(lhs, used)
        old = used.dimension_numbers
        lhs = lax.transpose(lhs, _permutation(old.lhs_spec, images))
        rhs = lax.transpose(rhs, _permutation(old.rhs_spec, kernel))
        params = eqn.params | used._replace(dimension_numbers=numbers)._asdict()
        output = eqn.primitive.bind(lhs, rhs, **params)
        return lax.transpose(output, _permutation(images, old.out_spec))

    def convolution(lhs: jax.Array, rhs: jax.Array) -> jax.Array:
        return lax.platform_dependent(lhs, rhs, cpu=transposed, default=plain)

    with eqn.ctx.manager:
        call = jax.make_jaxpr(jax.jit(convolution))(*(each.aval for each in eqn.invars))
    if [each.aval for each in call.jaxpr.outvars] != [eqn.outvars[0].aval]:
        return eqn
    return call.eqns[0].replace(
        invars=eqn.invars, outvars=eqn.outvars, source_info=eqn.source_info, ctx=eqn.ctx
    )


def _is_swapped(eqn: JaxprEqn) -> bool:
    """Whether XLA swaps the operands, because the kernel is larger than the images.

    It then reverses the window, which the fast kernel does not support.
    """
    avals: list[Any] = [each.aval for each in eqn.invars]
    (images, kernel), params = (aval.shape for aval in avals), eqn.params
    numbers = params["dimension_numbers"]
    if max(params["feature_group_count"], params["batch_group_count"]) > 1:
        return False
    return prod(kernel[i] for i in numbers.rhs_spec[2:]) > prod(
        images[i] for i in numbers.lhs_spec[2:]
    )


def _swap(
    lhs: jax.Array, rhs: jax.Array, settings: _Convolution
) -> tuple[jax.Array, jax.Array, _Convolution]:
    """The same convolution with images and kernel in each other's place."""
    lhs_spec, rhs_spec, out_spec = settings.dimension_numbers
    padding = []
    for i, j, lhs_by, rhs_by, (low, high) in zip(
        lhs_spec[2:],
        rhs_spec[2:],
        settings.lhs_dilation,
        settings.rhs_dilation,
        settings.padding,
        strict=True,
    ):
        difference = (lhs.shape[i] - 1) * lhs_by - (rhs.shape[j] - 1) * rhs_by
        padding.append((difference + low, difference + high))
    out_spec = (out_spec[1], out_spec[0], *out_spec[2:])
    numbers = lax.ConvDimensionNumbers(rhs_spec, lhs_spec, out_spec)
    swapped = _Convolution(numbers, tuple(padding), settings.rhs_dilation, settings.lhs_dilation)
    return lax.rev(rhs, rhs_spec[2:]), lax.rev(lhs, lhs_spec[2:]), swapped


def _crop(lhs: jax.Array, settings: _Convolution) -> tuple[jax.Array, _Convolution]:
    """Applies negative padding to the images: with it, the fast kernel of jax 0.10 is wrong."""
    if all(min(each) >= 0 for each in settings.padding):  # also without spatial axes
        return lhs, settings
    edges = [(0, 0, 0)] * lhs.ndim
    for i, by, (low, high) in zip(
        settings.dimension_numbers.lhs_spec[2:],
        settings.lhs_dilation,
        settings.padding,
        strict=True,
    ):
        edges[i] = (min(low, 0), min(high, 0), by - 1)
    cropped = settings._replace(
        padding=tuple((max(low, 0), max(high, 0)) for low, high in settings.padding),
        lhs_dilation=(1,) * len(settings.lhs_dilation),
    )
    return lax.pad(lhs, jnp.zeros((), lhs.dtype), edges), cropped


def _permutation(old: Sequence[int], new: Sequence[int]) -> tuple[int, ...]:
    """The permutation that moves the dimensions `old` to the places `new`."""
    place = dict(zip(new, old, strict=True))
    return tuple(place[i] for i in range(len(place)))
