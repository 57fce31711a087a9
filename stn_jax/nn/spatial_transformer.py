"""The spatial transformer as a Flax module, and networks made of several."""

from collections.abc import Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float

from stn_jax._checks import check_shape
from stn_jax._types import Array
from stn_jax.transforms.base import Transform, at_least_float32, check_transform
from stn_jax.warping import spatial_transform, transform_grid

Intermediates = dict[str, Any]
Images = Float[Array, "b *spatial c"]  # or volumes


class SpatialTransformer(nn.Module):
    """Looks at images, predicts a transformation of each, and warps them by it.

    The regression layer that turns the localisation network's features into theta belongs to this
    module: its weights start at zero and its bias at the identity, so that training starts from
    unchanged images. Theta and the grid are computed in float32 or wider.

    Attributes:
        localisation: any module from an image batch to features `[b, f]`.
        transform: the family of transformations; 3-D ones take volumes `[b, d, h, w, c]`.
        output_shape: spatial shape of the output, by default the input's.
        mode, padding_mode, align_corners: as for `stn_jax.grid_sample`. In mode `nearest` theta has
            no gradient, so that nothing of the transformer is learned.
        fill: the value of what lies outside under `zeros`, a number or one per channel: the
            background of images that are normalised.
        initial_theta: start of the regression's bias, `[num_params]`; by default the identity.

    Sequences must be tuples where the module is a static argument, which has to be hashed.

    Raises:
        ValueError: on a transform that is no `Transform`, an `initial_theta` of another size,
            images that are no batch, a localisation network that returns anything but `[b, f]`, and
            as `spatial_transform`.

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
    mode: str = "bilinear"
    padding_mode: str = "zeros"
    align_corners: bool = False
    fill: float | Sequence[float] = 0.0
    initial_theta: Sequence[float] | None = None

    def setup(self) -> None:
        """Adds the regression layer."""
        check_transform(self.transform)
        start = self.transform.identity if self.initial_theta is None else self.initial_theta
        count = self.transform.num_params
        check_shape("initial_theta", np.shape(start), f"[{count}]", np.shape(start) == (count,))
        # Named after the localisation network, whose learning rate it shares.
        self.localisation_regression = nn.Dense(
            count,
            kernel_init=nn.initializers.zeros,
            bias_init=lambda key, shape, dtype: jnp.asarray(start, dtype),
        )

    def __call__(self, images: Images) -> Float[jax.Array, "b *out c"]:
        """The warped images, in the dtype of `images`."""
        return self.with_intermediates(images)[0]

    def with_intermediates(
        self, images: Images
    ) -> tuple[Float[jax.Array, "b *out c"], Intermediates]:
        """The warped images, and a dictionary of what led to them.

        Returns:
            `output` `[b, *out, c]` and `{"theta": [b, num_params], "grid": [b, *out, n],
            "output": output}`; under `jit` what is not used is not computed.
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

        # Without the barrier XLA may merge the sampler into what reads it, element by element: for
        # an image, 56 x 56 samples and their average pooling take a CPU core 236 us, 40 with it.
        output = jax.lax.optimization_barrier(jax.vmap(warp)(jnp.asarray(images), theta))
        return output, {"theta": theta, "grid": jax.vmap(grid)(theta), "output": output}


def _check_features(features: Any, batch_size: int) -> None:
    """Raises `ValueError` unless a localisation network returned features of each image."""
    shape = getattr(features, "shape", None)
    if shape is None or len(shape) != 2 or shape[0] != batch_size:
        found = type(features).__name__ if shape is None else list(shape)
        raise ValueError(
            f"localisation must return features of shape [{batch_size}, f]; got {found}"
        )


class ParallelTransformers(nn.Module):
    """Several transformers that look at the same images; their outputs are stacked as channels.

    Attributes:
        transformers: one at least, with outputs of one spatial shape.

    Raises:
        ValueError: if there is none, or their outputs differ in shape.
    """

    transformers: Sequence[SpatialTransformer]

    def __call__(self, images: Images) -> Float[jax.Array, "b *out channels"]:
        """The outputs side by side, `[b, *out, c * len(transformers)]`."""
        return self.with_intermediates(images)[0]

    def with_intermediates(
        self, images: Images
    ) -> tuple[Float[jax.Array, "b *out channels"], Intermediates]:
        """As `__call__`, and the intermediates of transformer i under `transformer_i`."""
        if not self.transformers:
            raise ValueError("transformers must hold one at least; got none")
        outputs, intermediates = zip(
            *(transformer.with_intermediates(images) for transformer in self.transformers),
            strict=True,
        )
        shapes = list(dict.fromkeys(str(list(output.shape[1:-1])) for output in outputs))
        if len(shapes) > 1:
            raise ValueError(
                f"transformers must have outputs of one shape; got {' and '.join(shapes)}"
            )
        named = {f"transformer_{i}": each for i, each in enumerate(intermediates)}
        return jnp.concatenate(outputs, axis=-1), named


class SpatialTransformerNetwork(nn.Module):
    """Modules in a row, with transformers anywhere among them.

    A transformer in front of a network is `(transformer, network)`; two in series are `(first,
    second, network)`; between layers, `(block, transformer, block, head)`; in parallel,
    `(ParallelTransformers(...), network)`. A stage may be such a network itself.

    Attributes:
        stages: each takes what the one before returns.
    """

    stages: Sequence[nn.Module]

    def __call__(self, images: Images) -> tuple[Float[jax.Array, "b *shape"], Intermediates]:
        """The last stage's output, and the intermediates of every transformer.

        Returns:
            The output, and a dictionary from `transformer_0`, `transformer_1`, ... in the order of
            the stages to each transformer's own (see `SpatialTransformer.with_intermediates`).
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

    It does where a name on it contains `localisation`. Those of a transformer made in `setup`, or
    outside other modules, all do. Flax names what an `@nn.compact` method makes after its class: a
    network of your own made there is recognised if its class, or its `name=`, says so.

    Args:
        path: keys from the root, as `jax.tree_util.tree_map_with_path` gives them.

    Returns:
        Whether it does, for `stn_jax.training.scale_updates`.
    """
    return any("localisation" in str(getattr(entry, "key", entry)).lower() for entry in path)
