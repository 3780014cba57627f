"""The workers of one own function: what is asked of them, in which order, and what is done when one is lost.

    rows of calls ─▶ units (one item, or a batch) ─▶ queue ─▶ workers, each two units ahead
                                                       ▲        │ lost at a unit: its item fails, another worker starts
                                                       └────────┘ what it had not begun comes back; a batch item by item

A function that takes more than `restarts` workers in ten minutes is given up: its calls are GraphUnavailable, and the
service is not ready.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass

from sync_r1.reward_models.python_code.frames import read_outcome, write_rows
from sync_r1.reward_models.python_code.function import PythonFunction, Row
from sync_r1.reward_models.python_code.loading import LoadError
from sync_r1.reward_models.types import Failure, FailureCode, GraphDeadline, GraphUnavailable, Outcome
from sync_r1.services.runners.python_worker import PythonWorker, WorkerLost

logger = logging.getLogger(__name__)

WINDOW_S = 600.0
_AHEAD = 2
"""Units that a worker has: one in work, and one that is there when it is done."""
_FIRST_PAUSE_S, _LONGEST_PAUSE_S = 0.5, 10.0
_MISSED_S = 5.0
"""Without any worker for so long, it is not ready."""


class _Call:
    """Rows that were asked for together."""

    def __init__(self, rows: Sequence[Row], deadline_s: float, request_id: str) -> None:
        self.rows, self.deadline_s, self.request_id = rows, deadline_s, request_id
        self.outcomes: dict[int, Outcome] = {}
        self.done: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    @property
    def over(self) -> bool:
        """Whether nobody waits for it."""
        return self.done.done() or time.monotonic() > self.deadline_s

    def answer(self, numbers: Sequence[int], outcomes: Sequence[Outcome]) -> None:
        """Take the outcomes of some rows."""
        self.outcomes |= zip(numbers, outcomes)
        if len(self.outcomes) == len(self.rows) and not self.done.done():
            self.done.set_result(None)


@dataclass(frozen=True, eq=False)
class _Unit:
    """Rows of one call of the function."""

    call: _Call
    numbers: tuple[int, ...]


class PythonPool:
    """Used from one event loop."""

    def __init__(self, function: PythonFunction) -> None:
        self._function, self._options = function, function.options
        self._queue: deque[_Unit] = deque()
        self._calls: set[_Call] = set()
        self._added = asyncio.Event()
        self._slots: list[asyncio.Task[None]] = []
        self._workers: list[PythonWorker] = []
        self._restarted_s: deque[float] = deque()
        self._missed_since_s: float | None = None
        self.failure = ""
        """Why it was given up, one sentence; empty while it was not."""

    @property
    def pids(self) -> list[int]:
        """The processes of the workers now."""
        return [worker.pid for worker in self._workers]

    @property
    def why_not_ready(self) -> str:
        """One sentence, or nothing."""
        if self.failure or not self._slots:
            return self.failure or f"{self._function} is not loaded yet"
        missed = self._missed_since_s is not None and time.monotonic() - self._missed_since_s > _MISSED_S
        return f"no worker of {self._function} runs" if missed and not self._workers else ""

    async def start(self) -> None:
        """Start all workers. Raises LoadError where one of them cannot load the function."""
        starts = [asyncio.ensure_future(PythonWorker.start(self._function)) for _ in range(self._options.workers)]
        try:
            started = await asyncio.gather(*starts, return_exceptions=True)
        except asyncio.CancelledError:
            for start in starts:
                start.cancel()
            started = await asyncio.gather(*starts, return_exceptions=True)
            await asyncio.gather(*(worker.close() for worker in started if isinstance(worker, PythonWorker)))
            raise
        workers = [worker for worker in started if isinstance(worker, PythonWorker)]
        if problem := next((one for one in started if isinstance(one, BaseException)), None):
            await asyncio.gather(*(worker.close() for worker in workers))
            raise problem
        self._slots = [asyncio.create_task(self._slot(worker)) for worker in workers]

    async def run(self, rows: Sequence[Row], deadline_s: float, request_id: str) -> list[Outcome]:
        """One outcome for each row, in order. Raises GraphUnavailable, GraphDeadline."""
        if why_not := (self.failure or ("" if self._slots else self.why_not_ready)):
            raise GraphUnavailable(why_not)
        call = _Call(rows, deadline_s, request_id)
        size = 1
        if self._function.signature.batch:
            size = max(1, min(self._options.batch_size, -(-len(rows) // self._options.workers)))
        numbers = range(len(rows))
        self._calls.add(call)
        self._queue.extend(_Unit(call, tuple(numbers[start : start + size])) for start in numbers[::size])
        self._added.set()
        remaining_s = deadline_s - time.monotonic()
        try:
            await asyncio.wait_for(call.done, remaining_s)
        except asyncio.TimeoutError:
            raise GraphDeadline(f"{self._function}: no outcome of every item within {remaining_s:.3f} s") from None
        finally:
            self._calls.discard(call)
        return [call.outcomes[number] for number in numbers]

    async def close(self) -> None:
        """End the workers."""
        for slot in self._slots:
            slot.cancel()
        await asyncio.gather(*self._slots, return_exceptions=True)

    async def _slot(self, worker: PythonWorker) -> None:
        """One worker after the other, until it is given up."""
        current: PythonWorker | None = worker
        while current is not None:
            self._workers.append(current)
            try:
                await self._serve(current)
            except WorkerLost as lost:
                logger.warning("worker %d of %s %s; another one is started", current.pid, self._function, lost)
            except Exception:
                logger.exception("worker %d of %s is replaced", current.pid, self._function)
            finally:
                self._workers.remove(current)
                self._missed_since_s = time.monotonic()
                await current.close()
            current = await self._another()

    async def _serve(self, worker: PythonWorker) -> None:
        """Give it units until it is lost; raises WorkerLost."""
        sent: deque[_Unit] = deque()
        try:
            while True:
                while len(sent) < _AHEAD and (unit := self._next()) is not None:
                    self._send(worker, unit)
                    sent.append(unit)
                if not sent:
                    await self._more(worker)
                    continue
                try:
                    told = await worker.reply(self._options.timeout_s)
                except WorkerLost as lost:
                    self._lost_at(sent.popleft(), lost)
                    raise
                if not told.get("goes_on"):
                    self._take(sent.popleft(), told)
        finally:
            self._queue.extendleft(reversed(sent))  # what it had not begun
            self._added.set()

    def _next(self) -> _Unit | None:
        while self._queue:
            unit = self._queue.popleft()
            if not unit.call.over:
                return unit
        self._added.clear()
        return None

    async def _more(self, worker: PythonWorker) -> None:
        """Wait for something to do. Raises WorkerLost."""
        added = asyncio.ensure_future(self._added.wait())
        exited = asyncio.ensure_future(worker.exited.wait())
        try:
            await asyncio.wait({added, exited}, return_when=asyncio.FIRST_COMPLETED)
        finally:
            added.cancel()
            exited.cancel()
        if worker.exited.is_set():
            raise worker.lost()

    def _send(self, worker: PythonWorker, unit: _Unit) -> None:
        written = write_rows(unit.call.rows[number] for number in unit.numbers)
        message = {"rows": written.rows, "shapes": written.shapes, "deadline_s": unit.call.deadline_s}
        worker.send(message, written.pixels)

    def _take(self, unit: _Unit, told: dict[str, object]) -> None:
        """A worker's answer to a unit. Raises WorkerLost where it is none, or the last one."""
        if told.get("too_late"):
            return
        try:
            outcomes = [read_outcome(one) for one in told["outcomes"]]  # type: ignore[attr-defined]
        except (KeyError, TypeError, ValueError, AttributeError):
            outcomes = []
        if len(outcomes) != len(unit.numbers):
            lost = WorkerLost("answered with something that is no reply")
            self._lost_at(unit, lost)
            raise lost
        unit.call.answer(unit.numbers, outcomes)
        if told.get("out_of_memory"):
            raise WorkerLost("ran out of memory")

    def _lost_at(self, unit: _Unit, lost: WorkerLost) -> None:
        """The one item is a failure; a batch is tried again, one item at a time."""
        if len(unit.numbers) > 1:
            self._queue.extendleft(_Unit(unit.call, (number,)) for number in reversed(unit.numbers))
            return
        logger.warning("request %r: %s: its worker %s at one item", unit.call.request_id, self._function, lost)
        message = f"the reward's function failed: its worker {lost} at this item; the service's log says more"
        unit.call.answer(unit.numbers, [Failure(FailureCode.INTERNAL, message, retryable=lost.may_pass)])

    async def _another(self) -> PythonWorker | None:
        """A worker in place of a lost one; None where there were too many."""
        pause_s = 0.0
        while self._may_restart():
            await asyncio.sleep(pause_s)
            try:
                return await PythonWorker.start(self._function)
            except (LoadError, OSError) as error:
                logger.warning("%s; tried again", error)
            pause_s = min(_LONGEST_PAUSE_S, max(_FIRST_PAUSE_S, 2 * pause_s))
        self.failure = self.failure or (
            f"{self._function.where}: more than {self._options.restarts} workers of {self._function} were lost within "
            f"{WINDOW_S / 60:.0f} minutes, so it is given up; the log above says why, `restarts` allows more"
        )
        logger.error(self.failure)
        for call in self._calls:
            if not call.done.done():
                call.done.set_exception(GraphUnavailable(self.failure))
        return None

    def _may_restart(self) -> bool:
        now_s = time.monotonic()
        while self._restarted_s and now_s - self._restarted_s[0] > WINDOW_S:
            self._restarted_s.popleft()
        if len(self._restarted_s) >= self._options.restarts or self.failure:
            return False
        self._restarted_s.append(now_s)
        return True
