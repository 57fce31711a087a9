"""Compiles the programs of these tests quickly."""

from tests.compilation import compile_quickly, optimised  # noqa: F401
