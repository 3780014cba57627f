"""The report of a run: one HTML file that opens anywhere, with nothing to load.

It reads only what a run leaves in its folder, so it can be written again, for a run that was stopped too. The page's
structure and look are in `report.html`; the charts in `charts.py`.
"""

from __future__ import annotations

import base64
import html
import json
from collections.abc import Sequence
from pathlib import Path
from string import Template
from typing import Any

from sync_r1.trainer_client.charts import bar, line_chart

_TEMPLATE = Path(__file__).with_name("report.html")
_NAMES = {
    "total": "total reward",
    "oracle_success": "oracle: right concept and fact",
    "oracle_concept": "oracle: right concept",
    "oracle_fact": "oracle: fact visible",
    "answer_accuracy": "recalled fact right (task r)",
    "picture_question_accuracy": "picture questions right (task u)",
}
_TILES = ("total", "oracle_success", "answer_accuracy", "picture_question_accuracy")
_PHASES = {
    "sample": "sampling",
    "gate": "gate",
    "reference": "reference (while rewards are computed)",
    "score_wait": "waiting for rewards",
    "update": "update",
}


class ReportError(RuntimeError):
    """The folder holds no run; the message says what is missing."""


def write_report(run: Path) -> Path:
    """Write `run/report.html` and return its path. Raises ReportError when `run` holds no run."""
    if not (run / "config.json").exists():
        raise ReportError(
            f"{run} holds no run: config.json is missing; give the folder that `sync-r1 train --out` wrote"
        )
    config = json.loads((run / "config.json").read_text())
    metrics_file = run / "metrics.jsonl"
    steps = [json.loads(line) for line in metrics_file.read_text().splitlines()] if metrics_file.exists() else []
    start, end = (_evaluation(run, name) for name in ("start", "end"))
    page = Template(_TEMPLATE.read_text()).substitute(
        title=f"Sync-GRPO run: {html.escape(run.resolve().name)}",
        lead=_lead(config, steps),
        tiles=_tiles(start, end),
        comparison=_comparison(start, end),
        reward_charts=_reward_charts(steps),
        component_charts=_component_charts(steps),
        selection_charts=_selection_charts(steps),
        selection_note=_selection_note(steps),
        optimisation_charts=_optimisation_charts(steps),
        pictures=_pictures(run, start, end),
        time=_time(steps),
        releases=_releases(start or end),
        config=html.escape(json.dumps(config, indent=1)),
    )
    target = run / "report.html"
    target.write_text(page, encoding="utf-8")
    return target


def _evaluation(run: Path, name: str) -> dict[str, Any] | None:
    file = run / "evaluation" / f"{name}.json"
    return json.loads(file.read_text()) if file.exists() else None


def _name(key: str) -> str:
    return _NAMES.get(key, key)


def _lead(config: dict[str, Any], steps: Sequence[dict[str, Any]]) -> str:
    control = config["objective"]["permute_rewards_within_group"]
    text = f"{len(steps)} of {config['steps']} steps on benchmark “{config['benchmark']}”, seed {config['seed']}"
    if steps:
        text += (
            f", {sum(step['trajectories'] for step in steps)} trajectories, {steps[-1]['elapsed_s'] / 60:.1f} minutes"
        )
    return html.escape(text + (". This is the CONTROL: rewards are permuted within groups." if control else "."))


def _tiles(start: dict[str, Any] | None, end: dict[str, Any] | None) -> str:
    tiles = []
    for key in _TILES:
        if start is None or end is None or key not in start["means"] or key not in end["means"]:
            continue
        before, after = start["means"][key], end["means"][key]
        kind = "up" if after > before else "down"
        tiles.append(
            f'<div class="card"><h3>{html.escape(_name(key))}</h3><div class="big">{after:.3f} '
            f'<small>from {before:.3f}</small></div><span class="{kind}">{after - before:+.3f}</span></div>'
        )
    return "".join(tiles)


def _comparison(start: dict[str, Any] | None, end: dict[str, Any] | None) -> str:
    if start is None or end is None:
        return '<p class="lead">This run has not been measured before and after yet.</p>'
    rows = []
    for key in start["means"]:
        if key not in end["means"]:
            continue
        before, after = start["means"][key], end["means"][key]
        kind = "up" if after > before else "down"
        cells = [
            f"{value[0]:.3f} ± {value[1].get(key, float('nan')):.3f}"
            for value in ((before, start["se"]), (after, end["se"]))
        ]
        rows.append(
            f'<tr><td>{html.escape(_name(key))}</td><td class="n">{cells[0]}</td><td class="n">{cells[1]}</td>'
            f'<td class="n {kind}">{after - before:+.3f}</td></tr>'
        )
    note = (
        f"{end['pictures']} pictures, {end['scored']} with every score needed; ± is the standard error of each mean. "
        "The same tasks and random numbers both times. The oracle is never a reward."
    )
    head = '<tr><th></th><th class="n">before</th><th class="n">after</th><th class="n">difference</th></tr>'
    return f'<div class="card"><table>{head}{"".join(rows)}</table><p class="note">{note}</p></div>'


def _series(steps: Sequence[dict[str, Any]], *path: str) -> list[tuple[float, float | None]]:
    points: list[tuple[float, float | None]] = []
    for step in steps:
        value: Any = step
        for key in path:
            value = value.get(key) if isinstance(value, dict) else None
        points.append((step["step"], value))
    return points


def _keys(steps: Sequence[dict[str, Any]], section: str) -> list[str]:
    return list(dict.fromkeys(key for step in steps for key in step[section]))


def _reward_charts(steps: Sequence[dict[str, Any]]) -> str:
    charts = [
        line_chart(_name(key), {key: _series(steps, "rewards", key)}, smooth=5) for key in _keys(steps, "rewards")
    ]
    tasks = {f"task {kind}": _series(steps, "by_task", kind) for kind in _keys(steps, "by_task")}
    return "".join(charts) + line_chart("total reward by task", tasks, smooth=5)


def _component_charts(steps: Sequence[dict[str, Any]]) -> str:
    keys = _keys(steps, "components")
    charts = []
    for reward in dict.fromkeys(key.split("/")[0] for key in keys):
        own = [key for key in keys if key.startswith(f"{reward}/")]
        # A chart holds four lines; further components get charts of their own.
        for first in range(0, len(own), 4):
            series = {key.split("/", 1)[1]: _series(steps, "components", key) for key in own[first : first + 4]}
            charts.append(line_chart(f"{reward}: components", series))
    return "".join(charts)


def _selection_charts(steps: Sequence[dict[str, Any]]) -> str:
    accepted = [(s["step"], s["selection"]["passed"] / max(s["selection"]["proposed"], 1)) for s in steps]
    rejected = [(s["step"], s["selection"]["rejected_steps"] / max(s["selection"]["policy_steps"], 1)) for s in steps]
    return "".join(
        [
            line_chart("share of previews that pass", {"acceptance": accepted}),
            line_chart("θ, mean over prompts", {"θ": _series(steps, "selection", "theta")}),
            line_chart("gate and final reward: rank correlation in groups", {"ρ": _series(steps, "gate_correlation")}),
            line_chart("share of policy steps spent on rejected previews", {"rejected": rejected}),
            line_chart("trajectories finished, and filled in although rejected", {
                "finished": _series(steps, "trajectories"), "filled": _series(steps, "selection", "filled")}),
        ]
    )  # fmt: skip


def _selection_note(steps: Sequence[dict[str, Any]]) -> str:
    finished = sum(step["trajectories"] for step in steps)
    if not finished:
        return ""
    spent = sum(step["selection"]["policy_steps"] for step in steps)
    wasted = sum(step["selection"]["rejected_steps"] for step in steps)
    gate_s = sum(step["selection"]["gate_s"] for step in steps)
    return (
        f"Per finished trajectory: {spent / finished:.2f} policy steps, of which {wasted / finished:.2f} went into "
        f"rejected previews, and {gate_s / finished * 1000:.0f} ms waiting for the gate."
    )


def _optimisation_charts(steps: Sequence[dict[str, Any]]) -> str:
    return "".join(
        [
            line_chart("KL to the start, nats per token", {
                "answers": _series(steps, "answer_kl"), "pictures": _series(steps, "image_kl")}),
            line_chart("gradient norm before clipping", {"norm": _series(steps, "grad_norm")}),
            line_chart("standard deviation of the total within groups", {"std": _series(steps, "group_std")}),
            line_chart("tokens per answer", {"tokens": _series(steps, "answer_tokens")}),
        ]
    )  # fmt: skip


def _pictures(run: Path, start: dict[str, Any] | None, end: dict[str, Any] | None) -> str:
    if start is None or end is None:
        return ""
    figures = []
    for index, (before, after) in enumerate(zip(start["shown"], end["shown"])):
        sides = []
        for name, shown in (("start", before), ("end", after)):
            data = base64.b64encode((run / "evaluation" / f"{name}-{index:02d}.png").read_bytes()).decode()
            kind = "right" if shown["success"] else ""
            sides.append(
                f'<figure><img class="{kind}" alt="{html.escape(shown["wanted"])}" src="data:image/png;base64,{data}">'
                f"<figcaption>“{html.escape(shown['answer'])}”</figcaption></figure>"
            )
        figures.append(
            f'<div class="card"><div class="pair">{"".join(sides)}</div><p>{html.escape(after["condition"])} — '
            f"wanted: {html.escape(after['wanted'])}</p></div>"
        )
    return "".join(figures)


def _time(steps: Sequence[dict[str, Any]]) -> str:
    seconds = {label: sum(step["phases_s"].get(phase, 0.0) for step in steps) for phase, label in _PHASES.items()}
    if not steps:
        return ""
    per_step = sum(seconds.values()) / len(steps)
    return f'{bar(seconds)}<p class="note">{per_step:.1f} s per step in the mean of {len(steps)} steps.</p>'


def _releases(evaluation: dict[str, Any] | None) -> str:
    if evaluation is None:
        return ""
    rows = "".join(
        f"<tr><td>{html.escape(reward)}</td><td><code>{html.escape(digest) or 'unknown'}</code></td></tr>"
        for reward, digest in evaluation["releases"].items()
    )
    return f'<div class="card"><table><tr><th>reward</th><th>release</th></tr>{rows}</table></div>'
