"""The benchmark: it runs, compares values before timing, and lists what it leaves out."""

import json
import pathlib
import subprocess
import sys
from typing import Any

import numpy as np
import pytest

from experiments.benchmark import parts, peer_worker, peers, race, workloads
from experiments.benchmark.__main__ import main
from experiments.benchmark.options import BenchmarkSettings
from experiments.benchmark.peers import OURS, BenchmarkError, Peer, PeerProcess
from experiments.benchmark.summaries import summarise
from experiments.settings.errors import ConfigError
from experiments.settings.machine import num_cores

QUICK = ["--smoke", "--repeats", "1", "--seconds", "0.001"]


def run(*arguments: object) -> int:
    return main([*QUICK, *(str(argument) for argument in arguments)])


@pytest.fixture(autouse=True)
def fast_compilation(monkeypatch: pytest.MonkeyPatch) -> None:
    """Compilation takes most of the time of the tests."""
    monkeypatch.setenv("JAX_DISABLE_MOST_OPTIMIZATIONS", "true")


@pytest.fixture
def no_torch(monkeypatch: pytest.MonkeyPatch) -> None:
    """Makes torch unavailable, so that the tests compare the same peers on every machine."""
    for name in ("torch", "torch.compile"):
        peer = peers.PEERS[name]
        monkeypatch.setitem(peers.PEERS, name, peer._replace(needs=("no_such_module",)))


@pytest.mark.usefixtures("no_torch")
def test_sampler_is_compared_with_a_peer(
    tmp_path: pathlib.Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out.json"
    chosen = ["--peers", "torch", "map_coordinates", "--cases", "mnist"]
    assert run("--part", "sampler", *chosen, "--out", out) == 0
    printed = capsys.readouterr().out
    assert "left out: torch (no_such_module not installed)" in printed
    record = json.loads(out.read_text())
    assert record["left_out"] == {"torch": "no_such_module not installed"}
    assert record["processor"]
    assert record["versions"][OURS]["jaxlib"]
    assert record["threads"][OURS] == num_cores()
    found = record["parts"]["sampler"]
    assert {(row["quantity"], row["entrant"]) for row in found["rows"]} == {
        (quantity, name) for quantity in workloads.QUANTITIES for name in (OURS, "map_coordinates")
    }
    for row in found["rows"]:
        assert 0 < row["minimum"] <= row["median"]
        assert row["reference"] == "map_coordinates"
        assert row["distance"] <= race.TOLERANCE
        assert (row["ratio"] == 1) == (row["entrant"] == "map_coordinates")
    assert found["summary"]["ratios"][OURS]["ratios"] == 3
    memory = {each["quantity"]: each["memory_bytes"] for each in found["summary"]["traffic"]}
    assert memory["image_and_theta"] > memory["forward"] > 0


@pytest.mark.slow
def test_steps_run_without_peers(tmp_path: pathlib.Path) -> None:
    out = tmp_path / "out.json"
    assert run("--part", "step", "--peers", "kornia", "--cases", "cnn-256", "--out", out) == 0
    rows = json.loads(out.read_text())["parts"]["step"]["rows"]
    assert [row["form"] for row in rows] == ["one call per step", "scanned", "scanned, bfloat16"]
    assert {row["reference"] for row in rows} == {rows[0]["entrant"]}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ("--repeats 0", "--repeats must be positive; got 0"),
        ("--seconds nan", "--seconds must be positive; got nan"),
        ("--out nowhere/out.json", "--out must be a file in an existing folder; got nowhere"),
        ("--peers numpy", "--peers must be among torch, "),
    ],
)
def test_invalid_flag_is_named(
    arguments: str, message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(*arguments.split()) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(f"error: {message}")


def test_missing_interpreter_is_named(capsys: pytest.CaptureFixture[str]) -> None:
    assert run("--peer-python", "/no/python") == 1
    assert (
        capsys.readouterr().err == "error: --peer-python must be an interpreter; got /no/python\n"
    )


def test_unknown_case_is_named() -> None:
    with pytest.raises(ConfigError, match="--cases must be among mnist, clutter; got cifar"):
        parts.make_cases(
            BenchmarkSettings(part="sampler", cases=("cifar",), smoke=True), FakeProcess({})
        )


def test_backend_that_does_not_start_is_named(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(peers.PEERS, OURS, Peer("no.such_module:ours", (), ("sampler",)))
    assert run("--part", "sampler", "--peers", "kornia") == 1
    assert "error: stn_jax: ModuleNotFoundError: No module named 'no'" in capsys.readouterr().err


def test_torch_worker_needs_only_torch_and_numpy() -> None:
    code = """
import sys
from unittest.mock import MagicMock
torch = MagicMock()
torch.nn.Module = object
sys.modules |= {"torch": torch, "torch.nn": torch.nn, "torch.nn.functional": MagicMock()}
import experiments.benchmark.peer_worker, experiments.benchmark.torch_backend
assert not {"jax", "flax", "optax", "tyro", "rich", "stn_jax"} & set(sys.modules)
"""
    subprocess.run([sys.executable, "-c", code], check=True, cwd=peers.ROOT)


# Races between fake processes.


class FakeProcess(PeerProcess):
    """A worker without a process, which answers with given values or an error."""

    def __init__(self, values: dict[str, Any] | Exception) -> None:
        self._values = values
        self.requests: list[str] = []

    def ask(self, **request: Any) -> dict[str, Any]:
        self.requests.append(request["do"])
        if request["do"] == "prepare":
            if isinstance(self._values, Exception):
                raise self._values
            np.savez(request["outputs"], allow_pickle=False, **self._values)
            return {"facts": {}}
        return {"seconds": [0.25, 0.5]}


CASE = race.Case("sampler", "mnist", "theta", {}, dict, [race.Entrant(OURS), race.Entrant("torch")])
VALUES = {"theta": np.asarray([3.0, 4.0]), "output": np.asarray([1e-9])}


def test_program_with_wrong_values_is_not_timed() -> None:
    wrong = FakeProcess(VALUES | {"theta": np.asarray([3.0, 4.2])})
    results, faults = race.run_race(
        CASE, {OURS: FakeProcess(VALUES), "torch": wrong}, BenchmarkSettings(repeats=2)
    )
    assert [result.entrant for result in results] == [OURS]
    (fault,) = faults
    assert fault.kind == "mismatch"
    assert fault.text == "values differ from those of stn_jax by 0.04; at most 0.01 is allowed"
    assert "time" not in wrong.requests


def test_failing_peer_does_not_end_the_race() -> None:
    workers = {OURS: FakeProcess(VALUES), "torch": FakeProcess(BenchmarkError("torch: no"))}
    results, faults = race.run_race(CASE, workers, BenchmarkSettings(repeats=2))
    assert [result.samples for result in results] == [4]
    assert [(fault.kind, fault.text) for fault in faults] == [("failure", "torch: no")]


@pytest.mark.parametrize(
    ("changed", "expected"),
    [
        ({}, 0),
        ({"theta": np.asarray([3.0, 4.5])}, 0.1),
        ({"output": np.asarray([2e-9])}, 0),  # negligible next to the other array
        ({"theta": np.asarray([3.0, np.nan])}, np.inf),
        ({"theta": np.asarray([3.0])}, np.inf),
        ({"more": np.asarray([3.0])}, np.inf),
    ],
)
def test_distance_is_the_largest_relative_error(
    changed: dict[str, np.ndarray], expected: float
) -> None:
    found = race.distance(VALUES | changed, VALUES, list(VALUES))
    assert found == pytest.approx(expected, abs=1e-6)


# Summaries.


def result(case: str, entrant: str, minimum: float, ratio: float = 1.0) -> race.RaceResult:
    place = ("sampler", case, "forward", entrant, entrant, "")
    return race.RaceResult(*place, minimum, minimum, [minimum], 1, "torch", ratio, ratio, 0.0, {})


def test_ratios_are_summarised_by_their_geometric_mean() -> None:
    results = [
        result("mnist", OURS, 1, 0.5),
        result("cub", OURS, 1, 2.0),
        result("cub", "torch", 1, 1.0),
    ]
    found = summarise("sampler", results)["ratios"]
    assert found == {OURS: {"ratios": 2, "geometric_mean": pytest.approx(1), "largest": 2.0}}


def test_growth_is_the_exponent_of_the_time() -> None:
    results = [result(f"pixels x{factor}", OURS, factor**1.5) for factor in (1, 4, 16)]
    (found,) = summarise("sampler", results)["growth"]
    assert found["axis"] == "pixels"
    assert found["exponent"] == pytest.approx(1.5)


def test_overhead_is_the_difference_between_networks() -> None:
    seconds = {"cnn": 10.0, "cnn_offset": 11.0, "st_cnn_unsampled": 14.0, "st_cnn": 16.0}
    results = [result(name, OURS, each) for name, each in seconds.items()]
    found = summarise("overhead", [*results, result(parts.ALONE, OURS, 1.0)])["parts"][OURS]
    assert found["gradient_to_input"] == 1
    assert found["localisation_network"] == 3
    assert found["grid_and_sampler"] == 2
    assert found["grid_and_sampler_share"] == 2 / 16
    assert found["st_cnn_over_cnn"] == 1.6
    assert found["grid_and_sampler_alone_share"] == 1 / 16
    assert summarise("overhead", results[:-1])["parts"] == {}


def test_samples_are_timed_until_the_calls_are_finished() -> None:
    order: list[str] = []
    program = peer_worker.Program(
        values=dict, run=lambda: order.append("run"), wait=lambda _: order.append("wait"), steps=2
    )
    samples = peer_worker.time_calls(program, 0.0, calls_per_sample=3)
    assert len(samples) == peer_worker.MIN_SAMPLES
    assert order == ["run", "wait", *(["run"] * 3 + ["wait"]) * peer_worker.MIN_SAMPLES]
