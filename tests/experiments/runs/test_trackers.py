"""Trackers receive the records of a run, and their failures never cost it.

The clients of the services are replaced by fakes, except in the slow tests.
"""

import importlib.machinery
import importlib.util
import json
import os
import pathlib
import subprocess
import sys
import types
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from tensorboardX.proto.plugin_hparams_pb2 import HParamsPluginData

from experiments.runs import trackers
from experiments.runs.records import read_config
from experiments.runs.trackers import GROUPED, Guarded, grouped, hyper_parameters
from experiments.settings.errors import ConfigError
from tests.experiments.conftest import (
    ROOT,
    assert_same_result,
    read_events,
    read_records,
    read_scalars,
    read_summary,
)
from tests.experiments.processes import process_environment


class Calls:
    """Records all calls of its methods. Those of the given names raise an error."""

    def __init__(self, *failing: str) -> None:
        self.calls: list[tuple[str, tuple[Any, ...], dict[str, Any]]] = []
        self._failing = failing

    def __getattr__(self, name: str) -> Callable[..., Any]:
        def call(*arguments: Any, **options: Any) -> Any:
            self.calls.append((name, arguments, options))
            if name in self._failing:
                raise OSError(f"no {name}\nand a second line")
            return self

        return call

    def named(self, name: str) -> list[tuple[tuple[Any, ...], dict[str, Any]]]:
        return [(arguments, options) for found, arguments, options in self.calls if found == name]


def install(monkeypatch: pytest.MonkeyPatch, name: str, **attributes: object) -> None:
    """Installs a fake package."""
    module = types.ModuleType(name)
    module.__spec__ = importlib.machinery.ModuleSpec(name, None, origin="fake")
    module.__dict__.update(attributes)
    monkeypatch.setitem(sys.modules, name, module)


class FakeWandb(Calls):
    """The package wandb, and its run."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, *failing: str) -> None:
        super().__init__(*failing)
        self.summary: dict[str, float] = {}
        install(
            monkeypatch,
            "wandb",
            init=self.init,
            Settings=dict,
            Image=lambda image, caption: (image.shape, caption),
        )


class FakeMlflow(Calls):
    """The package mlflow, and its client."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, *failing: str) -> None:
        super().__init__(*failing)
        self.info = types.SimpleNamespace(run_id="run 1")
        entities = types.SimpleNamespace(Metric=lambda *each: each, Param=lambda *each: each)
        install(monkeypatch, "mlflow", MlflowClient=lambda: self, entities=entities)

    def get_experiment_by_name(self, name: str) -> None:
        self.calls.append(("get_experiment_by_name", (name,), {}))


Run = Callable[..., int]


def expected_scalars(folder: pathlib.Path) -> list[tuple[int, dict[str, float]]]:
    """The numbers of each epoch, under their grouped names."""
    return [(each["epoch"], grouped(each)) for each in read_records(folder / "metrics.jsonl")]


# --- Names ----------------------------------------------------------------------------------------


def test_every_number_of_an_epoch_has_a_group(finished: pathlib.Path) -> None:
    for record in read_records(finished / "metrics.jsonl"):
        assert set(record) - {"epoch"} <= set(GROUPED)
    assert len(set(GROUPED.values())) == len(GROUPED)
    assert all("/" in name for name in GROUPED.values())


def test_hyper_parameters_are_the_settings_with_an_effect(finished: pathlib.Path) -> None:
    found = hyper_parameters(read_config(finished))
    assert found["model"] == "st_fcn"
    assert found["features"] == "8"
    assert found["learning_rate"] == 0.002
    assert not {"run_dir", "mesh", "momentum", "clutter", "sigma", "figures"} & set(found)


# --- TensorBoard ----------------------------------------------------------------------------------


def hparams(folder: pathlib.Path) -> list[HParamsPluginData]:
    values = [value for event in read_events(folder) for value in event.summary.value]
    content = [
        value.metadata.plugin_data.content
        for value in values
        if value.metadata.plugin_data.plugin_name == "hparams"
    ]
    return [HParamsPluginData.FromString(each) for each in content]


def test_tensorboard_has_grouped_scalars_and_the_test_error(finished: pathlib.Path) -> None:
    scalars = read_scalars(finished / "tensorboard")
    for epoch, values in expected_scalars(finished):
        for name, value in values.items():
            assert scalars[epoch, name] == pytest.approx(value, rel=1e-6)
    summary = read_summary(finished)
    assert scalars[3, "error/test"] == pytest.approx(summary["test_error"], rel=1e-6)
    assert scalars[3, "loss/test"] == pytest.approx(summary["test_loss"], rel=1e-6)
    assert {"loss/train", "loss/validation"} < {name for _, name in scalars}


def test_tensorboard_has_hyper_parameters(finished: pathlib.Path) -> None:
    experiment, start, end = hparams(finished / "tensorboard")
    names = {each.name for each in experiment.experiment.hparam_infos}
    assert names == set(hyper_parameters(read_config(finished)))
    assert start.session_start_info.hparams["learning_rate"].number_value == 0.002
    compared = {each.name.tag for each in experiment.experiment.metric_infos}
    assert {"error/test", "loss/validation"} < compared <= set(GROUPED.values())
    assert end.session_end_info.status == 1  # success


def test_tensorboard_images_have_titles(finished: pathlib.Path) -> None:
    events = read_events(finished / "tensorboard")
    values = [value for event in events for value in event.summary.value]
    titles = [value.metadata.display_name for value in values if value.HasField("image")]
    assert titles == ["test images", "output of transformer_0"]


# --- Services -------------------------------------------------------------------------------------


def test_wandb_receives_the_records(
    run: Run, tiny: list[str], tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fake, folder = FakeWandb(monkeypatch), tmp_path / "a run"
    assert run(*tiny, "--run-dir", folder, "--no-figures", "--tracker", "wandb") == 0
    ((_, options),) = fake.named("init")
    assert options["name"] == "a run"
    assert options["dir"] == str(folder)
    assert options["config"] == hyper_parameters(read_config(folder))
    *epochs, ((images,), _) = fake.named("log")
    expected = [{"epoch": epoch, **values} for epoch, values in expected_scalars(folder)]
    assert [values for (values,), _ in epochs] == expected
    assert images["epoch"] == 3
    assert images["test images"] == ((9, 8 * 9), "test images")
    assert fake.summary["error/test"] == read_summary(folder)["test_error"]
    assert fake.named("finish") == [((), {"exit_code": 0})]


def test_mlflow_receives_the_records(
    run: Run, tiny: list[str], tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fake, folder = FakeMlflow(monkeypatch), tmp_path / "a run"
    assert run(*tiny, "--run-dir", folder, "--no-figures", "--tracker", "mlflow") == 0
    assert fake.named("create_experiment") == [(("stn_jax",), {})]
    ((_, created),) = fake.named("create_run")
    assert created == {"run_name": "a run"}
    (_, params), *epochs, (_, results) = fake.named("log_batch")
    settings = hyper_parameters(read_config(folder))
    assert dict(params["params"]) == {name: str(value) for name, value in settings.items()}
    for (epoch, values), (arguments, options) in zip(expected_scalars(folder), epochs, strict=True):
        assert arguments == ("run 1",)
        assert {name: value for name, value, *_ in options["metrics"]} == values
        assert {step for *_, step in options["metrics"]} == {epoch}
    assert results["metrics"][0][:2] == ("error/test", read_summary(folder)["test_error"])
    images = [arguments[1:] for arguments, _ in fake.named("log_image")]
    assert [(image.shape, image.dtype, name) for image, name in images] == [
        ((9, 72), np.uint8, "test images.png"),
        ((9, 72), np.uint8, "output of transformer_0.png"),
    ]
    assert fake.named("set_terminated") == [(("run 1", "FINISHED"), {})]


def test_resumed_run_continues_in_its_service(
    run: Run,
    tiny: list[str],
    tmp_path: pathlib.Path,
    signal_at: Callable[[int, int], None],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    command = [*tiny, "--run-dir", tmp_path / "run", "--no-figures", "--tracker"]
    fake = FakeWandb(monkeypatch)
    signal_at(15, 2)
    assert run(*command, "wandb") == 143
    assert fake.named("finish") == [((), {"exit_code": 1})]
    assert run(*command, "wandb", "--resume", "auto") == 0
    first, second = (options for _, options in fake.named("init"))
    assert first["id"] == second["id"]
    assert second["resume"] == "allow"


def test_run_that_records_nothing_leaves_no_files_of_its_tracker(
    run: Run,
    tiny: list[str],
    tmp_path: pathlib.Path,
    signal_at: Callable[[int, int], None],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    FakeWandb(monkeypatch)
    signal_at(15, 1)
    assert run(*tiny, "--run-dir", tmp_path / "run", "--tracker", "wandb") == 143
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("name", ["init", "define_metric", "log", "finish"])
def test_failing_tracker_gives_one_warning_and_the_run_ends_as_without(
    name: str,
    finished: pathlib.Path,
    run: Run,
    tiny: list[str],
    tmp_path: pathlib.Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    fake, folder = FakeWandb(monkeypatch, name), tmp_path / "run"
    assert run(*tiny, "--run-dir", folder, "--no-figures", "--tracker", "wandb") == 0
    lines = capsys.readouterr().err.splitlines()
    expected = f"warning: --tracker wandb: no {name}; the run continues without it"
    assert [line for line in lines if line.startswith("warning")] == [expected]
    assert len(fake.named(name)) == 1  # not tried again
    assert_same_result(folder, finished)


def test_error_without_text_is_named(capsys: pytest.CaptureFixture[str]) -> None:
    def start() -> trackers.Tracker:
        raise TimeoutError

    tracker = Guarded("--tracker x", start)
    tracker.add_scalars({}, 1)
    tracker.close(finished=True)
    expected = "warning: --tracker x: TimeoutError; the run continues without it\n"
    assert capsys.readouterr().err == expected


def test_interrupt_is_no_failure_of_a_tracker() -> None:
    def start() -> trackers.Tracker:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        Guarded("--tracker x", start)


@pytest.mark.parametrize("left_behind", [False, True])
def test_missing_package_is_an_error_before_anything_is_written(
    left_behind: bool,
    run: Run,
    tiny: list[str],
    tmp_path: pathlib.Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    spec = importlib.machinery.ModuleSpec("wandb", None) if left_behind else None
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: spec)
    assert run(*tiny, "--run-dir", tmp_path / "run", "--tracker", "wandb") == 2
    assert "pip install 'stn-jax[wandb]'" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())
    trackers.check_tracker("none")
    with pytest.raises(ConfigError, match="mlflow"):
        trackers.check_tracker("mlflow")


# --- The real packages, offline -------------------------------------------------------------------


def track(
    name: str, arguments: list[str], environment: dict[str, str], folder: pathlib.Path
) -> str:
    """Trains in a process. Returns what it wrote to stderr."""
    flags = ["--run-dir", str(folder), "--no-figures", "--tracker", name]
    done = subprocess.run(
        [sys.executable, "-m", "experiments.train", *arguments, *flags],
        env=os.environ | environment,
        cwd=folder.parent,
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    return done.stderr


@pytest.mark.slow
def test_wandb_writes_its_files_offline(
    tiny: list[str], tmp_path: pathlib.Path, compiled: pathlib.Path
) -> None:
    pytest.importorskip("wandb")
    environment = {"PYTHONPATH": str(ROOT), "WANDB_MODE": "offline"} | process_environment(compiled)
    folder = tmp_path / "run"
    assert "warning" not in track("wandb", tiny, environment, folder)
    identity = json.loads((folder / "tracker.json").read_text())["wandb"]
    (file,) = folder.glob(f"wandb/offline-run-*-{identity}/run-{identity}.wandb")
    data = file.read_bytes()
    for name in ("loss/validation", "error/test", "learning_rate"):
        assert name.encode() in data


@pytest.mark.slow
@pytest.mark.parametrize("store", ["file:{}/mlruns", "sqlite:///{}/mlflow.db"])
def test_mlflow_writes_its_store_offline(
    store: str,
    tiny: list[str],
    tmp_path: pathlib.Path,
    compiled: pathlib.Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
    mlflow = pytest.importorskip("mlflow")
    uri, folder = store.format(tmp_path), tmp_path / "run"
    environment = {"PYTHONPATH": str(ROOT), "MLFLOW_TRACKING_URI": uri}
    environment |= process_environment(compiled)
    assert "warning" not in track("mlflow", tiny, environment, folder)
    client, summary = mlflow.MlflowClient(uri), read_summary(folder)
    identity = json.loads((folder / "tracker.json").read_text())["mlflow"]
    run = client.get_run(identity)
    assert run.info.status == "FINISHED"
    assert run.data.metrics["error/test"] == summary["test_error"]
    assert run.data.params["learning_rate"] == "0.002"
    history = client.get_metric_history(identity, "loss/train")
    expected = [values["loss/train"] for _, values in expected_scalars(folder)]
    assert [each.value for each in history] == expected
    assert {each.path for each in client.list_artifacts(identity)} >= {"test images.png"}
