"""`open_source`: which kind of table an input is."""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path

import numpy as np

from sync_r1.trainer_client.sdk.row_identity import text_digest
from sync_r1.trainer_client.sdk.sample_file import ScoreFileError
from sync_r1.trainer_client.tables.arrow_source import parquet_source, saved_dataset
from sync_r1.trainer_client.tables.folder_source import FolderSource
from sync_r1.trainer_client.tables.rows import ColumnMap, Source
from sync_r1.trainer_client.tables.tar_source import ENDINGS, TarSource
from sync_r1.trainer_client.tables.text_sources import CsvSource, JsonlSource

_KINDS = (
    "a folder (of pictures, Parquet files, WebDataset shards, or saved by `datasets`), or a .csv, .tsv, .parquet, "
    ".jsonl or .tar file"
)


def open_source(path: Path, columns: ColumnMap, pictures: Path | None = None) -> Source:
    """The table at `path`. `pictures`: the folder that its paths are relative to, its own by default.

    Raises ScoreFileError for what is no table or cannot be read.
    """
    name = path.name.lower()
    if path.is_dir():
        return _folder(path, columns, pictures)
    if not path.exists():
        raise ScoreFileError(f"there is no {path}; expected {_KINDS}")
    if not path.is_file():
        raise ScoreFileError(f"{path} is no regular file; it is read more than once, so save the rows to one")
    if name.endswith((".csv", ".tsv")):
        return CsvSource(path, columns, pictures)
    if name.endswith((".jsonl", ".ndjson")):
        return JsonlSource(path, columns, pictures)
    if name.endswith((".parquet", ".pq")):
        return parquet_source(path, [path], columns, pictures)
    if name.endswith(ENDINGS):
        return TarSource(path, [path], columns)
    raise ScoreFileError(f"{path} has no ending that says what it is; expected {_KINDS}")


def _folder(path: Path, columns: ColumnMap, pictures: Path | None) -> Source:
    names = sorted(name for name in os.listdir(path) if not name.startswith("."))
    if "dataset_dict.json" in names:
        splits = ", ".join(name for name in names if (path / name).is_dir())
        raise ScoreFileError(f"{path} has several data sets ({splits}); give the folder of one of them")
    if "state.json" in names and any(name.endswith(".arrow") for name in names):
        return saved_dataset(path, columns, pictures)
    for endings, opened in (((".parquet", ".pq"), parquet_source), (ENDINGS, _tars)):
        if found := [path / name for name in names if name.lower().endswith(endings)]:
            return opened(path, found, columns, pictures)
    return FolderSource(path, columns, pictures)


def _tars(path: Path, files: list[Path], columns: ColumnMap, pictures: Path | None) -> Source:
    return TarSource(path, files, columns)


def stamp(path: Path) -> tuple[int, ...]:
    """Changes when a file does; () for a folder."""
    if not path.is_file():
        return ()
    found = path.stat()
    return found.st_ino, found.st_size, found.st_mtime_ns


class SeenIds:
    """Which row had an id first, in 16 bytes a row.

    64 bits of a digest stand for an id: two ids of a table of 10^6 rows are taken for one once in 10^7 tables.
    """

    _RECENT = 1 << 16

    def __init__(self) -> None:
        self._numbers = np.empty(0, np.uint64)
        self._positions = np.empty(0, np.int64)
        self._recent: dict[int, int] = {}

    def first(self, identifier: str, position: int) -> int | None:
        """The position that had this id before, None if none had: then this one has it."""
        number = int.from_bytes(text_digest(identifier.encode())[:8], "big")
        if (before := self._recent.get(number)) is not None:
            return before
        if len(self._numbers):
            at = int(self._numbers.searchsorted(np.uint64(number)))
            if at < len(self._numbers) and int(self._numbers[at]) == number:
                return int(self._positions[at])
        self._recent[number] = position
        if len(self._recent) >= self._RECENT:
            self._merge(self._recent.items())
            self._recent = {}
        return None

    def _merge(self, items: Iterable[tuple[int, int]]) -> None:
        added = np.array(list(items), dtype=object)
        numbers = np.concatenate([self._numbers, added[:, 0].astype(np.uint64)])
        positions = np.concatenate([self._positions, added[:, 1].astype(np.int64)])
        order = numbers.argsort(kind="stable")
        self._numbers, self._positions = numbers[order], positions[order]
