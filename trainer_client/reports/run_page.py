"""The report of a run: one HTML file that opens anywhere, with nothing to load.

It reads only what a run leaves in its folder, so it can be written again, for a run that was stopped too. The page's
structure is in `report.html`, its frame in `frame.py`; the training curves in `run_training.py`, what the rewards
say about themselves in `run_rewards.py`, charts in `charts.py`. A section without data is left out.
"""

from __future__ import annotations

import base64
import html
import json
import statistics
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from sync_r1.reward_models.errors import SyncR1Error
from sync_r1.trainer_client.config.run_folder import read_values
from sync_r1.trainer_client.reports import run_training as training
from sync_r1.trainer_client.reports.charts import interval_chart
from sync_r1.trainer_client.reports.frame import framed
from sync_r1.trainer_client.reports.run_rewards import hygiene
from sync_r1.trainer_client.tasks.tasks import TRUE_SENTENCE

_NAMES = {
    "total": "total reward",
    "oracle_success": "oracle: right concept and fact",
    "oracle_concept": "oracle: right concept",
    "oracle_fact": "oracle: fact visible",
    "answer_accuracy": "recalled fact right (task r)",
    "picture_question_accuracy": "picture questions right (task u)",
}
_TILES = (
    "total",
    "oracle_success",
    f"{TRUE_SENTENCE}oracle_success",
    "answer_accuracy",
    "picture_question_accuracy",
)


_PICTURES = (
    "Held-out conditions; left before, right after, same prompts and random numbers. A green frame: the oracle sees "
    "the right concept and the condition's fact."
)


class ReportError(SyncR1Error, RuntimeError):
    """The folder holds no run; the message says what is missing."""


def write_report(run: Path) -> Path:
    """Write `run/report.html` and return its path. Raises ReportError when `run` holds no run, and
    ConfigError when its configuration cannot be read.
    """
    if not (run / "config.json").exists():
        raise ReportError(
            f"{run} holds no run: config.json is missing; give the folder that `sync-r1 train --out` wrote"
        )
    config = read_values(run)
    metrics_file = run / "metrics.jsonl"
    steps = [json.loads(line) for line in metrics_file.read_text().splitlines()] if metrics_file.exists() else []
    measured = _evaluations(run)
    start, end = (measured.get(name) for name in ("start", "end"))
    sections = {
        "Held out: before and after": _comparison(start, end),
        "Pictures of the whole loop": _noted(f"From the policy's own answers. {_PICTURES}", _pictures(run, start, end)),
        "Given the right sentence": _noted(
            f"Drawn from the right sentence instead of the policy's answer: what the picture half can do. {_PICTURES}",
            _pictures(run, start, end, true_sentence=True),
        ),
        "Rewards during training": _noted(
            "Means over the scored trajectories of each step, on the cards' [0, 1] scale. Thin: the step; thick: mean "
            "of the last five steps, with its 95 % band.",
            training.rewards(steps) if steps else '<p class="note">not measured in this run</p>',
        ),
        "What the scores are made of": training.components(steps),
        "Failed scores": training.failures(steps),
        "Reward hygiene": hygiene(config, steps, measured),
        "Dynamic Group Scaling": training.gate(steps),
        "Optimisation": training.optimisation(steps) if steps else "",
        "Where the time went": training.time(steps),
        "What scored": _releases(start or end),
        "Configuration": _configuration(config),
    }
    shown = {title: content for title, content in sections.items() if content}
    text = framed(
        f"Sync-GRPO run: {run.resolve().name}",
        _lead(config, steps),
        "report.html",
        contents="".join(f'<a href="#{_anchor(title)}">{html.escape(title)}</a>' for title in shown),
        tiles=_tiles(start, end),
        sections="".join(
            f'<section id="{_anchor(title)}"><h2>{html.escape(title)}</h2>{content}</section>'
            for title, content in shown.items()
        ),
    )
    target = run / "report.html"
    target.write_text(text, encoding="utf-8")
    return target


def _evaluations(run: Path) -> dict[str, dict[str, Any]]:
    """By name, in the order of the run: "start", "step-000010", …, "end"."""
    files = {file.stem: file for file in sorted((run / "evaluation").glob("*.json"))}
    names = [name for name in ("start", *(name for name in files if name.startswith("step-")), "end") if name in files]
    return {name: json.loads(files[name].read_text()) for name in names}


def _noted(note: str, content: str) -> str:
    return f'<p class="lead">{html.escape(note)}</p>{content}' if content else ""


def _anchor(title: str) -> str:
    return "-".join(word for word in title.lower().replace(":", "").split())


def _name(key: str) -> str:
    if key.startswith(TRUE_SENTENCE):
        return f"given the right sentence: {_name(key.removeprefix(TRUE_SENTENCE))}"
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
        tiles.append(
            f'<div class="card"><h3>{html.escape(_name(key))}</h3><div class="big">{after:.3f} '
            f'<small>from {before:.3f}</small></div><span class="{_direction(*_difference(start, end, key))}">'
            f"{after - before:+.3f}</span></div>"
        )
    return "".join(tiles)


def _comparison(start: dict[str, Any] | None, end: dict[str, Any] | None) -> str:
    if start is None or end is None:
        return '<p class="lead">This run has not been measured before and after yet.</p>'
    rows, differences = [], []
    for key in (key for key in start["means"] if key in end["means"]):
        change, half = _difference(start, end, key)
        cells = [_mean(evaluation, key) for evaluation in (start, end)]
        rows.append(
            f'<tr><td>{html.escape(_name(key))}</td><td class="n">{cells[0]}</td><td class="n">{cells[1]}</td>'
            f'<td class="n {_direction(change, half)}">{change:+.3f} ± {half:.3f}</td></tr>'
        )
        differences.append((_name(key), change, change - half, change + half, ()))
    paired = bool(start.get("values")) and bool(end.get("values"))
    note = (
        f"{end['pictures']} pictures, {end['scored']} with every score needed; ± is half the 95 % interval (1.96 "
        f"standard errors), of the {'paired differences' if paired else 'difference of independent means'} in the last "
        "column. Coloured where the interval leaves out zero. The same tasks and random numbers both times. The oracle "
        "is never a reward."
    )
    head = '<tr><th></th><th class="n">before</th><th class="n">after</th><th class="n">difference</th></tr>'
    return (
        f'<div class="card scroll"><table>{head}{"".join(rows)}</table><p class="note">{note}</p></div>'
        f"{interval_chart(differences, zero=True)}"
    )


def _mean(evaluation: Mapping[str, Any], key: str) -> str:
    error = evaluation["se"].get(key)
    return f"{evaluation['means'][key]:.3f}" + (f" ± {1.96 * error:.3f}" if error is not None else "")


def _difference(start: Mapping[str, Any], end: Mapping[str, Any], key: str) -> tuple[float, float]:
    """(after − before, half of its 95 % interval): paired by draw where both measurements say what they drew."""
    values = [evaluation.get("values", {}).get(key) for evaluation in (start, end)]
    if values[0] and values[1] and len(values[0]) == len(values[1]):
        pairs = [b - a for a, b in zip(*values) if a is not None and b is not None]
        if len(pairs) > 1:
            return statistics.fmean(pairs), 1.96 * statistics.stdev(pairs) / len(pairs) ** 0.5
    errors = [evaluation["se"].get(key, float("nan")) for evaluation in (start, end)]
    return end["means"][key] - start["means"][key], 1.96 * (errors[0] ** 2 + errors[1] ** 2) ** 0.5


def _direction(change: float, half: float) -> str:
    return "" if not abs(change) > half else "up" if change > 0 else "down"


def _pictures(
    run: Path, start: dict[str, Any] | None, end: dict[str, Any] | None, *, true_sentence: bool = False
) -> str:
    if start is None or end is None:
        return ""
    figures = []
    for index, (before, after) in enumerate(zip(start["shown"], end["shown"])):
        if before.get("true_sentence", False) != true_sentence:
            continue
        sides = []
        for name, shown in (("start", before), ("end", after)):
            data = base64.b64encode((run / "evaluation" / f"{name}-{index:02d}.png").read_bytes()).decode()
            kind = "right" if shown["success"] else ""
            verdict = {True: "right", False: "not right", None: ""}[shown["success"]]
            sides.append(
                f'<figure><img class="{kind}" alt="{html.escape(shown["wanted"])}" src="data:image/png;base64,{data}">'
                f"<figcaption><b>{verdict}</b> “{html.escape(shown['answer'])}”</figcaption></figure>"
            )
        figures.append(
            f'<div class="card"><div class="pair">{"".join(sides)}</div><p><b>{html.escape(after["condition"])}</b>'
            f"<br>wanted: {html.escape(after['wanted'])}</p></div>"
        )
    return f'<div class="pictures">{"".join(figures)}</div>' if figures else ""


def _releases(evaluation: dict[str, Any] | None) -> str:
    if evaluation is None:
        return ""
    rows = "".join(
        f"<tr><td>{html.escape(reward)}</td><td><code>{html.escape(digest) or 'unknown'}</code></td></tr>"
        for reward, digest in evaluation["releases"].items()
    )
    return f'<div class="card scroll"><table><tr><th>reward</th><th>release</th></tr>{rows}</table></div>'


def _configuration(config: Mapping[str, Any]) -> str:
    """Every hyper-parameter, one table per section, and all of it as JSON."""
    groups: dict[str, list[tuple[str, str]]] = {}
    for path, value in _flat(config):
        section, _, key = path.rpartition(".")
        groups.setdefault(section or "run", []).append((key, value))
    tables = "".join(
        f'<div class="card"><h3>{html.escape(section)}</h3><table class="keys">'
        + "".join(f"<tr><td>{html.escape(key)}</td><td>{html.escape(value)}</td></tr>" for key, value in rows)
        + "</table></div>"
        for section, rows in groups.items()
    )
    whole = html.escape(json.dumps(config, indent=1))
    return f'<div class="settings">{tables}</div><details><summary>config.json</summary><pre>{whole}</pre></details>'


def _flat(values: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, str]]:
    """("section.key", value as text); a mapping of plain values without further sections is a section."""
    for key, value in values.items():
        if isinstance(value, Mapping):
            yield from _flat(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value if isinstance(value, str) and value else json.dumps(value)
