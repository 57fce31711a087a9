"""Builds the arrays and functions that a configuration describes."""

import dataclasses
import hashlib
from collections.abc import Callable
from typing import Any, cast

import jax
import jax.numpy as jnp
import numpy as np
import optax

from experiments import datasets
from experiments.settings.access import flag_of
from experiments.settings.config import (
    VOLUME_DISTORTIONS,
    WITHOUT_TRANSFORMER,
    Config,
    Data,
    Model,
)
from experiments.settings.errors import ConfigError
from experiments.settings.relations import combining_setting, has_effect
from experiments.settings.validation import require
from experiments.training import models, optimizers, preprocessing
from stn_jax import outside_frame, training
from stn_jax.linen import SpatialTransformerNetwork


@dataclasses.dataclass(frozen=True)
class Experiment:
    """The arrays and functions of a configuration.

    Attributes:
        config: the configuration.
        dataset: the stored data.
        normalisation: the mean and standard deviation of the training images.
        network: the network.
        optimizer: the optimiser.
        schedule: the learning rate at each step.
        steps_per_epoch: the number of steps in a pass over the training data.
        preprocess: turns a stored batch into the network's input.
        train_preprocess: `preprocess` with augmentation.
        train_objective: the objective to minimise.
        test_objective: `train_objective` with the share of samples outside the image.
        per_example_objective: `test_objective` with each example's label and prediction.
    """

    config: Config
    dataset: datasets.Dataset
    normalisation: preprocessing.Normalisation
    network: SpatialTransformerNetwork
    optimizer: optax.GradientTransformation
    schedule: optax.Schedule
    steps_per_epoch: int
    preprocess: training.Preprocess
    train_preprocess: training.Preprocess
    train_objective: training.StatefulObjective
    test_objective: training.StatefulObjective
    per_example_objective: training.StatefulObjective

    def key(self, purpose: int) -> jax.Array:
        """A key of the run's seed for one of its uses."""
        return jax.random.fold_in(jax.random.key(self.config.optimisation.seed), purpose)

    def apply(
        self,
        params: Any,
        images: jax.Array,
        key: jax.Array | None,
        variables: training.Variables | None = None,
    ) -> tuple[jax.Array, Any]:
        """The logits and intermediates of the network. Dropout is active if a key is given."""
        return apply_fn(self.network)(params, images, key, variables or {})[0]


# The uses of a run's seed. Test images are distorted with one key for all seeds, so that all runs
# are evaluated on the same images.
PARAMETERS, TRAINING, VALIDATION = range(3)
TEST_KEY = 2015
EVALUATION_BATCH = 512  # divides equally over any power of two of devices


def apply_fn(network: SpatialTransformerNetwork) -> Callable[..., Any]:
    """The network as `(params, images, key, variables) -> ((logits, intermediates), variables)`.

    The variables are the network's other collections, such as `batch_stats`; `{}` if it has none.
    In evaluation they are constant, and the result has none.
    """

    def apply(params: Any, images: jax.Array, key: jax.Array | None, variables: Any) -> Any:
        rngs, mutable = (None, []) if key is None else ({"dropout": key}, list(variables))
        return network.apply({"params": params, **variables}, images, rngs=rngs, mutable=mutable)

    return apply


def share_outside(intermediates: dict[str, Any]) -> training.Values:
    """The share of each example's samples outside the image, averaged over transformers."""
    if not intermediates:
        return {}
    outside = [outside_frame(each["grid"]) for each in intermediates.values()]
    shares = [jnp.mean(each, axis=range(1, each.ndim)) for each in outside]
    return {"outside": jnp.mean(jnp.stack(shares), axis=0)}


def _classification(
    apply: Callable[..., Any], measure: Callable[[Any], training.Values] | None = None
) -> training.StatefulObjective:
    return cast("training.StatefulObjective", training.classification(apply, measure))


def _predicting(apply: Callable[..., Any]) -> training.StatefulObjective:
    """The test objective with each example's label and prediction."""

    def with_logits(*arguments: Any) -> Any:
        (logits, intermediates), variables = apply(*arguments)
        return (logits, (logits, intermediates)), variables

    def measure(found: tuple[jax.Array, dict[str, Any]]) -> training.Values:
        logits, intermediates = found
        return {"prediction": jnp.argmax(logits, axis=-1)} | share_outside(intermediates)

    classify = _classification(with_logits, measure)

    def objective(
        params: Any, batch: training.Batch, key: jax.Array | None, variables: training.Variables
    ) -> tuple[training.Values, training.Variables]:
        values, variables = classify(params, batch, key, variables)
        return values | {"label": batch["label"]}, variables

    return objective


def build_experiment(config: Config) -> Experiment:
    """Loads the data and builds everything else.

    Raises:
        DatasetError: if the data cannot be loaded.
        ConfigError: if settings do not fit the data.
    """
    return assemble_experiment(config, load_dataset(config.data))


def load_dataset(data: Data) -> datasets.Dataset:
    """The data set that the settings name.

    Raises:
        DatasetError: if it cannot be loaded.
    """
    return datasets.load(
        data.dataset,
        data_dir=data.data_dir,
        data_file=data.data_file,
        validation_size=data.validation_size,
        image_size=data.image_size,
        keep_aspect=data.keep_aspect,
    )


def assemble_experiment(
    config: Config,
    dataset: datasets.Dataset,
    normalisation: preprocessing.Normalisation | None = None,
) -> Experiment:
    """Builds everything except the data. Numbers of the configuration may be traced.

    Raises:
        ConfigError: if settings do not fit the data.
    """
    num_train, batch_size = len(dataset.train.labels), config.optimisation.batch_size
    if batch_size > num_train:
        raise ConfigError(
            f"--batch-size must be at most the number of training examples, {num_train}; "
            f"got {batch_size}"
        )
    _check_partners(config, dataset)
    if normalisation is None:
        normalisation = preprocessing.normalisation(dataset.train.images)
        if config.data.distortion in VOLUME_DISTORTIONS:
            normalisation = normalisation.uncentred
    steps_per_epoch = num_train // batch_size
    optimisation = config.optimisation
    if not has_effect(
        config, "localisation_lr"
    ):  # set by a preset, but the network has no transformer
        optimisation = dataclasses.replace(optimisation, localisation_lr=None)
    network = models.make_network(
        config.model,
        preprocessing.num_classes(config.data, dataset.num_classes),
        preprocessing.background(config.data, normalisation),
    )
    apply, preprocess = apply_fn(network), preprocessing.make_preprocess(config.data, normalisation)
    return Experiment(
        config=config,
        dataset=dataset,
        normalisation=normalisation,
        network=network,
        optimizer=optimizers.make_optimizer(optimisation, steps_per_epoch),
        schedule=optimizers.make_schedule(config.optimisation, steps_per_epoch),
        steps_per_epoch=steps_per_epoch,
        preprocess=preprocess,
        train_preprocess=preprocessing.augmenting(config.data, preprocess),
        train_objective=_classification(apply),
        test_objective=_classification(apply, share_outside),
        per_example_objective=_predicting(apply),
    )


def _check_partners(config: Config, dataset: datasets.Dataset) -> None:
    """Raises `ConfigError` if images are combined, and a split has only one image."""
    combining = combining_setting(config.data)
    if combining is None:
        return
    for name in ("validation", "test"):
        count = len(getattr(dataset, name))
        require(
            count != 1,
            f"{flag_of(combining[0])} {combining[1]}",
            f"1 {name} image",
            f"used with at least 2 {name} images, because it combines images",
        )


def initial_state(experiment: Experiment) -> training.TrainState:
    """The state before the first step.

    Raises:
        ConfigError: if the distortion or the network does not accept images of this size.
    """
    key, shape = experiment.key(PARAMETERS), input_shape(experiment)

    # Parameters depend on the shape of the images, not on their content.
    def init(key: jax.Array) -> Any:
        return experiment.network.init(key, jnp.zeros((2, *shape)))

    try:
        variables = dict(jax.jit(init)(key))
    except (ValueError, TypeError, ZeroDivisionError) as error:
        raise ConfigError(_unfit_model(experiment.config.model, shape, error)) from error
    params = variables.pop("params")
    return training.init_state(experiment.key(TRAINING), params, experiment.optimizer, variables)


def input_shape(experiment: Experiment) -> tuple[int, ...]:
    """The shape of the network's input for one example, such as (h, w, c).

    Raises:
        ConfigError: if the distortion does not accept images of this size.
    """
    train = experiment.dataset.train
    probe = preprocessing.as_batch(datasets.Split(train.images[:2], train.labels[:2]))
    keys = jax.random.split(jax.random.key(0), 2)
    try:
        return jax.eval_shape(experiment.preprocess, keys, probe)["image"].shape[1:]
    except ValueError as error:
        stored = train.images.shape[1:]
        raise ConfigError(_unfit_distortion(experiment.config.data, stored, error)) from error


def _unfit_distortion(data: Data, shape: tuple[int, ...], error: Exception) -> str:
    """The message for a distortion that rejects an argument. The flag has the argument's name."""
    argument, _, rest = str(error).splitlines()[0].partition(" ")
    known = argument in (field.name for field in dataclasses.fields(data))
    reason = f"{flag_of(argument) if known else argument} {rest}"
    return f"--distortion {data.distortion} does not fit images of shape {list(shape)}: {reason}"


def _unfit_model(model: Model, shape: tuple[int, ...], error: Exception) -> str:
    """The message for a layer that rejects its input."""
    size = f"--output-size {model.output_size}" if model.output_size else "no --output-size"
    other = "fcn" if model.model in WITHOUT_TRANSFORMER else "st_fcn"
    hint = f" (--model {other} takes images of any size)" if len(shape) == 3 else ""
    return (
        f"--model {model.model} with --pool {model.pool} and {size} does not fit images of shape "
        f"{list(shape)}: {str(error).splitlines()[0]}{hint if model.model != other else ''}"
    )


def count_params(params: Any) -> int:
    """The number of parameters."""
    return sum(leaf.size for leaf in jax.tree.leaves(params))


def params_sha256(params: Any) -> str:
    """A fingerprint of parameters. Equal names, shapes and bits give equal fingerprints."""
    digest = hashlib.sha256()
    for path, leaf in jax.tree_util.tree_leaves_with_path(params):
        array = np.asarray(leaf)
        digest.update(f"{jax.tree_util.keystr(path)} {array.dtype} {array.shape}".encode())
        digest.update(array.tobytes())
    return digest.hexdigest()
