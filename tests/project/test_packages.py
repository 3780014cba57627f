"""What is installed is what is tracked: no file of a package is forgotten, and every module imports from the wheel."""

from __future__ import annotations

import json
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
from wheels import ROOT, build_wheel, tracked_files

NOT_IMPORTED = {"sync_r1.reward_models.backends.triton_model"}
"""Runs inside Triton only, which gives it `triton_python_backend_utils`."""
IMPORT_ALL = """
import importlib, json, sys
folder, names = sys.argv[1], json.loads(sys.argv[2])
sys.path.insert(0, folder)
for name in names:
    module = importlib.import_module(name)
    assert module.__file__.startswith(folder), f"{name} comes from {module.__file__}"
"""


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Built from the tracked files alone, as from a fresh clone."""
    return build_wheel(tracked_files(), tmp_path_factory.mktemp("source"), tmp_path_factory.mktemp("wheel"))


def test_the_wheel_holds_the_tracked_files_of_the_packages_and_nothing_else(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        held = {name for name in archive.namelist() if ".dist-info/" not in name}
    assert held == tracked_files()


def test_every_module_imports_from_the_installed_wheel(wheel: Path, tmp_path: Path) -> None:
    """Outside the checkout, in a process that cannot see it (`-I`: neither the working folder nor `PYTHONPATH`)."""
    target = tmp_path / "installed"
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(target)
        files = [name for name in archive.namelist() if name.endswith(".py") and ".dist-info/" not in name]
    names = {file.removesuffix(".py").removesuffix("/__init__").replace("/", ".") for file in files}
    names = {name for name in names - NOT_IMPORTED if not name.endswith(("__main__", "protos.generate"))}
    assert len(names) > 200
    command = [sys.executable, "-I", "-c", IMPORT_ALL, str(target), json.dumps(sorted(names))]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False, timeout=280)
    assert done.returncode == 0, done.stderr[-3000:]


def test_every_data_file_of_the_wheel_before_the_moves_is_still_in_the_wheel(wheel: Path) -> None:
    """Data files moved with their readers; their names stayed."""
    before = [Path(name) for name in (ROOT / "tests/fixtures/wheel_before_moves.txt").read_text().split()]
    data = {path.name for path in before if path.suffix != ".py"}
    assert "report.html" in data
    with zipfile.ZipFile(wheel) as archive:
        assert data <= {Path(name).name for name in archive.namelist()}
