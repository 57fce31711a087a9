"""The architecture: which unit may import which. Imports go down only.

`python tests/test_architecture.py` prints the units, their levels and the number of import edges.
"""

import ast
import collections
import functools
import pathlib
import subprocess
import sys

import pytest

import stn_jax

ROOT = pathlib.Path(__file__).parent.parent

LEAVES = ("stn_jax._types", "stn_jax._checks", "stn_jax._sharding")
# Unit -> the units of the project that it may import besides itself. The order is from the bottom
# to the top.
LIBRARY = {
    "stn_jax._types": (),
    "stn_jax._checks": (),
    "stn_jax._sharding": (),
    "stn_jax.coordinates": LEAVES,
    "stn_jax.sampling": (*LEAVES, "stn_jax.coordinates"),
    "stn_jax.fields": (*LEAVES, "stn_jax.coordinates", "stn_jax.sampling"),
    "stn_jax.transforms": (*LEAVES, "stn_jax.sampling", "stn_jax.fields"),
    "stn_jax.warping": (*LEAVES, "stn_jax.coordinates", "stn_jax.sampling", "stn_jax.transforms"),
    "stn_jax.targets": LEAVES,
    "stn_jax.poses": (*LEAVES, "stn_jax.transforms", "stn_jax.warping"),
    "stn_jax.contrast": LEAVES,
    "stn_jax.distortions": (
        *LEAVES,
        "stn_jax.poses",
        "stn_jax.sampling",
        "stn_jax.transforms",
        "stn_jax.warping",
    ),
    "stn_jax.colocalisation": (*LEAVES, "stn_jax.coordinates", "stn_jax.transforms"),
    "stn_jax.nn": (*LEAVES, "stn_jax.transforms", "stn_jax.warping"),
    "stn_jax.linen": (*LEAVES, "stn_jax.transforms", "stn_jax.nn"),
    "stn_jax.nnx": (*LEAVES, "stn_jax.transforms", "stn_jax.nn"),
    "stn_jax.training": LEAVES,
}
EXPERIMENTS = {
    "settings": (),
    "runs": ("settings",),
    "datasets": ("settings", "runs"),
    "plots": ("settings", "runs"),
    "training": ("settings", "runs", "datasets"),
    "analysis": ("settings", "runs", "datasets", "training", "plots"),
    "workflow": ("settings", "runs", "training", "analysis"),
    "colocalisation": ("settings", "runs", "datasets", "training", "plots"),
    "sweep": ("settings", "runs", "training"),
    "benchmark": ("settings", "runs", "training"),
    "paper": (
        "settings",
        "runs",
        "datasets",
        "training",
        "plots",
        "analysis",
        "workflow",
        "colocalisation",
    ),
    "train": ("settings", "runs", "workflow"),
    "apply": ("settings", "runs", "datasets", "analysis"),
    "export": ("settings", "runs", "analysis"),
    "figures": ("settings", "analysis"),
    "gallery": ("settings",),
    "report": ("settings", "runs", "paper"),
}
# The units with modules for Flax. The other units do not import it.
FLAX = ("stn_jax.linen", "stn_jax.nnx")
MAX_UNITS, MAX_LEVELS = 18, 8
# Units that start without JAX, so that `--help` and wrong flags answer at once.
WITHOUT_JAX = ("settings", "plots", "datasets", "sweep")
# Modules that print: commands, and the modules that commands delegate their output to.
PRINTING = (
    "apply",
    "export",
    "figures",
    "report",
    "train",
    "paper",
    "sweep",
    "benchmark",
    "workflow",
    "settings.errors",
    "runs.progress",
    "training.sharding",
)


@functools.cache
def modules() -> dict[str, pathlib.Path]:
    """Every module of the project and its file."""
    found = {}
    for package in ("stn_jax", "experiments"):
        for path in (ROOT / package).rglob("*.py"):
            parts = path.relative_to(ROOT).with_suffix("").parts
            found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return found


@functools.cache
def tree(name: str) -> ast.Module:
    return ast.parse(modules()[name].read_text())


@functools.cache
def imports(name: str) -> frozenset[str]:
    """Everything that a module imports, at its top and inside functions."""
    found: set[str] = set()
    for node in ast.walk(tree(name)):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{name}: relative import"
            found.add(str(node.module))
            found |= {f"{node.module}.{alias.name}" for alias in node.names}
    return frozenset(found)


def within(name: str, package: str) -> bool:
    return name == package or name.startswith(package + ".")


def unit(name: str) -> str:
    """The unit of a module: a top-level file or folder of its package."""
    return ".".join(name.split(".")[:2])


def edges() -> dict[str, set[str]]:
    """The units that each unit imports."""
    known, found = modules(), collections.defaultdict(set)
    for name in known:
        for imported in imports(name) & set(known):
            if unit(imported) != unit(name) and "." in imported and "." in name:
                found[unit(name)].add(unit(imported))
    return found


def levels(package: str) -> dict[str, int]:
    """The level of each unit: 1 for a unit that imports no other unit of its package."""
    imported = edges()

    @functools.cache
    def level(name: str) -> int:
        below = [level(other) for other in imported[name] if within(other, package)]
        return 1 + max(below, default=0)

    units = {unit(name) for name in modules() if "." in name and within(name, package)}
    return {name: level(name) for name in units}


def allowed(name: str) -> tuple[str, ...]:
    """What a module may import."""
    if within(name, "stn_jax"):
        home = max((key for key in LIBRARY if within(name, key)), key=len)
        return (home, *LIBRARY[home])
    own = name.split(".")[1]
    return tuple(f"experiments.{each}" for each in (own, *EXPERIMENTS[own]))


@pytest.mark.parametrize("name", sorted(modules()))
def test_imports_go_down_only(name: str) -> None:
    if name in ("stn_jax", "experiments"):
        return  # `stn_jax` exports everything
    for imported in imports(name) & set(modules()):
        if imported in ("stn_jax", "experiments") or (
            within(imported, "stn_jax") and within(name, "experiments")
        ):
            continue
        assert any(within(imported, each) for each in allowed(name)), f"{name} imports {imported}"


def test_the_table_of_imports_has_no_cycle() -> None:
    """Each unit imports only units above it in the table."""
    for table in (LIBRARY, EXPERIMENTS):
        seen: set[str] = set()
        for name, below in table.items():
            assert set(below) <= seen, f"{name} may import {set(below) - seen}"
            seen.add(name)


def test_there_are_few_units_and_levels() -> None:
    found = levels("experiments")
    assert len(found) <= MAX_UNITS
    assert max(found.values()) <= MAX_LEVELS


def within_experiments(path: pathlib.Path) -> bool:
    return path.is_relative_to(ROOT / "experiments")


@pytest.mark.parametrize("name", sorted(modules()))
def test_only_linen_and_nnx_import_flax_and_the_core_is_pure(name: str) -> None:
    roots = {imported.split(".")[0] for imported in imports(name)}
    if name.startswith("stn_jax"):
        assert roots.isdisjoint({"os", "pathlib", "time", "random", "logging", "argparse", "tyro"})
        if not any(within(name, each) for each in FLAX):
            assert "flax" not in roots
    if any(within(name, f"experiments.{each}") for each in WITHOUT_JAX):
        top = {node for node in tree(name).body if isinstance(node, ast.Import | ast.ImportFrom)}
        names = {alias.name for node in top for alias in node.names}
        names |= {str(node.module) for node in top if isinstance(node, ast.ImportFrom)}
        assert {each.split(".")[0] for each in names}.isdisjoint({"jax", "flax", "stn_jax"})


@pytest.mark.parametrize("name", sorted(modules()))
def test_only_commands_print(name: str) -> None:
    calls = [node for node in ast.walk(tree(name)) if isinstance(node, ast.Call)]
    prints = any(ast.unparse(call.func) == "print" for call in calls)
    assert not prints or any(within(name, f"experiments.{each}") for each in PRINTING)


def test_names_have_one_meaning() -> None:
    """No two public classes share a name, and no two files.

    The modules for linen and NNX have the same names.
    """
    assert set(stn_jax.nnx.__all__) == set(stn_jax.linen.__all__)
    classes: list[str] = []
    for name in modules():
        if within(name, "stn_jax.nnx"):
            continue
        classes += [
            node.name
            for node in tree(name).body
            if isinstance(node, ast.ClassDef) and not node.name.startswith("_")
        ]
    repeated = [name for name, count in collections.Counter(classes).items() if count > 1]
    assert repeated == []
    files = [path.name for path in modules().values() if within_experiments(path)]
    repeated = [name for name, count in collections.Counter(files).items() if count > 1]
    assert set(repeated) <= {"__init__.py", "__main__.py"} | SHARED_FILE_NAMES


# Files that have the same meaning in two units: the table `gtsrb` of the paper is of the data set,
# and `train.py` is a command and its counterpart in the co-localisation.
SHARED_FILE_NAMES = {"train.py", "options.py", "colocalisation.py"}


def test_no_file_is_long() -> None:
    for name, path in modules().items():
        lines = len(path.read_text().splitlines())
        assert lines <= 400, f"{name} has {lines} lines"


def function_lengths() -> list[int]:
    """The number of lines of each function of `experiments`, without its docstring."""
    found = []
    for name in modules():
        if not within(name, "experiments"):
            continue
        for node in ast.walk(tree(name)):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                first = node.body[0]
                doc = ast.get_docstring(node) is not None
                skipped = (first.end_lineno or 0) - first.lineno + 1 if doc else 0
                found.append((node.end_lineno or 0) - node.lineno + 1 - skipped)
    return found


def test_most_functions_are_short() -> None:
    lengths = sorted(function_lengths())
    assert lengths[int(0.9 * len(lengths))] <= 20


@pytest.mark.parametrize("name", sorted(modules()))
def test_no_pickle_is_loaded(name: str) -> None:
    roots = {imported.split(".")[0] for imported in imports(name)}
    assert roots.isdisjoint({"pickle", "marshal", "shelve", "dill", "cloudpickle", "joblib"})
    for call in ast.walk(tree(name)):
        if isinstance(call, ast.Call) and ast.unparse(call.func) in ("np.load", "numpy.load"):
            assert "allow_pickle=False" in ast.unparse(call)


def run_python(code: str) -> str:
    result = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, check=True
    )
    return result.stdout


def test_the_package_imports_without_the_extras() -> None:
    extras = "tensorflow tensorflow_datasets matplotlib tyro tensorboardX sklearn beartype onnx"
    code = (
        f"import sys\nfor name in {extras.split()}: sys.modules[name] = None\n"
        "import stn_jax\n"
        "print(stn_jax.nnx.CNN.__name__, stn_jax.training.fit.__name__, stn_jax.distortions)"
    )
    assert run_python(code).startswith("CNN fit <module")


def test_imports_do_not_start_jax() -> None:
    """Virtual devices can be set, and processes joined, after the imports."""
    code = (
        "import stn_jax, experiments.workflow.training_run, experiments.training.population\n"
        "import jax\njax.config.update('jax_num_cpu_devices', 3)\nprint(jax.device_count('cpu'))"
    )
    assert run_python(code).strip() == "3"


def test_importing_experiments_needs_no_jax() -> None:
    code = "import sys, experiments\nprint(experiments.load.__name__, 'jax' in sys.modules)"
    assert run_python(code).strip() == "load False"


@pytest.mark.parametrize(
    "command", ["train", "apply", "export", "paper.__main__", "report", "sweep.__main__"]
)
def test_help_needs_no_jax(command: str) -> None:
    code = (
        f"import importlib, sys\nmodule = importlib.import_module('experiments.{command}')\n"
        "try: module.main(['--help'])\n"
        "except SystemExit: pass\n"
        "print('jax' in sys.modules, 'tensorflow_datasets' in sys.modules)"
    )
    assert run_python(code).strip().endswith("False False")


def main() -> None:
    """Prints the units of `experiments` by level, and the number of import edges."""
    by_level = collections.defaultdict(list)
    for name, level in levels("experiments").items():
        by_level[level].append(name.removeprefix("experiments."))
    for level in sorted(by_level, reverse=True):
        print(f"level {level}: {', '.join(sorted(by_level[level]))}")
    found = {name: below for name, below in edges().items() if within(name, "experiments")}
    inside = sum(within(other, "experiments") for below in found.values() for other in below)
    files = [path for path in modules().values() if within_experiments(path)]
    lines = sum(len(path.read_text().splitlines()) for path in files)
    lengths = function_lengths()
    print(f"{sum(map(len, by_level.values()))} units, {len(by_level)} levels, {inside} edges")
    print(f"{len(files)} files, {lines:,} lines; {len(lengths)} functions, ", end="")
    print(f"{sum(each <= 20 for each in lengths) / len(lengths):.0%} of at most 20 lines")


if __name__ == "__main__":
    main()
