"""Scoring in which one odd row never takes others along: a call that fails is cut up until the row stands alone.

A service answers a bad item with that item's failure. Where it refuses or breaks on the whole call nevertheless, its
halves are asked, and theirs, until what fails is a single row (or a single group that must stay whole): that is the
row's `Failure`, and the rest has scores. What is no row's fault (nobody answers, the caller may not ask) is raised.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from contextlib import nullcontext

import grpc
import grpc.aio

from sync_r1.reward_models.types import Failure, FailureCode, Outcome, Sample
from sync_r1.trainer_client.sdk.client import RewardClient
from sync_r1.trainer_client.sdk.description import VariantDescription
from sync_r1.trainer_client.sdk.errors import (
    DeadlineExceeded,
    RequestRejected,
    RewardClientError,
    ServiceBug,
    ServiceUnreachable,
    Unauthenticated,
)

_OF_THE_REQUEST = {
    grpc.StatusCode.INVALID_ARGUMENT, grpc.StatusCode.OUT_OF_RANGE, grpc.StatusCode.RESOURCE_EXHAUSTED,
    grpc.StatusCode.INTERNAL, grpc.StatusCode.UNKNOWN, grpc.StatusCode.DATA_LOSS,
}  # fmt: skip
_BROKEN_AFTER = 64
"""Rows that a service breaks on one after the other, with none between that it scores: then it is the service."""
_LATE_AFTER = 8
"""Calls in a row that end by the deadline: enough to find one slow row in a call of 64 by halving."""


class IsolatedScoring:
    """Scores parts of a file with one variant and release of a service; `timeout_s` of a call, or the client's own."""

    def __init__(
        self, client: RewardClient, variant: VariantDescription, release: str, timeout_s: float | None = None
    ) -> None:
        self._client, self._variant, self._release, self._timeout_s = client, variant, release, timeout_s
        self._broken = self._late = 0
        self._alone: asyncio.Lock | None = None
        """Set once a call was late: calls beside it may be why, so they are made one at a time for a while."""
        self._in_time = 0

    async def score(self, samples: Sequence[Sample]) -> list[Outcome]:
        """One outcome for each sample, in order; samples of a group that must stay whole are asked together.

        Raises what `RewardClient.score` raises where no row is at fault.
        """
        outcomes: dict[int, Outcome] = {}
        waiting = [self._units(samples)]  # a stack, so that rows are asked in order
        while waiting:
            units = waiting.pop()
            positions = [position for unit in units for position in unit]
            if not positions:
                continue
            try:
                alone = self._alone
                async with alone or nullcontext():
                    batch = await self._client.score(
                        [samples[position] for position in positions], variant=self._variant.name,
                        release=self._release, timeout_s=self._timeout_s,
                    )  # fmt: skip
            except RewardClientError as error:
                if isinstance(error, DeadlineExceeded) and alone is None and self._alone is not None:
                    waiting.append(units)  # it was beside the one that was late first
                    continue
                await self._raise_unless_of_rows(error, alone=len(units) == 1)
                if len(units) > 1:
                    waiting += [units[len(units) // 2 :], units[: len(units) // 2]]
                else:
                    outcomes |= dict.fromkeys(positions, _failure(error))
                continue
            self._broken = self._late = 0
            self._in_time += 1
            if self._in_time >= _LATE_AFTER:
                self._alone = None
            outcomes |= dict(zip(positions, batch.outcomes))
        return [outcomes[position] for position in range(len(samples))]

    def _units(self, samples: Sequence[Sample]) -> list[list[int]]:
        units: dict[tuple[str, int], list[int]] = {}
        for position, sample in enumerate(samples):
            whole = self._variant.groupwise and bool(sample.group)
            units.setdefault((sample.group, -1) if whole else ("", position), []).append(position)
        return list(units.values())

    async def _raise_unless_of_rows(self, error: RewardClientError, *, alone: bool) -> None:
        """Raise `error` again if it says nothing of the rows that were sent, or comes of every row."""
        cause = error.__cause__
        if isinstance(error, Unauthenticated) or not isinstance(error, RequestRejected | ServiceBug | DeadlineExceeded):
            raise error
        if isinstance(error, DeadlineExceeded):
            self._late, self._in_time = self._late + 1, 0
            self._alone = self._alone or asyncio.Lock()
            if self._late >= _LATE_AFTER:
                raise error
            try:  # a service that hangs as a whole is no row's fault
                await self._client.wait_ready(self._client.settings.timeout.connect_s)
            except ServiceUnreachable:
                raise error from None
        elif isinstance(cause, grpc.aio.AioRpcError) and cause.code() not in _OF_THE_REQUEST:
            raise error
        self._broken += alone and isinstance(error, ServiceBug)
        if self._broken >= _BROKEN_AFTER:
            raise error


def _failure(error: RewardClientError) -> Failure:
    refused = isinstance(error, RequestRejected)
    code = FailureCode.BAD_TEXT if refused else FailureCode.INTERNAL
    return Failure(code, f"the call with this row alone fails: {error}", retryable=not refused)
