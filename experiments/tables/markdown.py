"""The pieces that pages of results are made of."""

from collections.abc import Iterable, Sequence

from experiments.tables.published import DISTORTIONS

MISSING = "–"  # noqa: RUF001 (a dash, not a minus: there is no number)


def heading(distortion: str) -> str:
    """A distortion as tables name it."""
    if distortion == "none":
        return "undistorted"
    return distortion.upper() if distortion in (*DISTORTIONS, "t") else distortion


def number(value: float | None, form: str) -> str:
    """A number in a format; nothing where there is none."""
    return "" if value is None else format(value, form)


def line(cells: Iterable[str]) -> str:
    """A line of a table."""
    return f"| {' | '.join(cells)} |"


def table_head(names: Sequence[str]) -> list[str]:
    """The first two lines of a table."""
    return [line(names), "|" + "---|" * len(names)]
