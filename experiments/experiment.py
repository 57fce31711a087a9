"""A configuration turned into the functions and arrays that training and drawing need."""

import dataclasses
import hashlib
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from experiments import config as configuration
from experiments import datasets, models, preparation
from experiments.config import VOLUMES, Config, ConfigError, Data, Model, flag
from stn_jax import outside_frame, training
from stn_jax.nn import SpatialTransformerNetwork


@dataclasses.dataclass(frozen=True)
class Experiment:
    """What a configuration stands for.

    Attributes:
        config: the configuration.
        dataset: its data, as stored.
        normalisation: of its images.
        network: its network.
        optimizer: its optimiser.
        schedule: the learning rate at each step.
        steps_per_epoch: steps a pass over the training data takes.
        prepare: from a batch as stored to one as the network gets it.
        train_prepare: the same for training: `prepare` of images that are augmented before.
        train_objective: what is minimised.
        test_objective: what is reported: the same, and the share of samples outside the frame.
        each_objective: what is known of each test example: also its label and the prediction.
    """

    config: Config
    dataset: datasets.Dataset
    normalisation: preparation.Normalisation
    network: SpatialTransformerNetwork
    optimizer: optax.GradientTransformation
    schedule: optax.Schedule
    steps_per_epoch: int
    prepare: training.Prepare
    train_prepare: training.Prepare
    train_objective: training.Objective
    test_objective: training.Objective
    each_objective: training.Objective

    def key(self, purpose: int) -> jax.Array:
        """A key of the run's seed for a purpose of its own."""
        return jax.random.fold_in(jax.random.key(self.config.optimisation.seed), purpose)

    def apply(self, params: Any, images: jax.Array, key: jax.Array | None) -> tuple[jax.Array, Any]:
        """The network's logits and intermediates; a key turns dropout on."""
        return apply_fn(self.network)(params, images, key)


# What the keys of a run are for. Test images are distorted by one key for every seed, so that all
# runs are measured on the same images.
PARAMETERS, TRAINING, VALIDATION = range(3)
TEST_KEY = 2015


def apply_fn(network: SpatialTransformerNetwork) -> Callable[..., Any]:
    """The network as `(params, images, key) -> (logits, intermediates)`."""

    def apply(params: Any, images: jax.Array, key: jax.Array | None) -> Any:
        rngs = None if key is None else {"dropout": key}
        return network.apply({"params": params}, images, rngs=rngs)

    return apply


def share_outside(intermediates: dict[str, Any]) -> training.Values:
    """The share of each example's samples that lie outside the image, mean over transformers."""
    if not intermediates:
        return {}
    outside = [outside_frame(each["grid"]) for each in intermediates.values()]
    shares = [jnp.mean(each, axis=range(1, each.ndim)) for each in outside]
    return {"outside": jnp.mean(jnp.stack(shares), axis=0)}


def _predicting(apply: Callable[..., Any]) -> training.Objective:
    """The values of a test, with each example's label and prediction."""

    def with_logits(params: Any, images: jax.Array, key: jax.Array | None) -> Any:
        logits, intermediates = apply(params, images, key)
        return logits, (logits, intermediates)

    def measure(found: tuple[jax.Array, dict[str, Any]]) -> training.Values:
        logits, intermediates = found
        return {"prediction": jnp.argmax(logits, axis=-1)} | share_outside(intermediates)

    classify = training.classification(with_logits, measure)

    def objective(params: Any, batch: training.Batch, key: jax.Array | None) -> training.Values:
        return classify(params, batch, key) | {"label": batch["label"]}

    return objective


def build(config: Config) -> Experiment:
    """Loads the data and builds everything else.

    Raises:
        datasets.DatasetError: if the data cannot be had.
        ConfigError: if settings do not fit the data.
    """
    return assemble(config, load(config.data))


def load(data: Data) -> datasets.Dataset:
    """The data set that the settings name.

    Raises:
        datasets.DatasetError: if it cannot be had.
    """
    return datasets.load(
        data.dataset,
        data_dir=data.data_dir,
        data_file=data.data_file,
        validation_size=data.validation_size,
        image_size=data.image_size,
        keep_aspect=data.keep_aspect,
    )


def assemble(
    config: Config,
    dataset: datasets.Dataset,
    normalisation: preparation.Normalisation | None = None,
) -> Experiment:
    """Builds everything but the data; numbers of the configuration may be traced.

    Raises:
        ConfigError: if settings do not fit the data.
    """
    num_train, batch_size = len(dataset.train.labels), config.optimisation.batch_size
    if batch_size > num_train:
        raise ConfigError(
            f"--batch-size must be at most the number of training examples, {num_train}; "
            f"got {batch_size}"
        )
    if normalisation is None:
        normalisation = preparation.normalisation(dataset.train.images)
        if config.data.distortion in VOLUMES:
            normalisation = normalisation.uncentred
    steps_per_epoch = num_train // batch_size
    optimisation = config.optimisation
    if not configuration.is_meant(config, "localisation_lr"):  # a preset's, beside a plain network
        optimisation = dataclasses.replace(optimisation, localisation_lr=None)
    network = models.make_network(
        config.model,
        preparation.num_classes(config.data, dataset.num_classes),
        preparation.background(config.data, normalisation),
    )
    apply, prepare = apply_fn(network), preparation.make_prepare(config.data, normalisation)
    return Experiment(
        config=config,
        dataset=dataset,
        normalisation=normalisation,
        network=network,
        optimizer=models.make_optimizer(optimisation, steps_per_epoch),
        schedule=models.make_schedule(config.optimisation, steps_per_epoch),
        steps_per_epoch=steps_per_epoch,
        prepare=prepare,
        train_prepare=preparation.augmenting(config.data, prepare),
        train_objective=training.classification(apply),
        test_objective=training.classification(apply, share_outside),
        each_objective=_predicting(apply),
    )


def initial_state(experiment: Experiment) -> training.TrainState:
    """The state before the first step.

    Raises:
        ConfigError: if the distortion or the network does not take images of this size.
    """
    key, train = experiment.key(PARAMETERS), experiment.dataset.train
    probe = preparation.as_batch(datasets.Split(train.images[:2], train.labels[:2]))
    try:
        images = jax.eval_shape(experiment.prepare, jax.random.split(key, 2), probe)["image"]
    except ValueError as error:
        stored = train.images.shape[1:]
        raise ConfigError(_unfit_distortion(experiment.config.data, stored, error)) from error

    # Parameters hang on the shape of images, not on what they show.
    def init(key: jax.Array) -> Any:
        return experiment.network.init(key, jnp.zeros(images.shape, images.dtype))["params"]

    try:
        params = jax.jit(init)(key)
    except (ValueError, TypeError, ZeroDivisionError) as error:
        raise ConfigError(_unfit_model(experiment.config.model, images.shape[1:], error)) from error
    return training.init_state(experiment.key(TRAINING), params, experiment.optimizer)


def _unfit_distortion(data: Data, shape: tuple[int, ...], error: Exception) -> str:
    """What does not fit, where a distortion refuses an argument: the flag is the argument's."""
    argument, _, rest = str(error).splitlines()[0].partition(" ")
    known = argument in (field.name for field in dataclasses.fields(data))
    reason = f"{flag(argument) if known else argument} {rest}"
    return f"--distortion {data.distortion} does not fit images of shape {list(shape)}: {reason}"


def _unfit_model(model: Model, shape: tuple[int, ...], error: Exception) -> str:
    """What may not fit, where a layer refuses what it gets."""
    size = f"--output-size {model.output_size}" if model.output_size else "no --output-size"
    return (
        f"--model {model.model} with --pool {model.pool} and {size} does not fit images of shape "
        f"{list(shape)}: {str(error).splitlines()[0]}"
    )


def num_params(params: Any) -> int:
    """The number of parameters."""
    return sum(leaf.size for leaf in jax.tree.leaves(params))


def params_sha256(params: Any) -> str:
    """A fingerprint of parameters: equal for equal names, shapes and bits."""
    digest = hashlib.sha256()
    for path, leaf in jax.tree_util.tree_leaves_with_path(params):
        array = np.asarray(leaf)
        digest.update(f"{jax.tree_util.keystr(path)} {array.dtype} {array.shape}".encode())
        digest.update(array.tobytes())
    return digest.hexdigest()
