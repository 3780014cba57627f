"""The load of the drills without the SDK: callers of the generated stub, without any retry, every score checked."""

from __future__ import annotations

import asyncio
import itertools
from collections import Counter
from types import TracebackType

import grpc

from benchmarks.reliability import coded
from sync_r1.protos.rewards.v1 import rewards_pb2_grpc

ITEMS, CALLERS = 8, 16
TIMEOUT_S = 20.0
_PAUSE_S = 0.05
"""After a call that failed."""


class StubLoad:
    """`CALLERS` callers of `ITEMS` numbered pictures each, from entering the block to leaving it."""

    def __init__(self, target: str) -> None:
        self.statuses: Counter[str] = Counter()
        self.wrong = 0
        """Scores that are not those of their pictures."""
        self.under_way = 0
        self._channel = grpc.aio.insecure_channel(target)
        self._stub = rewards_pb2_grpc.RewardServiceStub(self._channel)
        self._numbers = itertools.cycle(range(0, coded.NUMBERS - ITEMS, ITEMS))
        self._over = asyncio.Event()

    async def __aenter__(self) -> StubLoad:
        self._callers = [asyncio.ensure_future(self._call()) for _ in range(CALLERS)]
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._over.set()
        await asyncio.gather(*self._callers)
        await self._channel.close()

    async def more_than(self, code: str, count: int) -> bool:
        """Whether more than `count` calls have ended with that status."""
        return self.statuses[code] > count

    async def _call(self) -> None:
        while not self._over.is_set():
            first = next(self._numbers)
            items = range(first, first + ITEMS)
            self.under_way += 1
            try:
                answer = await self._stub.Score(coded.request(items), timeout=TIMEOUT_S)
                self.wrong += coded.wrong(items, answer)  # "+= await" would lose what others added meanwhile
                self.statuses["OK"] += 1
            except grpc.aio.AioRpcError as error:
                self.statuses[error.code().name] += 1
                await asyncio.sleep(_PAUSE_S)
            finally:
                self.under_way -= 1
