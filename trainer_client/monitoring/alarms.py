"""When a run's figures mean that something is wrong: pure functions of the figures of all steps so far.

An alarm is a pattern that a sound run does not show; a notice is worth knowing and may be meant. Each has its reason
beside its threshold. Comparisons over time are between the first and the last `WINDOW` steps, by Welch's t of the
steps' means, so that the spread between batches is the yardstick and nothing is said before 2 · `WINDOW` steps.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from sync_r1.trainer_client.monitoring.trends import (
    RECENT,
    WINDOW,
    Figures,
    between_ends,
    compared,
    mean,
    paired,
    recent,
    series,
    weighted,
)

RISE_T, FALL_T = 3.0, -4.0
"""A fall is looked for at every step in every reward, a rise only counts beside one, so the fall has to be the surer:
t₁₈ < −4 happens once in 2,400 looks by chance."""
WORTH = 0.02
"""Smallest change of a mean that is spoken of, on the [0, 1] scale: smaller ones are sure only because batches are
large."""
HELD_OUT_Z = 3.0
"""Paired measurements on held-out conditions, looked at a few times in a run: once in 740 by chance."""
JUMP, JUMP_T = 0.1, 6.0
"""A mean that moves this far within `RECENT` steps was not learnt: in the pocket job a whole run moves it by 0.3."""
OFF_SCALE = 2.0
"""Standard deviations of single scores at the start: beyond, most scores lie where hardly any did when weights were
chosen."""
NARROW = 0.25
"""Spread within groups, as a share of the start's: the reward moves the total a quarter as far, its noise as before."""
SATURATED = 0.9
"""Share of scores at one end of the card: in 43 % of groups of eight, then, all are (0.9⁸)."""
FLAT_GROUPS = 0.5
"""Share of groups whose total does not vary: half of the sampling teaches nothing."""
NEAR_DUPLICATES, MORE_DUPLICATES = 0.5, 0.25
"""Share of pictures with a near-identical one in their group, and how much above the start's it has to be for an alarm:
a policy may begin with pictures that differ little (the pocket cold start: 0.5), and has not collapsed by that."""
NARROW_PICTURES = 1 / 3
"""Mean distance between a group's pictures, as a share of the start's."""
ONE_ANSWER = 0.8
"""Share of groups with the same favourite answer to different questions."""
REDUNDANT, OPPOSED = 0.95, -0.5
"""Correlation within groups: one reward nearly repeats the other; two rewards undo each other."""
MIN_PAIRS = 100
"""Trajectories behind a correlation: its standard error is then at most 0.1."""


@dataclass(frozen=True)
class Alarm:
    """One finding; `kind` and `subject` tell it apart from others."""

    kind: Literal["hacking", "trade-off", "decline", "drift", "duplicates", "saturation", "correlation"]
    subject: str
    """The reward, pair of rewards, "pictures", "answers" or "total"."""
    message: str
    """A plain sentence with the figures it rests on."""
    level: Literal["alarm", "notice"] = "alarm"


def alarms(history: Sequence[Figures], weights: Mapping[str, float]) -> list[Alarm]:
    """What is to be said after the last step of `history`; `weights` are the rewards' in the total, 0 = held out."""
    if not history:
        return []
    found = [*_movement(history, weights), *_drift(history), *_saturation(history), *_duplicates(history)]
    return found + _correlations(history, weights)


def held_out_alarms(
    start: Mapping[str, Sequence[float | None]], now: Mapping[str, Sequence[float | None]], weights: Mapping[str, float]
) -> list[Alarm]:
    """The same question asked of two measurements on the same held-out draws, value by value (`Evaluation.values`).

    Whatever is measured and is no part of the total is a witness: rewards of weight 0, the oracle, accuracies.
    """
    trained = {name: weight for name, weight in weights.items() if weight > 0}
    if not trained.keys() <= start.keys() & now.keys():
        return []
    rise = paired([weighted(start, trained), weighted(now, trained)])
    if rise is not None and rise[0] <= -WORTH and rise[1] <= -HELD_OUT_Z:
        return [_declined("held-out conditions", rise[0])]
    if rise is None or rise[0] < WORTH or rise[1] < HELD_OUT_Z:
        return []
    found = []
    for name in start:
        if name == "total" or name not in now:
            continue
        fall = paired([start[name], now[name]])
        if fall is not None and fall[0] <= -WORTH and fall[1] <= -HELD_OUT_Z:
            # "true sentence: aesthetic" is a trained reward too, measured on pictures of the right sentence.
            kept_out = name.rpartition(": ")[2] not in trained
            found.append(_moved("held-out conditions", name, rise[0], fall[0], kept_out))
    return found


def trained_means(history: Sequence[Figures], weights: Mapping[str, float]) -> list[float | None]:
    """Of every step, the mean of the trained rewards' means by their weights: the reward before any normalisation."""
    trained = {name: weight for name, weight in weights.items() if weight > 0}
    return weighted({name: series(history, "rewards", name, "mean") for name in trained}, trained)


def _movement(history: Sequence[Figures], weights: Mapping[str, float]) -> list[Alarm]:
    rise = between_ends(trained_means(history, weights))
    if rise is not None and rise[0] <= -WORTH and rise[1] <= FALL_T:
        return [_declined("the training batches", rise[0])]
    if rise is None or rise[0] < WORTH or rise[1] < RISE_T:
        return []
    found = []
    for name in weights:
        fall = between_ends(series(history, "rewards", name, "mean"))
        if fall is not None and fall[0] <= -WORTH and fall[1] <= FALL_T:
            found.append(_moved("the training batches", name, rise[0], fall[0], not weights[name]))
    return found


def _declined(where: str, fall: float) -> Alarm:
    message = (
        f"the trained reward itself fell by {-fall:.3f} on {where}: updates destroy more than they teach; lower the "
        "learning rate or raise beta"
    )
    return Alarm("decline", "total", message)


def _moved(where: str, name: str, rise: float, fall: float, held_out: bool) -> Alarm:
    if held_out:
        message = (
            f"the trained reward rose by {rise:.3f} on {where} while {name}, which is not trained, fell by "
            f"{-fall:.3f}: the policy may be learning a flaw of the reward"
        )
        return Alarm("hacking", name, message)
    message = (
        f"the trained reward rose by {rise:.3f} on {where} while {name}, a part of it, fell by {-fall:.3f}: it is paid "
        "for with the others; raise its weight if that is not meant"
    )
    return Alarm("trade-off", name, message, "notice")


def _drift(history: Sequence[Figures]) -> list[Alarm]:
    found = []
    for name, figures in history[-1]["rewards"].items():
        if name == "total":
            continue
        found += _changed_release(history, name, figures)
        means = series(history, "rewards", name, "mean")
        jump = compared(means[-RECENT - WINDOW : -RECENT], means[-RECENT:])
        if len(means) >= RECENT + WINDOW and jump is not None and abs(jump[0]) >= JUMP and abs(jump[1]) >= JUMP_T:
            message = f"{name} moved by {jump[0]:+.3f} within {RECENT} steps, too fast to be learnt: see its service"
            found.append(Alarm("drift", name, message))
            continue
        moved = between_ends(means)
        std = mean(series(history[:WINDOW], "rewards", name, "std"))
        if moved is not None and std is not None and abs(moved[0]) > max(OFF_SCALE * std, WORTH):
            message = (
                f"{name} has moved by {moved[0]:+.3f}; at the start its scores had a standard deviation of {std:.3f}: "
                "its weight was chosen for another scale"
            )
            found.append(Alarm("drift", name, message))
        spreads = series(history, "rewards", name, "group_std")
        first, last = mean(spreads[:WINDOW]), mean(spreads[-WINDOW:])
        if moved is not None and first and last is not None and first > WORTH / 4 and last < NARROW * first:
            message = (
                f"{name} hardly tells trajectories apart any more: its spread within groups is {last:.4f}, at the "
                f"start {first:.4f}"
            )
            solved = moved[0] >= WORTH  # its mean rose: what it measures was learnt
            found.append(Alarm("drift", f"{name}: spread", message, "notice" if solved else "alarm"))
    return found


def _changed_release(history: Sequence[Figures], name: str, figures: Figures) -> list[Alarm]:
    before = next(
        (step["rewards"][name] for step in history[-2::-1] if step["rewards"].get(name, {}).get("count")), None
    )
    if before is None or not figures["count"] or before["release"] == figures["release"]:
        return []
    message = (
        f"{name} is scored by release {figures['release'][:12]} from this step on, before by {before['release'][:12]}: "
        "scores before and after are on different scales"
    )
    return [Alarm("drift", f"{name}: release", message)]


def _saturation(history: Sequence[Figures]) -> list[Alarm]:
    found = []
    for name in history[-1]["rewards"]:
        for end, place in (("at_high", "highest"), ("at_low", "lowest")):
            share = recent(history, "rewards", name, end)
            if name == "total" or share is None or share < SATURATED:
                continue
            message = f"{share:.0%} of {name} scores of the last {RECENT} steps are the {place} that there is"
            if (recent(history, "rewards", name, "cut_off") or 0.0) >= SATURATED:
                message += ", because its map to [0, 1] cuts off what lies beyond: give it a wider one (affine)"
                found.append(Alarm("saturation", name, message))
            else:
                found.append(Alarm("saturation", name, f"{message}: it hardly ranks any more", "notice"))
    flat = recent(history, "rewards", "total", "flat_groups")
    if flat is not None and flat >= FLAT_GROUPS:
        message = (
            f"in {flat:.0%} of the groups of the last {RECENT} steps all trajectories have the same total: they teach "
            "nothing"
        )
        found.append(Alarm("saturation", "total", message))
    return found


def _duplicates(history: Sequence[Figures]) -> list[Alarm]:
    found = []
    share = recent(history, "duplicates", "pictures")
    if share is not None and share >= NEAR_DUPLICATES:
        at_start = mean(series(history[:WINDOW], "duplicates", "pictures")) or 0.0
        message = (
            f"{share:.0%} of the pictures of the last {RECENT} steps have a near-identical one in their group, at the "
            f"start {at_start:.0%}"
        )
        level: Literal["alarm", "notice"] = "alarm" if share - at_start >= MORE_DUPLICATES else "notice"
        found.append(Alarm("duplicates", "pictures", message, level))
    distances = series(history, "duplicates", "picture_distance")
    first, last = mean(distances[:WINDOW]), mean(distances[-WINDOW:])
    if len(history) >= 2 * WINDOW and first and last is not None and last < NARROW_PICTURES * first:
        message = f"pictures of a group lie {last:.3f} apart, at the start {first:.3f}: the policy draws ever the same"
        found.append(Alarm("duplicates", "pictures: distance", message))
    common = recent(history, "duplicates", "common_answer")
    if common is not None and common >= ONE_ANSWER:
        message = f"one answer is the favourite in {common:.0%} of the groups of the last {RECENT} steps"
        found.append(Alarm("duplicates", "answers", message))
    return found


def _correlations(history: Sequence[Figures], weights: Mapping[str, float]) -> list[Alarm]:
    found = []
    for pair in history[-1]["correlations"]:
        one, other = pair.split("|")
        r = mean_correlation(history[-WINDOW:], pair)
        if r is None or not (weights.get(one, 0) > 0 and weights.get(other, 0) > 0):
            continue
        if r >= REDUNDANT:
            message = f"{one} and {other} rank alike within groups (r = {r:.2f}): what both measure counts twice"
        elif r <= OPPOSED:
            message = f"{one} and {other} pull against each other within groups (r = {r:.2f})"
        else:
            continue
        found.append(Alarm("correlation", f"{one} and {other}", message, "notice"))
    return found


def mean_correlation(steps: Sequence[Figures], pair: str) -> float | None:
    """The mean of the steps' correlations, weighted by their trajectories; None below `MIN_PAIRS` of these."""
    known = [step["correlations"][pair] for step in steps if step["correlations"].get(pair, {}).get("r") is not None]
    count = sum(one["n"] for one in known)
    return sum(one["r"] * one["n"] for one in known) / count if count >= MIN_PAIRS else None
