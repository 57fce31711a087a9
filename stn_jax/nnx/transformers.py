"""Spatial transformers as NNX modules, and networks that contain them."""

from collections.abc import Callable, Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Float

from stn_jax._types import Array, Mode, PaddingMode
from stn_jax.nn.layers import Layer
from stn_jax.nn.warp import (
    ImagesOrVolumes,
    Intermediates,
    Warp,
    apply_parallel,
    apply_stages,
    check_iterations,
    check_module,
)
from stn_jax.nnx.layers import linear
from stn_jax.transforms.base import Transform

REMEDY = (
    "a linen module, which has no parameters of its own: convert it with flax.nnx.bridge.ToNNX, or "
    "use stn_jax.linen"
)


class SpatialTransformer(nnx.Module):
    """Predicts a transformation of each image and warps the image by it.

    This module contains the regression layer that maps the localisation network's features to
    theta. The weights of this layer are initialised to zero and its bias to the identity, so
    initially the output equals the images. Theta and the grid are computed in float32 or wider.

    Args:
        localisation: a module that maps a batch of images to features `[b, num_features]`.
        transform: the family of transformations; 3-D ones take volumes `[b, d, h, w, c]`.
        num_features: number of features of the localisation network, by default its attribute
            `out_features`.
        output_shape: spatial shape of the output, by default that of the input.
        mode, padding_mode, align_corners: as for `stn_jax.grid_sample`. With the mode `nearest`
            theta has no gradient, so the transformer does not learn.
        fill: the value outside the image with the padding mode `zeros`, one number or one per
            channel. For normalised images, use the background's value.
        initial_theta: initial bias of the regression layer, `[num_params]`; by default the
            identity.
        rngs: random keys for the parameters.

    Raises:
        ValueError: if `localisation` is a linen module or `num_features` is missing, `transform` is
            not a `Transform`, `initial_theta` has another size, the images are not a batch, or the
            localisation network does not return `[b, num_features]`; also as for
            `spatial_transform`.

    Example:
        >>> from flax import nnx
        >>> from stn_jax import transforms
        >>> from stn_jax.nnx import CNNLocalisationNetwork, SpatialTransformer
        >>> rngs = nnx.Rngs(0)
        >>> localisation = CNNLocalisationNetwork((28, 28, 1), rngs=rngs)
        >>> model = SpatialTransformer(localisation, transforms.affine, rngs=rngs)
        >>> images = jax.random.uniform(jax.random.key(0), (2, 28, 28, 1))
        >>> output, intermediates = model(images)
        >>> bool((output == images).all()), intermediates["theta"].shape
        (True, (2, 6))

    Source: Jaderberg et al. (2015), section 3.
    """

    def __init__(
        self,
        localisation: Layer,
        transform: Transform,
        *,
        num_features: int | None = None,
        output_shape: Sequence[int] | None = None,
        mode: Mode = "bilinear",
        padding_mode: PaddingMode = "zeros",
        align_corners: bool = False,
        fill: float | Sequence[float] = 0.0,
        initial_theta: Sequence[float] | Array | None = None,
        rngs: nnx.Rngs,
    ) -> None:
        check_module("localisation", localisation, foreign=nn.Module, remedy=REMEDY)
        self.warp = Warp(transform, output_shape, mode, padding_mode, align_corners, fill)
        start = self.warp.initial_theta(initial_theta)
        if num_features is None:
            num_features = getattr(localisation, "out_features", None)
        if num_features is None:
            raise ValueError(
                "num_features must be given if localisation has no attribute out_features; got None"
            )
        self.localisation = localisation
        # This name makes `is_localisation` select it with the localisation network.
        self.localisation_regression = linear(
            num_features,
            transform.num_params,
            kernel_init=jax.nn.initializers.zeros,
            bias_init=lambda key, shape, dtype: jnp.asarray(start, dtype),
            precision=jax.lax.Precision.HIGHEST,
            rngs=rngs,
        )

    def __call__(
        self, images: ImagesOrVolumes
    ) -> tuple[Float[jax.Array, "b *out c"], Intermediates]:
        """Returns the warped images and the intermediates: theta, the grid and the output.

        Returns:
            `output` `[b, *out, c]` in the dtype of `images`, and `{"theta": [b, num_params],
            "grid": [b, *out, n], "output": output}`, which are also sown as `nnx.Intermediate` for
            `nnx.capture`. Under `jit`, unused values are not computed.
        """
        output, intermediates = self.warp(images, self._thetas(images))
        if hasattr(self, "__captures__"):  # outside `nnx.capture`, `sow` would change the module
            for name, value in intermediates.items():
                self.sow(nnx.Intermediate, name, value)
        return output, intermediates

    def _thetas(self, images: ImagesOrVolumes) -> Float[jax.Array, "b num_params"]:
        return self.warp.thetas(images, self.localisation, self.localisation_regression)


class IterativeTransformer(SpatialTransformer):
    """A spatial transformer that refines theta in several iterations with shared weights.

    The first iteration sees the images, each further one the images warped by the theta so far.
    Its prediction is composed with that theta. The output is the original image warped by the last
    theta, so it is interpolated once. With one iteration, the module equals `SpatialTransformer`.
    Train the localisation network with a low learning rate, because its weights act several times.

    Args:
        localisation, transform: as for `SpatialTransformer`.
        num_iterations: number of predictions, at least 1.
        options: the other arguments of `SpatialTransformer`, without `initial_theta`.

    Raises:
        ValueError: if the family defines no `compose` (see `Transform.has_compose`),
            `num_iterations` is not a positive integer, or `initial_theta` is given; also as
            `SpatialTransformer`.

    Example:
        >>> from flax import nnx
        >>> from stn_jax import transforms
        >>> from stn_jax.nnx import FCNLocalisationNetwork, IterativeTransformer
        >>> rngs = nnx.Rngs(0)
        >>> localisation = FCNLocalisationNetwork((8, 8, 1), (32,), rngs=rngs)
        >>> model = IterativeTransformer(
        ...     localisation, transforms.affine, num_iterations=3, rngs=rngs
        ... )
        >>> images = jax.random.uniform(jax.random.key(0), (2, 8, 8, 1))
        >>> bool((model(images)[0] == images).all())
        True

    Source: Lin and Lucey (2017), inverse compositional spatial transformer networks.
    """

    def __init__(
        self,
        localisation: Layer,
        transform: Transform,
        *,
        num_iterations: int = 2,
        **options: Any,
    ) -> None:
        check_iterations(transform, num_iterations, options.get("initial_theta"))
        super().__init__(localisation, transform, **options)
        self.num_iterations = num_iterations

    def _thetas(self, images: ImagesOrVolumes) -> Float[jax.Array, "b num_params"]:
        return self.warp.iterate(images, super()._thetas, self.num_iterations)


class _ModuleSequence(nnx.Module):
    """Modules as attributes `name_0`, `name_1`, ..., the names that linen gives to them."""

    def __init__(self, name: str, modules: Sequence[Callable[..., Any]]) -> None:
        for i, module in enumerate(modules):
            check_module(name, module, foreign=nn.Module, remedy=REMEDY)
            setattr(self, f"{name}_{i}", module)
        self.count = len(modules)

    def _numbered(self, name: str) -> tuple[Any, ...]:
        return tuple(getattr(self, f"{name}_{i}") for i in range(self.count))


class ParallelTransformers(_ModuleSequence):
    """Several transformers of the same images, with their outputs concatenated as channels.

    Args:
        transformers: at least one transformer. Their outputs must have the same spatial shape.

    Raises:
        ValueError: if there is no transformer, one is a linen module, or the outputs differ in
            spatial shape.
    """

    def __init__(self, transformers: Sequence[SpatialTransformer]) -> None:
        super().__init__("transformers", transformers)

    @property
    def transformers(self) -> tuple[SpatialTransformer, ...]:
        """The transformers in order."""
        return self._numbered("transformers")

    def __call__(
        self, images: ImagesOrVolumes
    ) -> tuple[Float[jax.Array, "b *out channels"], Intermediates]:
        """Returns the concatenated outputs, and the intermediates of every transformer.

        Returns:
            The output, `[b, *out, c * len(transformers)]`, and a dictionary that maps
            `transformer_i` to the intermediates of each transformer.
        """
        return apply_parallel(images, self.transformers)


class SpatialTransformerNetwork(_ModuleSequence):
    """A sequence of modules, with spatial transformers at any place.

    The stages are `(transformer, network)` for a transformer in front of a network, `(first,
    second, network)` for two in series, `(block, transformer, block, head)` for one between layers,
    and `(ParallelTransformers(...), network)` for several in parallel. A stage may itself be a
    `SpatialTransformerNetwork`.

    Args:
        stages: modules; each is applied to the output of the previous one.

    Raises:
        ValueError: if a stage is a linen module.
    """

    def __init__(self, stages: Sequence[Callable[..., Any]]) -> None:
        super().__init__("stages", stages)

    @property
    def stages(self) -> tuple[Callable[..., Any], ...]:
        """The stages in order."""
        return self._numbered("stages")

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
