"""The summary of a finished run, `summary.json`."""

import pathlib
from typing import Any

from experiments.analysis.angles import angle_summary
from experiments.analysis.restore import describe_data
from experiments.runs.records import read_epochs
from experiments.training.experiment import Experiment, count_params, params_sha256
from experiments.training.metrics import TestMetrics, class_errors
from stn_jax.training import Params, Variables


def summarise(
    experiment: Experiment,
    params: Params,
    variables: Variables | None,
    tested: TestMetrics,
    folder: pathlib.Path,
) -> dict[str, Any]:
    """The results of a run. Errors are in percent.

    Raises:
        RunError: if the record of an epoch is missing.
    """
    optimisation, means = experiment.config.optimisation, tested.means
    steps = optimisation.epochs * experiment.steps_per_epoch
    history = read_epochs(folder / "metrics.jsonl", optimisation.epochs)
    seconds = sum(record["seconds"] for record in history)
    return {
        "test_error": 100 * means["error"],
        "test_loss": means["loss"],
        "validation_error": history[-1]["validation_error"],
        **({"outside": means["outside"]} if "outside" in means else {}),
        **angle_summary(experiment, params, variables),
        "per_class_error": class_errors(tested.confusions).tolist(),
        "num_params": count_params(params),
        "params_sha256": params_sha256(params),
        "epochs": optimisation.epochs,
        "steps": steps,
        "train_seconds": seconds,
        "images_per_second": steps * optimisation.batch_size / seconds,
        "seed": optimisation.seed,
        "data": describe_data(experiment),
        "dataset": experiment.dataset.name,
        "train_examples": len(experiment.dataset.train),
    }
