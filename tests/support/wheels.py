"""The project's wheel, and what is installed of other distributions."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PACKAGES = ("protos", "reward_models", "services", "trainer_client", "cli")


def tracked_files() -> set[str]:
    """The files of the packages that git knows, as the wheel names them."""
    done = subprocess.run(["git", "ls-files", *PACKAGES], cwd=ROOT, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        pytest.skip("not a git checkout")
    return {f"sync_r1/{file}" for file in done.stdout.splitlines() if (ROOT / file).is_file()}


def build_wheel(files: Iterable[str], source: Path, out: Path) -> Path:
    """The wheel of these files (as it names them) alone, as from a fresh clone; `source` and `out` are empty."""
    for file in [*sorted(files), "sync_r1/pyproject.toml", "sync_r1/README.md", "sync_r1/LICENSE"]:
        place = source / file.removeprefix("sync_r1/")
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_bytes((ROOT / file.removeprefix("sync_r1/")).read_bytes())
    script = "import sys; from setuptools import build_meta; build_meta.build_wheel(sys.argv[1])"
    subprocess.run([sys.executable, "-c", script, str(out)], cwd=source, capture_output=True, check=True, timeout=240)
    (found,) = out.glob("*.whl")
    return found
