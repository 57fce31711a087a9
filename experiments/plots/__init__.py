"""Figures drawn from plain arrays: images, sampling frames, learning curves and diagnostics.

The modules need no JAX, and they import Matplotlib only when they draw. Figures are written
atomically, so a killed run leaves no damaged file.
"""
