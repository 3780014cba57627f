"""A folder of pictures as a table, with its sub-folders: one row for each picture, in the order of their names.

A picture's caption is the text file of its name beside it (`a.png`, `a.txt`), or stands in a `metadata.jsonl` or
`metadata.csv` whose `file_name` is relative to its own folder (as `imagefolder` of `datasets` has it). The rows of such
a file come first, in its order; then come the pictures that it does not name. Hidden files are left out.
"""

from __future__ import annotations

import os
from array import array
from bisect import bisect_left
from collections.abc import Iterable, Iterator
from dataclasses import replace
from pathlib import Path, PurePosixPath

from sync_r1.trainer_client.sdk.row_identity import text_digest
from sync_r1.trainer_client.sdk.sample_file import ScoreFileError, reason
from sync_r1.trainer_client.tables.rows import ColumnMap, Place, TableRow, Wanted, odd_row, printable, table_row
from sync_r1.trainer_client.tables.text_sources import CsvSource, JsonlSource

PICTURES = frozenset(
    (".png", ".jpg", ".jpeg", ".webp", ".gif", ".bmp", ".tif", ".tiff", ".avif", ".heic", ".jp2", ".ppm", ".pgm")
)  # fmt: skip
"""Endings of pictures; those that no service decodes become failures of their rows."""
_METADATA = ("metadata.jsonl", "metadata.csv")
_MOST_CAPTION_BYTES = 1 << 20
_ROW = {"image": "path", "prompt": "caption"}


class FolderSource:
    """The pictures of a folder. Raises ScoreFileError if it cannot be read."""

    unused: tuple[str, ...] = ()

    def __init__(self, path: Path, columns: ColumnMap, root: Path | None = None) -> None:
        if root is not None and root != path:
            raise ScoreFileError(f"{path} is a folder of pictures: leave --pictures out")
        self.path = self.root = path
        self.fields: frozenset[str] | None = None
        self._columns = columns
        _names(path)

    def rows(self, wanted: Wanted) -> Iterator[TableRow]:
        """See `Source`; ids are the pictures' paths."""
        yield from (replace(row, position=position) for position, row in enumerate(self._folder(PurePosixPath()), 0))

    def _folder(self, folder: PurePosixPath) -> Iterator[TableRow]:
        """The rows of a folder below `path`; their positions are not yet known."""
        files, folders = _names(self.path / folder)
        metadata = [name for name in _METADATA if name in files]
        if len(metadata) > 1:
            raise ScoreFileError(f"{self.path / folder} has {' and '.join(metadata)}; keep one of them")
        if not metadata:
            yield from self._pictures(folder, files)
            for name in folders:
                yield from self._folder(folder / name)
            return
        named = array("Q")
        for row in self._named(folder, metadata[0]):
            named.append(_number(row.path))
            yield row
        named = array("Q", sorted(named))
        for row in self._unnamed(folder, files, folders):
            at = bisect_left(named, number := _number(row.path))
            if at == len(named) or named[at] != number:
                yield row

    def _unnamed(self, folder: PurePosixPath, files: Iterable[str], folders: Iterable[str]) -> Iterator[TableRow]:
        yield from self._pictures(folder, files)
        for name in folders:
            yield from self._folder(folder / name)

    def _named(self, folder: PurePosixPath, name: str) -> Iterator[TableRow]:
        """The rows of a metadata file, with paths and ids as they are seen from `path`."""
        file = self.path / folder / name
        kind = JsonlSource if name.endswith(".jsonl") else CsvSource
        for row in kind(file, self._columns).rows(None):
            shown = row.file_row.row.image
            if row.file_row.problem is not None:
                row.file_row.row.id = f"{folder / name} {row.file_row.row.id}"
                yield row
            elif shown is None:
                said = f"it names no picture; give each row a file_name, relative to {file.parent}"
                place = Place(0, f"{file}, row {row.position + 1}", f"{folder / name} {row.position + 1}", None)
                yield odd_row(place, "file_name", "image", said)
            else:
                path = (folder / shown).as_posix()
                known = row.file_row.row.model_copy(update={"image": path})
                known.id = path if known.id == str(row.position + 1) else known.id
                yield replace(row, path=path, file_row=replace(row.file_row, row=known))

    def _pictures(self, folder: PurePosixPath, files: Iterable[str]) -> Iterator[TableRow]:
        known = set(files)
        for name in files:
            stem, ending = os.path.splitext(name)
            if ending.lower() not in PICTURES:
                continue
            path = (folder / name).as_posix()
            place = Place(0, printable(str(self.path / path)), printable(path), None)
            caption: str | None = None
            if f"{stem}.txt" in known:
                try:
                    caption = _caption(self.path / folder / f"{stem}.txt")
                except (OSError, ValueError) as error:
                    yield odd_row(place, "caption", "prompt", _why(error, f"{stem}.txt"), path=path)
                    continue
            yield table_row(place, {"path": path, "caption": caption}, _ROW)


def _names(folder: Path) -> tuple[list[str], list[str]]:
    """(files, folders) of a folder, in order; links to folders are not followed."""
    try:
        with os.scandir(folder) as found:
            entries = [(one.name, one.is_dir(follow_symlinks=False)) for one in found if not one.name.startswith(".")]
    except OSError as error:
        raise ScoreFileError(f"cannot read the folder {folder}: {reason(error)}") from error
    entries.sort()
    return [name for name, is_folder in entries if not is_folder], [name for name, is_folder in entries if is_folder]


def _caption(file: Path) -> str:
    with file.open("rb") as stream:
        data = stream.read(_MOST_CAPTION_BYTES + 1)
    if len(data) > _MOST_CAPTION_BYTES:
        raise ValueError(f"longer than {_MOST_CAPTION_BYTES} bytes; expected one caption")
    return data.decode("utf-8-sig").strip()


def _why(error: OSError | ValueError, name: str) -> str:
    if isinstance(error, UnicodeDecodeError):
        return f"{name} is no UTF-8 (byte 0x{error.object[error.start]:02x}); save it as UTF-8"
    return f"{name}: {reason(error)}"


def _number(path: str) -> int:
    """64 bits of a path: equal by chance once in 10^7 tables of 10^6 rows."""
    return int.from_bytes(text_digest(os.fsencode(os.path.normpath(path)))[:8], "big")
