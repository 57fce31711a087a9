"""Transformers in a row: one warp after the other, undone from the other end."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from stn_jax import transforms
from tests.transforms.test_laws import draw, points_of

FAMILIES = [transforms.affine, transforms.projective, transforms.rigid_3d]


@pytest.mark.parametrize("family", FAMILIES, ids=lambda t: t.name)
def test_the_last_of_a_row_comes_first_and_the_inverse_undoes(
    family: transforms.Transform, x64: None
) -> None:
    thetas, points = [draw(family, 0.1, seed) for seed in range(3)], points_of(family)
    row = transforms.series(family, 3)

    @jax.jit
    def both(points: jax.Array) -> tuple[jax.Array, jax.Array, jax.Array]:
        there = row.warp(jnp.concatenate(thetas), points)
        one_by_one = points
        for theta in reversed(thetas):
            one_by_one = family.warp(theta, one_by_one)
        return there, one_by_one, row.warp(row.inverse(jnp.concatenate(thetas)), there)

    there, one_by_one, back = both(points)
    np.testing.assert_allclose(there, one_by_one, atol=1e-12)
    np.testing.assert_allclose(back, points, atol=1e-11)


def test_equal_arguments_give_one_object() -> None:
    assert transforms.series(transforms.affine, 2) is transforms.series(transforms.affine, 2)
    assert transforms.series(transforms.affine, 1) is transforms.affine
    assert transforms.series(transforms.thin_plate_spline(), 2).inverse is None


@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize(
    ("family", "count", "said"),
    [
        (transforms.affine, 0, "count must be a whole number of at least 1; got 0"),
        (transforms.affine, 1.5, "count must be a whole number of at least 1; got 1.5"),
        ("affine", 2, "transform must be one of stn_jax.transforms"),
    ],
)
def test_refused(family: Any, count: Any, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        transforms.series(family, count)
