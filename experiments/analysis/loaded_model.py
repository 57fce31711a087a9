"""A trained network that is applied to arrays of images: `experiments.load(run_dir)`."""

import functools
import math
import os
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike

from experiments.analysis.full_size import FrameWarp
from experiments.analysis.inference import Inference
from experiments.analysis.restore import TrainedRun, restore
from experiments.datasets.image_files import pad_to_aspect, resize_to
from experiments.runs.records import RunError, read_config, read_summary
from experiments.settings.machine import expand_user
from experiments.settings.relations import has_effect
from experiments.training import preprocessing
from experiments.training.experiment import EVALUATION_BATCH, input_shape
from stn_jax.transforms import Transform

PerFrame = np.ndarray | tuple[np.ndarray, ...]
"""An array if the network has one frame on its input, otherwise an array for each frame."""


def load_model(folder: str | os.PathLike[str]) -> "LoadedModel":
    """Loads the network of a finished run, as `experiments.load`.

    Raises:
        RunError: if the folder contains no run, the run is not finished, it has no undamaged
            checkpoint, or another process holds its lock.
        DatasetError: if the summary does not describe the data, and they cannot be loaded.
    """
    folder = expand_user(folder)
    read_config(folder)  # raises if there is no run
    if read_summary(folder) is None:
        raise RunError(f"{folder}: the run is not finished; continue it with --resume auto")
    return LoadedModel(restore(folder))


class LoadedModel:
    """A trained network. It normalises images as in training, but never distorts them.

    Images are arrays `[n, h, w, c]` of one size (volumes `[n, d, h, w, c]`): uint8, or floats in
    [0, 1]. If the network was trained on floats, they are floats with the scale of those. A network
    that was trained on distorted images, such as digits on a larger canvas, takes images of the
    size of the canvas. If it was trained to add two digits, both are channels of an image.

    Transformers in series count as one, and transformers of feature maps are left out. The
    remaining transformers, one or several side by side, have a frame on the image each. Methods
    return an array if there is one frame, and a tuple of arrays if there are several.

    Args:
        run: the run that trained the network.

    Attributes:
        config: the settings of the run.
        class_names: the name of each class; its number if the data set has no names.
        image_shape: the shape of an image, (h, w, c) or (d, h, w, c).
        image_dtypes: the dtypes of images, `uint8` and `float32` or only the latter.
        transforms: the transformation of each frame. Empty if no transformer warps the image.
        frame_settings: for each frame, its transformation and shapes as values for JSON.
        arrays: the arrays of the network as nested dictionaries: `params`, and other collections
            if it has any.
        inference: the functions of the network.
    """

    def __init__(self, run: TrainedRun) -> None:
        experiment = run.experiment
        dataset, self.config = experiment.dataset, experiment.config
        self.class_names = preprocessing.class_names(self.config.data, dataset)
        self.image_shape = input_shape(experiment)
        of_bytes = dataset.train.images.dtype == np.uint8
        self.image_dtypes = ("uint8", "float32") if of_bytes else ("float32",)
        self.arrays = {"params": run.params, **(run.variables or {})}
        self.inference = Inference(experiment)
        self._outputs = self._trace_outputs()
        self.transforms = tuple(transform for transform, _ in self._outputs)
        self._warps = [
            FrameWarp(self.config.model, self.image_shape[:-1], *each) for each in self._outputs
        ]
        self._predict = jax.jit(self.inference.probabilities)
        self._theta = jax.jit(
            lambda arrays, images: [frame.theta for frame in self.inference.frames(arrays, images)]
        )

    def predict(self, images: ArrayLike) -> np.ndarray:
        """Computes the probability of each class.

        Args:
            images: `[n, *image_shape]`.

        Returns:
            float32 `[n, classes]`, in the order of `class_names`.

        Raises:
            ValueError: if the images have another shape, another dtype, or floats outside [0, 1].
        """
        found = self._check_input(images)
        predict = functools.partial(self._predict, self.arrays)
        return _in_batches(predict, EVALUATION_BATCH, found)

    def theta(self, images: ArrayLike) -> PerFrame:
        """Computes the parameters of the transformation of each image.

        Args:
            images: `[n, *image_shape]`.

        Returns:
            float32 `[n, num_params]` for each frame, in the layout of its entry of `transforms`.

        Raises:
            ValueError: as `predict`; if no transformer warps the image.
        """
        self._check_has_frames()
        found = self._check_input(images)
        theta = functools.partial(self._theta, self.arrays)
        return _one_or_all(_in_batches(theta, EVALUATION_BATCH, found))

    def straighten(self, images: ArrayLike, theta: PerFrame | None = None) -> PerFrame:
        """Warps images as the transformer does, at their own resolution.

        Args:
            images: `[n, h, w, c]` of any size; volumes only of `image_shape`. For the network, they
                are resized as by `resize`. If the run used --keep-aspect, they are padded to the
                proportions of --image-size, and the results have these proportions too.
            theta: the result of `theta`, to warp other arrays in the same way. None computes it.

        Returns:
            For each frame, images of the dtype and scale of `images`. Each side is that of the
            transformer's output, times the ratio of the image's side to that of the network's
            input. The outside of an image is 0, unless --padding-mode says otherwise.

        Raises:
            ValueError: if the images have another number of axes, another dtype, or floats outside
                [0, 1]; if `theta` does not fit; if no transformer warps the image.
        """
        self._check_has_frames()
        found = self._pad(self._check_images(images))
        if theta is None:
            theta = self.theta(found if self._fits(found) else self.resize(found))
        thetas = self._check_theta(theta, len(found))
        # As many pixels at a time as a batch of the network's input has.
        ratio = math.prod(self.image_shape[:-1]) / math.prod(found.shape[1:-1])
        size = max(1, int(EVALUATION_BATCH * ratio))
        return _one_or_all(
            [
                _in_batches(warp, size, found, each)
                for warp, each in zip(self._warps, thetas, strict=True)
            ]
        )

    def resize(self, images: ArrayLike) -> np.ndarray:
        """Resizes images to `image_shape`, bilinearly, with antialiasing if they shrink.

        Args:
            images: `[n, h, w, c]` of any size. If the run used --keep-aspect, they are first padded
                to the proportions of --image-size by repeating their edges, otherwise stretched.
                Colour becomes grey, and grey becomes colour, as the network needs it.

        Returns:
            `[n, *image_shape]` of the dtype of `images`.

        Raises:
            ValueError: if the images have another number of axes, another dtype or channels that
                cannot be converted; if the network takes volumes.
        """
        if len(self.image_shape) != 3:
            raise ValueError(f"volumes of shape {list(self.image_shape)} cannot be resized")
        found = self._pad(self._check_images(images))
        resized = [resize_to(image, self.image_shape) for image in found]
        return np.asarray(resized, found.dtype).reshape(-1, *self.image_shape)

    # --- Checks -----------------------------------------------------------------------------------

    def _check_images(self, images: ArrayLike) -> np.ndarray:
        """The images as an array of an allowed dtype."""
        found, ndim = np.asarray(images), 1 + len(self.image_shape)
        if jnp.issubdtype(found.dtype, jnp.floating):
            found = found.astype(np.float32)
        if found.dtype.name not in self.image_dtypes:
            allowed = " or ".join(self.image_dtypes).replace("float32", "floats")
            raise ValueError(f"images must be {allowed}; got {found.dtype}")
        if found.ndim != ndim or 0 in found.shape[1:]:
            axes = "n, d, h, w, c" if ndim == 5 else "n, h, w, c"
            raise ValueError(f"images must be an array [{axes}]; got {list(found.shape)}")
        return found

    def _check_input(self, images: ArrayLike) -> np.ndarray:
        """The images as an array that the network takes."""
        found = self._check_images(images)
        if not self._fits(found):
            expected = ", ".join(map(str, ("n", *self.image_shape)))
            hint = "; `resize` resizes images" if len(self.image_shape) == 3 else ""
            raise ValueError(f"images must be [{expected}]; got {list(found.shape)}{hint}")
        if found.dtype == np.float32 and "uint8" in self.image_dtypes and found.size:
            low, high = found.min(), found.max()
            if not (low >= 0 and high <= 1):
                raise ValueError(f"floating images must be in [0, 1]; got {low:g} to {high:g}")
        return found

    def _fits(self, images: np.ndarray) -> bool:
        return images.shape[1:] == self.image_shape

    def _check_has_frames(self) -> None:
        if not self.transforms:
            raise ValueError(f"--model {self.config.model.model} has no transformer of images")

    def _check_theta(self, theta: PerFrame, count: int) -> tuple[np.ndarray, ...]:
        thetas = tuple(theta) if isinstance(theta, tuple | list) else (theta,)
        found = [list(np.shape(each)) for each in thetas]
        expected = [[count, transform.num_params] for transform in self.transforms]
        if found != expected:
            raise ValueError(f"theta must have the shapes {expected}; got {found}")
        return tuple(np.asarray(each, np.float32) for each in thetas)

    # --- Computation ------------------------------------------------------------------------------

    def _pad(self, images: np.ndarray) -> np.ndarray:
        """Images with the proportions of --image-size, if the run used --keep-aspect."""
        if not self.config.data.keep_aspect or not len(images):
            return images
        return np.stack([pad_to_aspect(image, self.image_shape)[0] for image in images])

    def _trace_outputs(self) -> list[tuple[Transform, tuple[int, ...]]]:
        """The transformation and the spatial shape of the output of each frame."""
        outputs: list[tuple[Transform, tuple[int, ...]]] = []

        def trace(images: jax.Array) -> None:
            frames = self.inference.frames(self.arrays, images)
            outputs.extend((frame.transform, frame.output_shape) for frame in frames)

        jax.eval_shape(trace, jax.ShapeDtypeStruct((1, *self.image_shape), jnp.float32))
        return outputs

    def straighten_batch(self, images: jax.Array, *thetas: jax.Array) -> list[jax.Array]:
        """Warps a batch by theta of each frame. A pure function, as those of `inference`."""
        return [warp.trace(images, each) for warp, each in zip(self._warps, thetas, strict=True)]

    @property
    def frame_settings(self) -> list[dict[str, Any]]:
        """For each frame, its transformation and shapes as values for JSON."""
        model = self.config.model
        options = {
            name: getattr(model, name)
            for name in ("control_points", "regularisation")
            if has_effect(self.config, name)
        }
        return [
            {
                "transform": model.transform,
                "in_series": model.transformers if model.placement == "series" else 1,
                **options,
                "align_corners": model.align_corners,
                "network_input_shape": self.image_shape[:-1],
                "network_output_shape": shape,
            }
            for _, shape in self._outputs
        ]


def _in_batches(function: Callable[..., Any], size: int, *arrays: np.ndarray) -> Any:
    """Applies a function to `size` examples at a time, and joins the results."""
    starts = range(0, max(1, len(arrays[0])), size)
    parts = [jax.device_get(function(*(each[i : i + size] for each in arrays))) for i in starts]
    return jax.tree.map(lambda *each: np.concatenate(each), *parts)


def _one_or_all(arrays: Sequence[np.ndarray]) -> PerFrame:
    return arrays[0] if len(arrays) == 1 else tuple(arrays)
