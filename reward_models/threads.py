"""Work on texts and pictures in threads: off the event loop, and never begun once the call's deadline has passed.

Work on texts is Python's own, which holds the interpreter: of several such threads each would have the event loop wait
once more, every time it wakes. So one item's texts are worked on at a time (`each_in_turn`), in the order of asking.
"""

from __future__ import annotations

import asyncio
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from typing import TypeVar

from sync_r1.reward_models.types import GraphDeadline

Result = TypeVar("Result")
Item = TypeVar("Item")


async def in_thread(deadline_s: float, work: Callable[[], Result]) -> Result:
    """What `work` gives, done in a thread. `deadline_s` is on `time.monotonic()`'s clock.

    Raises GraphDeadline where no thread was free before it: a caller that is gone would be worked for.
    """

    def begin() -> Result:
        check(deadline_s)
        return work()

    return await asyncio.to_thread(begin)


def in_time(items: Iterable[Item], deadline_s: float) -> Iterator[Item]:
    """The items, one by one, as long as there is time. Raises GraphDeadline. A thread cannot be stopped from outside:
    whoever goes through many items in one goes through them by this, or by `each_in_turn` where Python does the work.
    """
    for item in items:
        check(deadline_s)
        yield item


def each_in_turn(work: Callable[[Item], Result], items: Iterable[Item], deadline_s: float) -> list[Result]:
    """What `work` gives for each item, while no other thread is in here, as long as there is time.

    Raises GraphDeadline.
    """
    results = []
    for item in in_time(items, deadline_s):
        with IN_TURN:
            results.append(work(item))
    return results


class Turns:
    """A lock for the block, handed to whoever has waited for it longest. The thread that holds it may enter again."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._waiting: deque[threading.Lock] = deque()
        self._owner, self._depth = 0, 0

    def __enter__(self) -> None:
        me = threading.get_ident()
        if self._owner == me:  # nobody else can set it to that
            self._depth += 1
            return
        mine: threading.Lock | None = None
        with self._lock:
            if self._depth:
                mine = threading.Lock()
                mine.acquire()
                self._waiting.append(mine)
            else:
                self._owner, self._depth = me, 1
        if mine is not None:
            mine.acquire()  # until it is handed over: every holder ends with its item
            self._owner = me

    def __exit__(self, *_: object) -> None:
        if self._depth > 1:
            self._depth -= 1
            return
        with self._lock:
            self._owner = 0
            if self._waiting:
                self._waiting.popleft().release()  # `_depth` stays 1: it is the next one's
            else:
                self._depth = 0


IN_TURN = Turns()
"""Of this process."""


def check(deadline_s: float) -> None:
    """Raise GraphDeadline if it has passed."""
    if time.monotonic() > deadline_s:
        raise GraphDeadline("the deadline passed before the work was begun, or in the middle of it")
