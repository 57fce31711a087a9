"""Transformations of one family in a row, as one transformation."""

import functools

import jax
import jax.numpy as jnp
import numpy as np

from stn_jax._types import Array
from stn_jax.transforms.base import Transform, as_points, as_theta, check_transform, constant


def series(transform: Transform, count: int) -> Transform:
    """What `count` transformers in a row do, each to the output of the one before.

    Convention: theta is the thetas of all, the first transformer's first. A target point of the
    whole is one of the last transformer, so it goes through that first.

    Args:
        transform: the family of each.
        count: how many, at least 1.

    Returns:
        A `Transform` with `count` times the parameters, with an inverse where the family has one;
        the same object for the same arguments.

    Raises:
        ValueError: if `count` is no integer or below 1, or `transform` no `Transform`.

    Example:
        >>> from stn_jax.transforms import rotation
        >>> twice = series(rotation, 2)
        >>> turned = twice.warp(jnp.asarray([jnp.pi, -jnp.pi / 2]), jnp.asarray([1.0, 0.0]))
        >>> bool(jnp.allclose(turned, jnp.asarray([0.0, 1.0]), atol=1e-6))
        True
    """
    check_transform(transform)
    if not isinstance(count, int) or count < 1:
        raise ValueError(f"count must be a whole number of at least 1; got {count}")
    return transform if count == 1 else _series(transform, count)


@functools.cache  # one object for equal arguments: a Transform is compared by identity
def _series(transform: Transform, count: int) -> Transform:
    name = f"series of {count} {transform.name}"
    num_params = count * transform.num_params

    def parts(theta: Array) -> list[jax.Array]:
        return jnp.split(as_theta(theta, num_params, name), count)

    def warp(theta: Array, points: Array) -> jax.Array:
        moved = as_points(points, transform.ndim, name)
        for part in reversed(parts(theta)):
            moved = transform.warp(part, moved)
        return moved

    def inverse(theta: Array) -> jax.Array:
        assert transform.inverse is not None
        return jnp.concatenate([transform.inverse(part) for part in reversed(parts(theta))])

    return Transform(
        name=name,
        ndim=transform.ndim,
        identity=constant(np.tile(transform.identity, count).tolist()),
        warp=warp,
        inverse=None if transform.inverse is None else inverse,
    )
