"""Trackers: where the records of a run go in addition to its own files.

Each run has TensorBoard files, and `--tracker` adds Weights & Biases or MLflow. All receive the
same records, under the same names.
"""

import contextlib
import functools
import importlib.util
import os
import pathlib
import secrets
import time
import types
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Protocol

import numpy as np

from experiments.runs.records import read_json, write_json
from experiments.runs.tensorboard import TensorBoardWriter
from experiments.settings.access import format_value, settings_by_name
from experiments.settings.config import Config
from experiments.settings.errors import ConfigError, print_warning
from experiments.settings.relations import has_effect

PROJECT = "stn_jax"  # unless the service's own variable names another project or experiment
IDENTITY = "tracker.json"  # what a resumed run is called in its service
# The groups of the numbers of an epoch and of the test set.
GROUPED: Mapping[str, str] = types.MappingProxyType(
    {
        "train_loss": "loss/train",
        "validation_loss": "loss/validation",
        "test_loss": "loss/test",
        "train_error": "error/train",
        "validation_error": "error/validation",
        "test_error": "error/test",
        "outside": "transformer/outside",
        "learning_rate": "optimisation/learning_rate",
        "gradient_norm": "optimisation/gradient_norm",
        "step": "optimisation/step",
        "seconds": "speed/seconds",
        "images_per_second": "speed/images_per_second",
    }
)
TEST_RESULTS = ("test_error", "test_loss")
# The numbers by which TensorBoard compares runs.
COMPARED = (*TEST_RESULTS, "validation_error", "validation_loss")

Values = Mapping[str, float]
Settings = Mapping[str, bool | int | float | str]


class Tracker(Protocol):
    """Receives the records of one run."""

    def add_scalars(self, values: Values, epoch: int) -> None:
        """The numbers of an epoch."""
        ...

    def add_images(self, images: Mapping[str, np.ndarray], epoch: int) -> None:
        """Images `[n, h, w, c]` in [0, 1], by title."""
        ...

    def add_results(self, values: Values, epoch: int) -> None:
        """The numbers of the finished run."""
        ...

    def close(self, *, finished: bool) -> None:
        """Ends the tracking. A run that is not finished may be resumed."""
        ...


def grouped(values: Mapping[str, Any]) -> dict[str, float]:
    """The numbers that trackers show, under names such as `loss/train`."""
    return {GROUPED[name]: value for name, value in values.items() if name in GROUPED}


def test_results(summary: Mapping[str, Any]) -> dict[str, float]:
    """The results on the test set, under such names."""
    return grouped({name: summary[name] for name in TEST_RESULTS})


def hyper_parameters(config: Config) -> Settings:
    """The settings of the training that have an effect and a value."""
    training = Config(config.data, config.model, config.optimisation)
    return {
        name: format_value(value) if isinstance(value, tuple) else value
        for name, value in settings_by_name(training).items()
        if value is not None and name not in vars(config.run) and has_effect(config, name)
    }


def check_tracker(name: str) -> None:
    """Raises `ConfigError` if the package of `--tracker` is not installed."""
    if name == "none":
        return
    found = importlib.util.find_spec(name)
    # A folder of the same name, which offline runs may leave behind, has no origin.
    if found is None or found.origin is None:
        raise ConfigError(
            f"--tracker {name} must be given with the package {name} installed, which is missing: "
            f"pip install 'stn-jax[{name}]'"
        )


@contextlib.contextmanager
def open_trackers(config: Config, folder: pathlib.Path, epochs: int) -> Iterator[Sequence[Tracker]]:
    """Opens the trackers of a run while the block runs.

    Args:
        config: the settings of the run.
        folder: its folder.
        epochs: the epochs that it has recorded. TensorBoard hides records of later epochs.

    Raises:
        RunError: if the TensorBoard files cannot be written.
    """
    settings, name = hyper_parameters(config), config.run.tracker
    board = TensorBoardWriter(folder / "tensorboard", epochs)
    board.add_settings(settings, [GROUPED[each] for each in COMPARED])
    trackers: list[Tracker] = [board]
    if name != "none":
        start = functools.partial(SERVICES[name], folder, settings)
        trackers.append(Guarded(f"--tracker {name}", start))
    finished = False
    try:
        yield trackers
        finished = True
    finally:
        for tracker in trackers:
            tracker.close(finished=finished)


class Guarded:
    """A tracker whose errors end the tracking, with one warning, and never the run.

    Args:
        name: for the warning.
        start: makes the tracker.
    """

    def __init__(self, name: str, start: Callable[[], Tracker]) -> None:
        self._name = name
        self._tracker: Tracker | None = None
        with self._warning():
            self._tracker = start()

    @contextlib.contextmanager
    def _warning(self) -> Iterator[None]:
        try:
            yield
        except Exception as error:  # a service may raise anything
            self._tracker = None
            lines = str(error).splitlines() or [type(error).__name__]
            print_warning(f"{self._name}: {lines[0]}; the run continues without it")

    def _pass(self, record: Callable[[Tracker], None]) -> None:
        with self._warning():
            if self._tracker is not None:
                record(self._tracker)

    def add_scalars(self, values: Values, epoch: int) -> None:
        """The numbers of an epoch."""
        self._pass(lambda tracker: tracker.add_scalars(values, epoch))

    def add_images(self, images: Mapping[str, np.ndarray], epoch: int) -> None:
        """Images, by title."""
        self._pass(lambda tracker: tracker.add_images(images, epoch))

    def add_results(self, values: Values, epoch: int) -> None:
        """The numbers of the finished run."""
        self._pass(lambda tracker: tracker.add_results(values, epoch))

    def close(self, *, finished: bool) -> None:
        """Ends the tracking."""
        self._pass(lambda tracker: tracker.close(finished=finished))


# --- Services: their packages take seconds to import ----------------------------------------------


class WandbTracker:
    """A run of Weights & Biases, which reads WANDB_MODE, WANDB_PROJECT and WANDB_ENTITY.

    Args:
        folder: of the run. The service keeps its files there.
        settings: of the training.
    """

    def __init__(self, folder: pathlib.Path, settings: Settings) -> None:
        import wandb  # pyrefly: ignore  # in the extra `wandb`

        identity = _identity(folder, "wandb", lambda: secrets.token_hex(4))
        options = wandb.Settings(console="off", silent=True)
        project = {} if "WANDB_PROJECT" in os.environ else {"project": PROJECT}
        self._run: Any = wandb.init(
            **project,
            id=identity,
            name=folder.name,
            resume="allow",
            dir=str(folder),
            config=dict(settings),
            settings=options,
        )
        self._image = wandb.Image
        self._run.define_metric("*", step_metric="epoch")

    def add_scalars(self, values: Values, epoch: int) -> None:
        """The numbers of an epoch."""
        self._run.log({"epoch": epoch, **values})

    def add_images(self, images: Mapping[str, np.ndarray], epoch: int) -> None:
        """Images, by title."""
        found = {title: self._image(_row(each), caption=title) for title, each in images.items()}
        self._run.log({"epoch": epoch, **found})

    def add_results(self, values: Values, epoch: int) -> None:
        """The numbers of the finished run, in its summary."""
        del epoch
        self._run.summary.update(dict(values))

    def close(self, *, finished: bool) -> None:
        """Ends the run, and waits until the service has its records."""
        self._run.finish(exit_code=0 if finished else 1)


class MlflowTracker:
    """A run of MLflow, which reads MLFLOW_TRACKING_URI and MLFLOW_EXPERIMENT_NAME.

    Args:
        folder: of the run.
        settings: of the training.
    """

    def __init__(self, folder: pathlib.Path, settings: Settings) -> None:
        import mlflow  # pyrefly: ignore  # in the extra `mlflow`

        self._client: Any = mlflow.MlflowClient()
        self._metric = mlflow.entities.Metric
        self._run = _identity(folder, "mlflow", lambda: self._create(folder.name))
        parameters = [mlflow.entities.Param(name, str(value)) for name, value in settings.items()]
        self._client.log_batch(self._run, params=parameters)

    def _create(self, name: str) -> str:
        experiment = os.environ.get("MLFLOW_EXPERIMENT_NAME", PROJECT)
        found = self._client.get_experiment_by_name(experiment)
        number = found.experiment_id if found else self._client.create_experiment(experiment)
        return self._client.create_run(number, run_name=name).info.run_id

    def add_scalars(self, values: Values, epoch: int) -> None:
        """The numbers of an epoch."""
        now = int(1000 * time.time())
        metrics = [self._metric(name, value, now, epoch) for name, value in values.items()]
        self._client.log_batch(self._run, metrics=metrics)

    def add_images(self, images: Mapping[str, np.ndarray], epoch: int) -> None:
        """Images, by title."""
        del epoch
        for title, each in images.items():
            self._client.log_image(self._run, _row(each), f"{title}.png")

    def add_results(self, values: Values, epoch: int) -> None:
        """The numbers of the finished run."""
        self.add_scalars(values, epoch)

    def close(self, *, finished: bool) -> None:
        """Ends the run."""
        self._client.set_terminated(self._run, "FINISHED" if finished else "KILLED")


SERVICES: Mapping[str, Callable[[pathlib.Path, Settings], Tracker]] = types.MappingProxyType(
    {"wandb": WandbTracker, "mlflow": MlflowTracker}
)


def _identity(folder: pathlib.Path, service: str, create: Callable[[], str]) -> str:
    """What a run is called in a service. A resumed run continues under its name."""
    path = folder / IDENTITY
    known = read_json(path) if path.exists() else {}
    if service not in known:
        known |= {service: create()}
        write_json(path, known)
    return known[service]


def _row(images: np.ndarray) -> np.ndarray:
    """Bytes of images side by side: `[h, n * w]`, or `[h, n * w, 3]` in colour."""
    row = np.concatenate(list(np.rint(255 * images).astype(np.uint8)), axis=1)
    return row[..., 0] if row.shape[-1] == 1 else row
