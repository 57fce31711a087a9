"""Projections of volumes, and their localisation network at low resolution."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from stn_jax import transforms
from stn_jax.linen import (
    FCN,
    FCNLocalisationNetwork,
    Projection,
    SpatialTransformer,
    SpatialTransformerNetwork,
    VolumeLocalisationNetwork,
)
from tests.linen.initialise import init

VOLUMES = jax.random.normal(jax.random.key(0), (2, 6, 5, 7, 3))


def test_projection_sums_along_the_depth() -> None:
    found, vjp = jax.vjp(lambda volumes: Projection().apply({}, volumes), VOLUMES)
    np.testing.assert_allclose(found, np.asarray(VOLUMES).sum(axis=1), rtol=1e-5, atol=1e-6)
    ones = jnp.ones_like(found)
    np.testing.assert_array_equal(vjp(ones)[0], 1)


def test_initial_view_is_from_the_front() -> None:
    transformer = SpatialTransformer(
        VolumeLocalisationNetwork((4,), downsample=2), transforms.affine_3d
    )
    network = SpatialTransformerNetwork((transformer, Projection(), FCN(3, (5,))))
    fixed = SpatialTransformerNetwork((Projection(), FCN(3, (5,))))
    variables = init(network, VOLUMES)
    logits, found = jax.jit(network.apply)(variables, VOLUMES)
    assert found["transformer_0"]["theta"].shape == (2, 12)
    shared = {"stages_1": variables["params"]["stages_2"]}
    np.testing.assert_allclose(
        logits, jax.jit(fixed.apply)({"params": shared}, VOLUMES)[0], rtol=1e-5
    )


def test_localisation_network_receives_sums_over_depth_of_means() -> None:
    module = VolumeLocalisationNetwork((4,), downsample=2)
    variables = init(module, VOLUMES)
    whole = np.asarray(VOLUMES)[:, :, :4, :6]  # drops the last row and column
    cells = whole.reshape(2, 3, 2, 2, 2, 3, 2, 3).sum(axis=2).mean(axis=(3, 5))
    dense = {"params": variables["params"]["FCNLocalisationNetwork_0"]}
    expected = FCNLocalisationNetwork((4,)).apply(dense, jnp.asarray(cells))
    np.testing.assert_allclose(module.apply(variables, VOLUMES), expected, atol=1e-5)


@pytest.mark.parametrize("shape", [(2, 6, 5, 7), (2, 3, 5, 7, 1)])
def test_invalid_volume_shape_raises(shape: tuple[int, ...], unchecked: None) -> None:
    volumes = jnp.zeros(shape)
    with pytest.raises(ValueError, match=r"volumes must have shape \[b, d, h, w, c\], d, h and w"):
        VolumeLocalisationNetwork(downsample=4).init(jax.random.key(0), volumes)
    if len(shape) != 5:
        with pytest.raises(ValueError, match=r"volumes must have shape \[b, d, h, w, c\]; got"):
            Projection().apply({}, volumes)
