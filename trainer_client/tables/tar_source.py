"""WebDataset shards as a table: in a tar file, the members of one name up to its first dot are one row.

A picture (`0001.jpg`), its caption (`0001.txt`) and fields of the sample (`0001.json`) stand one behind the other. A
shard that breaks off is one failed row behind those that could be read; the other shards are scored.
"""

from __future__ import annotations

import json
import lzma
import tarfile
import zlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import IO, Any

from sync_r1.trainer_client.sdk.sample_file import ScoreFileError
from sync_r1.trainer_client.tables.folder_source import PICTURES
from sync_r1.trainer_client.tables.rows import ColumnMap, Place, TableRow, Wanted, odd_row, printable, table_row

ENDINGS = (".tar", ".tar.gz", ".tgz", ".tar.xz", ".tar.bz2")
_MOST_TEXT_BYTES = 16 << 20
_MOST_PICTURE_BYTES = 256 << 20
"""More is not read: no service takes it."""
_PICTURE, _CAPTION = "\0picture", "\0caption"  # names that no field of a JSON member has by chance


class TarSource:
    """The samples of some shards, in the order of the files' names. Raises ScoreFileError if there are none."""

    fields: frozenset[str] | None = None
    unused: tuple[str, ...] = ()

    def __init__(self, path: Path, files: Sequence[Path], columns: ColumnMap) -> None:
        self.path, self.root = path, path if path.is_dir() else path.parent
        self._files, self._columns = files, columns
        if not any(tarfile.is_tarfile(file) for file in files):
            raise ScoreFileError(f"{files[0]} is no tar file; make it again")

    def rows(self, wanted: Wanted) -> Iterator[TableRow]:
        """See `Source`; ids are SHARD/NAME."""
        position = 0
        for file in self._files:
            count = 0
            try:
                for row in self._shard(file, position, wanted):
                    yield row
                    position, count = position + 1, count + 1
            except (tarfile.TarError, OSError, EOFError, zlib.error, lzma.LZMAError) as error:
                said = (
                    f"the shard is broken behind its first {count} samples: {error or 'it breaks off'}; make it again"
                )
                place = Place(position, str(file), printable(f"{file.name} (rest)"), None)
                yield odd_row(place, "", "", said)
                position += 1

    def _shard(self, file: Path, position: int, wanted: Wanted) -> Iterator[TableRow]:
        name, cells = "", dict[str, Any]()
        with tarfile.open(file, "r:*") as shard:
            while (member := shard.next()) is not None:
                shard.members = []  # type: ignore[attr-defined]  # it would keep the header of every member
                folder, _, last = member.name.rpartition("/")
                stem, _, ending = last.partition(".")
                if not member.isfile() or not stem:
                    continue
                key = f"{folder}/{stem}" if folder else stem
                if key != name:
                    if cells:
                        yield self._row(file, name, position, cells)
                        position += 1
                    name, cells = key, {}
                self._read(shard, member, f".{ending.lower()}", cells, wanted is not None and wanted(position))
            if cells:
                yield self._row(file, name, position, cells)
            _check_ended(shard)

    def _read(
        self, shard: tarfile.TarFile, member: tarfile.TarInfo, ending: str, cells: dict[str, Any], wanted: bool
    ) -> None:
        """Add what a member says to the cells of its sample."""
        if ending in PICTURES or f".{ending.rpartition('.')[2]}" in PICTURES:
            stream = shard.extractfile(member) if wanted else None
            data = b"" if stream is None else stream.read(min(member.size, _MOST_PICTURE_BYTES))
            if stream is not None and len(data) < member.size <= _MOST_PICTURE_BYTES:
                raise tarfile.ReadError(f"{member.name} breaks off")
            cells[_PICTURE] = {"bytes": data, "path": member.name}
        elif ending in (".txt", ".caption", ".json"):
            stream = shard.extractfile(member)
            cells[ending] = _text(stream, member) if stream is not None else ""

    def _row(self, file: Path, name: str, position: int, cells: dict[str, Any]) -> TableRow:
        path = f"{file.name}/{name}"
        place = Place(position, printable(f"{file}, {name}"), printable(path), None)
        found: dict[str, Any] = {}
        for ending in (".json", ".txt", ".caption"):
            value = cells.get(ending)
            if isinstance(value, ValueError):
                return odd_row(place, "", "", f"{name}{ending}: {value}", path=path)
            if ending == ".json" and value is not None:
                try:
                    parsed = json.loads(value)
                except (ValueError, RecursionError) as error:
                    said = f"{name}.json: expected one JSON object, got {error}"
                    return odd_row(place, "", "", said, path=path)
                found |= parsed if isinstance(parsed, dict) else {}
            elif value is not None:
                found[_CAPTION] = value.strip()
        try:
            mapping = self._columns.of(list(found), place.where) if ".json" in cells else {}
        except ScoreFileError as error:
            said = str(error).removeprefix(f"{place.where} ")
            return odd_row(place, "", "", said, path=path)
        mapping.pop("image", None)
        mapping.pop("id", None)  # names of samples are unique in a shard, ids in JSON members may be anything
        if _CAPTION in found:
            mapping["prompt"] = _CAPTION
        if _PICTURE in cells:
            found[_PICTURE] = cells[_PICTURE] | {"path": f"{file.name}/{cells[_PICTURE]['path']}"}
            mapping["image"] = _PICTURE
        return table_row(place, found, mapping)


def _check_ended(shard: tarfile.TarFile) -> None:
    """Raises ReadError if the shard has not ended: tarfile takes whatever is no header for the end."""
    assert shard.fileobj is not None
    shard.fileobj.seek(shard.offset)
    block = shard.fileobj.read(tarfile.BLOCKSIZE)
    if len(block) < tarfile.BLOCKSIZE:
        raise tarfile.ReadError("it breaks off before the mark of its end")
    if any(block):
        raise tarfile.ReadError(f"no header of a member at byte {shard.offset}")


def _text(stream: IO[bytes], member: tarfile.TarInfo) -> str | ValueError:
    data = stream.read(_MOST_TEXT_BYTES + 1)
    if len(data) > _MOST_TEXT_BYTES:
        return ValueError(f"longer than {_MOST_TEXT_BYTES} bytes")
    if len(data) < member.size:
        raise tarfile.ReadError(f"{member.name} breaks off")
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        return ValueError(f"no UTF-8 (byte 0x{data[error.start]:02x}); save it as UTF-8")
