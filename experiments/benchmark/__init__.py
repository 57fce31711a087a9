"""The implementation of `python -m experiments.benchmark`.

The parent process imports neither JAX nor torch. Each implementation is timed in its own process
(`peer_worker`), which imports one of the backends.
"""
