"""A worker whose networks are a formula: `python -m tests.experiments.sweeps.fake ARGUMENTS`.

It imports no JAX. The environment variable EPOCH_SECONDS says how long an epoch takes.
"""

import math
import os
import sys
import time
from collections.abc import Sequence
from typing import NamedTuple

from experiments import sweep
from experiments.config import Config


class Result(NamedTuple):
    validation_error: float
    epochs: int
    num_params: int
    diverged_at: int | None
    seconds: float


def error(config: Config, epoch: int) -> float:
    """Smallest at a learning rate of 0.01; with one above 1 every odd seed diverges."""
    rate, seed = config.optimisation.learning_rate, config.optimisation.seed
    if rate > 1 and seed % 2:
        return math.nan
    return 10 * abs(math.log10(rate) + 2) + seed % 3 + 60 / (epoch + 1)


def train(configs: Sequence[Config], *, how: str, on_epoch) -> list[Result]:
    going, epochs = [True] * len(configs), [0] * len(configs)
    for epoch in range(1, configs[0].optimisation.epochs + 1):
        time.sleep(float(os.environ.get("EPOCH_SECONDS", "0")))
        records = [
            {"validation_error": error(config, epoch), "validation_loss": 1.0} if goes else None
            for config, goes in zip(configs, going, strict=True)
        ]
        epochs = [epoch if goes else done for goes, done in zip(going, epochs, strict=True)]
        answers = on_epoch(epoch, records)
        going = [goes and answer for goes, answer in zip(going, answers, strict=True)]
        if not any(going):
            break
    return [
        Result(error(config, done), done, 7, None, 0.5)
        for config, done in zip(configs, epochs, strict=True)
    ]


if __name__ == "__main__":
    sweep._trainer = lambda run: train
    sys.exit(sweep.main())
