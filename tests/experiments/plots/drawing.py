"""What tests of figures share: arrays to draw, and what a figure shows."""

from typing import Any

import numpy as np
from matplotlib.figure import Figure
from matplotlib.text import Text

ORANGE = (255, 127, 14)


def pixels_of(figure: Figure, widest: int = 1600) -> np.ndarray:
    """Draws a figure, `[h, w, 3]`, and checks that its size fits a page."""
    canvas: Any = figure.canvas
    canvas.draw()
    pixels = np.asarray(canvas.buffer_rgba())[..., :3]
    assert 50 < pixels.shape[0] < widest
    assert 300 < pixels.shape[1] < widest
    return pixels


def texts(figure: Figure) -> list[str]:
    """All texts of a drawn figure."""
    figure.draw_without_rendering()
    return [
        text.get_text() for text in figure.findobj(Text) if text.get_visible() and text.get_text()
    ]


def close_to(pixels: np.ndarray, colour: tuple[int, int, int]) -> np.ndarray:
    return np.abs(pixels.astype(int) - colour).max(-1) < 12


def extent(mask: np.ndarray) -> tuple[int, int]:
    """Computes (height, width) of the bounding box of the true elements."""
    return tuple(int(np.ptp(indices)) + 1 for indices in np.nonzero(mask))


def images(count: int, height: int = 12, width: int = 12, channels: int = 1) -> np.ndarray:
    random = np.random.default_rng(0)
    return random.normal(size=(count, height, width, channels)).astype(np.float32)


def grids(count: int, angle_rad: float = 0.0, scale: float = 1.0, size: int = 9) -> np.ndarray:
    line = np.linspace(-scale, scale, size)
    points = np.stack(np.meshgrid(line, line), -1)
    cos, sin = np.cos(angle_rad), np.sin(angle_rad)
    return np.tile(points @ np.array([[cos, sin], [-sin, cos]]), (count, 1, 1, 1))
