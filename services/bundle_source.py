"""Fetches the graph files of a bundle into the graph store: what the init container of a pod does before Triton starts.

    fetch_bundle("https://objects.example/graphs", digest, [profile], graphs=["minilm"])

The source is a folder (a mounted volume, a layer of an image) or an http(s) address below which an object store or any
web server shows the bundle's blobs (`reward_models/backends/bundles.py`). Every byte is checked against a digest before
a file appears under its name; what is there already and right is not fetched again, so that a restarted pod is quick.
"""

from __future__ import annotations

import hashlib
import os
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import httpx

from sync_r1.reward_models.backends.bundles import BundleError, Wanted, blob_name, parse_digest, wanted_files
from sync_r1.reward_models.graphs.spec import graph_store
from sync_r1.reward_models.profiles import Profile
from sync_r1.reward_models.releases import file_sha256

TOKEN_FILE = "SYNC_R1_BUNDLE_TOKEN_FILE"
"""Environment: a file whose text is sent as `Authorization: Bearer …`, over https only."""
MAX_INDEX_BYTES = 16 << 20
_ATTEMPTS = 5
_TIMEOUT = httpx.Timeout(30.0, connect=10.0)


def fetch_bundle(
    source: str,
    digest: str,
    profiles: Sequence[Profile],
    *,
    graphs: Sequence[str],
    on_file: Callable[[str], None] = lambda name: None,
) -> int:
    """Bring the files of `graphs` into the graph store; returns the bytes that were fetched.

    `on_file` is told each name. Raises BundleError: not found, not the bytes that the digest names, nobody answers.
    """
    store, fetched = graph_store(), 0
    store.mkdir(parents=True, exist_ok=True)
    index = store / f".index-{parse_digest(digest)[:12]}.draft"
    try:
        _fetch(source, parse_digest(digest), index, MAX_INDEX_BYTES)
        wanted = wanted_files(index.read_bytes(), digest, profiles, graphs)
    finally:
        index.unlink(missing_ok=True)
    # The pin of a graph goes last: with it the graph counts as complete (`graphs/export.py`).
    for one in sorted(wanted, key=lambda one: (one.name.endswith(".onnx.json"), one.name)):
        target = store / one.name
        if target.is_file() and file_sha256(target) == one.file.sha256:
            continue
        on_file(one.name)
        _place(source, one, target)
        fetched += one.file.size
    return fetched


def _place(source: str, one: Wanted, target: Path) -> None:
    draft = target.with_name(f".{one.name}.{os.getpid()}.draft")
    try:
        _fetch(source, one.file.sha256, draft, one.file.size)
        draft.replace(target)
    finally:
        draft.unlink(missing_ok=True)


def _fetch(source: str, sha256: str, draft: Path, max_bytes: int) -> None:
    """One blob into `draft`, tried again while the source does not answer. Raises BundleError."""
    where = f"{source.rstrip('/')}/{blob_name(sha256)}"
    for attempt in range(1, _ATTEMPTS + 1):
        try:
            came = _copy(source, where, draft, max_bytes)
            break
        except (httpx.TransportError, httpx.HTTPStatusError, OSError) as error:
            answered = isinstance(error, httpx.HTTPStatusError) and error.response.status_code < 500
            if answered or isinstance(error, FileNotFoundError) or attempt == _ATTEMPTS:
                raise BundleError(f"{where} cannot be had: {error}; is the bundle there?") from None
            time.sleep(0.5 * 2**attempt)
    if came != sha256:
        raise BundleError(f"{where}: its bytes are sha256:{came}; the file was changed or cut off, publish it again")


def _copy(source: str, where: str, draft: Path, max_bytes: int) -> str:
    """Returns the sha256 of what came. Stops at the first byte too many: then it is not what was promised anyway."""
    digest, size = hashlib.sha256(), 0
    with _pieces(source, where) as pieces, draft.open("wb") as out:
        for piece in pieces:
            digest.update(piece)
            size += len(piece)
            if size > max_bytes:
                raise BundleError(f"{where} is larger than the {max_bytes} bytes that its bundle states")
            out.write(piece)
    return digest.hexdigest()


@contextmanager
def _pieces(source: str, where: str) -> Iterator[Iterator[bytes]]:
    if not source.startswith(("https://", "http://")):
        with Path(where).open("rb") as file:
            yield iter(lambda: file.read(1 << 20), b"")
        return
    headers = {}
    if token_file := os.environ.get(TOKEN_FILE):
        if not source.startswith("https://"):
            raise BundleError(f"{TOKEN_FILE} is set, but {source} is not https: anybody could read the token")
        headers["Authorization"] = f"Bearer {Path(token_file).read_text().strip()}"
    with httpx.stream("GET", where, headers=headers, timeout=_TIMEOUT, follow_redirects=True) as response:
        response.raise_for_status()
        yield response.iter_bytes(1 << 20)
