"""Several transformations of one family in series, as one transformation."""

import jax
import jax.numpy as jnp
import numpy as np

from stn_jax._checks import check_integer
from stn_jax._types import Array
from stn_jax.transforms.base import (
    Transform,
    as_points,
    as_theta,
    cache_one_object,
    check_transform,
)
from stn_jax.transforms.validation import MissingOperation


def series(transform: Transform, count: int) -> Transform:
    """Chains `count` transformers of one family, each applied to the output of the previous one.

    Convention: theta is the concatenation of all thetas, that of the first transformer first. A
    target point belongs to the output of the last transformer, so the last theta is applied first.

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
    return transform if number == 1 else _cached_series(transform, number)


@cache_one_object
def _cached_series(transform: Transform, count: int) -> Transform:
    name = f"series of {count} {transform.name}"
    num_params = count * transform.num_params

    def split(theta: Array) -> list[jax.Array]:
        return jnp.split(as_theta(theta, num_params, name), count)

    def warp(theta: Array, points: Array) -> jax.Array:
        # The gradient to one theta is multiplied by the others.
        first, *others = reversed([_bounded(part) for part in split(theta)])
        warped = transform.warp(first, as_points(points, transform.ndim, name))
        for part in others:
            warped = transform.warp(part, _bounded(warped))
        return warped

    def inverse(theta: Array) -> jax.Array:
        return jnp.concatenate([transform.inverse(part) for part in reversed(split(theta))])

    return Transform(
        name=name,
        ndim=transform.ndim,
        identity=np.tile(transform.identity, count),
        warp=warp,
        inverse=inverse if transform.has_inverse else MissingOperation(name, "inverse"),
        origin=(series, (transform, count)),
        check=False,
    )


def _bounded(values: jax.Array) -> jax.Array:
    """Clips numbers that are so large that gradients would overflow: in float32, above 4e9."""
    limit = float(jnp.finfo(values.dtype).max) ** 0.25  # so that a spline can square it
    return jnp.clip(values, -limit, limit)
