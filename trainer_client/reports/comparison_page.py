"""Two scorings of the same samples as one self-contained HTML page, the most different items with their pictures."""

from __future__ import annotations

import html
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from sync_r1.reward_models.types import Failure, NotApplicable
from sync_r1.trainer_client.evaluation.compare_scores import OUTCOMES, Comparison, Difference, Estimate, ScoredSide
from sync_r1.trainer_client.reports.charts import scatter
from sync_r1.trainer_client.reports.frame import framed
from sync_r1.trainer_client.reports.thumbnails import thumbnail
from sync_r1.trainer_client.sdk.sample_file import SampleRow

_SHOWN_REFUSALS = 20


def page(found: Comparison, a: ScoredSide, b: ScoredSide, rows: Sequence[SampleRow], folder: Path) -> str:
    """The page; the rows' pictures lie in `folder`."""
    both = np.isfinite(a.units_N) & np.isfinite(b.units_N)
    points = list(zip(a.units_N[both].tolist(), b.units_N[both].tolist()))
    return framed(
        f"{a.reward}: {a.name} and {b.name}",
        html.escape(verdict(found)),
        "comparison_page.html",
        sides=_sides(a, b),
        figures=_figures(found),
        scatter=scatter("every item, on the cards' [0, 1]", f"A: {a.name}", f"B: {b.name}", points) if points else "",
        outcomes=_outcomes(found),
        different="".join(_item(one, rows[one.row], folder) for one in found.most_different)
        or '<p class="note">No item was scored by both.</p>',
        refusals=_refusals(a, b, rows),
    )


def verdict(found: Comparison) -> str:
    """What it comes to, in a sentence or three."""
    said = [f"{found.items} items, {found.pairs} scored by both; the same outcome for {found.agreement:.1%}."]
    if found.spearman is not None:
        value = found.spearman.value
        alike = "the same order" if value > 0.98 else "nearly the same order" if value > 0.9 else "another order"
        said.append(f"They put items in {alike} (Spearman {found.spearman}).")
    if found.shift is not None:
        sure = found.shift.low > 0 or found.shift.high < 0
        way = "higher" if found.shift.value > 0 else "lower"
        said.append(
            f"B scores {abs(found.shift.value):.3f} {way} on average." if sure else "Neither scores higher on average."
        )
    return " ".join(said)


def figures(found: Comparison) -> list[tuple[str, str]]:
    """(what, value) of every figure, for a table."""
    return [
        ("items, scored by both", f"{found.items}, {found.pairs}"),
        ("same outcome", f"{found.agreement:.1%}"),
        ("rank correlation, Spearman's ρ", _estimate(found.spearman)),
        ("rank correlation, Kendall's τ-b", _estimate(found.kendall)),
        ("shift, mean of B − A on [0, 1]", _estimate(found.shift)),
        ("distance, mean of |B − A|", "–" if found.distance is None else f"{found.distance:.3f}"),
    ]


def _estimate(estimate: Estimate | None) -> str:
    return "–" if estimate is None else str(estimate)


def _sides(a: ScoredSide, b: ScoredSide) -> str:
    rows = "".join(
        f"<tr><td><b>{letter}</b></td><td>{html.escape(side.variant)}</td><td><code>{html.escape(side.release)}</code></td>"
        f"<td>{html.escape(side.endpoint)}</td></tr>"
        for letter, side in (("A", a), ("B", b))
    )
    head = "<tr><th></th><th>variant</th><th>release</th><th>endpoint</th></tr>"
    return f'<div class="card scroll"><table>{head}{rows}</table></div>'


def _figures(found: Comparison) -> str:
    rows = "".join(
        f'<tr><td>{html.escape(what)}</td><td class="n">{html.escape(value)}</td></tr>'
        for what, value in figures(found)
    )
    note = "In brackets: 95 % bootstrap interval over items. Correlations are those of the raw scores."
    return f'<div class="card scroll"><table>{rows}</table><p class="note">{note}</p></div>'


def _outcomes(found: Comparison) -> str:
    head = "".join(f'<th class="n">B {kind}</th>' for kind in OUTCOMES)
    rows = "".join(
        f"<tr><td>A {one}</td>"
        + "".join(f'<td class="n">{found.outcomes.get(f"{one} / {other}", 0)}</td>' for other in OUTCOMES)
        + "</tr>"
        for one in OUTCOMES
    )
    return f'<div class="card scroll"><table><tr><th></th>{head}</tr>{rows}</table></div>'


def _item(one: Difference, row: SampleRow, folder: Path) -> str:
    texts = [row.prompt, *([f"“{row.answer}”"] if row.answer is not None else [])]
    name, said = html.escape(one.id), "<br>".join(html.escape(text) for text in texts if text)
    picture = "" if row.image is None else f'<img alt="{name}" src="{thumbnail(folder / row.image)}">'
    way = "up" if one.b > one.a else "down"
    return (
        f'<figure class="card shot">{picture}<figcaption><b>{name}</b><br>A {one.a:.3f}, B {one.b:.3f} '
        f'(<span class="{way}">{one.b - one.a:+.3f}</span>)<br>{said}</figcaption></figure>'
    )


def _refusals(a: ScoredSide, b: ScoredSide, rows: Sequence[SampleRow]) -> str:
    """Items whose outcomes differ, or that both could not score, with the reasons."""
    told = [
        (row, one, other)
        for row, one, other in zip(rows, a.outcomes, b.outcomes)
        if isinstance(one, Failure | NotApplicable) or isinstance(other, Failure | NotApplicable)
    ]
    if not told:
        return '<p class="note">Both scored every item.</p>'
    lines = "".join(
        f"<tr><td>{html.escape(row.id)}</td><td>{html.escape(_reason(one))}</td><td>{html.escape(_reason(other))}</td></tr>"
        for row, one, other in told[:_SHOWN_REFUSALS]
    )
    head = "<tr><th>item</th><th>A</th><th>B</th></tr>"
    note = f'<p class="note">{min(len(told), _SHOWN_REFUSALS)} of {len(told)}.</p>'
    return f'<div class="card scroll answers"><table>{head}{lines}</table></div>{note}'


def _reason(outcome: object) -> str:
    if isinstance(outcome, Failure):
        return f"failed: {outcome.code.value} {outcome.message}"
    return f"not applicable: {outcome.reason}" if isinstance(outcome, NotApplicable) else "scored"
