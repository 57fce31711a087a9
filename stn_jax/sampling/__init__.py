"""Sampling images at points; knows neither theta nor transformations."""

from stn_jax.sampling.grid_sample import grid_sample

__all__ = ["grid_sample"]
