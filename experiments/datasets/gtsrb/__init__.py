"""German traffic signs (Stallkamp, Schlipsing, Salmen and Igel 2011), 43 classes.

They come from the first of these that there is:

1. `DIR/gtsrb/*.zip`, the official archives, with `data_dir=DIR`: any size, either aspect. The
   training archive is `GTSRB_Final_Training_Images.zip` with 39,209 images, also where both are, or
   else `GTSRB-Training_fixed.zip`, the first stage's 26,640;
2. `DIR/gtsrb/gtsrb_train_32x32.npz` and `gtsrb_test_32x32.npz`, the same signs squashed to 32x32;
3. without `data_dir`, the cache (see `cache`), and else the network, as the final archives.

Archives come first, being what the authors published. The final examples stand in the same order in
all; `Signs.name` says which training set was read.
"""

from __future__ import annotations

from pathlib import Path

from experiments.datasets.dataset import DatasetError
from experiments.datasets.gtsrb import archives, compact
from experiments.datasets.gtsrb.signs import NUM_CLASSES, Signs

__all__ = ["NUM_CLASSES", "Signs", "read"]


def read(data_dir: Path | None, image_size: int, *, keep_aspect: bool) -> Signs:
    """Reads the signs, after preparing them in the cache where archives need that.

    Args:
        data_dir: where the user has them; None for the cache or the network.
        image_size: side of the square images, in pixels.
        keep_aspect: whether images are padded to a square before they are resized, by repeating
            their edge, so that nothing is cut off or squashed.

    Raises:
        DatasetError: they are in none of the places, are damaged, or are not to be had like that.
    """
    folder = None if data_dir is None else data_dir / "gtsrb"
    if folder is None or archives.OFFICIAL.any_in(folder):
        # tensorflow-datasets takes seconds to import.
        from experiments.datasets.gtsrb import builder

        return builder.read(folder, image_size, keep_aspect=keep_aspect, how_to_get=_how_to_get())
    if compact.any_in(folder):
        return compact.read(folder, image_size, keep_aspect=keep_aspect)
    raise DatasetError(
        f"gtsrb: {folder} holds neither archives nor arrays; {_how_to_get()}, or leave --data-dir "
        "out to download them"
    )


def _how_to_get() -> str:
    return (
        "pass --data-dir DIR with the official archives in DIR/gtsrb/ "
        f"({archives.OFFICIAL.in_words}) or with the arrays {' and '.join(compact.FILES.values())} "
        "there"
    )
