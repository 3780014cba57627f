"""One row of a table, whatever it was read from: which of its cells are which fields of a sample.

A row that is no sample keeps its place: it becomes that row's failure, which names file, row, column and cure.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from pydantic import ValidationError

from sync_r1.reward_models.types import Failure, FailureCode
from sync_r1.trainer_client.sdk.sample_file import FileRow, SampleRow, ScoreFileError, wrong_field

_CONCEPT = ("name", "class_noun", "references", "info", "extra_info", "conversation_type")
FIELDS = (*SampleRow.model_fields, *(f"concept.{name}" for name in _CONCEPT))
"""What a column can be: the fields of a sample."""
_LISTS = {"reference_answers", "choices", "nouns", "concept.references", "concept.extra_info"}
_OTHER_NAMES = {
    "image": ("file_name", "path", "file", "filename", "image_path", "file_path"),
    "prompt": ("caption", "text"),
}
"""Names of columns that are taken for a field where no column has the field's own name; the first one there is."""
_URL = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*://|data:")

Wanted = Callable[[int], bool] | None
"""Which positions' pictures are read where they stand in the table itself; None: none are."""


@dataclass(frozen=True)
class TableRow:
    """A row of a source, at its `position` from 0."""

    position: int
    path: str
    """Of the picture, as the table says it; "" if there is none."""
    file_row: FileRow
    """The sample without its picture's bytes, or the row's problem."""
    data: bytes | None = None
    """The picture's bytes, where the table holds them and they were wanted."""


@dataclass(frozen=True)
class Broken:
    """A cell that its file has, but that cannot be read."""

    problem: str


class Source(Protocol):
    """A table that can be read from its beginning as often as needed."""

    path: Path
    root: Path
    """The folder that paths of pictures are relative to, and lie in."""
    fields: frozenset[str] | None
    """The fields that its rows can have; None if every row has its own."""
    unused: tuple[str, ...]
    """Columns that are no field."""

    def rows(self, wanted: Wanted) -> Iterator[TableRow]:
        """Every row, in order. Raises ScoreFileError for a table that cannot be read."""


@dataclass(frozen=True)
class ColumnMap:
    """Field -> column, as the caller says; other fields are found by the columns' names."""

    given: Mapping[str, str] = field(default_factory=dict)

    @classmethod
    def parse(cls, texts: Sequence[str]) -> ColumnMap:
        """Of `image=file,prompt=caption`. Raises ScoreFileError."""
        given: dict[str, str] = {}
        for pair in ",".join(texts).split(","):
            name, equals, column = pair.partition("=")
            if not pair:
                continue
            if name not in FIELDS or not equals or not column:
                raise ScoreFileError(
                    f"--columns: expected FIELD=COLUMN with a field of {', '.join(FIELDS)}, got {pair!r}"
                )
            given[name] = column
        return cls(given)

    def of(self, columns: Sequence[str], where: str) -> dict[str, str]:
        """Field -> column of a table with these columns. Raises ScoreFileError when one that was given is missing."""
        found = dict(self.given)
        for name, column in found.items():
            if column not in columns:
                raise ScoreFileError(
                    f"{where} has no column {column!r}, which --columns gives for {name}; it has {', '.join(columns)}"
                )
        taken = set(found.values())
        for name in FIELDS:
            names = (name, *_OTHER_NAMES.get(name, ()))
            for column in (one for one in names if one in columns and one not in taken):
                found.setdefault(name, column)
        return found


def unused_columns(columns: Sequence[str], mapping: Mapping[str, str]) -> tuple[str, ...]:
    """Columns that no field is read from."""
    used = set(mapping.values())
    return tuple(column for column in columns if column not in used)


@dataclass(frozen=True)
class Place:
    """Where a row stands: `where` is "FILE, line 7"; `default_id` is its id if it has none."""

    position: int
    where: str
    default_id: str
    root: Path | None
    """The folder of the pictures; None: paths may lead anywhere."""


def table_row(place: Place, cells: Mapping[str, Any], mapping: Mapping[str, str]) -> TableRow:
    """The row of these cells (column -> value); what is wrong with one of them is the row's problem."""
    data: bytes | None = None
    values: dict[str, Any] = {}
    identifier = place.default_id
    for name, column in mapping.items():
        value = cells.get(column)
        if _absent(value):
            continue
        try:
            if name == "image":
                value, data = _picture(value, place.root)
            elif name == "concept.references":
                value = [_path(one, place.root) for one in _list(value)]
            elif name == "concept" and isinstance(value, Mapping):
                value = _concept(value, place.root)
            else:
                value = _value(name, _decoded(value))
        except ValueError as error:
            return odd_row(place, column, name, str(error), identifier=_identifier(values, identifier))
        if value is not None:
            values[name] = value
    identifier = _identifier(values, identifier)
    fields: dict[str, Any] = {name: value for name, value in values.items() if "." not in name}
    concept = {name.partition(".")[2]: value for name, value in values.items() if "." in name}
    if concept:
        fields["concept"] = {**fields.get("concept", {}), **concept}
    try:
        row = SampleRow.model_validate_json(json.dumps(fields, default=str))
    except ValidationError as error:
        name, said = wrong_field(error)
        column = mapping.get(name) or mapping.get(name.partition(".")[0], name)
        return odd_row(place, column, name, said, identifier=identifier)
    row.id = identifier
    path = row.image or ""
    if data is not None:
        row.image = None
    return TableRow(place.position, path, FileRow(row, b""), data)


def odd_row(place: Place, column: str, name: str, said: str, *, identifier: str = "", path: str = "") -> TableRow:
    """A row that is no sample; `column` "" where it is not one cell's fault."""
    code = FailureCode.BAD_TEXT
    if name.startswith("image"):
        code = FailureCode.BAD_IMAGE
    elif name.startswith("concept.references"):
        code = FailureCode.BAD_REFERENCE
    message = f"{place.where}{f', column {column!r}' if column else ''}: {said}"
    failure = Failure(code, printable(message), name)
    row = SampleRow(id=identifier or place.default_id)
    return TableRow(place.position, printable(path), FileRow(row, b"", failure))


def outside(path: str, root: Path | None) -> bool:
    """Whether a path leads out of `root`, by its words alone: links in the folder may point anywhere."""
    if root is None:
        return False
    base = os.path.abspath(root)
    return not (os.path.normpath(os.path.join(base, path)) + os.sep).startswith(os.path.join(base, ""))


def printable(text: str) -> str:
    """With what is no Unicode text (a file's name may be anything) written out."""
    return text.encode("utf-8", "backslashreplace").decode().replace("\0", "\\0")


def _picture(value: Any, root: Path | None) -> tuple[str | None, bytes | None]:
    """(path, bytes) of a cell with a path, a file's bytes, or both as `datasets` has them."""
    if isinstance(value, Broken):
        raise ValueError(value.problem)
    if isinstance(value, bytes | bytearray | memoryview):
        return None, bytes(value)
    if isinstance(value, Mapping) and set(value) <= {"bytes", "path"}:
        path = value.get("path")
        if value.get("bytes") is not None:
            return path if isinstance(path, str) else None, bytes(value["bytes"])
        return (None, None) if path is None else (_path(path, root), None)
    return _path(value, root), None


def _path(value: Any, root: Path | None) -> str:
    text = _decoded(value)
    if not isinstance(text, str):
        raise ValueError(f"expected a path or the bytes of a PNG, JPEG or WebP file, got {type(value).__name__}")
    if _URL.match(text):
        raise ValueError(f"{text[:80]!r} is an address, and nothing is downloaded; fetch the pictures, and give paths")
    if outside(text, root):
        raise ValueError(f"{text!r} leads out of {root}; name the folder that has all pictures with --pictures")
    return text


def _value(name: str, value: Any) -> Any:
    if name in _LISTS:
        return _list(value)
    if name == "target" and isinstance(value, str):
        if not value.strip().lstrip("-").isdigit():
            raise ValueError(f"expected a whole number, got {value[:80]!r}")
        return int(value)
    if name in ("id", "group") and isinstance(value, int) and not isinstance(value, bool):
        return str(value)
    if name in ("metadata", "concept") and isinstance(value, str):
        return _json(value, dict, "an object")
    return value


def _list(value: Any) -> list[Any]:
    """A list, a list as JSON in a text, or a single text."""
    if isinstance(value, str):
        return _json(value, list, "a list of texts") if value.startswith("[") else [value]
    if not isinstance(value, list | tuple):
        raise ValueError(f"expected a list of texts, got {str(value)[:80]}")
    return [_decoded(one) for one in value]


def _json(text: str, kind: type, said: str) -> Any:
    try:
        found = json.loads(text)
    except ValueError as error:
        raise ValueError(f"expected {said} as JSON, got {text[:80]!r}: {error}") from error
    if not isinstance(found, kind):
        raise ValueError(f"expected {said} as JSON, got {text[:80]!r}")
    return found


def _concept(value: Mapping[str, Any], root: Path | None) -> dict[str, Any]:
    found = {name: one for name, one in value.items() if not _absent(one)}
    if "references" in found:
        found["references"] = [_path(one, root) for one in _list(found["references"])]
    return found


def _decoded(value: Any) -> Any:
    """The value; raises ValueError for a text that was no UTF-8 (read with `surrogateescape`)."""
    if isinstance(value, str) and not value.isascii():
        try:
            value.encode()
        except UnicodeEncodeError as error:
            byte = ord(value[error.start]) & 0xFF
            raise ValueError(
                f"no UTF-8 (byte 0x{byte:02x} at character {error.start + 1}); save the file as UTF-8"
            ) from None
    return value


def _absent(value: Any) -> bool:
    return value is None or value == "" or (isinstance(value, float) and value != value)


def _identifier(values: Mapping[str, Any], default: str) -> str:
    found = values.get("id")
    return found if isinstance(found, str) and found else default
