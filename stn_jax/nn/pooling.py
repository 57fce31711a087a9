"""Pooling that trains fast on a CPU, also inside `lax.scan` and under `vmap`.

XLA's CPU backend is slow at the gradient of a maximum over windows (`select_and_scatter`). These
functions have the values and gradients of `flax.linen.max_pool` and `avg_pool` with windows that do
not overlap, and use only elementwise operations and reductions.
"""

from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp
from jaxtyping import Float, Num

from stn_jax._checks import check_floating, check_shape
from stn_jax._sharding import partition_spec, run_on_auto_axes
from stn_jax._types import Array
from stn_jax.nn.layers import check_positive
from stn_jax.transforms.base import at_least_float32


def max_pool(
    image: Num[Array, "*batch h w c"], window_shape: Sequence[int] = (2, 2)
) -> Num[jax.Array, "*batch out_h out_w c"]:
    """Computes the maximum over non-overlapping windows.

    If pixels of a window tie, the first in row-major order gets the gradient, as in
    `flax.linen.max_pool` and in torch. A NaN is the maximum of its window.

    Args:
        image: `[*batch, h, w, c]`, with any number of batch axes.
        window_shape: height and width in pixels, which are also the strides. Incomplete windows
            below and on the right are dropped. Static.

    Returns:
        `[*batch, out_h, out_w, c]`, one pixel per window, in the image's dtype.

    Raises:
        ValueError: if the window is not two positive integers, or is larger than the image.

    Example:
        >>> max_pool(jnp.arange(20.0).reshape(4, 5, 1))[..., 0]
        Array([[ 6.,  8.],
               [16., 18.]], dtype=float32)
    """
    return _pool(_max, image, window_shape)


def avg_pool(
    image: Float[Array, "*batch h w c"], window_shape: Sequence[int] = (2, 2)
) -> Float[jax.Array, "*batch out_h out_w c"]:
    """Computes the mean over non-overlapping windows.

    Args:
        image: `[*batch, h, w, c]`, floating, with any number of batch axes. Half precision is
            summed in float32.
        window_shape: height and width in pixels, which are also the strides. Incomplete windows
            below and on the right are dropped. Static.

    Returns:
        `[*batch, out_h, out_w, c]`, one pixel per window, in the image's dtype.

    Raises:
        ValueError: if the window is not two positive integers or is larger than the image, or if
            the image is not floating.

    Example:
        >>> avg_pool(jnp.arange(20.0).reshape(4, 5, 1))[..., 0]
        Array([[ 3.,  5.],
               [13., 15.]], dtype=float32)
    """
    check_floating("image", image)
    return _pool(_mean, image, window_shape)


def _pool(
    function: Callable[..., jax.Array],
    image: Num[Array, "*batch h w c"],
    window_shape: Sequence[int],
) -> Num[jax.Array, "*batch out_h out_w c"]:
    """Checks the arguments of a pooling function and calls it."""
    window = check_positive("window_shape", window_shape, 2)
    check_shape("image", image.shape, "[*batch, h, w, c]", image.ndim >= 3)
    *batch, h, w, _ = image.shape
    if window[0] > h or window[1] > w:
        raise ValueError(f"window_shape must be at most the image's {[h, w]}; got {window_shape}")
    spec = partition_spec(image)[: len(batch)]
    return run_on_auto_axes(function, image, out_spec=spec, window=window)


def _max(
    image: Num[Array, "*batch h w c"], *, window: tuple[int, int]
) -> Num[jax.Array, "*batch out_h out_w c"]:
    return _max_of_tiles(_split_into_tiles(image, window))


def _mean(
    image: Float[Array, "*batch h w c"], *, window: tuple[int, int]
) -> Float[jax.Array, "*batch out_h out_w c"]:
    tiles = at_least_float32(_split_into_tiles(image, window))
    return jnp.mean(tiles, (-4, -2)).astype(image.dtype)


def _split_into_tiles(
    image: Num[Array, "*batch h w c"], window: tuple[int, int]
) -> Num[jax.Array, "*batch out_h rows out_w columns c"]:
    """Splits an image into non-overlapping windows."""
    *batch, h, w, c = image.shape
    rows, columns = window
    out_h, out_w = h // rows, w // columns
    whole = image[..., : out_h * rows, : out_w * columns, :]
    return jnp.reshape(whole, (*batch, out_h, rows, out_w, columns, c))


@jax.custom_jvp
def _max_of_tiles(
    tiles: Num[Array, "*batch out_h rows out_w columns c"],
) -> Num[jax.Array, "*batch out_h out_w c"]:
    """The maximum of each tile.

    This is a reduction rather than `maximum` of slices, because XLA recomputes a cheap elementwise
    operation in each of its consumers, and the next convolution has one for each kernel row.
    """
    return jnp.max(tiles, (-4, -2))


@_max_of_tiles.defjvp
def _max_of_tiles_jvp(
    primals: tuple[jax.Array], tangents: tuple[jax.Array]
) -> tuple[jax.Array, jax.Array]:
    """Passes on the tangent of the first pixel that has the maximum."""
    (tiles,), (tangent,) = primals, tangents
    *_, rows, _, columns, _ = tiles.shape
    output = _max_of_tiles(tiles)
    first = jnp.full(output.shape, rows * columns - 1, jnp.int32)
    for place in reversed(range(rows * columns - 1)):
        row, column = divmod(place, columns)
        first = jnp.where(tiles[..., row, :, column, :] == output, place, first)
    places = jnp.arange(rows * columns, dtype=first.dtype).reshape(rows, 1, columns, 1)
    first = jnp.expand_dims(first, (-4, -2))
    chosen = first == jnp.expand_dims(places, range(first.ndim - 4))
    # The division has no effect on the result. XLA never duplicates a division, so it stores the
    # gradient once instead of recomputing it in each of its three consumers. A training step of a
    # small network takes a third less time.
    stored_once = tangent / jnp.where(chosen, 1, 2).astype(tangent.dtype)
    return output, jnp.sum(jnp.where(chosen, stored_once, 0), (-4, -2))
