"""Co-localisation: the triplet loss, random patches, positions and overlaps of boxes."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from stn_jax import distortions, transforms
from stn_jax.colocalisation import centre_of_mass, frame_box, iou, random_patch, triplet_loss

RNG = np.random.default_rng(0)
CROPS, PATCHES = (jnp.asarray(RNG.normal(size=(6, 5)), jnp.float32) for _ in range(2))


def random_boxes(count: int) -> np.ndarray:
    ends = RNG.uniform(-1, 1, (2, count, 2))
    return np.concatenate([ends.min(0), ends.max(0)], axis=1).astype(np.float32)


# The triplet loss.


@pytest.mark.parametrize("margin", [0.0, 1.0, 7.5])
def test_triplet_loss_equals_the_sum_of_the_paper(margin: float) -> None:
    expected = np.zeros(6)
    for n in range(6):
        for m in set(range(6)) - {n}:
            to_other = np.sum((CROPS[n] - CROPS[m]) ** 2)
            to_patch = np.sum((CROPS[n] - PATCHES[n]) ** 2)
            expected[n] += max(0, to_other - to_patch + margin) / 5
    np.testing.assert_allclose(
        triplet_loss(CROPS, PATCHES, margin=margin), expected, rtol=1e-5, atol=1e-5
    )


def test_triplet_loss_is_zero_for_equal_crops_and_patches_a_margin_away() -> None:
    alike = jnp.tile(CROPS[:1], (6, 1))
    distant = alike + jnp.eye(5)[0]
    np.testing.assert_allclose(triplet_loss(alike, distant, margin=1.0), 0, atol=1e-5)
    np.testing.assert_allclose(triplet_loss(alike, alike, margin=1.0), 1, atol=1e-5)


def test_triplet_loss_ignores_order_and_translation() -> None:
    order = RNG.permutation(6)
    loss = triplet_loss(CROPS, PATCHES)
    np.testing.assert_allclose(triplet_loss(CROPS[order], PATCHES[order]), loss[order], rtol=1e-5)
    np.testing.assert_allclose(triplet_loss(CROPS + 1, PATCHES + 1), loss, rtol=1e-4)


def test_triplet_loss_rejects_a_single_crop() -> None:
    with pytest.raises(ValueError, match=r"crops must have shape \[b, d\] with b > 1; got"):
        triplet_loss(CROPS[:1], PATCHES[:1])


# Random patches.


def test_random_patches_cover_every_position_inside_the_image() -> None:
    image = jnp.arange(30.0).reshape(5, 6, 1)
    keys = jax.random.split(jax.random.key(0), 300)
    patches = jax.vmap(lambda key: random_patch(key, image, (3, 4)))(keys)
    corners = patches[:, 0, 0, 0]
    assert set(np.asarray(corners).tolist()) == {6.0 * y + x for y in range(3) for x in range(3)}
    rows, columns = jnp.arange(3.0)[:, None], jnp.arange(4.0)
    expected = corners[:, None, None] + 6 * rows + columns
    np.testing.assert_array_equal(patches[..., 0], expected)


def test_random_patch_may_be_the_whole_image_but_not_larger() -> None:
    image = jnp.arange(30.0).reshape(5, 6, 1)
    np.testing.assert_array_equal(random_patch(jax.random.key(0), image, (5, 6)), image)
    with pytest.raises(ValueError, match=r"shape must be at most the image's \[5, 6\]; got"):
        random_patch(jax.random.key(0), image, (6, 6))


# Positions.


def test_centre_of_mass_moves_with_the_weights() -> None:
    weights = jnp.zeros((8, 8)).at[1:4, 2:5].set(jnp.asarray(RNG.uniform(size=(3, 3)), jnp.float32))
    weights = weights / weights.sum()
    x, y = centre_of_mass(weights)
    moved = centre_of_mass(jnp.roll(weights, (2, 3), axis=(0, 1)))
    np.testing.assert_allclose(moved, [x + 3 / 4, y + 2 / 4], atol=1e-6)
    np.testing.assert_allclose(centre_of_mass(jnp.full((7, 4), 1 / 28)), [0, 0], atol=1e-6)


@pytest.mark.parametrize("canvas", [(84, 84), (40, 60)])
def test_frame_box_of_a_placed_image_encloses_its_pixels(canvas: tuple[int, int]) -> None:
    key = jax.random.key(3)
    drawn = distortions.random_translation(key, jnp.ones((28, 28, 1)), canvas=canvas)
    to_image = distortions.draw_translation(key, (28, 28), canvas=canvas)
    box = frame_box(transforms.affine.inverse(to_image), transforms.affine)
    left, top, right, bottom = np.asarray(box) * np.tile(canvas[::-1], 2) / 2
    np.testing.assert_allclose([right - left, bottom - top], [28, 28], rtol=1e-5)
    # The brightness of a pixel is its overlap with the box, because edges fade over one pixel.
    np.testing.assert_allclose(drawn.sum(), 28 * 28, rtol=1e-3)
    y, x = np.mgrid[: canvas[0], : canvas[1]]
    mean = [np.sum(drawn[..., 0] * each) / (28 * 28) for each in (x, y)]
    middle = [(n - 1) / 2 for n in canvas[::-1]]
    np.testing.assert_allclose(
        mean, np.add(middle, [(left + right) / 2, (top + bottom) / 2]), atol=0.05
    )


def test_frame_box_of_translation_scale() -> None:
    np.testing.assert_allclose(frame_box(jnp.asarray([0.5, 0.1, -0.2])), [-0.4, -0.7, 0.6, 0.3])


# Overlaps.


def test_iou_is_a_symmetric_fraction() -> None:
    first, second = random_boxes(200), random_boxes(200)
    found = np.asarray(iou(first, second))
    assert np.all((found >= 0) & (found <= 1))
    assert np.any(found == 0)
    assert np.any(found > 0.2)
    np.testing.assert_allclose(iou(second, first), found, rtol=1e-6)
    np.testing.assert_allclose(iou(first, first), 1, rtol=1e-5)


def test_iou_ignores_unit_and_origin() -> None:
    first, second = random_boxes(50), random_boxes(50)
    np.testing.assert_allclose(
        iou(3 * first + 2, 3 * second + 2), iou(first, second), rtol=1e-3, atol=1e-5
    )


def test_frame_box_of_a_mirrored_frame_is_the_same() -> None:
    box, mirrored = (frame_box(jnp.asarray([scale, 0.1, 0.2])) for scale in (0.5, -0.5))
    np.testing.assert_allclose(mirrored, box, atol=1e-7)
    np.testing.assert_allclose(iou(mirrored, box), 1, rtol=1e-6)


def test_iou_of_empty_boxes_is_zero_with_finite_gradient() -> None:
    empty = jnp.zeros(4)
    assert float(iou(empty, empty)) == 0
    assert np.isfinite(jax.grad(iou)(empty, empty)).all()


def test_iou_is_the_exact_quotient_of_the_areas() -> None:
    first, second = random_boxes(200), random_boxes(200)
    sides = np.maximum(0, np.minimum(first, second)[:, 2:] - np.maximum(first, second)[:, :2])
    areas = [np.prod(each[:, 2:] - each[:, :2], axis=1) for each in (first, second)]
    common = np.prod(sides, axis=1)
    np.testing.assert_array_equal(iou(first, second), common / (areas[0] + areas[1] - common))


def test_centre_of_mass_rejects_integer_weights(unchecked: None) -> None:
    with pytest.raises(ValueError, match="weights must be of a floating dtype; got int32"):
        centre_of_mass(jnp.ones((2, 2), jnp.int32))


def test_random_patch_rejects_an_image_without_channels(unchecked: None) -> None:
    with pytest.raises(ValueError, match=r"image must have shape \[h, w, c\]; got \[8, 8\]"):
        random_patch(jax.random.key(0), jnp.ones((8, 8)), (4, 4))


def test_iou_with_a_contained_box_is_the_ratio_of_areas() -> None:
    whole = jnp.asarray([0.0, 0.0, 4.0, 2.0])
    assert float(iou(whole, jnp.asarray([1.0, 0.0, 3.0, 1.0]))) == pytest.approx(2 / 8)


def test_iou_equals_counting_pixels() -> None:
    first, second = (RNG.integers(0, 9, (2, 100, 2)) for _ in range(2))
    boxes = []
    for ends in (first, second):
        low, high = ends.min(0), ends.max(0) + 1
        boxes.append(np.concatenate([low, high], axis=1).astype(np.float32))
    y, x = np.mgrid[:10, :10]
    masks = []
    for box in boxes:
        left, top, right, bottom = box.T[..., None, None]
        masks.append((x >= left) & (x < right) & (y >= top) & (y < bottom))
    common, either = (masks[0] & masks[1]).sum((1, 2)), (masks[0] | masks[1]).sum((1, 2))
    np.testing.assert_allclose(iou(*boxes), common / either, rtol=1e-6)
