"""The wheel and the source distribution hold the library, and run the README's first example."""

import pathlib
import re
import subprocess
import tarfile
import venv
import zipfile

import pytest

ROOT = pathlib.Path(__file__).parent.parent
README = (ROOT / "README.md").read_text()


def run(*command: object, folder: pathlib.Path) -> str:
    words = [str(word) for word in command]
    result = subprocess.run(words, cwd=folder, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr[-2000:]
    return result.stdout


@pytest.fixture(scope="module")
def python(tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
    """The interpreter of a clean environment, which sees only the library's dependencies."""
    folder = tmp_path_factory.mktemp("clean")
    venv.create(folder, with_pip=True)
    return folder / "bin" / "python"


@pytest.fixture(scope="module")
def built(python: pathlib.Path, tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
    """The folder with both distributions. The wheel is built from the source distribution."""
    folder = tmp_path_factory.mktemp("dist")
    quiet = ("-m", "pip", "--disable-pip-version-check", "install", "--quiet")
    constraints = ("--constraint", ROOT / "constraints.txt")
    run(python, *quiet, *constraints, "hatchling", folder=folder)
    run(python, "-m", "hatchling", "build", "-t", "sdist", "-d", folder, folder=ROOT)
    (sdist,) = folder.glob("*.tar.gz")
    with tarfile.open(sdist) as archive:
        archive.extractall(folder, filter="data")
    (source,) = (path for path in folder.iterdir() if path.is_dir())
    run(python, "-m", "hatchling", "build", "-t", "wheel", "-d", folder, folder=source)
    (wheel,) = folder.glob("*.whl")
    run(python, *quiet, *constraints, wheel, folder=folder)
    return folder


@pytest.mark.slow
def test_wheel_holds_the_library_and_its_licence(built: pathlib.Path) -> None:
    (wheel,) = built.glob("*.whl")
    names = zipfile.ZipFile(wheel).namelist()
    modules = {str(path.relative_to(ROOT)) for path in (ROOT / "stn_jax").rglob("*.py")}
    assert modules <= set(names)
    assert {name.split("/")[0] for name in names if ".dist-info" not in name} == {"stn_jax"}
    assert "stn_jax/py.typed" in names
    assert any(name.endswith("licenses/LICENSE") for name in names)


@pytest.mark.slow
def test_first_example_of_the_readme_runs_on_the_installed_wheel(
    built: pathlib.Path, python: pathlib.Path, tmp_path: pathlib.Path
) -> None:
    example = re.findall(r"^```python\n(.*?)^```$", README, re.MULTILINE | re.DOTALL)[0]
    check = "print(rotated.shape, gradient.shape, stn_jax.__file__)\n"
    (tmp_path / "example.py").write_text(example + check)
    shown = run(python, "-I", tmp_path / "example.py", folder=tmp_path)
    assert shown.startswith("(8, 28, 28, 1) (1,) ")
    assert str(python.parent.parent) in shown
