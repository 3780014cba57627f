"""Every module, command and file of ours that pages, YAML, JSON, Containerfiles and manifests name exists."""

from __future__ import annotations

import importlib
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
SUFFIXES = {".md", ".yaml", ".yml", ".json", ".toml", ".sh", ".mk", ".Containerfile", ".proto"}
NAMES = {"Makefile", ".dockerignore", "run"}
PACKAGES = ("protos", "reward_models", "services", "trainer_client", "cli")
FOLDERS = (*PACKAGES, "benchmarks", "tests", "docs", "k8s")
MODULE = re.compile(r"(?<![\w./-])sync_r1((?:\.[a-z][a-z0-9_]*)+)")
BENCHMARK = re.compile(r"(?<![\w./-])benchmarks((?:\.[a-z][a-z0-9_]*)+)(?!\.?\w|/)")
COMMAND = re.compile(r"-m ((?:sync_r1|benchmarks)(?:\.[a-z][a-z0-9_]*)*)")
ENDINGS = "py|md|json|yaml|yml|html|css|sh|npz|proto"
FILE = re.compile(rf"(?<![\w./$-])((?:{'|'.join(FOLDERS)})/[\w./-]*\w\.(?:{ENDINGS}))(?![\w/])")
NO_MODULES = {
    "sync_r1.rewards.v1": "the proto's package",
    **{f"sync_r1.{span}": "a span of OpenTelemetry" for span in ("ensemble", "reward", "attempt")},
}


def pages() -> list[Path]:
    """Tracked text files that are not Python."""
    done = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        pytest.skip("not a git checkout")
    files = [ROOT / name for name in done.stdout.splitlines()]
    return [file for file in files if file.is_file() and (file.suffix in SUFFIXES or file.name in NAMES)]


def python_files() -> list[Path]:
    done = subprocess.run(["git", "ls-files", "*.py"], cwd=ROOT, capture_output=True, text=True, check=True)
    return [ROOT / name for name in done.stdout.splitlines() if (ROOT / name).is_file()]


def place(dotted: str) -> Path:
    """Below the checkout, without a suffix."""
    return ROOT.joinpath(*dotted.removeprefix("sync_r1.").split("."))


def is_module(dotted: str) -> bool:
    return dotted == "sync_r1" or place(dotted).is_dir() or place(dotted).with_suffix(".py").is_file()


def resolves(dotted: str) -> bool:
    """Is it a module, or a name that a module's text has?"""
    if is_module(dotted):
        return True
    parent, _, name = dotted.rpartition(".")
    if not parent or "." not in parent:
        return False
    file = place(parent).with_suffix(".py")
    file = file if file.is_file() else place(parent) / "__init__.py"
    return file.is_file() and re.search(rf"\b{re.escape(name)}\b", file.read_text()) is not None


def runs(dotted: str) -> bool:
    """Can `python -m` run it?"""
    file = place(dotted).with_suffix(".py")
    return (place(dotted) / "__main__.py").is_file() or (file.is_file() and "__main__" in file.read_text())


def unknown(text: str) -> list[str]:
    """What `text` names and is not there."""
    modules = [f"sync_r1{match}" for match in MODULE.findall(text)]
    modules = [name for name in modules if name not in NO_MODULES]
    found = [name for name in modules if not resolves(name)]
    found += [f"benchmarks{match}" for match in BENCHMARK.findall(text) if not resolves(f"benchmarks{match}")]
    return found + [name for name in FILE.findall(text) if not (ROOT / name).is_file()]


def test_a_name_that_is_not_there_is_found() -> None:
    assert unknown("`python -m sync_r1.reward_models.validity` and reward_models/types.py, sync_r1.rewards.v1") == []
    assert unknown("sync_r1.services.gate") == ["sync_r1.services.gate"]
    assert unknown("see `services/gate.py`, benchmarks.arms") == ["benchmarks.arms", "services/gate.py"]
    assert not runs("sync_r1.services.server")


def test_pages_and_manifests_name_what_is_there() -> None:
    lost = {str(file.relative_to(ROOT)): names for file in pages() if (names := unknown(file.read_text()))}
    assert not lost


def test_docstrings_and_comments_name_what_is_there() -> None:
    """`folder/file.py`, from the checkout's root."""
    lost = {}
    for file in python_files():
        named = re.findall(r"`((?:" + "|".join(FOLDERS) + r")/[\w./-]*\w\.py)`", file.read_text())
        if file != Path(__file__) and (missing := [name for name in named if not (ROOT / name).is_file()]):
            lost[str(file.relative_to(ROOT))] = missing
    assert not lost


def test_every_published_command_runs() -> None:
    """What a page, a card or a message says after `python -m` has a `__main__`."""
    named = {name for file in [*pages(), *python_files()] for name in COMMAND.findall(file.read_text())}
    assert {"sync_r1.reward_models.validity", "sync_r1.trainer_client.policies.cold_start"} <= named
    assert not {name for name in named if is_module(name) and not runs(name) and name != "sync_r1"}
    assert not {name for name in named if not is_module(name)} - {"benchmarks.sample"}


@pytest.mark.parametrize(
    "name",
    ["reward_models.validity", "reward_models.validity_library", "reward_models.export", "reward_models.pocket.train"],
)
def test_a_published_command_answers_help(name: str) -> None:
    command = [sys.executable, "-m", f"sync_r1.{name}", "--help"]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=120)
    assert (done.returncode, done.stderr) == (0, "")
    assert "usage" in done.stdout


def test_a_recorded_command_names_a_function_that_is_there() -> None:
    """`validity.json` of the pocket rewards was made with this function; it must be found by its name again."""
    recorded = (ROOT / "reward_models" / "pocket" / "artefacts" / "validity.json").read_text()
    (named,) = set(re.findall(r"sync_r1\.[\w.]+:\w+", recorded))
    module, _, function = named.partition(":")
    assert hasattr(importlib.import_module(module), function)
