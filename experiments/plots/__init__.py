"""Figures drawn from plain arrays: images, sampling frames, learning curves and diagnostics.

`draw_frames` draws the frames of any model. The modules need no JAX except for this function, and
they import Matplotlib only when they draw, with settings of their own. Files are written
atomically, so a killed run leaves no damaged figure.
"""

from experiments.plots.frame_plot import draw_frames

__all__ = ["draw_frames"]
