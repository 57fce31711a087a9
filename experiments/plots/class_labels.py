"""Names of classes in figures: short, and only characters that can be drawn."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Int

from experiments.plots.canvas import font_families

_SHORT = 4  # characters: such a prediction fits next to its confidence


class Caption(NamedTuple):
    """The text below an image.

    Attributes:
        text: one to three lines.
        is_wrong: whether the prediction is not the label.
    """

    text: str
    is_wrong: bool = False


def class_captions(
    names: Sequence[str],
    labels: Int[np.ndarray, " n"],
    predictions: Int[np.ndarray, " n"],
    confidences: Float[np.ndarray, " n"],
    *,
    width: int = 13,
) -> list[Caption]:
    """Describes images by their label, the prediction and its confidence.

    Args:
        names: of the classes.
        labels: the class of each image.
        predictions: the class that the network predicts.
        confidences: the predicted probability of this class, 0 to 1.
        width: the longest name, in characters. Longer ones are cut.

    Returns:
        Captions such as "7", "→ 9 (62 %)". They have three lines if names are long.
    """
    shown = short_names(names, width - 2)
    form = "{}\n→ {} ({})" if max(map(len, shown), default=0) <= _SHORT else "{}\n→ {}\n{}"
    captions = []
    for label, prediction, confidence in zip(labels, predictions, confidences, strict=True):
        share = "?" if np.isnan(confidence) else f"{100 * confidence:.0f} %"
        text = form.format(shown[label], shown[prediction], share)
        captions.append(Caption(text, bool(label != prediction)))
    return captions


def short_names(names: Sequence[str], width: int) -> list[str]:
    """Names of classes in one line of at most `width` characters.

    A name that contains characters that no installed font has is replaced by the class's number.
    """
    shown = [shorten(name, width) for name in names]
    drawable = _drawable_characters()
    return [
        name if name and set(name) <= drawable else str(number) for number, name in enumerate(shown)
    ]


def shorten(text: str, width: int) -> str:
    """A text in one line, which ends with an ellipsis if it is longer than `width` characters."""
    printable = "".join(each if each.isprintable() else " " for each in text)
    line = " ".join(printable.split())
    return line if len(line) <= width else line[: width - 1].rstrip() + "…"


@functools.cache
def _drawable_characters() -> frozenset[str]:
    """The characters of the fonts that figures use."""
    from matplotlib.font_manager import FontProperties, findfont, get_font

    found: set[str] = set()
    for family in font_families():
        found |= set(map(chr, get_font(findfont(FontProperties(family=family))).get_charmap()))
    return frozenset(found)
