"""Convolution and pooling that train fast on a CPU: alone, inside a loop and over a population.

`Conv`, `max_pool` and `avg_pool` have the parameters and the values of `flax.linen`'s; only the way
to compute them differs. XLA's CPU backend is slow at the gradients of a convolution and of a
maximum over windows (`select_and_scatter`), most of all inside `lax.scan`: there a training step of
the tutorial's network, at a batch of 64, takes 76 ms of processor time with `flax.linen`'s layers
and 6.6 with these. Here the CPU gets matrix products and elementwise operations only. Those of a
population, each member with a kernel of its own, are batched products, where a convolution would
become a grouped one.
"""

from collections.abc import Sequence
from math import ceil, prod
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from flax.linen.dtypes import promote_dtype
from jax import lax
from jaxtyping import Float, Num

from stn_jax._checks import check_choice, check_floating, check_shape, check_sizes
from stn_jax._types import Array

PADDINGS = ("VALID", "SAME")

# The columns from which a matrix product runs at full speed. Measured on two Zen 5 cores, in
# GFLOP/s of the product for a kernel's gradient: 90 with 32 columns, 300 with 128.
_FULL_SPEED_COLUMNS = 128


def conv2d(
    image: Float[Array, "*batch h w c"],
    kernel: Float[Array, "kh kw c f"],
    *,
    padding: str = "VALID",
) -> Float[jax.Array, "*batch out_h out_w f"]:
    """Correlates images with a kernel, at stride 1.

    Convention: `output[y, x, f] = sum_ijc image[y + i, x + j, c] * kernel[i, j, c, f]`; axes and
    direction are those of `flax.linen.Conv`.

    Args:
        image: channels last, after any number of batch axes.
        kernel: of the image's dtype. Half precision is summed in float32.
        padding: `VALID` keeps the outputs that see nothing but the image; `SAME` puts zeros around
            it (the odd one below and on the right) and keeps its height and width. Static.

    Returns:
        The output, in the image's dtype.

    Raises:
        ValueError: on a padding that does not exist, shapes or dtypes that do not fit, or a kernel
            larger than the image under `VALID`.

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
    # The faster form depends on the device that the program is compiled for. That is known when it
    # is lowered; while it is traced, `jax.default_backend()` would be wrong for a program that a
    # machine with a GPU runs on its CPU. GPUs and TPUs have tuned convolutions.
    output = lax.platform_dependent(
        images, jnp.asarray(kernel), cpu=_conv_by_matmul, default=_conv_by_xla
    )
    return jnp.reshape(output, (*image.shape[:-3], *output.shape[1:]))


def max_pool(
    image: Num[Array, "*batch h w c"], window_shape: Sequence[int] = (2, 2)
) -> Num[jax.Array, "*batch out_h out_w c"]:
    """Takes the maximum of each of the windows that tile an image.

    Where pixels of a window tie, the first in reading order gets the gradient, as in
    `flax.linen.max_pool` and in torch. A NaN is the maximum of its window.

    Args:
        image: channels last, after any number of batch axes.
        window_shape: height and width in pixels, which are the strides too. Static. Rows and
            columns left over below and on the right are dropped.

    Returns:
        One pixel for each window, in the image's dtype.

    Raises:
        ValueError: if the window is not two positive integers, or larger than the image.

    Example:
        >>> max_pool(jnp.arange(20.0).reshape(4, 5, 1))[..., 0]
        Array([[ 6.,  8.],
               [16., 18.]], dtype=float32)
    """
    return _max_of_tiles(_tiles(image, window_shape))


def avg_pool(
    image: Float[Array, "*batch h w c"], window_shape: Sequence[int] = (2, 2)
) -> Float[jax.Array, "*batch out_h out_w c"]:
    """Takes the mean of each of the windows that tile an image.

    Args:
        image: channels last, after any number of batch axes. Half precision is summed in float32.
        window_shape: height and width in pixels, which are the strides too. Static. Rows and
            columns left over below and on the right are dropped.

    Returns:
        One pixel for each window, in the image's dtype.

    Raises:
        ValueError: if the window is not two positive integers, or larger than the image, or the
            image is not floating.

    Example:
        >>> avg_pool(jnp.arange(20.0).reshape(4, 5, 1))[..., 0]
        Array([[ 3.,  5.],
               [13., 15.]], dtype=float32)
    """
    check_floating("image", image)
    tiles = _tiles(image, window_shape).astype(_sum_dtype(image))
    return jnp.mean(tiles, (-4, -2)).astype(image.dtype)


class Conv(nn.Module):
    """A convolution over height and width, at stride 1, with the parameters of `flax.linen.Conv`.

    Names, shapes, initial values and outputs are the same, so variables of one serve the other.

    Attributes:
        features: the number of channels out.
        kernel_size: height and width in pixels.
        padding: `SAME` or `VALID`, see `conv2d`.
        use_bias: whether each feature has a bias.
        dtype: of the computation and the output; by default what image and parameters promote to.
        param_dtype: of the parameters.
        kernel_init: initialises the kernel, `[kh, kw, c, features]`.
        bias_init: initialises the bias, `[features]`.

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
    dtype: Any = None
    param_dtype: Any = jnp.float32
    kernel_init: nn.initializers.Initializer = nn.initializers.lecun_normal()
    bias_init: nn.initializers.Initializer = nn.initializers.zeros_init()

    @nn.compact
    def __call__(
        self, image: Float[Array, "*batch h w c"]
    ) -> Float[jax.Array, "*batch out_h out_w features"]:
        """The features of each pixel; errors as of `conv2d`, and on sizes that are not positive."""
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
    """Correlates with XLA's own convolution."""
    return lax.conv_general_dilated(
        images, kernel, (1, 1), "VALID", dimension_numbers=("NHWC", "HWIO", "NHWC")
    )


def _conv_by_matmul(
    images: Float[jax.Array, "b h w c"], kernel: Float[jax.Array, "kh kw c f"]
) -> Float[jax.Array, "b out_h out_w f"]:
    """Correlates by one matrix product, each row of which is a window that holds several outputs.

    A window of kh x (kw + span - 1) pixels times a banded kernel, which is the kernel at `span`
    places, yields `span` neighbouring outputs. With span = 1 these are the usual patches. More
    multiplies by some zeros, but copies each pixel kh * (kw + span - 1) / span times and not
    kh * kw, in longer runs, and makes the product wide enough for full speed. Measured on two
    cores, a training step of a batch of 256 in `lax.scan`, in processor time: 30 ms against 50 with
    a span of 1 for the tutorial's network, 41 against 62 for the paper's.
    """
    b, h, w, c = images.shape
    kh, kw, _, f = kernel.shape
    out_h, out_w = h - kh + 1, w - kw + 1
    span = _outputs_per_window(out_w, kw, f)
    num_windows = ceil(out_w / span)
    width = kw + span - 1

    missing = num_windows * span - out_w
    # Each row of the kernel reads the images in a kernel of XLA's of its own, which would compute
    # anew what they come from: a sampler nine times over. A step of the paper's ST-CNN takes 35 ms
    # with the barrier, 42 without.
    images = lax.optimization_barrier(images)
    images = jnp.pad(images, ((0, 0), (0, 0), (0, missing), (0, 0)))
    strips = [images[:, :, start * span : start * span + width] for start in range(num_windows)]
    strips = jnp.stack([jnp.reshape(strip, (b, h, width * c)) for strip in strips], axis=2)
    windows = jnp.concatenate([strips[:, i : i + out_h] for i in range(kh)], axis=-1)

    # Outputs lead: the product for the kernel's gradient then comes out in this layout, and XLA has
    # nothing to transpose. A whole training step takes 10 to 30 % longer the other way round.
    outputs_first = jnp.transpose(kernel, (3, 0, 1, 2))
    banded_kernel = jnp.stack(
        [
            jnp.pad(outputs_first, ((0, 0), (0, 0), (place, span - 1 - place), (0, 0)))
            for place in range(span)
        ]
    )
    output = lax.dot_general(
        windows,
        jnp.reshape(banded_kernel, (span * f, kh * width * c)),
        (((3,), (1,)), ((), ())),
        preferred_element_type=_sum_dtype(images),
    )
    output = jnp.reshape(output, (b, out_h, num_windows * span, f))
    return output[:, :, :out_w].astype(images.dtype)


def _outputs_per_window(out_w: int, kw: int, features: int) -> int:
    """Chooses how many neighbouring outputs one window yields.

    Enough for a product of full speed, but no more than the kernel's width, at which half of the
    banded kernel is zeros. If `out_w` has a divisor within a factor of two of that, it is better:
    nothing need be padded and cut off.
    """
    wanted = min(kw, ceil(_FULL_SPEED_COLUMNS / max(features, 1)), out_w)
    divisors = [n for n in range(1, out_w + 1) if out_w % n == 0 and wanted <= 2 * n <= 4 * wanted]
    return min(divisors, key=lambda n: max(n / wanted, wanted / n), default=wanted)


def _tiles(
    image: Num[Array, "*batch h w c"], window_shape: Sequence[int]
) -> Num[jax.Array, "*batch out_h rows out_w columns c"]:
    """Cuts an image into the windows that tile it."""
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

    A reduction and not `maximum` of slices: XLA computes a cheap elementwise operation anew in each
    of its readers, and the next convolution has a reader for each row of its kernel.
    """
    return jnp.max(tiles, (-4, -2))


@_max_of_tiles.defjvp
def _max_of_tiles_jvp(
    primals: tuple[jax.Array], tangents: tuple[jax.Array]
) -> tuple[jax.Array, jax.Array]:
    """Hands on the tangent of the first pixel that has the maximum."""
    (tiles,), (tangent,) = primals, tangents
    *_, rows, _, columns, _ = tiles.shape
    output = _max_of_tiles(tiles)
    first = jnp.full(output.shape, rows * columns - 1, jnp.int32)
    for place in reversed(range(rows * columns - 1)):
        row, column = divmod(place, columns)
        first = jnp.where(tiles[..., row, :, column, :] == output, place, first)
    places = jnp.arange(rows * columns, dtype=first.dtype).reshape(rows, 1, columns, 1)
    chosen = jnp.expand_dims(first, (-4, -2)) == places
    # The division changes nothing: by 1 where it counts, and of 0 elsewhere. It is there because
    # XLA thinks a division too costly to do twice, and so stores the gradient that ends in it once,
    # instead of computing it in each of the three products and sums that read it. A training step
    # of a small network takes a third less time.
    stored_once = tangent / jnp.where(chosen, 1, 2).astype(tangent.dtype)
    return output, jnp.sum(jnp.where(chosen, stored_once, 0), (-4, -2))


def _sum_dtype(array: Array) -> Any:
    """The dtype to sum products in: at least float32."""
    return jnp.promote_types(array.dtype, jnp.float32)


def _check_positive(argument: str, sizes: object, ndim: int) -> tuple[int, ...]:
    """`sizes` as a tuple of `ndim` positive integers, or `ValueError`."""
    values = check_sizes(argument, sizes, ndim)
    if min(values) < 1:
        raise ValueError(f"{argument} must be positive; got {sizes!r}")
    return values


def _check_conv2d(image: Array, kernel: Array, padding: str) -> None:
    """Raises `ValueError` unless the arguments of `conv2d` fit together."""
    check_choice("padding", padding, PADDINGS)
    check_floating("image", image)
    check_shape("image", image.shape, "[*batch, h, w, c]", image.ndim >= 3)
    *_, h, w, c = image.shape
    fits = kernel.ndim == 4 and kernel.shape[2] == c and min(kernel.shape[:2]) > 0
    check_shape("kernel", kernel.shape, f"[kh, kw, {c}, f]", fits)
    if kernel.dtype != image.dtype:
        raise ValueError(f"kernel must have the image's dtype, {image.dtype}; got {kernel.dtype}")
    if padding == "VALID" and (kernel.shape[0] > h or kernel.shape[1] > w):
        raise ValueError(
            f"kernel must be at most as large as the image, {[h, w]}, under VALID padding; "
            f"got {list(kernel.shape[:2])}"
        )
