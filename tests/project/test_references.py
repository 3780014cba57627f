"""What the project's files say about the project is there: modules, files and commands that pages, cards, manifests
and docstrings name.

A command that was published stays, even where its module has moved: `fixtures/published_names.json` has those of
cards, pages and recorded evidence.
"""

from __future__ import annotations

import ast
import importlib
import json
import re
import subprocess
import sys
from collections.abc import Callable
from functools import cache
from importlib.util import find_spec
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PUBLISHED = json.loads((ROOT / "tests" / "fixtures" / "published_names.json").read_text())
PACKAGES = ("protos", "reward_models", "services", "trainer_client", "cli")

_TEXT = {".md", ".py", ".yaml", ".yml", ".json", ".toml", ".sh", ".mk", ".html", ".proto"}
_NAME = re.compile(rf"(?<![\w./-])((?:sync_r1\.(?:{'|'.join(PACKAGES)})|benchmarks)(?:\.[A-Za-z_]\w*)+)")
_PATH = re.compile(rf"(?<![\w./-])((?:\.\./)*(?:{'|'.join(PACKAGES)}|docs|tests|benchmarks|k8s)/[\w./*-]*[\w/*])")
_FILE = re.compile(r"`([\w-]+\.(?:py|md))`")
_LINK = re.compile(r"\]\((?!\w+:)([^)#\s]+)")

_ELSEWHERE = {
    "callers.py": "the reader of docs/fault-drills.md writes it",
    "efficientnet_lite_builder.py": "of the package efficientnet-lite-pytorch",
    "grpo.py": "of the released T2I-R1",
    "make_net.py": "in a package that `sync-r1 new-reward` writes, and on the page of own rewards",
    "model.py": "a file that Triton's Python backend wants in a repository",
    "utils.py": "of DINO's repository, and of the released T2I-R1",
}
"""Files that are named and not part of this project."""
_EXAMPLES = {"benchmarks.sample", "benchmarks/sample.py"}
"""Names that tests make up."""


@cache
def tracked() -> tuple[Path, ...]:
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True)
    if listed.returncode:
        pytest.skip("only a git checkout knows which files are the project's")
    return tuple(Path(name) for name in listed.stdout.split("\0") if name and (ROOT / name).exists())


@cache
def texts() -> list[tuple[Path, str]]:
    """Files that people read or tools interpret, without those that are data or generated."""
    files = [
        file
        for file in tracked()
        if (file.suffix in _TEXT or file.name.startswith(("Containerfile", "Makefile")))
        and "fixtures" not in file.parts
        and "_pb2" not in file.name
        and file != Path(__file__).relative_to(ROOT)
    ]
    return [(file, (ROOT / file).read_text(encoding="utf-8")) for file in files]


def wrong(pattern: re.Pattern[str], there: Callable[[Path, str], bool], only: str = "") -> list[str]:
    """A line "file: what it names" for everything that `pattern` finds and that is not `there`."""
    read = [(file, text) for file, text in texts() if only in ("", file.suffix)]
    found = {(file, name) for file, text in read for name in pattern.findall(text)}
    return sorted(f"{file}: {name}" for file, name in found if name not in _EXAMPLES and not there(file, name))


@cache
def resolves(name: str) -> bool:
    """Whether the dotted `name` is a module, or something that a module has. Imports packages only, which is quick."""
    parts, origin = name.split("."), None
    for end in range(1, len(parts) + 1):
        spec = find_spec(".".join(parts[:end]))
        if spec is None:
            return end > 2 and origin is not None and parts[end - 1] in names_in(Path(origin))
        origin = spec.origin
        if spec.submodule_search_locations is None:
            return end == len(parts) or (origin is not None and parts[end] in names_in(Path(origin)))
    return True


@cache
def names_in(module: Path) -> set[str]:
    """What a module defines, and what it says as a string: names that are imported on first use stand in a table."""
    names: set[str] = set()
    for node in ast.walk(ast.parse(module.read_text(encoding="utf-8"))):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            names.add(node.name)
        elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            names.add(node.id)
        elif isinstance(node, ast.alias):
            names.add((node.asname or node.name).partition(".")[0])
        elif isinstance(node, ast.Constant) and isinstance(node.value, str):
            names.add(node.value)
    return names


def placeholder(path: str) -> bool:
    """Whether some part of it is to be filled in: `k8s/FOLDER`."""
    return any(part.isalpha() and part.isupper() for part in path.split("/"))


def exists(file: Path, path: str) -> bool:
    """Seen from the project's root, from `tests` or from the file's own folder; `*` stands for anything."""
    if placeholder(path):
        return True
    folders = (ROOT, ROOT / "tests", ROOT / file.parent)
    return any(any(folder.glob(path)) if "*" in path else (folder / path).exists() for folder in folders)


def test_every_module_that_is_named_is_there(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(ROOT))  # benchmarks are no part of the installed package
    assert wrong(_NAME, lambda file, name: resolves(name)) == []


def test_every_path_that_is_named_is_there() -> None:
    assert wrong(_PATH, exists) == []


def test_every_file_that_is_named_without_its_folder_is_there() -> None:
    names = {file.name for file in tracked()} | set(_ELSEWHERE)
    assert wrong(_FILE, lambda file, name: name in names) == []


def test_every_link_of_a_page_leads_somewhere() -> None:
    assert wrong(_LINK, lambda file, target: (ROOT / file.parent / target).exists(), only=".md") == []


def test_what_is_named_is_looked_for_at_all() -> None:
    """Each search sees what was moved away: it would find nothing wrong if it found nothing."""
    assert _NAME.findall("`python -m sync_r1.services.gone` and benchmarks.gone") == [
        "sync_r1.services.gone", "benchmarks.gone",
    ]  # fmt: skip
    assert not resolves("sync_r1.services.gone")
    assert not resolves("sync_r1.services.gone.further")
    assert not resolves("sync_r1.services.serve.gone")
    assert resolves("sync_r1.services.serve.serve")
    assert _PATH.findall("COPY services/gone.py ../docs/gone.md x/services/a.py") == [
        "services/gone.py",
        "../docs/gone.md",
    ]
    assert not exists(Path("docs/page.md"), "services/gone.py")
    assert not exists(Path("docs/page.md"), "tests/gone_*")
    assert exists(Path("docs/page.md"), "../benchmarks/RESULTS.md")
    assert _FILE.findall("see `gone.py`, `page.md`") == ["gone.py", "page.md"]
    assert _LINK.findall("[a](gone.md#part) [b](https://x.y/z) [c](#part)") == ["gone.md"]


# Published commands --------------------------------------------------------------------------------------------------


def test_every_published_command_of_today_is_in_the_list() -> None:
    named = {
        name
        for file, text in texts()
        if file.parts[0] != "tests"
        for name in re.findall(r"-m (sync_r1(?:\.\w+)+)", text)
    }
    assert named <= set(PUBLISHED["python -m"]), "a new command is published: add it, and it stays"


@pytest.mark.parametrize("name", PUBLISHED["python -m"])
def test_every_published_command_is_a_module_that_runs(name: str) -> None:
    spec = find_spec(name)
    assert spec is not None, f"{name} is published; keep a module of that name that runs what it ran"
    if spec.submodule_search_locations is not None:
        spec = find_spec(f"{name}.__main__")
        assert spec is not None, f"{name} is a package now; give it a __main__"
    else:
        assert spec.origin is not None
        assert 'if __name__ == "__main__":' in Path(spec.origin).read_text()


@pytest.mark.parametrize("name", PUBLISHED["objects"])
def test_every_published_object_is_where_it_was(name: str) -> None:
    assert resolves(name.replace(":", "."))


def helped(name: str) -> None:
    told = subprocess.run([sys.executable, "-m", name, "--help"], capture_output=True, text=True, timeout=240)
    assert told.returncode == 0, told.stderr
    assert "usage" in told.stdout.lower()


def test_the_command_line_says_how_it_is_used() -> None:
    helped("sync_r1.cli.main")


@pytest.mark.slow
@pytest.mark.parametrize("name", [name for name in PUBLISHED["python -m"] if name != "sync_r1.cli.main"])
def test_every_published_command_says_how_it_is_used(name: str) -> None:
    helped(name)


def test_a_recorded_command_names_a_function_that_is_there() -> None:
    """`validity.json` of the pocket rewards was made with this function; it must be found by its name again."""
    recorded = (ROOT / "reward_models" / "pocket" / "artefacts" / "validity.json").read_text()
    (named,) = set(re.findall(r"sync_r1\.[\w.]+:\w+", recorded))
    module, _, function = named.partition(":")
    assert hasattr(importlib.import_module(module), function)
