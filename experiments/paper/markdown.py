"""Formats numbers, table rows and headings for Markdown pages."""

from collections.abc import Iterable, Sequence

from experiments.paper.published_errors import DISTORTIONS

MISSING = "–"  # noqa: RUF001 (an en dash marks a missing number; a minus sign would not)


def distortion_heading(distortion: str) -> str:
    """The name of a distortion in table headings."""
    if distortion == "none":
        return "undistorted"
    return distortion.upper() if distortion in (*DISTORTIONS, "t") else distortion


def format_number(value: float | None, spec: str) -> str:
    """The number in a format specification; empty for None."""
    return "" if value is None else format(value, spec)


def table_row(entries: Iterable[str]) -> str:
    """A row of a Markdown table."""
    return f"| {' | '.join(entries)} |"


def table_head(names: Sequence[str]) -> list[str]:
    """The first two lines of a Markdown table: column names and a rule."""
    return [table_row(names), "|" + "---|" * len(names)]
