"""The source files of an own function: found and read once, without running any of them.

A module is looked for beside the profile first, then where Python finds it. What it imports from the same place, by
`import` statements, belongs to it: these texts are what the release's digest covers and what every worker runs, also
one that is started after a file was edited. A module of an installed distribution is covered by the distribution's
name, version and RECORD, which lists the digest of each of its files.
"""

from __future__ import annotations

import ast
import hashlib
import importlib.metadata
import importlib.util
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from sync_r1.reward_models.types import ProfileError


@dataclass(frozen=True)
class Source:
    """One module as it was read."""

    module: str
    file: str
    is_package: bool
    text: str
    sha256: str

    def parse(self) -> ast.Module:
        """Raises ProfileError for what is no Python."""
        try:
            return ast.parse(self.text, self.file)
        except SyntaxError as error:
            raise ProfileError(f"{self.file}, line {error.lineno}: {error.msg}") from None


@dataclass(frozen=True)
class Distribution:
    """An installed distribution, as pip recorded it."""

    name: str
    version: str
    record_sha256: str


@dataclass(frozen=True)
class Sources:
    """The modules of one function."""

    root: str
    """The folder that they were found in; their names are paths below it."""
    beside_profile: bool
    modules: dict[str, Source] = field(default_factory=dict)
    """By name. Empty folders of a namespace are none."""
    distribution: Distribution | None = None
    """Where it is installed; then the modules are those that were looked at only."""

    @property
    def covered(self) -> dict[str, Source]:
        """What workers run as it was read, and not as it lies there now."""
        return {} if self.distribution is not None else self.modules

    def facts(self) -> dict[str, object]:
        """What the release covers."""
        if (installed := self.distribution) is not None:
            return {"distribution": [installed.name, installed.version, installed.record_sha256]}
        return {"modules": {name: source.sha256 for name, source in self.modules.items()}}


def read_sources(module: str, folder: Path) -> Sources:
    """The sources of `module`, which may lie in `folder`, the profile's. Raises ProfileError."""
    top = module.partition(".")[0]
    if top in sys.stdlib_module_names:
        raise ProfileError(f"{top!r} is a module of Python's own; give yours another name")
    beside = _file(folder, top) is not None or (folder / top).is_dir()
    root = folder.resolve() if beside else _installed_root(top, folder)
    sources = Sources(str(root), beside)
    if _file(root, module) is None:
        raise ProfileError(f"there is no module {module!r}: neither {_path(root, module)}.py nor a package there")
    if not beside and (owner := _distribution(root, module)) is not None:
        sources = Sources(str(root), False, {}, owner)
    # Where packages are installed, what lies beside a module that none of them owns belongs to others.
    shared = not beside and any(root.glob("*.dist-info"))
    pending = [module]
    while pending:
        name = pending.pop()
        file = _file(root, name)
        if name in sources.modules or file is None or (shared and name.partition(".")[0] != top):
            continue
        source = _read(name, file)
        sources.modules[name] = source
        pending += [one for one in imported(source) if one.partition(".")[0] not in sys.stdlib_module_names]
    return sources


def imported(source: Source) -> Iterator[str]:
    """The names of all modules that its statements may mean, with the packages above them, and its own packages."""
    yield from _with_parents(source.module)
    for node in ast.walk(source.parse()):
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield from _with_parents(alias.name)
        elif isinstance(node, ast.ImportFrom) and (base := origin_of(source, node)):
            for alias in node.names:
                yield from _with_parents(f"{base}.{alias.name}")


def origin_of(source: Source, node: ast.ImportFrom) -> str:
    """The module that a `from … import` of `source` names; empty above its top."""
    if not node.level:
        return node.module or ""
    package = source.module.split(".")
    above = node.level - 1 if source.is_package else node.level
    package = package[: len(package) - above] if above <= len(package) else []
    return ".".join([*package, *([node.module] if node.module else [])])


def changed(installed: Distribution) -> str:
    """Why a distribution is not what it was, or nothing."""
    try:
        now = _described(importlib.metadata.distribution(installed.name))
    except importlib.metadata.PackageNotFoundError:
        return f"{installed.name} {installed.version} is not installed any more"
    if now != installed:
        return f"{installed.name} {installed.version} was exchanged (now {now.version}) while it was in use"
    return ""


def _with_parents(name: str) -> Iterator[str]:
    parts = name.split(".")
    for end in range(1, len(parts) + 1):
        yield ".".join(parts[:end])


def _path(root: Path, module: str) -> Path:
    return root.joinpath(*module.split("."))


def _file(root: Path, module: str) -> Path | None:
    path = _path(root, module)
    for file in (path / "__init__.py", path.with_name(f"{path.name}.py")):
        if file.is_file():
            return file
    return None


def _read(module: str, file: Path) -> Source:
    try:
        content = file.read_bytes()
        text = importlib.util.decode_source(content)
    except (OSError, SyntaxError, UnicodeDecodeError) as error:
        raise ProfileError(f"{file} cannot be read: {error}") from None
    return Source(module, str(file), file.name == "__init__.py", text, hashlib.sha256(content).hexdigest())


def _installed_root(top: str, folder: Path) -> Path:
    """The folder from which Python imports `top`. Nothing is imported to find it. Raises ProfileError."""
    try:
        spec = importlib.util.find_spec(top)
    except (ImportError, ValueError, AttributeError):
        spec = None
    if spec is None:
        raise ProfileError(
            f"there is no module {top!r}: it lies neither in {folder} nor where Python looks for modules"
        )
    if spec.submodule_search_locations is not None:
        places = [Path(place) for place in spec.submodule_search_locations]
    else:
        places = [Path(spec.origin)] if spec.origin and spec.origin.endswith(".py") else []
    if not places:
        raise ProfileError(f"{top!r} is no Python source ({spec.origin}); name a function of a module in Python")
    return places[0].resolve().parent


def _distribution(root: Path, module: str) -> Distribution | None:
    """The installed distribution whose RECORD lists the module's file."""
    file = _file(root, module)
    relative = file.relative_to(root).as_posix() if file is not None else ""
    for one in importlib.metadata.distributions(path=[str(root)]):
        if f"\n{relative}," in "\n" + (one.read_text("RECORD") or ""):
            return _described(one)
    return None


def _described(one: importlib.metadata.Distribution) -> Distribution:
    record = (one.read_text("RECORD") or "").encode()
    return Distribution(one.metadata["Name"], one.version, hashlib.sha256(record).hexdigest())
