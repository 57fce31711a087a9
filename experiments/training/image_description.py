"""Describes what is done to the images of an experiment, to be said before training."""

import math
from typing import Any

from experiments.settings.config import Data
from experiments.training.experiment import Experiment, input_shape
from experiments.training.preprocessing import distortion_arguments


def describe_images(experiment: Experiment) -> str:
    """Describes the size, normalisation, distortion and augmentation of images in one line.

    The validation split is described as well.

    Example:
        `48 x 64 pixels, 3 channels; normalised by the mean and standard deviation of each channel;
        not distorted; not augmented; 25 of 256 training images, stratified, for validation`
    """
    data = experiment.config.data
    parts = (
        _size(input_shape(experiment)),
        _normalisation(data),
        f"distorted in all splits: {_distortion(data)}" if _distortion(data) else "not distorted",
        f"augmented in training: {_augmentation(data)}" if _augmentation(data) else "not augmented",
        _validation(experiment),
    )
    return "; ".join(parts)


def _size(shape: tuple[int, ...]) -> str:
    *sides, channels = shape
    unit = "pixels" if len(sides) == 2 else "voxels"
    return f"{' x '.join(map(str, sides))} {unit}, {channels} channel{'s' * (channels > 1)}"


def _normalisation(data: Data) -> str:
    each_channel = "normalised by the mean and standard deviation of each channel"
    if data.normalisation == "local":
        return f"{each_channel}, and of the neighbourhood of each pixel"
    return each_channel


def _distortion(data: Data) -> str:
    """The distortion and its range; empty if there is none."""
    found: dict[str, Any] = distortion_arguments(data)
    angle = math.degrees(found.get("max_angle_rad", 0.0))
    low, high = found.get("scale", (1.0, 1.0))
    canvas = " x ".join(map(str, found.get("canvas", ())))
    sigma = found.get("sigma_px", 0.0)
    scale = f"scale {low:g} to {high:g}"
    clutter = f"{data.clutter} crops of {data.crop_size} x {data.crop_size} pixels of other images"
    return {
        "none": "",
        "r": f"rotation up to {angle:g} degrees",
        "rts": f"rotation up to {angle:g} degrees, {scale}, anywhere on {canvas} pixels",
        "p": f"corners shifted by {sigma:g} px (standard deviation), {scale}",
        "e": f"control points shifted by {sigma:g} px (standard deviation), {scale}",
        "t": f"anywhere on {canvas} pixels",
        "tc": f"anywhere on {canvas} pixels, with {clutter}",
        "extruded": f"solid in {canvas} voxels, rotation up to {angle:g} degrees about any axis",
    }[data.distortion]


def _augmentation(data: Data) -> str:
    """The augmentation and its range; empty if there is none."""
    parts = {
        f"rotation up to {data.augment_angle:g} degrees": data.augment_angle > 0,
        f"scale up to {data.augment_scale:g}": data.augment_scale > 1,
        f"shift up to {data.augment_shift:g} px": data.augment_shift > 0,
        f"elastic with {data.augment_sigma:g} px": data.augment_sigma > 0,
    }
    return ", ".join(part for part, used in parts.items() if used)


def _validation(experiment: Experiment) -> str:
    data = experiment.dataset
    held_out, total = len(data.validation), len(data.train) + len(data.validation)
    kind = "whole tracks" if experiment.config.data.dataset == "gtsrb" else "stratified"
    return f"{held_out:,} of {total:,} training images, {kind}, for validation"
