"""The settings of the paper's co-localisation. Imports no JAX."""

import dataclasses
from collections.abc import Mapping
from typing import Any, Literal

from experiments.settings.conversion import differences


@dataclasses.dataclass(frozen=True)
class ColocalisationSettings:
    """The settings of a co-localisation.

    Attributes:
        distortion: t places digits at random; tc adds clutter.
        dataset: digits is embedded; mnist is downloaded, or taken from `data_dir`.
        data_dir: as for `experiments.datasets.load`.
        split: the split that the images come from.
        images: the number of images of each digit.
        encoder_epochs: passes of the encoder over the training split.
        encoder_learning_rate: the peak learning rate of the encoder.
        epochs: passes of the localisation networks over their images.
        batch_size: images per step; the loss compares all pairs of a batch.
        learning_rate: the peak learning rate of the localisation networks.
        seed: of all random choices, including that of the images.
    """

    distortion: Literal["t", "tc"] = "tc"
    dataset: Literal["digits", "mnist"] = "mnist"
    data_dir: str | None = None
    split: Literal["validation", "test"] = "test"
    images: int = 100
    encoder_epochs: int = 3
    encoder_learning_rate: float = 2e-3
    epochs: int = 120
    batch_size: int = 50
    learning_rate: float = 2e-3
    seed: int = 0


BUDGETS: Mapping[str, ColocalisationSettings] = {
    "quick": ColocalisationSettings(
        dataset="digits", images=10, encoder_epochs=2, epochs=4, batch_size=10
    ),
    "standard": ColocalisationSettings(),
    "paper": ColocalisationSettings(encoder_epochs=20, epochs=1000),
}


def colocalisation_differences(
    recorded: Mapping[str, Any], requested: ColocalisationSettings
) -> list[str]:
    """Lists the settings that differ, except for the location of the data."""
    both = [dict(recorded), dataclasses.asdict(requested)]
    for settings in both:
        settings.pop("data_dir", None)
    return differences(*both)
