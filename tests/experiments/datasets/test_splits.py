"""Stratified validation splits."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from experiments.datasets import DatasetError, Split
from experiments.datasets.splits import cut_groups, cut_validation, stratified_mask

LABELS = st.lists(st.integers(0, 4), min_size=1, max_size=60).map(lambda x: np.array(x, np.int32))


@given(labels=LABELS, data=st.data())
def test_selection_is_proportional_to_classes(labels, data):
    size = data.draw(st.integers(0, len(labels)))
    mask = stratified_mask(labels, size, seed=3)
    assert mask.sum() == size
    for label in np.unique(labels):
        share = size * np.mean(labels == label)
        assert abs(mask[labels == label].sum() - share) < 1


@given(labels=LABELS, data=st.data(), seed=st.integers(0, 5))
def test_cut_is_a_partition_that_keeps_the_order(labels, data, seed):
    size = data.draw(st.integers(0, len(labels) - len(np.unique(labels))))
    identity = np.arange(len(labels), dtype=np.float32).reshape(-1, 1, 1, 1)
    train, validation = cut_validation(Split(identity, labels), size, seed)
    assert len(validation) == size
    left, right = train.images.ravel(), validation.images.ravel()
    assert (np.diff(left) > 0).all()
    assert (np.diff(right) > 0).all()
    assert sorted([*left, *right]) == identity.ravel().tolist()
    np.testing.assert_array_equal(labels[left.astype(int)], train.labels)
    assert set(train.labels) == set(labels)  # every class keeps an example


def test_selection_depends_on_seed_alone():
    labels = np.arange(100) % 10
    masks = [stratified_mask(labels, 30, seed) for seed in (1, 1, 2)]
    np.testing.assert_array_equal(masks[0], masks[1])
    assert (masks[0] != masks[2]).any()


@pytest.mark.parametrize("classes", [1, 3])
@pytest.mark.parametrize("size", [-1, 6, 7])
def test_a_training_example_of_each_class_must_remain(size, classes):
    count = 5 + classes
    data = Split(np.zeros((count, 1, 1, 1), np.uint8), np.arange(count, dtype=np.int32) % classes)
    with pytest.raises(DatasetError, match=f"validation_size must be 0 to 5, .*; got {size}"):
        cut_validation(data, size, 0)


GROUPS = st.lists(st.tuples(st.integers(0, 4), st.integers(0, 3)), min_size=1, max_size=60)


@given(pairs=GROUPS, data=st.data(), seed=st.integers(0, 5))
def test_groups_stay_together_and_every_class_keeps_one(pairs, data, seed):
    labels, groups = np.array(pairs, np.int32).T
    identity = np.arange(len(labels), dtype=np.float32).reshape(-1, 1, 1, 1)
    found, classes, average = len(set(pairs)), len(set(labels)), len(pairs) / len(set(pairs))
    size = data.draw(st.integers(0, int((found - classes) * average)))
    cut = cut_groups(Split(identity, labels), groups, size, seed)
    left, right = (split.images.ravel().astype(int) for split in cut)
    assert sorted([*left, *right]) == list(range(len(labels)))
    for indices, split in zip((left, right), cut, strict=True):
        assert (np.diff(indices) > 0).all()
        np.testing.assert_array_equal(labels[indices], split.labels)
    sides = [{pairs[i] for i in indices} for indices in (left, right)]
    assert sides[0].isdisjoint(sides[1])
    assert set(labels[left]) == set(labels)
    assert len(sides[1]) == (max(1, round(size / average)) if size else 0)
    for label in set(labels):
        others = len({pair for pair in pairs if pair[0] == label}) - 1
        share = len(sides[1]) * others / max(1, found - classes)
        assert abs(sum(pair[0] == label for pair in sides[1]) - share) < 1


@pytest.mark.parametrize("size", [-1, 4, 8])
def test_every_class_must_keep_a_group(size):
    data = Split(np.zeros((8, 1, 1, 1), np.uint8), np.array([0, 0, 0, 0, 1, 1, 1, 1], np.int32))
    groups = np.array([0, 0, 1, 1, 0, 0, 0, 0])
    with pytest.raises(DatasetError, match=f"validation_size must be 0 to 2, .*; got {size}"):
        cut_groups(data, groups, size, 0)


def test_small_validation_split_is_one_group():
    data = Split(np.zeros((9, 1, 1, 1), np.uint8), np.zeros(9, np.int32))
    _, validation = cut_groups(data, np.arange(9) // 3, 1, 0)
    assert len(validation) == 3
