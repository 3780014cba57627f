"""Scores a JSONL file with one reward service, resumably: what `sync-r1 score` does.

A line of the input is one sample (`sample_file.py`). A line of the output holds the id, what scored it, and exactly one
of `score`, `not_applicable` and `failure`:

    {"id": "1", "reward": "…", "variant": "…", "release": "…", "score": {"value": 0.81, "components": {}, "reason": ""}}

Ids that the output already has are skipped, and the rest is scored by the release that scored those.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from sync_r1.reward_models.types import NotApplicable, Outcome, Picture, Score
from sync_r1.trainer_client.sdk.client import RewardClient
from sync_r1.trainer_client.sdk.results import ScoredBatch
from sync_r1.trainer_client.sdk.sample_file import ScoreFileError, Unreadable, parts, read_rows, to_sample


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
    rows = read_rows(source)
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
        for part in parts(todo):
            on_progress(len(rows) - missing, len(rows))
            outcomes: dict[str, Outcome] = {}
            samples = []
            for row in part:
                try:
                    samples.append(to_sample(row, source.parent, pictures))
                except Unreadable as error:
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


def _outcome_fields(outcome: Outcome, result: ScoreFileResult) -> dict[str, Any]:
    if isinstance(outcome, Score):
        result.values.append(outcome.value)
        return {"score": asdict(outcome)}
    if isinstance(outcome, NotApplicable):
        result.not_applicable += 1
        return {"not_applicable": outcome.reason}
    result.failed += 1
    return {"failure": asdict(outcome) | {"code": outcome.code.value}}
