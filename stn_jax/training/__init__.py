"""Training as pure functions: a state, a step, many steps in one program, and evaluation.

A training is defined by an objective, `(params, batch, key) -> values per example`, and an optax
gradient transformation. This package does not depend on Flax, images or transformers. Data is a
dictionary of arrays with one leading axis of examples; all of it stays on the device.

If a network has other arrays that change during training, such as the statistics of batch
normalisation, `TrainState.variables` carries them. The objective is then `(params, batch, key,
variables) -> (values per example, variables)`.

Arguments come in this order: functions, which `functools.partial` binds, then the key, then arrays;
only objectives and `apply_fn` have the order of Flax, with the key after parameters and batch.

On a mesh of devices, preprocessing places each batch: `jax.sharding.reshard(batch,
PartitionSpec("batch"))` on Explicit axes (within `jax.set_mesh`), and
`jax.lax.with_sharding_constraint` on Auto axes. Everything else follows from it. The data itself
must be replicated, because shuffling gathers examples from all of it.

Random numbers depend on counters, not on a key that is carried along. A run's key is folded into
three: for the objective, for preprocessing and for the order of examples. Step i uses
`fold_in(key, i)` of the first two, and epoch j uses `fold_in(key, j)` of the third. So training
that resumes from a checkpoint continues exactly as without the interruption.

Training stops at the first non-finite update: the state stays at the last good step, and
`diverged` is set. The state is selected by `where`, so a diverged member of a population does not
affect the others.
"""

from stn_jax.training.fit import evaluate, fit, per_example
from stn_jax.training.objectives import (
    Batch,
    Means,
    Objective,
    Preprocess,
    StatefulObjective,
    Values,
    classification,
)
from stn_jax.training.state import Params, TrainState, Variables, init_state, scale_updates
from stn_jax.training.steps import epoch_order, take, train_step, train_steps

__all__ = [
    "Batch",
    "Means",
    "Objective",
    "Params",
    "Preprocess",
    "StatefulObjective",
    "TrainState",
    "Values",
    "Variables",
    "classification",
    "epoch_order",
    "evaluate",
    "fit",
    "init_state",
    "per_example",
    "scale_updates",
    "take",
    "train_step",
    "train_steps",
]
