"""The front door: arguments, and what importing it costs."""

import subprocess
import sys
from pathlib import Path

import pytest

from experiments.datasets import NAMES, DatasetError, load

ROOT = Path(__file__).parents[3]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"name": "cifar"}, f"dataset 'cifar' is not known; expected one of {', '.join(NAMES)}"),
        ({"name": "npz"}, "--data-file FILE"),
        ({"name": "digits", "data_file": "own.npz"}, "data_file own.npz is for dataset npz"),
        ({"name": "digits", "validation_size": 1297}, "validation_size is 1297"),
    ],
)
def test_wrong_arguments(arguments, message):
    with pytest.raises(DatasetError, match=message):
        load(**arguments)


def test_nothing_heavy_is_imported():
    script = """
import sys
import experiments.datasets
assert not {"jax", "tensorflow", "tensorflow_datasets", "sklearn", "scipy"} & set(sys.modules)
import experiments.datasets.arrays, experiments.datasets.builders
experiments.datasets.load("digits")
assert not {"jax", "tensorflow"} & set(sys.modules)
"""
    subprocess.run([sys.executable, "-c", script], check=True, cwd=ROOT)
