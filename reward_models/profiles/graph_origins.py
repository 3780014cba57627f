"""Graphs of a profile: what its YAML says of each becomes a `GraphSpec`. One function per origin."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from sync_r1.reward_models.graphs.judges import Judge
from sync_r1.reward_models.graphs.spec import GraphSpec, TensorSpec, graph_store
from sync_r1.reward_models.images import Preprocessing
from sync_r1.reward_models.library.catalogue import LIBRARY_GRAPHS
from sync_r1.reward_models.profiles.files import (
    CheckedInGraphFile,
    EndpointGraphFile,
    FileGraphFile,
    GraphFile,
    LibraryGraphFile,
    OwnGraphFile,
    PackageGraphFile,
    PublishedGraphFile,
    TensorFile,
)
from sync_r1.reward_models.profiles.graph_checks import check_onnx_file
from sync_r1.reward_models.profiles.judge_files import built_in_judge
from sync_r1.reward_models.profiles.judge_variants import judge_spec
from sync_r1.reward_models.published.catalogue import GRAPHS
from sync_r1.reward_models.types import ProfileError

_PACKAGE = Path(__file__).parent.parent
_SUFFIXES = {"onnx": ".onnx", "torch": ".safetensors"}


def graph_spec(name: str, file: GraphFile, *, before_fetch: bool = False) -> GraphSpec:
    """The graph that a profile calls `name`. Raises ProfileError. `before_fetch`: see `load_profile`."""
    match file:
        case FileGraphFile():
            return _file(name, file, before_fetch)
        case CheckedInGraphFile():
            return _own(name, file, _PACKAGE / file.checked_in)
        case PackageGraphFile():
            return _own(name, file, graph_store() / f"{file.package}.onnx", package=file.package)
        case PublishedGraphFile():
            return _published(name, file)
        case LibraryGraphFile():
            return _library(name, file)
        case EndpointGraphFile():
            prompt, _ = built_in_judge(file.endpoint)
            return judge_spec(name, file.version, Judge(prompt, file.model))


def _file(name: str, file: FileGraphFile, before_fetch: bool) -> GraphSpec:
    """Beside its profile, or in the graph store, where a bundle brings it."""
    path, fetched = file.file.absolute(), graph_store() / file.file.name
    if not path.is_file() and (fetched.is_file() or before_fetch):
        path = fetched
    elif not path.is_file():
        raise ProfileError(f"graphs.{name}.file: there is no file {path}")
    return replace(_own(name, file, path), own=True, expected_sha256=file.sha256)


def _own(name: str, file: OwnGraphFile, path: Path, *, package: str = "") -> GraphSpec:
    """A graph whose tensors the profile states: they must be those of the file, if it is there."""
    graph = GraphSpec(
        name=name,
        version=file.version,
        file=path,
        inputs=_tensors(file.inputs),
        outputs=_tensors(file.outputs),
        max_batch_size=file.max_batch_size,
        preprocessing=Preprocessing(file.resize),
        tokenizer=file.tokenizer,
        package=package,
        instances=file.instances,
    )
    check_onnx_file(graph)
    return graph


def _published(name: str, file: PublishedGraphFile) -> GraphSpec:
    if file.published not in GRAPHS:
        raise ProfileError(
            f"graph {name!r}: nothing is published as {file.published!r}; there are {', '.join(sorted(GRAPHS))}"
        )
    graph = GRAPHS[file.published]
    return GraphSpec(
        name=name,
        version=file.version,
        file=graph_store() / f"{graph.name}{_SUFFIXES[file.engine]}",
        inputs=graph.inputs,
        outputs=graph.outputs,
        max_batch_size=file.max_batch_size,
        preprocessing=graph.preprocessing,
        tokenizer=graph.tokenizer,
        published=graph.model,
        engine=file.engine,
        instances=file.instances,
    )


def _library(name: str, file: LibraryGraphFile) -> GraphSpec:
    if file.library not in LIBRARY_GRAPHS:
        raise ProfileError(
            f"graph {name!r}: {file.library!r} is no library graph; there are {', '.join(sorted(LIBRARY_GRAPHS))}"
        )
    graph = LIBRARY_GRAPHS[file.library]
    return GraphSpec(
        name=name,
        version=file.version,
        file=graph_store() / f"{file.library}.zip",
        inputs=graph.inputs,
        outputs=graph.outputs,
        max_batch_size=file.max_batch_size,
        library=file.library,
        instances=file.instances,
    )


def _tensors(tensors: dict[str, TensorFile]) -> tuple[TensorSpec, ...]:
    return tuple(TensorSpec(name, spec.dtype, spec.shape) for name, spec in tensors.items())
