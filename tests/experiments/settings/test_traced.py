"""Which configurations one program can train."""

from experiments.settings.access import replace_settings, settings_by_name
from experiments.settings.config import Config
from experiments.settings.traced import (
    TRACED_SETTINGS,
    group_by_program,
    static_config,
    traced_values,
)
from tests.experiments.settings.fields import parse


def test_traced_settings_exist() -> None:
    assert set(TRACED_SETTINGS) <= settings_by_name(Config()).keys()


def test_static_settings_need_another_program() -> None:
    base = parse("demo")
    other = parse("demo", "--transform", "affine")
    faster, seeded = (
        replace_settings(base, {"learning_rate": 3.0}),
        replace_settings(other, {"seed": 4}),
    )
    elsewhere = parse("demo", "--run-dir", "x", "--resume", "auto")
    limited = parse("demo", "--max-angle", "10")  # None is not a number of the program
    configs = [base, other, faster, limited, seeded, elsewhere]
    assert group_by_program(configs) == [[0, 2, 5], [1, 4], [3]]


def test_program_and_values_give_the_configuration_back() -> None:
    config = parse("distorted", "--seed", "3", "--sigma", "2", "--distortion", "p")
    values = traced_values(config)
    assert values.keys() <= set(TRACED_SETTINGS)
    assert replace_settings(static_config(config), values) == config
