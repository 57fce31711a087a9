"""The cells of the tables: names, settings, sizes and selection."""

import collections
import json
import pathlib

import jax
import numpy as np
import pytest

from experiments.colocalisation.options import ColocalisationSettings
from experiments.datasets import Dataset, Split
from experiments.paper import published_errors
from experiments.paper.cells import Budget, Cell, fingerprint
from experiments.paper.registry import TABLES, TableName, all_cells, select_cells
from experiments.settings.access import replace_settings
from experiments.settings.config import Config
from experiments.settings.errors import ConfigError
from experiments.training.experiment import assemble_experiment, count_params, initial_state

BUDGETS = ("quick", "standard", "paper")
RESULTS = pathlib.Path(__file__).parents[3] / "experiments" / "results"


def cells_of(table: TableName, budget: Budget = "standard") -> list[Cell]:
    return TABLES[table].make_cells(budget)


def config_of(cell: Cell) -> Config:
    assert isinstance(cell.config, Config)
    return cell.config


@pytest.mark.parametrize("budget", BUDGETS)
def test_names_identify_cells(budget: Budget) -> None:
    for table in TABLES:
        names = [cell.name for cell in cells_of(table, budget)]
        assert len(set(names)) == len(names)
    found: dict[str, Cell] = {}
    for cell in all_cells(budget):
        assert found.setdefault(cell.name, cell) == cell


def test_table1_is_complete() -> None:
    found = {(cell.model, cell.transform, cell.distortion): cell for cell in cells_of("table1")}
    assert len(found) == 40
    assert found.keys() == published_errors.TABLE1.keys()
    assert all(cell.published == published_errors.TABLE1[key] for key, cell in found.items())


def test_fingerprint_depends_on_settings_but_not_on_locations_and_seeds() -> None:
    cell = cells_of("table1")[0]
    same = replace_settings(config_of(cell), {"seed": 3, "data_dir": "elsewhere"})
    other = replace_settings(config_of(cell), {"epochs": 7})
    found = [fingerprint(cell._replace(config=each)) for each in (same, other)]
    assert found[0] == fingerprint(cell) != found[1]
    assert len({fingerprint(each) for each in cells_of("colocalisation")}) == 2


@pytest.mark.parametrize("table", TABLES)
def test_recorded_results_have_the_fingerprints_of_their_cells(table: TableName) -> None:
    fingerprints = {cell.name: fingerprint(cell) for cell in cells_of(table)}
    for entry in json.loads((RESULTS / f"{table}.json").read_text())["cells"]:
        assert entry["settings"] in (None, fingerprints[entry["name"]]), entry["name"]


def test_settings_agree_with_model_transform_and_distortion() -> None:
    for cell in all_cells("standard"):
        config = cell.config
        if isinstance(config, ColocalisationSettings):
            assert config.distortion == cell.distortion
            continue
        count, _, model = cell.model.rpartition("x_")
        assert config.model.model == model
        assert config.data.distortion == cell.distortion
        assert config.model.transformers == int(count or 1)
        if cell.transform is not None:
            assert config.model.transform == cell.transform


@pytest.mark.parametrize("table", ["table1", "addition", "transforms", "ours", "ablations"])
def test_budget_paper_trains_for_150000_steps(table: TableName) -> None:
    for cell in cells_of(table, "paper"):
        settings = config_of(cell).optimisation
        steps = settings.epochs * (55_000 // settings.batch_size)
        assert steps == pytest.approx(150_000, rel=1e-2)


def select_one(table: TableName, pattern: str) -> Cell:
    (cell,) = select_cells(table, "standard", [pattern])
    return cell


def test_table1_trains_fully_connected_networks_longer_than_transforms() -> None:
    for distortion, epochs in {"r": 180, "rts": 180, "p": 180, "e": 60, "tc": 120}.items():
        longer = select_one("table1", f"{distortion}-st_fcn-affine")
        short = select_one("transforms", f"{distortion}-st_fcn-affine*")
        assert config_of(longer).optimisation.epochs == epochs
        assert config_of(short).optimisation.epochs == 60
        # Cells share a name if and only if they share all settings.
        assert (longer.name == short.name) is (longer.config == short.config)


def test_longer_training_changes_only_rates_epochs_and_bending() -> None:
    expected = {"r": (180, 0.7), "rts": (180, 0.7), "p": (180, 0.0), "tc": (120, 0.7)}
    for network in ("fcn", "st_fcn-affine"):
        for distortion, (epochs, sigma) in expected.items():
            longer = select_one("table1", f"{distortion}-{network}")
            short = config_of(select_one("transforms", f"{distortion}-{network}-short"))
            changed = {"epochs": epochs, "learning_rate": 1e-3, "augment_sigma": sigma}
            rate = short.optimisation.localisation_lr
            changed |= {"localisation_lr": rate and rate / 2}
            assert longer.config == replace_settings(short, changed)


@pytest.mark.parametrize("budget", ["quick", "paper"])
def test_other_budgets_train_equally_long_in_all_tables(budget: Budget) -> None:
    table1 = cells_of("table1", budget)
    shared = [cell for cell in cells_of("transforms", budget) if cell in table1]
    assert len(shared) == 20


def num_params(cell: Cell) -> int:
    shape, classes = ((32, 32, 3), 43) if cell.name.startswith("gtsrb") else ((28, 28, 1), 10)
    images = np.random.default_rng(0).integers(0, 256, (2, *shape), np.uint8)
    split = Split(images, np.zeros(2, np.int32))
    config = replace_settings(config_of(cell), {"batch_size": 2})
    experiment = assemble_experiment(config, Dataset("any", split, split, split, classes))
    return count_params(jax.eval_shape(lambda: initial_state(experiment)).params)


@pytest.mark.slow
def test_networks_of_a_kind_have_equally_many_parameters() -> None:
    found = collections.defaultdict(list)
    for cell in cells_of("table1"):
        found[cell.model.removeprefix("st_"), cell.distortion].append(num_params(cell))
    for cell in cells_of("gtsrb"):
        found["signs", "none"].append(num_params(cell))
    assert len(found) == 11
    for counts in found.values():
        assert max(counts) <= 1.02 * min(counts)


def test_ours_has_at_most_150000_parameters() -> None:
    with_transformer = [cell for cell in cells_of("ours") if cell.transform]
    assert [cell.distortion for cell in with_transformer] == list(published_errors.DISTORTIONS)
    assert all(num_params(cell) <= 150_000 for cell in with_transformer)


def test_patterns_select_cells_in_the_order_of_the_table() -> None:
    chosen = select_cells("table1", "standard", ["tc-cnn", "r-st_*-affine"])
    assert [cell.name for cell in chosen] == ["r-st_cnn-affine", "tc-cnn", "r-st_fcn-affine"]
    assert select_cells("table1", "standard", []) == cells_of("table1")


@pytest.mark.parametrize("table", TABLES)
def test_budget_quick_selects_a_few_cells_on_embedded_digits(table: TableName) -> None:
    chosen = select_cells(table, "quick", [])
    assert 0 < len(chosen) < len(cells_of(table, "quick"))
    for cell in chosen:
        config = cell.config
        data = config if isinstance(config, ColocalisationSettings) else config.data
        assert data.dataset == "digits"


def test_pattern_without_match_is_an_error() -> None:
    message = r"--cells: addition has no 'r-\*'; its cells are addition-"
    with pytest.raises(ConfigError, match=message):
        select_cells("addition", "standard", ["*-fcn", "r-*"])


@pytest.mark.parametrize("table", TABLES)
def test_figures_are_of_cells_with_transformers(table: TableName) -> None:
    for pattern in TABLES[table].illustrated_cells:
        illustrated = select_cells(table, "standard", [pattern])
        assert all(cell.transform is not None for cell in illustrated)
