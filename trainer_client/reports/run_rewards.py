"""The report's section on the rewards themselves: can they be trusted in this run? From `hygiene` of every step.

What the alarms mean, and their thresholds, is said in `monitoring/alarms.py`; here they are shown with when they held.
"""

from __future__ import annotations

import html
from collections.abc import Mapping, Sequence
from functools import partial
from itertools import combinations
from typing import Any

from sync_r1.trainer_client.monitoring.alarms import Alarm, held_out_alarms, mean_correlation, trained_means
from sync_r1.trainer_client.monitoring.calibration import Moments, calibrations
from sync_r1.trainer_client.reports.charts import COLOURS, Points, line_chart
from sync_r1.trainer_client.reports.run_training import series

Steps = Sequence[dict[str, Any]]
_SMOOTH = 5


def hygiene(config: Mapping[str, Any], steps: Steps, measured: Mapping[str, Mapping[str, Any]]) -> str:
    """The section; `measured` are the evaluations of the run by name, "start" first. "" without figures."""
    steps = [step for step in steps if step.get("hygiene")]
    if not steps:
        return ""
    weights = {name: reward["weight"] for name, reward in config["rewards"].items()}
    said = _said(steps, measured, weights)
    return said + _table(steps, weights) + _correlations(steps, weights) + _charts(steps, weights)


def _said(steps: Steps, measured: Mapping[str, Mapping[str, Any]], weights: Mapping[str, float]) -> str:
    lines = [(_when(numbers), alarm) for alarm, numbers in _held(steps)]
    start = measured.get("start", {}).get("values")
    for name, evaluation in measured.items():
        if start and name != "start" and evaluation.get("values"):
            when = "at the end" if name == "end" else name.replace("-0", " ").replace("-", " ")
            lines += [(when, alarm) for alarm in held_out_alarms(start, evaluation["values"], weights)]
    items = "".join(
        f'<li class="{alarm.level}"><b>{alarm.level.capitalize()} ({alarm.kind})</b>, {html.escape(when)}: '
        f"{html.escape(alarm.message)}.</li>"
        for when, alarm in sorted(lines, key=lambda line: line[1].level)
    )
    said = f'<ul class="alarms">{items}</ul>' if items else '<p class="note">No alarm.</p>'
    if all(weight > 0 for weight in weights.values()):
        said += (
            '<p class="note">No reward is held out in this run: one with weight 0 is scored without being trained, and '
            "would tell learning from hacking on the training batches.</p>"
        )
    return said


def _held(steps: Steps) -> list[tuple[Alarm, list[int]]]:
    """Each alarm with the steps at which it held; its words are those of the last one."""
    found: dict[tuple[str, str], tuple[Alarm, list[int]]] = {}
    for step in steps:
        for values in step["hygiene"]["alarms"]:
            alarm = Alarm(**values)
            _, numbers = found.get((alarm.kind, alarm.subject), (alarm, []))
            found[alarm.kind, alarm.subject] = (alarm, [*numbers, step["step"]])
    return list(found.values())


def _when(numbers: Sequence[int]) -> str:
    if len(numbers) == 1:
        return f"step {numbers[0]}"
    gaps = len(numbers) < numbers[-1] - numbers[0] + 1
    return f"steps {numbers[0]} to {numbers[-1]}" + (f" ({len(numbers)} of them)" if gaps else "")


def _table(steps: Steps, weights: Mapping[str, float]) -> str:
    rows = []
    figures = [step["hygiene"] for step in steps]
    for entry in calibrations(figures):
        # A step that learns answers alone scores no pictures, and the other way round.
        own = [one["rewards"][entry.reward] for one in figures if entry.reward in one["rewards"]]
        same = [one for one in own if one["release"] == entry.release]
        rows.append(
            f"<tr><td>{html.escape(entry.reward)} <code>{html.escape(entry.release[:12])}</code></td>"
            f'<td class="n">{_weight(weights.get(entry.reward))}</td>'
            f'<td class="n">{_moments(entry.raw)}</td><td class="n">{_moments(entry.unit)}</td>'
            f'<td class="n">{_spread(same)}</td>'
            f'<td class="n">{_share(_average([_variance_shares(one).get(entry.reward) for one in figures]))}</td>'
            f'<td class="n">{_share(_average([one["at_low"] for one in same]))}, '
            f"{_share(_average([one['at_high'] for one in same]))}</td>"
            f'<td class="n">{_share(_average([one["flat_groups"] for one in same]))}</td></tr>'
        )
    titles = (
        "weight", "raw, mean ± std", "on [0, 1]", "std in groups, first → last", "share of variance", "at 0, at 1",
        "flat groups",
    )  # fmt: skip
    head = "<th>reward, release</th>" + "".join(f'<th class="n">{title}</th>' for title in titles)
    note = (
        "All scores of the run (calibration.json). Share of variance: of the total's variance within groups that the "
        "reward accounts for, which is what it really weighs. At 0, at 1: scores at the ends of the card's map, where "
        "nothing is told apart any more. Flat groups: all trajectories have the same score."
    )
    return f'<div class="card scroll"><table><tr>{head}</tr>{"".join(rows)}</table><p class="note">{note}</p></div>'


def _correlations(steps: Steps, weights: Mapping[str, float]) -> str:
    figures = [step["hygiene"] for step in steps]
    names = [name for name in weights if name in figures[-1]["rewards"]]
    if len(names) < 2:
        return ""
    rows = "".join(
        f'<tr><td>{html.escape(f"{one} and {other}")}</td><td class="n">{_signed(mean_correlation(figures, key))}</td>'
        f'<td class="n">{_signed(mean_correlation(figures[: len(figures) // 3], key))}</td>'
        f'<td class="n">{_signed(mean_correlation(figures[-(len(figures) // 3) or None :], key))}</td></tr>'
        for one, other in combinations(names, 2)
        for key in (f"{one}|{other}", f"{other}|{one}")
        if key in figures[-1]["correlations"]
    )
    head = '<th>rewards</th><th class="n">whole run</th><th class="n">first third</th><th class="n">last third</th>'
    note = (
        "Pearson's r within groups. Near 1: both measure the same, which then counts twice. Below 0: they pull against "
        "each other. One that falls between a trained and a held-out reward: they come apart."
    )
    return f'<div class="card scroll"><table><tr>{head}</tr>{rows}</table><p class="note">{note}</p></div>'


def _charts(steps: Steps, weights: Mapping[str, float]) -> str:
    figure = partial(series, steps, "hygiene")
    trained = trained_means([step["hygiene"] for step in steps], weights)
    means: dict[str, Points] = {"trained": [(step["step"], mean) for step, mean in zip(steps, trained)]}
    means |= {f"{name} (held out)": figure("rewards", name, "mean") for name, weight in weights.items() if not weight}
    names = list(weights)[: len(COLOURS)]
    duplicates = {
        "near-identical pictures": figure("duplicates", "pictures"),
        "same answers": figure("duplicates", "answers"),
        "same favourite answer in groups": figure("duplicates", "common_answer"),
    }
    charts = [
        line_chart("trained and held-out rewards, step means", means, smooth=_SMOOTH),
        line_chart("share of duplicates", duplicates, smooth=_SMOOTH),
        line_chart(
            "distance in a group, pictures", {"distance": figure("duplicates", "picture_distance")}, smooth=_SMOOTH
        ),
        line_chart("std within groups", {name: figure("rewards", name, "group_std") for name in names}),
        line_chart("share of scores at 1", {name: figure("rewards", name, "at_high") for name in names}),
        line_chart("groups without spread, total", {"share": figure("rewards", "total", "flat_groups")}),
    ]
    return f'<div class="row wide">{"".join(charts)}</div>'


def _average(values: Sequence[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return sum(known) / len(known) if known else None


def _weight(weight: float | None) -> str:
    return "held out" if not weight else f"{weight:.3g}"


def _moments(moments: Moments) -> str:
    return f"{moments.mean:.3g} ± {moments.std:.2g}"


def _spread(own: Sequence[Mapping[str, Any]]) -> str:
    known = [one["group_std"] for one in own if one["group_std"] is not None]
    ends = [_average(part) for part in (known[:_SMOOTH], known[-_SMOOTH:])]
    return " → ".join("–" if end is None else f"{end:.3f}" for end in ends)


def _share(share: float | None) -> str:
    return "–" if share is None else f"{share:.0%}"


def _variance_shares(figures: Mapping[str, Any]) -> Mapping[str, float | None]:
    """Of one step; earlier versions recorded them as `pull`."""
    shares: Mapping[str, float | None] = figures["variance_share" if "variance_share" in figures else "pull"]
    return shares


def _signed(value: float | None) -> str:
    return "–" if value is None else f"{value:+.2f}".replace("-", "−")
