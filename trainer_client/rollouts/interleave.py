"""Rollouts in turns: while the gate of one is asked, the others sample.

    chunk 0:  preview ─▶ gate ··················▶ finish
    chunk 1:             preview ─▶ gate ·················▶ finish
    chunk 2:                        preview ─▶ gate ················▶ finish

Only one rollout samples at a time, and whose turn it is depends on the rollouts alone: each samples until it asks its
gate, and then the one that has waited longest goes on, even if another's answer came first. Random numbers are so drawn
in the same order, and a selector learns in the same order, however long the services take.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Coroutine, Generator, Iterable, Iterator
from concurrent.futures import Future
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from sync_r1.trainer_client.rollouts.phase_timer import Phases

Answer = TypeVar("Answer")
Result = TypeVar("Result")


@dataclass(frozen=True)
class Suspended(Generic[Answer]):
    """Awaited by a rollout: others go on until it is resumed with the answer."""

    answer: Future[Answer]

    def __await__(self) -> Generator[Future[Answer], Answer, Answer]:
        return (yield self.answer)


def interleave(
    rollouts: Iterable[Coroutine[Any, Any, Result]], at_once: int, phases: Phases
) -> Iterator[tuple[int, Result]]:
    """Run coroutines that await nothing but `Suspended`s, at most `at_once` of them begun and not finished; gives the
    number and result of each as it ends.

    Their own time is booked as "sample", the time in which all of them wait as "gate". Raises what they and the answers
    raise; the others are closed then.
    """
    waiting: deque[tuple[int, Coroutine[Any, Any, Result], Future[Any]]] = deque()
    begun = enumerate(rollouts)
    try:
        while True:
            answer = None
            if len(waiting) < at_once and (new := next(begun, None)) is not None:
                number, rollout = new
            elif waiting:
                number, rollout, asked = waiting[0]
                with phases("gate"):
                    answer = asked.result()
                waiting.popleft()
            else:
                return
            try:
                with phases("sample"):
                    waiting.append((number, rollout, rollout.send(answer)))
            except StopIteration as end:
                yield number, end.value
    finally:
        for _, rollout, _ in waiting:
            rollout.close()
