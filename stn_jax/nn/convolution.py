"""2-D convolution that trains fast on a CPU, also inside `lax.scan` and under `vmap`.

XLA's CPU backend is slow at the gradients of a convolution, especially inside `lax.scan`. A
training step of the tutorial's network in `lax.scan`, with a batch of 64, takes 76 ms of processor
time with Flax's layers and 6.6 ms with those of `stn_jax`. On a CPU they use only matrix products
and elementwise operations. In a population each member has its own kernel: these become batched
products, whereas a convolution would become a grouped one.
"""

import operator
from collections.abc import Sequence
from functools import partial
from math import ceil, prod
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.typing import DTypeLike
from jaxtyping import Float

from stn_jax._checks import check_floating, check_shape
from stn_jax._sharding import partition_spec, run_on_auto_axes
from stn_jax._types import Array, float_dtype
from stn_jax.nn.layers import check_positive, promote_dtype

Sizes = int | Sequence[int]
Padding = Literal["VALID", "SAME"] | int | Sequence[int | tuple[int, int]]

# With this many columns a matrix product runs at full speed. Measured on two Zen 5 cores for the
# product of a kernel's gradient: 90 GFLOP/s with 32 columns, 300 GFLOP/s with 128.
_FULL_SPEED_COLUMNS = 128


def conv2d(
    image: Float[Array, "*batch h w c"],
    kernel: Float[Array, "kh kw c_group f"],
    *,
    strides: Sizes = 1,
    padding: Padding = "VALID",
    kernel_dilation: Sizes = 1,
    feature_group_count: int = 1,
) -> Float[jax.Array, "*batch out_h out_w f"]:
    """Correlates images with a kernel.

    Convention: `output[y, x, f] = sum_ijc image[sy * y + dy * i, sx * x + dx * j, c] *
    kernel[i, j, c, f]` with strides s and dilation d, as in Flax's `Conv`.

    Args:
        image: `[*batch, h, w, c]`, floating, with any number of batch axes.
        kernel: `[kh, kw, c / feature_group_count, f]`, in the image's dtype. Half precision is
            summed in float32.
        strides: step between windows in pixels, one integer or (vertical, horizontal). Static.
        padding: `VALID` uses only windows inside the image. `SAME` pads with zeros (the odd one
            below and on the right) and gives `ceil(size / stride)` outputs. Otherwise the number
            of zeros around the image: one integer, or one or (before, after) per axis. Static.
        kernel_dilation: distance of a kernel's entries in pixels, one integer or (vertical,
            horizontal). Static.
        feature_group_count: number of groups into which channels and features are divided. The
            features of a group depend on its channels only. Static.

    Returns:
        `[*batch, out_h, out_w, f]` in the image's dtype.

    Raises:
        ValueError: if an option has another value, shapes or dtypes do not fit, or the kernel is
            larger than the padded image.

    Example:
        >>> image = jnp.arange(9.0).reshape(3, 3, 1)
        >>> conv2d(image, jnp.ones((2, 2, 1, 1)))[..., 0]
        Array([[ 8., 12.],
               [20., 24.]], dtype=float32)
    """
    strides = pair_of("strides", strides)
    dilation = pair_of("kernel_dilation", kernel_dilation)
    (groups,) = check_positive("feature_group_count", (feature_group_count,), 1)
    _check_conv2d(image, kernel, groups)
    extent = [(size - 1) * gap + 1 for size, gap in zip(kernel.shape[:2], dilation, strict=True)]
    borders = _borders(padding, image.shape[-3:-1], extent, strides)
    _check_fits(image.shape[-3:-1], extent, borders, padding)
    return run_on_auto_axes(
        _convolve,
        image,
        jnp.asarray(kernel),
        out_spec=partition_spec(image)[:-3],
        borders=borders,
        strides=strides,
        dilation=dilation,
        groups=groups,
    )


def conv_layer(
    image: Float[Array, "*batch h w c"],
    kernel: Float[Array, "kh kw c_group f"],
    bias: Float[Array, " f"] | None,
    *,
    dtype: DTypeLike | None,
    **options: Any,
) -> Float[jax.Array, "*batch out_h out_w f"]:
    """Computes what the modules `Conv` return: `conv2d` in a common dtype, plus a bias.

    `options` are those of `conv2d`.
    """
    image, kernel, bias = promote_dtype(image, kernel, bias, dtype=dtype)
    output = conv2d(image, kernel, **options)
    return output if bias is None else output + jnp.expand_dims(bias, range(output.ndim - 1))


def kernel_shape(
    in_features: int, features: int, kernel_size: Sequence[int], feature_group_count: int
) -> tuple[int, ...]:
    """The shape of a layer's kernel.

    Raises:
        ValueError: unless all sizes are positive and the groups divide the channels and features.
    """
    check_positive("features", (features,), 1)
    sizes = check_positive("kernel_size", kernel_size, 2)
    (groups,) = check_positive("feature_group_count", (feature_group_count,), 1)
    _check_groups(in_features, features, groups)
    return (*sizes, in_features // groups, features)


def pair_of(argument: str, sizes: Sizes) -> tuple[int, ...]:
    """Returns (vertical, horizontal) of one positive integer for both, or of one for each."""
    return check_positive(argument, (sizes, sizes) if np.ndim(sizes) == 0 else sizes, 2)


def _convolve(
    image: Float[Array, "*batch h w c"],
    kernel: Float[jax.Array, "kh kw c_group f"],
    *,
    borders: tuple[tuple[int, int], ...],
    strides: tuple[int, ...],
    dilation: tuple[int, ...],
    groups: int,
) -> Float[jax.Array, "*batch out_h out_w f"]:
    """Pads images, and correlates them with the kernel in the form that suits the device."""
    if any(map(any, borders)):
        image = jnp.pad(image, [(0, 0)] * (image.ndim - 3) + [*borders, (0, 0)])
    images = jnp.reshape(image, (prod(image.shape[:-3]), *image.shape[-3:]))
    # The device is known when the program is lowered. `jax.default_backend()` would be wrong for a
    # program that runs on the CPU of a GPU machine.
    options = {"strides": strides, "dilation": dilation, "groups": groups}
    output = lax.platform_dependent(
        images,
        kernel,
        cpu=partial(_conv_by_matmul, **options),
        default=partial(_conv_by_xla, **options),
    )
    return jnp.reshape(output, (*image.shape[:-3], *output.shape[1:]))


def _conv_by_xla(
    images: Float[jax.Array, "b h w c"],
    kernel: Float[jax.Array, "kh kw c_group f"],
    strides: tuple[int, ...] = (1, 1),
    dilation: tuple[int, ...] = (1, 1),
    groups: int = 1,
) -> Float[jax.Array, "b out_h out_w f"]:
    """Correlates by XLA's convolution, which is tuned on GPUs and TPUs."""
    return lax.conv_general_dilated(
        images,
        kernel,
        strides,
        "VALID",
        rhs_dilation=dilation,
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
        feature_group_count=groups,
    )


def _conv_by_matmul(
    images: Float[jax.Array, "b h w c"],
    kernel: Float[jax.Array, "kh kw c_group f"],
    strides: tuple[int, ...] = (1, 1),
    dilation: tuple[int, ...] = (1, 1),
    groups: int = 1,
) -> Float[jax.Array, "b out_h out_w f"]:
    """Correlates by one matrix product, or by a batched one if there are groups."""
    if strides == dilation == (1, 1):
        multiply = _product_of_windows
    else:
        multiply = partial(_product_of_patches, strides=strides, dilation=dilation)
    if groups == 1:
        return multiply(images, kernel)
    b, h, w, c = images.shape
    kh, kw, _, f = kernel.shape
    by_group = jax.vmap(multiply, in_axes=(3, 3), out_axes=3)(
        jnp.reshape(images, (b, h, w, groups, c // groups)),
        jnp.reshape(kernel, (kh, kw, c // groups, groups, f // groups)),
    )
    return jnp.reshape(by_group, (*by_group.shape[:3], f))


def _product_of_patches(
    images: Float[jax.Array, "b h w c"],
    kernel: Float[jax.Array, "kh kw c f"],
    strides: tuple[int, ...],
    dilation: tuple[int, ...],
) -> Float[jax.Array, "b out_h out_w f"]:
    """Correlates by a product in which each row holds the pixels of one output."""
    (b, *sizes, c), (*kernel_size, _, f) = images.shape, kernel.shape
    extent = [(size - 1) * gap + 1 for size, gap in zip(kernel_size, dilation, strict=True)]
    out_h, out_w = (
        (size - whole) // stride + 1
        for size, whole, stride in zip(sizes, extent, strides, strict=True)
    )
    images = lax.optimization_barrier(images)  # as in `_windows`
    patches = []
    for i, j in np.ndindex(*kernel_size):
        top, left = i * dilation[0], j * dilation[1]
        limits = (top + (out_h - 1) * strides[0] + 1, left + (out_w - 1) * strides[1] + 1)
        patches.append(lax.slice(images, (0, top, left, 0), (b, *limits, c), (1, *strides, 1)))
    outputs_first = jnp.reshape(jnp.transpose(kernel, (3, 0, 1, 2)), (f, -1))
    return _multiply(jnp.concatenate(patches, axis=-1), outputs_first)


def _product_of_windows(
    images: Float[jax.Array, "b h w c"], kernel: Float[jax.Array, "kh kw c f"]
) -> Float[jax.Array, "b out_h out_w f"]:
    """Correlates by a product in which each row is a window that yields several outputs.

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
    output = _multiply(_windows(images, kh, kw, span), _banded_kernel(kernel, span))
    b, out_h, num_windows, _ = output.shape
    return jnp.reshape(output, (b, out_h, num_windows * span, f))[:, :, :out_w]


def _multiply(
    windows: Float[jax.Array, "b out_h num_windows window"],
    outputs_first: Float[jax.Array, "outputs window"],
) -> Float[jax.Array, "b out_h num_windows outputs"]:
    """Multiplies windows by a kernel. Half precision is summed in float32."""
    sums = float_dtype(windows.dtype)
    dimensions = (((3,), (1,)), ((), ()))
    output = lax.dot_general(windows, outputs_first, dimensions, preferred_element_type=sums)
    return output.astype(windows.dtype)


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


def _check_conv2d(image: Array, kernel: Array, groups: int) -> None:
    """Raises `ValueError` unless the arrays of `conv2d` fit together."""
    check_floating("image", image)
    check_shape("image", image.shape, "[*batch, h, w, c]", image.ndim >= 3)
    c = image.shape[-1]
    if kernel.ndim == 4:
        _check_groups(c, kernel.shape[3], groups)
    fits = kernel.ndim == 4 and kernel.shape[2] * groups == c and min(kernel.shape[:2]) > 0
    check_shape("kernel", kernel.shape, f"[kh, kw, {c // groups}, f]", fits)
    if kernel.dtype != image.dtype:
        raise ValueError(f"kernel must have the image's dtype, {image.dtype}; got {kernel.dtype}")


def _check_groups(channels: int, features: int, groups: int) -> None:
    """Raises `ValueError` unless the groups divide the channels and the features."""
    if channels % groups or features % groups:
        raise ValueError(
            f"feature_group_count must divide the {channels} channels and the {features} features; "
            f"got {groups}"
        )


def _borders(
    padding: Padding, sizes: Sequence[int], extent: Sequence[int], strides: Sequence[int]
) -> tuple[tuple[int, int], ...]:
    """The number of zeros before and after the image on each axis."""
    if isinstance(padding, str) and padding in ("VALID", "SAME"):
        pads = lax.padtype_to_pads(sizes, extent, strides, padding)
        return tuple((int(low), int(high)) for low, high in pads)
    try:
        given: Any = (padding, padding) if isinstance(padding, int) else tuple(padding)
        pairs: Any = [(each, each) if np.ndim(each) == 0 else tuple(each) for each in given]
        borders = tuple((operator.index(low), operator.index(high)) for low, high in pairs)
    except (TypeError, ValueError):
        borders = ()
    if len(borders) != 2 or min(map(min, borders)) < 0:
        raise ValueError(
            "padding must be one of VALID, SAME, or numbers of pixels, as 1 or ((1, 1), (2, 2)); "
            f"got {padding!r}"
        )
    return borders


def _check_fits(
    sizes: Sequence[int],
    extent: Sequence[int],
    borders: Sequence[tuple[int, int]],
    padding: Padding,
) -> None:
    """Raises `ValueError` if the dilated kernel is larger than the padded image."""
    if padding == "SAME":
        return
    padded = [size + sum(border) for size, border in zip(sizes, borders, strict=True)]
    if extent[0] > padded[0] or extent[1] > padded[1]:
        raise ValueError(
            f"kernel must be at most as large as the image, {list(sizes)}, with {padding} padding; "
            f"got {extent}"
        )
