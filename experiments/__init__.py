"""Command-line experiments built on `stn_jax`."""
