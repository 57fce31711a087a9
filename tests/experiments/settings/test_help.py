"""The help of `experiments.train`."""

import pathlib
import re
import subprocess
import sys

import pytest

from experiments import train
from experiments.settings.presets import PRESETS
from tests.experiments.settings.fields import FIELDS, GROUPS, flag


def shown_help(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    with pytest.raises(SystemExit) as end:
        train.main([*arguments, "--help"])
    assert end.value.code == 0
    return capsys.readouterr().out


def in_one_line(shown: str) -> str:
    return " ".join(shown.replace("│", " ").split())


def test_help_shows_presets_groups_and_every_setting(capsys: pytest.CaptureFixture[str]) -> None:
    shown = in_one_line(shown_help(capsys))
    for name, preset in PRESETS.items():
        assert f"{name}: {preset.summary}." in shown
    for group in GROUPS:
        assert f"{group} options" in shown
    for name, (kind, _) in FIELDS.items():
        assert f"{flag(name)} " in shown or f"{flag(name)}," in shown
        assert kind.__doc__ in shown
    assert "--config FILE [flags]" in shown
    assert "default: None" not in shown
    assert "{None}" not in shown
    assert "--max-angle FLOAT Largest rotation of r, rts and extruded, in degrees. Default" in shown
    assert "(default: st_cnn)" in shown
    assert "(default: rotation)" in shown
    assert "affine_3d,rigid_3d}|MODULE:OBJECT" in shown


def test_every_setting_is_explained(capsys: pytest.CaptureFixture[str]) -> None:
    lines = [line.strip("│ ").strip() for line in shown_help(capsys).splitlines()]
    for name in FIELDS:
        (at,) = (
            i for i, line in enumerate(lines) if line.split(",")[0].split(" ")[0] == flag(name)
        )
        same_line = re.split(" {2,}", lines[at], maxsplit=1)[1:]  # if there is room for the text
        assert (same_line or lines[at + 1 :])[0][:1].isalnum(), name


def test_help_texts_have_no_ragged_lines() -> None:
    """tyro keeps line breaks, and wraps longer lines again at 80 columns."""
    source = pathlib.Path(sys.modules[GROUPS["data"].__module__].__file__ or "").read_text()
    texts = re.findall(r'^    \w+: [^\n]*\n    """(.*?)"""$', source, re.MULTILINE | re.DOTALL)
    assert len(texts) == len(FIELDS)
    for text in texts:
        assert all(len(line.strip()) <= 70 for line in text.splitlines()), text


def test_help_shows_the_defaults_of_the_preset(capsys: pytest.CaptureFixture[str]) -> None:
    shown = in_one_line(shown_help(capsys, "tutorial"))
    assert "The defaults below are those of tutorial." in shown
    assert "(default: sgd)" in shown
    assert "(default: mnist)" in shown


def test_help_shows_optional_values_of_the_preset(capsys: pytest.CaptureFixture[str]) -> None:
    assert "the size of its input. (set to 48)" in in_one_line(shown_help(capsys, "gtsrb"))


def test_help_and_errors_import_no_jax() -> None:
    program = (
        "import sys; from experiments import train\n"
        "try: train.main(['--help'])\n"
        "except SystemExit: pass\n"
        "assert train.main(['--epochs', '0']) == 2\n"
        "print(*sys.modules, file=sys.stderr)"
    )
    root = pathlib.Path(train.__file__).parent.parent
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True, cwd=root
    )
    assert not {"jax", "flax", "matplotlib"} & set(done.stderr.split())
