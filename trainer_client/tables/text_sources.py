"""CSV and JSONL files as tables: UTF-8, only a line feed ends a line, a row that cannot be read fails alone.

CSV as RFC 4180 has it: the first line names the columns; the separator is the one of comma, semicolon and tab that the
header has most of. A byte-order mark is skipped. A quotation mark that is never closed costs its own line only.
"""

from __future__ import annotations

import csv
import json
from collections import deque
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, BinaryIO

from sync_r1.trainer_client.sdk.sample_file import ScoreFileError, reason
from sync_r1.trainer_client.tables.rows import ColumnMap, Place, TableRow, Wanted, odd_row, table_row, unused_columns

_MOST_LINE_BYTES = 16 << 20
_MOST_LINES = 1000
"""Lines that one cell in quotes may go over."""
_UTF_8_MARK = b"\xef\xbb\xbf"
_OTHER_MARKS = (b"\xff\xfe", b"\xfe\xff")


class CsvSource:
    """A CSV file. Raises ScoreFileError for a header that cannot be used."""

    def __init__(self, path: Path, columns: ColumnMap, root: Path | None = None) -> None:
        self.path, self.root = path, root or path.parent
        csv.field_size_limit(_MOST_LINE_BYTES)
        with _opened(path) as file:
            self._separator, self._names = _header(path, file)
        self._mapping = columns.of(self._names, str(path))
        self.fields: frozenset[str] | None = frozenset(self._mapping)
        self.unused = unused_columns(self._names, self._mapping)

    def rows(self, wanted: Wanted) -> Iterator[TableRow]:
        """See `Source`; an empty line is no row."""
        position = 0
        with _opened(self.path) as file:
            lines = _Lines(file)
            lines.next()
            while (numbered := lines.next()) is not None:
                number, line = numbered
                if not line.strip():
                    continue
                place = Place(position, f"{self.path}, line {number}", str(position + 1), self.root)
                position += 1
                cells = self._cells(line, lines)
                if isinstance(cells, str):
                    yield odd_row(place, "", "", cells)
                else:
                    yield table_row(place, cells, self._mapping)

    def _cells(self, line: bytes, lines: _Lines) -> dict[str, str] | str:
        """The record that begins with `line`, or what is wrong with it."""
        if len(line) > _MOST_LINE_BYTES:
            return f"longer than {_MOST_LINE_BYTES} bytes; expected each row on lines of its own"
        held, read, size = [_text(line)], list[tuple[int, bytes]](), len(line)
        while True:
            try:
                cells = next(csv.reader(held, delimiter=self._separator, strict=True))
                break
            except csv.Error as error:
                open_quote = "unexpected end of data" in str(error)
                following = lines.next() if open_quote else None
                if following is not None:
                    read.append(following)
                    held.append(_text(following[1]))
                    size += len(following[1])
                if following is None or len(read) > _MOST_LINES or size > _MOST_LINE_BYTES:
                    lines.put_back(read)
                    if read or open_quote:
                        return "a quotation mark opens in this line and is never closed; close it, or double it"
                    return f"it is no row of a CSV file: {error}; put cells with quotation marks in quotes"
        if len(cells) != len(self._names):
            lines.put_back(read)
            cure = (
                "put cells with separators in quotes" if len(cells) > len(self._names) else "give every row all cells"
            )
            return f"expected {len(self._names)} cells ({', '.join(self._names)}), got {len(cells)}; {cure}"
        return dict(zip(self._names, cells))


class JsonlSource:
    """A JSONL file: one object per line. Raises ScoreFileError if it is not UTF-8."""

    fields: frozenset[str] | None = None

    def __init__(self, path: Path, columns: ColumnMap, root: Path | None = None) -> None:
        self.path, self.root = path, root or path.parent
        self._columns = columns
        with _opened(path):
            pass
        self.unused: tuple[str, ...] = ()
        self._mappings: dict[tuple[str, ...], dict[str, str]] = {}

    def rows(self, wanted: Wanted) -> Iterator[TableRow]:
        """See `Source`; an empty line is no row."""
        position = 0
        with _opened(self.path) as file:
            lines = _Lines(file)
            while (numbered := lines.next()) is not None:
                number, line = numbered
                if not line.strip():
                    continue
                yield self._row(Place(position, f"{self.path}, line {number}", str(position + 1), self.root), line)
                position += 1

    def _row(self, place: Place, line: bytes) -> TableRow:
        if len(line) > _MOST_LINE_BYTES:
            said = f"longer than {_MOST_LINE_BYTES} bytes; expected each row on a line of its own"
            return odd_row(place, "", "", said)
        try:
            found = json.loads(line.decode())
        except UnicodeDecodeError as error:
            said = f"no UTF-8 (byte 0x{line[error.start]:02x} at column {error.start + 1}); save the file as UTF-8"
            return odd_row(place, "", "", said)
        except (ValueError, RecursionError) as error:
            return odd_row(place, "", "", f"expected one JSON object, got {error}; only a line feed ends a line")
        if not isinstance(found, dict):
            said = f"expected one JSON object, got {str(found)[:80]}"
            return odd_row(place, "", "", said)
        try:
            mapping = self._mapping(found, place.where)
        except ScoreFileError as error:
            return odd_row(place, "", "", str(error).removeprefix(f"{place.where} "))
        return table_row(place, found, mapping)

    def _mapping(self, found: Mapping[str, Any], where: str) -> dict[str, str]:
        names = tuple(found)
        if names not in self._mappings:
            if len(self._mappings) > 1000:  # rows that all differ
                self._mappings.clear()
            self._mappings[names] = self._columns.of(names, where)
            self.unused = tuple(
                dict.fromkeys([*self.unused, *unused_columns(names, self._mappings[names])])
            )[:100]  # fmt: skip
        return self._mappings[names]


class _Lines:
    """(number, line with its end) of a file, with a way back; of a line that is too long only its beginning."""

    def __init__(self, file: BinaryIO) -> None:
        self._file, self._number = file, 0
        self._back: deque[tuple[int, bytes]] = deque()

    def next(self) -> tuple[int, bytes] | None:
        if self._back:
            return self._back.popleft()
        line = self._file.readline(_MOST_LINE_BYTES + 1)
        if not line:
            return None
        self._number += 1
        rest = line
        while rest and not rest.endswith(b"\n"):
            rest = self._file.readline(_MOST_LINE_BYTES)
        if self._number == 1:
            line = line.removeprefix(_UTF_8_MARK)
        return self._number, line

    def put_back(self, lines: list[tuple[int, bytes]]) -> None:
        self._back.extendleft(reversed(lines))


def _opened(path: Path) -> BinaryIO:
    try:
        file = path.open("rb")
        start = file.read(2)
        file.seek(0)
    except (OSError, ValueError) as error:
        raise ScoreFileError(f"cannot read {path}: {reason(error)}") from error
    if start in _OTHER_MARKS:
        file.close()
        raise ScoreFileError(f"{path}, line 1 begins with the byte-order mark (BOM) of UTF-16; save the file as UTF-8")
    return file


def _header(path: Path, file: BinaryIO) -> tuple[str, list[str]]:
    """(separator, names of the columns)."""
    numbered = _Lines(file).next()
    text = _text(numbered[1]).strip("\r\n") if numbered is not None else ""
    if not text.strip():
        raise ScoreFileError(f"{path}, line 1 is empty; expected the names of the columns")
    separator = max(",;\t", key=text.count)
    try:
        text.encode()
        (names,) = csv.reader([text], delimiter=separator, strict=True)
    except (csv.Error, ValueError) as error:
        raise ScoreFileError(f"{path}, line 1: expected the names of the columns as UTF-8, got {error}") from error
    names = [name.strip() for name in names]
    if twice := sorted({name for name in names if names.count(name) > 1}):
        raise ScoreFileError(f"{path}, line 1 names the column {twice[0]!r} twice; give each a name of its own")
    return separator, names


def _text(line: bytes) -> str:
    """As text; what is no UTF-8 is found where its cell is used."""
    return line.decode(errors="surrogateescape")
