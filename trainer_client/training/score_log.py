"""The score log of a run (`journal.jsonl`): every score, on the disk before anything is learnt from it.

You are between services and update. A run that is killed goes on from its last checkpoint; the steps since then are
taken again, and the score log answers in place of the services, so that the run ends as if nothing had happened. It is
also the record of who scored what: each line holds the digests of the releases.

One JSON line per round of requests, appended and never changed: `key` ("12/scores-0": the first round of scores of the
step after the twelfth; gates are "12/gate-0", …), `samples` (a digest of everything that was sent), `result`. The
scores of one key are only given to samples with the same digest: a policy that draws other pictures when it takes a
step again (another machine, other libraries) must not learn from scores of pictures that it has not drawn.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import asdict, is_dataclass
from pathlib import Path
from typing import Any

import numpy as np

from sync_r1.reward_models.errors import SyncR1Error
from sync_r1.reward_models.types import Failure, FailureCode, NotApplicable, Picture, Sample
from sync_r1.trainer_client.atomic_write import append_line, cut_torn_line
from sync_r1.trainer_client.sdk.combination import Floats
from sync_r1.trainer_client.sdk.ensemble import EnsembleResult, RewardResult
from sync_r1.trainer_client.sdk.errors import RewardClientError


class ScoreLogError(SyncR1Error, RuntimeError):
    """The score log cannot be read, or holds scores of other samples; the message says what to do."""


class ScoreLog:
    """Scores by key, in `file`. `replayed` counts the rounds that were answered from it."""

    def __init__(self, file: Path) -> None:
        """Reads which keys are there; a last line that a crash tore is removed. Raises ScoreLogError."""
        self.file, self.replayed = file, 0
        self._offsets: dict[str, int] = {}
        cut_torn_line(file)
        if file.exists():
            with file.open("rb") as stream:
                offset = 0
                for number, line in enumerate(stream, start=1):
                    self._offsets[self._read(line, f"line {number}")["key"]] = offset
                    offset += len(line)

    async def scored(
        self, key: str, samples: Sequence[Sample], ask: Callable[[], Awaitable[EnsembleResult]]
    ) -> EnsembleResult:
        """The scores of `samples`: those that the log has under `key`, else what `ask` gives, written first.

        Raises ScoreLogError when the scores under `key` are those of other samples, and what `ask` raises.
        """
        digest = samples_digest(samples)
        if key not in self._offsets:
            result = await ask()
            line = json.dumps({"key": key, "samples": digest, "result": result_to_json(result)})
            self._offsets[key] = self.file.stat().st_size if self.file.exists() else 0
            append_line(self.file, line)
            return result
        with self.file.open("rb") as stream:
            stream.seek(self._offsets[key])
            entry = self._read(stream.readline(), key)
        if entry["samples"] != digest:
            raise ScoreLogError(
                f"{self.file} has scores for {key} of other samples than this run draws now (digest "
                f"{entry['samples'][:12]} there, {digest[:12]} here): the step was not repeated exactly, so machine, "
                "libraries, thread count or code differ; move journal.jsonl away to score the samples anew, which "
                "makes it a different run from the last checkpoint on"
            )
        self.replayed += 1
        return result_from_json(entry["result"])

    def _read(self, line: bytes, where: str) -> dict[str, Any]:
        try:
            entry: dict[str, Any] = json.loads(line)
            if not {"key", "samples", "result"} <= entry.keys():
                raise ValueError(f"it has only {sorted(entry)}")
        except (ValueError, AttributeError) as error:
            raise ScoreLogError(
                f"{self.file}, {where}: expected a JSON object with key, samples and result: {error}; the file was "
                "changed by something else than a run, so move it away to have the samples scored anew"
            ) from error
        return entry


def samples_digest(samples: Sequence[Sample]) -> str:
    """SHA-256 (hex) of all that decides the scores of `samples`; pictures count with the digest of their bytes.

    Empty metadata do not: logs that were written before it was a field stay valid.
    """
    digest = hashlib.sha256()
    for sample in samples:
        values = {name: value for name, value in vars(sample).items() if name != "metadata" or value}
        digest.update(json.dumps(values, default=_plain, sort_keys=True).encode())
    return digest.hexdigest()


def _plain(value: object) -> object:
    if isinstance(value, Picture):
        return value.sha256
    if is_dataclass(value):
        return vars(value)
    raise TypeError(f"a sample holds a {type(value).__name__}, which has no digest")


def result_to_json(result: EnsembleResult) -> dict[str, Any]:
    """As JSON values, numbers exact; timings of single requests are left out."""
    return {
        "rewards": {
            name: {
                "variant": reward.variant,
                "release": reward.release,
                "raw": _list(reward.raw_N),
                "scores": _list(reward.scores_N),
                "components": {component: _list(values_N) for component, values_N in reward.components.items()},
                "not_applicable": {position: asdict(item) for position, item in reward.not_applicable.items()},
                "failures": {position: asdict(failure) for position, failure in reward.failures.items()},
                "error": None if reward.error is None else str(reward.error),
                "elapsed_s": reward.elapsed_s,
            }
            for name, reward in result.rewards.items()
        },
        "contributions": {name: _list(values_N) for name, values_N in result.contributions.items()},
        "total": _list(result.total_N),
        "groups": result.groups_N.tolist(),
        "elapsed_s": result.elapsed_s,
    }


def result_from_json(values: Mapping[str, Any]) -> EnsembleResult:
    """The inverse of `result_to_json`; an error comes back as a plain RewardClientError."""
    total_N = _array(values["total"])
    return EnsembleResult(
        rewards={name: _reward(name, reward) for name, reward in values["rewards"].items()},
        contributions={name: _array(numbers) for name, numbers in values["contributions"].items()},
        total_N=total_N,
        valid_N=np.isfinite(total_N),
        groups_N=np.array(values["groups"], dtype=np.int64),
        elapsed_s=values["elapsed_s"],
    )


def _reward(name: str, values: Mapping[str, Any]) -> RewardResult:
    raw_N = _array(values["raw"])
    failures = {
        int(position): Failure(**failure | {"code": FailureCode(failure["code"])})
        for position, failure in values["failures"].items()
    }
    return RewardResult(
        reward=name,
        variant=values["variant"],
        release=values["release"],
        raw_N=raw_N,
        scores_N=_array(values["scores"]),
        valid_N=np.isfinite(raw_N),
        components={component: _array(numbers) for component, numbers in values["components"].items()},
        not_applicable={int(position): NotApplicable(**item) for position, item in values["not_applicable"].items()},
        failures=failures,
        error=None if values["error"] is None else RewardClientError(values["error"]),
        timings=(),
        elapsed_s=values["elapsed_s"],
    )


def _list(values_N: Floats) -> list[float | None]:
    """JSON has no NaN; its numbers are read back to the same bits."""
    return [None if np.isnan(value) else value for value in values_N.tolist()]


def _array(values: Sequence[float | None]) -> Floats:
    return np.array([np.nan if value is None else value for value in values], dtype=np.float64)
