"""Recognises finished runs that have failed, and suggests what to try. Imports no jax."""

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from experiments.settings.config import Config, Data
from experiments.settings.relations import has_effect

MAX_OUTSIDE = 0.5  # with a larger share of samples outside, a transformer has left the image
MIN_EXAMPLES = 20  # fewer validation examples do not distinguish a good network from chance
# An accuracy is at the level of chance if it is above it by no more than this share of what could
# be gained, and by no more than two standard errors.
_MAX_GAIN = 0.1


def explain_failure(
    config: Config, validation_labels: np.ndarray, records: Sequence[Mapping[str, Any]]
) -> list[str]:
    """Explains why a finished run has failed, and what to try.

    A run has failed if most samples of its transformers are outside the image, or if its validation
    error is not better than that of always predicting the most frequent class.

    Args:
        config: of the run.
        validation_labels: the stored labels of the validation split.
        records: the lines of `metrics.jsonl`.

    Returns:
        A line for each sign of failure; empty for a run that has learned.
    """
    if not records:
        return []
    last = records[-1]
    return [
        *_explain_outside(config, last),
        *_explain_chance(config, validation_labels, last),
    ]


def majority_share(labels: np.ndarray, data: Data) -> float:
    """The accuracy of always predicting the most frequent class.

    Args:
        labels: the stored labels, at least one.
        data: the settings of the task. The labels of sums are those of random pairs.
    """
    shares = np.bincount(labels) / len(labels)
    if data.task == "add":
        shares = np.convolve(shares, shares)
    return float(shares.max())


def _explain_outside(config: Config, last: Mapping[str, Any]) -> Iterator[str]:
    outside = last.get("outside")
    if outside is None or outside <= MAX_OUTSIDE:
        return
    optimisation, tries = config.optimisation, [_lower_localisation_lr(config)]
    warmup = math.floor(optimisation.warmup) + 1
    if warmup < optimisation.epochs:
        tries.append(f"--warmup {warmup}")
    tries.append(
        f"--clip-norm {1 if optimisation.clip_norm is None else optimisation.clip_norm / 4:g}"
    )
    yield (
        f"{100 * outside:.0f} % of the transformer's samples are outside the image; "
        f"try {_join(tries)}"
    )


def _explain_chance(config: Config, labels: np.ndarray, last: Mapping[str, Any]) -> Iterator[str]:
    error = last.get("validation_error")
    if error is None or len(labels) < MIN_EXAMPLES:
        return
    chance = majority_share(labels, config.data)
    margin = 2 * math.sqrt(chance * (1 - chance) / len(labels))
    if chance == 1 or 1 - error / 100 > chance + min(margin, _MAX_GAIN * (1 - chance)):
        return
    yield (
        f"the run ended at the level of chance: its validation error is {error:.1f} %, and "
        f"always predicting the most frequent class gives {100 * (1 - chance):.1f} %; "
        f"{_remedy(config, last.get('train_error'), chance)}"
    )


def _remedy(config: Config, train_error: float | None, chance: float) -> str:
    """What to try after a run at the level of chance."""
    if train_error is not None and train_error / 100 < (1 - chance) / 2:
        return (
            f"the training error is {train_error:.1f} %: check that the validation images are like "
            "the training images, use more of these, or augment them (--augment-angle, ...)"
        )
    optimisation = config.optimisation
    tries = [
        f"--learning-rate {optimisation.learning_rate / 4:.3g}",
        f"--epochs {2 * optimisation.epochs}",
    ]
    if has_effect(config, "localisation_lr"):
        tries.append(_lower_localisation_lr(config))
    return f"try {_join(tries)}; check that the labels fit the images in figures/images.png"


def _lower_localisation_lr(config: Config) -> str:
    optimisation = config.optimisation
    own = optimisation.localisation_lr
    return f"--localisation-lr {(optimisation.learning_rate if own is None else own) / 4:.3g}"


def _join(tries: Sequence[str]) -> str:
    return f"{', '.join(tries[:-1])} or {tries[-1]}"
