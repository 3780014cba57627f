"""What `sync-r1 score` shows of a run over a table: how far it is, and what came out."""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from sync_r1.cli.screen import console

if TYPE_CHECKING:
    from sync_r1.trainer_client.tables.run import Progress
    from sync_r1.trainer_client.tables.summary import Summary

_SHOWN_FAILURES = 10
_LINE_EVERY_S = 30.0


class Screen:
    """A bar with rate and time left; where there is no terminal, a line now and then."""

    def __init__(self, name: str) -> None:
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

        self._console = console()
        self._bar = Progress(
            TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TextColumn("{task.fields[rate]}"),
            TimeRemainingColumn(), console=self._console, disable=not self._console.is_terminal,
        )  # fmt: skip
        self._task = self._bar.add_task(name, total=None, rate="")
        self._started_s = self._told_s = time.monotonic()
        self._name, self._first = name, -1

    def __enter__(self) -> Screen:
        self._bar.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._bar.stop()

    def show(self, at: Progress) -> None:
        """How far the run is."""
        now_s = time.monotonic()
        if self._first < 0:
            self._first, self._started_s = at.rows, now_s
        rate = (at.rows - self._first) / max(now_s - self._started_s, 1e-9)
        said = f"{rate:,.0f} rows/s" + (f", {at.failed:,} failed" if at.failed else "")
        self._bar.update(self._task, completed=at.rows, total=at.total, rate=said)
        if not self._console.is_terminal and now_s - self._told_s > _LINE_EVERY_S:
            self._told_s = now_s
            left = f", {(at.total - at.rows) / rate / 60:,.0f} min left" if rate > 0 else ""
            line = f"{self._name}: {at.rows:,} of {at.total:,} rows, {said}{left}"
            self._console.print(line, markup=False, highlight=False)


def show_summary(summary: Summary, unused: Sequence[str], target: Path) -> None:
    """Counts and means of each reward, and the first failures."""
    from rich.table import Column, Table

    screen = console()
    table = Table(
        Column("reward", overflow="fold"),
        "scored",
        "mean score",
        "mean raw",
        "not applicable",
        "failed",
        "variant",
        "release",
    )
    for name, one in summary.uses.items():
        found = one.to_json()
        means = [f"{found[mean]:.4f}" if found[mean] is not None else "–" for mean in ("mean_score", "mean_raw")]
        counts = [f"{count:,}" for count in (one.not_applicable, one.failed)]
        table.add_row(name, f"{one.scored:,}", *means, *counts, one.variant, one.release[:12])
    screen.print(table)
    for failure in summary.failures[:_SHOWN_FAILURES]:
        line = f"row {failure['row']} ({failure['id']}), {failure['reward']}: {failure['reason']}"
        screen.print(line, markup=False, highlight=False, soft_wrap=True)
    if summary.failed_rows:
        line = f"{summary.failed_rows:,} of {summary.rows:,} rows failed; they have outcome = failed in {target}"
        screen.print(line, markup=False, highlight=False, soft_wrap=True)
    if unused:
        screen.print(f"columns that are no field: {', '.join(unused)}", markup=False, highlight=False)
    screen.print(f"{summary.rows:,} rows: {target}", markup=False, highlight=False, soft_wrap=True)
