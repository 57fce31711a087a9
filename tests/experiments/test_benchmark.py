"""The benchmark runs, compares values before it times them, and says what it leaves out."""

import json
import pathlib
from typing import Any

import numpy as np
import pytest

from experiments import benchmark
from experiments.benchmarks import cases, parts, peers, race, worker
from experiments.benchmarks.peers import OURS, Peer
from experiments.benchmarks.settings import Settings

QUICK = ["--smoke", "--repeats", "1", "--seconds", "0.001"]


def run(*arguments: object) -> int:
    return benchmark.main([*QUICK, *(str(argument) for argument in arguments)])


@pytest.fixture
def no_torch(monkeypatch: pytest.MonkeyPatch) -> None:
    """The peers that stay are there wherever the tests run."""
    for name in ("torch", "torch.compile"):
        peer = peers.PEERS[name]
        monkeypatch.setitem(peers.PEERS, name, peer._replace(needs=("a_module_nobody_has",)))


@pytest.mark.usefixtures("no_torch")
def test_the_sampler_against_a_peer(
    tmp_path: pathlib.Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out.json"
    chosen = ["--peers", "torch", "map_coordinates", "--cases", "mnist"]
    assert run("--part", "sampler", *chosen, "--out", out) == 0
    printed = capsys.readouterr().out
    assert "left out: torch (a_module_nobody_has not installed)" in printed
    record = json.loads(out.read_text())
    assert record["left_out"] == {"torch": "a_module_nobody_has not installed"}
    assert record["processor"]
    assert record["versions"][OURS]["jaxlib"]
    assert record["threads"][OURS] == worker.cores()
    found = record["parts"]["sampler"]
    assert {(row["quantity"], row["entrant"]) for row in found["rows"]} == {
        (quantity, name) for quantity in cases.QUANTITIES for name in (OURS, "map_coordinates")
    }
    for row in found["rows"]:
        assert 0 < row["minimum"] <= row["median"]
        assert row["reference"] == "map_coordinates"
        assert row["distance"] <= race.TOLERANCE
        assert (row["ratio"] == 1) == (row["entrant"] == "map_coordinates")
    assert found["summary"]["ratios"][OURS]["ratios"] == 3
    memory = {each["quantity"]: each["memory_bytes"] for each in found["summary"]["traffic"]}
    assert memory["image_and_theta"] > memory["forward"] > 0


def test_steps_of_this_project_alone(tmp_path: pathlib.Path) -> None:
    out = tmp_path / "out.json"
    assert run("--part", "step", "--peers", "kornia", "--cases", "cnn-256", "--out", out) == 0
    rows = json.loads(out.read_text())["parts"]["step"]["rows"]
    assert [row["form"] for row in rows] == ["a call a step", "scanned", "scanned, bfloat16"]
    assert {row["reference"] for row in rows} == {rows[0]["entrant"]}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ("--repeats 0", "--repeats must be positive; got 0"),
        ("--seconds nan", "--seconds must be positive; got nan"),
        ("--out nowhere/out.json", "--out must be a file in a folder that exists; got nowhere"),
        ("--peers numpy", "--peers must be among torch, "),
    ],
)
def test_bad_flags(arguments: str, message: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(*arguments.split()) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(f"error: {message}")


def test_an_interpreter_that_is_not_there(capsys: pytest.CaptureFixture[str]) -> None:
    assert run("--peer-python", "/no/python") == 1
    assert (
        capsys.readouterr().err == "error: --peer-python must be an interpreter; got /no/python\n"
    )


def test_a_case_that_does_not_exist() -> None:
    with pytest.raises(parts.ConfigError, match="--cases must be among mnist, clutter; got cifar"):
        parts.cases(Settings(part="sampler", cases=("cifar",), smoke=True), Replies({}))


def test_a_backend_that_does_not_start(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(peers.PEERS, OURS, Peer("no.such_module:ours", (), ("sampler",)))
    assert run("--part", "sampler", "--peers", "kornia") == 1
    assert "error: stn_jax: ModuleNotFoundError: No module named 'no'" in capsys.readouterr().err


# Races, with workers that answer what they are told.


class Replies(peers.Worker):
    """A worker without a process: each implementation's values, or the error it has."""

    def __init__(self, values: dict[str, Any] | Exception) -> None:
        self._values = values
        self.asked: list[str] = []

    def ask(self, **request: Any) -> dict[str, Any]:
        self.asked.append(request["do"])
        if request["do"] == "prepare":
            if isinstance(self._values, Exception):
                raise self._values
            np.savez(request["outputs"], allow_pickle=False, **self._values)
            return {"facts": {}}
        return {"seconds": [0.25, 0.5]}


CASE = race.Case("sampler", "mnist", "theta", {}, dict, [race.Entrant(OURS), race.Entrant("torch")])
VALUES = {"theta": np.asarray([3.0, 4.0]), "output": np.asarray([1e-9])}


def test_other_values_are_not_timed() -> None:
    wrong = Replies(VALUES | {"theta": np.asarray([3.0, 4.2])})
    rows, faults = race.run(CASE, {OURS: Replies(VALUES), "torch": wrong}, Settings(repeats=2))
    assert [row.entrant for row in rows] == [OURS]
    (fault,) = faults
    assert fault.kind == "mismatch"
    assert fault.text == "values are 0.04 away from stn_jax's, 0.01 is allowed"
    assert "time" not in wrong.asked


def test_a_peer_that_fails_does_not_end_the_race() -> None:
    workers = {OURS: Replies(VALUES), "torch": Replies(peers.BenchmarkError("torch: no"))}
    rows, faults = race.run(CASE, workers, Settings(repeats=2))
    assert [row.samples for row in rows] == [4]
    assert [(fault.kind, fault.text) for fault in faults] == [("failure", "torch: no")]


@pytest.mark.parametrize(
    ("changed", "expected"),
    [
        ({}, 0),
        ({"theta": np.asarray([3.0, 4.5])}, 0.1),
        ({"output": np.asarray([2e-9])}, 0),  # nothing beside the other array
        ({"theta": np.asarray([3.0, np.nan])}, np.inf),
        ({"theta": np.asarray([3.0])}, np.inf),
        ({"more": np.asarray([3.0])}, np.inf),
    ],
)
def test_distance(changed: dict[str, np.ndarray], expected: float) -> None:
    found = race.distance(VALUES | changed, VALUES, list(VALUES))
    assert found == pytest.approx(expected, abs=1e-6)


# Summaries.


def row(case: str, entrant: str, minimum: float, ratio: float = 1.0) -> race.Row:
    place = ("sampler", case, "forward", entrant, entrant, "")
    return race.Row(*place, minimum, minimum, [minimum], 1, "torch", ratio, ratio, 0.0, {})


def test_ratios_are_taken_together() -> None:
    rows = [row("mnist", OURS, 1, 0.5), row("cub", OURS, 1, 2.0), row("cub", "torch", 1, 1.0)]
    found = parts.summary("sampler", rows)["ratios"]
    assert found == {OURS: {"ratios": 2, "geometric_mean": pytest.approx(1), "largest": 2.0}}


def test_growth_is_the_exponent() -> None:
    rows = [row(f"pixels x{factor}", OURS, factor**1.5) for factor in (1, 4, 16)]
    (found,) = parts.summary("sampler", rows)["growth"]
    assert found["axis"] == "pixels"
    assert found["exponent"] == pytest.approx(1.5)


def test_overhead_is_one_thing_after_another() -> None:
    seconds = {"cnn": 10.0, "cnn_offset": 11.0, "st_cnn_unsampled": 14.0, "st_cnn": 16.0}
    rows = [row(name, OURS, each) for name, each in seconds.items()]
    found = parts.summary("overhead", [*rows, row(parts.ALONE, OURS, 1.0)])["parts"][OURS]
    assert found["gradient_to_input"] == 1
    assert found["localisation_network"] == 3
    assert found["grid_and_sampler"] == 2
    assert found["grid_and_sampler_share"] == 2 / 16
    assert found["st_cnn_over_cnn"] == 1.6
    assert found["grid_and_sampler_alone_share"] == 1 / 16
    assert parts.summary("overhead", rows[:-1])["parts"] == {}


def test_calls_are_timed_to_their_end() -> None:
    order: list[str] = []
    program = worker.Program(
        values=dict, run=lambda: order.append("run"), wait=lambda _: order.append("wait"), steps=2
    )
    samples = worker.seconds_of_calls(program, 0.0, calls=3)
    assert len(samples) == worker.LEAST_CALLS
    assert order == ["run", "wait", *(["run"] * 3 + ["wait"]) * worker.LEAST_CALLS]
