"""The test vectors that ONNX publishes for its operators GridSample and AffineGrid."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import stn_jax
from tests import oracles

onnx = pytest.importorskip("onnx")

NODES = Path(onnx.__file__).parent / "backend" / "test" / "data" / "node"
GRID_SAMPLE = sorted(path.name for path in NODES.glob("test_gridsample*"))
AFFINE_GRID = sorted(path.name for path in NODES.glob("test_affine_grid*"))
MODES = {"linear": "bilinear", "cubic": "bicubic", "nearest": "nearest"}
# This case is stored with four decimals only.
FOUR_DECIMALS = "test_gridsample_bicubic"

SUBJECTS: dict[str, tuple[Callable[..., Any], Callable[..., Any]]] = {
    "library": (stn_jax.grid_sample, stn_jax.affine_grid),
    "oracle": (oracles.grid_sample, oracles.affine_grid),
}


def tensors(name: str, kind: str) -> list[np.ndarray]:
    """The arrays `input_0`, `input_1`, … or `output_0`, … of a published case."""
    paths = sorted((NODES / name / "test_data_set_0").glob(f"{kind}_*.pb"))
    return [
        onnx.numpy_helper.to_array(onnx.TensorProto.FromString(path.read_bytes())) for path in paths
    ]


def attributes(name: str) -> dict[str, Any]:
    (node,) = onnx.load(NODES / name / "model.onnx").graph.node
    return {a.name: onnx.helper.get_attribute_value(a) for a in node.attribute}


def test_all_published_cases_are_found() -> None:
    assert (len(GRID_SAMPLE), len(AFFINE_GRID)) == (18, 8)


@pytest.mark.parametrize("subject", SUBJECTS)
@pytest.mark.parametrize("name", GRID_SAMPLE)
def test_grid_sample_equals_onnx(name: str, subject: str) -> None:
    images, grids = tensors(name, "input")
    (expected,) = tensors(name, "output")
    given = attributes(name)
    options = {
        "mode": MODES[given.get("mode", b"linear").decode()],
        "padding_mode": given.get("padding_mode", b"zeros").decode(),
        "align_corners": bool(given.get("align_corners", 0)),
    }
    sample, _ = SUBJECTS[subject]
    for image, grid, output in zip(images, grids, expected, strict=True):
        actual = sample(jnp.asarray(np.moveaxis(image, 0, -1)), jnp.asarray(grid), **options)
        np.testing.assert_allclose(
            np.moveaxis(actual, -1, 0), output, rtol=0, atol=1e-4 if name == FOUR_DECIMALS else 1e-5
        )


@pytest.mark.parametrize("subject", SUBJECTS)
@pytest.mark.parametrize("name", AFFINE_GRID)
def test_affine_grid_equals_onnx(name: str, subject: str) -> None:
    thetas, size = tensors(name, "input")
    (expected,) = tensors(name, "output")
    # The `_expanded` cases consist of 63 nodes without this attribute, so use the name.
    corners = "align_corners" in name
    shape = tuple(int(n) for n in size[2:])
    _, affine_grid = SUBJECTS[subject]
    for theta, grid in zip(thetas, expected, strict=True):
        actual = affine_grid(jnp.asarray(theta), shape, align_corners=corners)
        np.testing.assert_allclose(actual, grid, rtol=0, atol=2e-6)


@pytest.mark.parametrize("name", ["test_affine_grid_2d", "test_affine_grid_3d_align_corners"])
def test_affine_grid_under_vmap_equals_onnx(name: str) -> None:
    thetas, size = tensors(name, "input")
    (expected,) = tensors(name, "output")
    shape, corners = tuple(int(n) for n in size[2:]), name.endswith("align_corners")
    actual = jax.vmap(lambda t: stn_jax.affine_grid(t, shape, align_corners=corners))(
        jnp.asarray(thetas)
    )
    np.testing.assert_allclose(actual, expected, rtol=0, atol=2e-6)
