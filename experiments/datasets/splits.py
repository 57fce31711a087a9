"""Stratified selection of examples, or of groups of examples."""

from __future__ import annotations

import numpy as np

from experiments.datasets.dataset import DatasetError, Split


def stratified_mask(
    labels: np.ndarray, size: int, seed: int, keep_per_class: int = 0
) -> np.ndarray:
    """Selects `size` examples in which every class is represented in proportion.

    Args:
        labels: integers `[n]`.
        size: the number of examples to select, at least 0 and at most n minus those kept.
        seed: the selection depends only on the other arguments and on this seed.
        keep_per_class: the number of examples of each class that are never selected. The class is
            represented in proportion to its other examples.

    Returns:
        Boolean `[n]`, True for selected examples.
    """
    rng = np.random.default_rng(seed)
    mask = np.zeros(len(labels), dtype=bool)
    if size == 0:
        return mask
    _, inverse, counts = np.unique(labels, return_inverse=True, return_counts=True)
    for index, selected in enumerate(_apportion(counts - keep_per_class, size)):
        members = np.flatnonzero(inverse == index)
        mask[rng.permutation(members)[:selected]] = True
    return mask


def _apportion(counts: np.ndarray, size: int) -> np.ndarray:
    """Apportions `size` to classes in proportion to `counts`, by largest remainder."""
    exact = counts * (size / counts.sum())
    shares = np.floor(exact).astype(int)
    missing = size - shares.sum()
    shares[np.argsort(shares - exact, kind="stable")[:missing]] += 1
    return shares


def cut_validation(data: Split, size: int, seed: int) -> tuple[Split, Split]:
    """Cuts a stratified validation split from training data. Every class keeps an example.

    Args:
        data: all examples that training may use.
        size: the number of validation examples; 0 gives an empty split.
        seed: the seed of the selection.

    Returns:
        (train, validation), each in the order of `data`.

    Raises:
        DatasetError: `size` is negative or leaves a class without training examples.
    """
    classes = np.unique(data.labels)
    most = len(data) - len(classes)
    if not 0 <= size <= most:
        raise DatasetError(
            f"validation_size must be 0 to {most}, because at least one example of each of the "
            f"{len(classes)} classes must remain of {len(data)} for training; got {size}"
        )
    mask = stratified_mask(data.labels, size, seed)
    if len(np.unique(data.labels[~mask])) < len(classes):  # it took the last of a rare class
        mask = stratified_mask(data.labels, size, seed, keep_per_class=1)
    return data.take(~mask), data.take(mask)


def cut_groups(data: Split, groups: np.ndarray, size: int, seed: int) -> tuple[Split, Split]:
    """Cuts a stratified validation split of whole groups; every class keeps at least one group.

    Args:
        data: all examples that training may use.
        groups: integers `[n]`; examples with equal class and equal number form a group.
        size: the approximate number of validation examples. The number of groups is this, divided
            by the average size of a group and rounded, but at least 1; 0 gives an empty split.
        seed: the seed of the selection.

    Returns:
        (train, validation), each in the order of `data`.

    Raises:
        DatasetError: `size` is negative or leaves a class without a group.
    """
    pairs = np.stack([data.labels, groups], axis=1)
    unique_pairs, inverse = np.unique(pairs, axis=0, return_inverse=True)
    labels, average = unique_pairs[:, 0], len(data) / len(unique_pairs)
    most = len(unique_pairs) - len(np.unique(labels))
    count = max(round(size / average), min(size, 1))
    if size < 0 or count > most:
        raise DatasetError(
            f"validation_size must be 0 to {int(most * average)}, because every class must keep at "
            f"least one of the {len(unique_pairs)} groups of examples; got {size}"
        )
    # Some versions of NumPy return `inverse` with two axes.
    mask = stratified_mask(labels, count, seed, keep_per_class=1)[inverse.reshape(-1)]
    return data.take(~mask), data.take(mask)
