"""Which libraries are graphs, and the tensors of each. Imports none of them: profiles read it."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy.typing as npt

from sync_r1.reward_models.graphs.spec import TensorSpec
from sync_r1.reward_models.library.archive import ArchiveError, check_versions, opened, write_archive

Engine = Callable[[Mapping[str, npt.NDArray[Any]]], list[npt.NDArray[Any]]]
"""Inputs by name to outputs in the catalogue's order; the first axis of each is the batch."""


@dataclass(frozen=True)
class LibraryGraph:
    """One graph whose code is in packages of the `scorers` extra. All take `pixels` (H, W, 3) of any size.

    A picture that the library cannot measure is NaN in its float outputs: one item must not fail its neighbours.
    """

    module: str
    """Below `sync_r1.reward_models.library`."""
    outputs: tuple[TensorSpec, ...]
    packages: tuple[str, ...]
    """Distributions whose versions decide the numbers; they are pinned in the archive, hence in the release."""

    @property
    def inputs(self) -> tuple[TensorSpec, ...]:
        return (TensorSpec("pixels", "uint8", (-1, -1, 3)),)


_BOX = TensorSpec("box", "float32", (4,))  # x1, y1, x2, y2 in pixels; zeros without a face
_FOUND = TensorSpec("found", "float32", (1,))  # 1 or 0

LIBRARY_GRAPHS = {
    "brisque": LibraryGraph(
        "distortion", (TensorSpec("score", "float32", (1,)),), ("brisque", "scikit-image", "scipy", "libsvm-official")
    ),
    "rapidocr": LibraryGraph(
        "ocr", (TensorSpec("text", "uint8", (-1,)), TensorSpec("confidence", "float32", (1,))), ("rapidocr",)
    ),
    "dlib_face": LibraryGraph(
        "dlib_face", (_FOUND, _BOX, TensorSpec("embedding", "float32", (128,))), ("dlib-bin", "face-recognition-models")
    ),
    "mtcnn": LibraryGraph(
        "mtcnn",
        (
            _FOUND,
            _BOX,
            TensorSpec("landmarks", "float32", (5, 2)),
            TensorSpec("face160", "uint8", (160, 160, 3)),
            TensorSpec("face112", "uint8", (112, 112, 3)),
        ),
        ("facenet-pytorch",),
    ),
}


def pack(name: str, file: Path) -> None:
    """Write the archive of a library graph from the installed packages. Raises ArchiveError."""
    graph = LIBRARY_GRAPHS[name]
    try:
        files = _module(graph).pack()
    except ModuleNotFoundError as error:
        raise ArchiveError(f"graph {name!r} needs {error.name!r}; install the `scorers` extra") from error
    write_archive(file, files, graph.packages)


def check(name: str, file: Path) -> None:
    """Raise ArchiveError where `load` would for the archive's damage or for other versions of its packages."""
    check_versions(file, LIBRARY_GRAPHS[name].packages)


def load(name: str, file: Path, threads: int) -> Engine:
    """The graph, ready to run, from its archive. Raises ArchiveError."""
    graph = LIBRARY_GRAPHS[name]
    try:
        with opened(file, graph.packages) as folder:
            engine: Engine = _module(graph).load(folder, threads)
            return engine
    except ModuleNotFoundError as error:
        raise ArchiveError(f"graph {name!r} needs {error.name!r}; install the `scorers` extra") from error


def _module(graph: LibraryGraph) -> Any:
    return importlib.import_module(f"sync_r1.reward_models.library.{graph.module}")
