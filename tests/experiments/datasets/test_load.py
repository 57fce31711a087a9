"""Arguments of `load`, and the modules that the package imports."""

import subprocess
import sys
from pathlib import Path

import pytest

from experiments.datasets import NAMES, DatasetError, load

ROOT = Path(__file__).parents[3]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"name": "cifar"}, f"dataset must be one of {', '.join(NAMES)}; got 'cifar'"),
        ({"name": "npz"}, "--data-file FILE"),
        ({"name": "digits", "data_file": "data.npz"}, "data_file data.npz is for dataset npz"),
        (
            {"name": "digits", "validation_size": 1297},
            "validation_size must be 0 to 1287, .*; got 1297",
        ),
        ({"name": "folder"}, r"--data-dir DIR.*DIR/train/CLASS/\* and optionally"),
        (
            {"name": "gtsrb", "data_dir": "d", "image_size": (32, 48)},
            r"image_size must be one number for dataset gtsrb, .*; got \(32, 48\)",
        ),
    ],
)
def test_invalid_argument_is_named(arguments, message):
    with pytest.raises(DatasetError, match=message):
        load(**arguments)


def test_package_imports_no_slow_modules():
    script = """
import sys
import experiments.datasets
assert not {"jax", "tensorflow", "tensorflow_datasets", "sklearn", "scipy"} & set(sys.modules)
import experiments.datasets.gtsrb.archive_builder, experiments.datasets.idx_builders
experiments.datasets.load("digits")
assert not {"jax", "tensorflow"} & set(sys.modules)
"""
    subprocess.run([sys.executable, "-c", script], check=True, cwd=ROOT)
