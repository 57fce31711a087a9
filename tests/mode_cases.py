"""Public functions of one example with arguments, for `test_modes`."""

import dataclasses
import inspect
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from stn_jax import (
    affine_grid,
    colocalisation,
    contrast,
    coordinates,
    crop_boxes,
    distortions,
    fields,
    grid_sample,
    outside_frame,
    poses,
    spatial_transform,
    straighten,
    targets,
    transform_grid,
    transforms,
    warp_points,
)
from stn_jax.transforms import Transform

BATCH = 2
SIZES = (4, 5)


@dataclasses.dataclass(frozen=True, eq=False)
class Case:
    """A function of one example, and a batch of its arguments.

    Attributes:
        function: maps the arguments of one example to a tree of arrays.
        arguments: arrays `[BATCH, ...]`; a key, if there is one, comes first.
        covers: the public functions that the function calls.
    """

    function: Callable[..., Any]
    arguments: tuple[Any, ...]
    covers: tuple[Callable[..., Any], ...] = ()


def numbers(*shape: int, scale: float = 1.0, seed: int = 0) -> np.ndarray:
    random = np.random.default_rng(seed)
    return (scale * random.uniform(0.1, 1, (BATCH, *shape))).astype(np.float32)


def keys() -> jax.Array:
    return jax.random.split(jax.random.key(0), BATCH)


def shear(theta: jax.Array, points: jax.Array) -> jax.Array:
    """Unpacks and stacks with a constant, which JAX alone does not support on Explicit axes."""
    (amount,) = theta
    matrix = jnp.stack(
        [jnp.stack([jnp.ones_like(amount), amount]), jnp.asarray([0, 1], theta.dtype)]
    )
    return jnp.matmul(points, matrix.T)


AFFINE, PROJECTIVE = transforms.affine, transforms.projective
SPLINE = transforms.thin_plate_spline((3, 3))
POLAR = targets.polar((4, 3), max_radius=0.7)
SHEAR = Transform("shear", 2, np.zeros(1), shear)
FAMILIES = {
    name: family
    for name in transforms.__all__
    if isinstance(family := getattr(transforms, name), Transform)
} | {
    "thin_plate_spline": SPLINE,
    "series": transforms.series(AFFINE, 2),
    "chain": transforms.chain(SPLINE, PROJECTIVE),
    "velocity_field": transforms.velocity_field((2, 3)),
    "cpab": transforms.cpab((1, 2)),
    "Transform (user-defined)": SHEAR,
}


def thetas(transform: Transform) -> np.ndarray:
    """Thetas near the identity."""
    return transform.identity + numbers(transform.num_params, scale=0.1)


def family_case(transform: Transform, *covers: Callable[..., Any]) -> Case:
    """All operations of a family."""

    def run(theta: jax.Array, points: jax.Array) -> dict[str, jax.Array]:
        found = {"warp": transform.warp(theta, points)}
        if transform.has_matrix:
            found["matrix"] = transform.matrix(theta)
        if transform.has_compose:
            found["compose"] = transform.compose(theta, theta)
        if transform.has_inverse:
            found["inverse"] = transform.inverse(theta)
        return found

    return Case(run, (thetas(transform), numbers(3, transform.ndim, seed=1)), covers)


def warp_case(transform: Transform, **options: Any) -> Case:
    return Case(
        lambda image, theta: spatial_transform(image, theta, transform, **options),
        (numbers(*(2, 3, 4)[-transform.ndim :], 1), thetas(transform)),
        (spatial_transform,),
    )


def sampling_case(**options: Any) -> Case:
    return Case(
        lambda image, grid: grid_sample(image, grid, **options),
        (numbers(*SIZES, 1), numbers(2, 3, 2)),
        (grid_sample,),
    )


def straightening_case(transform: Transform) -> Case:
    return Case(
        lambda image, theta: straighten(image, theta, transform, (2, 3)),
        (numbers(*SIZES, 1), thetas(transform)),
        (straighten,),
    )


def warped_points(points: jax.Array, theta: jax.Array) -> list[jax.Array]:
    """Points in the input and in the output."""
    return [
        warp_points(points, theta, PROJECTIVE, SIZES, to="input"),
        warp_points(points, theta, PROJECTIVE, SIZES, to="output"),
    ]


def distortion_case(name: str, *covers: Callable[..., Any], **options: Any) -> Case:
    """A distortion of an image, and its draw of theta."""
    distort, draw = getattr(distortions, f"random_{name}"), getattr(distortions, f"draw_{name}")
    known = inspect.signature(draw).parameters
    draw_options = {option: value for option, value in options.items() if option in known}

    def run(key: jax.Array, image: jax.Array) -> dict[str, jax.Array]:
        return {
            "image": distort(key, image, **options),
            "theta": draw(key, image.shape[:2], **draw_options),
        }

    return Case(run, (keys(), numbers(*SIZES, 1)), (distort, draw, *covers))


def cluttered(key: jax.Array, image: jax.Array, others: jax.Array) -> jax.Array:
    return distortions.random_clutter(key, image, others, canvas=(8, 8), crop_size=2)


def converted(points: jax.Array) -> list[jax.Array]:
    return [
        coordinates.to_pixels(points, 4, align_corners=False),
        coordinates.to_normalised(points, 4, align_corners=True),
        coordinates.to_normalised(points, SIZES, align_corners=False),
    ]


def family_cases() -> dict[str, Case]:
    names = ("thin_plate_spline", "series", "chain", "velocity_field", "cpab")
    makers = {name: (getattr(transforms, name),) for name in names}
    return {
        f"transforms.{name}": family_case(family, *makers.get(name, ()))
        for name, family in FAMILIES.items()
    }


def distortion_cases() -> dict[str, Case]:
    jitter = {"max_angle_rad": 0.2, "max_scale": 1.1, "max_shift_px": 1.0, "sigma_px": 0.1}
    cases = {
        "rotation": distortion_case("rotation"),
        "perspective": distortion_case("perspective", sigma_px=0.1),
        "elastic": distortion_case("elastic", sigma_px=0.1),
        "similarity": distortion_case("similarity", canvas=(7, 7)),
        "translation": distortion_case("translation", canvas=(7, 7)),
        "jitter": distortion_case("jitter", **jitter),
        "extrusion": distortion_case("extrusion", distortions.extrude, canvas=(6, 6, 6), depth=3),
        "clutter": Case(
            cluttered,
            (keys(), numbers(*SIZES, 1), numbers(2, *SIZES, 1, seed=2)),
            (distortions.random_clutter, distortions.image_key),
        ),
    }
    return {f"distortions.random_{name}": case for name, case in cases.items()}


def warping_cases() -> dict[str, Case]:
    return {
        "affine_grid": Case(lambda m: affine_grid(m, SIZES), (numbers(2, 3),), (affine_grid,)),
        "transform_grid": Case(
            lambda theta: transform_grid(theta, PROJECTIVE, SIZES),
            (thetas(PROJECTIVE),),
            (transform_grid,),
        ),
        "spatial_transform (oversample)": warp_case(AFFINE, oversample=2),
        "spatial_transform (mipmap)": warp_case(AFFINE, antialias="mipmap", output_shape=(2, 2)),
        "spatial_transform (anisotropic)": warp_case(
            PROJECTIVE, antialias="anisotropic", oversample=2, output_shape=(2, 1)
        ),
        "spatial_transform (target)": Case(
            lambda image, theta: spatial_transform(image, theta, AFFINE, target=POLAR),
            (numbers(*SIZES, 1), thetas(AFFINE)),
        ),
        "grid_sample (bilinear)": sampling_case(padding_mode="reflection"),
        "grid_sample (bicubic)": sampling_case(mode="bicubic", padding_mode="border"),
        "grid_sample (nearest)": sampling_case(mode="nearest"),
        "spatial_transform": warp_case(AFFINE),
        "spatial_transform (spline)": warp_case(SPLINE),
        "spatial_transform (3-D)": warp_case(transforms.affine_3d),
        "crop_boxes": Case(
            lambda image, boxes: crop_boxes(image, boxes, (2, 3)),
            (numbers(*SIZES, 1), numbers(3, 4, scale=4.0)),
            (crop_boxes,),
        ),
        "straighten": straightening_case(AFFINE),
        "straighten (spline)": straightening_case(SPLINE),
        "warp_points": Case(warped_points, (numbers(3, 2), thetas(PROJECTIVE)), (warp_points,)),
        "outside_frame": Case(outside_frame, (numbers(2, 3, 2),), (outside_frame,)),
    }


def all_of_fields(image: jax.Array, outer: jax.Array, inner: jax.Array) -> dict[str, jax.Array]:
    return {
        "warp": fields.warp(image, outer),
        "resize": fields.resize(outer, (3,) * outer.shape[-1]),
        "compose": fields.compose(outer, inner),
        "exponential": fields.exponential(outer, 2),
        "jacobian_determinant": fields.jacobian_determinant(outer),
        "folding_fraction": fields.folding_fraction(outer),
        "diffusion_penalty": fields.diffusion_penalty(outer),
    }


def fields_case(*spatial: int) -> Case:
    """All functions of displacement fields."""
    ndim = len(spatial)
    outer, inner = numbers(*spatial, ndim, seed=1), numbers(*spatial, ndim, seed=2)
    covers = tuple(getattr(fields, name) for name in fields.__all__)
    return Case(all_of_fields, (numbers(*spatial, 1), outer, inner), covers)


def other_cases() -> dict[str, Case]:
    image, pose, similarity = numbers(*SIZES, 1), numbers(4), transforms.similarity
    boxes = np.asarray([[0, 0, 2, 1], [0, 0, 1, 2]], np.float32)
    return {
        "fields": fields_case(*SIZES),
        "fields (3-D)": fields_case(2, 3, 4),
        "poses.affine_from_pose": Case(
            lambda pose: poses.affine_from_pose(pose, SIZES, SIZES),
            (pose,),
            (poses.affine_from_pose, poses.affine_from_pixels),
        ),
        "poses.affine_about": Case(
            lambda angle, centre, scale: poses.affine_about(
                angle, SIZES, centre=centre, scale=scale
            ),
            (numbers(), numbers(2), numbers()),
            (poses.affine_about,),
        ),
        "poses.pose_at_centre": Case(
            lambda theta: poses.pose_at_centre(theta, similarity, SIZES),
            (thetas(similarity),),
            (poses.pose_at_centre,),
        ),
        "poses.equivariance_error": Case(
            poses.equivariance_error,
            (pose, numbers(4, seed=1), numbers(4, seed=2)),
            (poses.equivariance_error,),
        ),
        "contrast.local_contrast": Case(
            contrast.local_contrast, (image,), (contrast.local_contrast,)
        ),
        "colocalisation.triplet_loss": Case(
            colocalisation.triplet_loss,
            (numbers(3, 4), numbers(3, 4, seed=1)),
            (colocalisation.triplet_loss,),
        ),
        "colocalisation.random_patch": Case(
            lambda key, image: colocalisation.random_patch(key, image, (2, 2)),
            (keys(), image),
            (colocalisation.random_patch,),
        ),
        "colocalisation.centre_of_mass": Case(
            colocalisation.centre_of_mass, (numbers(*SIZES),), (colocalisation.centre_of_mass,)
        ),
        "colocalisation.frame_box": Case(
            colocalisation.frame_box, (numbers(3),), (colocalisation.frame_box,)
        ),
        "colocalisation.iou": Case(
            colocalisation.iou, (boxes, boxes + numbers(4)), (colocalisation.iou,)
        ),
        "coordinates": Case(
            converted, (numbers(3, 2),), (coordinates.to_pixels, coordinates.to_normalised)
        ),
    }


CASES = warping_cases() | family_cases() | distortion_cases() | other_cases()
