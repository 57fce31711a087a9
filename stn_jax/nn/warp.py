"""The part of spatial transformers and their networks that has no parameters."""

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float, Num

from stn_jax._checks import as_numbers, check_integer, check_shape, check_sizes, is_traced, one_line
from stn_jax._types import Array, Mode, PaddingMode
from stn_jax.nn.layers import Layer
from stn_jax.transforms.base import Transform, at_least_float32, check_transform
from stn_jax.warping import spatial_transform, transform_grid

Intermediates = dict[str, Any]
ImagesOrVolumes = Float[Array, "b *spatial c"]
# What a transformer and a network return: the output, and the intermediates by name.
Result = tuple[Float[jax.Array, "b *shape"], Intermediates]


@dataclasses.dataclass(frozen=True)
class Warp:
    """Warps a batch of images by a batch of thetas: a spatial transformer without its parameters.

    Sequences and arrays become tuples of numbers, so that a `Warp` is hashable.

    Attributes:
        transform: the family of transformations; 3-D ones take volumes `[b, d, h, w, c]`.
        output_shape: spatial shape of the output, by default that of the input.
        mode, padding_mode, align_corners: as for `stn_jax.grid_sample`.
        fill: the value outside the image with the padding mode `zeros`, one number or one per
            channel.

    Raises:
        ValueError: if `transform` is not a `Transform`, or `output_shape` does not fit it.

    Example:
        >>> from stn_jax.transforms import translation
        >>> images, thetas = jnp.arange(6.0).reshape(1, 2, 3, 1), jnp.asarray([[2 / 3, 0.0]])
        >>> output, intermediates = Warp(translation)(images, thetas)
        >>> output[..., 0]
        Array([[[1., 2., 0.],
                [4., 5., 0.]]], dtype=float32)
        >>> intermediates["grid"].shape
        (1, 2, 3, 2)
    """

    transform: Transform
    output_shape: Sequence[int] | None = None
    mode: Mode = "bilinear"
    padding_mode: PaddingMode = "zeros"
    align_corners: bool = False
    fill: float | Sequence[float] | Array = 0.0

    def __post_init__(self) -> None:
        check_transform(self.transform)
        if self.output_shape is not None:
            sizes = check_sizes("output_shape", self.output_shape, self.transform.ndim)
            object.__setattr__(self, "output_shape", sizes)
        fill = None if is_traced(self.fill) else as_numbers(self.fill)
        if fill is not None:  # otherwise `grid_sample` checks it
            values = tuple(fill.tolist()) if fill.ndim == 1 else fill.tolist()
            object.__setattr__(self, "fill", values)

    def initial_theta(self, theta: Sequence[float] | Array | None = None) -> Num[Array, " n"]:
        """Returns the initial bias of the layer that regresses theta: `theta`, or the identity.

        Raises:
            ValueError: if `theta` does not have the shape `[num_params]`.
        """
        if theta is None:
            return self.transform.identity
        count, shape = self.transform.num_params, np.shape(theta)
        check_shape("initial_theta", shape, f"[{count}]", shape == (count,))
        return jnp.asarray(theta) if is_traced(theta) else np.asarray(theta)

    def thetas(
        self, images: ImagesOrVolumes, localisation: Layer, regression: Layer
    ) -> Float[jax.Array, "b num_params"]:
        """Predicts a theta for each image, in float32 or wider.

        Args:
            images: images or volumes.
            localisation: maps images to features `[b, f]`.
            regression: maps features to thetas.

        Raises:
            ValueError: if the images are not a batch, or the features are not `[b, f]`.
        """
        ndim = self.transform.ndim
        expected = f"[b, {'h, w' if ndim == 2 else 'd, h, w'}, c]"
        check_shape("images", jnp.shape(images), expected, jnp.ndim(images) == ndim + 2)
        features = localisation(images)
        _check_features(features, images.shape[0])
        return regression(at_least_float32(features))

    def iterate(
        self,
        images: ImagesOrVolumes,
        predict: Callable[[jax.Array], Float[jax.Array, "b num_params"]],
        num_iterations: int,
    ) -> Float[jax.Array, "b num_params"]:
        """Predicts thetas in several steps, each from the images warped by the theta so far.

        A step acts in the frame of the warped image, so theta becomes `compose(theta, step)`. A
        step whose composition is not finite, such as one beyond the horizon of a homography, is
        left out for its image. The original images are warped each time, so nothing outside an
        intermediate frame is lost, and the images are not blurred repeatedly.

        Args:
            images: images or volumes.
            predict: maps images to the theta of a step. It sees images of the original shape.
            num_iterations: number of predictions, at least 1. The first one sees the images
                themselves.
        """
        look, images = dataclasses.replace(self, output_shape=None), jnp.asarray(images)
        thetas = predict(images)
        for _ in range(num_iterations - 1):
            views, _ = look(images, thetas)
            thetas = jax.vmap(self._compose_if_finite)(thetas, predict(views))
        return thetas

    def _compose_if_finite(self, theta: jax.Array, step: jax.Array) -> jax.Array:
        """`compose(theta, step)`, or theta if that is not finite. Gradients are finite too."""
        compose = self.transform.compose
        finite = jnp.isfinite(compose(theta, step)).all()
        identity = jnp.asarray(self.transform.identity, step.dtype)
        return jnp.where(finite, compose(theta, jnp.where(finite, step, identity)), theta)

    def __call__(
        self, images: ImagesOrVolumes, thetas: Float[Array, "b num_params"]
    ) -> tuple[Float[jax.Array, "b *out c"], Intermediates]:
        """Warps each image by its theta.

        Returns:
            `output` `[b, *out, c]` in the dtype of `images`, and `{"theta": [b, num_params],
            "grid": [b, *out, n], "output": output}`. Under `jit`, unused values are not computed.
        """
        thetas = jnp.asarray(thetas)
        shape = images.shape[1:-1] if self.output_shape is None else self.output_shape

        def warp(image: jax.Array, theta: jax.Array) -> jax.Array:
            return spatial_transform(
                image,
                theta,
                self.transform,
                output_shape=shape,
                mode=self.mode,
                padding_mode=self.padding_mode,
                align_corners=self.align_corners,
                fill=self.fill,
            )

        def grid(theta: jax.Array) -> jax.Array:
            return transform_grid(theta, self.transform, shape, align_corners=self.align_corners)

        # Without the barrier XLA may fuse the sampler into its consumer: sampling an image at
        # 56 x 56 points and average pooling take 236 us on a CPU core, 40 us with the barrier.
        output = jax.lax.optimization_barrier(jax.vmap(warp)(jnp.asarray(images), thetas))
        return output, {"theta": thetas, "grid": jax.vmap(grid)(thetas), "output": output}


def _check_features(features: object, batch_size: int) -> None:
    """Raises `ValueError` unless a localisation network returned features `[batch_size, f]`."""
    shape = getattr(features, "shape", None)
    if shape is None or len(shape) != 2 or shape[0] != batch_size:
        found = type(features).__name__ if shape is None else list(shape)
        raise ValueError(
            f"localisation must return features of shape [{batch_size}, f]; got {found}"
        )


def apply_parallel(
    images: ImagesOrVolumes, transformers: Sequence[Callable[..., Result]]
) -> Result:
    """Applies transformers to the same images, and concatenates their outputs as channels.

    Args:
        images: images or volumes.
        transformers: at least one; their outputs must have the same spatial shape.

    Returns:
        The output, and the intermediates of each transformer as `transformer_i`.

    Raises:
        ValueError: if there is no transformer, or the outputs differ in spatial shape.
    """
    if not transformers:
        raise ValueError("transformers must hold at least one transformer; got none")
    results = [transformer(images) for transformer in transformers]
    outputs = [output for output, _ in results]
    shapes = list(dict.fromkeys(str(list(output.shape[1:-1])) for output in outputs))
    if len(shapes) > 1:
        raise ValueError(
            f"transformers must have outputs of the same shape; got {' and '.join(shapes)}"
        )
    return jnp.concatenate(outputs, axis=-1), _numbered([found for _, found in results])


def apply_stages(
    images: ImagesOrVolumes,
    stages: Sequence[Callable[..., Any]],
    *,
    single: type,
    several: tuple[type, ...],
) -> Result:
    """Applies modules one after another, and collects the intermediates of the transformers.

    Args:
        images: images or volumes.
        stages: modules; each is applied to the output of the previous one.
        single: the class of modules that return the intermediates of one transformer.
        several: the classes of modules that return those of several transformers by name.

    Returns:
        The output of the last stage, and `transformer_0`, `transformer_1`, ... in order.
    """
    output, found = jnp.asarray(images), []
    for stage in stages:
        if isinstance(stage, single):
            output, intermediates = stage(output)
            found.append(intermediates)
        elif isinstance(stage, several):
            output, named = stage(output)
            found.extend(named.values())
        else:
            output = stage(output)
    return output, _numbered(found)


def _numbered(found: Sequence[Intermediates]) -> Intermediates:
    return {f"transformer_{i}": each for i, each in enumerate(found)}


def check_module(argument: str, module: object, *, foreign: type, remedy: str) -> None:
    """Raises `ValueError` if a module belongs to the other Flax API.

    Such a module would be called like a function, and its parameters would never be trained.

    Args:
        argument: name of the argument, for the message.
        module: a module or a bound method of one.
        foreign: the base class of the other API's modules.
        remedy: the sentence of the message that names the bridge between the APIs.
    """
    owner = getattr(module, "__self__", module)
    if isinstance(owner, foreign):
        raise ValueError(f"{argument} must not be {type(owner).__name__}, {remedy}")


def check_iterations(transform: Transform, num_iterations: object, initial_theta: object) -> None:
    """Raises `ValueError` unless the settings are those of an iterative transformer."""
    check_transform(transform)
    if not transform.has_compose:
        raise ValueError(f"transform must define compose; got {transform!r}")
    check_integer("num_iterations", num_iterations, "a whole number of at least 1", 1)
    if initial_theta is not None:
        raise ValueError(
            "initial_theta must be None, because each iteration starts at the identity; "
            f"got {one_line(initial_theta)}"
        )


def is_localisation(path: Sequence[Any]) -> bool:
    """Whether a path in a tree of parameters leads into a localisation network.

    This is so if a name on the path contains `localisation`. It holds for all localisation
    parameters of an NNX transformer, and of a linen transformer that is created in `setup` or
    outside other modules. In an `@nn.compact` method linen names a module after its class, so there
    a user-defined localisation network needs a class name, or a `name=`, that contains
    `localisation`.

    Args:
        path: keys from the root, as passed by `jax.tree_util.tree_map_with_path`, or names, as in
            the paths of `flax.nnx`.

    Returns:
        True or False. Pass this function to `stn_jax.training.scale_updates`.
    """
    names = (getattr(entry, "key", getattr(entry, "name", entry)) for entry in path)
    return any("localisation" in str(name).lower() for name in names)
