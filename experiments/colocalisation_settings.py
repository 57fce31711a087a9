"""What can be set about the paper's co-localisation. No JAX here."""

import dataclasses
from collections.abc import Mapping
from typing import Any, Literal


@dataclasses.dataclass(frozen=True)
class Settings:
    """What can be set about a co-localisation.

    Attributes:
        distortion: t places digits at random; tc adds clutter.
        dataset: digits is embedded; mnist is downloaded, or taken from `data_dir`.
        data_dir: as of `experiments.datasets.load`.
        split: where the images are from.
        images: of each digit.
        encoder_epochs: passes of the encoder over the training split.
        encoder_learning_rate: its peak learning rate.
        epochs: passes of the localisation networks over their images.
        batch_size: images a step; all pairs of a batch are compared.
        learning_rate: the localisation networks' peak learning rate.
        seed: of everything that is drawn, the images included.
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


BUDGETS: Mapping[str, Settings] = {
    "quick": Settings(dataset="digits", images=10, encoder_epochs=2, epochs=4, batch_size=10),
    "standard": Settings(),
    "paper": Settings(encoder_epochs=20, epochs=1000),
}


def differences(recorded: Mapping[str, Any], settings: Settings) -> list[str]:
    """What differs of recorded settings, but for where data lie."""
    return [
        f"{name} {recorded.get(name)} against {value}"
        for name, value in dataclasses.asdict(settings).items()
        if name != "data_dir" and recorded.get(name) != value
    ]
