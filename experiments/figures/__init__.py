"""Pictures of a run, drawn from plain arrays: what goes in, where it is sampled, how it learns.

Nothing here needs JAX, and Matplotlib is imported by the first picture only. Every picture is
written whole or not at all, so that a killed run leaves no damaged file.
"""
