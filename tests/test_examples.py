"""The scripts in `docs/examples` run."""

import importlib.util
import pathlib
import re
from types import ModuleType

import pytest

from tests.compilation import compile_quickly  # noqa: F401

EXAMPLES = pathlib.Path(__file__).parent.parent / "docs" / "examples"


def script(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(name, EXAMPLES / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.slow
def test_tutorial_trains_on_digits(capsys: pytest.CaptureFixture[str]) -> None:
    assert script("nnx_tutorial").main(["--dataset", "digits", "--epochs", "2"]) == 0
    shown = capsys.readouterr().out
    found = re.findall(r"^epoch +(\d): loss (\S+), test accuracy (\S+) %", shown, re.M)
    assert [int(epoch) for epoch, _, _ in found] == [1, 2]
    (first, second), accuracies = zip(*((float(a), float(b)) for _, a, b in found), strict=True)
    assert second < first < 2.4
    assert min(accuracies) > 5
    assert "mean of the parameters of 2 epochs: test accuracy " in shown


def test_tutorial_without_data_says_where_they_come_from(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert script("nnx_tutorial").main([]) == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("error: --data-dir must be a folder that contains mnist/")
    assert "--dataset digits" in line
