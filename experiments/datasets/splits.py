"""Stratified choice of examples, or of groups of them."""

from __future__ import annotations

import numpy as np

from experiments.datasets.dataset import DatasetError, Split


def stratified_mask(labels: np.ndarray, size: int, seed: int, spared: int = 0) -> np.ndarray:
    """Chooses `size` examples in which every class has its share of the whole.

    Args:
        labels: integers `[n]`.
        size: how many to choose, 0 <= size <= n less those spared.
        seed: the choice is a function of the other arguments and `seed` alone.
        spared: of every class, how many are never chosen; its share is of the others.

    Returns:
        Boolean `[n]`, True where chosen.
    """
    rng = np.random.default_rng(seed)
    mask = np.zeros(len(labels), dtype=bool)
    if size == 0:
        return mask
    _, inverse, counts = np.unique(labels, return_inverse=True, return_counts=True)
    for number, chosen in enumerate(_shares(counts - spared, size)):
        members = np.flatnonzero(inverse == number)
        mask[rng.permutation(members)[:chosen]] = True
    return mask


def _shares(counts: np.ndarray, size: int) -> np.ndarray:
    """Apportions `size` to classes in proportion to `counts`, by largest remainder."""
    exact = counts * (size / counts.sum())
    shares = np.floor(exact).astype(int)
    missing = size - shares.sum()
    shares[np.argsort(shares - exact, kind="stable")[:missing]] += 1
    return shares


def cut_validation(data: Split, size: int, seed: int) -> tuple[Split, Split]:
    """Cuts a stratified validation split from training data.

    Args:
        data: all examples that training may see.
        size: number of validation examples; 0 gives an empty split.
        seed: decides which.

    Returns:
        (train, validation), each in the order of `data`.

    Raises:
        DatasetError: `size` is negative or leaves no training examples.
    """
    if not 0 <= size < len(data):
        raise DatasetError(
            f"validation_size is {size}; expected 0 to {len(data) - 1}, since there are "
            f"{len(data)} training examples and at least one must remain"
        )
    mask = stratified_mask(data.labels, size, seed)
    return data.take(~mask), data.take(mask)


def cut_groups(data: Split, groups: np.ndarray, size: int, seed: int) -> tuple[Split, Split]:
    """Cuts a stratified validation split of whole groups, of which every class keeps one.

    Args:
        data: all examples that training may see.
        groups: integers `[n]`; examples of one class and one number belong together.
        size: about how many validation examples there shall be: as many groups as hold so many on
            average, but one at least; 0 gives an empty split.
        seed: decides which.

    Returns:
        (train, validation), each in the order of `data`.

    Raises:
        DatasetError: `size` is negative or leaves a class without a group.
    """
    pairs = np.stack([data.labels, groups], axis=1)
    found, member = np.unique(pairs, axis=0, return_inverse=True)
    labels, average = found[:, 0], len(data) / len(found)
    most = len(found) - len(np.unique(labels))
    count = max(round(size / average), min(size, 1))
    if size < 0 or count > most:
        raise DatasetError(
            f"validation_size is {size}; expected 0 to {int(most * average)}, since every class "
            f"must keep one of the {len(found)} groups of examples that belong together"
        )
    # Some versions of NumPy give `member` two axes.
    mask = stratified_mask(labels, count, seed, spared=1)[member.reshape(-1)]
    return data.take(~mask), data.take(mask)
