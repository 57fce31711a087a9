"""Adapts settings that no flag gave to those that flags gave. Does not import jax.

A command line starts from the settings of a preset or of a file. If a flag changes one of them,
others may no longer fit. Dependencies have a direction: the transformation depends on the model,
for example, and not the other way round. A setting that no flag gave adapts to the settings it
depends on. A setting that a flag gave never changes; `validate` rejects it if it does not fit. The
model and the distortion depend on each other: both are for volumes, or neither is.
"""

import types
from collections.abc import Callable, Collection, Mapping

from experiments.settings.access import flag_of, format_value, get_setting, replace_settings
from experiments.settings.config import (
    OWN_DATASETS,
    PROJECTION_MODELS,
    WITH_TRANSFORMER,
    Config,
    ConfigT,
    Data,
    SettingValue,
)
from experiments.settings.errors import ConfigError
from experiments.settings.relations import (
    DEFAULT_IMAGE_SIZES,
    NUM_BLOCKS,
    REQUIREMENTS,
    allowed_localisations,
    architecture,
    features_fit,
    has_effect,
    has_volumes,
    is_user_defined,
    localisation_features_fit,
    localisation_kind,
    model_fits,
    placement_fits,
    scale_range,
    transform_fits,
)
from experiments.settings.validation import check_mesh

WARMUP_SHARE = 0.1  # of the epochs


def adapt(config: ConfigT, start: Config, given: Collection[str]) -> ConfigT:
    """Replaces settings that do not fit the ones that were given.

    Args:
        config: the settings after the flags.
        start: the settings before the flags, which are valid.
        given: names of the settings that flags gave. These do not change.

    Returns:
        The adapted settings. They are valid unless settings in `given` are not.
    """
    for name, fitting_value in ADAPTATIONS.items():
        if name not in given and has_effect(config, name):
            config = replace_settings(config, {name: fitting_value(config, start)})
    return config


def describe_adaptations(before: Config, after: Config) -> list[str]:
    """Lists what `adapt` changed, each as in `--warmup 0.1 (was 1.0)`."""
    return [
        f"{flag_of(name)} {format_value(get_setting(after, name))} "
        f"(was {format_value(get_setting(before, name))})"
        for name in ADAPTATIONS
        if get_setting(before, name) != get_setting(after, name)
    ]


# --- For each setting, the value that fits the others: the present one if possible ---------------


def _dataset(config: Config, _: Config) -> str:
    return config.data.dataset if config.data.data_file is None else "npz"


def _data_file(config: Config, _: Config) -> str | None:
    return config.data.data_file if config.data.dataset == "npz" else None


def _validation_size(config: Config, start: Config) -> int | None:
    same = config.data.dataset == start.data.dataset
    return config.data.validation_size if same else None


def _image_size(config: Config, start: Config) -> int | tuple[int, int]:
    same = config.data.dataset == start.data.dataset
    return config.data.image_size if same else DEFAULT_IMAGE_SIZES[config.data.dataset]


def _distortion(config: Config, start: Config) -> str:
    """Distorts a user's own data only if a flag asks for it, or if the model needs volumes."""
    data, needs_volumes = config.data, config.model.model in PROJECTION_MODELS
    becomes_own = data.dataset in OWN_DATASETS and start.data.dataset not in OWN_DATASETS
    if needs_volumes != has_volumes(data):
        undistorted = "none" if data.dataset in OWN_DATASETS else Data().distortion
        return "extruded" if needs_volumes else undistorted
    if becomes_own and not needs_volumes and not _distortion_is_described(config, start):
        return "none"
    return data.distortion


def _distortion_is_described(config: Config, start: Config) -> bool:
    """Whether flags changed a setting of the distortion, such as its largest angle."""
    names = [name for name, (other, _) in REQUIREMENTS.items() if other == "distortion"]
    return any(get_setting(config, name) != get_setting(start, name) for name in names)


def _model(config: Config, _: Config) -> str:
    model = config.model.model
    if model_fits(config.data, config.model):
        return model
    kind = "projection_cnn" if has_volumes(config.data) else "cnn"
    return f"st_{kind}" if model in WITH_TRANSFORMER else kind


def _min_scale(config: Config, _: Config) -> float | None:
    return config.data.min_scale if _has_scales(config.data) else None


def _max_scale(config: Config, _: Config) -> float | None:
    return config.data.max_scale if _has_scales(config.data) else None


def _has_scales(data: Data) -> bool:
    low, high = scale_range(data)
    return low <= high


def _canvas(config: Config, start: Config) -> int | None:
    return config.data.canvas if _same_dimensions(config, start) else None


def _output_size(config: Config, start: Config) -> int | None:
    return config.model.output_size if _same_dimensions(config, start) else None


def _same_dimensions(config: Config, start: Config) -> bool:
    return has_volumes(config.data) == has_volumes(start.data)


def _normalisation(config: Config, _: Config) -> str:
    return "channel" if has_volumes(config.data) else config.data.normalisation


def _features(config: Config, start: Config) -> tuple[int, ...] | None:
    same = architecture(config.model.model) == architecture(start.model.model)
    return config.model.features if same and features_fit(config.model) else None


def _transform(config: Config, start: Config) -> str:
    transform = config.model.transform
    fits = not is_user_defined(transform) or _same_dimensions(config, start)
    if fits and transform_fits(config.model):
        return transform
    return "affine_3d" if has_volumes(config.data) else "affine"


def _localisation(config: Config, _: Config) -> str:
    kind = config.model.localisation
    return kind if kind in allowed_localisations(config.model) else "auto"


def _localisation_features(config: Config, start: Config) -> tuple[int, ...] | None:
    same = localisation_kind(config.model) == localisation_kind(start.model)
    fits = same and localisation_features_fit(config.model)
    return config.model.localisation_features if fits else None


def _transformers(config: Config, _: Config) -> int:
    model = config.model
    most = {"input": 1, "between": NUM_BLOCKS.get(model.model)}.get(model.placement)
    return model.transformers if most is None else min(model.transformers, most)


def _placement(config: Config, _: Config) -> str:
    model = config.model
    if placement_fits(model) or (model.placement == "between" and model.model in NUM_BLOCKS):
        return model.placement
    return "input" if model.transformers == 1 else "series"


def _warmup(config: Config, _: Config) -> float:
    epochs, warmup = config.optimisation.epochs, config.optimisation.warmup
    return warmup if warmup < epochs else WARMUP_SHARE * epochs


def _diagnostics(config: Config, _: Config) -> bool:
    return config.run.diagnostics and not has_volumes(config.data)


def _mesh(config: Config, _: Config) -> str | None:
    try:
        check_mesh(config)
    except ConfigError:
        return None
    return config.run.mesh


# In this order: settings come after those that they depend on.
ADAPTATIONS: Mapping[str, Callable[[Config, Config], SettingValue]] = types.MappingProxyType(
    {
        "dataset": _dataset,
        "data_file": _data_file,
        "validation_size": _validation_size,
        "image_size": _image_size,
        "distortion": _distortion,
        "min_scale": _min_scale,
        "max_scale": _max_scale,
        "model": _model,
        "canvas": _canvas,
        "normalisation": _normalisation,
        "features": _features,
        "output_size": _output_size,
        "transform": _transform,
        "localisation": _localisation,
        "localisation_features": _localisation_features,
        "transformers": _transformers,
        "placement": _placement,
        "warmup": _warmup,
        "diagnostics": _diagnostics,
        "mesh": _mesh,
    }
)
