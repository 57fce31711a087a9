"""Checkpoints: what is read is what was written, or it is said that it is not."""

import pathlib
import shutil
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from experiments import checkpoints, gallery
from experiments.checkpoints import Checkpoints, Snapshot
from experiments.records import RunError
from stn_jax import training
from tests.experiments.conftest import assert_same_end


def state(step: int) -> training.TrainState:
    start = training.init_state(jax.random.key(5), {"a": jnp.full(3, step)}, optax.adam(1.0))
    return start._replace(step=jnp.int32(step))


def snapshot(step: int) -> Snapshot:
    values = {name: np.full(4, step, np.float32) for name in checkpoints.MEASURED}
    return Snapshot(state(step), values, seconds=step / 10)


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
    """The folder of three checkpoints, of which two are kept: to be read, not written."""
    folder = tmp_path_factory.mktemp("saved") / "checkpoints"
    made = Checkpoints(folder)
    for step in (1, 2, 3, 3):
        made.save(snapshot(step))
    return folder


@pytest.fixture
def copy(saved: pathlib.Path, tmp_path: pathlib.Path) -> pathlib.Path:
    """The same, to be damaged."""
    shutil.copytree(saved, tmp_path / "copy")
    return tmp_path / "copy"


def test_the_newest_is_what_was_saved(saved: pathlib.Path) -> None:
    assert sorted(path.name for path in saved.iterdir()) == ["2", "3"]
    found = Checkpoints(saved).restore(state(0))
    expected = snapshot(3)
    assert jax.tree.structure(found) == jax.tree.structure(expected)
    assert jax.random.key_data(found.state.key).tolist() == [0, 5]
    for one, two in zip(
        jax.tree.leaves(found._replace(state=found.state[:3])),
        jax.tree.leaves(expected._replace(state=expected.state[:3])),
        strict=True,
    ):
        np.testing.assert_array_equal(one, two)


def test_none_yet(tmp_path: pathlib.Path) -> None:
    made = Checkpoints(tmp_path / "checkpoints")
    assert made.steps == []
    with pytest.raises(RunError, match="checkpoints: holds no checkpoint"):
        made.restore(state(0))


def zero(path: pathlib.Path) -> None:
    path.write_bytes(b"")


def cut(path: pathlib.Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def flip(path: pathlib.Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


DAMAGES = [zero, cut, flip, pathlib.Path.unlink]


@pytest.mark.parametrize("damage", DAMAGES)
def test_any_damaged_file_falls_back_to_the_checkpoint_before(
    damage: Callable[[pathlib.Path], None],
    copy: pathlib.Path,
    saved: pathlib.Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    files = [path for path in (saved / "3").rglob("*") if path.is_file() and path.stat().st_size]
    assert len(files) > 5
    for file in files:
        path = copy / file.relative_to(saved)
        damage(path)
        assert int(Checkpoints(copy).restore(state(0)).state.step) == 2
        (line,) = capsys.readouterr().err.splitlines()
        assert line.startswith(f"warning: {copy}/3: is damaged: ")
        assert line.endswith(f"; going back to {copy}/2")
        shutil.copy(file, path)
    assert int(Checkpoints(copy).restore(state(0)).state.step) == 3


def test_where_none_is_good_the_newest_is_named(copy: pathlib.Path) -> None:
    for step in ("2", "3"):
        flip(copy / step / "state" / "manifest.ocdbt")
    expected = f"{copy}/3: is damaged: state/manifest.ocdbt is not what was written"
    with pytest.raises(RunError) as caught:
        Checkpoints(copy).restore(state(0))
    assert str(caught.value) == expected


def test_digests_of_another_kind(copy: pathlib.Path) -> None:
    for text in ("[]", "{", '{"state": 1}', '{"../2/sha256.json": 0}'):
        (copy / "3" / checkpoints.DIGESTS).write_text(text)
        assert int(Checkpoints(copy).restore(state(0)).state.step) == 2


def test_another_structure_is_named(saved: pathlib.Path) -> None:
    other = training.init_state(jax.random.key(5), {"b": jnp.zeros(3)}, optax.adam(1.0))
    with pytest.raises(RunError, match="checkpoints/3: cannot be restored: "):
        Checkpoints(saved).restore(other)


def test_what_is_unfinished_is_removed_and_not_read(copy: pathlib.Path) -> None:
    shutil.copytree(copy / "3", copy / "4.unfinished.orbax-checkpoint-tmp")
    shutil.copytree(copy / "3", copy / "4.unfinished")
    assert Checkpoints(copy).steps == [2, 3]
    assert sorted(path.name for path in copy.iterdir()) == ["2", "3"]


def test_they_keep_to_their_share_of_the_time(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = [0.0]
    monkeypatch.setattr(checkpoints, "SHARE", 0.01)
    monkeypatch.setattr(checkpoints.time, "perf_counter", lambda: now[0])

    def slowly(path: str, _: object) -> None:
        pathlib.Path(path).mkdir()
        now[0] += 2.0

    monkeypatch.setattr(checkpoints.orbax, "save", slowly)
    made = Checkpoints(tmp_path / "checkpoints")
    assert made.due
    made.save(snapshot(1))
    for at, due in ((399.0, False), (401.0, True)):
        now[0] = at
        assert made.due == due
    made.save(snapshot(2))
    for at, due in ((599.0, False), (601.0, True)):
        now[0] = at
        assert made.due == due


# In a run.


def test_a_damaged_checkpoint_is_made_again(
    unfinished: pathlib.Path,
    finished: pathlib.Path,
    run: Callable[..., int],
    tiny: list[str],
    capsys: pytest.CaptureFixture[str],
) -> None:
    newest = unfinished / "checkpoints" / "18"
    flip(newest / "state" / "manifest.ocdbt")
    command = [*tiny, "--run-dir", unfinished, "--resume", "auto", "--no-figures"]
    assert run(*command) == 0
    shown = capsys.readouterr()
    warnings = [line for line in shown.err.splitlines() if not line.startswith("epoch")]
    assert warnings == [
        f"warning: {newest}: is damaged: state/manifest.ocdbt is not what was written; "
        f"going back to {unfinished}/checkpoints/12"
    ]
    assert "continuing after step 12\n" in shown.out
    assert sorted(path.name for path in newest.parent.iterdir()) == ["12", "18"]
    assert checkpoints._damage(newest) is None
    assert_same_end(unfinished, finished)


def test_where_no_checkpoint_is_good_a_run_says_so(
    unfinished: pathlib.Path,
    run: Callable[..., int],
    tiny: list[str],
    capsys: pytest.CaptureFixture[str],
) -> None:
    for step in ("12", "18"):
        zero(unfinished / "checkpoints" / step / checkpoints.DIGESTS)
    # As it is reached by --resume, and by what draws the pictures.
    assert run(*tiny, "--run-dir", unfinished, "--resume", "auto") == 1
    assert gallery.main([str(unfinished)]) == 1
    line = f"error: {unfinished}/checkpoints/18: is damaged: sha256.json is not what was written"
    assert capsys.readouterr().err.splitlines() == [line, line]
