"""What holds of a study, whatever happened to its workers."""

from collections import Counter
from collections.abc import Sequence

from optuna.trial import FrozenTrial, TrialState

from experiments.sweeps.shared_study import history, outcome


def check_nothing_is_lost_or_doubled(found: Sequence[FrozenTrial], wanted: int) -> None:
    """Every trial that its worker left is repeated once, and just what was wanted is done."""
    done = [trial for trial in found if trial.state in (TrialState.COMPLETE, TrialState.PRUNED)]
    left = {trial.number: trial for trial in found if trial.state == TrialState.FAIL}
    assert len(done) + len(left) == len(found)
    assert len(done) == wanted
    assert all(outcome(trial) is not None for trial in done)
    repeats = Counter(history(trial)[-1] for trial in found if history(trial))
    assert repeats == Counter(left.keys())
    for trial in found:
        for number in history(trial):
            # One that was left before its values were drawn has none to repeat.
            assert left[number].params.items() <= trial.params.items()
    values = Counter(str(trial.params) for trial in done)
    assert set(values.values()) == {1}
