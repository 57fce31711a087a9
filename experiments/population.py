"""Trains many configurations in one program: what `experiments.sweep` is made of."""

import functools
import math
import operator
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from experiments import datasets, devices, members, preparation
from experiments import experiment as setup
from experiments.config import Config, Data
from experiments.experiment import Experiment
from experiments.train import EVALUATION_BATCH, STEPS_PER_DISPATCH
from stn_jax import population, training
from stn_jax.population import How, Trainable
from stn_jax.training import Batch, TrainState

Record = Mapping[str, float]
# (epoch, what each member came to in it, None for those stopped before) -> which of them go on.
OnEpoch = Callable[[int, Sequence[Record | None]], Sequence[bool]]


class Result(NamedTuple):
    """What a member came to.

    Attributes:
        validation_error: in percent, after its last epoch; NaN if it diverged.
        epochs: how many it trained.
        steps: how many it took.
        num_params: its number of parameters.
        diverged_at: the step that was not finite, if one was.
        seconds: its share of the time that the population took.
        params_sha256: the fingerprint of its parameters.
    """

    validation_error: float
    epochs: int
    steps: int
    num_params: int
    diverged_at: int | None
    seconds: float
    params_sha256: str


def all_go_on(epoch: int, records: Sequence[Record | None]) -> Sequence[bool]:
    """Stops no member."""
    return [True] * len(records)


def train(
    configs: Sequence[Config],
    *,
    how: How | None = None,
    mesh: Mesh | None = None,
    on_epoch: OnEpoch = all_go_on,
) -> list[Result]:
    """Trains configurations of one program; looks at the validation split only.

    Args:
        configs: what `members.programs` put together.
        how: as in `stn_jax.population.over_members`.
        mesh: devices, with an axis `member` and perhaps one `batch`.
        on_epoch: is told of every epoch, and says who goes on.

    Returns:
        A result of each configuration.

    Raises:
        DatasetError: if the data cannot be had.
        ConfigError: if settings do not fit the data.
    """
    started, count = time.perf_counter(), len(configs)
    made = assemble(configs, how, mesh)
    states = made.programs.init(made.hyper)
    active = made.active.copy()
    last: list[Record] = [{"epoch": 0, "validation_error": np.nan}] * count
    for epoch in range(1, made.base.config.optimisation.epochs + 1):
        states, values = made.train_epoch(states, epoch, active)
        tested = made.validate(states, active)
        diverged = np.asarray(states.diverged)
        records = [
            _record(epoch, i, values, tested, diverged[i]) if active[i] else None
            for i in range(count)
        ]
        last = [new or old for new, old in zip(records, last, strict=True)]
        active[:count] &= np.asarray(on_epoch(epoch, records)) & ~diverged[:count]
        if not active.any():
            break
    seconds = (time.perf_counter() - started) / count
    return [_result(states, i, last[i], seconds) for i in range(count)]


class Population(NamedTuple):
    """Configurations of one program, on their devices. The first axis of arrays is `m`.

    Attributes:
        base: what they share, with numbers that stand for theirs.
        programs: the compiled parts.
        hyper: their numbers.
        active: which of the `m` there are: the others fill up the devices.
        training: the training examples.
        validation: those held out.
    """

    base: Experiment
    programs: "_Programs"
    hyper: dict[str, jax.Array]
    active: np.ndarray
    training: Batch
    validation: Batch

    def train_epoch(
        self, states: TrainState, epoch: int, active: np.ndarray
    ) -> tuple[TrainState, dict[str, np.ndarray]]:
        """The states after an epoch, counted from 1, and the values of each step, `[m, steps]`."""
        orders = self.programs.orders(states.key, epoch - 1)
        parts = []
        for start in range(0, orders.shape[1], STEPS_PER_DISPATCH):
            part = orders[:, start : start + STEPS_PER_DISPATCH]
            states, values = self.programs.steps(
                states, self.hyper, self.training, part, jnp.asarray(active)
            )
            parts.append(values)
        values = {name: np.concatenate([part[name] for part in parts], 1) for name in parts[0]}
        return states, values

    def validate(self, states: TrainState, active: np.ndarray) -> dict[str, jax.Array]:
        """The means over the validation split, `[m]`; NaN of who is not active."""
        return self.programs.evaluate(states, self.hyper, self.validation, jnp.asarray(active))


def assemble(configs: Sequence[Config], how: How | None, mesh: Mesh | None) -> Population:
    """Puts configurations of one program together; arguments and errors as of `train`."""
    count, shape = len(configs), members.shape(configs[0])
    base, programs = _compiled(shape, how, mesh)
    _, data, validation = _placed(_source(shape.data), mesh)
    # To a power of two on each device, so that populations of about a size share programs: the last
    # is repeated, and never active.
    rows = 1 if mesh is None else mesh.shape[population.MEMBER]
    filled = rows * 2 ** math.ceil(math.log2(max(count / rows, 1)))
    hyper = _stack([*configs, *[configs[-1]] * (filled - count)])
    active = np.arange(filled) < count
    return Population(base, programs, hyper, active, data, validation)


class _Programs(NamedTuple):
    """The compiled parts; of every argument and result but data and epoch, the first axis is `m`.

    Attributes:
        init: `hyper -> states`.
        orders: `(keys, epoch) -> [m, steps, b]`.
        steps: `(states, hyper, data, orders, active) -> (states, values of each step)`.
        evaluate: `(states, hyper, data, active) -> means`.
    """

    init: Callable[..., Any]
    orders: Callable[..., Any]
    steps: Callable[..., Any]
    evaluate: Callable[..., Any]


@functools.lru_cache(maxsize=16)
def _compiled(shape: Config, how: How | None, mesh: Mesh | None) -> tuple[Experiment, _Programs]:
    """What populations of one shape share: a sweep trains one after another."""
    dataset, _, _ = _placed(_source(shape.data), mesh)
    base = setup.assemble(shape, dataset)
    return base, _compile(base, how, mesh)


def _source(data: Data) -> Data:
    """What decides which examples there are."""
    return Data(
        data.dataset,
        data.data_dir,
        data.data_file,
        data.validation_size,
        data.image_size,
        data.keep_aspect,
    )


@functools.lru_cache(maxsize=1)  # it may be large, and programs of any shape share it
def _placed(source: Data, mesh: Mesh | None) -> tuple[datasets.Dataset, Batch, Batch]:
    """A data set, and its training and validation examples on the devices."""
    dataset = setup.load(source)
    splits = (preparation.as_batch(dataset.train), preparation.as_batch(dataset.validation))
    return dataset, *devices.replicate(splits, mesh)


def _compile(base: Experiment, how: How | None, mesh: Mesh | None) -> _Programs:
    lifted: dict[str, Any] = {"how": how, "mesh": mesh}

    def member(hyper: Any) -> Experiment:
        config = members.with_numbers(base.config, hyper)
        return setup.assemble(config, base.dataset, base.normalisation)

    def trained(hyper: Any) -> Trainable:
        made = member(hyper)
        prepare = devices.shard_batches(made.train_prepare, mesh)
        return Trainable(made.train_objective, made.optimizer, prepare)

    def tested(hyper: Any) -> Trainable:
        made = member(hyper)
        prepare = devices.shard_batches(made.prepare, mesh)
        return Trainable(made.test_objective, made.optimizer, prepare)

    def evaluate(states: TrainState, hyper: Any, data: Any, active: Any) -> Any:
        keys = jax.vmap(lambda each: member(each).key(setup.VALIDATION))(hyper)
        arrays = (states.params, hyper, data, keys, active)
        return population.evaluate(tested, *arrays, batch_size=EVALUATION_BATCH, **lifted)

    order = functools.partial(
        training.epoch_order,
        num_examples=len(base.dataset.train.labels),
        batch_size=base.config.optimisation.batch_size,
    )
    init = population.over_members(lambda hyper: setup.initial_state(member(hyper)), **lifted)
    return _Programs(
        init=jax.jit(init),
        orders=jax.jit(jax.vmap(order, in_axes=(0, None))),
        steps=jax.jit(functools.partial(population.train_steps, trained, **lifted)),
        evaluate=jax.jit(evaluate),
    )


def _stack(configs: Sequence[Config]) -> dict[str, jax.Array]:
    """The numbers of each configuration, a row of each."""
    rows = [members.numbers(config) for config in configs]
    return {
        name: jnp.asarray(
            np.asarray([row[name] for row in rows], np.uint32 if name == "seed" else np.float32)
        )
        for name in rows[0]
    }


def _record(
    epoch: int, member: int, values: Mapping[str, Any], tested: Mapping[str, Any], diverged: np.bool
) -> Record:
    """What a member came to in an epoch."""
    return {
        "epoch": epoch,
        "train_loss": float(values["loss"][member].mean()),
        "train_error": 100 * float(values["error"][member].mean()),
        "validation_loss": np.nan if diverged else float(tested["loss"][member]),
        "validation_error": np.nan if diverged else 100 * float(tested["error"][member]),
    }


def _result(states: TrainState, member: int, last: Record, seconds: float) -> Result:
    state = jax.tree.map(operator.itemgetter(member), states)
    return Result(
        validation_error=last["validation_error"],
        epochs=int(last["epoch"]),
        steps=int(state.step),
        num_params=setup.num_params(state.params),
        diverged_at=int(state.step) + 1 if state.diverged else None,
        seconds=seconds,
        params_sha256=setup.params_sha256(state.params),
    )
