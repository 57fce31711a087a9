"""The presets: settings that a command line starts from. Imports no jax."""

import types
import typing
from collections.abc import Mapping

from experiments.config import Config, Data, Model, Optimisation


class Preset(typing.NamedTuple):
    """A configuration to start from, and a line for `--help`."""

    summary: str
    config: Config


PRESETS: Mapping[str, Preset] = types.MappingProxyType(
    {
        "demo": Preset(
            "rotation transformer on rotated, embedded digits; about a minute, no download",
            Config(
                Data(dataset="digits", distortion="r"),
                Model(model="st_cnn", transform="rotation"),
                Optimisation(epochs=60, learning_rate=2e-3),
            ),
        ),
        "tutorial": Preset(
            "PyTorch's tutorial: its network on plain MNIST (with momentum and cosine decay)",
            Config(
                Data(dataset="mnist", distortion="none"),
                Model(model="tutorial"),
                Optimisation(
                    optimizer="sgd",
                    learning_rate=0.01,
                    epochs=20,
                    batch_size=64,
                ),
            ),
        ),
        "rotation": Preset(
            "rotation transformer on MNIST, rotated by up to 45 degrees",
            Config(
                Data(dataset="mnist", distortion="r", max_angle=45.0),
                Model(model="st_cnn", transform="rotation"),
                Optimisation(epochs=20, batch_size=128, learning_rate=2e-3),
            ),
        ),
        "distorted": Preset(
            "the paper's distorted MNIST: any --distortion, --model and --transform",
            Config(
                Data(dataset="mnist", distortion="rts"),
                Model(model="st_cnn", transform="affine"),
                # Without these three an affine frame may leave a large canvas in the first steps.
                Optimisation(
                    epochs=30,
                    batch_size=128,
                    learning_rate=2e-3,
                    localisation_lr=5e-4,
                    warmup=1.0,
                    clip_norm=1.0,
                ),
            ),
        ),
        "gtsrb": Preset(
            "German traffic signs, with a transformer at the input that makes 48 x 48 of 32 x 32",
            Config(
                Data(
                    dataset="gtsrb",
                    distortion="none",
                    normalisation="local",
                    augment_angle=10.0,
                    augment_scale=1.15,
                    augment_shift=2.0,
                ),
                Model(
                    model="st_compact",
                    transform="affine",
                    placement="between",
                    features=(32, 64, 128, 131),
                    output_size=48,
                    dropout=0.5,
                ),
                Optimisation(
                    epochs=30,
                    batch_size=128,
                    learning_rate=2e-3,
                    localisation_lr=5e-4,
                    weight_decay=1e-2,
                    warmup=1.0,
                    clip_norm=1.0,
                ),
            ),
        ),
        "projection3d": Preset(
            "MNIST as solids turned in volumes of 32^3, classified by a view that is learned",
            Config(
                Data(dataset="mnist", distortion="extruded"),
                Model(model="st_projection_cnn", transform="affine_3d", output_size=24),
                Optimisation(
                    epochs=5,
                    learning_rate=2e-3,
                    localisation_lr=1e-3,
                    warmup=0.5,
                    clip_norm=1.0,
                ),
            ),
        ),
    }
)
