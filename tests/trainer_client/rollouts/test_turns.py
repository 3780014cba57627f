"""Rollouts take turns in an order that no answer's delay can change."""

from __future__ import annotations

import threading
from concurrent.futures import CancelledError, Future

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sync_r1.trainer_client.rollouts.interleave import Suspended, interleave
from sync_r1.trainer_client.rollouts.phase_timer import Phases


def turns(rounds: list[int], at_once: int, delays_s: list[float]) -> tuple[list[str], list[tuple[int, str]]]:
    """What happened, in order, and the results of rollouts that ask `rounds[i]` times each; the k-th answer to be asked
    for comes `delays_s[k]` later.
    """
    happened: list[str] = []
    asked = 0

    async def rollout(name: int) -> str:
        nonlocal asked
        for question in range(rounds[name]):
            happened.append(f"{name} asks {question}")
            answer: Future[int] = Future()
            delay_s = delays_s[asked % len(delays_s)]
            asked += 1
            if delay_s:
                threading.Timer(delay_s, answer.set_result, [question]).start()
            else:
                answer.set_result(question)
            assert await Suspended(answer) == question
        happened.append(f"{name} ends")
        return f"result {name}"

    return happened, list(interleave((rollout(name) for name in range(len(rounds))), at_once, Phases()))


@settings(max_examples=25, deadline=None)
@given(
    st.lists(st.integers(0, 3), min_size=1, max_size=5),
    st.integers(1, 4),
    st.lists(st.sampled_from([0.0, 0.001, 0.004]), min_size=1, max_size=7),
)
def test_the_order_does_not_depend_on_delays(rounds: list[int], at_once: int, delays_s: list[float]) -> None:
    prompt, late = turns(rounds, at_once, [0.0]), turns(rounds, at_once, delays_s)
    assert prompt == late
    assert sorted(prompt[1]) == [(name, f"result {name}") for name in range(len(rounds))]


def test_others_sample_while_one_waits_and_the_bound_holds() -> None:
    happened, results = turns([1, 1, 1], 2, [0.0])
    assert happened == ["0 asks 0", "1 asks 0", "0 ends", "2 asks 0", "1 ends", "2 ends"]
    assert [name for name, _ in results] == [0, 1, 2]


def test_one_after_the_other_with_one_at_once() -> None:
    happened, _ = turns([1, 2], 1, [0.0])
    assert happened == ["0 asks 0", "0 ends", "1 asks 0", "1 asks 1", "1 ends"]


@pytest.mark.parametrize("error", [ValueError("the service is gone"), CancelledError()])
def test_an_answer_that_fails_ends_all_of_them(error: BaseException) -> None:
    ended: list[int] = []

    async def rollout(name: int) -> None:
        answer: Future[None] = Future()
        if name == 0:
            answer.set_exception(error)
        try:
            await Suspended(answer)
        finally:
            ended.append(name)

    with pytest.raises(type(error)):
        list(interleave((rollout(name) for name in range(5)), 3, Phases()))
    assert ended == [0, 1, 2]
