"""Checkpoints are restored exactly as saved, and damage is detected and reported."""

import pathlib
import re
import shutil
from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from experiments import figures
from experiments.runs import checkpoints
from experiments.runs.checkpoints import (
    Checkpoints,
    Snapshot,
    from_storable,
    restore_common,
    to_storable,
)
from experiments.runs.records import RunError
from stn_jax import training
from tests.experiments.conftest import assert_same_result


def state(step: int) -> training.TrainState:
    start = training.init_state(jax.random.key(5), {"a": jnp.full(3, step)}, optax.adam(1.0))
    return start._replace(step=jnp.int32(step))


def snapshot(step: int) -> Snapshot:
    values = {name: np.full(4, step, np.float32) for name in checkpoints.STEP_METRICS}
    return Snapshot(state(step), values, seconds=step / 10)


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
    """A folder in which three checkpoints were saved, and two are kept. Read only."""
    folder = tmp_path_factory.mktemp("saved") / "checkpoints"
    made = Checkpoints(folder)
    for step in (1, 2, 3, 3):
        made.save(snapshot(step))
    return folder


@pytest.fixture
def copy(saved: pathlib.Path, tmp_path: pathlib.Path) -> pathlib.Path:
    """A writable copy of the folder."""
    shutil.copytree(saved, tmp_path / "copy")
    return tmp_path / "copy"


def test_newest_checkpoint_equals_the_saved_snapshot(saved: pathlib.Path) -> None:
    assert sorted(path.name for path in saved.iterdir()) == ["2.msgpack", "3.msgpack"]
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


def test_snapshot_is_restored_from_arrays() -> None:
    """Process 0 sends a snapshot to the other processes as arrays."""
    arrays = jax.tree.map(np.asarray, to_storable(snapshot(3)))
    found, expected = from_storable(arrays, state(0)), snapshot(3)
    assert jax.tree.structure(found) == jax.tree.structure(expected)
    assert type(found.seconds) is float
    assert found.seconds == expected.seconds


def test_restoring_without_a_checkpoint_is_an_error(tmp_path: pathlib.Path) -> None:
    made = Checkpoints(tmp_path / "checkpoints")
    assert made.steps == []
    with pytest.raises(RunError, match="checkpoints: holds no checkpoint"):
        made.restore(state(0))


def flip(path: pathlib.Path, at: float = 0.5) -> None:
    """Changes one bit, at a fraction of the file."""
    data = bytearray(path.read_bytes())
    data[int(at * len(data))] ^= 1
    path.write_bytes(data)


def cut(path: pathlib.Path, at: float) -> None:
    """Keeps only a fraction of the file."""
    path.write_bytes(path.read_bytes()[: int(at * path.stat().st_size)])


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(damage=st.sampled_from([flip, cut]), at=st.floats(0, 1, exclude_max=True))
@example(damage=cut, at=0.0)  # an empty file
def test_damaged_checkpoint_falls_back_to_the_previous_one(
    damage: Callable[[pathlib.Path, float], None],
    at: float,
    copy: pathlib.Path,
    saved: pathlib.Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    damage(copy / "3.msgpack", at)
    assert int(Checkpoints(copy).restore(state(0)).state.step) == 2
    assert capsys.readouterr().err == (
        f"warning: {copy}/3.msgpack: is damaged: its SHA-256 is not that of what was written; "
        f"going back to {copy}/2.msgpack\n"
    )
    shutil.copy(saved / "3.msgpack", copy)
    assert int(Checkpoints(copy).restore(state(0)).state.step) == 3


def test_error_names_all_damaged_checkpoints(copy: pathlib.Path) -> None:
    flip(copy / "2.msgpack")
    (copy / "3.msgpack").unlink()
    (copy / "3.msgpack").mkdir()
    with pytest.raises(RunError) as caught:
        Checkpoints(copy).restore(state(0))
    assert str(caught.value) == (
        f"{copy}/3.msgpack: cannot be read: Is a directory; "
        f"{copy}/2.msgpack: is damaged: its SHA-256 is not that of what was written; "
        "start anew in another --run-dir"
    )


@pytest.mark.parametrize(
    ("params", "optimizer", "found"),
    [
        ({"b": 3}, optax.adam(1.0), "opt_state.0.mu.a is int32[3], but nothing is needed"),
        ({"a": 4}, optax.adam(1.0), "opt_state.0.mu.a is int32[3], but int32[4] is needed"),
        ({"a": 3}, optax.sgd(1.0), "opt_state.0.count is int32[], but nothing is needed"),
        ({"a": 3, "b": 2}, optax.adam(1.0), "opt_state.0.mu.b is missing, but int32[2] is"),
    ],
)
def test_checkpoint_of_another_structure_is_an_error(
    saved: pathlib.Path,
    params: dict[str, int],
    optimizer: optax.GradientTransformation,
    found: str,
) -> None:
    arrays = {name: jnp.zeros(size, int) for name, size in params.items()}
    other = training.init_state(jax.random.key(5), arrays, optimizer)
    expected = re.escape(f"checkpoints/3.msgpack: is of another network or optimiser: {found}")
    with pytest.raises(RunError, match=expected):
        Checkpoints(saved).restore(other)


def test_checkpoint_of_another_dtype_is_an_error(saved: pathlib.Path) -> None:
    other = state(0)._replace(params={"a": jnp.zeros(3, jnp.bfloat16)})
    with pytest.raises(RunError, match=r"params.a is int32\[3\], but bfloat16\[3\] is needed"):
        Checkpoints(saved).restore(other)


def test_unfinished_and_foreign_files_are_ignored(copy: pathlib.Path) -> None:
    for name in (".4.msgpack.123", "notes.msgpack"):
        shutil.copy(copy / "3.msgpack", copy / name)
    assert Checkpoints(copy).steps == [2, 3]
    assert sorted(path.name for path in copy.iterdir()) == [
        "2.msgpack",
        "3.msgpack",
        "notes.msgpack",
    ]


def test_saving_takes_a_limited_share_of_the_time(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = [0.0]
    monkeypatch.setattr(checkpoints, "MAX_TIME_SHARE", 0.01)
    monkeypatch.setattr(checkpoints.time, "perf_counter", lambda: now[0])

    def slowly(*_: object) -> None:
        now[0] += 2.0

    monkeypatch.setattr(checkpoints, "write_atomically", slowly)
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


# --- Members --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("saved", "damaged", "common", "left"),
    [
        (([4, 8], [4, 8]), [], 8, ([4, 8], [4, 8])),
        (([4, 8], [8, 12]), [], 8, ([4, 8], [8])),  # killed between the two saves of step 12
        (([4, 8], [4, 8]), [(1, 8)], 4, ([4], [4])),  # the newest file of one is damaged
        (([4, 8], [8, 12]), [(1, 12)], 8, ([4, 8], [8])),
        (([4, 8], [8, 12]), [(0, 8)], None, ([], [])),  # step 4 of the second was removed before
        (([4], [8]), [], None, ([], [])),
        (([4], []), [], None, ([], [])),
    ],
)
def test_members_restore_their_newest_common_step(
    saved: Sequence[list[int]],
    damaged: list[tuple[int, int]],
    common: int | None,
    left: tuple[list[int], ...],
    tmp_path: pathlib.Path,
) -> None:
    members = [Checkpoints(tmp_path / str(index)) for index in range(len(saved))]
    for member, steps in zip(members, saved, strict=True):
        for step in steps:
            member.save(snapshot(step))
    for index, step in damaged:
        flip(members[index].path(step))
    restored = restore_common(members, [state(0)] * len(members))
    assert tuple(member.steps for member in members) == left
    if common is None:
        assert restored is None
        return
    assert restored is not None
    for each in restored:
        assert int(each.state.step) == common
        np.testing.assert_array_equal(each.state.params["a"], np.full(3, common))


def test_members_cannot_be_restored_if_all_checkpoints_of_one_are_damaged(
    tmp_path: pathlib.Path,
) -> None:
    members = [Checkpoints(tmp_path / name) for name in "ab"]
    for member in members:
        member.save(snapshot(4))
    flip(members[1].path(4))
    with pytest.raises(RunError, match=r"b/4.msgpack: is damaged: .*; start anew in another"):
        restore_common(members, [state(0)] * 2)
    assert members[0].steps == [4]


# --- Checkpoints of a run -------------------------------------------------------------------------


@pytest.mark.usefixtures("in_parts")
def test_run_continues_from_the_checkpoint_before_a_damaged_one(
    unfinished: pathlib.Path,
    finished: pathlib.Path,
    run: Callable[..., int],
    tiny: list[str],
    capsys: pytest.CaptureFixture[str],
) -> None:
    folder = unfinished / "checkpoints"
    flip(folder / "18.msgpack")
    command = [*tiny, "--run-dir", unfinished, "--resume", "auto", "--no-figures"]
    assert run(*command) == 0
    shown = capsys.readouterr()
    warnings = [line for line in shown.err.splitlines() if not line.startswith("epoch")]
    assert warnings == [
        f"warning: {folder}/18.msgpack: is damaged: its SHA-256 is not that of what was written; "
        f"going back to {folder}/12.msgpack"
    ]
    assert "continuing after step 12\n" in shown.out
    assert sorted(path.name for path in folder.iterdir()) == ["12.msgpack", "18.msgpack"]
    assert_same_result(unfinished, finished)


def test_run_without_intact_checkpoint_is_an_error(
    unfinished: pathlib.Path,
    run: Callable[..., int],
    tiny: list[str],
    capsys: pytest.CaptureFixture[str],
) -> None:
    for path in (unfinished / "checkpoints").iterdir():
        flip(path)
    # Both continuing and drawing figures restore a checkpoint.
    assert run(*tiny, "--run-dir", unfinished, "--resume", "auto") == 1
    assert figures.main([str(unfinished)]) == 1
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 2
    for line in lines:
        assert line.startswith(f"error: {unfinished}/checkpoints/18.msgpack: is damaged: ")
        assert f"; {unfinished}/checkpoints/12.msgpack: is damaged: " in line
        assert line.endswith("; start anew in another --run-dir")
