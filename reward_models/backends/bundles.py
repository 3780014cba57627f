"""Bundles: the graph files of a profile as blobs that are named by their sha256, on any disk or static web server.

    digest = write_bundle([load_profile("pocket")], Path("bundle"))     # sha256:9f2c…

A bundle is a folder `sha256/` of blobs, one of which is the index: which graph needs which files, each with its digest
and its size. The index's own digest names the bundle, so a pod that is told that digest gets these bytes or none
(`services/bundle_source.py` fetches them). Bundles share a folder: what two of them have in common is there once, and
an old one stays where a rollback looks for it.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from sync_r1.reward_models.graphs.spec import GraphSpec, data_path, graph_store
from sync_r1.reward_models.inputs.encoders import tokenizer_beside
from sync_r1.reward_models.profiles import Profile
from sync_r1.reward_models.releases import file_sha256
from sync_r1.reward_models.types import RewardError

_DIGEST = re.compile(r"sha256:[0-9a-f]{64}")
_IN_PROGRESS = {".draft", ".lock"}


class BundleError(RewardError):
    """A bundle cannot be used; the message says what was expected, what came and the cure."""


class BundleFile(BaseModel):
    """One file of a graph: its blob."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    sha256: str = Field(pattern=r"^[0-9a-f]{64}$")
    size: int = Field(ge=0)
    """Bytes."""


class BundleIndex(BaseModel):
    """Graph file's stem -> its files by name: the ONNX file, its pin, its tokenizer, …"""

    model_config = ConfigDict(extra="forbid", frozen=True)

    graphs: dict[str, dict[str, BundleFile]]


@dataclass(frozen=True)
class Wanted:
    """One file to fetch, and what it must turn out to be."""

    name: str
    file: BundleFile


def blob_name(sha256: str) -> str:
    """Where a blob lies below the folder or address of its bundle."""
    return f"sha256/{sha256}"


def parse_digest(text: str) -> str:
    """The 64 hex digits of `sha256:…`. Raises BundleError for anything else, such as a digest not filled in yet."""
    if not _DIGEST.fullmatch(text):
        raise BundleError(
            f"a bundle's digest is sha256: and 64 hex digits, got {text!r}; `sync-r1 bundle --out DIR` prints it"
        )
    return text.removeprefix("sha256:")


def write_bundle(profiles: Sequence[Profile], folder: Path) -> str:
    """Add what the graphs of `profiles` need to the bundles in `folder`; returns the digest, `sha256:…`.

    Graphs that are checked in come with the sources and are left out. Raises GraphFileMissing, and BundleError for
    files that cannot lie in one folder.
    """
    graphs: dict[str, dict[str, BundleFile]] = {}
    specs = [spec for profile in profiles for spec in profile.graphs.values()]
    for graph in specs:
        if not (graph.own or graph.file.parent == graph_store()):
            continue
        _ = graph.sha256  # never ship a file that differs from its pin
        files = {file.name: _add(file, folder) for file in _files(graph)}
        if graphs.setdefault(graph.file.stem, files) != files:
            raise BundleError(
                f"graph {graph.name!r}: {graph.file} has the name of another graph's file, and all of a bundle lie in "
                "one folder; rename it"
            )
    text = json.dumps(BundleIndex(graphs=graphs).model_dump(), sort_keys=True, indent=1).encode() + b"\n"
    digest = hashlib.sha256(text).hexdigest()
    _write(folder / blob_name(digest), text)
    return f"sha256:{digest}"


def wanted_files(index: bytes, digest: str, profiles: Sequence[Profile], graphs: Collection[str]) -> list[Wanted]:
    """What has to be fetched for these graphs, by the index that `digest` names.

    Raises BundleError when the index is another one, or lacks a graph.
    """
    if (came := hashlib.sha256(index).hexdigest()) != parse_digest(digest):
        raise BundleError(f"the bundle's index should be {digest}, but its bytes are sha256:{came}")
    try:
        held = BundleIndex.model_validate_json(index).graphs
    except ValidationError as error:
        raise BundleError(f"{digest} is no index of a bundle: {error.errors()[0]['msg']}") from None
    stored = _stored(spec for profile in profiles for spec in profile.graphs.values() if spec.name in graphs)
    if missing := stored.keys() - held.keys():
        raise BundleError(
            f"bundle {digest} has no graph {', '.join(sorted(missing))}; it has {', '.join(sorted(held)) or 'none'}. "
            "Write one for this profile with `sync-r1 bundle --profile …`"
        )
    wanted = [Wanted(name, file) for stem in stored for name, file in held[stem].items()]
    if strange := [one.name for one in wanted if Path(one.name).name != one.name]:
        raise BundleError(f"bundle {digest} names files outside its folder: {strange}")
    return wanted


def _files(graph: GraphSpec) -> list[Path]:
    """A graph's file and what it needs beside it."""
    if graph.own:
        needed = (graph.file, data_path(graph.file), tokenizer_beside(graph))
        return [file for file in needed if file.is_file()]
    beside = graph.file.parent.glob(f"{graph.file.stem}.*")
    return sorted(file for file in beside if file.suffix not in _IN_PROGRESS)


def _stored(graphs: Iterable[GraphSpec]) -> dict[str, GraphSpec]:
    """Those whose file lies in the graph store, by its stem."""
    return {graph.file.stem: graph for graph in graphs if graph.file.parent == graph_store()}


def _add(file: Path, folder: Path) -> BundleFile:
    entry = BundleFile(sha256=file_sha256(file), size=file.stat().st_size)
    blob = folder / blob_name(entry.sha256)
    if not blob.exists():
        blob.parent.mkdir(parents=True, exist_ok=True)
        draft = blob.with_suffix(f".{os.getpid()}.draft")
        shutil.copyfile(file, draft)
        draft.replace(blob)
    return entry


def _write(blob: Path, text: bytes) -> None:
    blob.parent.mkdir(parents=True, exist_ok=True)
    draft = blob.with_suffix(f".{os.getpid()}.draft")
    draft.write_bytes(text)
    draft.replace(blob)
