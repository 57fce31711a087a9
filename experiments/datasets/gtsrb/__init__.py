"""German traffic signs (Stallkamp, Schlipsing, Salmen and Igel 2011), 43 classes.

They are read from the first of these places that has them:

1. `DIR/gtsrb/*.zip`, the official archives, with `data_dir=DIR`, in any size and either aspect. The
   training archive is `GTSRB_Final_Training_Images.zip` with 39,209 images or, if that is missing,
   `GTSRB-Training_fixed.zip` with the 26,640 images of the competition's first stage;
2. `DIR/gtsrb/gtsrb_train_32x32.npz` and `gtsrb_test_32x32.npz`, the same signs squashed to 32x32;
3. without `data_dir`, the cache (see `tfds_cache`), or else the network: the final archives.

Archives come first because they are what the authors publish. The examples of the final training
set have the same order in all places. `Signs.name` names the training set that was read.
"""

from __future__ import annotations

from pathlib import Path

from experiments.datasets.dataset import DatasetError
from experiments.datasets.gtsrb import archives, resized_arrays
from experiments.datasets.gtsrb.signs import NUM_CLASSES, Signs

__all__ = ["NUM_CLASSES", "Signs", "read"]


def read(data_dir: Path | None, image_size: int, *, keep_aspect: bool) -> Signs:
    """Reads the signs, after preparing archives in the cache if needed.

    Args:
        data_dir: the folder of the user's data sets; None for the cache or the network.
        image_size: the side of the square images, in pixels.
        keep_aspect: whether images are padded to a square before they are resized, by repeating
            their edge, so that nothing is cropped or squashed.

    Raises:
        DatasetError: the signs are in none of the places, are damaged, or are not available in
            this size and aspect.
    """
    folder = None if data_dir is None else data_dir / "gtsrb"
    if folder is None or archives.OFFICIAL.any_exists_in(folder):
        # Imported here because tensorflow-datasets takes seconds to import.
        from experiments.datasets.gtsrb import archive_builder

        return archive_builder.read(
            folder, image_size, keep_aspect=keep_aspect, how_to_get=_how_to_get()
        )
    if resized_arrays.any_exists_in(folder):
        return resized_arrays.read(folder, image_size, keep_aspect=keep_aspect)
    raise DatasetError(
        f"gtsrb: {folder} holds neither archives nor arrays; {_how_to_get()}, or omit --data-dir "
        "to download them"
    )


def _how_to_get() -> str:
    """The part of an error that names the supported places of the data set."""
    return (
        "pass --data-dir DIR with the official archives in DIR/gtsrb/ "
        f"({archives.OFFICIAL.description}) or with the arrays "
        f"{' and '.join(resized_arrays.FILES.values())} there"
    )
