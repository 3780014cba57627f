"""Whose process and event loop a client belongs to, and how its calls end when it is closed.

gRPC's threads do not survive a fork: in the child a call would hang beyond its deadline, or end the process. So a child
of a process in which a client was open says so at its first call.
"""

from __future__ import annotations

import asyncio
import os
import weakref
from collections.abc import Awaitable, Coroutine
from typing import Any, TypeVar

from sync_r1.trainer_client.sdk.errors import ClientMisused

Result = TypeVar("Result")

FORKED = (
    "this process was forked while a reward client was open in its parent, and gRPC's threads do not survive a fork; "
    "make one client per process, the first one in the child, and fork before the parent opens one (or after it has "
    "closed them), or start processes by 'spawn' or 'forkserver': multiprocessing.get_context('spawn'), "
    "DataLoader(multiprocessing_context='spawn')"
)
ELSEWHERE = (
    "this RewardClient was used on another event loop, which is open; close() it there, or make one for each loop "
    "(SyncRewardClient works from any thread)"
)
_CANCELLED = "a task of this client was cancelled by somebody else than its caller"

_open: weakref.WeakSet[Any] = weakref.WeakSet()
"""What holds gRPC channels in this process."""
_inherited: list[Any] = []
"""What held some in the process that this one was forked from: kept, because freeing a channel would use gRPC."""


def opened(holder: Any) -> None:
    """Note that `holder` has channels."""
    _open.add(holder)


def closed(holder: Any) -> None:
    """Note that its channels are closed."""
    _open.discard(holder)


def check_process() -> None:
    """Raises ClientMisused in a process that was forked while a client was open."""
    if _inherited:
        raise ClientMisused(FORKED)


def inherited() -> bool:
    """Whether clients of this process came through a fork, so that not even their channels can be closed."""
    return bool(_inherited)


def _after_fork() -> None:
    _inherited.extend(_open)


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)


async def within(work: Awaitable[Result], seconds: float) -> Result:
    """What `work` gives. Raises asyncio.TimeoutError after `seconds`; `work` is cancelled then.

    `asyncio.wait_for` of Python 3.10 and 3.11 swallows a cancellation that comes as `work` ends: a call that was ended
    at that moment would go on to its deadline.
    """
    task = asyncio.ensure_future(work)
    try:
        done, _ = await asyncio.wait((task,), timeout=max(0.0, seconds))
    finally:
        if not task.done():
            task.cancel()
    if not done:
        raise asyncio.TimeoutError
    return task.result()


class Calls:
    """The calls under way of one client or ensemble: each ends by a result or by an error that says why.

    A task that is cancelled from outside, or because the client is closed, would otherwise show its caller a
    cancellation that nobody asked the caller for.
    """

    def __init__(self) -> None:
        self._under_way: dict[asyncio.Task[Any], str] = {}

    async def run(self, work: Coroutine[Any, Any, Result]) -> Result:
        """Await `work`. Raises what it raises, and ClientMisused when it was ended from outside."""
        task = asyncio.ensure_future(work)
        self._under_way[task] = _CANCELLED
        try:
            await asyncio.wait((task,))
            if task.cancelled():
                raise ClientMisused(self._under_way[task])
            return task.result()
        finally:
            if not task.done():  # our caller gave up
                task.cancel()
                await asyncio.wait((task,))
                if not task.cancelled():
                    task.exception()  # nobody is left to hear of it
            del self._under_way[task]
            del task  # a failed one holds its error, whose frames, this one too, hold the samples

    async def end(self, why: str) -> None:
        """End all that are under way now; their callers are told `why`."""
        tasks = [task for task in self._under_way if not task.done()]
        for task in tasks:
            self._under_way[task] = why
            task.cancel()
        if tasks:
            await asyncio.wait(tasks)
