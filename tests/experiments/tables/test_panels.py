"""Panels of images with frames: small files, and each thing at its place."""

import io

import numpy as np
from PIL import Image

from experiments.tables.panels import Panel, draw_panels

ORANGE, GREEN, GROUND = (255, 127, 14), (154, 205, 50), (208, 208, 208)


def panel(transformers: int = 1, scale: float = 0.5, count: int = 3) -> Panel:
    line = np.linspace(-scale, scale, 5)
    grid = np.tile(np.stack(np.meshgrid(line, line), -1), (count, 1, 1, 1))
    grids = [np.roll(grid, i, 0) * (1 - 0.3 * i) for i in range(transformers)]
    inputs = np.zeros((count, 20, 20, 1), np.float32)
    inputs[:, 8:12, 8:12] = 1
    outputs = [np.ones((count, 10, 10, 1), np.float32)] * transformers
    return Panel(inputs, grids, outputs, False)


def read(data: bytes) -> np.ndarray:
    with Image.open(io.BytesIO(data)) as picture:
        return np.asarray(picture.convert("RGB")).astype(int)


def close_to(pixels: np.ndarray, colour: tuple[int, int, int]) -> np.ndarray:
    return np.abs(pixels - colour).max(-1) < 16


def test_each_panel_is_in_its_row_and_column() -> None:
    panels = {("a", "x"): panel(), ("b", "y"): panel()}
    pixels = read(draw_panels(["a", "b"], ["x", "y"], panels, {}))
    height, width = pixels.shape[0] // 2, pixels.shape[1] // 2
    for row in range(2):
        for column in range(2):
            part = pixels[row * height :, column * width :][:height, :width]
            assert close_to(part, ORANGE).any() == (row == column)


def test_outputs_of_two_transformers_have_the_colours_of_their_frames() -> None:
    one, two = (read(draw_panels(["a"], ["x"], {("a", "x"): panel(count)}, {})) for count in (1, 2))
    assert not close_to(one, GREEN).any()
    assert two.shape[0] > one.shape[0]  # another row of outputs
    below = two[-one.shape[0] // 4 :]
    assert close_to(two, ORANGE).any()
    assert close_to(below, GREEN).any()
    assert not close_to(below, ORANGE).any()


def test_a_frame_that_left_its_image_does_not_reach_into_others() -> None:
    far = panel(scale=2.5)
    pixels = read(draw_panels(["a"], ["x"], {("a", "x"): far}, {}))
    assert not close_to(pixels, ORANGE).any()
    assert close_to(pixels, GROUND).any()
    lost = far._replace(grids=[np.full((3, 5, 5, 2), np.nan)])
    assert not close_to(read(draw_panels(["a"], ["x"], {("a", "x"): lost}, {})), ORANGE).any()


def test_the_file_is_small_and_keeps_its_texts() -> None:
    rows, columns = np.mgrid[:28, :28]
    ring = np.exp(-((np.hypot(rows - 14, columns - 14) - 8) ** 2) / 3)
    rings = np.tile(ring[..., None].astype(np.float32), (4, 1, 1, 1))
    full = panel(count=4)._replace(inputs=rings, outputs=[rings])
    names = [str(i) for i in range(6)]
    panels = {(row, column): full for row in names[:5] for column in names}
    data = draw_panels(names[:5], names, panels, {"Cells": "a b"})
    assert len(data) < 300_000
    with Image.open(io.BytesIO(data)) as picture:
        assert picture.info["Cells"] == "a b"
        assert picture.width <= 1500
