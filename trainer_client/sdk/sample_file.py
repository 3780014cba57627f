"""Samples in a JSONL file: one JSON object per line with the field names of `Sample`, pictures as paths.

    {"id": "1", "image": "out/1.png", "prompt": "a red dog", "concept": {"name": "<bo>", "references": ["bo/1.png"]}}

The file is UTF-8; only "\\n" ends a line. Paths are relative to the file. A row without an id gets its line number. A
line that is no sample is that row's failure; the file as a whole is refused when nothing in it can be scored.
"""

from __future__ import annotations

import json
import stat
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, TypeVar

from pydantic import BaseModel, ConfigDict, ValidationError

from sync_r1.reward_models.errors import SyncR1Error
from sync_r1.reward_models.types import Failure, FailureCode
from sync_r1.trainer_client.sdk.row_identity import text_digest

Row = TypeVar("Row")
BATCH = 64
_MEBIBYTE = 1 << 20
_MAX_LINE_BYTES = 16 * _MEBIBYTE
_BYTE_ORDER_MARKS = {
    b"\xef\xbb\xbf": "a byte-order mark (BOM)",
    b"\xff\xfe": "the byte-order mark (BOM) of UTF-16",
    b"\xfe\xff": "the byte-order mark (BOM) of UTF-16",
}


_UNIQUE = "ids must be unique, and a row without one gets its line's number"


class ScoreFileError(SyncR1Error, ValueError):
    """The input or the output file is not what it should be; the message names file, line and cure."""


class _Row(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True)


class _ConceptRow(_Row):
    name: str = ""
    class_noun: str = ""
    references: tuple[str, ...] = ()
    info: str = ""
    extra_info: tuple[str, ...] = ()
    conversation_type: str = ""


class SampleRow(_Row):
    """One line."""

    id: str = ""
    group: str = ""
    image: str | None = None
    prompt: str = ""
    concept: _ConceptRow = _ConceptRow()
    question: str = ""
    answer: str | None = None
    reference_answers: tuple[str, ...] = ()
    choices: tuple[str, ...] = ()
    target: int | None = None
    nouns: tuple[str, ...] = ()
    metadata: dict[str, str] = {}


@dataclass(frozen=True)
class FileRow:
    """One line with a sample, or with something else: then `problem` says what, and `row` has no more than an id."""

    row: SampleRow
    digest: bytes
    """Of the line, for rows that cannot be made into a sample."""
    problem: Failure | None = None


class SampleFile:
    """A JSONL file that is read row by row, as often as needed. Raises ScoreFileError if nothing in it can be scored.

    Ids are unique: of two rows with one id the second is a failure. Memory holds the ids, not the rows.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.count = 0
        self.group_sizes: Counter[str] = Counter()
        self._stamp = self._stamped()
        with path.open("rb") as file:
            start = file.read(3)
        for mark, name in _BYTE_ORDER_MARKS.items():
            if start.startswith(mark):
                raise ScoreFileError(f"{path}, line 1 begins with {name}; save the file as UTF-8 without one")
        first = ""
        sound = 0
        for one in self.rows():
            self.count += 1
            sound += one.problem is None
            first = first or (one.problem.message if one.problem else "")
            if one.row.group:
                self.group_sizes[one.row.group] += 1
        if not self.count:
            raise ScoreFileError(f"{path} has no samples; expected one JSON object per line")
        if not sound:
            raise ScoreFileError(f"{path}: none of its {self.count} lines is a sample; {first}")

    def rows(self) -> Iterator[FileRow]:
        """Every line that is not blank, in order. Raises ScoreFileError when the file is not what it was."""
        seen: dict[bytes, int] = {}
        with self.path.open("rb") as file:
            for number, line in _lines(file):
                if not line.strip():
                    continue
                one = _parse(line, number, self.path)
                digest = text_digest(one.row.id.encode())[:16]
                if digest in seen:
                    said = f"{one.row.id!r} stands in line {seen[digest]} too; {_UNIQUE}"
                    one = _odd(line, number, self.path, "id", said)
                    while (digest := text_digest(one.row.id.encode())[:16]) in seen:  # a row may be called "line 2"
                        one.row.id += "#"
                seen[digest] = number
                yield one
        self.check_unchanged()

    def check_unchanged(self) -> None:
        """Raises ScoreFileError when the file is not what it was: its rows could be taken for one another."""
        if self._stamped() != self._stamp:
            raise ScoreFileError(f"{self.path} was changed while it was read; run the same command again")

    def _stamped(self) -> tuple[int, int, int]:
        try:
            found = self.path.stat()
        except (OSError, ValueError) as error:
            raise ScoreFileError(f"cannot read {self.path}: {reason(error)}") from error
        if not stat.S_ISREG(found.st_mode):
            raise ScoreFileError(f"{self.path} is no regular file; it is read more than once, so save the rows to one")
        return found.st_ino, found.st_size, found.st_mtime_ns


def whole_groups(rows: Iterable[Row], group_of: Callable[[Row], str], sizes: Mapping[str, int]) -> Iterator[list[Row]]:
    """Single rows, and whole groups of those whose group is not "".

    A group comes when its last row was read; until then its rows are held.
    """
    open_groups: dict[str, list[Row]] = {}
    for row in rows:
        group = group_of(row)
        if not group:
            yield [row]
            continue
        members = open_groups.setdefault(group, [])
        members.append(row)
        if len(members) == sizes[group]:
            yield open_groups.pop(group)


def units(source: SampleFile, *, groupwise: bool) -> Iterator[list[tuple[int, FileRow]]]:
    """(position, row) of what must be scored together: single rows, or whole groups if scores depend on the group."""
    return whole_groups(
        enumerate(source.rows()), lambda numbered: numbered[1].row.group if groupwise else "", source.group_sizes
    )


def parts(source: SampleFile) -> Iterator[list[FileRow]]:
    """The rows in requests of about BATCH; rows of one group are together, where the last of them stands."""
    part: list[FileRow] = []
    for unit in units(source, groupwise=True):
        if part and len(part) + len(unit) > BATCH:
            yield part
            part = []
        part += [one for _, one in unit]
    if part:
        yield part


def _lines(file: BinaryIO) -> Iterator[tuple[int, bytes]]:
    """(number, line without its end); of a line that is too long only its beginning, one byte longer than allowed."""
    number = 0
    while line := file.readline(_MAX_LINE_BYTES + 1):
        number += 1
        rest = line
        while rest and not rest.endswith(b"\n"):
            rest = file.readline(_MAX_LINE_BYTES)
        yield number, line.removesuffix(b"\n")


def _parse(line: bytes, number: int, path: Path) -> FileRow:
    if len(line) > _MAX_LINE_BYTES:
        said = f"longer than {_MAX_LINE_BYTES} bytes; expected each row on a line of its own"
        return _odd(line, number, path, "", said)
    try:
        line.decode()
    except UnicodeDecodeError as error:
        said = f"no UTF-8 (byte 0x{line[error.start]:02x} at column {error.start + 1}); save the file as UTF-8"
        return _odd(line, number, path, "", said)
    try:
        row = SampleRow.model_validate_json(line)
    except ValidationError as error:
        return _odd(line, number, path, *wrong_field(error))
    row.id = row.id or str(number)
    return FileRow(row, text_digest(line))


def _odd(line: bytes, number: int, path: Path, field: str, said: str) -> FileRow:
    """A row that is no sample. It keeps its id where that can be read and is its own, and is "line N" otherwise."""
    identifier = f"line {number}"
    if field != "id":
        try:
            found = json.loads(line.decode(errors="replace"))["id"]
            if isinstance(found, str) and found and "\ufffd" not in found:
                found.encode()  # half a surrogate pair cannot be written
                identifier = found
        except (ValueError, KeyError, TypeError, RecursionError, IndexError):
            pass
    code = FailureCode.BAD_TEXT
    if field == "image":
        code = FailureCode.BAD_IMAGE
    elif field.startswith("concept.references"):
        code = FailureCode.BAD_REFERENCE
    message = f"{path}, line {number}: {field or 'the line'}: {said}"
    return FileRow(SampleRow(id=identifier), text_digest(line), Failure(code, message, field))


def wrong_field(error: ValidationError) -> tuple[str, str]:
    """(field, what is wrong with it and the cure) of the first thing that is."""
    first = error.errors()[0]
    field = ".".join(str(part) for part in first["loc"])
    given = json.dumps(first["input"], default=str)[:80]
    match first["type"]:
        case "json_invalid":
            return "", f"expected one JSON object, got {first['msg']}; only a line feed ends a line"
        case "extra_forbidden":
            return field, f"there is no such field; expected some of {', '.join(SampleRow.model_fields)}"
        case "string_type":
            cure = f'; write "{given}"' if given.lstrip("-").replace(".", "").isdigit() else ""
            return field, f"expected a text in quotes, got {given}{cure}"
        case "tuple_type":
            return field, f"expected a list of texts in brackets, got {given}"
        case "int_type":
            return field, f"expected a whole number without quotes, got {given}"
        case _:
            return field, f"{first['msg']}, got {given}"


def reason(error: OSError | ValueError) -> str:
    """What the system says of a path, without the path."""
    return getattr(error, "strerror", None) or str(error)
