"""Exported functions equal those of the loaded network, for any number of images."""

import pathlib

import chex
import jax
import numpy as np
import pytest
from flax import traverse_util
from safetensors.numpy import load

from experiments.analysis.exported_model import PLATFORMS, describe_model, export_model
from experiments.analysis.loaded_model import LoadedModel
from tests.experiments.analysis.small_models import NETWORK, random_images, small_model
from tests.experiments.conftest import save_npz

# The annotations of the library say int where an exported batch has a symbol.
pytestmark = pytest.mark.usefixtures("unchecked")

SPLINES = "gtsrb --model st_compact --features 2 2 2 4 --transform thin_plate_spline"
SPLINES += " --control-points 2 3 --regularisation 0.1 --align-corners --placement between"
SPLINES += " --transformers 2 --normalisation local --output-size 32"


def check_export(model: LoadedModel, *numbers: int) -> None:
    """Compares exported functions with the methods of the network, for numbers of images."""
    files = export_model(model)
    artefacts = {
        name.removesuffix(".jax_export"): jax.export.deserialize(bytearray(content))
        for name, content in files.items()
        if name.endswith(".jax_export")
    }
    functions = ("predict", "warp") if model.transforms else ("predict",)
    assert artefacts.keys() == {f"{f}_{dtype}" for f in functions for dtype in model.image_dtypes}
    params = load(files["params.safetensors"])
    nested = traverse_util.unflatten_dict(params, sep="/")
    chex.assert_trees_all_equal(nested, jax.device_get(model.arrays))
    for name, artefact in artefacts.items():
        assert artefact.platforms == PLATFORMS
        function, dtype = name.split("_")
        for number in numbers:
            images = random_images(model, number, dtype)
            found = jax.jit(artefact.call)(params, images)
            if function == "predict":
                expected = model.predict(images)
            else:
                expected = model.theta(images), model.straighten(images)
            assert jax.tree.structure(found) == jax.tree.structure(expected)
            for one, other in zip(jax.tree.leaves(found), jax.tree.leaves(expected), strict=True):
                assert one.dtype == other.dtype
                np.testing.assert_allclose(one, other, rtol=1e-6, atol=1e-6)


def test_exported_functions_equal_those_of_the_loaded_network(data_file: pathlib.Path) -> None:
    """A network of two transformers side by side, trained on digits on a larger canvas."""
    flags = f"{NETWORK} --distortion rts --canvas 12 --placement parallel --transformers 2"
    check_export(small_model(data_file, flags), 1, 7)


def test_network_without_transformer_exports_no_warp(data_file: pathlib.Path) -> None:
    check_export(small_model(data_file, "demo --model fcn --features 8"), 3)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("shape", "dtype", "flags"),
    [
        ((9, 9), np.float32, f"{NETWORK} --transform projective"),
        ((9, 9), np.uint8, f"{NETWORK} --precision bfloat16 --transform similarity"),
        ((9, 9), np.uint8, f"{NETWORK} --placement series --transformers 2 --mode bicubic"),
        ((9, 9), np.uint8, f"{NETWORK} --task add --distortion r --padding-mode reflection"),
        ((28, 28), np.uint8, "tutorial"),
        ((32, 32, 3), np.uint8, SPLINES),
        ((9, 9), np.uint8, "projection3d --canvas 10 --features 2 2 --transform rigid_3d"),
        ((9, 9), np.uint8, "projection3d --canvas 24 --features 2 2 --model projection_cnn"),
    ],
)
def test_every_kind_of_network_is_exported(
    shape: tuple[int, ...], dtype: type, flags: str, tmp_path: pathlib.Path
) -> None:
    check_export(small_model(save_npz(tmp_path / "data.npz", shape, dtype), flags), 2)


def test_description_names_classes_images_and_transformations(data_file: pathlib.Path) -> None:
    found = describe_model(small_model(data_file, f"{NETWORK} --output-size 6"))
    assert found["class_names"] == ("0", "1", "2")
    assert found["image_shape"] == (9, 9, 1)
    assert found["image_dtypes"] == ("uint8", "float32")
    assert found["versions"]["jax"] == jax.__version__
    assert found["frames"] == [
        {
            "transform": "rotation",
            "in_series": 1,
            "align_corners": False,
            "network_input_shape": (9, 9),
            "network_output_shape": (6, 6),
        }
    ]
