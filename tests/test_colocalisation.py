"""Co-localisation: the laws of the loss, of patches, of places and of overlaps."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from stn_jax import distortions, transforms
from stn_jax.colocalisation import centre_of_mass, frame_box, iou, random_patch, triplet_loss

RNG = np.random.default_rng(0)
CROPS, PATCHES = (jnp.asarray(RNG.normal(size=(6, 5)), jnp.float32) for _ in range(2))


def boxes(count: int) -> np.ndarray:
    ends = RNG.uniform(-1, 1, (2, count, 2))
    return np.concatenate([ends.min(0), ends.max(0)], axis=1).astype(np.float32)


# The loss.


@pytest.mark.parametrize("margin", [0.0, 1.0, 7.5])
def test_the_loss_is_the_papers_sum(margin: float) -> None:
    expected = np.zeros(6)
    for n in range(6):
        for m in set(range(6)) - {n}:
            to_other = np.sum((CROPS[n] - CROPS[m]) ** 2)
            to_patch = np.sum((CROPS[n] - PATCHES[n]) ** 2)
            expected[n] += max(0, to_other - to_patch + margin) / 5
    np.testing.assert_allclose(
        triplet_loss(CROPS, PATCHES, margin=margin), expected, rtol=1e-5, atol=1e-5
    )


def test_the_loss_is_nothing_where_crops_agree_and_patches_are_a_margin_away() -> None:
    alike = jnp.tile(CROPS[:1], (6, 1))
    away = alike + jnp.eye(5)[0]
    np.testing.assert_allclose(triplet_loss(alike, away, margin=1.0), 0, atol=1e-5)
    np.testing.assert_allclose(triplet_loss(alike, alike, margin=1.0), 1, atol=1e-5)


def test_the_loss_knows_no_order_and_no_place() -> None:
    order = RNG.permutation(6)
    loss = triplet_loss(CROPS, PATCHES)
    np.testing.assert_allclose(triplet_loss(CROPS[order], PATCHES[order]), loss[order], rtol=1e-5)
    np.testing.assert_allclose(triplet_loss(CROPS + 1, PATCHES + 1), loss, rtol=1e-4)


def test_a_crop_alone_has_nothing_to_agree_with() -> None:
    with pytest.raises(ValueError, match=r"crops must have shape \[b, d\] with b > 1; got"):
        triplet_loss(CROPS[:1], PATCHES[:1])


# Patches.


def test_patches_are_parts_of_the_image_from_anywhere_inside_it() -> None:
    image = jnp.arange(30.0).reshape(5, 6, 1)
    keys = jax.random.split(jax.random.key(0), 300)
    patches = jax.vmap(lambda key: random_patch(key, image, (3, 4)))(keys)
    corners = patches[:, 0, 0, 0]
    assert set(np.asarray(corners).tolist()) == {6.0 * y + x for y in range(3) for x in range(3)}
    rows, columns = jnp.arange(3.0)[:, None], jnp.arange(4.0)
    expected = corners[:, None, None] + 6 * rows + columns
    np.testing.assert_array_equal(patches[..., 0], expected)


def test_the_whole_image_is_a_patch_and_no_more_than_it() -> None:
    image = jnp.arange(30.0).reshape(5, 6, 1)
    np.testing.assert_array_equal(random_patch(jax.random.key(0), image, (5, 6)), image)
    with pytest.raises(ValueError, match=r"shape must be at most the image's \[5, 6\]; got"):
        random_patch(jax.random.key(0), image, (6, 6))


# Places.


def test_the_centre_follows_the_weights() -> None:
    weights = jnp.zeros((8, 8)).at[1:4, 2:5].set(jnp.asarray(RNG.uniform(size=(3, 3)), jnp.float32))
    weights = weights / weights.sum()
    x, y = centre_of_mass(weights)
    moved = centre_of_mass(jnp.roll(weights, (2, 3), axis=(0, 1)))
    np.testing.assert_allclose(moved, [x + 3 / 4, y + 2 / 4], atol=1e-6)
    np.testing.assert_allclose(centre_of_mass(jnp.full((7, 4), 1 / 28)), [0, 0], atol=1e-6)


@pytest.mark.parametrize("canvas", [(84, 84), (40, 60)])
def test_the_box_of_a_placed_image_holds_it_exactly(canvas: tuple[int, int]) -> None:
    key = jax.random.key(3)
    drawn = distortions.t(key, jnp.ones((28, 28, 1)), canvas=canvas)
    to_image = distortions.draw_t(key, (28, 28), canvas=canvas)
    box = frame_box(transforms.affine.inverse(to_image), transforms.affine)
    left, top, right, bottom = np.asarray(box) * np.tile(canvas[::-1], 2) / 2
    np.testing.assert_allclose([right - left, bottom - top], [28, 28], rtol=1e-5)
    # Every pixel's share of the box is its brightness: bilinear, with sides of one pixel's slope.
    np.testing.assert_allclose(drawn.sum(), 28 * 28, rtol=1e-3)
    y, x = np.mgrid[: canvas[0], : canvas[1]]
    mean = [np.sum(drawn[..., 0] * each) / (28 * 28) for each in (x, y)]
    middle = [(n - 1) / 2 for n in canvas[::-1]]
    np.testing.assert_allclose(
        mean, np.add(middle, [(left + right) / 2, (top + bottom) / 2]), atol=0.05
    )


def test_the_frame_of_attention() -> None:
    np.testing.assert_allclose(frame_box(jnp.asarray([0.5, 0.1, -0.2])), [-0.4, -0.7, 0.6, 0.3])


# Overlaps.


def test_overlap_is_a_share() -> None:
    first, second = boxes(200), boxes(200)
    found = np.asarray(iou(first, second))
    assert np.all((found >= 0) & (found <= 1))
    assert np.any(found == 0)
    assert np.any(found > 0.2)
    np.testing.assert_allclose(iou(second, first), found, rtol=1e-6)
    np.testing.assert_allclose(iou(first, first), 1, rtol=1e-5)


def test_overlap_knows_no_unit_and_no_origin() -> None:
    first, second = boxes(50), boxes(50)
    np.testing.assert_allclose(
        iou(3 * first + 2, 3 * second + 2), iou(first, second), rtol=1e-3, atol=1e-5
    )


def test_a_mirrored_frame_covers_a_box() -> None:
    box, mirrored = (frame_box(jnp.asarray([scale, 0.1, 0.2])) for scale in (0.5, -0.5))
    np.testing.assert_allclose(mirrored, box, atol=1e-7)
    np.testing.assert_allclose(iou(mirrored, box), 1, rtol=1e-6)


def test_empty_boxes_have_nothing_in_common() -> None:
    empty = jnp.zeros(4)
    assert float(iou(empty, empty)) == 0
    assert np.isfinite(jax.grad(iou)(empty, empty)).all()


def test_other_overlaps_are_the_bare_quotient() -> None:
    first, second = boxes(200), boxes(200)
    sides = np.maximum(0, np.minimum(first, second)[:, 2:] - np.maximum(first, second)[:, :2])
    areas = [np.prod(each[:, 2:] - each[:, :2], axis=1) for each in (first, second)]
    common = np.prod(sides, axis=1)
    np.testing.assert_array_equal(iou(first, second), common / (areas[0] + areas[1] - common))


def test_the_centre_is_of_floating_weights(unchecked: None) -> None:
    with pytest.raises(ValueError, match="weights must be of a floating dtype; got int32"):
        centre_of_mass(jnp.ones((2, 2), jnp.int32))


def test_a_patch_is_of_an_image_with_channels(unchecked: None) -> None:
    with pytest.raises(ValueError, match=r"image must have shape \[h, w, c\]; got \[8, 8\]"):
        random_patch(jax.random.key(0), jnp.ones((8, 8)), (4, 4))


def test_overlap_with_a_part_is_the_parts_share() -> None:
    whole = jnp.asarray([0.0, 0.0, 4.0, 2.0])
    assert float(iou(whole, jnp.asarray([1.0, 0.0, 3.0, 1.0]))) == pytest.approx(2 / 8)


def test_overlap_counts_pixels() -> None:
    first, second = (RNG.integers(0, 9, (2, 100, 2)) for _ in range(2))
    found = []
    for ends in (first, second):
        low, high = ends.min(0), ends.max(0) + 1
        found.append(np.concatenate([low, high], axis=1).astype(np.float32))
    y, x = np.mgrid[:10, :10]
    masks = []
    for box in found:
        left, top, right, bottom = box.T[..., None, None]
        masks.append((x >= left) & (x < right) & (y >= top) & (y < bottom))
    common, either = (masks[0] & masks[1]).sum((1, 2)), (masks[0] | masks[1]).sum((1, 2))
    np.testing.assert_allclose(iou(*found), common / either, rtol=1e-6)
