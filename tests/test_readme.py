"""What the README shows runs, as it stands, from top to bottom."""

import pathlib
import re
import shlex

import pytest

from experiments import command_line

README = (pathlib.Path(__file__).parent.parent / "README.md").read_text()


def test_python_snippets_run_in_order() -> None:
    snippets = re.findall(r"```python\n(.*?)```", README, re.DOTALL)
    assert len(snippets) >= 5
    namespace: dict = {}
    for snippet in snippets:
        exec(compile(snippet, "README.md", "exec"), namespace)
    assert namespace["logits"].shape == (8, 10)
    assert abs(namespace["corner"] - 1).max() < 1e-6
    assert namespace["history"]["loss"].shape == (2, 1, 2)


COMMANDS = re.findall(r"^python -m experiments\.train(.*?)(?: #.*)?$", README, re.MULTILINE)


@pytest.mark.parametrize("command", COMMANDS)
def test_commands_parse(command: str) -> None:
    arguments = shlex.split(command)
    if "--help" not in arguments:
        command_line.parse(arguments, "python -m experiments.train")


def test_files_it_names_exist() -> None:
    for link in re.findall(r"\]\((?!http)([^)]+)\)", README):
        assert (pathlib.Path(__file__).parent.parent / link).exists(), link
