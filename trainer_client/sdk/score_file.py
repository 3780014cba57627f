"""Scores a JSONL file with one reward service, resumably: what `sync-r1 score` does.

A line of the input is one sample, with the field names of `Sample`; pictures are paths, relative to the file:

    {"id": "1", "image": "out/1.png", "prompt": "a red dog", "concept": {"name": "<bo>", "references": ["bo/1.png"]}}

A line of the output holds the id, what scored it, and exactly one of `score`, `not_applicable` and `failure`:

    {"id": "1", "reward": "…", "variant": "…", "release": "…", "score": {"value": 0.81, "components": {}, "reason": ""}}

Ids that the output already has are skipped, and the rest is scored by the release that scored those.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, ValidationError

from sync_r1.reward_models.types import Concept, Failure, FailureCode, NotApplicable, Outcome, Picture, Sample, Score
from sync_r1.trainer_client.sdk.client import RewardClient
from sync_r1.trainer_client.sdk.pictures import picture
from sync_r1.trainer_client.sdk.results import ScoredBatch

BATCH = 64


class ScoreFileError(ValueError):
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


class _SampleRow(_Row):
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


@dataclass
class ScoreFileResult:
    """What became of the rows of an input: counts, and the values in the output's order."""

    skipped: int
    """Rows that an earlier run had done."""
    values: list[float]
    failed: int
    not_applicable: int


async def score_file(
    client: RewardClient,
    source: Path,
    target: Path,
    *,
    variant: str = "",
    on_progress: Callable[[int, int], None] = lambda done, total: None,
) -> ScoreFileResult:
    """Score the rows of `source` that `target` lacks and append them to it, batch by batch.

    `on_progress` is told (rows done, rows in all). Raises ScoreFileError before anything is scored, or what
    `RewardClient.score` raises; what was scored until then is in `target`, and the next call goes on from there.
    """
    rows = _read_rows(source)
    done, release, used_variant = _read_done(target)
    if used_variant and variant and variant != used_variant:
        raise ScoreFileError(f"{target} holds scores of variant {used_variant!r}, asked for is {variant!r}")
    # A group that an earlier run left half done comes again as a whole: its scores may depend on all of it.
    unfinished = {row.group for row in rows if row.id not in done} - {""}
    todo = [row for row in rows if row.id not in done or row.group in unfinished]
    result = ScoreFileResult(sum(row.id in done for row in rows), [], 0, 0)
    target.parent.mkdir(parents=True, exist_ok=True)
    pictures: dict[Path, Picture] = {}
    missing = len(rows) - result.skipped
    with target.open("a", encoding="utf-8") as output:
        for part in _parts(todo):
            on_progress(len(rows) - missing, len(rows))
            outcomes: dict[str, Outcome] = {}
            samples = []
            for row in part:
                try:
                    samples.append(_sample(row, source.parent, pictures))
                except _Unreadable as error:
                    outcomes[row.id] = error.failure
            batch: ScoredBatch | None = None
            if samples:
                batch = await client.score(samples, variant=variant or used_variant, release=release)
                outcomes |= {sample.id: outcome for sample, outcome in zip(samples, batch.outcomes)}
                release, used_variant = batch.release, batch.variant
            missing -= sum(row.id not in done for row in part)
            for row in part:
                if row.id in done:
                    continue
                line = {"id": row.id}
                if batch is not None:
                    line |= {"reward": batch.reward, "variant": batch.variant, "release": batch.release}
                output.write(json.dumps(line | _outcome_fields(outcomes[row.id], result)) + "\n")
            output.flush()
    on_progress(len(rows), len(rows))
    return result


def _parts(rows: list[_SampleRow]) -> Iterator[list[_SampleRow]]:
    """The rows in parts of about BATCH; rows of one group are together, where the first of them stood."""
    groups: dict[tuple[str, str], list[_SampleRow]] = {}
    for row in rows:
        groups.setdefault((row.group, "" if row.group else row.id), []).append(row)
    part: list[_SampleRow] = []
    for group in groups.values():
        if part and len(part) + len(group) > BATCH:
            yield part
            part = []
        part.extend(group)
    if part:
        yield part


class _Unreadable(Exception):
    def __init__(self, failure: Failure) -> None:
        self.failure = failure


def _read_rows(source: Path) -> list[_SampleRow]:
    if not source.is_file():
        raise ScoreFileError(f"there is no file {source}")
    rows: list[_SampleRow] = []
    seen: dict[str, int] = {}
    for number, line in enumerate(source.read_text(encoding="utf-8").splitlines(), start=1):
        if not line.strip():
            continue
        try:
            row = _SampleRow.model_validate_json(line)
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


def _read_done(target: Path) -> tuple[set[str], str, str]:
    """Ids that need no scoring, and the release and variant of the scores. Cuts off a half-written last line."""
    if not target.exists():
        return set(), "", ""
    content = target.read_bytes()
    whole = content.rfind(b"\n") + 1
    if whole < len(content):  # an earlier run was killed in the middle of a line
        with target.open("rb+") as file:
            file.truncate(whole)
    ids, release, variant = set(), "", ""
    for number, line in enumerate(content[:whole].decode().splitlines(), start=1):
        try:
            row = json.loads(line)
            ids.add(row["id"])
        except (ValueError, KeyError, TypeError) as error:
            raise ScoreFileError(f"{target}, line {number} was not written by `sync-r1 score`; move it away") from error
        release, variant = row.get("release", release), row.get("variant", variant)
    return ids, release, variant


def _sample(row: _SampleRow, folder: Path, pictures: dict[Path, Picture]) -> Sample:
    """Raises _Unreadable when a picture's file cannot be read."""

    def read(path: str, field: str, *, keep: bool) -> Picture:
        file = folder / path
        if file in pictures:
            return pictures[file]
        try:
            loaded = picture(file)
        except OSError as error:
            code = FailureCode.BAD_REFERENCE if keep else FailureCode.BAD_IMAGE
            message = f"{field}: cannot read {file}: {error.strerror}"
            raise _Unreadable(Failure(code, message, field)) from error
        if keep:  # references are shared by many rows
            pictures[file] = loaded
        return loaded

    image = read(row.image, "image", keep=False) if row.image is not None else None
    references = tuple(
        read(path, f"concept.references[{index}]", keep=True) for index, path in enumerate(row.concept.references)
    )
    concept = Concept(**{**row.concept.model_dump(), "references": references})
    return Sample(**{**row.model_dump(), "image": image, "concept": concept})


def _outcome_fields(outcome: Outcome, result: ScoreFileResult) -> dict[str, Any]:
    if isinstance(outcome, Score):
        result.values.append(outcome.value)
        return {"score": asdict(outcome)}
    if isinstance(outcome, NotApplicable):
        result.not_applicable += 1
        return {"not_applicable": outcome.reason}
    result.failed += 1
    return {"failure": asdict(outcome) | {"code": outcome.code.value}}
