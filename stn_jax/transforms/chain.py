"""Transformations in series, as one transformation."""

import jax
import jax.numpy as jnp
import numpy as np

from stn_jax._checks import check_integer, one_line
from stn_jax._types import Array
from stn_jax.transforms.base import (
    Transform,
    as_points,
    as_theta,
    cache_one_object,
    check_transform,
)
from stn_jax.transforms.validation import MissingOperation


def chain(*members: Transform) -> Transform:
    """Chains transformers of any families, each applied to the output of the previous one.

    Convention: theta is the concatenation of all thetas, that of the first transformer first. A
    target point belongs to the output of the last transformer, so the last theta is applied first.

    Args:
        members: the families of the transformers, at least one, of the same number of dimensions.

    Returns:
        A `Transform` with the parameters of all members, exact at the identity if all members are.
        It has an inverse if all members have one and the order of the families is the same in
        reverse; the inverse of `chain(a, b)` has the form of `chain(b, a)`. A single member is
        returned itself. Equal arguments return the same object.

    Raises:
        ValueError: if there is no member, one is not a `Transform`, or their numbers of dimensions
            differ.

    Example:
        >>> from stn_jax.transforms import rotation, translation
        >>> both = chain(translation, rotation)
        >>> both.num_params
        3
        >>> moved = both.warp(jnp.asarray([0.5, 0.0, jnp.pi / 2]), jnp.asarray([1.0, 0.0]))
        >>> bool(jnp.allclose(moved, jnp.asarray([0.5, 1.0]), atol=1e-6))
        True
    """
    if not members:
        raise ValueError("members must hold at least one Transform; got none")
    for member in members:
        check_transform(member)
    if len({member.ndim for member in members}) > 1:
        raise ValueError(
            f"members must have the same number of dimensions; got {one_line(members)}"
        )
    return members[0] if len(members) == 1 else _cached_chain(*members)


def series(transform: Transform, count: int) -> Transform:
    """Chains `count` transformers of one family, each applied to the output of the previous one.

    Convention: as `chain`.

    Args:
        transform: the family of each transformer.
        count: number of transformers, at least 1.

    Returns:
        A `Transform` with `count` times as many parameters, and an inverse if the family has one.
        Equal arguments return the same object.

    Raises:
        ValueError: if `count` is not a positive integer, or if `transform` is not a `Transform`.

    Example:
        >>> from stn_jax.transforms import rotation
        >>> twice = series(rotation, 2)
        >>> rotated = twice.warp(jnp.asarray([jnp.pi, -jnp.pi / 2]), jnp.asarray([1.0, 0.0]))
        >>> bool(jnp.allclose(rotated, jnp.asarray([0.0, 1.0]), atol=1e-6))
        True
    """
    check_transform(transform)
    number = check_integer("count", count, "a whole number of at least 1", 1)
    return chain(*[transform] * number)


@cache_one_object
def _cached_chain(*members: Transform) -> Transform:
    names, ndim = [member.name for member in members], members[0].ndim
    same = len(set(members)) == 1
    name = f"series of {len(members)} {names[0]}" if same else f"chain of {', '.join(names)}"
    counts = [member.num_params for member in members]

    def split(theta: Array) -> list[jax.Array]:
        return jnp.split(as_theta(theta, sum(counts), name), np.cumsum(counts)[:-1].tolist())

    def warp(theta: Array, points: Array) -> jax.Array:
        # The gradient to one theta is multiplied by the others.
        parts = [_bounded(part) for part in split(theta)]
        warped = members[-1].warp(parts[-1], as_points(points, ndim, name))
        for member, part in list(zip(members, parts, strict=True))[-2::-1]:
            warped = member.warp(part, _bounded(warped))
        return warped

    def inverse(theta: Array) -> jax.Array:
        parts = zip(members, split(theta), strict=True)
        return jnp.concatenate([member.inverse(part) for member, part in parts][::-1])

    invertible = members == members[::-1] and all(member.has_inverse for member in members)
    return Transform(
        name=name,
        ndim=ndim,
        identity=np.concatenate([member.identity for member in members]),
        warp=warp,
        inverse=inverse if invertible else MissingOperation(name, "inverse"),
        origin=(chain, members),
        check=False,
    )


def _bounded(values: jax.Array) -> jax.Array:
    """Clips numbers that are so large that gradients would overflow: in float32, above 4e9."""
    limit = float(jnp.finfo(values.dtype).max) ** 0.25  # so that a spline can square it
    return jnp.clip(values, -limit, limit)
