"""Imports run one way, and each package knows only what it should."""

import ast
import pathlib
import subprocess
import sys

import pytest

ROOT = pathlib.Path(__file__).parent.parent

# Module (or package) -> what of the project it may import besides itself.
LEAVES = ("stn_jax._types", "stn_jax._checks")
ALLOWED = {
    "stn_jax._types": (),
    "stn_jax._checks": (),
    "stn_jax.coordinates": LEAVES,
    "stn_jax.transforms": LEAVES,
    "stn_jax.sampling": (*LEAVES, "stn_jax.coordinates"),
    "stn_jax.warping": (*LEAVES, "stn_jax.coordinates", "stn_jax.sampling", "stn_jax.transforms"),
    "stn_jax.poses": (*LEAVES, "stn_jax.transforms", "stn_jax.warping"),
    "stn_jax.extrusion": (*LEAVES, "stn_jax.sampling", "stn_jax.transforms", "stn_jax.warping"),
    "stn_jax.distortions": (
        *LEAVES,
        "stn_jax.transforms",
        "stn_jax.warping",
        "stn_jax.poses",
        "stn_jax.extrusion",
    ),
    "stn_jax.contrast": LEAVES,
    "stn_jax.colocalisation": (*LEAVES, "stn_jax.coordinates", "stn_jax.transforms"),
    "stn_jax.nn": (*LEAVES, "stn_jax.transforms", "stn_jax.warping"),
    "stn_jax.training": ("stn_jax._types",),
    "stn_jax.population": (*LEAVES, "stn_jax.training"),
    "experiments": ("stn_jax",),
    "experiments.config": (),
    "experiments.presets": ("experiments.config",),
    "experiments.command_line": ("experiments.config", "experiments.presets"),
    "experiments.members": ("experiments.config",),
    "experiments.datasets": (),
    "experiments.figures": (),
}


def modules() -> dict[str, pathlib.Path]:
    found = {}
    for package in ("stn_jax", "experiments"):
        for path in (ROOT / package).rglob("*.py"):
            parts = path.relative_to(ROOT).with_suffix("").parts
            found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return found


def imports(path: pathlib.Path) -> set[str]:
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            found.add(node.module)
            found |= {f"{node.module}.{alias.name}" for alias in node.names}
    return found


def within(name: str, package: str) -> bool:
    return name == package or name.startswith(package + ".")


@pytest.mark.parametrize("name", sorted(modules()))
def test_imports_run_one_way(name: str) -> None:
    if name == "stn_jax":
        return  # re-exports everything
    home = max((key for key in ALLOWED if within(name, key)), key=len)
    known = modules()
    for imported in imports(known[name]) & set(known):
        if imported in ("stn_jax", "experiments") and name.startswith("experiments"):
            continue
        allowed = (home, *ALLOWED[home])
        assert any(within(imported, package) for package in allowed), f"{name} imports {imported}"


@pytest.mark.parametrize("name", sorted(modules()))
def test_only_nn_imports_flax_and_the_core_is_pure(name: str) -> None:
    roots = {imported.split(".")[0] for imported in imports(modules()[name])}
    if name.startswith("stn_jax"):
        assert roots.isdisjoint({"os", "pathlib", "time", "random", "logging", "argparse", "tyro"})
        if not within(name, "stn_jax.nn"):
            assert "flax" not in roots
    no_jax = ("config", "presets", "command_line", "figures", "datasets", "sweeps")
    no_jax += ("tables.cells", "tables.results", "tables.folders")
    if any(within(name, f"experiments.{each}") for each in no_jax):
        assert roots.isdisjoint({"jax", "flax", "stn_jax"})


@pytest.mark.parametrize("name", sorted(modules()))
def test_no_pickle_is_loaded(name: str) -> None:
    path = modules()[name]
    roots = {imported.split(".")[0] for imported in imports(path)}
    assert roots.isdisjoint({"pickle", "marshal", "shelve", "dill", "cloudpickle", "joblib"})
    for call in ast.walk(ast.parse(path.read_text())):
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
        "print(stn_jax.nn.CNN.__name__, stn_jax.training.fit.__name__, stn_jax.distortions.r)"
    )
    assert run_python(code).startswith("CNN fit <function r")


def test_imports_do_not_start_jax() -> None:
    """Devices can be set up, and processes joined, after the imports."""
    code = (
        "import stn_jax, experiments.experiment, experiments.population, experiments.gallery\n"
        "import jax\njax.config.update('jax_num_cpu_devices', 3)\nprint(jax.device_count('cpu'))"
    )
    assert run_python(code).strip() == "3"


def test_help_needs_no_jax() -> None:
    code = (
        "import sys\nfrom experiments import train\n"
        "try: train.main(['demo', '--help'])\n"
        "except SystemExit: pass\n"
        "print('jax' in sys.modules, 'tensorflow_datasets' in sys.modules)"
    )
    assert run_python(code).strip().endswith("False False")
