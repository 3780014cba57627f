"""Scores a JSONL file with one reward service, resumably: what `sync-r1 score` does.

    describe ─▶ match the output's lines with the input's rows ─▶ score the others ─▶ bring the output into order

Rows are matched by what was scored (`row_identity.py`), never by where they stand. Rows that failed in an earlier run
are tried again, after those that were never tried: no row can keep others from being scored. The finished output has
one line for each row of the input, in its order, whatever was interrupted on the way.
"""

from __future__ import annotations

from array import array
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from types import TracebackType
from typing import Any

from sync_r1.reward_models.types import Failure, FailureCode, NotApplicable, Outcome, Sample, Score
from sync_r1.trainer_client.sdk.client import RewardClient
from sync_r1.trainer_client.sdk.description import ServiceDescription, VariantDescription
from sync_r1.trainer_client.sdk.errors import ServiceBug
from sync_r1.trainer_client.sdk.isolated_scoring import IsolatedScoring
from sync_r1.trainer_client.sdk.picture_files import PictureFiles, Unreadable
from sync_r1.trainer_client.sdk.pictures import EncodedPicture
from sync_r1.trainer_client.sdk.row_identity import RowKey, RowKeys, member_digests, sample_digest
from sync_r1.trainer_client.sdk.sample_file import BATCH, FileRow, SampleFile, ScoreFileError, units
from sync_r1.trainer_client.sdk.score_output import ABSENT, ScoreOutput

_DESCRIBE_S = 10.0
_MAX_BATCH_BYTES = 64 << 20
"""Of pictures that are held to be sent together; a single row or group may have more."""


@dataclass(frozen=True)
class ScoreFileResult:
    """What is known of the rows of an input, whichever run found it out."""

    scored: int
    mean: float
    """Of the scores; NaN if there is none."""
    failed: int
    not_applicable: int
    done_before: int
    """Rows that an earlier run had scored, or found not applicable."""
    superseded: int
    """Earlier scores of rows that the input does not have (so) any more, moved to NAME.superseded."""


class ScoreFiles:
    """The input and the output of one run, checked and held before any service is asked. Raises ScoreFileError."""

    def __init__(self, source: Path, target: Path) -> None:
        self.source = SampleFile(source)
        self.output = ScoreOutput(target, source)

    def __enter__(self) -> ScoreFiles:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.output.close()

    async def score(
        self,
        client: RewardClient,
        *,
        variant: str = "",
        rescore: bool = False,
        on_progress: Callable[[int, int], None] = lambda done, total: None,
    ) -> ScoreFileResult:
        """Score the rows of the input that the output has no score of.

        The output's release is used again if the service still has it. With `rescore`, rows that another variant,
        release or version of this program scored are scored again. `on_progress` is told (rows done, rows in all).
        Raises ScoreFileError before anything is changed, or what `RewardClient.score` raises where no row is at fault;
        what was scored until then is in the output, and the next call goes on from there.
        """
        described = await client.describe(timeout_s=_DESCRIBE_S)
        chosen, release = _choose(self.output, described, variant, rescore)
        run = _Run(client, self, described, chosen, release, on_progress)
        run.match()
        for failed_before in (False, True):
            await run.score(failed_before)
        return run.finish()


async def score_file(
    client: RewardClient,
    source: Path,
    target: Path,
    *,
    variant: str = "",
    rescore: bool = False,
    on_progress: Callable[[int, int], None] = lambda done, total: None,
) -> ScoreFileResult:
    """Score the rows of `source` that `target` has no score of; raises what `ScoreFiles` and its `score` raise."""
    with ScoreFiles(source, target) as files:
        return await files.score(client, variant=variant, rescore=rescore, on_progress=on_progress)


@dataclass(frozen=True)
class _Row:
    """A row on its way: what identifies it, and what can be sent of it."""

    position: int
    id: str
    key: RowKey
    loaded: Sample | Failure


class _Run:
    def __init__(
        self,
        client: RewardClient,
        files: ScoreFiles,
        described: ServiceDescription,
        variant: VariantDescription,
        release: str,
        on_progress: Callable[[int, int], None],
    ) -> None:
        self._source, self._output = files.source, files.output
        self._variant, self._release, self._on_progress = variant, release, on_progress
        self._scored_by = (described.reward, variant.name, release)
        self._scoring = IsolatedScoring(client, variant, release)
        self._pictures = PictureFiles(files.source.path.parent, max_bytes=described.limits.max_image_bytes)
        self._order = array("q", [ABSENT]) * files.source.count
        self._expected: dict[int, RowKey] | None = None
        """Of rows without a score, by position, once `match` has read them all; None: no row has one."""
        self._failed: set[int] = set()
        self._done = self._done_before = 0

    def match(self) -> None:
        """Find the rows' lines in the output, and bring those into order under the rows' present ids."""
        if self._output.empty:
            self._output.cut_torn()
            return
        keys, self._expected = RowKeys(self._variant.name, self._release), {}
        for unit in self._units():
            for row in self._load(unit, keys):
                found = self._output.find(row.key)
                self._order[row.position] = found.offset if found else ABSENT
                if found and not found.failed:
                    self._done_before += 1
                else:
                    self._expected[row.position] = row.key
                    self._failed |= {row.position} if found else set()
        self._done = self._done_before
        self._output.cut_torn()
        self._arrange()

    async def score(self, failed_before: bool) -> None:
        """Score what has no score: rows that were never tried, or those that have failed before."""
        if failed_before and not self._failed:
            return
        keys = RowKeys(self._variant.name, self._release)
        batch: list[_Row] = []
        size = 0
        for unit in self._units():
            todo = [at for at, _ in unit if self._expected is None or at in self._expected]
            if not todo or failed_before != any(at in self._failed for at in todo):
                continue
            rows = self._load(unit, keys)  # all of a group: scores may depend on all of it
            added = sum(map(_picture_bytes, rows))
            if batch and (len(batch) + len(rows) > BATCH or size + added > _MAX_BATCH_BYTES):
                await self._score_batch(batch)
                batch, size = [], 0
            batch += rows
            size += added
        if batch:
            await self._score_batch(batch)

    def finish(self) -> ScoreFileResult:
        """Bring the output into order and count what it says."""
        self._arrange()
        self._on_progress(len(self._order), len(self._order))
        total, counts = 0.0, [0, 0, 0]
        for line in self._output.lines(self._order):
            if line.score is not None:
                total += line.score.value
            counts[0 if line.score is not None else 1 if line.failure is not None else 2] += 1
        scored, failed, not_applicable = counts
        mean = total / scored if scored else float("nan")
        return ScoreFileResult(scored, mean, failed, not_applicable, self._done_before, self._output.superseded)

    def _arrange(self) -> None:
        if not self._output.is_arranged(self._order, self._ids()):
            self._order = self._output.arrange(self._order, self._ids(), self._scored_by)

    def _ids(self) -> Iterator[str]:
        return (one.row.id for one in self._source.rows())

    def _units(self) -> Iterator[list[tuple[int, FileRow]]]:
        return units(self._source, groupwise=self._variant.groupwise)

    def _load(self, unit: Sequence[tuple[int, FileRow]], keys: RowKeys) -> list[_Row]:
        loaded: list[Sample | Failure] = []
        inputs = []
        for _, one in unit:
            try:
                sample = self._pictures.to_sample(
                    one, image=self._variant.needs_image, references=self._variant.needs_references
                )
                loaded.append(sample)
                inputs.append(sample_digest(sample, self._variant))
            except Unreadable as error:
                loaded.append(error.failure)
                inputs.append(one.digest)
        if self._variant.groupwise and unit[0][1].row.group:
            inputs = member_digests(inputs)
        rows = []
        for (position, one), sample_or_failure, digest in zip(unit, loaded, inputs):
            key = keys.key(digest)
            expected = (self._expected or {}).get(position, key)
            if key.digest != expected.digest:
                message = "its pictures changed while the file was scored; run the same command again"
                sample_or_failure = Failure(FailureCode.BAD_IMAGE, message, retryable=True)
            rows.append(_Row(position, one.row.id, expected, sample_or_failure))
        return rows

    async def _score_batch(self, rows: list[_Row]) -> None:
        """Score the rows, and write the lines of those that had no score."""
        self._on_progress(self._done, len(self._order))
        samples = [row.loaded for row in rows if isinstance(row.loaded, Sample)]
        answers = iter(await self._scoring.score(samples) if samples else [])
        outcomes = [row.loaded if isinstance(row.loaded, Failure) else next(answers) for row in rows]
        new = [
            (row, outcome)
            for row, outcome in zip(rows, outcomes)
            if self._expected is None or row.position in self._expected
        ]
        lines = [(row.key, self._fields(row, outcome)) for row, outcome in new]
        for (row, _), offset in zip(new, self._output.append(lines)):
            self._order[row.position] = offset
        self._done += len(new)

    def _fields(self, row: _Row, outcome: Outcome) -> dict[str, Any]:
        names = dict(zip(("reward", "variant", "release"), self._scored_by))
        if isinstance(outcome, Score):
            return {"id": row.id, **names, "score": asdict(outcome)}
        if isinstance(outcome, NotApplicable):
            return {"id": row.id, **names, "not_applicable": outcome.reason}
        return {"id": row.id, **names, "failure": asdict(outcome) | {"code": outcome.code.value}}


def _choose(
    output: ScoreOutput, described: ServiceDescription, variant: str, rescore: bool
) -> tuple[VariantDescription, str]:
    """The variant and release to score with. Raises ScoreFileError when the output holds what another one scored."""
    if others := {reward for reward, _, _ in output.scored_by} - {described.reward}:
        raise ScoreFileError(
            f"{output.path} holds scores of {', '.join(sorted(others))}, but {described.reward} answers; "
            "give another --output"
        )
    held = sorted({(name, release) for _, name, release in output.scored_by})
    only = held[0] if len(held) == 1 else ("", "")
    chosen = described.variant(variant or (only[0] if not rescore or only[0] in described.variants else ""))
    release = described.default_releases.get(chosen.name, "")
    if not release:
        raise ServiceBug(f"the service {described.reward!r} names no release of its variant {chosen.name!r}")
    if only[0] == chosen.name and described.releases.get(only[1]) == chosen.name and not rescore:
        release = only[1]  # no longer the default, but still served
    cure = "give another --output, or --rescore to score those rows again"
    if output.old_lines and not rescore:
        raise ScoreFileError(
            f"{output.path} was written by an earlier version, which did not record what it scored, so its "
            f"{output.old_lines} rows cannot be matched with the input's; {cure}"
        )
    if not rescore and held and held != [(chosen.name, release)]:
        found = ", ".join(f"{name}@{digest[:12]}" for name, digest in held)
        asked = f"{chosen.name}@{release[:12]}"
        raise ScoreFileError(f"{output.path} holds scores of {found}, the service would give {asked}; {cure}")
    return chosen, release


def _picture_bytes(row: _Row) -> int:
    picture = row.loaded.image if isinstance(row.loaded, Sample) else None
    return len(picture.data) if isinstance(picture, EncodedPicture) else 0
