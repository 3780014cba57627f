"""Alarms on made-up traces in which the right answer is known: each fires on its fault, and none on a sound run."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from sync_r1.trainer_client.monitoring.alarms import Alarm, alarms, held_out_alarms, mean_correlation
from sync_r1.trainer_client.monitoring.trends import RECENT, WINDOW

STEPS = 4 * WINDOW
WEIGHTS = {"beauty": 1.0, "truth": 0.0}
BATCH_NOISE = 0.04
"""Between the means of two batches; in a run of the pocket job it is 0.03 to 0.05."""
Trace = list[dict[str, Any]]


def sound(seed: int = 0, steps: int = STEPS, rise: float = 0.15) -> Trace:
    """A run whose trained reward rises and whose held-out one stays."""
    rng = np.random.default_rng(seed)

    def reward(mean: float) -> dict[str, Any]:
        return {
            "count": 48, "mean": mean + BATCH_NOISE * rng.standard_normal(), "std": 0.15, "group_std": 0.1,
            "at_low": 0.0, "at_high": 0.05, "cut_off": 0.0, "flat_groups": 0.1, "release": "a" * 64, "variant": "v",
        }  # fmt: skip

    return [
        {
            "rewards": {"beauty": reward(0.5 + rise * step / steps), "truth": reward(0.6), "total": reward(0.5)},
            "correlations": {"beauty|truth": {"r": 0.3 + 0.1 * rng.standard_normal(), "n": 48}},
            "duplicates": {
                "pictures": 0.2,
                "answers": 0.8,
                "common_answer": 0.3,
                "picture_distance": 0.15 + 0.02 * rng.standard_normal(),
            },
        }
        for step in range(steps)
    ]


def changed(change: Callable[[dict[str, Any], float], None], start: int = WINDOW) -> Trace:
    """A sound run in which `change` is done to each step's figures from step `start` on, told how far the run is."""
    trace = copy.deepcopy(sound())
    for number, figures in enumerate(trace[start:], start):
        change(figures, number / STEPS)
    return trace


def seen(trace: Trace, weights: dict[str, float] = WEIGHTS) -> dict[tuple[str, str], Alarm]:
    """Everything that is said at any step of the run."""
    return {
        (alarm.kind, alarm.subject): alarm for end in range(1, len(trace) + 1) for alarm in alarms(trace[:end], weights)
    }


def test_a_sound_run_says_nothing() -> None:
    assert seen(sound()) == {}


def test_hundreds_of_sound_runs_say_almost_nothing() -> None:
    """Looked at every fifth step; runs that learn, and runs in which nothing happens at all."""
    said = [
        alarm
        for seed in range(200)
        for end in range(2 * WINDOW, STEPS + 1, 5)
        for alarm in alarms(sound(seed, rise=0.15 * (seed % 2))[:end], WEIGHTS)
    ]
    assert len(said) <= 2


def falls(name: str) -> Callable[[dict[str, Any], float], None]:
    def change(figures: dict[str, Any], progress: float) -> None:
        figures["rewards"][name]["mean"] -= 0.25 * progress

    return change


def test_a_trained_reward_that_rises_while_a_held_out_one_falls_is_hacking() -> None:
    alarm = seen(changed(falls("truth")))["hacking", "truth"]
    assert alarm.level == "alarm"
    assert "the trained reward rose by 0.1" in alarm.message
    assert "truth, which is not trained, fell by 0.2" in alarm.message


def test_a_trained_part_that_falls_while_the_whole_rises_is_a_trade_off() -> None:
    said = seen(changed(falls("truth")), {"beauty": 0.9, "truth": 0.1})
    assert {key: alarm.level for key, alarm in said.items()} == {("trade-off", "truth"): "notice"}


def test_everything_that_falls_together_is_a_decline_and_no_hacking() -> None:
    def change(figures: dict[str, Any], progress: float) -> None:
        for name in ("beauty", "truth"):
            figures["rewards"][name]["mean"] -= 0.3 * progress

    assert set(seen(changed(change))) == {("decline", "total")}


def set_to(*path: str, value: object) -> Callable[[dict[str, Any], float], None]:
    def change(figures: dict[str, Any], progress: float) -> None:
        for key in path[:-1]:
            figures = figures[key]
        figures[path[-1]] = value

    return change


@pytest.mark.parametrize(
    ("change", "expected", "said"),
    [
        (set_to("rewards", "truth", "release", value="b" * 64), ("drift", "truth: release"), "by release bbbbbbbbbbbb"),
        (set_to("rewards", "truth", "mean", value=0.85), ("drift", "truth"), "within 5 steps, too fast to be learnt"),
        (set_to("rewards", "beauty", "group_std", value=0.02), ("drift", "beauty: spread"), "0.0200, at the start 0.1"),
        (set_to("rewards", "beauty", "at_low", value=0.95), ("saturation", "beauty"), "95% of beauty scores"),
        (set_to("rewards", "total", "flat_groups", value=0.6), ("saturation", "total"), "in 60% of the groups"),
        (set_to("duplicates", "pictures", value=0.7), ("duplicates", "pictures"), "70% of the pictures"),
        (set_to("duplicates", "picture_distance", value=0.04), ("duplicates", "pictures: distance"), "lie 0.040 apart"),
        (set_to("duplicates", "common_answer", value=1.0), ("duplicates", "answers"), "favourite in 100% of"),
    ],
)
def test_each_fault_has_its_alarm_and_no_other(
    change: Callable[[dict[str, Any], float], None], expected: tuple[str, str], said: str
) -> None:
    found = seen(changed(change))
    assert set(found) == {expected}
    assert said in found[expected].message


def test_pictures_that_were_alike_from_the_start_are_a_notice_and_alike_only_later_an_alarm() -> None:
    alike = set_to("duplicates", "pictures", value=0.7)
    levels = [seen(changed(alike, start))["duplicates", "pictures"].level for start in (0, WINDOW)]
    assert levels == ["notice", "alarm"]


def test_a_spread_that_narrows_because_the_reward_is_learnt_is_a_notice() -> None:
    def change(figures: dict[str, Any], progress: float) -> None:
        figures["rewards"]["truth"]["group_std"] = 0.02

    def learnt(figures: dict[str, Any], progress: float) -> None:
        change(figures, progress)
        figures["rewards"]["truth"]["mean"] += 0.2 * progress

    levels = [seen(changed(one))["drift", "truth: spread"].level for one in (learnt, change)]
    assert levels == ["notice", "alarm"]


def test_a_reward_at_its_end_is_a_notice_and_an_alarm_when_its_map_hides_differences() -> None:
    def change(figures: dict[str, Any], progress: float) -> None:
        figures["rewards"]["beauty"] |= {"at_high": 0.95, "cut_off": 0.93 if progress > 0.5 else 0.0}

    trace = changed(change)
    (solved,), (hidden,) = alarms(trace[: STEPS // 2], WEIGHTS), alarms(trace, WEIGHTS)
    assert (solved.kind, solved.level, hidden.kind, hidden.level) == ("saturation", "notice", "saturation", "alarm")
    assert "are the highest that there is: it hardly ranks" in solved.message
    assert "give it a wider one (affine)" in hidden.message


def test_a_reward_that_leaves_its_scale_slowly_drifts_but_does_not_jump() -> None:
    def change(figures: dict[str, Any], progress: float) -> None:
        figures["rewards"]["truth"]["mean"] += 0.7 * (progress - WINDOW / STEPS)

    (alarm,) = seen(changed(change)).values()
    assert (alarm.kind, alarm.subject) == ("drift", "truth")
    assert "its weight was chosen for another scale" in alarm.message


@pytest.mark.parametrize(("r", "said"), [(0.99, "rank alike"), (-0.7, "pull against each other")])
def test_correlations_of_trained_rewards_are_spoken_of(r: float, said: str) -> None:
    trace = changed(set_to("correlations", "beauty|truth", value={"r": r, "n": 48}), start=0)
    (notice,) = seen(trace, {"beauty": 0.5, "truth": 0.5}).values()
    assert (notice.kind, notice.level) == ("correlation", "notice")
    assert said in notice.message
    assert seen(trace) == {}  # a held-out reward pulls nothing
    assert mean_correlation(trace[:1], "beauty|truth") is None  # 48 trajectories are too few to tell


def test_one_odd_batch_is_no_alarm() -> None:
    trace = sound()
    odd = trace[WINDOW]
    odd["rewards"]["beauty"] |= {"at_high": 1.0, "mean": 1.0, "group_std": 0.0}
    odd["rewards"]["total"]["flat_groups"] = odd["duplicates"]["pictures"] = odd["duplicates"]["common_answer"] = 1.0
    assert seen(trace) == {}


def test_a_run_that_is_too_short_to_tell_says_nothing_of_movements() -> None:
    trace = changed(falls("truth"))[: 2 * WINDOW - 1]
    assert seen(trace) == {}
    assert alarms([], WEIGHTS) == []
    assert seen(sound()[: RECENT - 1]) == {}


def test_batches_without_scores_are_left_out() -> None:
    trace = changed(falls("truth"))
    for figures in trace[::3]:
        figures["rewards"]["truth"] |= {"count": 0, "mean": None, "std": None, "group_std": None, "release": ""}
    assert set(seen(trace)) == {("hacking", "truth")}


DRAWS = 64


def draws(mean: float, seed: int) -> list[float | None]:
    return [None, *np.random.default_rng(seed).normal(mean, 0.2, DRAWS).tolist()]


@pytest.mark.parametrize(
    ("fall", "weights", "expected"),
    [
        (0.2, WEIGHTS, [("hacking", "truth"), ("hacking", "oracle_success")]),
        (0.0, WEIGHTS, []),
        (0.2, {"beauty": 0.9, "truth": 0.1}, [("trade-off", "truth"), ("hacking", "oracle_success")]),
    ],
)
def test_held_out_draws_are_compared_pair_by_pair(
    fall: float, weights: dict[str, float], expected: list[tuple[str, str]]
) -> None:
    start = {"total": draws(0.5, 0), "beauty": draws(0.5, 1), "truth": draws(0.6, 2), "oracle_success": draws(0.4, 3)}
    steps = {"total": 0.3, "beauty": 0.3, "truth": -fall, "oracle_success": -fall}
    noise = np.random.default_rng(4).normal(0, 0.05, DRAWS + 1)
    now = {
        name: [None if value is None else value + steps[name] + change for value, change in zip(values, noise)]
        for name, values in start.items()
    }
    assert [(alarm.kind, alarm.subject) for alarm in held_out_alarms(start, now, weights)] == expected


def test_a_trained_reward_measured_on_other_draws_is_no_witness_against_itself() -> None:
    name = "true sentence: truth"
    start = {"beauty": draws(0.5, 1), "truth": draws(0.6, 2), name: draws(0.6, 3)}
    now = start | {
        "beauty": [value and value + 0.5 for value in start["beauty"]],
        name: [value and value - 0.2 for value in start[name]],
    }
    found = held_out_alarms(start, now, {"beauty": 0.5, "truth": 0.5})
    assert [(alarm.kind, alarm.subject, alarm.level) for alarm in found] == [("trade-off", name, "notice")]


def test_a_trained_reward_that_falls_on_held_out_draws_is_a_decline() -> None:
    start = {"beauty": draws(0.5, 1), "truth": draws(0.5, 2)}
    now = {"beauty": [value and value - 0.1 for value in start["beauty"]], "truth": start["truth"]}
    assert [alarm.kind for alarm in held_out_alarms(start, now, WEIGHTS)] == ["decline"]
