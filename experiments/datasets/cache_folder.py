"""The folder for prepared and downloaded data sets, which all runs of a user share.

It is `TFDS_DATA_DIR` or else `~/tensorflow_datasets`, the default of tensorflow-datasets.
"""

from __future__ import annotations

import os
from pathlib import Path

from experiments.datasets.dataset import DatasetError
from experiments.settings.errors import UserError
from experiments.settings.machine import expand_user


def cache_dir() -> Path:
    """Returns the folder for prepared and downloaded data sets.

    Raises:
        DatasetError: the folder is in a home directory that is not known.
    """
    folder = os.environ.get("TFDS_DATA_DIR") or "~/tensorflow_datasets"
    try:
        return expand_user(folder)
    except UserError as error:
        raise DatasetError(
            f"{error}, of a folder for prepared data sets, as TFDS_DATA_DIR"
        ) from error
