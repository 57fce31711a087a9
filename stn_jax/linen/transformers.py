"""Spatial transformers as linen modules, and networks that contain them."""

from collections.abc import Sequence

import flax.linen as nn
import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Float

from stn_jax._types import Mode, PaddingMode
from stn_jax.nn.layers import promote_dtype
from stn_jax.nn.warp import (
    ImagesOrVolumes,
    Intermediates,
    Warp,
    apply_parallel,
    apply_stages,
    check_iterations,
    check_module,
)
from stn_jax.transforms.base import Transform

REMEDY = (
    "an NNX module, whose parameters would not be trained: convert it with "
    "flax.nnx.bridge.ToLinen, or use stn_jax.nnx"
)


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
        ValueError: if `localisation` is an NNX module, `transform` is not a `Transform`,
            `initial_theta` has another size, the images are not a batch, or the localisation
            network does not return `[b, f]`; also as for `spatial_transform`.

    Example:
        >>> from stn_jax import transforms
        >>> from stn_jax.linen import CNNLocalisationNetwork, SpatialTransformer
        >>> module = SpatialTransformer(CNNLocalisationNetwork(), transforms.affine)
        >>> images = jax.random.uniform(jax.random.key(0), (2, 28, 28, 1))
        >>> variables = module.init(jax.random.key(1), images)
        >>> output, intermediates = module.apply(variables, images)
        >>> bool((output == images).all()), intermediates["theta"].shape
        (True, (2, 6))

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

    def __post_init__(self) -> None:
        check_module("localisation", self.localisation, foreign=nnx.Module, remedy=REMEDY)
        super().__post_init__()

    def setup(self) -> None:
        """Creates the regression layer."""
        self.warp = Warp(
            self.transform,
            self.output_shape,
            self.mode,
            self.padding_mode,
            self.align_corners,
            self.fill,
        )
        start = self.warp.initial_theta(self.initial_theta)
        # This name makes `is_localisation` select it with the localisation network.
        self.localisation_regression = nn.Dense(
            self.transform.num_params,
            kernel_init=nn.initializers.zeros,
            bias_init=lambda key, shape, dtype: jnp.asarray(start, dtype),
            precision=jax.lax.Precision.HIGHEST,
            promote_dtype=promote_dtype,
        )

    def __call__(
        self, images: ImagesOrVolumes
    ) -> tuple[Float[jax.Array, "b *out c"], Intermediates]:
        """Returns the warped images and the intermediates: theta, the grid and the output.

        Returns:
            `output` `[b, *out, c]` in the dtype of `images`, and `{"theta": [b, num_params],
            "grid": [b, *out, n], "output": output}`, which are also sown into the collection
            `intermediates`. Under `jit`, unused values are not computed.
        """
        output, intermediates = self.warp(images, self._thetas(images))
        for name, value in intermediates.items():
            self.sow("intermediates", name, value)
        return output, intermediates

    def _thetas(self, images: ImagesOrVolumes) -> Float[jax.Array, "b num_params"]:
        return self.warp.thetas(images, self.localisation, self.localisation_regression)


class IterativeTransformer(SpatialTransformer):
    """A spatial transformer that refines theta in several iterations with shared weights.

    The first iteration sees the images, each further one the images warped by the theta so far.
    Its prediction is composed with that theta. The output is the original image warped by the last
    theta, so it is interpolated once. With one iteration, the module equals `SpatialTransformer`.
    Train the localisation network with a low learning rate, because its weights act several times.

    Attributes:
        num_iterations: number of predictions, at least 1. Other attributes are those of
            `SpatialTransformer`, without `initial_theta`.

    Raises:
        ValueError: if the family defines no `compose` (see `Transform.has_compose`),
            `num_iterations` is not a positive integer, or `initial_theta` is given; also as
            `SpatialTransformer`.

    Example:
        >>> from stn_jax import transforms
        >>> from stn_jax.linen import FCNLocalisationNetwork, IterativeTransformer
        >>> localisation = FCNLocalisationNetwork((32,))
        >>> module = IterativeTransformer(localisation, transforms.affine, num_iterations=3)
        >>> images = jax.random.uniform(jax.random.key(0), (2, 8, 8, 1))
        >>> output, _ = module.init_with_output(jax.random.key(1), images)[0]
        >>> bool((output == images).all())
        True

    Source: Lin and Lucey (2017), inverse compositional spatial transformer networks.
    """

    num_iterations: int = 2

    def __post_init__(self) -> None:
        check_iterations(self.transform, self.num_iterations, self.initial_theta)
        super().__post_init__()

    def _thetas(self, images: ImagesOrVolumes) -> Float[jax.Array, "b num_params"]:
        return self.warp.iterate(images, super()._thetas, self.num_iterations)


class ParallelTransformers(nn.Module):
    """Several transformers of the same images, with their outputs concatenated as channels.

    Attributes:
        transformers: at least one transformer. Their outputs must have the same spatial shape.

    Raises:
        ValueError: if there is no transformer, one is an NNX module, or the outputs differ in
            spatial shape.
    """

    transformers: Sequence[SpatialTransformer]

    def __post_init__(self) -> None:
        for transformer in self.transformers:
            check_module("transformers", transformer, foreign=nnx.Module, remedy=REMEDY)
        super().__post_init__()

    def __call__(
        self, images: ImagesOrVolumes
    ) -> tuple[Float[jax.Array, "b *out channels"], Intermediates]:
        """Returns the concatenated outputs, and the intermediates of every transformer.

        Returns:
            The output, `[b, *out, c * len(transformers)]`, and a dictionary that maps
            `transformer_i` to the intermediates of each transformer.
        """
        return apply_parallel(images, self.transformers)


class SpatialTransformerNetwork(nn.Module):
    """A sequence of modules, with spatial transformers at any place.

    The stages are `(transformer, network)` for a transformer in front of a network, `(first,
    second, network)` for two in series, `(block, transformer, block, head)` for one between layers,
    and `(ParallelTransformers(...), network)` for several in parallel. A stage may itself be a
    `SpatialTransformerNetwork`.

    Attributes:
        stages: modules; each is applied to the output of the previous one.

    Raises:
        ValueError: if a stage is an NNX module.
    """

    stages: Sequence[nn.Module]

    def __post_init__(self) -> None:
        for stage in self.stages:
            check_module("stages", stage, foreign=nnx.Module, remedy=REMEDY)
        super().__post_init__()

    def __call__(
        self, images: ImagesOrVolumes
    ) -> tuple[Float[jax.Array, "b *shape"], Intermediates]:
        """Returns the output of the last stage, and the intermediates of every transformer.

        Returns:
            The output, and a dictionary that maps `transformer_0`, `transformer_1`, ... in the
            order of the stages to the intermediates of each transformer (see
            `SpatialTransformer`).
        """
        several = (ParallelTransformers, SpatialTransformerNetwork)
        return apply_stages(images, self.stages, single=SpatialTransformer, several=several)
