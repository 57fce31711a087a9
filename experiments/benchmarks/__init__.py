"""What `python -m experiments.benchmark` is made of.

The parent process (`settings`, `peers`, `race`, `parts`, `report`) imports neither JAX nor torch.
Each implementation is timed in a process of its own (`worker`), which imports one of the backends.
"""
