"""The compiled training of the localisation networks, one for each digit."""

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from experiments.colocalisation.digit_images import DIGITS, PARAMETERS, TRAINING, key_for
from experiments.colocalisation.model import Embed, Localiser, add_patches, make_objective
from experiments.colocalisation.options import ColocalisationSettings
from experiments.training import sharding
from experiments.training.metrics import EpochMetrics, Record
from stn_jax import population, training
from stn_jax.training import TrainState, Values


class DigitsTrainer:
    """Trains a localisation network for each digit, all in one program; a `loop.Trainer`.

    Args:
        settings: the settings.
        embed: the encoder.
        images: `[digits, n, 84, 84, 1]`.
    """

    num_members = len(DIGITS)

    def __init__(self, settings: ColocalisationSettings, embed: Embed, images: jax.Array) -> None:
        self._settings, self._images = settings, images
        self.steps_per_epoch = settings.images // settings.batch_size
        steps = settings.epochs * self.steps_per_epoch
        schedule = optax.cosine_decay_schedule(settings.learning_rate, steps)
        self._optimizer = optax.chain(optax.clip_by_global_norm(1.0), optax.adamw(schedule))
        objective = make_objective(embed)

        def train(state: TrainState, images: jax.Array, order: jax.Array) -> Any:
            return training.train_steps(
                objective, self._optimizer, add_patches, state, {"image": images}, order
            )

        def order(key: jax.Array, epoch: int) -> jax.Array:
            return training.epoch_order(key, epoch, settings.images, settings.batch_size)

        self._mesh = sharding.member_mesh(divides=len(DIGITS))
        self._train = jax.jit(population.over_members(train, mesh=self._mesh))
        self._order = jax.jit(jax.vmap(order, in_axes=(0, None)))

    def initial_states(self) -> list[TrainState]:
        """The state of each network before the first step."""

        @jax.jit
        @jax.vmap
        def init(keys: jax.Array) -> TrainState:
            params = Localiser().init(keys[0], self._images[0, :1])["params"]
            return training.init_state(keys[1], params, self._optimizer)

        uses = (PARAMETERS, TRAINING)
        keys = [jax.random.split(key_for(self._settings, use), len(DIGITS)) for use in uses]
        return sharding.unstack_members(init(jnp.stack(keys, axis=1)), len(DIGITS))

    def join(self, states: Sequence[TrainState]) -> TrainState:
        """The states with a leading axis of digits."""
        return sharding.stack_members(states, self._mesh)

    def member(self, states: TrainState, index: int) -> TrainState:
        """The state of one network."""
        return sharding.take_member(states, index)

    def order(self, states: TrainState, epoch: int) -> jax.Array:
        """The images of each batch of an epoch, `[digits, steps, b]`."""
        return self._order(states.key, epoch)

    def train(
        self, states: TrainState, order: jax.Array, part: slice, active: np.ndarray
    ) -> tuple[TrainState, Values]:
        """The states after a part of an epoch, and the values of its steps."""
        del active
        return self._train(states, self._images, order[:, part])

    def evaluate(self, states: TrainState, active: np.ndarray) -> Values:
        """Nothing: no setting depends on the true boxes."""
        del states, active
        return {}

    def record(self, index: int, epoch: EpochMetrics) -> Record:
        """The mean loss of an epoch."""
        del index
        return {"loss": float(np.mean(epoch.values["loss"]))}
