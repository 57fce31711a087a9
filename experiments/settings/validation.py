"""Checks of settings: each on its own, and whether they fit together. Does not import jax."""

import difflib
import math
import typing

from experiments.settings.access import flag_of, format_value, settings_by_name
from experiments.settings.config import (
    PROJECTION_MODELS,
    VOLUME_TRANSFORMS,
    WITHOUT_TRANSFORMER,
    Config,
    Data,
    Model,
    Run,
    TransformName,
)
from experiments.settings.errors import ConfigError
from experiments.settings.relations import (
    DEFAULT_SCALES,
    NUM_BLOCKS,
    NUM_FEATURES,
    allowed_localisations,
    architecture,
    combining_setting,
    features_fit,
    has_volumes,
    localisation_features_fit,
    localisation_kind,
    model_fits,
    placement_fits,
    scale_range,
    transform_fits,
)

MESH_AXES = ("member", "batch")
MAX_AXIS = 4096
MAX_SIDE = 4096  # of an image, in pixels

# None is allowed if it is the default.
POSITIVE = (
    "validation_size",
    "image_size",
    "max_angle",
    "min_scale",
    "max_scale",
    "canvas",
    "clutter",
    "crop_size",
    "transformers",
    "output_size",
    "pool",
    "learning_rate",
    "clip_norm",
    "epochs",
    "batch_size",
    "checkpoint_every",
    "features",
    "localisation_features",
)
NOT_NEGATIVE = (
    "sigma",
    "augment_angle",
    "augment_shift",
    "augment_sigma",
    "regularisation",
    "localisation_lr",
    "weight_decay",
)
FROM_0_BELOW_1 = ("dropout", "momentum")


def validate(config: Config) -> None:
    """Raises `ConfigError` for the first setting that is invalid or does not fit the others."""
    _check_numbers(config)
    _check_data(config.data)
    _check_model(config)
    _check_optimisation(config)
    _check_run(config)


def require(ok: bool, flag: str, value: object, allowed: str) -> None:
    """Raises `ConfigError` with the flag, its value and what is allowed, unless `ok`."""
    if not ok:
        raise ConfigError(f"{flag} must be {allowed}; got {value}")


def mesh_sizes(run: Run) -> dict[str, int]:
    """The size of each axis of `--mesh`, in order; empty without the flag.

    Raises:
        ConfigError: if it is not of the form batch=4 or member=2,batch=4.
    """
    pairs = [part.partition("=") for part in run.mesh.split(",")] if run.mesh is not None else []
    names = [name for name, _, _ in pairs]
    sizes = [size for _, _, size in pairs]
    ok = set(names) <= set(MESH_AXES) and len(set(names)) == len(names)
    ok = ok and all(_is_number(size) and 0 < int(size) <= MAX_AXIS for size in sizes)
    require(ok, "--mesh", run.mesh, "of the form batch=4, member=4 or member=2,batch=4")
    return dict(zip(names, map(int, sizes), strict=True))


def _is_number(text: str) -> bool:
    """Whether a text consists of the digits 0 to 9; `int` accepts more."""
    return text.isascii() and text.isdecimal()


def _check_numbers(config: Config) -> None:
    settings = settings_by_name(config)
    for names, is_allowed, allowed in (
        (POSITIVE, lambda number: 0 < number < math.inf, "positive"),
        (NOT_NEGATIVE, lambda number: 0 <= number < math.inf, "at least 0"),
        (FROM_0_BELOW_1, lambda number: 0 <= number < 1, "at least 0 and below 1"),
    ):
        for name in names:
            value = settings[name]
            require(value != (), flag_of(name), "none", "at least one number")
            number = min(value) if isinstance(value, tuple) else value
            require(number is None or is_allowed(number), flag_of(name), number, allowed)


def _check_data(data: Data) -> None:
    require(1 <= data.augment_scale < math.inf, "--augment-scale", data.augment_scale, "at least 1")
    ok = data.max_angle is None or data.max_angle <= 180
    require(ok, "--max-angle", data.max_angle, "at most 180")
    if data.distortion in DEFAULT_SCALES:
        low, high = scale_range(data)
        if data.min_scale is None:  # so that the error names a flag that was given
            require(low <= high, "--max-scale", high, f"at least --min-scale, {low}")
        require(low <= high, "--min-scale", low, f"at most --max-scale, {high}")
    for dataset, needed in (("npz", "data_file"), ("folder", "data_dir")):
        ok = data.dataset != dataset or vars(data)[needed] is not None
        flag = flag_of(needed)
        require(ok, f"--dataset {dataset}", f"no {flag}", f"given with {flag}")
    ok = data.data_file is None or data.dataset == "npz"
    require(ok, "--data-file", data.data_file, "given with --dataset npz, and only then")
    ok = data.dataset != "gtsrb" or isinstance(data.image_size, int)
    require(ok, "--image-size", format_value(data.image_size), "one number with --dataset gtsrb")
    sides = (data.image_size,) if isinstance(data.image_size, int) else data.image_size
    ok = max(sides) <= MAX_SIDE
    require(ok, "--image-size", format_value(data.image_size), f"at most {MAX_SIDE}")


def _check_model(config: Config) -> None:
    data, model = config.data, config.model
    _check_transform_name(model.transform)
    require(min(model.control_points) >= 2, "--control-points", model.control_points, "at least 2")
    not_of = "" if has_volumes(data) else "none of "
    require(
        model_fits(data, model),
        "--model",
        model.model,
        f"{not_of}{', '.join(PROJECTION_MODELS)} with --distortion {data.distortion}",
    )
    require(
        features_fit(model),
        "--features",
        model.features,
        f"{NUM_FEATURES.get(architecture(model.model))} numbers with --model {model.model}",
    )
    ok = not has_volumes(data) or data.normalisation == "channel"
    allowed = f"channel with --distortion {data.distortion}"
    require(ok, "--normalisation", data.normalisation, allowed)
    if model.model not in WITHOUT_TRANSFORMER:
        _check_transformers(model)


def _check_transform_name(name: str) -> None:
    """Checks the name of a family, or the form of package.module:object without importing it."""
    names = typing.get_args(TransformName)
    if name in names:
        return
    module, _, attribute = name.partition(":")
    ok = all(part.isidentifier() for part in (*module.split("."), attribute))
    near = difflib.get_close_matches(name, names, n=1)
    got = (name or "nothing") + (f"; perhaps you meant {near[0]}" if near else "")
    require(ok, "--transform", got, f"one of {', '.join(names)}, or package.module:object")


def _check_transformers(model: Model) -> None:
    not_of = "" if model.model in PROJECTION_MODELS else "none of "
    require(
        transform_fits(model),
        "--transform",
        model.transform,
        f"{not_of}{', '.join(VOLUME_TRANSFORMS)} with --model {model.model}",
    )
    localisations = allowed_localisations(model)
    ok = model.localisation in localisations
    allowed = f"one of {', '.join(localisations)} with --model {model.model}"
    require(ok, "--localisation", model.localisation, allowed)
    kind = localisation_kind(model)
    layers = "3 numbers" if kind == "cnn" else "left out"
    allowed = f"{layers} with the localisation network {kind}"
    ok = localisation_features_fit(model)
    require(ok, "--localisation-features", model.localisation_features, allowed)
    _check_placement(model)


def _check_placement(model: Model) -> None:
    blocks, transformers = NUM_BLOCKS.get(model.model), model.transformers
    if placement_fits(model):
        return
    if model.placement == "input":
        allowed = f"series, parallel or between with --transformers {transformers}"
        raise ConfigError(f"--placement must be {allowed}; got input")
    if blocks is None:
        allowed = f"used with --model {' or '.join(NUM_BLOCKS)}, which have convolution blocks"
        raise ConfigError(f"--placement between must be {allowed}; got --model {model.model}")
    allowed = f"at most {blocks}, the number of convolution blocks of --model {model.model}"
    raise ConfigError(f"--transformers must be {allowed}; got {transformers}")


def _check_optimisation(config: Config) -> None:
    optimisation = config.optimisation
    ok = 0 <= optimisation.warmup < optimisation.epochs
    allowed = f"at least 0 and below --epochs, {optimisation.epochs}"
    require(ok, "--warmup", optimisation.warmup, allowed)
    combining = combining_setting(config.data)
    if combining is not None:
        allowed = f"at least 2 with {flag_of(combining[0])} {combining[1]}, which combines images"
        ok = optimisation.batch_size >= 2
        require(ok, "--batch-size", optimisation.batch_size, allowed)
    require(0 <= optimisation.seed < 2**32, "--seed", optimisation.seed, "in 0 .. 2^32 - 1")


def _check_run(config: Config) -> None:
    run, data = config.run, config.data
    require(
        not (run.diagnostics and has_volumes(data)),
        "--diagnostics",
        "it",
        f"left out with --distortion {data.distortion}, because it is for images",
    )
    require(
        run.run_dir is not None or run.resume == "never",
        "--resume",
        run.resume,
        "given together with --run-dir, the folder of the run to continue",
    )
    _check_processes(run)
    check_mesh(config)


def _check_processes(run: Run) -> None:
    values = {name: vars(run)[name] for name in ("coordinator", "num_processes", "process_id")}
    given = [name for name, value in values.items() if value is not None]
    if not given:
        return
    allowed = "left out with --distributed, which finds the processes itself"
    require(not run.distributed, flag_of(given[0]), values[given[0]], allowed)
    others = " and ".join(flag_of(name) for name in values if name != given[0])
    ok = len(given) == len(values)
    require(ok, flag_of(given[0]), values[given[0]], f"given together with {others}")
    host, _, port = (run.coordinator or "").rpartition(":")
    ok = bool(host) and _is_number(port) and 0 < int(port) < 2**16
    require(ok, "--coordinator", run.coordinator, "of the form HOST:PORT")
    count = run.num_processes or 0
    require(count > 0, "--num-processes", run.num_processes, "positive")
    require(run.process_id in range(count), "--process-id", run.process_id, f"in 0 .. {count - 1}")


def check_mesh(config: Config) -> None:
    """Raises `ConfigError` if `--mesh` is malformed or does not fit the batch size or processes."""
    mesh, sizes = config.run.mesh, mesh_sizes(config.run)
    batch_size, processes = config.optimisation.batch_size, config.run.num_processes or 1
    ok = batch_size % sizes.get("batch", 1) == 0
    require(ok, "--mesh", mesh, f"batch=N with N a divisor of --batch-size, {batch_size}")
    ok = not sizes or math.prod(sizes.values()) % processes == 0
    require(ok, "--mesh", mesh, f"devices in equal parts for --num-processes {processes}")
