"""A worker's trials: means over seeds, pruning, divergence, the best trial, joining."""

import contextlib
import json
import math
import pathlib
import shlex
import shutil
import signal
import statistics
import time
from collections import Counter
from collections.abc import Sequence
from typing import Any

import pytest
import sqlalchemy
from optuna.trial import FrozenTrial, TrialState

from experiments.runs.folder import claim_folder
from experiments.runs.records import RunError
from experiments.settings import command_line
from experiments.settings.access import replace_settings
from experiments.settings.config import Config
from experiments.settings.conversion import config_from_dict
from experiments.settings.errors import ConfigError
from experiments.sweep.storage import DATABASE, LOCK, Mutex, StudyLocation, connect, load_study
from tests.experiments.sweep import fake
from tests.experiments.sweep.conftest import BASE, Search, run_search


def trials(folder: pathlib.Path) -> list[FrozenTrial]:
    with load_study(StudyLocation(folder)) as study:
        return study.get_trials()


def best(folder: pathlib.Path) -> dict[str, Any]:
    return json.loads((folder / "best.json").read_text())


def test_sweep_ends_with_command_of_best_trial(
    search: Search, folder: pathlib.Path, capsys: pytest.CaptureFixture[str]
) -> None:
    transforms = ["--space", "transform=affine,rotation"]
    assert search("--trials", 12, "--seeds", 3, "--seed", 5, *transforms) == 0
    found = trials(folder)
    complete = [trial for trial in found if trial.state == TrialState.COMPLETE]
    assert len({trial.params["learning_rate"] for trial in found}) == len(found) == 12
    record = best(folder)
    assert record["validation_error"] == min(trial.value for trial in complete)
    assert record["validation_error"] == statistics.fmean(record["validation_errors"])
    assert record["standard_deviation"] == 1.0  # of the seeds' 2, 0 and 1
    config = config_from_dict(record["config"])
    assert config.optimisation.seed == 5
    *_, best_line, command = capsys.readouterr().out.splitlines()
    assert best_line.startswith(f"best: trial {record['trial']}, validation error ")
    assert command == record["command"]
    python, dash_m, module, *arguments = shlex.split(command)
    assert (python, dash_m, module) == ("python", "-m", "experiments.train")
    assert command_line.parse(arguments, "train")[1] == config
    assert {"--learning-rate", "--transform"} <= set(arguments)
    stored = json.loads((folder / "sweep.json").read_text())
    assert stored["space"] == {
        "learning_rate": "log:0.0001..1.0",
        "transform": "affine,rotation",
    }
    assert config_from_dict(stored["base"]).optimisation.epochs == 4


def test_pruned_trials_stop_with_all_their_seeds(search: Search, folder: pathlib.Path) -> None:
    assert search("--epochs", 12, "--trials", 16, "--population", 4, "--seeds", 2) == 0
    pruned = [trial for trial in trials(folder) if trial.state == TrialState.PRUNED]
    assert pruned
    for trial in pruned:
        outcome = trial.user_attrs["outcome"]
        assert outcome["kind"] == "pruned"
        assert 1 <= outcome["epochs"] == max(trial.intermediate_values) < 12
        assert outcome["reason"].endswith(f"% after epoch {outcome['epochs']}")
        config = replace_settings(Config(), {"learning_rate": trial.params["learning_rate"]})
        errors = [
            fake.error(replace_settings(config, {"seed": seed}), outcome["epochs"])
            for seed in (0, 1)
        ]
        last = trial.intermediate_values[outcome["epochs"]]
        assert last == pytest.approx(statistics.fmean(errors))


def test_pruner_none_stops_no_trial(search: Search, folder: pathlib.Path) -> None:
    assert search("--epochs", 12, "--trials", 16, "--population", 4, "--pruner", "none") == 0
    assert {trial.state for trial in trials(folder)} == {TrialState.COMPLETE}


def test_trial_with_one_diverged_seed_is_not_complete(search: Search, folder: pathlib.Path) -> None:
    space = ["--space", "learning_rate=0.1,2"]
    base = [*BASE[:5], *space, "--sampler", "grid", "--seeds", "2"]
    assert search(base=base) == 0
    good, diverged = sorted(trials(folder), key=lambda trial: trial.params["learning_rate"])
    assert good.state == TrialState.COMPLETE
    assert diverged.state == TrialState.PRUNED
    outcome = diverged.user_attrs["outcome"]
    assert (outcome["kind"], outcome["reason"]) == ("diverged", "seed 1 diverged in epoch 1")
    assert outcome["epochs"] == 1
    assert best(folder)["trial"] == good.number


def test_grid_runs_every_combination_once(search: Search, folder: pathlib.Path) -> None:
    space = [
        *("--space", "regularisation=0..1..0.5"),
        *("--space", "transform=affine,thin_plate_spline"),
        *("--space", "control_points=2x2,3x4"),
    ]
    assert search(*space, "--sampler", "grid", base=BASE[:5]) == 0
    found = Counter(
        tuple(trial.params.get(name) for name in ("transform", "control_points", "regularisation"))
        for trial in trials(folder)
    )
    splines = [("thin_plate_spline", p, r) for p in ("2x2", "3x4") for r in (0.0, 0.5, 1.0)]
    assert found == Counter([("affine", None, None), *splines])


def test_invalid_combinations_are_recorded_and_do_not_count(
    search: Search, folder: pathlib.Path
) -> None:
    scales = ["--space", "min_scale=0.5..1.5", "--space", "max_scale=0.5..1.5"]
    assert search("--distortion", "rts", *scales, "--trials", 6, base=BASE[:5]) == 0
    outcomes = [trial.user_attrs["outcome"] for trial in trials(folder)]
    assert Counter(outcome["kind"] == "impossible" for outcome in outcomes)[False] == 6
    reasons = [outcome["reason"] for outcome in outcomes if outcome["kind"] == "impossible"]
    assert reasons
    assert all(reason.startswith("--min-scale must be at most") for reason in reasons)


def test_settings_that_do_not_fit_the_data_are_recorded_and_do_not_count(
    search: Search, folder: pathlib.Path
) -> None:
    def train(configs: Sequence[Config], **options: Any) -> list[fake.FakeResult]:
        if configs[0].model.pool > 1:
            raise ConfigError("--pool does not fit")
        return fake.train(configs, **options)

    assert search("--space", "pool=1,2", "--trials", 4, train=train) == 0
    kinds = Counter(
        (trial.params["pool"], trial.user_attrs["outcome"]["reason"]) for trial in trials(folder)
    )
    assert kinds[1, None] == 4
    assert set(kinds) == {(1, None), (2, "--pool does not fit")}


def test_finished_sweep_continues_only_if_trials_is_raised(
    search: Search, folder: pathlib.Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert search("--trials", 3) == 0
    before = [(trial.params, trial.value) for trial in trials(folder)]
    capsys.readouterr()
    assert search("--trials", 3) == 0
    assert "trial   " not in capsys.readouterr().out
    assert search("--trials", 5) == 0
    after = [(trial.params, trial.value) for trial in trials(folder)]
    assert after[:3] == before
    assert len(after) == 5


@pytest.mark.parametrize(
    ("other", "difference"),
    [
        (["--batch-size", "32"], "--batch-size 64 (requested: 32)"),
        (["--seed", "1"], "--seed 0 (requested: 1)"),
        (["--seeds", "2"], "--seeds 1 (requested: 2)"),
        (["--sampler", "random"], "--sampler tpe (requested: random)"),
        (["--heartbeat", "7"], "--heartbeat 1 (requested: 7)"),
        (
            ["--space", "transform=affine,rotation"],
            "--space transform: not set (requested: affine,rotation)",
        ),
    ],
)
def test_folder_of_another_sweep_is_rejected(
    search: Search, capsys: pytest.CaptureFixture[str], other: list[str], difference: str
) -> None:
    assert search("--trials", 1) == 0
    capsys.readouterr()
    assert search("--trials", 1, *other) == 1
    error = capsys.readouterr().err
    assert error.endswith(f": holds a sweep with other settings: {difference}\n")


def test_equal_space_in_other_spelling_is_accepted(search: Search) -> None:
    assert search("--trials", 1) == 0
    assert search("--trials", 1, "--space", "lr=log:0.0001..1.0", base=BASE[:5]) == 0


def test_folder_with_other_files_is_rejected_and_unchanged(
    search: Search, folder: pathlib.Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder.mkdir()
    (folder / "thesis.txt").write_text("mine")
    assert search() == 1
    assert "is not a sweep folder and not empty; it holds thesis.txt" in capsys.readouterr().err
    assert [path.name for path in folder.iterdir()] == ["thesis.txt"]


def test_damaged_database_gives_one_line(
    search: Search, folder: pathlib.Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert search("--trials", 1) == 0
    (folder / DATABASE).write_bytes(b"no database" * 1000)
    capsys.readouterr()
    assert search("--trials", 1) == 1
    error = capsys.readouterr().err
    assert error.startswith(f"error: {folder / DATABASE}: cannot be used: ")
    assert error.count("\n") == 1


def test_deleted_folder_gives_one_line(
    search: Search,
    folder: pathlib.Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    def train(configs: Sequence[Config], **options: Any) -> list[fake.FakeResult]:
        found = fake.train(configs, **options)
        shutil.rmtree(folder)
        return found

    assert search("--trials", 1, train=train) == 1
    error = capsys.readouterr().err
    assert error == f"error: {folder / LOCK}: cannot be written: No such file or directory\n"


def test_unreachable_storage_gives_one_line_and_leaves_no_folder(
    search: Search, folder: pathlib.Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert search("--storage", "postgresql://me:secret@127.0.0.1:1/none", "--study", "s") == 1
    error = capsys.readouterr().err
    assert error.startswith("error: --storage: cannot be used: ")
    assert error.count("\n") == 1
    assert "secret" not in error
    assert not folder.exists()
    assert search("--storage", "postgresql://me@127.0.0.1:54x2/none", "--study", "s") == 2
    assert "error: --storage must be postgresql://" in capsys.readouterr().err
    assert not folder.exists()


def test_sweeps_started_in_the_same_second_get_different_folders(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(time, "strftime", lambda form: "now")
    for _ in range(2):
        assert run_search("--trials", 1) == 0
    assert {path.name for path in pathlib.Path("runs").iterdir()} == {
        "sweep-demo-now",
        "sweep-demo-now-1",
    }


def test_training_run_rejects_the_folder_of_a_sweep(search: Search, folder: pathlib.Path) -> None:
    assert search("--trials", 1) == 0
    with pytest.raises(RunError, match="is not a run folder and not empty; it holds "):
        claim_folder(folder, {}, lambda folder: [], "auto")


def test_trial_with_non_finite_last_loss_is_not_complete(
    search: Search, folder: pathlib.Path
) -> None:
    def train(configs: Sequence[Config], *, on_epoch: Any, **options: Any) -> list[fake.FakeResult]:
        def with_loss(epoch: int, records: Sequence[Any]) -> Sequence[bool]:
            loss = math.inf if epoch == 4 else 1.0
            return on_epoch(
                epoch, [record and record | {"validation_loss": loss} for record in records]
            )

        return fake.train(configs, on_epoch=with_loss, **options)

    assert search("--trials", 1, train=train) == 0
    assert trials(folder)[0].user_attrs["outcome"]["reason"] == "seed 0 diverged in epoch 4"


def test_draws_that_do_not_fit_the_mesh_are_impossible(
    search: Search, folder: pathlib.Path
) -> None:
    given = ["--space", "batch_size=32..64", "--mesh", "member=1,batch=2", "--sampler", "random"]
    assert search(*given, "--trials", 3, base=BASE[:5]) == 0
    for trial in trials(folder):
        odd = trial.params["batch_size"] % 2 == 1
        assert (trial.user_attrs["outcome"]["kind"] == "impossible") == odd


def test_swallowed_signal_ends_the_worker_after_the_epoch(
    search: Search,
    folder: pathlib.Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    def train(configs: Sequence[Config], **options: Any) -> list[fake.FakeResult]:
        with contextlib.suppress(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)
        return fake.train(configs, **options)

    assert search("--trials", 1, train=train) == 130
    captured = capsys.readouterr()
    assert captured.err == f"error: interrupted; --run-dir {folder} joins it again\n"
    assert "given back, to be run again: 1 trial\n" in captured.out
    assert not any(trial.intermediate_values for trial in trials(folder))


def test_worker_ends_if_no_configuration_fits_the_data(
    search: Search, folder: pathlib.Path
) -> None:
    def train(configs: Sequence[Config], **options: Any) -> list[fake.FakeResult]:
        raise ConfigError("--batch-size is too large")

    assert search("--trials", 32, train=train) == 1
    ended = [trial for trial in trials(folder) if "outcome" in trial.user_attrs]
    assert len(ended) == 20


@pytest.mark.postgres
def test_workers_of_two_studies_do_not_block_each_other(
    postgresql: str, tmp_path: pathlib.Path
) -> None:
    def mutex(name: str) -> Mutex:
        storage, found = connect(
            StudyLocation(tmp_path, postgresql, name), heartbeat=1, create=True
        )
        storage.engine.dispose()
        return found

    one, other = mutex("one"), mutex("other")
    engine = sqlalchemy.create_engine(
        postgresql.replace("://", "+psycopg://"), poolclass=sqlalchemy.pool.NullPool
    )
    with one(), other(), engine.connect() as connection:
        activity = "select state from pg_stat_activity where query like '%pg_advisory_lock(%'"
        # Not "idle in transaction", which a server may terminate.
        assert connection.execute(sqlalchemy.text(activity)).scalars().all()[:2] == ["idle"] * 2
        keys = "select count(*) from pg_locks where locktype = 'advisory' and granted"
        assert connection.execute(sqlalchemy.text(keys)).scalar_one() == 2


def test_error_in_training_gives_the_trials_back(search: Search, folder: pathlib.Path) -> None:
    def train(configs: Sequence[Config], **options: Any) -> list[fake.FakeResult]:
        raise MemoryError

    with pytest.raises(MemoryError):
        search("--trials", 2, train=train)
    states = Counter(trial.state for trial in trials(folder))
    assert states == {TrialState.FAIL: 2, TrialState.WAITING: 2}
    assert search("--trials", 2) == 0
