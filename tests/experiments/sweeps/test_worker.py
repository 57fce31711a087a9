"""What a worker makes of trials: means over seeds, pruning, divergence, the best, joining."""

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
from collections.abc import Callable, Sequence
from typing import Any

import pytest
import sqlalchemy
from optuna.trial import FrozenTrial, TrialState

from experiments import command_line, run_folder, sweep
from experiments import config as configuration
from experiments.config import Config, ConfigError
from experiments.records import RunError
from experiments.sweeps.storages import DATABASE, LOCK, Mutex, Place, connect, load
from tests.experiments.sweeps import fake
from tests.experiments.sweeps.conftest import BASE

Search = Callable[..., int]


def trials(folder: pathlib.Path) -> list[FrozenTrial]:
    with load(Place(folder)) as study:
        return study.get_trials()


def best(folder: pathlib.Path) -> dict[str, Any]:
    return json.loads((folder / "best.json").read_text())


def test_a_sweep_ends_with_the_best_as_a_command(
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
    config = configuration.from_dict(record["config"])
    assert config.optimisation.seed == 5
    *_, said, command = capsys.readouterr().out.splitlines()
    assert said.startswith(f"best: trial {record['trial']}, validation error ")
    assert command == record["command"]
    python, dash_m, module, *arguments = shlex.split(command)
    assert (python, dash_m, module) == ("python", "-m", "experiments.train")
    assert command_line.parse(arguments, "train")[1] == config
    stored = json.loads((folder / "sweep.json").read_text())
    assert stored["space"] == {
        "learning_rate": "log:0.0001..1.0",
        "transform": "affine,rotation",
    }
    assert configuration.from_dict(stored["base"]).optimisation.epochs == 4


def test_hopeless_trials_are_stopped_with_all_their_seeds(
    search: Search, folder: pathlib.Path
) -> None:
    assert search("--epochs", 12, "--trials", 16, "--population", 4, "--seeds", 2) == 0
    pruned = [trial for trial in trials(folder) if trial.state == TrialState.PRUNED]
    assert pruned
    for trial in pruned:
        outcome = trial.user_attrs["outcome"]
        assert outcome["kind"] == "pruned"
        assert 1 <= outcome["epochs"] == max(trial.intermediate_values) < 12
        assert outcome["reason"].endswith(f"% after epoch {outcome['epochs']}")
        config = configuration.replace(Config(), {"learning_rate": trial.params["learning_rate"]})
        errors = [
            fake.error(configuration.replace(config, {"seed": seed}), outcome["epochs"])
            for seed in (0, 1)
        ]
        last = trial.intermediate_values[outcome["epochs"]]
        assert last == pytest.approx(statistics.fmean(errors))


def test_nothing_is_stopped_where_that_is_not_wanted(search: Search, folder: pathlib.Path) -> None:
    assert search("--epochs", 12, "--trials", 16, "--population", 4, "--pruner", "none") == 0
    assert {trial.state for trial in trials(folder)} == {TrialState.COMPLETE}


def test_a_trial_of_which_one_seed_diverges_is_not_complete(
    search: Search, folder: pathlib.Path
) -> None:
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


def test_a_grid_is_every_combination_once(search: Search, folder: pathlib.Path) -> None:
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


def test_settings_that_do_not_go_together_are_named_and_do_not_count(
    search: Search, folder: pathlib.Path
) -> None:
    scales = ["--space", "min_scale=0.5..1.5", "--space", "max_scale=0.5..1.5"]
    assert search("--distortion", "rts", *scales, "--trials", 6, base=BASE[:5]) == 0
    outcomes = [trial.user_attrs["outcome"] for trial in trials(folder)]
    assert Counter(outcome["kind"] == "impossible" for outcome in outcomes)[False] == 6
    reasons = [outcome["reason"] for outcome in outcomes if outcome["kind"] == "impossible"]
    assert reasons
    assert all(reason.startswith("--min-scale must be at most") for reason in reasons)


def test_settings_that_do_not_fit_the_data_are_named_and_do_not_count(
    search: Search, folder: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def train(configs: Sequence[Config], **options: Any) -> list[fake.Result]:
        if configs[0].model.pool > 1:
            raise ConfigError("--pool does not fit")
        return fake.train(configs, **options)

    monkeypatch.setattr(sweep, "_trainer", lambda run: train)
    assert search("--space", "pool=1,2", "--trials", 4) == 0
    kinds = Counter(
        (trial.params["pool"], trial.user_attrs["outcome"]["reason"]) for trial in trials(folder)
    )
    assert kinds[1, None] == 4
    assert set(kinds) == {(1, None), (2, "--pool does not fit")}


def test_a_finished_sweep_is_left_as_it_is_and_goes_on_if_more_is_wanted(
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
        (["--batch-size", "32"], "--batch-size 64 against 32"),
        (["--seed", "1"], "--seed 0 against 1"),
        (["--seeds", "2"], "--seeds 1 against 2"),
        (["--sampler", "random"], "--sampler tpe against random"),
        (["--heartbeat", "7"], "--heartbeat 1 against 7"),
        (
            ["--space", "transform=affine,rotation"],
            "--space transform: nothing against affine,rotation",
        ),
    ],
)
def test_another_sweep_is_refused(
    search: Search, capsys: pytest.CaptureFixture[str], other: list[str], difference: str
) -> None:
    assert search("--trials", 1) == 0
    capsys.readouterr()
    assert search("--trials", 1, *other) == 1
    error = capsys.readouterr().err
    assert error.endswith(f": holds a sweep with other settings: {difference}\n")


def test_the_same_space_in_other_words_is_the_same(search: Search) -> None:
    assert search("--trials", 1) == 0
    assert search("--trials", 1, "--space", "lr=log:0.0001..1.0", base=BASE[:5]) == 0


def test_what_is_no_sweeps_folder_is_refused_and_left_alone(
    search: Search, folder: pathlib.Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder.mkdir()
    (folder / "thesis.txt").write_text("mine")
    assert search() == 1
    assert "is no sweep's folder and not empty; it holds thesis.txt" in capsys.readouterr().err
    assert [path.name for path in folder.iterdir()] == ["thesis.txt"]


def test_a_damaged_study_is_named(
    search: Search, folder: pathlib.Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert search("--trials", 1) == 0
    (folder / DATABASE).write_bytes(b"no database" * 1000)
    capsys.readouterr()
    assert search("--trials", 1) == 1
    error = capsys.readouterr().err
    assert error.startswith(f"error: {folder / DATABASE}: cannot be used: ")
    assert error.count("\n") == 1


def test_a_folder_that_is_gone_is_named(
    search: Search,
    folder: pathlib.Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    def train(configs: Sequence[Config], **options: Any) -> list[fake.Result]:
        found = fake.train(configs, **options)
        shutil.rmtree(folder)
        return found

    monkeypatch.setattr(sweep, "_trainer", lambda run: train)
    assert search("--trials", 1) == 1
    error = capsys.readouterr().err
    assert error == f"error: {folder / LOCK}: cannot be written: No such file or directory\n"


def test_a_storage_that_is_not_there_is_named_and_leaves_no_folder(
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


def test_two_sweeps_that_start_in_one_second_have_folders_of_their_own(
    search: Search, tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(time, "strftime", lambda form: "now")
    for _ in range(2):
        assert sweep.main([*BASE, "--trials", "1"]) == 0
    assert {path.name for path in pathlib.Path("runs").iterdir()} == {
        "sweep-demo-now",
        "sweep-demo-now-1",
    }


def test_a_training_run_is_not_continued_in_a_sweeps_folder(
    search: Search, folder: pathlib.Path
) -> None:
    assert search("--trials", 1) == 0
    given = ["demo", "--epochs", "4", "--run-dir", str(folder), "--resume", "auto"]
    with pytest.raises(RunError, match="is not a run folder and not empty; it holds "):
        run_folder.claim(folder, command_line.parse(given, "train")[1])


def test_a_trial_whose_last_loss_is_not_finite_is_not_complete(
    search: Search, folder: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def train(configs: Sequence[Config], *, on_epoch: Any, **options: Any) -> list[fake.Result]:
        def with_loss(epoch: int, records: Sequence[Any]) -> Sequence[bool]:
            loss = math.inf if epoch == 4 else 1.0
            return on_epoch(
                epoch, [record and record | {"validation_loss": loss} for record in records]
            )

        return fake.train(configs, on_epoch=with_loss, **options)

    monkeypatch.setattr(sweep, "_trainer", lambda run: train)
    assert search("--trials", 1) == 0
    assert trials(folder)[0].user_attrs["outcome"]["reason"] == "seed 0 diverged in epoch 4"


def test_what_is_drawn_fits_the_mesh(search: Search, folder: pathlib.Path) -> None:
    given = ["--space", "batch_size=32..64", "--mesh", "member=1,batch=2", "--sampler", "random"]
    assert search(*given, "--trials", 3, base=BASE[:5]) == 0
    for trial in trials(folder):
        odd = trial.params["batch_size"] % 2 == 1
        assert (trial.user_attrs["outcome"]["kind"] == "impossible") == odd


def test_a_signal_that_was_swallowed_still_ends_the_worker_after_the_epoch(
    search: Search,
    folder: pathlib.Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    def train(configs: Sequence[Config], **options: Any) -> list[fake.Result]:
        with contextlib.suppress(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)
        return fake.train(configs, **options)

    monkeypatch.setattr(sweep, "_trainer", lambda run: train)
    assert search("--trials", 1) == 130
    captured = capsys.readouterr()
    assert captured.err == f"error: interrupted; --run-dir {folder} joins it again\n"
    assert "given back, to be run again: 1 trial\n" in captured.out
    assert not any(trial.intermediate_values for trial in trials(folder))


def test_where_nothing_fits_the_data_it_ends_soon(
    search: Search, folder: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def train(configs: Sequence[Config], **options: Any) -> list[fake.Result]:
        raise ConfigError("--batch-size is too large")

    monkeypatch.setattr(sweep, "_trainer", lambda run: train)
    assert search("--trials", 32) == 1
    ended = [trial for trial in trials(folder) if "outcome" in trial.user_attrs]
    assert len(ended) == 20


@pytest.mark.postgres
def test_workers_of_two_studies_do_not_wait_for_each_other(
    postgresql: str, tmp_path: pathlib.Path
) -> None:
    def mutex(name: str) -> Mutex:
        storage, found = connect(Place(tmp_path, postgresql, name), heartbeat=1, create=True)
        storage.engine.dispose()
        return found

    one, other = mutex("one"), mutex("other")
    engine = sqlalchemy.create_engine(
        postgresql.replace("://", "+psycopg://"), poolclass=sqlalchemy.pool.NullPool
    )
    with one(), other(), engine.connect() as connection:
        activity = "select state from pg_stat_activity where query like '%pg_advisory_lock(%'"
        # A server may end what idles in a transaction.
        assert connection.execute(sqlalchemy.text(activity)).scalars().all()[:2] == ["idle"] * 2
        keys = "select count(*) from pg_locks where locktype = 'advisory' and granted"
        assert connection.execute(sqlalchemy.text(keys)).scalar_one() == 2


def test_what_goes_wrong_in_training_leaves_the_trials_to_others(
    search: Search, folder: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def train(configs: Sequence[Config], **options: Any) -> list[fake.Result]:
        raise MemoryError

    with monkeypatch.context() as patch:
        patch.setattr(sweep, "_trainer", lambda run: train)
        with pytest.raises(MemoryError):
            search("--trials", 2)
    states = Counter(trial.state for trial in trials(folder))
    assert states == {TrialState.FAIL: 2, TrialState.WAITING: 2}
    assert search("--trials", 2) == 0
