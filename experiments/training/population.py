"""The compiled training of several members, one configuration each, in one program."""

import functools
import math
import time
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from experiments.datasets import Dataset
from experiments.runs.checkpoints import at_start_of_epoch
from experiments.settings.access import replace_settings
from experiments.settings.config import Config, Data
from experiments.settings.traced import static_config, traced_values
from experiments.training import loop, preprocessing, sharding
from experiments.training.experiment import (
    EVALUATION_BATCH,
    VALIDATION,
    Experiment,
    assemble_experiment,
    count_params,
    initial_state,
    load_dataset,
    params_sha256,
)
from experiments.training.loop import Callback, Loop
from experiments.training.metrics import EpochMetrics, Record, epoch_record
from stn_jax import population, training
from stn_jax.training import Batch, Means, TrainState, Values
from stn_jax.training.population import Strategy, Trainable

# (epoch, records of the members; None for inactive ones) -> which members continue.
OnEpoch = Callable[[int, Sequence[Record | None]], Sequence[bool]]


class MemberResult(NamedTuple):
    """The result of a member.

    Attributes:
        validation_error: in percent, after its last epoch; NaN if it diverged or its last
            validation loss is not finite.
        epochs: the number of epochs that it trained.
        steps: the number of updates.
        num_params: the number of parameters.
        diverged_at: the first step that was not finite; None if every step was.
        seconds: its share of the population's time.
        params_sha256: the fingerprint of its parameters.
    """

    validation_error: float
    epochs: int
    steps: int
    num_params: int
    diverged_at: int | None
    seconds: float
    params_sha256: str


def all_continue(epoch: int, records: Sequence[Record | None]) -> Sequence[bool]:
    """Stops no member."""
    return [True] * len(records)


def train_population(
    configs: Sequence[Config],
    *,
    strategy: Strategy | None = None,
    mesh: Mesh | None = None,
    on_epoch: OnEpoch = all_continue,
) -> list[MemberResult]:
    """Trains configurations of one program. Only the validation split is evaluated.

    Args:
        configs: configurations that differ only in traced settings, as `group_by_program`
            groups them.
        strategy: as in `stn_jax.population.over_members`.
        mesh: devices, with an axis `member` and optionally an axis `batch`.
        on_epoch: called after every epoch; returns which members continue.

    Returns:
        The result of each configuration.

    Raises:
        DatasetError: if the data cannot be loaded.
        ConfigError: if settings do not fit the data.
    """
    started = time.perf_counter()
    trainer = PopulationTrainer(configs, strategy, mesh)
    steps, epochs = trainer.steps_per_epoch, configs[0].optimisation.epochs
    snapshots = [at_start_of_epoch(state, steps) for state in trainer.initial_states()]
    training_loop = loop.start(trainer, epochs, snapshots)
    watch = _Watch(on_epoch, len(configs))
    errors = loop.run(training_loop, [watch])
    seconds = (time.perf_counter() - started) / len(configs)
    validation_errors = [
        np.nan if record is None or i in errors else record["validation_error"]
        for i, record in enumerate(watch.last)
    ]
    states = sharding.unstack_members(training_loop.states, len(configs))
    return [
        _result(state, steps, error, seconds)
        for state, error in zip(states, validation_errors, strict=True)
    ]


class _Watch(Callback):
    """Calls `on_epoch`, and keeps the last record of each member."""

    def __init__(self, on_epoch: OnEpoch, count: int) -> None:
        self._on_epoch = on_epoch
        self.last: list[Record | None] = [None] * count

    def on_epoch(self, loop: Loop, records: Sequence[Record | None]) -> None:
        self.last = [new or old for new, old in zip(records, self.last, strict=True)]
        loop.active &= np.asarray(self._on_epoch(loop.epoch, records))


def _result(state: TrainState, steps: int, validation_error: float, seconds: float) -> MemberResult:
    step, diverged = int(state.step), bool(state.diverged)
    return MemberResult(
        validation_error=validation_error,
        epochs=math.ceil((step + diverged) / steps),
        steps=step,
        num_params=count_params(state.params),
        diverged_at=step + 1 if diverged else None,
        seconds=seconds,
        params_sha256=params_sha256(state.params),
    )


class PopulationTrainer:
    """Trains members of one program; a `Trainer`.

    The number of members is filled up to a power of two on each device, so that populations of
    similar size share programs. Members that fill up are never active.

    Args:
        configs: one for each member; they differ only in traced settings.
        strategy: as in `stn_jax.population.over_members`.
        mesh: devices, with an axis `member` and optionally an axis `batch`.

    Attributes:
        experiments: of the members.

    Raises:
        DatasetError: if the data cannot be loaded.
        ConfigError: if settings do not fit the data.
    """

    def __init__(
        self, configs: Sequence[Config], strategy: Strategy | None, mesh: Mesh | None
    ) -> None:
        shape, self._mesh = static_config(configs[0]), mesh
        base, self._programs = _compiled(shape, strategy, mesh)
        _, self._training, self._validation = _placed(_source(shape.data), mesh)
        self.num_members, self.steps_per_epoch = len(configs), base.steps_per_epoch
        self.experiments = [
            assemble_experiment(config, base.dataset, base.normalisation) for config in configs
        ]
        rows = 1 if mesh is None else mesh.shape[population.MEMBER]
        self._filled = rows * 2 ** math.ceil(math.log2(max(len(configs) / rows, 1)))
        self._hparams = _stack([*configs, *[configs[-1]] * (self._filled - len(configs))])

    def initial_states(self) -> list[TrainState]:
        """The state of each member before the first step."""
        return sharding.unstack_members(self._programs.init(self._hparams), self.num_members)

    def join(self, states: Sequence[TrainState]) -> TrainState:
        """The states with a leading axis of members."""
        filled = [*states, *states[-1:] * (self._filled - self.num_members)]
        return sharding.stack_members(filled, self._mesh)

    def member(self, states: TrainState, index: int) -> TrainState:
        """The state of one member."""
        return sharding.take_member(states, index)

    def order(self, states: TrainState, epoch: int) -> jax.Array:
        """The examples of each batch of an epoch, `[m, steps, b]`."""
        return self._programs.orders(states.key, epoch)

    def train(
        self, states: TrainState, order: jax.Array, part: slice, active: np.ndarray
    ) -> tuple[TrainState, Values]:
        """The states after a part of an epoch, and the values of its steps, `[m, steps]`."""
        return self._programs.steps(
            states, self._hparams, self._training, order[:, part], self._fill(active)
        )

    def evaluate(self, states: TrainState, active: np.ndarray) -> Means:
        """The means over the validation split, `[m]`; NaN for inactive members."""
        return self._programs.evaluate(states, self._hparams, self._validation, self._fill(active))

    def record(self, index: int, epoch: EpochMetrics) -> Record:
        """The record of a member's epoch."""
        return epoch_record(self.experiments[index], epoch)

    def _fill(self, active: np.ndarray) -> jax.Array:
        return jnp.asarray(np.pad(active, (0, self._filled - len(active))))


class _Programs(NamedTuple):
    """Compiled functions. All arguments and results except data and epoch have a leading axis `m`.

    Attributes:
        init: `hparams -> states`.
        orders: `(keys, epoch) -> [m, steps, b]`.
        steps: `(states, hparams, data, orders, active) -> (states, values of each step)`.
        evaluate: `(states, hparams, data, active) -> means`.
    """

    init: Callable[..., Any]
    orders: Callable[..., Any]
    steps: Callable[..., Any]
    evaluate: Callable[..., Any]


@functools.lru_cache(maxsize=16)
def _compiled(
    shape: Config, strategy: Strategy | None, mesh: Mesh | None
) -> tuple[Experiment, _Programs]:
    """The compiled functions of a shape. A sweep trains many populations of one shape."""
    dataset, _, _ = _placed(_source(shape.data), mesh)
    base = assemble_experiment(shape, dataset)
    return base, _compile(base, strategy, mesh)


def _source(data: Data) -> Data:
    """The settings that determine the stored examples."""
    return Data(
        data.dataset,
        data.data_dir,
        data.data_file,
        data.validation_size,
        data.image_size,
        data.keep_aspect,
    )


@functools.lru_cache(maxsize=1)  # a data set may be large, and programs of all shapes share it
def _placed(source: Data, mesh: Mesh | None) -> tuple[Dataset, Batch, Batch]:
    """A data set, with its training and validation examples on the devices."""
    dataset = load_dataset(source)
    splits = (preprocessing.as_batch(dataset.train), preprocessing.as_batch(dataset.validation))
    return dataset, *sharding.replicate(splits, mesh)


def _compile(base: Experiment, strategy: Strategy | None, mesh: Mesh | None) -> _Programs:
    lifted: dict[str, Any] = {"strategy": strategy, "mesh": mesh}

    def member(hparams: Any) -> Experiment:
        config = replace_settings(base.config, hparams)
        return assemble_experiment(config, base.dataset, base.normalisation)

    def trained(hparams: Any) -> Trainable:
        made = member(hparams)
        preprocess = sharding.shard_batches(made.train_preprocess, mesh)
        return Trainable(made.train_objective, made.optimizer, preprocess)

    def tested(hparams: Any) -> Trainable:
        made = member(hparams)
        preprocess = sharding.shard_batches(made.preprocess, mesh)
        return Trainable(made.test_objective, made.optimizer, preprocess)

    def evaluate(states: TrainState, hparams: Any, data: Any, active: Any) -> Any:
        keys = jax.vmap(lambda each: member(each).key(VALIDATION))(hparams)
        arrays = (keys, states.params, hparams, data, active)
        options = lifted | {"batch_size": EVALUATION_BATCH, "variables": states.variables}
        return population.evaluate(tested, *arrays, **options)

    order = functools.partial(
        training.epoch_order,
        num_examples=len(base.dataset.train.labels),
        batch_size=base.config.optimisation.batch_size,
    )
    init = population.over_members(lambda hparams: initial_state(member(hparams)), **lifted)
    return _Programs(
        init=jax.jit(init),
        orders=jax.jit(jax.vmap(order, in_axes=(0, None))),
        steps=jax.jit(functools.partial(population.train_steps, trained, **lifted)),
        evaluate=jax.jit(evaluate),
    )


def _stack(configs: Sequence[Config]) -> dict[str, jax.Array]:
    """The traced settings, with a leading axis of configurations."""
    rows = [traced_values(config) for config in configs]
    return {
        name: jnp.asarray(
            np.asarray([row[name] for row in rows], np.uint32 if name == "seed" else np.float32)
        )
        for name in rows[0]
    }
