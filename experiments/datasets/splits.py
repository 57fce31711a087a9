"""Stratified choice of examples."""

from __future__ import annotations

import numpy as np

from experiments.datasets.dataset import DatasetError, Split


def stratified_mask(labels: np.ndarray, size: int, seed: int) -> np.ndarray:
    """Chooses `size` examples in which every class has its share of the whole.

    Args:
        labels: integers `[n]`.
        size: how many to choose, 0 <= size <= n.
        seed: the choice is a function of `labels`, `size` and `seed` alone.

    Returns:
        Boolean `[n]`, True where chosen.
    """
    rng = np.random.default_rng(seed)
    mask = np.zeros(len(labels), dtype=bool)
    if size == 0:
        return mask
    _, inverse, counts = np.unique(labels, return_inverse=True, return_counts=True)
    for number, chosen in enumerate(_shares(counts, size)):
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
