"""Local contrast normalisation of images."""

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float

from stn_jax._checks import check_floating, check_shape
from stn_jax._types import Array


def local_contrast(
    image: Float[Array, "h w c"], *, sigma_px: float = 3.0
) -> Float[jax.Array, "h w c"]:
    """Subtracts from each pixel the mean of its surroundings, and divides by their deviation.

    Surroundings are weighted by a Gaussian, of which only what lies on the image counts. Where the
    deviation is below its mean over the image it is taken for that, so that flat parts stay flat.

    Args:
        image: `[h, w, c]`, floating, in any unit; each channel is normalised on its own.
        sigma_px: the Gaussian's standard deviation, in pixels, positive. Static.

    Returns:
        `[h, w, c]`, without unit, at least float32; 0 where a channel is constant.

    Raises:
        ValueError: on an image of another rank or type, or a deviation that is not positive.

    Example:
        >>> image = jnp.eye(8)[..., None]
        >>> bool(jnp.allclose(local_contrast(5 * image + 1), local_contrast(image), atol=1e-5))
        True

    Source: Jarrett et al. (2009), section 3.1.
    """
    check_shape("image", jnp.shape(image), "[h, w, c]", jnp.ndim(image) == 3)
    check_floating("image", image)
    if not sigma_px > 0:
        raise ValueError(f"sigma_px must be positive; got {sigma_px}")
    rows, columns = (_gaussian(size, sigma_px) for size in image.shape[:2])

    def blurred(image: Array) -> jax.Array:
        precision = jax.lax.Precision.HIGHEST  # a mean that is subtracted
        return jnp.einsum("yh,xw,hwc->yxc", rows, columns, image, precision=precision)

    image = jnp.asarray(image)
    centred = image - blurred(image)
    variance = blurred(centred**2)
    # The root's slope at 0 is infinite, and would be NaN for all pixels.
    deviation = jnp.where(variance > 0, jnp.sqrt(jnp.where(variance > 0, variance, 1)), 0)
    least = jnp.mean(deviation, axis=(0, 1))
    flat = least <= 1e-6 * jnp.max(jnp.abs(image), initial=0)  # roundings of a constant
    return jnp.where(flat, 0, centred / jnp.maximum(deviation, jnp.where(flat, 1, least)))


def _gaussian(size: int, sigma: float) -> Float[np.ndarray, "size size"]:
    """The weights of each pixel's surroundings along an axis, of sum 1."""
    places = np.arange(size)
    weights = np.exp(-((places[:, None] - places) ** 2) / (2 * sigma**2))
    return (weights / weights.sum(axis=1, keepdims=True)).astype(np.float32)
