"""Loads an own function in the process that will call it, from the texts that its release covers."""

from __future__ import annotations

import importlib
import importlib.abc
import importlib.machinery
import importlib.util
import sys
import traceback
from collections.abc import Callable, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

from sync_r1.reward_models.python_code.function import PythonFunction
from sync_r1.reward_models.python_code.sources import Source, Sources, changed
from sync_r1.reward_models.types import RewardError


class LoadError(RewardError):
    """The function cannot be had; the message says why, with the last line of its own exception and its place."""


class _CoveredLoader(importlib.abc.SourceLoader):
    """Loads one module from its text. It has no times, so that no bytecode of another text is ever taken for it."""

    def __init__(self, source: Source) -> None:
        self._source = source

    def get_filename(self, fullname: str) -> str:
        """Where the text was read."""
        return self._source.file

    def get_data(self, path: str | bytes) -> bytes:
        """The text; of any other file (data beside the module) what lies there."""
        return self._source.text.encode() if path == self._source.file else Path(str(path)).read_bytes()


class _CoveredFinder(importlib.abc.MetaPathFinder):
    """Finds the modules that the release covers, and refuses those that lie beside them without being covered."""

    def __init__(self, sources: Sources) -> None:
        self._sources = sources

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> importlib.machinery.ModuleSpec | None:
        """See `importlib.abc.MetaPathFinder`."""
        source = self._sources.covered.get(fullname)
        place = Path(self._sources.root).joinpath(*fullname.split("."))
        if source is not None:
            return importlib.util.spec_from_file_location(fullname, source.file, loader=_CoveredLoader(source))
        if not self._sources.beside_profile or fullname.partition(".")[0] in sys.stdlib_module_names:
            return None
        if place.with_name(f"{place.name}.py").is_file() or (place / "__init__.py").is_file():
            raise ImportError(
                f"{fullname} lies beside the profile, but no `import` statement of the function's modules names it, so "
                "the release does not cover it; import it by a statement"
            )
        if place.is_dir() and any(name.startswith(f"{fullname}.") for name in self._sources.covered):
            spec = importlib.machinery.ModuleSpec(fullname, None, is_package=True)
            spec.submodule_search_locations = [str(place)]
            return spec
        return None


def load(function: PythonFunction) -> Callable[..., Any]:
    """The function, or an instance of the class. Raises LoadError. Modules stay loaded in this process."""
    if (installed := function.sources.distribution) is not None and (why := changed(installed)):
        raise LoadError(f"{function.where}.function: {why}; start again")
    _check_not_loaded(function)
    if function.sources.covered:
        sys.meta_path.insert(0, _CoveredFinder(function.sources))
    try:
        found = getattr(importlib.import_module(function.module), function.name)
    except BaseException as error:  # also SystemExit and what else a module may raise
        raise LoadError(
            f"{function.where}.function: importing {function.module} failed: {described(error, function)}"
        ) from error
    if not function.signature.is_class:
        return _called(found, function, function.arguments)
    device = {"device": function.device} if function.signature.takes_device else {}
    try:
        instance = found(**device | function.arguments)
    except BaseException as error:
        raise LoadError(
            f"{function.where}.function: constructing {function.name} failed: {described(error, function)}"
        ) from error
    return _called(instance, function, {})


def described(error: BaseException, function: PythonFunction) -> str:
    """What was raised, in one line, with the last place in the function's own files."""
    return f"{' '.join(traceback.format_exception_only(error)[-1].split())} ({place_of(error, function)})"


def place_of(error: BaseException, function: PythonFunction) -> str:
    """The last place in the function's own files, else the last of all: "brightness.py, line 3"."""
    frames = traceback.extract_tb(error.__traceback__)
    own = [frame for frame in frames if Path(frame.filename).is_relative_to(function.sources.root)]
    if isinstance(error, SyntaxError) and error.filename:
        return f"{Path(error.filename).name}, line {error.lineno}"
    if not frames:
        return "at no line"
    last = (own or list(frames))[-1]
    return f"{Path(last.filename).name}, line {last.lineno}"


def _check_not_loaded(function: PythonFunction) -> None:
    """Raise LoadError where this process has another module under the name of one of these: a worker never has."""
    for name, source in function.sources.covered.items():
        loaded = sys.modules.get(name)
        loader = getattr(getattr(loaded, "__spec__", None), "loader", None)
        same = isinstance(loader, _CoveredLoader) and loader._source.sha256 == source.sha256
        if loaded is not None and not same and name != "__main__":
            raise LoadError(
                f"{function.where}.function: this process has loaded another module {name!r} already; give one of the "
                "two another name"
            )


def _called(found: Any, function: PythonFunction, bound: dict[str, Any]) -> Callable[..., Any]:
    if not callable(found):
        raise LoadError(f"{function.where}.function: {function} is {type(found).__name__}, which cannot be called")
    return lambda **given: found(**given, **bound)
