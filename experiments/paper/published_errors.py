"""Published test errors in %, to reproduce or beat.

Table 1 and appendix A.1 are quoted from Jaderberg et al. (2015). The numbers of appendix A.2 are
quoted from a secondary source, which gives the success rate on each cluttered digit; they are
converted to errors. On TC the paper gives one number for ST-FCN and one for ST-CNN, without naming
the transformation family.
"""

import types
from collections.abc import Mapping

DISTORTIONS = ("r", "rts", "p", "e", "tc")
TRANSFORMS = ("affine", "projective", "thin_plate_spline")

_TABLE1_ROWS: Mapping[tuple[str, str | None], tuple[float, ...]] = {
    ("fcn", None): (2.1, 5.2, 3.1, 3.2, 13.2),
    ("cnn", None): (1.2, 0.8, 1.5, 1.4, 3.5),
    ("st_fcn", "affine"): (1.2, 0.8, 1.5, 2.7, 2.0),
    ("st_fcn", "projective"): (1.3, 0.9, 1.4, 2.6, 2.0),
    ("st_fcn", "thin_plate_spline"): (1.1, 0.8, 1.4, 2.4, 2.0),
    ("st_cnn", "affine"): (0.7, 0.5, 0.8, 1.2, 1.7),
    ("st_cnn", "projective"): (0.8, 0.6, 0.8, 1.3, 1.7),
    ("st_cnn", "thin_plate_spline"): (0.7, 0.5, 0.8, 1.1, 1.7),
}
# (model, transform, distortion) -> error.
TABLE1: Mapping[tuple[str, str | None, str], float] = types.MappingProxyType(
    {
        (*key, distortion): error
        for key, errors in _TABLE1_ROWS.items()
        for distortion, error in zip(DISTORTIONS, errors, strict=True)
    }
)

# (model, transform) -> error. 2x_ stands for two parallel transformers.
ADDITION: Mapping[tuple[str, str | None], float] = types.MappingProxyType(
    {
        ("fcn", None): 47.7,
        ("cnn", None): 14.7,
        ("st_fcn", "affine"): 22.6,
        ("st_fcn", "projective"): 18.5,
        ("st_fcn", "thin_plate_spline"): 19.1,
        ("2x_st_fcn", "affine"): 9.0,
        ("2x_st_fcn", "projective"): 5.9,
        ("2x_st_fcn", "thin_plate_spline"): 5.8,
    }
)

# distortion -> errors of the digits 0 to 9.
COLOCALISATION: Mapping[str, tuple[float, ...]] = types.MappingProxyType(
    {"t": (0.0,) * 10, "tc": (19.0, 18.0, 12.0, 25.0, 6.0, 16.0, 7.0, 15.0, 11.0, 13.0)}
)

# The lowest public errors on German traffic signs (48 x 48 pixels) with 0, 1, 2 and 3 transformers,
# quoted from secondary sources. Two are Moodstocks', three are aarcosg's.
GTSRB: tuple[float, ...] = (1.15, 0.54, 0.33, 0.29)
