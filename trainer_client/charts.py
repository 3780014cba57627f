"""Line charts and bars as inline SVG, for reports that load nothing from anywhere."""

from __future__ import annotations

import html
import math
from collections.abc import Mapping, Sequence

Points = Sequence[tuple[float, float | None]]
COLOURS = ("var(--a)", "var(--b)", "var(--c)", "var(--d)")
_WIDTH, _HEIGHT, _LEFT, _BOTTOM, _TOP, _RIGHT = 360, 170, 40, 20, 10, 8


def line_chart(title: str, series: Mapping[str, Points], *, smooth: int = 1) -> str:
    """A card with up to four lines; None leaves a gap. `smooth` > 1 draws a running mean over that many points
    thick.
    """
    known = [(x, y) for points in series.values() for x, y in points if y is not None and math.isfinite(y)]
    if not known:
        return f'<div class="card"><h3>{html.escape(title)}</h3><p class="note">not measured in this run</p></div>'
    low, high = _nice(min(y for _, y in known), max(y for _, y in known))
    first, last = min(x for x, _ in known), max(x for x, _ in known)

    def place(x: float, y: float) -> str:
        across = (x - first) / (last - first) if last > first else 0.5
        up = (y - low) / (high - low)
        return (
            f"{_LEFT + across * (_WIDTH - _LEFT - _RIGHT):.1f},"
            f"{_HEIGHT - _BOTTOM - up * (_HEIGHT - _BOTTOM - _TOP):.1f}"
        )

    parts = []
    for tick in range(4):
        value = low + (high - low) * tick / 3
        y = place(first, value).split(",")[1]
        parts.append(f'<line class="grid" x1="{_LEFT}" x2="{_WIDTH - _RIGHT}" y1="{y}" y2="{y}"/>')
        parts.append(f'<text x="{_LEFT - 6}" y="{float(y) + 3:.1f}" text-anchor="end">{_number(value)}</text>')
    for x in sorted({first, last}):
        anchor = "start" if x == first else "end"
        parts.append(
            f'<text x="{place(x, low).split(",")[0]}" y="{_HEIGHT - 5}" text-anchor="{anchor}">{_number(x)}</text>'
        )
    legend = []
    for (name, points), colour in zip(series.items(), COLOURS):
        kept = [(x, y) for x, y in points if y is not None and math.isfinite(y)]
        if smooth > 1:
            parts.append(_line([place(x, y) for x, y in kept], colour, 1, "raw"))
            kept = [
                (x, sum(y for _, y in kept[max(0, i - smooth + 1) : i + 1]) / min(i + 1, smooth))
                for i, (x, _) in enumerate(kept)
            ]
        parts.append(_line([place(x, y) for x, y in kept], colour, 2.2, ""))
        if len(series) > 1:
            legend.append(f'<span><i style="background:{colour}"></i>{html.escape(name)}</span>')
    return (
        f'<div class="card"><h3>{html.escape(title)}</h3>'
        f'<svg viewBox="0 0 {_WIDTH} {_HEIGHT}" role="img" aria-label="{html.escape(title)}">{"".join(parts)}</svg>'
        f'<div class="legend">{"".join(legend)}</div></div>'
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


def _number(value: float) -> str:
    return f"{value:.3g}"
