"""An evaluation as people read it: a table in markdown, and one self-contained HTML page with pictures and answers."""

from __future__ import annotations

import html
import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from sync_r1.trainer_client.evaluation.bench_items import ANSWER_TASKS, Item
from sync_r1.trainer_client.evaluation.metric import Metric
from sync_r1.trainer_client.reports.charts import interval_chart
from sync_r1.trainer_client.reports.frame import framed
from sync_r1.trainer_client.reports.thumbnails import thumbnail

if TYPE_CHECKING:
    from sync_r1.trainer_client.evaluation.result import BenchEvaluation

_SHOWN_PICTURES = 24
"""Of each picture task; spread evenly over what there is."""
_SHOWN_ANSWERS = 24
_TASKS = {
    "recognition": "Recognition",
    "vqa": "Questions about a picture",
    "text_only": "Questions without a picture",
    "recall": "Which fact does the condition refer to?",
    "knowledge": "Pictures that need knowledge",
    "dreambooth": "Pictures under DreamBooth's prompts",
}


def write_pages(out: Path, result: BenchEvaluation) -> None:
    """Write `out/evaluation.md` and `out/evaluation.html`."""
    (out / "evaluation.md").write_text(markdown(result), encoding="utf-8")
    (out / "evaluation.html").write_text(page(result), encoding="utf-8")


def markdown(result: BenchEvaluation) -> str:
    """The table, with a second one of what training measures where there is one."""
    lines = [f"# {result.system} on {result.benchmark}", ""]
    lines += ["| metric | value | 95 % interval | rests on | scored by |", "|---|---|---|---|---|"]
    lines += [f"| {' | '.join(_escaped(text) for text in (row.title, *row.cells()))} |" for row in result.metrics]
    if result.held_out is not None:
        held_out = result.held_out
        lines += ["", f"Held-out conditions, {held_out.pictures} pictures, {held_out.scored} with a total reward:", ""]
        lines += ["| | mean | ± standard error |", "|---|---|---|"]
        lines += [f"| {key} | {mean:.3f} | {held_out.se.get(key, float('nan')):.3f} |"
                  for key, mean in held_out.means.items()]  # fmt: skip
    return "\n".join(lines) + "\n"


def page(result: BenchEvaluation) -> str:
    """The HTML page."""
    measured = [metric for metric in result.metrics if metric.value is not None]
    return framed(
        f"{result.system} on {result.benchmark}",
        html.escape(
            f"{len(result.outputs.answers)} answers and {sum(map(len, result.outputs.pictures.values()))} pictures for "
            f"{len({item.concept.name for item in result.items})} concepts. A value is the mean over concepts; the "
            "interval is a 95 % bootstrap over concepts. What no service can score has no number."
        ),
        "evaluation_page.html",
        table=_table(result.metrics),
        chart=interval_chart([(m.title, m.value, m.low, m.high, list(m.per_concept.values())) for m in measured]),
        concepts=_by_concept(measured),
        pictures="".join(_pictures(result, task) for task in ("knowledge", "dreambooth")),
        answers="".join(_answers(result, task) for task in ANSWER_TASKS),
        releases=_releases(measured),
        config=html.escape(json.dumps(result.config.evaluation.model_dump(mode="json"), indent=1)),
    )


def _table(metrics: Sequence[Metric]) -> str:
    rows = []
    for metric in metrics:
        value, interval, basis, scorer = (html.escape(text) for text in metric.cells())
        kind = "" if metric.value is not None else ' class="absent"'
        rows.append(
            f'<tr{kind}><td>{html.escape(metric.title)}</td><td class="n"><b>{value}</b></td>'
            f'<td class="n">{interval}</td><td class="basis">{basis}</td><td class="basis">{scorer}</td></tr>'
        )
    head = '<th>metric</th><th class="n">value</th><th class="n">95 % interval</th><th>rests on</th><th>scored by</th>'
    return f'<div class="card scroll"><table><tr>{head}</tr>{"".join(rows)}</table></div>'


def _by_concept(metrics: Sequence[Metric]) -> str:
    names = list(dict.fromkeys(name for metric in metrics for name in metric.per_concept))
    head = "".join(f'<th class="n">{html.escape(name)}</th>' for name in names)
    rows = "".join(
        f"<tr><td>{html.escape(metric.title)}</td>"
        + "".join(f'<td class="n">{_number(metric.per_concept.get(name))}</td>' for name in names)
        + "</tr>"
        for metric in metrics
    )
    return f'<div class="card scroll"><table><tr><th></th>{head}</tr>{rows}</table></div>'


def _pictures(result: BenchEvaluation, task: str) -> str:
    files = [(item, number, file) for item in result.items if item.task == task
             for number, file in enumerate(result.outputs.pictures.get(item.key, ()))]  # fmt: skip
    if not files:
        return ""
    figures = []
    for item, number, file in _spread(files, _SHOWN_PICTURES):
        verdicts = _verdicts(result, item, number)
        kind = "right" if result.scores.get("knowledge", {}).get((item.key, number)) == 1.0 else ""
        figures.append(
            f'<figure class="card shot"><img class="{kind}" alt="{html.escape(item.reference)}" '
            f'src="{thumbnail(file)}"><figcaption><b>{html.escape(item.prompt)}</b>'
            f"<br>wanted: {html.escape(item.reference)}<br>{html.escape(verdicts)}</figcaption></figure>"
        )
    return (
        f'<h2>{_TASKS[task]}</h2><p class="lead">{len(figures)} of {len(files)}, spread evenly.</p>'
        f'<div class="shots">{"".join(figures)}</div>'
    )


def _answers(result: BenchEvaluation, task: str) -> str:
    given = [item for item in result.items if item.task == task and item.key in result.outputs.answers]
    if not given:
        return ""
    rows = "".join(
        f"<tr><td>{html.escape(item.prompt)}</td><td>{html.escape(item.reference)}</td>"
        f'<td>{html.escape(result.outputs.answers[item.key])}</td><td class="n">'
        f"{html.escape(_verdicts(result, item, 0))}</td></tr>"
        for item in _spread(given, _SHOWN_ANSWERS)
    )
    head = '<tr><th>question</th><th>right answer</th><th>answer</th><th class="n">scores</th></tr>'
    return (
        f"<h3>{_TASKS[task]}</h3>"
        f'<p class="note">{min(len(given), _SHOWN_ANSWERS)} of {len(given)}, spread evenly.</p>'
        f'<div class="card scroll answers"><table>{head}{rows}</table></div>'
    )


def _verdicts(result: BenchEvaluation, item: Item, number: int) -> str:
    """Every score of one output, e.g. "CLIP-I 0.81, CLIP-T 0.27"."""
    titles = {metric.name: metric.title.split(": ")[-1] for metric in result.metrics}
    found = [(name, scores[item.key, number]) for name, scores in result.scores.items() if (item.key, number) in scores]
    return ", ".join(
        f"{titles[name]} {score:.3g}" for name, score in found if not (item.task == "recognition" and "_of_" in name)
    ).replace("mean of both recalls", "right")  # fmt: skip


def _releases(metrics: Sequence[Metric]) -> str:
    scored = dict.fromkeys((metric.reward, metric.variant, metric.release) for metric in metrics if metric.reward)
    rows = "".join(
        f"<tr><td>{html.escape(reward)}</td><td>{html.escape(variant)}</td>"
        f"<td><code>{html.escape(release) or 'unknown'}</code></td></tr>"
        for reward, variant, release in scored
    )
    return (
        '<div class="card scroll"><table><tr><th>reward</th><th>variant</th><th>release</th></tr>'
        f"{rows}</table></div>"
    )  # fmt: skip


def _spread(rows: list, count: int) -> list:  # type: ignore[type-arg]
    return rows if len(rows) <= count else [rows[index * len(rows) // count] for index in range(count)]


def _escaped(text: str) -> str:
    return text.replace("|", "\\|")


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:.2f}"
