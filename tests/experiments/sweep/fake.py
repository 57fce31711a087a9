"""A worker whose networks are a formula: `python -m tests.experiments.sweep.fake ARGUMENTS`.

It imports no JAX. The environment variable EPOCH_SECONDS is the duration of an epoch, and
MISSED_HEARTBEATS replaces that constant.
"""

import math
import os
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

from experiments.settings.config import Config
from experiments.sweep import storage
from experiments.sweep.__main__ import main


class FakeResult(NamedTuple):
    validation_error: float
    epochs: int
    num_params: int
    diverged_at: int | None
    seconds: float


def error(config: Config, epoch: int) -> float:
    """Smallest at a learning rate of 0.01; NaN for odd seeds with a learning rate above 1."""
    rate, seed = config.optimisation.learning_rate, config.optimisation.seed
    if rate > 1 and seed % 2:
        return math.nan
    return 10 * abs(math.log10(rate) + 2) + seed % 3 + 60 / (epoch + 1)


def train(
    configs: Sequence[Config],
    *,
    strategy: str,
    on_epoch: Callable[[int, Sequence[Mapping[str, float] | None]], Sequence[bool]],
) -> list[FakeResult]:
    active, epochs = [True] * len(configs), [0] * len(configs)
    for epoch in range(1, configs[0].optimisation.epochs + 1):
        time.sleep(float(os.environ.get("EPOCH_SECONDS", "0")))
        records = [
            {"validation_error": error(config, epoch), "validation_loss": 1.0} if trains else None
            for config, trains in zip(configs, active, strict=True)
        ]
        epochs = [epoch if trains else last for trains, last in zip(active, epochs, strict=True)]
        answers = on_epoch(epoch, records)
        active = [trains and answer for trains, answer in zip(active, answers, strict=True)]
        if not any(active):
            break
    return [
        FakeResult(error(config, last), last, 7, None, 0.5)
        for config, last in zip(configs, epochs, strict=True)
    ]


if __name__ == "__main__":
    missed = os.environ.get("MISSED_HEARTBEATS")
    storage.MISSED_HEARTBEATS = int(missed or storage.MISSED_HEARTBEATS)
    sys.exit(main(make_trainer=lambda run: train))
