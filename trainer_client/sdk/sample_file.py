"""Samples in a JSONL file: one JSON object per line with the field names of `Sample`, pictures as paths.

    {"id": "1", "image": "out/1.png", "prompt": "a red dog", "concept": {"name": "<bo>", "references": ["bo/1.png"]}}

Paths are relative to the file. A row without an id gets its line number.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

from pydantic import BaseModel, ConfigDict, ValidationError

from sync_r1.reward_models.errors import SyncR1Error
from sync_r1.reward_models.types import Concept, Failure, FailureCode, Picture, Sample
from sync_r1.trainer_client.sdk.pictures import picture

BATCH = 64


class ScoreFileError(SyncR1Error, ValueError):
    """The input or the output file is not what it should be; the message names file and line."""


class _Row(BaseModel):
    model_config = ConfigDict(extra="forbid")


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


class Unreadable(SyncR1Error):
    """A row's picture cannot be read; `failure` says which and why."""

    def __init__(self, failure: Failure) -> None:
        self.failure = failure


def read_rows(source: Path) -> list[SampleRow]:
    """Every row; ids are unique. Raises ScoreFileError naming file and line."""
    if not source.is_file():
        raise ScoreFileError(f"there is no file {source}")
    rows: list[SampleRow] = []
    seen: dict[str, int] = {}
    for number, line in enumerate(source.read_text(encoding="utf-8").splitlines(), start=1):
        if not line.strip():
            continue
        try:
            row = SampleRow.model_validate_json(line)
        except ValidationError as error:
            first = error.errors()[0]
            place = ".".join(str(part) for part in first["loc"]) or "the line"
            raise ScoreFileError(f"{source}, line {number}: {place}: {first['msg']}") from error
        row.id = row.id or str(number)
        if row.id in seen:
            raise ScoreFileError(f"{source}, line {number}: id {row.id!r} stands in line {seen[row.id]} too")
        seen[row.id] = number
        rows.append(row)
    if not rows:
        raise ScoreFileError(f"{source} has no samples; expected one JSON object per line")
    return rows


def parts(rows: Sequence[SampleRow]) -> Iterator[list[SampleRow]]:
    """The rows in requests of about BATCH; rows of one group are together, where the first of them stood."""
    groups: dict[tuple[str, str], list[SampleRow]] = {}
    for row in rows:
        groups.setdefault((row.group, "" if row.group else row.id), []).append(row)
    part: list[SampleRow] = []
    for group in groups.values():
        if part and len(part) + len(group) > BATCH:
            yield part
            part = []
        part.extend(group)
    if part:
        yield part


def to_sample(row: SampleRow, folder: Path, pictures: dict[Path, Picture]) -> Sample:
    """The sample of a row of a file in `folder`; `pictures` keeps references from row to row.

    Raises Unreadable when a picture's file cannot be read.
    """

    def read(path: str, field: str, *, keep: bool) -> Picture:
        file = folder / path
        if file in pictures:
            return pictures[file]
        try:
            loaded = picture(file)
        except OSError as error:
            code = FailureCode.BAD_REFERENCE if keep else FailureCode.BAD_IMAGE
            message = f"{field}: cannot read {file}: {error.strerror}"
            raise Unreadable(Failure(code, message, field)) from error
        if keep:  # references are shared by many rows
            pictures[file] = loaded
        return loaded

    image = read(row.image, "image", keep=False) if row.image is not None else None
    references = tuple(
        read(path, f"concept.references[{index}]", keep=True) for index, path in enumerate(row.concept.references)
    )
    concept = Concept(**{**row.concept.model_dump(), "references": references})
    return Sample(**{**row.model_dump(), "image": image, "concept": concept})
