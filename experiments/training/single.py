"""The compiled training of one network, whose batches may be spread over devices."""

import functools
from collections.abc import Sequence
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh

from experiments.training import preprocessing, sharding
from experiments.training.experiment import (
    EVALUATION_BATCH,
    VALIDATION,
    Experiment,
    initial_state,
)
from experiments.training.metrics import EpochMetrics, Record, epoch_record
from stn_jax import training
from stn_jax.training import Batch, Means, Params, TrainState, Values, Variables


class SingleTrainer:
    """Trains one network; a `Trainer` with one member.

    Args:
        experiment: what to train.
        mesh: devices, with an axis `batch`; None: one device.
    """

    num_members = 1

    def __init__(self, experiment: Experiment, mesh: Mesh | None = None) -> None:
        self._experiment, self._mesh = experiment, mesh
        self.steps_per_epoch = experiment.steps_per_epoch
        dataset = experiment.dataset
        self._training, self._validation, self._validation_key = sharding.replicate(
            (
                preprocessing.as_batch(dataset.train),
                preprocessing.as_batch(dataset.validation),
                experiment.key(VALIDATION),
            ),
            mesh,
        )
        preprocess = sharding.shard_batches(experiment.preprocess, mesh)
        train_preprocess = sharding.shard_batches(experiment.train_preprocess, mesh)

        def train(state: TrainState, data: Batch, order: jax.Array) -> tuple[TrainState, Values]:
            state, values = training.train_steps(
                experiment.train_objective,
                experiment.optimizer,
                train_preprocess,
                state,
                data,
                order,
            )
            return state, _as_member(values)

        def evaluate(
            key: jax.Array, params: Params, data: Batch, variables: Variables | None
        ) -> Means:
            arguments = (experiment.test_objective, preprocess, key, params, data)
            options: Any = {"batch_size": EVALUATION_BATCH, "variables": variables}
            return _as_member(training.evaluate(*arguments, **options))

        self._train, self._evaluate = jax.jit(train), jax.jit(evaluate)
        self._order = jax.jit(
            functools.partial(
                training.epoch_order,
                num_examples=len(dataset.train.labels),
                batch_size=experiment.config.optimisation.batch_size,
            )
        )

    def initial_states(self) -> list[TrainState]:
        """The state before the first step."""
        return [initial_state(self._experiment)]

    def join(self, states: Sequence[TrainState]) -> TrainState:
        """The state on the devices."""
        return sharding.replicate(states[0], self._mesh)

    def member(self, states: TrainState, index: int) -> TrainState:
        """The state itself."""
        del index
        return states

    def order(self, states: TrainState, epoch: int) -> jax.Array:
        """The examples of each batch of an epoch, `[steps, b]`."""
        return self._order(states.key, epoch)

    def train(
        self, states: TrainState, order: jax.Array, part: slice, active: np.ndarray
    ) -> tuple[TrainState, Values]:
        """The state after a part of an epoch, and the values of its steps, `[1, steps]`."""
        del active
        return self._train(states, self._training, order[part])

    def evaluate(self, states: TrainState, active: np.ndarray) -> Means:
        """The means over the validation split, `[1]`."""
        del active
        return self._evaluate(
            self._validation_key, states.params, self._validation, states.variables
        )

    def record(self, index: int, epoch: EpochMetrics) -> Record:
        """The record of an epoch."""
        del index
        return epoch_record(self._experiment, epoch)


def _as_member(tree: Any) -> Any:
    """Adds the axis of members."""
    return jax.tree.map(lambda leaf: leaf[None], tree)
