"""Analysis of trained networks: restoring runs, sampling frames, figures and diagnostics."""
