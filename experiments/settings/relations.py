"""How settings depend on each other. Does not import jax."""

import types
import typing
from collections.abc import Mapping

from experiments.settings.access import settings_by_name
from experiments.settings.config import (
    PROJECTION_MODELS,
    VOLUME_DISTORTIONS,
    VOLUME_TRANSFORMS,
    WITH_TRANSFORMER,
    Config,
    Data,
    Model,
    ModelName,
)

# The default smallest and largest scale of each distortion that scales.
DEFAULT_SCALES: Mapping[str, tuple[float, float]] = types.MappingProxyType(
    {"rts": (0.7, 1.2), "p": (0.75, 1.0), "e": (0.75, 1.0)}
)

# The default side of the images of each data set that resizes its images.
DEFAULT_IMAGE_SIZES: Mapping[str, int] = types.MappingProxyType({"gtsrb": 32, "folder": 64})

# Settings with which each image is combined with another one of its batch.
_COMBINING = (("task", "add"), ("distortion", "tc"))

WITH_FEATURES = tuple(name for name in typing.get_args(ModelName) if "tutorial" not in name)

# Settings that have an effect only if another setting has one of some values.
REQUIREMENTS: Mapping[str, tuple[str, tuple[str, ...]]] = types.MappingProxyType(
    {
        "image_size": ("dataset", tuple(DEFAULT_IMAGE_SIZES)),
        "keep_aspect": ("dataset", tuple(DEFAULT_IMAGE_SIZES)),
        "max_angle": ("distortion", ("r", "rts", "extruded")),
        "min_scale": ("distortion", tuple(DEFAULT_SCALES)),
        "max_scale": ("distortion", tuple(DEFAULT_SCALES)),
        "sigma": ("distortion", ("p", "e")),
        "canvas": ("distortion", ("rts", "tc", "t", "extruded")),
        "clutter": ("distortion", ("tc",)),
        "crop_size": ("distortion", ("tc",)),
        "transform": ("model", WITH_TRANSFORMER),
        "control_points": ("transform", ("thin_plate_spline", "velocity_field")),
        "regularisation": ("transform", ("thin_plate_spline",)),
        "placement": ("model", WITH_TRANSFORMER),
        "transformers": ("model", WITH_TRANSFORMER),
        "localisation": ("model", WITH_TRANSFORMER),
        "localisation_features": ("model", WITH_TRANSFORMER),
        "localisation_lr": ("model", WITH_TRANSFORMER),
        "output_size": ("model", WITH_TRANSFORMER),
        "mode": ("model", WITH_TRANSFORMER),
        "padding_mode": ("model", WITH_TRANSFORMER),
        "align_corners": ("model", WITH_TRANSFORMER),
        "features": ("model", WITH_FEATURES),
        "dropout": ("model", ("tutorial", "tutorial_cnn", "compact", "st_compact")),
        "momentum": ("optimizer", ("sgd",)),
        "weight_decay": ("optimizer", ("adamw",)),
    }
)

# The number of layers of architectures that fix it: what --features must give.
NUM_FEATURES: Mapping[str, int] = types.MappingProxyType({"cnn": 2, "compact": 4})

# The number of convolution blocks of models that can have a transformer before each of them.
NUM_BLOCKS: Mapping[str, int] = types.MappingProxyType({"st_cnn": 2, "st_compact": 3})


def missing_requirement(config: Config, name: str) -> tuple[str, tuple[str, ...]] | None:
    """Why a setting has no effect.

    Requirements are followed: without a transformer there are no control points, whatever the
    transformation is.

    Returns:
        The other setting, and the values that it would have to have. None if the setting has an
        effect.
    """
    if name not in REQUIREMENTS:
        return None
    other, values = REQUIREMENTS[name]
    if settings_by_name(config)[other] not in values:
        return other, values
    return missing_requirement(config, other)


def has_effect(config: Config, name: str) -> bool:
    """Whether a setting has an effect, given the other settings."""
    return missing_requirement(config, name) is None


def dependency_depth(name: str) -> int:
    """The length of the chain of settings on which it depends whether a setting has an effect."""
    return 1 + dependency_depth(REQUIREMENTS[name][0]) if name in REQUIREMENTS else 0


def is_user_defined(transform: str) -> bool:
    """Whether a value of `transform` is package.module:object, and not the name of a family."""
    return ":" in transform


def has_user_defined_family(config: Config) -> bool:
    """Whether the network has transformers of a user-defined family."""
    return is_user_defined(config.model.transform) and has_effect(config, "transform")


def combining_setting(data: Data) -> tuple[str, str] | None:
    """The setting that combines each image with another one of its batch, and its value."""
    return next((pair for pair in _COMBINING if vars(data)[pair[0]] == pair[1]), None)


def scale_range(data: Data) -> tuple[float, float]:
    """The smallest and the largest scale of a distortion that scales."""
    low, high = DEFAULT_SCALES[data.distortion]
    return (
        low if data.min_scale is None else data.min_scale,
        high if data.max_scale is None else data.max_scale,
    )


def architecture(model: str) -> str:
    """The classifier of a model: fcn, cnn, compact, tutorial or tutorial_cnn."""
    return model.removeprefix("st_").removeprefix("projection_")


def localisation_kind(model: Model) -> str:
    """The localisation network at the input of a model with a transformer."""
    if model.localisation != "auto":
        return model.localisation
    if model.model in PROJECTION_MODELS:
        return "volume"
    return {"st_fcn": "fcn", "tutorial": "tutorial"}.get(model.model, "cnn")


# --- Which values fit the settings that they depend on --------------------------------------------


def has_volumes(data: Data) -> bool:
    """Whether the distortion returns volumes."""
    return data.distortion in VOLUME_DISTORTIONS


def model_fits(data: Data, model: Model) -> bool:
    """Whether the model is for volumes if the data are volumes, and for images otherwise."""
    return has_volumes(data) == (model.model in PROJECTION_MODELS)


def transform_fits(model: Model) -> bool:
    """Whether the transformation family is for what the model takes, images or volumes.

    A user-defined family fits: what it is for is only known when its module is imported.
    """
    if is_user_defined(model.transform):
        return True
    return (model.model in PROJECTION_MODELS) == (model.transform in VOLUME_TRANSFORMS)


def features_fit(model: Model) -> bool:
    """Whether the model has as many layers as `features` gives."""
    layers = NUM_FEATURES.get(architecture(model.model))
    return model.features is None or layers is None or len(model.features) == layers


def allowed_localisations(model: Model) -> tuple[str, ...]:
    """The values of `localisation` that fit the model."""
    if model.model in PROJECTION_MODELS:
        return ("auto", "fcn", "volume")
    return ("auto", "fcn", "cnn", "tutorial")


def localisation_features_fit(model: Model) -> bool:
    """Whether the localisation network has as many layers as `localisation_features` gives."""
    features, kind = model.localisation_features, localisation_kind(model)
    return features is None or (kind != "tutorial" and (kind != "cnn" or len(features) == 3))


def placement_fits(model: Model) -> bool:
    """Whether the model can have its number of transformers at the positions of `placement`."""
    if model.placement == "input":
        return model.transformers == 1
    return model.placement != "between" or model.transformers <= NUM_BLOCKS.get(model.model, 0)
