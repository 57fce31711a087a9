"""Chains of transformations: order of the warps, inverse, caching and errors."""

import pickle
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from stn_jax import transforms
from tests.transforms.test_laws import random_points, random_theta

AFFINE, PROJECTIVE = transforms.affine, transforms.projective
MEMBERS = [
    (AFFINE, AFFINE, AFFINE),
    (transforms.rigid_3d, transforms.rigid_3d),
    (PROJECTIVE, transforms.similarity, PROJECTIVE),
    (transforms.thin_plate_spline((2, 3)), AFFINE, transforms.translation),
]


@pytest.mark.parametrize("members", MEMBERS, ids=lambda members: transforms.chain(*members).name)
def test_chain_applies_the_last_theta_first_and_its_inverse_undoes_it(
    members: tuple[transforms.Transform, ...], x64: None
) -> None:
    chain = transforms.chain(*members)
    points = random_points(chain)
    thetas = [random_theta(member, 0.1, seed) for seed, member in enumerate(members)]
    assert chain.has_inverse == (members == members[::-1])

    @jax.jit
    def warps(points: jax.Array) -> tuple[jax.Array, ...]:
        warped = chain.warp(jnp.concatenate(thetas), points)
        one_by_one = points
        for member, theta in reversed(list(zip(members, thetas, strict=True))):
            one_by_one = member.warp(theta, one_by_one)
        if not chain.has_inverse:
            return warped, one_by_one, points
        return warped, one_by_one, chain.warp(chain.inverse(jnp.concatenate(thetas)), warped)

    warped, one_by_one, undone = warps(points)
    np.testing.assert_allclose(warped, one_by_one, atol=1e-12)
    np.testing.assert_allclose(undone, points, atol=1e-11)


def test_equal_arguments_return_the_same_series() -> None:
    assert transforms.series(transforms.affine, 2) is transforms.series(transforms.affine, 2)
    assert transforms.series(transforms.affine, 1) is transforms.affine
    assert transforms.chain(AFFINE, PROJECTIVE) is transforms.chain(AFFINE, PROJECTIVE)
    assert transforms.chain(AFFINE, PROJECTIVE) is not transforms.chain(PROJECTIVE, AFFINE)
    assert transforms.chain(AFFINE, AFFINE) is transforms.series(AFFINE, 2)
    assert not transforms.series(transforms.thin_plate_spline(), 2).has_inverse


@pytest.mark.parametrize("members", MEMBERS, ids=str)
def test_chain_can_be_pickled(members: tuple[transforms.Transform, ...]) -> None:
    chain = transforms.chain(*members)
    assert pickle.loads(pickle.dumps(chain)) is chain


@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize(
    ("members", "error"),
    [
        ((), "members must hold at least one Transform; got none"),
        ((AFFINE, "affine"), "transform must be one of stn_jax.transforms"),
        ((AFFINE, transforms.affine_3d), "members must have the same number of dimensions"),
    ],
)
def test_chain_rejects_invalid_members(members: Any, error: str) -> None:
    with pytest.raises(ValueError, match=error):
        transforms.chain(*members)


@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize(
    ("family", "count", "error"),
    [
        (transforms.affine, 0, "count must be a whole number of at least 1; got 0"),
        (transforms.affine, [[1], [1, 2]], "count must be a whole number of at least 1; got"),
        (transforms.affine, 1.5, "count must be a whole number of at least 1; got 1.5"),
        (transforms.affine, np.float64(2), "count must be a whole number .*; got np.float64"),
        ("affine", 2, "transform must be one of stn_jax.transforms"),
    ],
)
def test_series_rejects_invalid_arguments(family: Any, count: Any, error: str) -> None:
    with pytest.raises(ValueError, match=error):
        transforms.series(family, count)
