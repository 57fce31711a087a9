"""Convolution and pooling that train fast on a CPU, alone, inside a loop and over a population.

`Conv`, `max_pool` and `avg_pool` have the parameters and the values of `flax.linen`'s; only the way
they are computed differs. XLA's CPU backend has no good code for the gradients of a convolution or
of a max-pooling (`select_and_scatter`), and worse than none inside `lax.scan`: one step of a small
digit classifier takes 160 ms there at a batch of 256 with `flax.linen`'s layers. Here the CPU gets
matrix products and elementwise operations only, and a population of networks, which would turn a
convolution into a grouped one, gets batched matrix products.
"""

import functools
from collections.abc import Sequence
from math import ceil

import jax
import jax.numpy as jnp
from flax import linen as nn
from flax.linen.dtypes import promote_dtype
from flax.typing import Dtype, Initializer
from jax import lax
from jaxtyping import Array, Float, Num

_PADDINGS = ("VALID", "SAME")

# Matrix products of XLA's CPU backend reach their full speed (490 GFLOP/s on two Zen 5 cores) from
# about 128 columns; the product for the kernel's gradient runs at 90 with 32 columns, 300 with 128.
_FULL_SPEED_COLUMNS = 128


def conv2d(
    image: Float[Array, "*batch h w c"],
    kernel: Float[Array, "kh kw c f"],
    padding: str = "VALID",
) -> Float[Array, "*batch out_h out_w f"]:
    """Correlate images with a kernel, stride 1.

    Convention: `output[y, x, f] = sum_ijc image[y + i, x + j, c] kernel[i, j, c, f]`, the order of
    axes and the direction of `flax.linen.Conv`. Half precision is summed in float32.

    Args:
        image: channels last, any number of leading batch axes.
        kernel: height, width, channels in, features out; of the image's dtype.
        padding: static; "VALID" keeps the outputs that see the image alone, "SAME" surrounds the
            image with zeros (the odd one at the bottom and right) and keeps its height and width.

    Returns:
        The output, of the image's dtype.

    Raises:
        ValueError: if `padding` is unknown, the shapes or dtypes do not fit together, or the kernel
            is larger than the image under "VALID".

    Example:
        >>> image = jnp.arange(9.0).reshape(3, 3, 1)
        >>> conv2d(image, jnp.ones((2, 2, 1, 1)))[..., 0]
        Array([[ 8., 12.],
               [20., 24.]], dtype=float32)
    """
    _check_conv2d(image, kernel, padding)
    if padding == "SAME":
        sides = [((size - 1) // 2, size // 2) for size in kernel.shape[:2]]
        image = jnp.pad(image, [(0, 0)] * (image.ndim - 3) + [*sides, (0, 0)])
    flat = image.reshape(-1, *image.shape[-3:])
    # Which form is the faster one depends on the device the program is compiled for, which is known
    # when it is lowered and not when it is traced: `jax.default_backend()` would be wrong for a CPU
    # program on a machine with a GPU. GPUs and TPUs have tuned convolutions.
    output = lax.platform_dependent(flat, kernel, cpu=_conv_by_matmul, default=_conv_by_xla)
    return output.reshape(*image.shape[:-3], *output.shape[1:])


def max_pool(
    image: Num[Array, "*batch h w c"], window_shape: Sequence[int] = (2, 2)
) -> Num[Array, "*batch out_h out_w c"]:
    """Take the maximum of each of the windows that tile the image.

    The stride is the window; rows and columns left over at the bottom and right are dropped. Where
    several pixels share the maximum, the first one in reading order gets the whole gradient, as in
    `flax.linen.max_pool`. A NaN in the window is its maximum.

    Args:
        image: channels last, any number of leading batch axes.
        window_shape: height and width in pixels; static.

    Returns:
        One value a window and channel, of the image's dtype.

    Raises:
        ValueError: if the window is not two positive integers or is larger than the image.

    Example:
        >>> max_pool(jnp.arange(20.0).reshape(4, 5, 1))[..., 0]
        Array([[ 6.,  8.],
               [16., 18.]], dtype=float32)
    """
    return _max_of_tiles(_tiles(image, window_shape))


@jax.custom_jvp
def _max_of_tiles(
    tiles: Num[Array, "*batch out_h kh out_w kw c"],
) -> Num[Array, "*batch out_h out_w c"]:
    return tiles.max((-4, -2))


@_max_of_tiles.defjvp
def _max_of_tiles_jvp(primals, tangents):
    (tiles,), (tangent,) = primals, tangents
    output = _max_of_tiles(tiles)
    pixels = _pixels(tiles)
    index = jnp.full(output.shape, len(pixels) - 1, jnp.int32)
    for i, pixel in reversed(list(enumerate(pixels[:-1]))):
        index = jnp.where(pixel == output, i, index)
    _, kh, _, kw, _ = tiles.shape[-5:]
    mine = jnp.arange(kh * kw, dtype=index.dtype).reshape(kh, 1, kw, 1)
    chosen = jnp.expand_dims(index, (-4, -2)) == mine
    return output, jnp.where(
        chosen, tangent / jnp.where(chosen, 1, 2).astype(tangent.dtype), 0
    ).sum((-4, -2))


def avg_pool(
    image: Float[Array, "*batch h w c"], window_shape: Sequence[int] = (2, 2)
) -> Float[Array, "*batch out_h out_w c"]:
    """Take the mean of each of the windows that tile the image.

    The stride is the window; rows and columns left over at the bottom and right are dropped. Half
    precision is summed in float32.

    Args:
        image: channels last, any number of leading batch axes.
        window_shape: height and width in pixels; static.

    Returns:
        One value a window and channel, of the image's dtype.

    Raises:
        ValueError: if the window is not two positive integers or is larger than the image, or the
            image does not hold floating-point numbers.

    Example:
        >>> avg_pool(jnp.arange(20.0).reshape(4, 5, 1))[..., 0]
        Array([[ 3.,  5.],
               [13., 15.]], dtype=float32)
    """
    if not jnp.issubdtype(image.dtype, jnp.floating):
        raise ValueError(f"image: dtype {image.dtype} given, allowed: floating-point")
    wide = jnp.promote_types(image.dtype, jnp.float32)
    pixels = _pixels(_tiles(image.astype(wide), window_shape))
    return (sum(pixels) / len(pixels)).astype(image.dtype)


class Conv(nn.Module):
    """A two-dimensional convolution of stride 1 with the parameters of `flax.linen.Conv`.

    Parameter names, shapes, initial values and outputs are those of `flax.linen.Conv`: variables
    of the one work in the other.

    Attributes:
        features: number of output channels.
        kernel_size: height and width in pixels.
        padding: "SAME" or "VALID", see `conv2d`.
        use_bias: whether a bias is added to each feature.
        dtype: of the computation and the output; None takes the common one of image and parameters.
        param_dtype: of the parameters.
        kernel_init: initialiser of the kernel, [kh, kw, c, features].
        bias_init: initialiser of the bias, [features].

    Raises:
        ValueError: as `conv2d`, and if `features` or `kernel_size` is not of positive integers.

    Example:
        >>> conv = Conv(features=8, kernel_size=(7, 7), padding="VALID")
        >>> variables = conv.init(jax.random.key(0), jnp.zeros((1, 28, 28, 1)))
        >>> conv.apply(variables, jnp.zeros((64, 28, 28, 1))).shape
        (64, 22, 22, 8)
    """

    features: int
    kernel_size: Sequence[int]
    padding: str = "SAME"
    use_bias: bool = True
    dtype: Dtype | None = None
    param_dtype: Dtype = jnp.float32
    kernel_init: Initializer = nn.initializers.lecun_normal()
    bias_init: Initializer = nn.initializers.zeros_init()

    @nn.compact
    def __call__(
        self, image: Float[Array, "*batch h w c"]
    ) -> Float[Array, "*batch out_h out_w features"]:
        """Convolve a batch of images and add the bias."""
        _check_sizes("features", (self.features,), 1)
        _check_sizes("kernel_size", self.kernel_size, 2)
        if image.ndim < 3:
            raise ValueError(f"image: shape {image.shape} given, allowed: [..., h, w, c]")
        shape = (*self.kernel_size, image.shape[-1], self.features)
        kernel = self.param("kernel", self.kernel_init, shape, self.param_dtype)
        bias = None
        if self.use_bias:
            bias = self.param("bias", self.bias_init, (self.features,), self.param_dtype)
        image, kernel, bias = promote_dtype(image, kernel, bias, dtype=self.dtype)
        output = conv2d(image, kernel, self.padding)
        return output if bias is None else output + bias


def _conv_by_xla(
    image: Float[Array, "b h w c"], kernel: Float[Array, "kh kw c f"]
) -> Float[Array, "b out_h out_w f"]:
    """Correlate with XLA's own convolution."""
    return lax.conv_general_dilated(
        image, kernel, (1, 1), "VALID", dimension_numbers=("NHWC", "HWIO", "NHWC")
    )


def _conv_by_matmul(
    image: Float[Array, "b h w c"], kernel: Float[Array, "kh kw c f"]
) -> Float[Array, "b out_h out_w f"]:
    """Correlate as one matrix product whose rows are windows that hold several outputs.

    A window of kh x (kw + span - 1) pixels times a banded kernel yields `span` neighbouring outputs
    at once. With span = 1 this is the usual product of patches. A larger span multiplies by some
    zeros, but copies each pixel kh * (kw + span - 1) / span times instead of kh * kw, in longer
    runs, and makes the product wider; as the copies and narrow products are what takes the time, a
    9x9 convolution of [256, 28, 28, 1] to 32 features, forward and backward, takes 12 ms with a span
    of 5 and 44 ms with 1.
    """
    b, h, w, c = image.shape
    kh, kw, _, f = kernel.shape
    out_h, out_w = h - kh + 1, w - kw + 1
    span = _outputs_per_window(out_w, kw, f)
    num_windows = ceil(out_w / span)
    width = kw + span - 1

    missing = num_windows * span - out_w
    if missing:
        image = jnp.pad(image, ((0, 0), (0, 0), (0, missing), (0, 0)))
    starts = [span * i for i in range(num_windows)]
    bands = jnp.stack([image[:, :, s : s + width].reshape(b, h, -1) for s in starts], axis=2)
    windows = jnp.concatenate([bands[:, i : i + out_h] for i in range(kh)], axis=-1)

    banded_kernel = jnp.stack(
        [
            jnp.pad(jnp.moveaxis(kernel, 3, 0), ((0, 0), (0, 0), (s, span - 1 - s), (0, 0)))
            for s in range(span)
        ],
        axis=0,
    )
    output = lax.dot_general(
        windows,
        banded_kernel.reshape(span * f, kh * width * c),
        (((3,), (1,)), ((), ())),
        preferred_element_type=jnp.promote_types(image.dtype, jnp.float32),
    ).astype(image.dtype)
    output = output.reshape(b, out_h, num_windows * span, f)
    return output[:, :, :out_w] if missing else output


def _outputs_per_window(out_w: int, kw: int, f: int) -> int:
    """Choose how many neighbouring outputs one window yields.

    Enough for a product of full speed, but not beyond the kernel's width, where half of the banded
    kernel is zeros. A divisor of `out_w` near that number is better still: nothing is padded and
    nothing cut off.
    """
    wanted = min(kw, ceil(_FULL_SPEED_COLUMNS / f), out_w)
    divisors = [n for n in range(1, out_w + 1) if out_w % n == 0 and wanted <= 2 * n <= 4 * wanted]
    return min(divisors, key=lambda n: max(n / wanted, wanted / n), default=wanted)


def _tiles(image, window_shape):
    """Cut an image into windows: [..., h, w, c] -> [..., out_h, rows, out_w, columns, c]."""
    _check_sizes("window_shape", window_shape, 2)
    rows, columns = window_shape
    if image.ndim < 3:
        raise ValueError(f"image: shape {image.shape} given, allowed: [..., h, w, c]")
    *batch, h, w, c = image.shape
    out_h, out_w = h // rows, w // columns
    if out_h == 0 or out_w == 0:
        raise ValueError(f"window_shape: {window_shape} given, allowed: at most the image's {h, w}")
    image = image[..., : out_h * rows, : out_w * columns, :]
    return image.reshape(*batch, out_h, rows, out_w, columns, c)


def _pixels(tiles):
    _, rows, _, columns, _ = tiles.shape[-5:]
    return [tiles[..., i, :, j, :] for i in range(rows) for j in range(columns)]


def _check_sizes(name: str, sizes: Sequence[int], count: int) -> None:
    """Raise ValueError unless `sizes` is `count` positive integers."""
    if (
        not isinstance(sizes, Sequence)
        or len(sizes) != count
        or not all(isinstance(size, int) and size > 0 for size in sizes)
    ):
        raise ValueError(f"{name}: {sizes!r} given, allowed: {count} positive integer(s)")


def _check_conv2d(image: Array, kernel: Array, padding: str) -> None:
    """Raise ValueError unless the arguments of `conv2d` fit together."""
    if padding not in _PADDINGS:
        raise ValueError(f"padding: {padding!r} given, allowed: {_PADDINGS}")
    if image.ndim < 3:
        raise ValueError(f"image: shape {image.shape} given, allowed: [..., h, w, c]")
    if kernel.ndim != 4 or kernel.shape[2] != image.shape[-1]:
        raise ValueError(
            f"kernel: shape {kernel.shape} given, allowed: [kh, kw, {image.shape[-1]}, f]"
        )
    if kernel.dtype != image.dtype:
        raise ValueError(f"kernel: dtype {kernel.dtype} given, allowed: the image's {image.dtype}")
    if not jnp.issubdtype(image.dtype, jnp.floating):
        raise ValueError(f"image: dtype {image.dtype} given, allowed: floating-point")
    if padding == "VALID" and any(
        k > n for k, n in zip(kernel.shape[:2], image.shape[-3:-1], strict=True)
    ):
        raise ValueError(
            f"kernel: shape {kernel.shape} given, allowed with padding 'VALID': "
            f"height and width up to the image's {image.shape[-3:-1]}"
        )
