"""Trained runs are restored from their folder."""

import os
import pathlib

import pytest

from experiments.analysis.loaded_model import load_model
from experiments.analysis.restore import open_run, restore
from experiments.runs.records import RunError
from experiments.training.experiment import params_sha256


def test_folder_may_be_text(finished: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(finished.parent)
    expected = params_sha256(restore(finished).params)
    for folder in (str(finished), finished.name, os.path.join(".", finished.name)):
        assert params_sha256(restore(folder).params) == expected
        with open_run(folder) as run:
            assert params_sha256(run.params) == expected
    assert params_sha256(load_model(str(finished)).arrays["params"]) == expected


def test_folder_without_a_run_is_named(tmp_path: pathlib.Path) -> None:
    for use in (restore, load_model):
        with pytest.raises(RunError, match=rf"^{tmp_path}/config\.json: not found"):
            use(str(tmp_path))
