"""Reports the epochs of trials that are trained together, and decides which of them stop early."""

import math
import statistics
import typing
from collections.abc import Sequence
from typing import NamedTuple

import optuna

from experiments.settings.config import Config
from experiments.sweep.shared_study import SharedStudy, TrialOutcome

if typing.TYPE_CHECKING:
    from experiments.training.metrics import Record
    from experiments.training.population import MemberResult


class DrawnTrial(NamedTuple):
    """A trial and the configuration of its first seed."""

    trial: optuna.Trial
    config: Config


class TrialMonitor:
    """Follows the trials of one training.

    Args:
        study: the study that holds the trials.
        trials: the trials.
        seeds: number of networks per trial. The networks of a trial are adjacent.
    """

    def __init__(self, study: SharedStudy, trials: Sequence[DrawnTrial], seeds: int) -> None:
        self._study, self._trials, self._seeds = study, trials, seeds
        self._stopped: dict[int, TrialOutcome] = {}

    def on_epoch(self, epoch: int, records: "Sequence[Record | None]") -> list[bool]:
        """Reports an epoch.

        Args:
            epoch: the epoch that ended, from 1.
            records: metrics of each network; None if it was stopped before.

        Returns:
            Whether each network continues. The networks of a trial stop together.
        """
        for index, drawn in enumerate(self._trials):
            if index not in self._stopped:
                outcome = self._judge(drawn, epoch, records[self._networks(index)])
                if outcome is not None:
                    self._stopped[index] = outcome
        trials = range(len(self._trials))
        return [index not in self._stopped for index in trials for _ in range(self._seeds)]

    def _networks(self, index: int) -> slice:
        """The networks of a trial."""
        return slice(self._seeds * index, self._seeds * (index + 1))

    def _judge(
        self, drawn: DrawnTrial, epoch: int, records: "Sequence[Record | None]"
    ) -> TrialOutcome | None:
        """The outcome of a trial that stops early; None if it continues or is complete."""
        optimisation = drawn.config.optimisation
        errors = []
        for i, record in enumerate(records):
            # The error is finite even if the logits are not; the loss is not.
            if record is None or not all(
                math.isfinite(record[name]) for name in ("validation_error", "validation_loss")
            ):
                reason = f"seed {optimisation.seed + i} diverged in epoch {epoch}"
                return TrialOutcome("diverged", reason=reason)
            errors.append(record["validation_error"])
        error = statistics.fmean(errors)
        if self._study.report(drawn.trial, error, epoch) or epoch == optimisation.epochs:
            return None
        return TrialOutcome("pruned", reason=f"{error:.2f} % after epoch {epoch}")

    def outcomes(self, results: "Sequence[MemberResult]") -> list[TrialOutcome]:
        """The outcome of each trial, given the result of each network."""
        outcomes = []
        for index in range(len(self._trials)):
            own = results[self._networks(index)]
            complete = TrialOutcome("complete", [result.validation_error for result in own])
            outcomes.append(
                self._stopped.get(index, complete)._replace(
                    epochs=max(result.epochs for result in own),
                    seconds=sum(result.seconds for result in own),
                    num_params=own[0].num_params,
                )
            )
        return outcomes
