"""Hyperparameter search with optuna, by one worker or many.

`options`, `space` and `definition` describe a sweep. `storage` and `shared_study` hold the study
that its workers share, and ensure that no trial is lost or counted twice. `worker` trains trials,
and the `report_*` modules show them. None of these modules imports JAX.
"""
