"""The folder of a run: records, checkpoints, lock, signals, progress."""
