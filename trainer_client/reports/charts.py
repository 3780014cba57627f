"""Line charts, intervals and bars as inline SVG, for pages that load nothing from anywhere."""

from __future__ import annotations

import html
import math
import statistics
from collections.abc import Mapping, Sequence

Points = Sequence[tuple[float, float | None]]
IntervalRow = tuple[str, float | None, float | None, float | None, Sequence[float]]
"""(label, value, low, high, the single values behind it)."""
COLOURS = ("var(--a)", "var(--b)", "var(--c)", "var(--d)")
_WIDTH, _HEIGHT, _LEFT, _BOTTOM, _TOP, _RIGHT = 360, 170, 44, 20, 10, 8
_ROW, _LABEL, _ACROSS = 22, 250, 900


def line_chart(title: str, series: Mapping[str, Points], *, smooth: int = 1) -> str:
    """A card with up to four lines; None leaves a gap.

    `smooth` > 1 draws the running mean over that many points thick and, around it, the mean's 95 % band
    (± 1.96 · standard deviation / √n of the points in the window; normal approximation, neighbours taken as
    independent).
    """
    known = [(x, y) for points in series.values() for x, y in points if y is not None and math.isfinite(y)]
    if not known:
        return f'<div class="card"><h3>{html.escape(title)}</h3><p class="note">not measured in this run</p></div>'
    low, high = _nice(min(y for _, y in known), max(y for _, y in known))
    first, last = min(x for x, _ in known), max(x for x, _ in known)

    def place(x: float, y: float) -> str:
        across = (x - first) / (last - first) if last > first else 0.5
        up = min(max((y - low) / (high - low), 0.0), 1.0)
        return (
            f"{_LEFT + across * (_WIDTH - _LEFT - _RIGHT):.1f},"
            f"{_HEIGHT - _BOTTOM - up * (_HEIGHT - _BOTTOM - _TOP):.1f}"
        )

    parts = []
    for value in _ticks(low, high):
        y = place(first, value).split(",")[1]
        parts.append(f'<line class="grid" x1="{_LEFT}" x2="{_WIDTH - _RIGHT}" y1="{y}" y2="{y}"/>')
        parts.append(f'<text x="{_LEFT - 6}" y="{float(y) + 3:.1f}" text-anchor="end">{_number(value)}</text>')
    for x in sorted({first, last}):
        anchor = "start" if x == first else "end"
        name = f"step {_number(x)}" if x == first else _number(x)
        parts.append(f'<text x="{place(x, low).split(",")[0]}" y="{_HEIGHT - 5}" text-anchor="{anchor}">{name}</text>')
    legend = []
    for (name, points), colour in zip(series.items(), COLOURS):
        kept = [(x, y) for x, y in points if y is not None and math.isfinite(y)]
        if smooth > 1 and len(kept) > 1:
            parts.append(_line([place(x, y) for x, y in kept], colour, 1, "raw"))
            windows = [[y for _, y in kept[max(0, i - smooth + 1) : i + 1]] for i in range(len(kept))]
            means = [statistics.fmean(window) for window in windows]
            halves = [1.96 * statistics.stdev(w) / len(w) ** 0.5 if len(w) > 1 else 0.0 for w in windows]
            upper = [place(x, mean + half) for (x, _), mean, half in zip(kept, means, halves)]
            lower = [place(x, mean - half) for (x, _), mean, half in zip(kept, means, halves)]
            parts.append(f'<polygon class="band" fill="{colour}" points="{" ".join(upper + lower[::-1])}"/>')
            kept = [(x, mean) for (x, _), mean in zip(kept, means)]
        parts.append(_line([place(x, y) for x, y in kept], colour, 2.2, ""))
        if len(series) > 1:
            legend.append(f'<span><i style="background:{colour}"></i>{html.escape(name)}</span>')
    return (
        f'<div class="card"><h3>{html.escape(title)}</h3>'
        f'<svg viewBox="0 0 {_WIDTH} {_HEIGHT}" role="img" aria-label="{html.escape(title)}">{"".join(parts)}</svg>'
        + (f'<div class="legend">{"".join(legend)}</div>' if legend else "")
        + "</div>"
    )


def interval_chart(rows: Sequence[IntervalRow], *, zero: bool = False) -> str:
    """A card with one row per value: a dot, its interval, and faint dots for the single values behind it.

    `zero` draws a line at 0, for differences. "" without rows.
    """
    if not rows:
        return ""
    ends = [end for _, value, low, high, single in rows for end in (value, low, high, *single) if end is not None]
    low, high = _nice(min(*ends, 0.0), max(*ends, 0.0 if zero else 1.0))
    height = _ROW * len(rows) + _BOTTOM

    def across(value: float) -> float:
        return _LABEL + (value - low) / (high - low) * (_ACROSS - _LABEL - 20)

    parts = []
    for tick in _ticks(low, high):
        x = f"{across(tick):.1f}"
        parts.append(f'<line class="grid" x1="{x}" x2="{x}" y1="2" y2="{height - _BOTTOM}"/>')
        parts.append(f'<text x="{x}" y="{height - 5}" text-anchor="middle">{_number(tick)}</text>')
    if zero:
        x = f"{across(0.0):.1f}"
        parts.append(f'<line class="axis" x1="{x}" x2="{x}" y1="2" y2="{height - _BOTTOM}"/>')
    for index, (label, value, start, end, single) in enumerate(rows):
        y = _ROW * (index + 0.5)
        parts.append(
            f'<text class="label" x="{_LABEL - 12}" y="{y + 4:.1f}" text-anchor="end">{html.escape(label)}</text>'
        )
        parts += [
            f'<circle class="raw" cx="{across(one):.1f}" cy="{y:.1f}" r="2.4" fill="var(--a)"/>' for one in single
        ]
        if start is not None and end is not None:
            parts.append(
                f'<line x1="{across(start):.1f}" x2="{across(end):.1f}" y1="{y:.1f}" y2="{y:.1f}" stroke="var(--a)" '
                'stroke-width="2.2" stroke-linecap="round"/>'
            )
        if value is not None:
            parts.append(f'<circle cx="{across(value):.1f}" cy="{y:.1f}" r="4.5" fill="var(--a)"/>')
    return (
        f'<div class="card chart"><svg viewBox="0 0 {_ACROSS} {height}" role="img" aria-label="values with intervals">'
        f"{''.join(parts)}</svg></div>"
    )


def scatter(title: str, across: str, up: str, points: Sequence[tuple[float, float]]) -> str:
    """A card with one dot per pair of values in [0, 1], and the line on which both are the same."""
    side, left, bottom = 420, 44, 40

    def place(x: float, y: float) -> tuple[str, str]:
        return f"{left + x * (side - left - 10):.1f}", f"{side - bottom - y * (side - bottom - 10):.1f}"

    parts = []
    for tick in (0.0, 0.25, 0.5, 0.75, 1.0):
        x, y = place(tick, tick)
        parts.append(f'<line class="grid" x1="{x}" x2="{x}" y1="10" y2="{side - bottom}"/>')
        parts.append(f'<line class="grid" x1="{left}" x2="{side - 10}" y1="{y}" y2="{y}"/>')
        parts.append(f'<text x="{x}" y="{side - bottom + 15}" text-anchor="middle">{_number(tick)}</text>')
        parts.append(f'<text x="{left - 6}" y="{float(y) + 3:.1f}" text-anchor="end">{_number(tick)}</text>')
    (x1, y1), (x2, y2) = place(0, 0), place(1, 1)
    parts.append(f'<line class="axis" x1="{x1}" y1="{y1}" x2="{x2}" y2="{y2}" stroke-dasharray="4 4"/>')
    parts += ['<circle cx="{}" cy="{}" r="3" fill="var(--a)" opacity=".45"/>'.format(*place(x, y)) for x, y in points]
    middle = (side + left) / 2
    parts.append(f'<text x="{middle}" y="{side - 6}" text-anchor="middle">{html.escape(across)}</text>')
    parts.append(
        f'<text x="12" y="{middle}" text-anchor="middle" transform="rotate(-90 12 {middle})">{html.escape(up)}</text>'
    )
    return (
        f'<div class="card"><h3>{html.escape(title)}</h3><svg viewBox="0 0 {side} {side}" role="img" '
        f'aria-label="{html.escape(title)}">{"".join(parts)}</svg></div>'
    )


def histogram(title: str, counts: Sequence[int], low: float, high: float) -> str:
    """A card with a bar for each count, of values in equal parts of [low, high]."""
    most = max(counts, default=0) or 1
    width = (_WIDTH - _LEFT - _RIGHT) / max(len(counts), 1)
    parts = []
    for value in _ticks(0.0, float(most)):
        y = f"{_HEIGHT - _BOTTOM - value / most * (_HEIGHT - _BOTTOM - _TOP):.1f}"
        parts.append(f'<line class="grid" x1="{_LEFT}" x2="{_WIDTH - _RIGHT}" y1="{y}" y2="{y}"/>')
        parts.append(f'<text x="{_LEFT - 6}" y="{float(y) + 3:.1f}" text-anchor="end">{_number(value)}</text>')
    for index, count in enumerate(counts):
        height = count / most * (_HEIGHT - _BOTTOM - _TOP)
        parts.append(
            f'<rect x="{_LEFT + index * width + 0.5:.1f}" y="{_HEIGHT - _BOTTOM - height:.1f}" '
            f'width="{width - 1:.1f}" height="{height:.1f}" fill="var(--a)"/>'
        )
    for value, anchor, x in ((low, "start", _LEFT), (high, "end", _WIDTH - _RIGHT)):
        parts.append(f'<text x="{x}" y="{_HEIGHT - 5}" text-anchor="{anchor}">{_number(value)}</text>')
    return (
        f'<div class="card"><h3>{html.escape(title)}</h3><svg viewBox="0 0 {_WIDTH} {_HEIGHT}" role="img" '
        f'aria-label="{html.escape(title)}">{"".join(parts)}</svg></div>'
    )


def bar(shares: Mapping[str, float]) -> str:
    """One stacked horizontal bar of non-negative amounts, with a legend in seconds."""
    total = sum(shares.values()) or 1.0
    colours = [COLOURS[index % len(COLOURS)] for index in range(len(shares))]
    segments, x = [], 0.0
    for index, (value, colour) in enumerate(zip(shares.values(), colours)):
        width = 1000 * value / total
        opacity = 1.0 if index < len(COLOURS) else 0.5
        segments.append(
            f'<rect x="{x:.1f}" y="0" width="{width:.1f}" height="26" fill="{colour}" opacity="{opacity}"/>'
        )
        x += width
    legend = [
        f'<span><i style="background:{colour};opacity:{1 if index < len(COLOURS) else 0.5}"></i>'
        f"{html.escape(name)} {value:.1f} s ({value / total:.0%})</span>"
        for index, ((name, value), colour) in enumerate(zip(shares.items(), colours))
    ]
    return (
        '<div class="card"><svg viewBox="0 0 1000 26" preserveAspectRatio="none" style="height:26px">'
        f'{"".join(segments)}</svg><div class="legend">{"".join(legend)}</div></div>'
    )


def _line(places: Sequence[str], colour: str, width: float, kind: str) -> str:
    if len(places) == 1:
        x, y = places[0].split(",")
        return f'<circle cx="{x}" cy="{y}" r="3" fill="{colour}"/>'
    return (
        f'<polyline class="{kind}" fill="none" stroke="{colour}" stroke-width="{width}" stroke-linejoin="round" '
        f'points="{" ".join(places)}"/>'
    )


def _nice(low: float, high: float) -> tuple[float, float]:
    """Axis limits: a little air around the data, and never an empty range."""
    if high - low < 1e-9:
        return low - 0.5 * (abs(low) or 1), high + 0.5 * (abs(high) or 1)
    air = 0.06 * (high - low)
    return low - air if low < 0 or low > air else 0.0, high + air


def _ticks(low: float, high: float) -> list[float]:
    """Three to six round values within the limits: multiples of 1, 2 or 5 times a power of ten."""
    power = 10.0 ** math.floor(math.log10((high - low) / 3))
    step = next(factor * power for factor in (10, 5, 2, 1) if (high - low) / (factor * power) >= 2.5)
    return [index * step for index in range(math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9) + 1)]


def _number(value: float) -> str:
    return f"{value:.3g}" if abs(value) > 1e-12 else "0"
