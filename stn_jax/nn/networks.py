"""The networks of the paper and of PyTorch's tutorial as functions of their layers.

Layers are arguments, so that the modules of both Flax APIs share these functions. The fully
connected layers of localisation networks use GELU instead of the paper's ReLU. Theta is regressed
from few units, and if all of them are dead it is a constant. With ReLU, digits rotated to one side
were not straightened: the residual angle was 30 degrees, and 18 degrees with GELU, all else being
equal.
"""

from collections.abc import Sequence

import jax
import jax.numpy as jnp
from jaxtyping import Float

from stn_jax._checks import check_shape
from stn_jax._types import Array
from stn_jax.nn.layers import Features, Images, Layer, Logits, flatten
from stn_jax.nn.pooling import avg_pool, max_pool

Volumes = Float[Array, "b d h w c"]


def fcn_features(images: Float[Array, "b *spatial c"], layers: Sequence[Layer]) -> Features:
    """Applies fully connected layers with GELU."""
    x = flatten(images)
    for layer in layers:
        x = jax.nn.gelu(layer(x))
    return x


def cnn_features(
    images: Images, first: Layer, second: Layer, dense: Layer, *, downsample: int
) -> Features:
    """Applies two convolutions and a dense layer to images at a fraction of their size."""
    x = avg_pool(images, (downsample, downsample))
    x = jax.nn.relu(max_pool(first(x), (2, 2)))
    x = jax.nn.relu(second(x))
    return jax.nn.gelu(dense(flatten(x)))


def tutorial_features(images: Images, first: Layer, second: Layer, dense: Layer) -> Features:
    """Applies the localisation network of PyTorch's tutorial."""
    x = jax.nn.relu(max_pool(first(images), (2, 2)))
    x = jax.nn.relu(max_pool(second(x), (2, 2)))
    return jax.nn.relu(dense(flatten(x)))


def volume_features(
    volumes: Volumes, network: Layer, *, downsample: int
) -> Float[jax.Array, "b *features"]:
    """Applies a network to the cells of volumes.

    The value of a cubic cell is the sum along its depth of the mean over its height and width, so
    it has the scale of a pixel of the projection.
    """
    shape, side = jnp.shape(volumes), downsample
    whole = len(shape) == 5 and min(shape[1:4]) >= side
    check_shape("volumes", shape, f"[b, d, h, w, c], d, h and w at least {side},", whole)
    b, d, h, w, c = shape
    layers = _materialize(volumes)[:, : d // side * side]
    cells = jnp.sum(jnp.reshape(layers, (b, d // side, side, h, w, c)), axis=2)
    return network(avg_pool(cells, (side, side)))


def project(volumes: Volumes) -> Float[jax.Array, "b h w c"]:
    """Projects volumes to images by a sum along the depth, the view from the front.

    Args:
        volumes: a batch, `[b, d, h, w, c]`.

    Returns:
        Images `[b, h, w, c]`.

    Raises:
        ValueError: if the volumes have another rank.
    """
    shape = jnp.shape(volumes)
    check_shape("volumes", shape, "[b, d, h, w, c]", len(shape) == 5)
    return jnp.sum(_materialize(volumes), axis=1)


def conv_block(x: Images, conv: Layer, *, pool: int) -> Float[jax.Array, "b out_h out_w features"]:
    """Applies a convolution, max-pooling and ReLU."""
    x = conv(x)
    # ReLU commutes with the maximum; after it, it has only a quarter of the values to process.
    return jax.nn.relu(max_pool(x, (pool, pool)) if pool > 1 else x)


def dense_head(
    x: Float[Array, "b *shape"], first_dropout: Layer, dense: Layer, dropout: Layer, head: Layer
) -> Logits:
    """Applies a fully connected layer with dropout before and after it, then the head."""
    x = jax.nn.relu(dense(first_dropout(flatten(x))))
    return head(dropout(x))


def fcn_logits(images: Images, layers: Sequence[Layer], head: Layer) -> Logits:
    """Applies fully connected layers with ReLU, then the head."""
    x = flatten(images)
    for layer in layers:
        x = jax.nn.relu(layer(x))
    return head(x)


def tutorial_logits(
    images: Images,
    block: Layer,
    conv: Layer,
    channel_dropout: Layer,
    dense: Layer,
    dropout: Layer,
    head: Layer,
) -> Logits:
    """Applies the classifier of PyTorch's tutorial."""
    x = channel_dropout(conv(block(images)))
    x = jax.nn.relu(max_pool(x, (2, 2)))
    x = jax.nn.relu(dense(flatten(x)))
    return head(dropout(x))


def _materialize(volumes: Volumes) -> Float[jax.Array, "b d h w c"]:
    """Makes XLA compute the volumes before their sum.

    Otherwise XLA fuses the sampler into the sum. The gradient with respect to theta of 16 volumes
    of 32 x 32 x 32 takes 106 ms then, and 35 ms with this barrier.
    """
    return jax.lax.optimization_barrier(jnp.asarray(volumes))
