"""Properties of every study, whatever happened to its workers."""

from collections import Counter
from collections.abc import Sequence

from optuna.trial import FrozenTrial, TrialState

from experiments.sweep.shared_study import retry_history, trial_outcome


def check_no_trial_is_lost_or_doubled(trials: Sequence[FrozenTrial], wanted: int) -> None:
    """Asserts that each abandoned trial has one copy, and that `wanted` trials are finished."""
    done = [trial for trial in trials if trial.state in (TrialState.COMPLETE, TrialState.PRUNED)]
    abandoned = {trial.number: trial for trial in trials if trial.state == TrialState.FAIL}
    assert len(done) + len(abandoned) == len(trials)
    assert len(done) == wanted
    assert all(trial_outcome(trial) is not None for trial in done)
    copies = Counter(retry_history(trial)[-1] for trial in trials if retry_history(trial))
    assert copies == Counter(abandoned.keys())
    for trial in trials:
        for number in retry_history(trial):
            # A trial may be abandoned before all of its parameters are drawn.
            assert abandoned[number].params.items() <= trial.params.items()
    params = Counter(str(trial.params) for trial in done)
    assert set(params.values()) == {1}
