"""Frames are the points on the input that transformers sample."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import stn_jax
from experiments.analysis.frames import MESH_SHAPE, frame_grids, input_frames
from experiments.settings.config import Model
from stn_jax import transforms

A = [0.8, 0.1, 0.2, -0.1, 0.9, -0.3]
B = [0.5, -0.2, 0.1, 0.3, 0.6, 0.2]
THETAS = {"transformer_0": [A, B], "transformer_1": [B, B]}


def square(theta: list[float]) -> np.ndarray:
    return np.vstack([np.reshape(theta, (2, 3)), [0, 0, 1]])


def warped(matrix: np.ndarray, points: np.ndarray) -> np.ndarray:
    return points @ matrix[:2, :2].T + matrix[:2, 2]


def sampled(theta: jax.Array, transform: transforms.Transform) -> jax.Array:
    """The points of a mesh that ends at the edges of the output."""
    return stn_jax.transform_grid(theta, transform, MESH_SHAPE, align_corners=True)


def grids(placement: str, transformers: int = 2) -> dict[str, np.ndarray]:
    settings = Model("st_fcn", placement=placement, transformers=transformers)
    return {name: np.asarray(grid) for name, grid in frame_grids(settings, THETAS).items()}


def test_grids_in_series_are_warped_by_the_transformers_before() -> None:
    mesh = np.asarray(sampled(transforms.affine.identity, transforms.affine))
    found = grids("series")
    assert list(found) == ["transformer_0", "transformer_1"]
    np.testing.assert_allclose(found["transformer_0"][0], warped(square(A), mesh), atol=1e-6)
    # The second samples the output of the first at B, which is the input at A of B.
    composed = warped(square(A) @ square(B), mesh)
    np.testing.assert_allclose(found["transformer_1"][0], composed, atol=1e-6)
    np.testing.assert_allclose(
        found["transformer_1"][1], warped(square(B) @ square(B), mesh), atol=1e-6
    )


def test_grids_in_parallel_are_independent() -> None:
    series, parallel = grids("series"), grids("parallel")
    np.testing.assert_array_equal(parallel["transformer_0"], series["transformer_0"])
    np.testing.assert_array_equal(parallel["transformer_1"][1], parallel["transformer_0"][1])


def test_only_transformers_on_the_input_have_grids() -> None:
    assert list(grids("input", 1)) == ["transformer_0"]
    assert list(grids("between")) == ["transformer_0"]


@pytest.mark.parametrize(
    ("placement", "names"),
    [
        ("series", ["transformer_1"]),
        ("parallel", ["transformer_0", "transformer_1"]),
        ("between", ["transformer_0"]),
    ],
)
def test_frames_sample_the_points_of_the_grids(placement: str, names: list[str]) -> None:
    settings = Model("st_fcn", placement=placement, transformers=2)
    intermediates = {
        name: {"theta": jnp.float32(theta), "output": jnp.zeros((2, 5, 4 + i, 1))}
        for i, (name, theta) in enumerate(THETAS.items())
    }
    frames = input_frames(settings, intermediates)
    assert [frame.output_shape for frame in frames] == [(5, 4 + int(name[-1])) for name in names]
    for frame, name in zip(frames, names, strict=True):
        for theta, grid in zip(frame.theta, grids(placement)[name], strict=True):
            points = sampled(theta, frame.transform)
            np.testing.assert_allclose(points, grid, atol=1e-6)


def test_grids_of_a_user_defined_family_need_only_its_warp(
    write_module: Callable[..., str],
) -> None:
    settings = Model(transform=f"{write_module()}:shear", placement="series", transformers=2)
    thetas = {"transformer_0": [[0.5], [0.0]], "transformer_1": [[0.25], [-0.5]]}
    found = frame_grids(settings, thetas)
    identity = transforms.affine.identity
    mesh = stn_jax.transform_grid(identity, transforms.affine, MESH_SHAPE, align_corners=True)
    x, y = np.moveaxis(np.asarray(mesh), -1, 0)
    for name, amounts in {"transformer_0": [0.5, 0.0], "transformer_1": [0.75, -0.5]}.items():
        for grid, amount in zip(found[name], amounts, strict=True):
            np.testing.assert_allclose(grid, np.stack([x + amount * y, y], axis=-1), atol=1e-6)


def test_networks_without_a_transformer_do_not_import_its_family() -> None:
    assert frame_grids(Model("fcn", transform="no_such:shear"), {}) == {}
