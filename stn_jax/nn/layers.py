"""Convolution and pooling that train fast on a CPU, also inside `lax.scan` and under `vmap`.

`Conv`, `max_pool` and `avg_pool` have the same parameters and values as those of `flax.linen`; only
the implementation differs. XLA's CPU backend is slow at the gradients of a convolution and of a
maximum over windows (`select_and_scatter`), especially inside `lax.scan`. A training step of the
tutorial's network in `lax.scan`, with a batch of 64, takes 76 ms of processor time with the layers
of `flax.linen` and 6.6 ms with these. On a CPU they use only matrix products and elementwise
operations. In a population each member has its own kernel: these become batched products, whereas
a convolution would become a grouped one.
"""

from collections.abc import Sequence
from math import ceil, prod
from typing import Literal, get_args

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from flax.linen.dtypes import promote_dtype
from jax import lax
from jax.typing import DTypeLike
from jaxtyping import Float, Num

from stn_jax._checks import check_choice, check_floating, check_shape, check_sizes
from stn_jax._types import Array

Padding = Literal["VALID", "SAME"]

# With this many columns a matrix product runs at full speed. Measured on two Zen 5 cores for the
# product of a kernel's gradient: 90 GFLOP/s with 32 columns, 300 GFLOP/s with 128.
_FULL_SPEED_COLUMNS = 128


def conv2d(
    image: Float[Array, "*batch h w c"],
    kernel: Float[Array, "kh kw c f"],
    *,
    padding: Padding = "VALID",
) -> Float[jax.Array, "*batch out_h out_w f"]:
    """Correlates images with a kernel, with stride 1.

    Convention: `output[y, x, f] = sum_ijc image[y + i, x + j, c] * kernel[i, j, c, f]`, as in
    `flax.linen.Conv`.

    Args:
        image: `[*batch, h, w, c]`, floating, with any number of batch axes.
        kernel: `[kh, kw, c, f]`, in the image's dtype. Half precision is summed in float32.
        padding: `VALID` uses only windows inside the image. `SAME` pads with zeros (the odd one
            below and on the right) and keeps the height and width. Static.

    Returns:
        `[*batch, out_h, out_w, f]` in the image's dtype.

    Raises:
        ValueError: if `padding` has another value, shapes or dtypes do not fit, or the kernel is
            larger than the image with `VALID`.

    Example:
        >>> image = jnp.arange(9.0).reshape(3, 3, 1)
        >>> conv2d(image, jnp.ones((2, 2, 1, 1)))[..., 0]
        Array([[ 8., 12.],
               [20., 24.]], dtype=float32)
    """
    _check_conv2d(image, kernel, padding)
    if padding == "SAME":
        borders = [((size - 1) // 2, size // 2) for size in kernel.shape[:2]]
        image = jnp.pad(image, [(0, 0)] * (image.ndim - 3) + [*borders, (0, 0)])
    images = jnp.reshape(image, (prod(image.shape[:-3]), *image.shape[-3:]))
    # The faster form depends on the device, which is known when the program is lowered.
    # `jax.default_backend()` would be wrong for a program that runs on the CPU of a GPU machine.
    output = lax.platform_dependent(
        images, jnp.asarray(kernel), cpu=_conv_by_matmul, default=_conv_by_xla
    )
    return jnp.reshape(output, (*image.shape[:-3], *output.shape[1:]))


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
    return _max_of_tiles(_split_into_tiles(image, window_shape))


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
    tiles = _split_into_tiles(image, window_shape).astype(_sum_dtype(image))
    return jnp.mean(tiles, (-4, -2)).astype(image.dtype)


class Conv(nn.Module):
    """A 2-D convolution with stride 1, interchangeable with `flax.linen.Conv`.

    Names, shapes and initial values of the parameters and the outputs are the same, so either
    module can use the variables of the other.

    Attributes:
        features: number of output channels.
        kernel_size: height and width in pixels.
        padding: `SAME` or `VALID`, as for `conv2d`.
        use_bias: whether to add a bias to each feature.
        dtype: dtype of the computation and the output; None promotes the image and the parameters.
        param_dtype: dtype of the parameters.
        kernel_init: initialiser of the kernel, `[kh, kw, c, features]`.
        bias_init: initialiser of the bias, `[features]`.

    Example:
        >>> conv = Conv(features=8, kernel_size=(7, 7), padding="VALID")
        >>> variables = conv.init(jax.random.key(0), jnp.zeros((1, 28, 28, 1)))
        >>> conv.apply(variables, jnp.zeros((64, 28, 28, 1))).shape
        (64, 22, 22, 8)
    """

    features: int
    kernel_size: Sequence[int]
    padding: Padding = "SAME"
    use_bias: bool = True
    dtype: DTypeLike | None = None
    param_dtype: DTypeLike = jnp.float32
    kernel_init: nn.initializers.Initializer = nn.initializers.lecun_normal()
    bias_init: nn.initializers.Initializer = nn.initializers.zeros_init()

    @nn.compact
    def __call__(
        self, image: Float[Array, "*batch h w c"]
    ) -> Float[jax.Array, "*batch out_h out_w features"]:
        """Returns the features of each pixel.

        Raises:
            ValueError: as for `conv2d`, and unless all sizes are positive integers.
        """
        (features,) = _check_positive("features", (self.features,), 1)
        kernel_size = _check_positive("kernel_size", self.kernel_size, 2)
        check_shape("image", image.shape, "[*batch, h, w, c]", image.ndim >= 3)
        shape = (*kernel_size, image.shape[-1], features)
        kernel = self.param("kernel", self.kernel_init, shape, self.param_dtype)
        bias = None
        if self.use_bias:
            bias = self.param("bias", self.bias_init, (features,), self.param_dtype)
        image, kernel, bias = promote_dtype(image, kernel, bias, dtype=self.dtype)
        output = conv2d(image, kernel, padding=self.padding)
        return output if bias is None else output + bias


def _conv_by_xla(
    images: Float[jax.Array, "b h w c"], kernel: Float[jax.Array, "kh kw c f"]
) -> Float[jax.Array, "b out_h out_w f"]:
    """Correlates by XLA's convolution, which is tuned on GPUs and TPUs."""
    return lax.conv_general_dilated(
        images, kernel, (1, 1), "VALID", dimension_numbers=("NHWC", "HWIO", "NHWC")
    )


def _conv_by_matmul(
    images: Float[jax.Array, "b h w c"], kernel: Float[jax.Array, "kh kw c f"]
) -> Float[jax.Array, "b out_h out_w f"]:
    """Correlates by one matrix product, in which each row is a window that yields several outputs.

    A window has kh x (kw + span - 1) pixels. It is multiplied by a banded kernel, which holds the
    kernel at `span` places, and yields `span` neighbouring outputs. With span = 1 the windows are
    the usual patches. A larger span multiplies by some zeros, but it copies each pixel
    kh * (kw + span - 1) / span times instead of kh * kw, in longer runs, and makes the product wide
    enough for full speed. Measured in processor time on two cores, for a training step with a batch
    of 256 in `lax.scan`: 30 ms, against 50 ms with a span of 1, for the tutorial's network, and
    41 ms against 62 ms for the paper's.
    """
    kh, kw, _, f = kernel.shape
    out_w = images.shape[2] - kw + 1
    span = _outputs_per_window(out_w, kw, f)
    windows = _windows(images, kh, kw, span)
    output = lax.dot_general(
        windows,
        _banded_kernel(kernel, span),
        (((3,), (1,)), ((), ())),
        preferred_element_type=_sum_dtype(images),
    )
    b, out_h, num_windows, _ = windows.shape
    output = jnp.reshape(output, (b, out_h, num_windows * span, f))
    return output[:, :, :out_w].astype(images.dtype)


def _windows(
    images: Float[jax.Array, "b h w c"], kh: int, kw: int, span: int
) -> Float[jax.Array, "b out_h num_windows window"]:
    """Copies the windows of kh x (kw + span - 1) pixels that yield `span` outputs each."""
    b, h, w, c = images.shape
    out_h, out_w, width = h - kh + 1, w - kw + 1, kw + span - 1
    num_windows = ceil(out_w / span)
    missing = num_windows * span - out_w
    # XLA reads the images in a separate loop for each row of the kernel. Without the barrier each
    # loop would recompute their producer, such as a sampler, nine times over: a step of the paper's
    # ST-CNN takes 42 ms instead of 35 ms.
    images = lax.optimization_barrier(images)
    images = jnp.pad(images, ((0, 0), (0, 0), (0, missing), (0, 0)))
    strips = [images[:, :, start * span : start * span + width] for start in range(num_windows)]
    strips = jnp.stack([jnp.reshape(strip, (b, h, width * c)) for strip in strips], axis=2)
    return jnp.concatenate([strips[:, i : i + out_h] for i in range(kh)], axis=-1)


def _banded_kernel(
    kernel: Float[jax.Array, "kh kw c f"], span: int
) -> Float[jax.Array, "outputs window"]:
    """Repeats the kernel at `span` neighbouring places of a window, with zeros elsewhere."""
    kh, kw, c, f = kernel.shape
    # With the outputs as the first axis, the product for the kernel's gradient has this layout too,
    # so XLA transposes nothing. The other order makes a training step 10 to 30 % slower.
    outputs_first = jnp.transpose(kernel, (3, 0, 1, 2))
    places = [((0, 0), (0, 0), (place, span - 1 - place), (0, 0)) for place in range(span)]
    banded_kernel = jnp.stack([jnp.pad(outputs_first, widths) for widths in places])
    return jnp.reshape(banded_kernel, (span * f, kh * (kw + span - 1) * c))


def _outputs_per_window(out_w: int, kw: int, features: int) -> int:
    """Chooses how many neighbouring outputs one window yields.

    They are enough for a product of full speed, but at most the kernel's width, with which half of
    the banded kernel is zeros. A divisor of `out_w` within a factor of two of this number is
    preferred, because it needs no padding.
    """
    wanted = min(kw, ceil(_FULL_SPEED_COLUMNS / max(features, 1)), out_w)
    divisors = [n for n in range(1, out_w + 1) if out_w % n == 0 and wanted <= 2 * n <= 4 * wanted]
    return min(divisors, key=lambda n: max(n / wanted, wanted / n), default=wanted)


def _split_into_tiles(
    image: Num[Array, "*batch h w c"], window_shape: Sequence[int]
) -> Num[jax.Array, "*batch out_h rows out_w columns c"]:
    """Splits an image into non-overlapping windows."""
    rows, columns = _check_positive("window_shape", window_shape, 2)
    check_shape("image", image.shape, "[*batch, h, w, c]", image.ndim >= 3)
    *batch, h, w, c = image.shape
    out_h, out_w = h // rows, w // columns
    if min(out_h, out_w) < 1:
        raise ValueError(f"window_shape must be at most the image's {[h, w]}; got {window_shape}")
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
    chosen = jnp.expand_dims(first, (-4, -2)) == places
    # The division has no effect on the result. XLA never duplicates a division, so it stores the
    # gradient once instead of recomputing it in each of its three consumers. A training step of a
    # small network takes a third less time.
    stored_once = tangent / jnp.where(chosen, 1, 2).astype(tangent.dtype)
    return output, jnp.sum(jnp.where(chosen, stored_once, 0), (-4, -2))


def _sum_dtype(array: Array) -> np.dtype:
    """The dtype for sums of products: at least float32."""
    return jnp.promote_types(array.dtype, jnp.float32)


def _check_positive(argument: str, sizes: object, ndim: int) -> tuple[int, ...]:
    """Returns `sizes` as a tuple of `ndim` positive integers, or raises `ValueError`."""
    values = check_sizes(argument, sizes, ndim)
    if min(values) < 1:
        raise ValueError(f"{argument} must be positive; got {sizes!r}")
    return values


def _check_conv2d(image: Array, kernel: Array, padding: str) -> None:
    """Raises `ValueError` unless the arguments of `conv2d` fit together."""
    check_choice("padding", padding, get_args(Padding))
    check_floating("image", image)
    check_shape("image", image.shape, "[*batch, h, w, c]", image.ndim >= 3)
    *_, h, w, c = image.shape
    fits = kernel.ndim == 4 and kernel.shape[2] == c and min(kernel.shape[:2]) > 0
    check_shape("kernel", kernel.shape, f"[kh, kw, {c}, f]", fits)
    if kernel.dtype != image.dtype:
        raise ValueError(f"kernel must have the image's dtype, {image.dtype}; got {kernel.dtype}")
    if padding == "VALID" and (kernel.shape[0] > h or kernel.shape[1] > w):
        raise ValueError(
            f"kernel must be at most as large as the image, {[h, w]}, with VALID padding; "
            f"got {list(kernel.shape[:2])}"
        )
