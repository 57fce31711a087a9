"""Sampling images at points, independent of theta and transformations."""

from stn_jax.sampling.grid_sample import grid_sample

__all__ = ["grid_sample"]
