"""What is installed is what is in the tree."""

import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path

import pytest

import stt2v

ROOT = Path(__file__).resolve().parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
ROOMS = ("engine", "export", "kernels", "bench")


def packages_in_tree() -> set[str]:
    folders = {path.parent.relative_to(ROOT) for room in ROOMS for path in (ROOT / room).rglob("*.py")}
    return {"stt2v", *(".".join(("stt2v", *folder.parts)) for folder in folders)}


def data_in_tree() -> set[str]:
    """Files that the package reads: engine sets, kernel sources, the marker of typed packages."""
    listed = {
        path
        for package, patterns in PROJECT["tool"]["setuptools"]["package-data"].items()
        for pattern in patterns
        for path in ROOT.joinpath(*package.split(".")[1:]).glob(pattern)
        if path.is_file()
    }
    return {f"stt2v/{path.relative_to(ROOT)}" for path in listed}


def test_every_package_is_listed() -> None:
    listed = PROJECT["tool"]["setuptools"]["packages"]
    assert set(listed) == packages_in_tree()
    assert len(listed) == len(set(listed))


def test_every_folder_with_code_is_a_package() -> None:
    for package in packages_in_tree():
        assert ROOT.joinpath(*package.split(".")[1:], "__init__.py").is_file(), package


def test_no_other_python_file_at_the_root() -> None:
    assert {path.name for path in ROOT.glob("*.py")} == {"__init__.py", "cli.py"}


def test_engine_sets_are_package_data() -> None:
    sets = ROOT / "engine" / "sets"
    missing = {f"stt2v/{p.relative_to(ROOT)}" for p in sets.rglob("*") if p.is_file()} - data_in_tree()
    assert not missing, "a wheel would lack them; name them in [tool.setuptools.package-data]"


def test_base_dependencies_have_no_torch() -> None:
    names = {requirement.split(">")[0].strip() for requirement in PROJECT["project"]["dependencies"]}
    assert names == {"numpy", "av", "typer", "rich", "tokenizers", "safetensors", "pillow"}


def test_installed_script_runs(tmp_path: Path) -> None:
    script = Path(sys.executable).with_name("stt2v")
    done = subprocess.run([script, "--version"], cwd=tmp_path, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == f"stt2v {stt2v.__version__}"


@pytest.mark.slow
def test_wheel_holds_the_tree(tmp_path: Path) -> None:
    pytest.importorskip("build")
    # By way of a source archive: built in the tree, setuptools would leave its files for the next wheel to take in.
    subprocess.run([sys.executable, "-m", "build", "--outdir", tmp_path, ROOT], check=True)
    (wheel,) = tmp_path.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        files = {name for name in archive.namelist() if not name.split("/")[0].endswith(".dist-info")}
    code = {
        f"stt2v/{path.relative_to(ROOT)}"
        for path in (ROOT / "__init__.py", ROOT / "cli.py", *(p for room in ROOMS for p in (ROOT / room).rglob("*.py")))
    }
    assert files == code | data_in_tree()
