"""The benchmark: it runs, compares values before timing, and lists what it leaves out."""

import io
import json
import pathlib
import subprocess
import sys
from typing import Any

import numpy as np
import pytest
from rich.console import Console

import stn_jax
from experiments.benchmark import opencv_backend, parts, peer_worker, peers, race, warps
from experiments.benchmark.__main__ import _make_race, main
from experiments.benchmark.options import BenchmarkSettings
from experiments.benchmark.peers import OURS, BenchmarkError, Peer, PeerProcess
from experiments.benchmark.record import Record
from experiments.benchmark.sampler_table import SamplerTable
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
    entrants = (OURS, "map_coordinates", f"{OURS} (copy)")
    assert {(row["quantity"], row["entrant"]) for row in found["rows"]} == {
        (quantity, name) for quantity in warps.QUANTITIES for name in entrants
    }
    for row in found["rows"]:
        assert 0 < row["minimum"] <= row["median"]
        assert row["reference"] == "map_coordinates"
        assert row["distance"] <= race.TOLERANCE
        assert (row["ratio"] == 1) == (row["entrant"] == "map_coordinates")
    assert found["summary"]["ratios"]["affine"][OURS]["ratios"] == 3
    ours = {row["quantity"]: row["facts"] for row in found["rows"] if row["entrant"] == OURS}
    assert ours["image_and_theta"]["temporary_bytes"] > ours["forward"]["temporary_bytes"]
    assert ours["forward"]["trace_seconds"] > 0
    assert ours["forward"]["compile_seconds"] > 0
    for quantity in ("forward", "gradient to theta", "gradient to image and theta"):
        assert f"\nmnist, {quantity}  " in printed
        assert f"\n| mnist, {quantity} | " in out.with_suffix(".md").read_text()
    assert out.with_suffix(".png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.slow
@pytest.mark.usefixtures("no_torch")
def test_every_warp_has_the_values_of_a_peer(
    tmp_path: pathlib.Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out.json"
    assert run("--part", "sampler", "--peers", "map_coordinates", "--out", out) == 0
    assert "mismatch" not in capsys.readouterr().out
    rows = json.loads(out.read_text())["parts"]["sampler"]["rows"]
    compared = {row["case"] for row in rows if row["entrant"] == "map_coordinates"}
    in_float32 = {
        name
        for group in warps.SMOKE_GROUPS.values()
        for name, warp in group.items()
        if warp.dtype == "float32"
    }
    assert compared == in_float32


@pytest.mark.slow
def test_steps_run_without_peers(tmp_path: pathlib.Path) -> None:
    out = tmp_path / "out.json"
    assert run("--part", "step", "--peers", "kornia", "--cases", "tutorial-64", "--out", out) == 0
    rows = json.loads(out.read_text())["parts"]["step"]["rows"]
    assert [row["form"] for row in rows] == ["one call per step", "scanned", "scanned, bfloat16"]
    assert {row["reference"] for row in rows} == {rows[0]["entrant"]}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ("--repeats 0", "--repeats must be positive; got 0"),
        ("--seconds nan", "--seconds must be positive; got nan"),
        ("--out nowhere/out.json", "--out must be a file in an existing folder; got nowhere"),
        ("--out out.txt", "--out must end with .json; got out.txt"),
        ("--peers numpy", "--peers must be among torch, "),
        ("--minutes 0", "--minutes must be positive; got 0"),
        ("--resume", "--resume must be given with --out, the file to continue"),
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
    with pytest.raises(
        ConfigError, match=r"--cases must be parts of the names mnist, forward; .*; got cifar"
    ):
        parts.make_cases(
            BenchmarkSettings(part="sampler", cases=("cifar",), smoke=True), FakeProcess({})
        )


def test_backend_that_does_not_start_is_named(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(peers.PEERS, OURS, Peer("no.such_module:ours", (), ("sampler",)))
    assert run("--part", "sampler", "--peers", "kornia") == 1
    assert "error: stn_jax: ModuleNotFoundError: No module named 'no'" in capsys.readouterr().err


IMPORT_PEERS = """
import sys
from unittest.mock import MagicMock
torch = MagicMock()
torch.nn.Module = object
sys.modules |= {"torch": torch, "torch.nn": torch.nn, "torch.nn.functional": MagicMock()}
import experiments.benchmark.peer_worker, experiments.benchmark.torch_backend
import experiments.benchmark.opencv_backend
assert not {"jax", "flax", "optax", "tyro", "rich", "stn_jax"} & set(sys.modules)
import experiments.benchmark.jax_peers
assert not {"flax", "optax", "tyro", "rich", "stn_jax"} & set(sys.modules)
"""


def test_workers_of_peers_need_only_their_library_and_numpy() -> None:
    subprocess.run([sys.executable, "-c", IMPORT_PEERS], check=True, cwd=peers.ROOT)


# Cases.


def sampler_cases(**settings: Any) -> list[race.Case]:
    chosen = BenchmarkSettings(part="sampler", **settings)
    return parts.make_cases(chosen, FakeProcess({}))["sampler"]


def test_given_grids_have_every_mode_padding_and_rank() -> None:
    assert sum(case.name in warps.GROUPS["given grids"] for case in sampler_cases()) == 43
    grids = warps.GROUPS["given grids"].values()
    assert {(warp.mode, warp.padding_mode) for warp in grids if warp.ndim == 2} == {
        (mode, padding)
        for mode in ("nearest", "bilinear", "bicubic")
        for padding in ("zeros", "border", "reflection")
    }


def test_cases_are_selected_by_a_part_of_their_name() -> None:
    labels = [parts.case_label(case) for case in sampler_cases(cases=("bicubic, border",))]
    assert labels == [
        f"32 x 64^2 x 3, bicubic, border, {quantity}"
        for quantity in ("forward", "gradient to grid", "gradient to image and grid")
    ]


def test_torch_compile_runs_few_warps_unless_it_is_chosen() -> None:
    def count(**settings: Any) -> int:
        return sum(
            entrant.peer == peers.COMPILED
            for case in sampler_cases(**settings)
            for entrant in case.entrants
        )

    assert 0 < count() <= 6 < count(peers=(peers.COMPILED,))


@pytest.mark.parametrize("name", warps.MATRICES)
def test_peers_get_the_matrices_of_this_project(name: warps.Transformation) -> None:
    ndim = 3 if name == "affine_3d" else 2
    spec = warps.WarpSpec(2, (5,) * ndim, 1, (5,) * ndim, name)
    theta = warps.warp_arrays(spec)["theta"]
    family = getattr(stn_jax.transforms, name)
    expected = np.stack([family.matrix(each) for each in theta])
    found = warps.matrices(spec, theta, np)[:, : expected.shape[1]]
    np.testing.assert_allclose(found, expected, rtol=1e-6, atol=1e-7)


def test_opencv_maps_pixels_as_this_project_maps_coordinates() -> None:
    identity = np.asarray([[1, 0, 0, 0, 1, 0]])
    spec = warps.WarpSpec(1, (8, 6), 1, (4, 3))
    # Twice as many pixels: the first one is between the first two of the image.
    expected = [[2, 0, 0.5], [0, 2, 0.5], [0, 0, 1]]
    np.testing.assert_allclose(opencv_backend._pixel_matrices(spec, identity)[0], expected)


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


@pytest.mark.parametrize(("side", "allowed"), [(28, 0.01), (2048, 0.031)])
def test_tolerance_grows_with_the_rounding_of_positions(side: int, allowed: float) -> None:
    case = CASE._replace(job={"kind": "sampler", "warp": {"shape": (side, side)}})
    assert race._tolerance(case) == pytest.approx(allowed, abs=5e-4)


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


def result(
    case: str, entrant: str, minimum: float, ratio: float = 1.0, form: str = ""
) -> race.RaceResult:
    place = ("sampler", case, "forward", race.Entrant(entrant, form).name, entrant, form)
    return race.RaceResult(*place, minimum, minimum, [minimum], 1, "torch", ratio, ratio, 0.0, {})


def test_ratios_are_summarised_by_their_geometric_mean() -> None:
    results = [
        result("mnist", OURS, 1, 0.5),
        result("cub", OURS, 1, 2.0),
        result("cub", "torch", 1, 1.0),
    ]
    found = summarise("sampler", results)["ratios"]
    expected = {
        "ratios": 2,
        "geometric_mean": pytest.approx(1),
        "largest": 2.0,
        "above_one": 1,
    }
    assert found == {"affine": {OURS: expected}}


def test_growth_is_the_exponent_of_the_time() -> None:
    results = [result(f"pixels x{factor}", OURS, factor**1.5) for factor in (1, 4, 16)]
    (found,) = summarise("sampler", results)["growth"]
    assert found["axis"] == "pixels"
    assert found["exponent"] == pytest.approx(1.5)


def test_only_the_sweep_has_growth() -> None:
    names = [name for group in warps.GROUPS.values() for name in group]
    assert summarise("sampler", [result(name, OURS, 1.0) for name in names])["growth"] == []
    names = list(warps.sweep_warps(smoke=False))
    growth = summarise("sampler", [result(name, OURS, 1.0) for name in names])["growth"]
    assert [each["axis"] for each in growth] == ["batch", "channels", "pixels"]


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


def test_memory_of_a_run_is_measured() -> None:
    program = peer_worker.Program(dict, lambda: np.ones(1 << 23), lambda _: None)
    growth = peer_worker.resident_growth(program)["resident_growth_bytes"]
    assert 0.9 * (1 << 26) < growth < 1.5 * (1 << 26)  # some pages were resident before


# Tables and records.


def test_table_has_a_dash_for_what_a_peer_does_not_have(tmp_path: pathlib.Path) -> None:
    console = Console(file=io.StringIO(), width=300)
    facts = {"trace_seconds": 0.25, "compile_seconds": 0.5, "output_bytes": 2e6}
    ours = result("mnist", OURS, 1e-3)._replace(facts=facts)
    copy = result("mnist", OURS, 1e-4, form=race.COPY)
    table = SamplerTable([OURS, "torch", "opencv"])
    case = sampler_cases()[0]
    table.add(console, case, [ours, result("mnist", "torch", 2e-3), copy])
    table.add(console, case, [ours, copy])
    table.write(tmp_path / "table.md")
    *_, headings, _, first, second = (tmp_path / "table.md").read_text().splitlines()
    assert headings == (
        "| case | stn_jax | torch | opencv | ratio | copy | compile | MB | torch MB |"
    )
    assert first == "| mnist, forward | 1 | 2 | - | 0.50 | 0.1 | 0.75 | 2 | - |"
    assert second == "| mnist, forward | 1 | - | - | - | 0.1 | 0.75 | 2 | - |"


def make_record(out: pathlib.Path, **settings: Any) -> Record:
    chosen = BenchmarkSettings(out=str(out), **settings)
    return Record(chosen, {"git_commit": "abc", "processor": "cpu"}, {})


def test_resumed_benchmark_has_the_recorded_cases(tmp_path: pathlib.Path) -> None:
    out, case = tmp_path / "out.json", sampler_cases()[0]
    fault = race.Fault("sampler", "mnist", "forward", "torch", "failure", "no")
    make_record(out).add([result("mnist", OURS, 1.0)], [fault])
    resumed = make_record(out, resume=True, minutes=1.0)
    assert [each.minimum for each in resumed.find(case)] == [1.0]
    assert resumed.faults == [fault]
    assert resumed.find(case._replace(quantity="theta")) == []
    assert make_record(out).find(case) == []
    with pytest.raises(ConfigError, match=r"--repeats of .*out.json is 5, and now 6"):
        make_record(out, resume=True, repeats=6)


def test_no_case_starts_after_the_time(tmp_path: pathlib.Path) -> None:
    settings = BenchmarkSettings(minutes=1e-9, part="sampler")
    record = make_record(tmp_path / "out.json")
    record.add([result("mnist", OURS, 1.0)], [])
    run_case = _make_race({}, settings, record)
    recorded, new, *_ = sampler_cases()
    assert run_case(recorded)
    assert not run_case(new)
