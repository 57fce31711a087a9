"""Iterative transformers: equality with the plain one, order of the updates, and errors."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

import stn_jax.nnx
from stn_jax import linen, transforms
from stn_jax.nn import Warp

RNG = np.random.default_rng(0)
IMAGES = jnp.asarray(RNG.uniform(size=(3, 8, 9, 1)), jnp.float32)
FAMILIES = [transforms.affine, transforms.projective, transforms.similarity]


def perturbed(params: Any) -> Any:
    """Parameters whose thetas are not the identity."""
    rng = np.random.default_rng(1)
    return jax.tree.map(lambda leaf: leaf + 0.1 * rng.standard_normal(leaf.shape, "f4"), params)


@pytest.mark.parametrize("transform", FAMILIES, ids=lambda t: t.name)
def test_one_iteration_equals_the_plain_transformer_exactly(transform: Any) -> None:
    localisation = linen.FCNLocalisationNetwork((4,))
    plain = linen.SpatialTransformer(localisation, transform)
    params = perturbed(jax.jit(plain.init)(jax.random.key(0), IMAGES))
    iterative = linen.IterativeTransformer(localisation, transform, num_iterations=1)
    several = linen.IterativeTransformer(localisation, transform, num_iterations=3)
    output, found = iterative.apply(params, IMAGES)
    expected, intermediates = plain.apply(params, IMAGES)
    np.testing.assert_array_equal(output, expected)
    jax.tree.map(np.testing.assert_array_equal, found, intermediates)
    assert np.abs(several.apply(params, IMAGES)[0] - expected).max() > 0.01


def predictions(steps: list[np.ndarray], seen: list[jax.Array]) -> Callable[..., jax.Array]:
    """A localisation that predicts given steps in order, and records the images that it sees."""
    remaining = iter(steps)

    def predict(images: jax.Array) -> jax.Array:
        seen.append(images)
        return jnp.asarray(next(remaining), jnp.float32)

    return predict


@pytest.mark.parametrize("transform", FAMILIES, ids=lambda t: t.name)
def test_each_step_sees_the_warped_original_and_acts_in_its_frame(transform: Any) -> None:
    noise = RNG.normal(size=(3, 3, transform.num_params))
    steps, seen = list(transform.identity + 0.1 * noise), []
    warp = Warp(transform, output_shape=(4, 5))
    theta = warp.iterate(IMAGES, predictions(steps, seen), 3)
    compose = jax.vmap(transform.compose)
    first, second = steps[0].astype("f4"), steps[1].astype("f4")
    np.testing.assert_array_equal(seen[0], IMAGES)
    np.testing.assert_allclose(seen[1], Warp(transform)(IMAGES, first)[0], atol=1e-6)
    both = compose(first, second)
    np.testing.assert_allclose(seen[2], Warp(transform)(IMAGES, both)[0], atol=1e-6)
    np.testing.assert_allclose(theta, compose(both, steps[2].astype("f4")), atol=1e-6)


def test_nothing_is_lost_at_the_border_on_the_way() -> None:
    shift = np.tile(np.float32([0.9, -0.7]), (3, 1))
    warp = Warp(transforms.translation)
    theta = warp.iterate(IMAGES, predictions([shift, -shift], []), 2)
    np.testing.assert_array_equal(warp(IMAGES, theta)[0], IMAGES)


def test_an_oracle_of_the_position_converges_in_one_step() -> None:
    """The prediction is the centre of mass, which the warp moves to the centre of the image."""
    rows, columns = np.mgrid[:21, :25]
    centres = [(8.0, 9.0), (14.5, 11.0)]
    spots = [np.exp(-((columns - x) ** 2 + (rows - y) ** 2) / 4) for x, y in centres]
    images = jnp.asarray(np.stack(spots)[..., None], jnp.float32)

    def predict(images: jax.Array) -> jax.Array:
        weights = images[..., 0] / jnp.sum(images[..., 0], axis=(1, 2), keepdims=True)
        return jax.vmap(stn_jax.colocalisation.centre_of_mass)(weights)

    found = [Warp(transforms.translation).iterate(images, predict, n) for n in (1, 3)]
    expected = [[2 * (x - 12) / 25, 2 * (y - 10) / 21] for x, y in centres]
    np.testing.assert_allclose(found[0], expected, atol=1e-4)
    np.testing.assert_allclose(found[1], expected, atol=1e-4)


def test_a_step_beyond_the_horizon_is_left_out_and_gradients_are_finite() -> None:
    tilt, shift = transforms.projective.identity.copy(), transforms.projective.identity.copy()
    tilt[6], shift[2] = 0.9, -2.0
    assert np.isnan(transforms.projective.compose(tilt, shift)).all()
    steps = jnp.stack([jnp.tile(tilt, (3, 1)), jnp.tile(shift, (3, 1)).at[0, 2].set(0.1)])

    def theta(steps: jax.Array) -> jax.Array:
        remaining = iter(steps)
        warp = Warp(transforms.projective)
        return warp.iterate(IMAGES, lambda images: next(remaining), 2)

    found, gradient = theta(steps), jax.grad(lambda steps: jnp.sum(theta(steps) ** 2))(steps)
    np.testing.assert_array_equal(found[1:], steps[0, 1:])
    assert np.abs(found[0] - steps[0, 0]).max() > 0.05
    assert np.isfinite(gradient).all()
    assert not gradient[1, 1:].any()


@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize(
    ("options", "error"),
    [
        ({"transform": transforms.thin_plate_spline()}, "transform must define compose"),
        ({"num_iterations": 0}, "num_iterations must be a whole number of at least 1; got 0"),
        ({"num_iterations": 1.5}, "num_iterations must be a whole number of at least 1; got 1.5"),
        ({"initial_theta": (0.0, 0.0)}, "initial_theta must be None"),
    ],
)
def test_invalid_arguments_are_rejected_by_both_apis(options: dict[str, Any], error: str) -> None:
    options = {"transform": transforms.translation} | options
    with pytest.raises(ValueError, match=error):
        linen.IterativeTransformer(linen.FCNLocalisationNetwork((4,)), **options)
    rngs = nnx.Rngs(0)
    localisation = stn_jax.nnx.FCNLocalisationNetwork((8, 8, 1), (4,), rngs=rngs)
    with pytest.raises(ValueError, match=error):
        stn_jax.nnx.IterativeTransformer(localisation, rngs=rngs, **options)
