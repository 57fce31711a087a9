"""The cells of the tables: what they are called, what they train, which are chosen."""

import collections
import json
import pathlib

import jax
import numpy as np
import pytest

from experiments import config as configuration
from experiments import experiment as setup
from experiments.colocalisation_settings import Settings
from experiments.config import ConfigError
from experiments.datasets import Dataset, Split
from experiments.tables import cells, published, results
from experiments.tables.cells import Cell

BUDGETS = ("quick", "standard", "paper")


ELSEWHERE = ("gtsrb", "colocalisation", "projection3d")  # not of the paper's steps
CLASSIFYING = [name for name in cells.TABLES if name not in ELSEWHERE]


def every(budget: cells.Budget = "standard") -> list[Cell]:
    return [cell for table in cells.TABLES.values() for cell in table(budget)]


@pytest.mark.parametrize("budget", BUDGETS)
def test_a_name_stands_for_one_cell(budget: cells.Budget) -> None:
    for table in cells.TABLES.values():
        names = [cell.name for cell in table(budget)]
        assert len(set(names)) == len(names)
    found: dict[str, Cell] = {}
    for cell in every(budget):
        assert found.setdefault(cell.name, cell) == cell


def test_table_1_is_whole() -> None:
    found = {(cell.model, cell.transform, cell.distortion): cell for cell in cells.table1("paper")}
    assert len(found) == 40
    assert found.keys() == published.TABLE_1.keys()
    assert all(cell.published == published.TABLE_1[key] for key, cell in found.items())


def test_a_fingerprint_is_of_settings_but_not_of_places_or_seeds() -> None:
    cell = cells.table1("standard")[0]
    same = configuration.replace(cell.config, {"seed": 3, "data_dir": "elsewhere"})
    other = configuration.replace(cell.config, {"epochs": 7})
    found = [results.fingerprint(cell._replace(config=each)) for each in (same, other)]
    assert found[0] == results.fingerprint(cell) != found[1]
    assert len({results.fingerprint(each) for each in cells.colocalisation("standard")}) == 2


def test_a_cells_settings_are_what_it_says() -> None:
    for cell in every():
        config = cell.config
        if isinstance(config, Settings):
            assert config.distortion == cell.distortion
            continue
        count, _, model = cell.model.rpartition("x_")
        assert config.model.model == model
        assert config.data.distortion == cell.distortion
        assert config.model.transformers == int(count or 1)
        if cell.transform is not None:
            assert config.model.transform == cell.transform


def test_the_papers_budget_takes_its_steps() -> None:
    for cell in (cell for name in CLASSIFYING for cell in cells.TABLES[name]("paper")):
        steps = cell.config.optimisation.epochs * (55_000 // cell.config.optimisation.batch_size)
        assert steps == pytest.approx(150_000, rel=1e-2)


def test_table_1_trains_longer_where_other_tables_compare_briefly() -> None:
    for distortion, epochs in {"r": 180, "rts": 180, "p": 180, "e": 60, "tc": 120}.items():
        (longest,) = cells.select("table1", "standard", [f"{distortion}-st_fcn-affine"])
        (brief,) = cells.select("transforms", "standard", [f"{distortion}-st_fcn-affine*"])
        assert longest.config.optimisation.epochs == epochs
        assert brief.config.optimisation.epochs == 60
        # One name where the settings are one.
        assert (longest.name == brief.name) is (longest.config == brief.config)


def test_what_is_set_for_longer_trainings() -> None:
    expected = {"r": (180, 0.7), "rts": (180, 0.7), "p": (180, 0.0), "tc": (120, 0.7)}
    for model, transform in (("fcn", None), ("st_fcn", "affine")):
        for distortion, (epochs, bends) in expected.items():
            name = "-".join(filter(None, (distortion, model, transform)))
            (longer,) = cells.select("table1", "standard", [name])
            (brief,) = cells.select("transforms", "standard", [f"{name}-short"])
            changed = {"epochs": epochs, "learning_rate": 1e-3, "augment_sigma": bends}
            rate = brief.config.optimisation.localisation_lr
            changed |= {"localisation_lr": rate and rate / 2}
            assert longer.config == configuration.replace(brief.config, changed)


@pytest.mark.parametrize("budget", ["quick", "paper"])
def test_other_budgets_train_all_tables_alike(budget: cells.Budget) -> None:
    table1 = cells.table1(budget)
    shared = [cell for cell in cells.transforms(budget) if cell in table1]
    assert len(shared) == 20


def num_params(cell: Cell) -> int:
    shape, classes = ((32, 32, 3), 43) if cell.name.startswith("gtsrb") else ((28, 28, 1), 10)
    images = np.random.default_rng(0).integers(0, 256, (2, *shape), np.uint8)
    split = Split(images, np.zeros(2, np.int32))
    config = configuration.replace(cell.config, {"batch_size": 2})
    experiment = setup.assemble(config, Dataset("any", split, split, split, classes))
    return setup.num_params(jax.eval_shape(lambda: setup.initial_state(experiment)).params)


def test_networks_of_a_kind_have_as_many_parameters() -> None:
    found = collections.defaultdict(list)
    for cell in cells.table1("standard"):
        found[cell.model.removeprefix("st_"), cell.distortion].append(num_params(cell))
    for cell in cells.gtsrb("standard"):
        found["signs", "none"].append(num_params(cell))
    assert len(found) == 11
    for counts in found.values():
        assert max(counts) <= 1.02 * min(counts)


def test_ours_is_small() -> None:
    with_transformer = [cell for cell in cells.ours("standard") if cell.transform]
    assert [cell.distortion for cell in with_transformer] == list(published.DISTORTIONS)
    assert all(num_params(cell) <= 150_000 for cell in with_transformer)


def test_patterns_choose_in_the_tables_order() -> None:
    chosen = cells.select("table1", "standard", ["tc-cnn", "r-st_*-affine"])
    assert [cell.name for cell in chosen] == ["r-st_cnn-affine", "tc-cnn", "r-st_fcn-affine"]
    assert cells.select("table1", "standard", []) == cells.table1("standard")


@pytest.mark.parametrize("table", cells.TABLES)
def test_quick_is_a_few(table: cells.TableName) -> None:
    chosen = cells.select(table, "quick", [])
    assert 0 < len(chosen) < len(cells.TABLES[table]("quick"))
    found = [
        cell.config.dataset if isinstance(cell.config, Settings) else cell.config.data.dataset
        for cell in chosen
    ]
    assert set(found) == {"digits"}


def test_a_pattern_without_a_cell() -> None:
    said = r"--cells: addition has no 'r-\*'; its cells are addition-"
    with pytest.raises(ConfigError, match=said):
        cells.select("addition", "standard", ["*-fcn", "r-*"])


@pytest.mark.parametrize("table", cells.TABLES)
def test_recorded_results_are_of_the_settings_of_their_cells(table: cells.TableName) -> None:
    path = pathlib.Path(cells.__file__).parents[1] / "results" / f"{table}.json"
    settings = {cell.name: results.fingerprint(cell) for cell in cells.TABLES[table]("standard")}
    for entry in json.loads(path.read_text())["cells"]:
        assert entry["settings"] in (None, settings[entry["name"]]), entry["name"]
