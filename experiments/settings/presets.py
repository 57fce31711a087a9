"""The presets: named settings that a command line starts from. Does not import jax."""

import types
import typing
from collections.abc import Mapping

from experiments.settings.config import Config, Data, Model, Optimisation


class Preset(typing.NamedTuple):
    """A named configuration.

    Attributes:
        summary: a line for `--help`.
        config: the settings.
    """

    summary: str
    config: Config


PRESETS: Mapping[str, Preset] = types.MappingProxyType(
    {
        "demo": Preset(
            "rotation transformer on rotated digits of scikit-learn; about a minute, no download",
            Config(
                Data(dataset="digits", distortion="r"),
                Model(model="st_cnn", transform="rotation"),
                Optimisation(epochs=60, learning_rate=2e-3),
            ),
        ),
        "tutorial": Preset(
            "the network of PyTorch's tutorial on MNIST (with momentum and cosine decay)",
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
            "the paper's distorted MNIST, for any --distortion, --model and --transform",
            Config(
                Data(dataset="mnist", distortion="rts"),
                Model(model="st_cnn", transform="affine"),
                # The last three keep an affine transformer inside the canvas in the first steps.
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
            "German traffic signs, with a transformer that enlarges 32 x 32 pixels to 48 x 48",
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
        "images": Preset(
            "your own images, in a folder that --data-dir names (see --dataset)",
            Config(
                # Without augmentation, a few hundred images are learned by heart.
                Data(
                    dataset="folder",
                    image_size=64,
                    distortion="none",
                    augment_angle=10.0,
                    augment_scale=1.15,
                    augment_shift=3.0,
                ),
                Model(model="st_compact", transform="affine"),
                Optimisation(
                    epochs=60,
                    batch_size=32,
                    learning_rate=2e-3,
                    localisation_lr=5e-4,
                    weight_decay=1e-2,
                    warmup=1.0,
                    clip_norm=1.0,
                ),
            ),
        ),
        "projection3d": Preset(
            "MNIST as rotated solids in volumes of 32^3 pixels, classified from a learned view",
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
