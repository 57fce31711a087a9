"""The paper's random image distortions, as pure functions of a key and an image.

Each distortion is one warp by `stn_jax.spatial_transform`. The matching `draw_*` function returns
the theta of that warp. Angles are in radians; shifts and noise are in pixels, so distortions are
rigid for non-square images too. Points outside the image have the value 0, the background of a
digit; `jitter` alone repeats the edge instead.

Source: Jaderberg et al. (2015), section 4.1 and appendices A.3 and A.4. The paper leaves some
details open. Here the output of R, P and E has the shape of the image. A "uniform random place"
means a uniform shift that keeps the whole undistorted image on the canvas. P moves the corners of
the sampled frame.
"""

from stn_jax.distortions.augmentation import draw_jitter, jitter
from stn_jax.distortions.elastic import ELASTIC_CONTROL_POINTS, draw_e, e
from stn_jax.distortions.perspective import draw_p, p
from stn_jax.distortions.rotation import draw_r, r
from stn_jax.distortions.similarity import draw_rts, rts
from stn_jax.distortions.solids import draw_extruded, extrude, extruded
from stn_jax.distortions.translation import draw_t, image_key, t, tc

__all__ = [
    "ELASTIC_CONTROL_POINTS",
    "draw_e",
    "draw_extruded",
    "draw_jitter",
    "draw_p",
    "draw_r",
    "draw_rts",
    "draw_t",
    "e",
    "extrude",
    "extruded",
    "image_key",
    "jitter",
    "p",
    "r",
    "rts",
    "t",
    "tc",
]
