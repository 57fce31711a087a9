"""The settings of a training run: fields, types, defaults and help texts. Does not import jax.

Each field is a flag. A default of None depends on other settings, as the help text says. The help
texts have lines of at most 70 characters, because tyro keeps their line breaks.
"""

import dataclasses
import typing
from typing import Annotated, Literal

import tyro

DatasetName = Literal["digits", "mnist", "fashion_mnist", "gtsrb", "npz", "folder"]
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
    "velocity_field",
    "affine_3d",
    "rigid_3d",
]
# A name, or package.module:object for a user-defined family.
TransformChoice = Annotated[
    TransformName | str,
    tyro.conf.arg(metavar=f"{{{','.join(typing.get_args(TransformName))}}}|MODULE:OBJECT"),
]
WITHOUT_TRANSFORMER = ("fcn", "cnn", "compact", "tutorial_cnn", "projection_cnn")
WITH_TRANSFORMER = tuple(
    name for name in typing.get_args(ModelName) if name not in WITHOUT_TRANSFORMER
)
# The distortions that return volumes, and the models and transformations for volumes.
VOLUME_DISTORTIONS = ("extruded",)
PROJECTION_MODELS = ("projection_cnn", "st_projection_cnn")
VOLUME_TRANSFORMS = ("affine_3d", "rigid_3d")
# A user's own data.
OWN_DATASETS = ("npz", "folder")

ImageSize = Annotated[int | tuple[int, int], tyro.conf.arg(metavar="SIDE|{HEIGHT WIDTH}")]
"""The side of square images, or the height and width."""

SettingValue = bool | int | float | str | tuple[int, ...] | None
"""The value of a setting."""


def _default_hint(label: str) -> str:
    """The end of the help text of a setting that can be None, which the text itself explains."""
    return "" if label == "None" else f"(set to {label})"


def _optional(metavar: str) -> object:
    return tyro.conf.arg(metavar=metavar, help_behavior_hint=_default_hint)


OptionalInt = Annotated[int | None, _optional("INT")]
OptionalFloat = Annotated[float | None, _optional("FLOAT")]
OptionalStr = Annotated[str | None, _optional("STR")]
OptionalInts = Annotated[tuple[int, ...] | None, _optional("INT [INT ...]")]


@dataclasses.dataclass(frozen=True)
class Data:
    """The images, their distortion and their preprocessing."""

    dataset: DatasetName = "digits"
    """digits comes with scikit-learn. mnist, fashion_mnist and gtsrb
    (German traffic signs) are downloaded, or read from --data-dir.
    npz reads --data-file. folder reads your own images from --data-dir."""
    data_dir: OptionalStr = None
    """Folder with original files (DIR/mnist/*.gz, DIR/gtsrb/*.zip) or
    prepared files (DIR/tfds/mnist, DIR/gtsrb/*.npz). For folder, a
    folder with image files in DIR/train/CLASS/* and DIR/test/CLASS/*.
    Without DIR/test, a fifth of the training images is the test set."""
    data_file: OptionalStr = None
    """File for --dataset npz, with the arrays x_train, y_train, x_test,
    y_test and optionally class_names."""
    validation_size: OptionalInt = None
    """Number of training examples held out for validation. gtsrb holds
    out whole tracks, so its number is approximate. Default: 5000; 200
    for digits; a tenth for gtsrb, npz and folder."""
    image_size: ImageSize = 32
    """Side of the images of gtsrb and folder, in pixels. For folder, also
    height and width. Without a preset, folder has 64."""
    keep_aspect: bool = False
    """Pad the images of gtsrb and folder by repeating their edges, instead
    of stretching them. They get the proportions of --image-size."""
    task: Literal["classify", "add"] = "classify"
    """add: two digits, distorted independently, are the two channels of
    an image, and the label is their sum."""
    distortion: DistortionName = "r"
    """Your own data (npz, folder) are only distorted with this flag.
    r: rotation. rts: rotation, translation and scale. p: projective.
    e: elastic. tc: translation with clutter. t: translation.
    extruded: a solid in a volume, rotated about any axis."""
    max_angle: OptionalFloat = None
    """Largest rotation of r, rts and extruded, in degrees.
    Default: 90 for r and extruded, 45 for rts."""
    min_scale: OptionalFloat = None
    """Smallest scale of rts, p and e.
    Default: 0.7 for rts, 0.75 for p and e."""
    max_scale: OptionalFloat = None
    """Largest scale of rts, p and e. Default: 1.2 for rts, 1 for p and e."""
    sigma: OptionalFloat = None
    """Standard deviation of the shifts of the corners (p) or of the
    control points (e), in pixels. Default: 5 for p, 1.5 for e."""
    canvas: OptionalInt = None
    """Side of the distorted image of rts, tc and t, or of the volume of
    extruded, in pixels. Default: 42 for rts, 60 for tc, 84 for t, 32
    for extruded."""
    augment_angle: float = 0.0
    """Augmentation of training images: rotate by at most this angle, in
    degrees."""
    augment_scale: float = 1.0
    """Augmentation of training images: enlarge or shrink by at most this
    factor."""
    augment_shift: float = 0.0
    """Augmentation of training images: shift by at most this distance
    along each axis, in pixels."""
    augment_sigma: float = 0.0
    """Augmentation of training images: shift 4 x 4 control points with
    this standard deviation, in pixels."""
    normalisation: Literal["channel", "local"] = "channel"
    """channel: subtract the mean and divide by the standard deviation of
    each channel over the training images. local: then do the same with
    the neighbourhood of each pixel."""
    clutter: int = 6
    """Number of crops of other images that tc adds."""
    crop_size: int = 6
    """Side of a crop of tc, in pixels."""


@dataclasses.dataclass(frozen=True)
class Model:
    """The network."""

    model: ModelName = "st_cnn"
    """Models named st_... and tutorial have a spatial transformer;
    tutorial_cnn is tutorial without it. fcn and cnn are the paper's
    networks. compact has smaller kernels, a dense layer and dropout.
    projection_cnn sums a volume along its depth."""
    transform: TransformChoice = "affine"
    """Transformation family of the transformer. package.module:object is
    a user-defined stn_jax.transforms.Transform, in a module that Python
    can import: in this folder or on PYTHONPATH."""
    control_points: tuple[int, int] = (4, 4)
    """Rows and columns of control points of the thin plate spline and of
    the velocity field."""
    regularisation: float = 0.0
    """Regularisation of the thin plate spline."""
    placement: Literal["input", "series", "parallel", "between"] = "input"
    """Positions of the transformers. input: one, at the input.
    series: at the input, one after another. parallel: at the input,
    side by side. between: before the first convolution blocks."""
    transformers: int = 1
    """Number of transformers. --placement input has one."""
    localisation: Literal["auto", "fcn", "cnn", "tutorial", "volume"] = "auto"
    """Localisation network at the input. auto: the one of the model."""
    localisation_features: OptionalInts = None
    """Units or filters of each layer of the localisation network at the
    input. Default: 32 32 32 for fcn, 20 20 20 for cnn, 64 32 32 for
    volume."""
    features: OptionalInts = None
    """Units or filters of each layer of the classifier. Default: 128 128
    for fcn, 32 32 for cnn, 32 64 64 64 for compact (the last number is
    for its dense layer)."""
    output_size: OptionalInt = None
    """Side of the output of the transformer at the input, in pixels.
    Default: the size of its input."""
    pool: int = 1
    """Factor of average pooling after the transformer, which reduces
    aliasing if the transformer shrinks the image. Without a
    transformer, the input is pooled."""
    mode: Literal["bilinear", "bicubic"] = "bilinear"
    """Interpolation of the sampler."""
    padding_mode: Literal["zeros", "border", "reflection"] = "zeros"
    """Values outside the image: the background (zeros), the nearest edge
    pixel (border) or the mirrored image (reflection)."""
    align_corners: bool = False
    """Place the coordinates -1 and 1 at the centres of the outermost
    pixels instead of at their outer edges."""
    dropout: float = 0.5
    """Dropout rate of the classifier of tutorial and compact."""
    precision: Literal["float32", "bfloat16"] = "float32"
    """Precision of the network's computation. Parameters and coordinates
    are always float32."""


@dataclasses.dataclass(frozen=True)
class Optimisation:
    """The optimisation."""

    optimizer: Literal["sgd", "adam", "adamw"] = "adamw"
    """Optimizer from optax."""
    learning_rate: float = 1e-3
    """Peak learning rate."""
    localisation_lr: OptionalFloat = None
    """Peak learning rate of the localisation networks.
    Default: --learning-rate."""
    momentum: float = 0.9
    """Momentum of sgd."""
    weight_decay: float = 1e-4
    """Weight decay of adamw. Biases do not decay."""
    clip_norm: OptionalFloat = None
    """Largest global norm of the gradients; larger gradients are scaled
    down. Default: no limit."""
    schedule: Literal["constant", "cosine", "step"] = "cosine"
    """Schedule of the learning rate after the warmup. cosine: decay to 0.
    step: multiply by 0.1 after each third of the run."""
    warmup: float = 0.0
    """Number of epochs in which the learning rate rises linearly from 0.
    It may be a fraction."""
    epochs: int = 30
    """Number of passes over the training data."""
    batch_size: int = 64
    """Number of examples per step."""
    seed: int = 0
    """Seed of the parameters, the order of examples and the distortions."""


@dataclasses.dataclass(frozen=True)
class Run:
    """The run folder, the records and the devices."""

    run_dir: OptionalStr = None
    """Folder of the run. Default: runs/PRESET-DATE-TIME."""
    resume: Literal["never", "auto", "must"] = "never"
    """auto: continue the run in --run-dir, or start it if there is none.
    must: fail if there is none."""
    checkpoint_every: int = 1
    """Number of epochs between checkpoints. Checkpoints are less frequent
    if they would take more than 1 % of the time."""
    figures: bool = True
    """Draw figures at the end."""
    diagnostics: bool = False
    """Measure at the end how the transformer and the predictions react
    to known translations, rotations and scalings of test images."""
    mesh: OptionalStr = None
    """Devices, as batch=N: each batch is divided among N devices. On CPUs
    these are virtual devices. A sweep also accepts member=M.
    Default: one device, or all devices of several processes."""
    coordinator: OptionalStr = None
    """Address HOST:PORT of process 0, if several processes train one
    network. All get the same flags except for --process-id. Process 0
    writes the records."""
    num_processes: OptionalInt = None
    """Number of processes."""
    process_id: OptionalInt = None
    """Index of this process, from 0."""
    distributed: bool = False
    """Train with all processes of a job of SLURM (srun), of Open MPI
    (mpirun) or of a TPU pod. Each finds the others itself, and needs no
    other flag, such as --coordinator."""
    compilation_cache: bool = True
    """Keep compiled programs in the user's cache folder, so that the next
    command with the same settings starts sooner."""
    tracker: Literal["none", "wandb", "mlflow"] = "none"
    """Also send the records to Weights & Biases or MLflow. Needs the extra
    of the same name. An error of the tracker does not end the run."""


@dataclasses.dataclass(frozen=True)
class Config:
    """Train a spatial transformer network.

    The settings, metrics, checkpoints and figures are written to a run folder.
    """

    data: Data = Data()
    model: Model = Model()
    optimisation: Optimisation = Optimisation()
    run: Run = Run()


ConfigT = typing.TypeVar("ConfigT", bound=Config)
