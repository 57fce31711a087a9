"""Failed runs are recognised from their records, and runs that have learned are not."""

import dataclasses
from typing import Any

import numpy as np
import pytest

from experiments.analysis.failed_runs import explain_failure, majority_share
from experiments.settings.command_line import parse
from experiments.settings.config import Config, Data

TEN_CLASSES = np.arange(200) % 10
UNBALANCED = np.array([0] * 95 + [1] * 5)


def config(*arguments: str) -> Config:
    return parse(["demo", *arguments], "train").config


def record(**values: Any) -> list[dict[str, Any]]:
    """Records of a run that had learned before its last epoch."""
    last = {"epoch": 2, "validation_error": 3.0, "train_error": 2.0, "outside": 0.1} | values
    return [{"epoch": 1, "validation_error": 90.0, "outside": 0.9}, last]


@pytest.mark.parametrize(
    ("labels", "error"),
    [
        (TEN_CLASSES, 90.0),
        (TEN_CLASSES, 88.0),
        (TEN_CLASSES, 100.0),
        (UNBALANCED, 5.0),
        (UNBALANCED, 4.7),
        (np.arange(20) % 2, 50.0),
    ],
)
def test_run_at_the_level_of_chance_is_explained(labels: np.ndarray, error: float) -> None:
    records = record(validation_error=error, train_error=error)
    (line,) = explain_failure(config(), labels, records)
    chance = 100 * (1 - majority_share(labels, Data()))
    assert line.startswith(
        f"the run ended at the level of chance: its validation error is {error:.1f} %, and always "
        f"predicting the most frequent class gives {chance:.1f} %; try --learning-rate 0.0005, "
    )
    assert "--localisation-lr 0.0005" in line
    assert "\n" not in line


@pytest.mark.parametrize(
    ("labels", "values"),
    [
        (TEN_CLASSES, {}),
        (TEN_CLASSES, {"validation_error": 80.0}),  # after few epochs
        (TEN_CLASSES, {"outside": 0.5}),
        (TEN_CLASSES, {"outside": None}),
        (UNBALANCED, {"validation_error": 3.0}),
        (TEN_CLASSES[:4], {"validation_error": 100.0}),  # too few to tell
        (TEN_CLASSES[:0], {"validation_error": None}),
        (np.zeros(50, int), {"validation_error": 0.0}),  # one class
    ],
)
def test_run_that_has_learned_is_not_explained(labels: np.ndarray, values: dict[str, Any]) -> None:
    assert explain_failure(config(), labels, record(**values)) == []


@pytest.mark.parametrize(
    ("arguments", "tries"),
    [
        ([], "--localisation-lr 0.0005, --warmup 1 or --clip-norm 1"),
        (
            ["--localisation-lr", "1e-3", "--warmup", "2.5", "--clip-norm", "2"],
            "--localisation-lr 0.00025, --warmup 3 or --clip-norm 0.5",
        ),
        (["--epochs", "1"], "--localisation-lr 0.0005 or --clip-norm 1"),
    ],
)
def test_run_that_left_the_image_is_explained(arguments: list[str], tries: str) -> None:
    found = explain_failure(config(*arguments), TEN_CLASSES, record(outside=0.873))
    assert found == [f"87 % of the transformer's samples are outside the image; try {tries}"]


def test_both_failures_are_two_lines() -> None:
    records = record(outside=1.0, validation_error=90.0, train_error=90.0)
    assert len(explain_failure(config(), TEN_CLASSES, records)) == 2


def test_suggested_settings_are_valid() -> None:
    records = record(outside=1.0, validation_error=90.0, train_error=90.0)
    for line in explain_failure(config(), TEN_CLASSES, records):
        tries = line.partition("; try ")[2].partition(";")[0].replace(" or ", ", ").split(", ")
        for each in tries:
            parse(["demo", *each.split()], "train")


def test_network_that_does_not_generalise_has_other_suggestions() -> None:
    records = record(validation_error=90.0, train_error=1.0)
    (line,) = explain_failure(config(), TEN_CLASSES, records)
    assert "the training error is 1.0 %" in line
    assert "--learning-rate" not in line


def test_suggestions_for_plain_networks_name_no_localisation_network() -> None:
    plain = config("--model", "cnn")
    (line,) = explain_failure(plain, TEN_CLASSES, record(validation_error=90.0, train_error=90.0))
    assert "localisation" not in line
    assert "--learning-rate" in line


def test_majority_of_sums_is_that_of_random_pairs() -> None:
    data = dataclasses.replace(Data(), task="add")
    assert majority_share(TEN_CLASSES, data) == pytest.approx(0.1)  # a sum of 9
    assert majority_share(np.array([0, 0, 0, 1]), data) == pytest.approx(9 / 16)


def test_run_without_records_is_not_explained() -> None:
    assert explain_failure(config(), TEN_CLASSES, []) == []
