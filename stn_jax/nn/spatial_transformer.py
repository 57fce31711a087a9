"""The spatial transformer as a Flax module, and networks that contain transformers."""

from collections.abc import Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float

from stn_jax._checks import check_shape
from stn_jax._types import Array, Mode, PaddingMode
from stn_jax.transforms.base import Transform, at_least_float32, check_transform
from stn_jax.warping import spatial_transform, transform_grid

Intermediates = dict[str, Any]
ImagesOrVolumes = Float[Array, "b *spatial c"]


class SpatialTransformer(nn.Module):
    """Predicts a transformation of each image and warps the image by it.

    This module contains the regression layer that maps the localisation network's features to
    theta. The weights of this layer are initialised to zero and its bias to the identity, so
    initially the output equals the images. Theta and the grid are computed in float32 or wider.

    Attributes:
        localisation: a module that maps a batch of images to features `[b, f]`.
        transform: the family of transformations; 3-D ones take volumes `[b, d, h, w, c]`.
        output_shape: spatial shape of the output, by default that of the input.
        mode, padding_mode, align_corners: as for `stn_jax.grid_sample`. With the mode `nearest`
            theta has no gradient, so the transformer does not learn.
        fill: the value outside the image with the padding mode `zeros`, one number or one per
            channel. For normalised images, use the background's value.
        initial_theta: initial bias of the regression layer, `[num_params]`; by default the
            identity.

    To use the module as a static argument, which must be hashable, pass sequences as tuples.

    Raises:
        ValueError: if `transform` is not a `Transform`, `initial_theta` has another size, the
            images are not a batch, or the localisation network does not return `[b, f]`; also as
            for `spatial_transform`.

    Example:
        >>> from stn_jax import transforms
        >>> from stn_jax.nn import CNNLocalisationNetwork, SpatialTransformer
        >>> module = SpatialTransformer(CNNLocalisationNetwork(), transforms.affine)
        >>> images = jax.random.uniform(jax.random.key(0), (2, 28, 28, 1))
        >>> variables = module.init(jax.random.key(1), images)
        >>> output = module.apply(variables, images)
        >>> bool((output == images).all())
        True

    Source: Jaderberg et al. (2015), section 3.
    """

    localisation: nn.Module
    transform: Transform
    output_shape: Sequence[int] | None = None
    mode: Mode = "bilinear"
    padding_mode: PaddingMode = "zeros"
    align_corners: bool = False
    fill: float | Sequence[float] = 0.0
    initial_theta: Sequence[float] | None = None

    def setup(self) -> None:
        """Creates the regression layer."""
        check_transform(self.transform)
        start = self.transform.identity if self.initial_theta is None else self.initial_theta
        count = self.transform.num_params
        check_shape("initial_theta", np.shape(start), f"[{count}]", np.shape(start) == (count,))
        # This name makes `is_localisation` select it with the localisation network.
        self.localisation_regression = nn.Dense(
            count,
            kernel_init=nn.initializers.zeros,
            bias_init=lambda key, shape, dtype: jnp.asarray(start, dtype),
        )

    def __call__(self, images: ImagesOrVolumes) -> Float[jax.Array, "b *out c"]:
        """Returns the warped images, in the dtype of `images`."""
        return self.with_intermediates(images)[0]

    def with_intermediates(
        self, images: ImagesOrVolumes
    ) -> tuple[Float[jax.Array, "b *out c"], Intermediates]:
        """Returns the warped images and the intermediates: theta, the grid and the output.

        Returns:
            `output` `[b, *out, c]` and `{"theta": [b, num_params], "grid": [b, *out, n],
            "output": output}`. Under `jit`, unused values are not computed.
        """
        ndim = self.transform.ndim
        expected = f"[b, {'h, w' if ndim == 2 else 'd, h, w'}, c]"
        check_shape("images", jnp.shape(images), expected, jnp.ndim(images) == ndim + 2)
        features = self.localisation(images)
        _check_features(features, len(images))
        theta = self.localisation_regression(at_least_float32(features))
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
        output = jax.lax.optimization_barrier(jax.vmap(warp)(jnp.asarray(images), theta))
        return output, {"theta": theta, "grid": jax.vmap(grid)(theta), "output": output}


def _check_features(features: object, batch_size: int) -> None:
    """Raises `ValueError` unless a localisation network returned features `[batch_size, f]`."""
    shape = getattr(features, "shape", None)
    if shape is None or len(shape) != 2 or shape[0] != batch_size:
        found = type(features).__name__ if shape is None else list(shape)
        raise ValueError(
            f"localisation must return features of shape [{batch_size}, f]; got {found}"
        )


class ParallelTransformers(nn.Module):
    """Several transformers of the same images, with their outputs concatenated as channels.

    Attributes:
        transformers: at least one transformer. Their outputs must have the same spatial shape.

    Raises:
        ValueError: if there is no transformer, or the outputs differ in spatial shape.
    """

    transformers: Sequence[SpatialTransformer]

    def __call__(self, images: ImagesOrVolumes) -> Float[jax.Array, "b *out channels"]:
        """Returns the concatenated outputs, `[b, *out, c * len(transformers)]`."""
        return self.with_intermediates(images)[0]

    def with_intermediates(
        self, images: ImagesOrVolumes
    ) -> tuple[Float[jax.Array, "b *out channels"], Intermediates]:
        """Returns the output, and the intermediates of each transformer as `transformer_i`."""
        if not self.transformers:
            raise ValueError("transformers must hold at least one transformer; got none")
        outputs, intermediates = zip(
            *(transformer.with_intermediates(images) for transformer in self.transformers),
            strict=True,
        )
        shapes = list(dict.fromkeys(str(list(output.shape[1:-1])) for output in outputs))
        if len(shapes) > 1:
            raise ValueError(
                f"transformers must have outputs of the same shape; got {' and '.join(shapes)}"
            )
        named = {f"transformer_{i}": each for i, each in enumerate(intermediates)}
        return jnp.concatenate(outputs, axis=-1), named


class SpatialTransformerNetwork(nn.Module):
    """A sequence of modules, with spatial transformers at any place.

    The stages are `(transformer, network)` for a transformer in front of a network, `(first,
    second, network)` for two in series, `(block, transformer, block, head)` for one between layers,
    and `(ParallelTransformers(...), network)` for several in parallel. A stage may itself be a
    `SpatialTransformerNetwork`.

    Attributes:
        stages: modules; each is applied to the output of the previous one.
    """

    stages: Sequence[nn.Module]

    def __call__(
        self, images: ImagesOrVolumes
    ) -> tuple[Float[jax.Array, "b *shape"], Intermediates]:
        """Returns the output of the last stage, and the intermediates of every transformer.

        Returns:
            The output, and a dictionary that maps `transformer_0`, `transformer_1`, ... in the
            order of the stages to the intermediates of each transformer (see
            `SpatialTransformer.with_intermediates`).
        """
        output, found = jnp.asarray(images), []
        for stage in self.stages:
            if isinstance(stage, SpatialTransformer):
                output, intermediates = stage.with_intermediates(output)
                found.append(intermediates)
            elif isinstance(stage, ParallelTransformers):
                output, named = stage.with_intermediates(output)
                found.extend(named.values())
            elif isinstance(stage, SpatialTransformerNetwork):
                output, named = stage(output)
                found.extend(named.values())
            else:
                output = stage(output)
        return output, {f"transformer_{i}": each for i, each in enumerate(found)}


def is_localisation(path: Sequence[Any]) -> bool:
    """Whether a path in a tree of parameters leads into a localisation network.

    This is so if a name on the path contains `localisation`. It holds for all localisation
    parameters of a transformer that is created in `setup` or outside other modules. In an
    `@nn.compact` method Flax names a module after its class, so there a user-defined localisation
    network needs a class name, or a `name=`, that contains `localisation`.

    Args:
        path: keys from the root, as passed by `jax.tree_util.tree_map_with_path`.

    Returns:
        True or False. Pass this function to `stn_jax.training.scale_updates`.
    """
    return any("localisation" in str(getattr(entry, "key", entry)).lower() for entry in path)
