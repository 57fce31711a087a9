"""The paper's random image distortions, as pure functions of a key and an image.

Each distortion is one warp by `stn_jax.spatial_transform`. The matching `draw_*` function returns
the theta of that warp. Angles are in radians; shifts and noise are in pixels, so distortions are
rigid for non-square images too. Points outside the image have the value 0, the background of a
digit; `random_jitter` alone repeats the edge instead.

Source: Jaderberg et al. (2015), section 4.1 and appendices A.3 and A.4. The paper leaves some
details open. Here the output of R, P and E has the shape of the image. A "uniform random place"
means a uniform shift that keeps the whole undistorted image on the canvas. P moves the corners of
the sampled frame.
"""

from stn_jax.distortions.augmentation import draw_jitter, random_jitter
from stn_jax.distortions.elastic import ELASTIC_CONTROL_POINTS, draw_elastic, random_elastic
from stn_jax.distortions.perspective import draw_perspective, random_perspective
from stn_jax.distortions.rotation import draw_rotation, random_rotation
from stn_jax.distortions.similarity import draw_similarity, random_similarity
from stn_jax.distortions.solids import draw_extrusion, extrude, random_extrusion
from stn_jax.distortions.translation import (
    draw_translation,
    image_key,
    random_clutter,
    random_translation,
)

__all__ = [
    "ELASTIC_CONTROL_POINTS",
    "draw_elastic",
    "draw_extrusion",
    "draw_jitter",
    "draw_perspective",
    "draw_rotation",
    "draw_similarity",
    "draw_translation",
    "extrude",
    "image_key",
    "random_clutter",
    "random_elastic",
    "random_extrusion",
    "random_jitter",
    "random_perspective",
    "random_rotation",
    "random_similarity",
    "random_translation",
]
