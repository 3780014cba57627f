"""From outcomes to the contract's response: the way back of `codec.py`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from sync_r1.protos.rewards.v1 import rewards_pb2
from sync_r1.reward_models.rewards.base import failure_of
from sync_r1.reward_models.types import FailureCode, MissingReferences, NotApplicable, Outcome, Score

_CODES: dict[FailureCode, Any] = {
    code: rewards_pb2.FailureCode.Value(f"FAILURE_CODE_{code.value}") for code in FailureCode
}


def response(
    request: Any, outcomes: Sequence[Outcome | MissingReferences], *, reward: str, variant: str, release: str
) -> Any:
    """The response's message, one outcome for each sample of the request, in order; without timings."""
    message = rewards_pb2.ScoreResponse(reward=reward, variant=variant, release=release)
    for sample, outcome in zip(request.samples, outcomes):
        target = message.outcomes.add(id=sample.id)
        try:
            _fill(target, outcome)
        except Exception as error:  # a judge's word that is no text, a component that is no number
            _fill(target, failure_of(error))
    return message


def _fill(target: Any, outcome: Outcome | MissingReferences) -> None:
    """Write one outcome into its message, in place of what stood there."""
    if isinstance(outcome, Score):
        target.score.value, target.score.reason = outcome.value, outcome.reason
        for name, value in outcome.components.items():
            target.score.components.add(name=name, value=value)
    elif isinstance(outcome, NotApplicable):
        target.not_applicable.reason = outcome.reason
    elif isinstance(outcome, MissingReferences):
        target.missing_references.sha256.extend(outcome.sha256)
    else:
        failure = target.failure
        failure.code = _CODES[outcome.code]
        failure.message, failure.field, failure.retryable = outcome.message, outcome.field, outcome.retryable
