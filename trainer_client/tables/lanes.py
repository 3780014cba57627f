"""One lane per use of a reward: gathers rows into calls, keeps several calls under way, records what comes back."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence

from sync_r1.reward_models.errors import SyncR1Error
from sync_r1.reward_models.types import Failure, Outcome, Sample
from sync_r1.trainer_client.sdk.client import RewardClient
from sync_r1.trainer_client.sdk.description import VariantDescription
from sync_r1.trainer_client.sdk.isolated_scoring import IsolatedScoring
from sync_r1.trainer_client.sdk.sample_file import BATCH
from sync_r1.trainer_client.tables.journal import Cell, Journal
from sync_r1.trainer_client.tables.loading import Loaded

CALLS_PER_REPLICA = 4
"""Under way at once: what keeps a replica busy while answers travel."""
_CALL_BYTES, _MOST_BYTES = 8 << 20, 96 << 20
"""Of pictures in one call, and in all that are under way; a single group may have more."""


class TooManyFailed(SyncR1Error, RuntimeError):
    """More rows failed than --max-failed allows; what was scored is kept."""


class Tally:
    """What a run has done so far, over all lanes."""

    def __init__(self, max_failed: int | None, on_done: Callable[[int], None]) -> None:
        self.failed = 0
        """Cells that failed."""
        self._max_failed, self._on_done = max_failed, on_done
        self._rows: set[int] = set()

    def add(self, cells: Sequence[Cell], outcomes: Sequence[Outcome]) -> None:
        """Raises TooManyFailed."""
        failed = [(cell, one) for cell, one in zip(cells, outcomes) if isinstance(one, Failure)]
        self.failed += len(failed)
        self._on_done(len(cells))
        if self._max_failed is None:
            return
        self._rows.update(cell.position for cell, _ in failed)
        if len(self._rows) > self._max_failed:
            last = failed[-1][1]
            raise TooManyFailed(
                f"{len(self._rows)} rows failed, more than --max-failed {self._max_failed}; the last one: "
                f"{last.code.value} {last.message}. What was scored is kept: see to the cause, and run the same again"
            )


class Lane:
    """The rows of one use (`number` in the journal) of a service."""

    def __init__(
        self, number: int, client: RewardClient, variant: VariantDescription, release: str,
        journal: Journal, tally: Tally, most_timeout_s: float,
    ) -> None:  # fmt: skip
        """`most_timeout_s`: the longest that the service works on a call."""
        self._number, self._journal, self._tally = number, journal, tally
        timeout_s = client.settings.timeout.total_s  # of a call alone: the others before it take their time too
        timeout_s = max(timeout_s, min(CALLS_PER_REPLICA * timeout_s, most_timeout_s))
        self._scoring = IsolatedScoring(client, variant, release, timeout_s)
        self._most_calls = CALLS_PER_REPLICA * max(1, len(client.stats()["replicas"]))
        self._waiting: list[Loaded] = []
        self._waiting_bytes = 0
        self._under_way: dict[asyncio.Task[None], int] = {}
        self.later = False
        """Whether there are rows that failed in an earlier run, and were left for the second pass."""

    async def first(self, units: Sequence[Sequence[Loaded]]) -> None:
        """Rows of the first pass: score those that were never tried, leave those that failed before."""
        flat = [one for unit in units for one in unit]
        failed = [one for one in flat if isinstance(one.sample, Failure)]
        self._record([one.cell for one in failed], [one.sample for one in failed if isinstance(one.sample, Failure)])
        known = iter(self._journal.find(self._number, [one.cell for one in flat]))
        done = 0
        for unit in units:
            states = [next(known) for _ in unit]
            if False in states:
                self.later = True
            elif None in states:
                await self._add(unit)
                continue
            done += sum(state is True and not isinstance(one.sample, Failure) for one, state in zip(unit, states))
        self._tally.add([Cell(0, b"")] * done, [])

    async def again(self, units: Sequence[Sequence[Loaded]]) -> None:
        """Rows of the second pass: those that failed before."""
        known = iter(self._journal.find(self._number, [one.cell for unit in units for one in unit]))
        for unit in units:
            states = [next(known) for _ in unit]
            if not all(states):
                await self._add(unit)

    async def _add(self, unit: Sequence[Loaded]) -> None:
        """All of a unit: scores may depend on all of it."""
        size = sum(one.size for one in unit)
        rows = len(self._waiting) + len(unit)
        if self._waiting and (rows > BATCH or self._waiting_bytes + size > _CALL_BYTES):
            await self._send()
        self._waiting += [one for one in unit if isinstance(one.sample, Sample)]
        self._waiting_bytes += size

    async def _send(self) -> None:
        """Send what is waiting, once there is room for one more call."""
        rows, size = self._waiting, self._waiting_bytes
        self._waiting, self._waiting_bytes = [], 0
        if not rows:
            return
        while self._under_way and (
            len(self._under_way) >= self._most_calls or sum(self._under_way.values()) + size > _MOST_BYTES
        ):
            await self._one_ended()
        self._under_way[asyncio.ensure_future(self._score(rows))] = size

    async def _score(self, rows: Sequence[Loaded]) -> None:
        outcomes = await self._scoring.score([one.sample for one in rows if isinstance(one.sample, Sample)])
        self._record([one.cell for one in rows], outcomes)

    def _record(self, cells: Sequence[Cell], outcomes: Sequence[Outcome]) -> None:
        if cells:
            self._journal.record(self._number, cells, outcomes)
            self._tally.add(cells, outcomes)

    async def _one_ended(self) -> None:
        done, _ = await asyncio.wait(self._under_way, return_when=asyncio.FIRST_COMPLETED)
        for task in done:
            del self._under_way[task]
        for task in done:
            task.result()

    async def finish(self) -> None:
        """Return once everything is recorded. Raises what `RewardClient.score` raises where no row is at fault."""
        await self._send()
        while self._under_way:
            await self._one_ended()

    async def cancel(self) -> None:
        """End what is under way."""
        tasks = list(self._under_way)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
