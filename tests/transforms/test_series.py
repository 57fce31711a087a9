"""Series of transformations: order of the warps, inverse, caching and errors."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from stn_jax import transforms
from tests.transforms.test_laws import random_points, random_theta

FAMILIES = [transforms.affine, transforms.projective, transforms.rigid_3d]


@pytest.mark.parametrize("family", FAMILIES, ids=lambda t: t.name)
def test_series_applies_the_last_theta_first_and_its_inverse_undoes_it(
    family: transforms.Transform, x64: None
) -> None:
    points = random_points(family)
    thetas = [random_theta(family, 0.1, seed) for seed in range(3)]
    series = transforms.series(family, 3)

    @jax.jit
    def warps(points: jax.Array) -> tuple[jax.Array, jax.Array, jax.Array]:
        warped = series.warp(jnp.concatenate(thetas), points)
        one_by_one = points
        for theta in reversed(thetas):
            one_by_one = family.warp(theta, one_by_one)
        return warped, one_by_one, series.warp(series.inverse(jnp.concatenate(thetas)), warped)

    warped, one_by_one, undone = warps(points)
    np.testing.assert_allclose(warped, one_by_one, atol=1e-12)
    np.testing.assert_allclose(undone, points, atol=1e-11)


def test_equal_arguments_return_the_same_series() -> None:
    assert transforms.series(transforms.affine, 2) is transforms.series(transforms.affine, 2)
    assert transforms.series(transforms.affine, 1) is transforms.affine
    assert not transforms.series(transforms.thin_plate_spline(), 2).has_inverse


@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize(
    ("family", "count", "error"),
    [
        (transforms.affine, 0, "count must be a whole number of at least 1; got 0"),
        (transforms.affine, 1.5, "count must be a whole number of at least 1; got 1.5"),
        (transforms.affine, np.float64(2), "count must be a whole number .*; got np.float64"),
        ("affine", 2, "transform must be one of stn_jax.transforms"),
    ],
)
def test_series_rejects_invalid_arguments(family: Any, count: Any, error: str) -> None:
    with pytest.raises(ValueError, match=error):
        transforms.series(family, count)
