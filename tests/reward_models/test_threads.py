"""Work in threads: one item's texts at a time over all calls, in the order of asking, within the deadline."""

from __future__ import annotations

import threading
import time
from concurrent.futures import ThreadPoolExecutor

import pytest

from sync_r1.reward_models.threads import IN_TURN, Turns, each_in_turn
from sync_r1.reward_models.types import GraphDeadline


def test_one_item_is_worked_on_at_a_time_over_all_threads() -> None:
    inside: list[int] = []
    most = 0

    def work(item: int) -> int:
        nonlocal most
        inside.append(item)
        most = max(most, len(inside))
        time.sleep(0.001)
        inside.remove(item)
        return -item

    later_s = time.monotonic() + 60
    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(lambda n: each_in_turn(work, range(n, n + 20), later_s), range(0, 80, 20)))
    assert found == [[-item for item in range(n, n + 20)] for n in range(0, 80, 20)]
    assert most == 1


def test_a_long_call_lets_a_short_one_in_between_its_items() -> None:
    order: list[str] = []
    begun = threading.Event()

    def work(name: str) -> None:
        begun.set()
        time.sleep(0.005)
        order.append(name)

    later_s = time.monotonic() + 60
    with ThreadPoolExecutor(2) as pool:
        long = pool.submit(each_in_turn, work, ["long"] * 40, later_s)
        begun.wait(20)
        short = pool.submit(each_in_turn, work, ["short"], later_s)
        long.result()
        short.result()
    assert order.index("short") < 39


def test_the_thread_that_has_its_turn_may_take_it_again() -> None:
    turns = Turns()
    with turns, turns:
        pass
    with turns:
        pass
    assert each_in_turn(lambda item: each_in_turn(str, [item], time.monotonic() + 9), [7], time.monotonic() + 9) == [
        ["7"]
    ]


def test_an_item_that_raises_and_a_deadline_give_the_turn_on() -> None:
    with pytest.raises(ZeroDivisionError):
        each_in_turn(lambda item: 1 // item, [0], time.monotonic() + 9)
    with pytest.raises(GraphDeadline):
        each_in_turn(str, [1], time.monotonic() - 1)
    with ThreadPoolExecutor(1) as pool:
        assert pool.submit(each_in_turn, str, [1], time.monotonic() + 9).result(20) == ["1"]
    assert IN_TURN._depth == 0
