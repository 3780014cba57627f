"""Work on texts and pictures in threads: off the event loop, and never begun once the call's deadline has passed."""

from __future__ import annotations

import asyncio
import time
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
    whoever goes through many items in one goes through them by this."""
    for item in items:
        check(deadline_s)
        yield item


def check(deadline_s: float) -> None:
    """Raise GraphDeadline if it has passed."""
    if time.monotonic() > deadline_s:
        raise GraphDeadline("the deadline passed before the work was begun, or in the middle of it")
