"""The rows of a report's table of trials, and a one-line summary of a sweep."""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

from optuna.trial import FrozenTrial, TrialState

from experiments.sweep.definition import (
    SweepDefinition,
    abbreviate_value,
    format_errors,
    format_trial_count,
)
from experiments.sweep.shared_study import is_given_up, retry_history, trial_outcome


class TrialRow(NamedTuple):
    """A trial in the table.

    Attributes:
        number: the trial's number.
        is_complete: whether it trained to the last epoch.
        cells: the text of each column.
    """

    number: int
    is_complete: bool
    cells: Sequence[str]


def table_headings(definition: SweepDefinition) -> list[str]:
    """The heading of each column; that of the last one, for remarks, is empty."""
    return ["trial", "error, %", *definition.space, "epochs", "seconds", ""]


def table_rows(definition: SweepDefinition, trials: Sequence[FrozenTrial]) -> list[TrialRow]:
    """The rows of the table: complete trials from best to worst, then the others."""
    copies = {retry_history(trial)[-1]: trial.number for trial in trials if retry_history(trial)}

    def key(trial: FrozenTrial) -> tuple[bool, float, int]:
        complete = trial.state == TrialState.COMPLETE
        return not complete, trial.value or 0.0 if complete else 0.0, trial.number

    return [_row(definition, trial, copies) for trial in sorted(trials, key=key)]


def _row(definition: SweepDefinition, trial: FrozenTrial, copies: Mapping[int, int]) -> TrialRow:
    outcome = trial_outcome(trial)
    errors, epochs = (outcome.errors, outcome.epochs) if outcome is not None else ((), 0)
    cells = [
        str(trial.number),
        format_errors(errors) if errors else "",
        *(abbreviate_value(trial.params.get(name, "")) for name in definition.space),
        str(epochs) if epochs else "",
        f"{outcome.seconds:.0f}" if outcome is not None and epochs else "",
        _remark(trial, copies),
    ]
    return TrialRow(trial.number, trial.state == TrialState.COMPLETE, cells)


def _remark(trial: FrozenTrial, copies: Mapping[int, int]) -> str:
    """Why a trial is not complete."""
    outcome = trial_outcome(trial)
    if outcome is not None:
        return "" if outcome.kind == "complete" else f"{outcome.kind}: {outcome.reason}"
    if is_given_up(trial):
        return f"abandoned: its workers ended {len(retry_history(trial)) + 1} times"
    if trial.state == TrialState.FAIL:
        copy = copies.get(trial.number)
        return "abandoned: " + ("to be run again" if copy is None else f"run again as {copy}")
    return trial.state.name.lower()


def summarise_trials(trials: Sequence[FrozenTrial]) -> str:
    """Counts the trials of each kind, in one line."""
    outcomes = [trial_outcome(trial) for trial in trials]
    kinds = [outcome.kind for outcome in outcomes if outcome is not None]
    states = [trial.state for trial in trials]
    counts = {
        "complete": kinds.count("complete"),
        "pruned": kinds.count("pruned"),
        "diverged": kinds.count("diverged"),
        "impossible": kinds.count("impossible"),
        "running": states.count(TrialState.RUNNING),
        "waiting": states.count(TrialState.WAITING),
        "abandoned by their workers": states.count(TrialState.FAIL),
    }
    listed = [f"{count} {kind}" for kind, count in counts.items() if count]
    return f"{format_trial_count(len(trials))}: {', '.join(listed)}" if trials else "no trials yet"
