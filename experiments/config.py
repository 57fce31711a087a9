"""What can be set about a training run. Imports no jax, so that `--help` is quick.

Every field is a flag; `None` stands for a default that depends on other settings, as its help says.
"""

import dataclasses
import json
import math
import types
import typing
from collections.abc import Mapping
from typing import Annotated, Any, Literal

import tyro

DatasetName = Literal["digits", "mnist", "fashion_mnist", "gtsrb", "npz"]
DistortionName = Literal["none", "r", "rts", "p", "e", "tc", "t", "extruded"]
ModelName = Literal[
    "fcn",
    "cnn",
    "compact",
    "tutorial_cnn",
    "projection_cnn",
    "st_fcn",
    "st_cnn",
    "st_compact",
    "tutorial",
    "st_projection_cnn",
]
TransformName = Literal[
    "translation",
    "rotation",
    "translation_scale",
    "similarity",
    "affine",
    "projective",
    "thin_plate_spline",
    "affine_3d",
    "rigid_3d",
]
# What is made of volumes, and what is made for them.
VOLUMES = ("extruded",)
PROJECTING = ("projection_cnn", "st_projection_cnn")
TRANSFORMS_3D = ("affine_3d", "rigid_3d")
WITHOUT_TRANSFORMER = ("fcn", "cnn", "compact", "tutorial_cnn", "projection_cnn")
WITH_TRANSFORMER = tuple(
    name for name in typing.get_args(ModelName) if name not in WITHOUT_TRANSFORMER
)


def _shown_default(label: str) -> str:
    """What `--help` says after a setting's text, which itself explains a default of None."""
    return "" if label == "None" else f"(default: {label})"


def _optional(metavar: str) -> Any:
    return tyro.conf.arg(metavar=metavar, help_behavior_hint=_shown_default)


OptionalInt = Annotated[int | None, _optional("INT")]
OptionalFloat = Annotated[float | None, _optional("FLOAT")]
OptionalStr = Annotated[str | None, _optional("STR")]


class ConfigError(Exception):
    """A setting that makes no sense; its text is one line that names the flag."""


@dataclasses.dataclass(frozen=True)
class Data:
    """What is learned from."""

    dataset: DatasetName = "digits"
    """digits is embedded; mnist, fashion_mnist and gtsrb (German traffic signs) are downloaded, or
    taken from --data-dir."""
    data_dir: OptionalStr = None
    """Folder with original files (DIR/mnist/*.gz, DIR/gtsrb/*.zip) or prepared ones
    (DIR/tfds/mnist, DIR/gtsrb/*.npz)."""
    data_file: OptionalStr = None
    """For npz: a file of arrays x_train, y_train, x_test, y_test."""
    validation_size: OptionalInt = None
    """Training examples held out for validation; of gtsrb about so many, in whole tracks. Default:
    5000, 200 of digits, a tenth of gtsrb and npz."""
    image_size: int = 32
    """Side of the images of gtsrb, in pixels."""
    keep_aspect: bool = False
    """Pad the images of gtsrb to a square by repeating their edge, instead of squashing them."""
    task: Literal["classify", "add"] = "classify"
    """add: another digit, distorted on its own, is a second channel; the label is the sum."""
    distortion: DistortionName = "r"
    """r rotation; rts rotation, translation, scale; p projective; e elastic; tc translation with
    clutter; t translation; extruded a solid, turned in a volume."""
    max_angle: OptionalFloat = None
    """Largest rotation of r and rts, in degrees. Default: 90 for r, 45 for rts. Of extruded, about
    any axis: 90."""
    min_scale: OptionalFloat = None
    """Smallest scale of rts, p and e. Default: 0.7 for rts, 0.75 for p and e."""
    max_scale: OptionalFloat = None
    """Largest scale. Default: 1.2 for rts, 1 for p and e."""
    sigma: OptionalFloat = None
    """Standard deviation of moved corners (p) or control points (e), in pixels. Default: 5, 1.5."""
    canvas: OptionalInt = None
    """Side of the distorted image of rts, tc and t, in pixels. Default: 42, 60, 84. Of the volume
    of extruded: 32."""
    augment_angle: float = 0.0
    """Training images, not those evaluated, are turned by up to so many degrees."""
    augment_scale: float = 1.0
    """And scaled by up to so much, up or down."""
    augment_shift: float = 0.0
    """And shifted by up to so many pixels along each axis."""
    augment_sigma: float = 0.0
    """And bent: standard deviation of the shifts of 4 x 4 control points, in pixels."""
    normalisation: Literal["channel", "local"] = "channel"
    """channel: by each channel's mean and deviation over the training images. local: by those
    around each pixel, afterwards."""
    clutter: int = 6
    """Number of crops of other images in tc."""
    crop_size: int = 6
    """Side of a crop of tc, in pixels."""


@dataclasses.dataclass(frozen=True)
class Model:
    """What learns."""

    model: ModelName = "st_cnn"
    """st_ ones and tutorial have a spatial transformer; tutorial_cnn is tutorial without it. fcn
    and cnn are the paper's; compact has smaller kernels, a dense layer and dropout; projection_
    ones sum a volume along its depth."""
    transform: TransformName = "affine"
    """The family of transformations."""
    control_points: tuple[int, int] = (4, 4)
    """Rows and columns of the thin plate spline's control points."""
    regularisation: float = 0.0
    """The thin plate spline's regularisation."""
    placement: Literal["input", "series", "parallel", "between"] = "input"
    """Where --transformers of them stand: at the input one after another (series) or side by side
    (parallel), or before each convolution block (between)."""
    transformers: int = 1
    """How many transformers; input takes one."""
    localisation: Literal["auto", "fcn", "cnn", "tutorial", "volume"] = "auto"
    """The localisation network. auto: the one that belongs to the model."""
    localisation_features: Annotated[tuple[int, ...] | None, _optional("INT [INT ...]")] = None
    """Units or filters of its layers, at the input. Default: 32 32 32 for fcn, 20 20 20 for cnn,
    and 64 32 32 for volume."""
    features: Annotated[tuple[int, ...] | None, _optional("INT [INT ...]")] = None
    """Units or filters of the classifier's layers. Default: 128 128 for fcn, 32 32 for cnn, and 32
    64 64 64 for compact, of which the last is the dense layer's."""
    output_size: OptionalInt = None
    """Side of the transformer's output, in pixels. Default: its input's."""
    pool: int = 1
    """Average pooling by this factor, after the transformer, against aliasing where it shrinks, or
    of a plain network's input."""
    mode: Literal["bilinear", "bicubic"] = "bilinear"
    """The sampler's interpolation."""
    padding_mode: Literal["zeros", "border", "reflection"] = "zeros"
    """What lies outside the image: the background (zeros), the edge, or the mirrored image."""
    align_corners: bool = False
    """Whether -1 and 1 are the centres of the outermost pixels, not their outer edges."""
    dropout: float = 0.5
    """Dropout rate of the tutorial's classifier and of compact."""
    precision: Literal["float32", "bfloat16"] = "float32"
    """Of the networks' computation; parameters and coordinates stay float32."""


@dataclasses.dataclass(frozen=True)
class Optimisation:
    """How it learns."""

    optimizer: Literal["sgd", "adam", "adamw"] = "adamw"
    """The optimiser, optax's."""
    learning_rate: float = 1e-3
    """Its peak learning rate."""
    localisation_lr: OptionalFloat = None
    """The localisation networks' learning rate. Default: --learning-rate."""
    momentum: float = 0.9
    """Of sgd."""
    weight_decay: float = 1e-4
    """Of adamw; kernels decay, biases do not."""
    clip_norm: OptionalFloat = None
    """Gradients of a larger norm are scaled down to it."""
    schedule: Literal["constant", "cosine", "step"] = "cosine"
    """Of the learning rate; step multiplies it by 0.1 every third of the run."""
    warmup: float = 0.0
    """Epochs over which the learning rate rises from 0."""
    epochs: int = 30
    """Passes over the training data."""
    batch_size: int = 64
    """Examples a step."""
    seed: int = 0
    """Of the parameters, the order of examples and the distortions."""


@dataclasses.dataclass(frozen=True)
class Run:
    """Where it is written."""

    run_dir: OptionalStr = None
    """The run's own folder. Default: runs/PRESET-DATE-TIME."""
    resume: Literal["never", "auto", "must"] = "never"
    """auto continues a run that --run-dir holds, or starts one; must demands one."""
    checkpoint_every: int = 1
    """Epochs from checkpoint to checkpoint; more where these would take over 1 % of the time."""
    figures: bool = True
    """Draw pictures at the end."""
    diagnostics: bool = False
    """Measure at the end how frames and predictions answer to known moves of test images."""
    mesh: OptionalStr = None
    """Devices, as batch=N: each batch is spread over N; of a CPU, virtual ones are made. A sweep
    also takes member=M. Default: one device, or all of several processes."""
    coordinator: OptionalStr = None
    """HOST:PORT of process 0, where several processes, on any machines, train one network. They get
    the same flags but for the id; process 0 writes the records."""
    num_processes: OptionalInt = None
    """How many processes there are."""
    process_id: OptionalInt = None
    """Which of them this is, from 0."""


@dataclasses.dataclass(frozen=True)
class Config:
    """Train a spatial transformer network.

    A run leaves its settings, records, checkpoints and pictures in a folder of its own.
    """

    data: Data = Data()
    model: Model = Model()
    optimisation: Optimisation = Optimisation()
    run: Run = Run()


C = typing.TypeVar("C", bound=Config)


# Of the distortions that scale: the smallest and the largest.
DEFAULT_SCALES: Mapping[str, tuple[float, float]] = types.MappingProxyType(
    {"rts": (0.7, 1.2), "p": (0.75, 1.0), "e": (0.75, 1.0)}
)


def scales(data: Data) -> tuple[float, float]:
    """The smallest and the largest scale of a distortion that has them."""
    low, high = DEFAULT_SCALES[data.distortion]
    return (
        low if data.min_scale is None else data.min_scale,
        high if data.max_scale is None else data.max_scale,
    )


# Settings that mean something only beside some values of another.
MEANT_FOR: Mapping[str, tuple[str, tuple[str, ...]]] = types.MappingProxyType(
    {
        "image_size": ("dataset", ("gtsrb",)),
        "keep_aspect": ("dataset", ("gtsrb",)),
        "max_angle": ("distortion", ("r", "rts", "extruded")),
        "min_scale": ("distortion", tuple(DEFAULT_SCALES)),
        "max_scale": ("distortion", tuple(DEFAULT_SCALES)),
        "sigma": ("distortion", ("p", "e")),
        "canvas": ("distortion", ("rts", "tc", "t", "extruded")),
        "clutter": ("distortion", ("tc",)),
        "crop_size": ("distortion", ("tc",)),
        "transform": ("model", WITH_TRANSFORMER),
        "control_points": ("transform", ("thin_plate_spline",)),
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
        "dropout": ("model", ("tutorial", "tutorial_cnn", "compact", "st_compact")),
        "momentum": ("optimizer", ("sgd",)),
        "weight_decay": ("optimizer", ("adamw",)),
    }
)
# How many numbers --features takes, where that is fixed, and convolution blocks of networks with a
# transformer.
CONVOLUTIONAL: Mapping[str, int] = types.MappingProxyType({"cnn": 2, "compact": 4})
BLOCKS: Mapping[str, int] = types.MappingProxyType({"st_cnn": 2, "st_compact": 3})
# Where the data lie says nothing about what is learned.
LOCATIONS = ("data_dir", "data_file")


MESH_AXES = ("member", "batch")


def mesh_sizes(run: Run) -> dict[str, int]:
    """The size of each axis of `--mesh`, in order; none where it is not given.

    Raises:
        ConfigError: if it is not of the form batch=4 or member=2,batch=4.
    """
    pairs = [part.partition("=") for part in run.mesh.split(",")] if run.mesh is not None else []
    names = [name for name, _, _ in pairs]
    ok = all(size.isascii() and size.isdecimal() and 0 < int(size) <= 4096 for _, _, size in pairs)
    ok = ok and set(names) <= set(MESH_AXES) and len(set(names)) == len(names)
    demand(ok, "--mesh", run.mesh, "of the form batch=4, member=4 or member=2,batch=4")
    return {name: int(size) for name, _, size in pairs}


def flag(name: str) -> str:
    """The flag of a setting."""
    return "--" + name.replace("_", "-")


def check(config: Config) -> None:
    """Raises `ConfigError` for the first setting that makes no sense."""
    _check_positive(config)
    _check_ranges(config)
    _check_data(config.data)
    _check_model(config.model)
    _check_volumes(config)
    _check_run(config.run)
    _check_mesh(config)


def demand(ok: bool, name: str, given: object, allowed: str) -> None:
    """Raises `ConfigError` with the one line that says what is wrong, unless all is well."""
    if not ok:
        raise ConfigError(f"{name} must be {allowed}; got {given}")


def _check_positive(config: Config) -> None:
    data, model, optimisation = config.data, config.model, config.optimisation
    for name, value in {
        "--validation-size": data.validation_size,
        "--image-size": data.image_size,
        "--max-angle": data.max_angle,
        "--min-scale": data.min_scale,
        "--max-scale": data.max_scale,
        "--canvas": data.canvas,
        "--clutter": data.clutter,
        "--crop-size": data.crop_size,
        "--transformers": model.transformers,
        "--output-size": model.output_size,
        "--pool": model.pool,
        "--learning-rate": optimisation.learning_rate,
        "--clip-norm": optimisation.clip_norm,
        "--epochs": optimisation.epochs,
        "--batch-size": optimisation.batch_size,
        "--checkpoint-every": config.run.checkpoint_every,
        "--features": min(model.features or (1,)),
        "--localisation-features": min(model.localisation_features or (1,)),
    }.items():
        ok = value is None or (math.isfinite(value) and value > 0)
        demand(ok, name, value, "positive")


def _check_ranges(config: Config) -> None:
    data, optimisation = config.data, config.optimisation
    for name, value, most in [
        ("--sigma", data.sigma, math.inf),
        ("--augment-angle", data.augment_angle, math.inf),
        ("--augment-shift", data.augment_shift, math.inf),
        ("--augment-sigma", data.augment_sigma, math.inf),
        ("--regularisation", config.model.regularisation, math.inf),
        ("--dropout", config.model.dropout, 1.0),
        ("--localisation-lr", optimisation.localisation_lr, math.inf),
        ("--momentum", optimisation.momentum, 1.0),
        ("--weight-decay", optimisation.weight_decay, math.inf),
        ("--warmup", optimisation.warmup, optimisation.epochs),
    ]:
        ok = value is None or 0 <= value < most
        demand(ok, name, value, "at least 0" + (f" and below {most}" if most < math.inf else ""))
    demand(data.max_angle is None or data.max_angle <= 180, "--max-angle", data.max_angle, "<= 180")
    demand(0 <= optimisation.seed < 2**32, "--seed", optimisation.seed, "in 0 .. 2^32 - 1")


def _check_data(data: Data) -> None:
    ok = 1 <= data.augment_scale < math.inf
    demand(ok, "--augment-scale", data.augment_scale, "at least 1")
    if data.distortion in DEFAULT_SCALES:
        low, high = scales(data)
        demand(low <= high, "--min-scale", low, f"at most --max-scale, {high}")
    demand(
        (data.data_file is not None) == (data.dataset == "npz"),
        "--data-file",
        data.data_file,
        "given with --dataset npz, and only there",
    )


def _check_model(model: Model) -> None:
    demand(model.features != (), "--features", "none", "at least one number")
    layers = CONVOLUTIONAL.get(model.model.removeprefix("st_").removeprefix("projection_"))
    demand(
        model.features is None or layers is None or len(model.features) == layers,
        "--features",
        model.features,
        f"{layers} numbers with --model {model.model}",
    )
    demand(min(model.control_points) >= 2, "--control-points", model.control_points, "at least 2")
    if model.model in WITH_TRANSFORMER:
        _check_placement(model)
        _check_localisation(model)


def _check_placement(model: Model) -> None:
    """Raises `ConfigError` where transformers cannot stand as is said."""
    demand(
        model.placement != "input" or model.transformers == 1,
        "--placement",
        model.placement,
        f"series, parallel or between where --transformers is {model.transformers}",
    )
    demand(
        model.placement != "between" or model.model in BLOCKS,
        "--placement between",
        f"--model {model.model}",
        f"with --model {' or '.join(BLOCKS)}, which have convolution blocks",
    )
    blocks = BLOCKS.get(model.model, 0)
    demand(
        model.placement != "between" or model.transformers <= blocks,
        "--transformers",
        model.transformers,
        f"at most the number of convolution blocks, {blocks}",
    )


def localisation(model: Model) -> str:
    """Which localisation network stands at the input of a model that has a transformer."""
    if model.localisation != "auto":
        return model.localisation
    if model.model in PROJECTING:
        return "volume"
    return {"st_fcn": "fcn", "tutorial": "tutorial"}.get(model.model, "cnn")


def _check_localisation(model: Model) -> None:
    """Raises `ConfigError` where the localisation network has no layers as is said."""
    features, name = model.localisation_features, "--localisation-features"
    if features is None:
        return
    demand(features != (), name, "none", "at least one number")
    kind = localisation(model)
    demand(kind != "tutorial", name, features, "left out with the localisation network tutorial")
    ok = kind != "cnn" or len(features) == 3
    demand(ok, name, features, "3 numbers with the localisation network cnn")


def _check_volumes(config: Config) -> None:
    """Raises `ConfigError` where volumes meet what is made for images, or images the other."""
    data, model = config.data, config.model
    in_space = data.distortion in VOLUMES
    demand(
        in_space == (model.model in PROJECTING),
        "--model",
        model.model,
        f"{'' if in_space else 'none of '}{', '.join(PROJECTING)} with --distortion "
        f"{data.distortion}",
    )
    demand(
        in_space == (model.transform in TRANSFORMS_3D) or model.model in WITHOUT_TRANSFORMER,
        "--transform",
        model.transform,
        f"{'' if in_space else 'none of '}{', '.join(TRANSFORMS_3D)} with --model {model.model}",
    )
    demand(
        not in_space or data.normalisation == "channel",
        "--normalisation",
        data.normalisation,
        f"channel with --distortion {data.distortion}",
    )
    demand(
        not (in_space and config.run.diagnostics),
        "--diagnostics",
        "it",
        f"left out with --distortion {data.distortion}, being meant for images",
    )
    allowed = ("auto", "fcn", "volume") if in_space else ("auto", "fcn", "cnn", "tutorial")
    demand(
        model.localisation in allowed,
        "--localisation",
        model.localisation,
        f"one of {', '.join(allowed)} with --model {model.model}",
    )


def _check_run(run: Run) -> None:
    demand(
        run.run_dir is not None or run.resume == "never",
        "--resume",
        run.resume,
        "given together with --run-dir, the folder of the run to continue",
    )
    joined = (run.coordinator, run.num_processes, run.process_id)
    demand(
        None not in joined or set(joined) == {None},
        "--coordinator",
        run.coordinator,
        "given together with --num-processes and --process-id",
    )
    if run.coordinator is not None:
        host, _, port = run.coordinator.rpartition(":")
        ok = bool(host) and port.isascii() and port.isdecimal() and 0 < int(port) < 2**16
        demand(ok, "--coordinator", run.coordinator, "of the form HOST:PORT")
        count = run.num_processes or 0
        demand(count > 0, "--num-processes", run.num_processes, "positive")
        ok = run.process_id in range(count)
        demand(ok, "--process-id", run.process_id, f"in 0 .. {count - 1}")


def _check_mesh(config: Config) -> None:
    sizes, batch_size = mesh_sizes(config.run), config.optimisation.batch_size
    count = sizes.get("batch", 1)
    demand(
        batch_size % count == 0, "--batch-size", batch_size, f"a multiple of --mesh batch={count}"
    )
    processes = config.run.num_processes or 1
    demand(
        not sizes or math.prod(sizes.values()) % processes == 0,
        "--mesh",
        config.run.mesh,
        f"devices in equal parts for --num-processes {processes}",
    )


def idle_beside(config: Config, name: str) -> tuple[str, tuple[str, ...]] | None:
    """The other setting beside which one means nothing, and what that would have to be.

    None where it means something. What the other hangs on counts as well: without a transformer
    there are no control points, whatever the transformation.
    """
    if name not in MEANT_FOR:
        return None
    other, values = MEANT_FOR[name]
    if by_name(config)[other] not in values:
        return other, values
    return idle_beside(config, other)


def is_meant(config: Config, name: str) -> bool:
    """Whether a setting means something beside the others."""
    return idle_beside(config, name) is None


def depth(name: str) -> int:
    """How many others decide, one after another, whether a setting means something."""
    return 1 + depth(MEANT_FOR[name][0]) if name in MEANT_FOR else 0


def by_name(config: Config) -> dict[str, Any]:
    """Every setting by its name, which is of one group only."""
    return {name: value for group in vars(config).values() for name, value in vars(group).items()}


def to_dict(config: Config) -> dict[str, dict[str, Any]]:
    """The configuration as JSON holds it."""
    return json.loads(json.dumps(dataclasses.asdict(config)))


def from_dict(values: Mapping[str, Mapping[str, Any]]) -> Config:
    """The configuration that `to_dict` made `values` from.

    Raises:
        ConfigError: if they are not such values.
    """

    def group(kind: type, given: Mapping[str, Any]) -> Any:
        return kind(**{k: tuple(v) if isinstance(v, list) else v for k, v in given.items()})

    try:
        config = Config(
            group(Data, values["data"]),
            group(Model, values["model"]),
            group(Optimisation, values["optimisation"]),
            group(Run, values["run"]),
        )
        check(config)
    except (KeyError, TypeError, AttributeError) as error:
        raise ConfigError(f"not the settings of a run: {error}") from error
    return config


def replace(config: C, settings: Mapping[str, Any]) -> C:
    """The configuration with other values of some settings, each given by its name."""
    groups = dict(vars(config))
    for name, value in settings.items():
        home = next(group for group, values in groups.items() if hasattr(values, name))
        groups[home] = dataclasses.replace(groups[home], **{name: value})
    return dataclasses.replace(config, **groups)


def setting(config: Config, name: str) -> Any:
    """The value of a setting, given by its name."""
    return by_name(config)[name]


def differences(a: Config, b: Config) -> list[str]:
    """The flags that differ, but for those that say where data lie and how a run is written."""
    left, right = to_dict(a), to_dict(b)
    return [
        f"{flag(name)} {left[group][name]} against {right[group][name]}"
        for group in ("data", "model", "optimisation")
        for name in left[group]
        if name not in LOCATIONS and left[group][name] != right[group][name]
    ]
