"""A table of scores as one self-contained HTML page: best, worst, most disagreed, failed, and how scores are spread.

The table is read once, row by row; the pictures of the rows that are shown come from the input that was scored.
"""

from __future__ import annotations

import heapq
import html
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from sync_r1.trainer_client import atomic_write
from sync_r1.trainer_client.reports.charts import histogram
from sync_r1.trainer_client.reports.frame import framed
from sync_r1.trainer_client.reports.thumbnails import scored_thumbnail
from sync_r1.trainer_client.sdk.picture_files import PictureFiles, Unreadable
from sync_r1.trainer_client.sdk.pictures import EncodedPicture
from sync_r1.trainer_client.sdk.sample_file import ScoreFileError
from sync_r1.trainer_client.tables.columns import FAILED, NOT_APPLICABLE, SCORED
from sync_r1.trainer_client.tables.journal import read_facts
from sync_r1.trainer_client.tables.output import journal_of, read_table
from sync_r1.trainer_client.tables.rows import ColumnMap, TableRow
from sync_r1.trainer_client.tables.sources import open_source

_BINS = 20
_MOST_PICTURE_BYTES = 256 << 20
_MOST_TEXT = 300
Cells = Mapping[str, Any]


class _Top:
    """The rows with the highest keys, the first of equal ones."""

    def __init__(self, size: int) -> None:
        self._size = size
        self._heap: list[tuple[float, int, Cells]] = []

    def add(self, key: float, cells: Cells) -> None:
        entry = (key, -int(cells["row"]), cells)
        if len(self._heap) < self._size:
            heapq.heappush(self._heap, entry)
        elif entry[:2] > self._heap[0][:2]:
            heapq.heapreplace(self._heap, entry)

    def rows(self) -> list[Cells]:
        """Highest first."""
        return [cells for _, _, cells in sorted(self._heap, key=lambda entry: entry[:2], reverse=True)]


class _Reward:
    """What the page says of one reward."""

    def __init__(self, name: str, top: int) -> None:
        self.name = name
        self.counts = dict.fromkeys((SCORED, NOT_APPLICABLE, FAILED), 0)
        self.bins = [0] * _BINS
        self.sums = [0.0, 0.0]
        self.best, self.worst = _Top(top), _Top(top)
        self.scored_by = ""

    def add(self, cells: Cells) -> None:
        outcome = cells[f"{self.name}.outcome"]
        self.counts[outcome] = self.counts.get(outcome, 0) + 1
        self.scored_by = f"{cells[f'{self.name}.variant']}@{str(cells[f'{self.name}.release'])[:12]}"
        if outcome == SCORED:
            score, raw = cells[f"{self.name}.score"], cells[f"{self.name}.raw"]
            self.bins[min(int(score * _BINS), _BINS - 1)] += 1
            self.sums = [self.sums[0] + score, self.sums[1] + raw]
            self.best.add(raw, cells)
            self.worst.add(-raw, cells)


@dataclass
class _Found:
    """What one reading of the table gives."""

    rewards: list[_Reward] = field(default_factory=list)
    rows: int = 0
    failed_rows: int = 0
    failed: list[Cells] = field(default_factory=list)
    """The first of them."""
    disagreed: _Top = field(default_factory=lambda: _Top(0))

    def shown(self) -> Iterator[Cells]:
        """Every row that the page shows."""
        for reward in self.rewards:
            yield from reward.best.rows() + reward.worst.rows()
        yield from self.disagreed.rows() + self.failed


def write_table_page(table: Path, page: Path, *, source: Path | None = None, top: int = 12) -> None:
    """Write the page of a table that `sync-r1 score` wrote; `top` rows in each part.

    `source`: what was scored, if it is not where the table's journal says. Raises ScoreFileError for another file.
    """
    found = _read(table, top)
    pictures, note = _pictures(table, {int(cells["row"]) - 1: str(cells["id"]) for cells in found.shown()}, source)
    sections = [
        _shots(f"{reward.name}: {kind}", rows.rows(), found, pictures)
        for reward in found.rewards
        for kind, rows in (("best", reward.best), ("worst", reward.worst))
    ]
    disagreed = found.disagreed.rows()
    counted = ", ".join(f"{reward.counts[SCORED]:,} scored by {reward.name}" for reward in found.rewards)
    text = framed(
        table.name,
        html.escape(f"{found.rows:,} rows: {counted}; {found.failed_rows:,} rows failed."),
        "table_page.html",
        rewards=_rewards(found),
        distributions="".join(histogram(f"{one.name}, score", one.bins, 0.0, 1.0) for one in found.rewards),
        note=f'<p class="note">{html.escape(note)}</p>' if note else "",
        best_and_worst="".join(sections),
        disagreed=_shots("Most disagreed", disagreed, found, pictures) if len(found.rewards) > 1 else "",
        failed=_failed(found, pictures),
    )
    atomic_write.write_text(page, text)


def _read(table: Path, top: int) -> _Found:
    found = _Found(disagreed=_Top(top))
    for cells in read_table(table):
        if not found.rewards:
            names = [name.removesuffix(".outcome") for name in cells if name.endswith(".outcome")]
            found.rewards = [_Reward(name, top) for name in names]
        found.rows += 1
        for reward in found.rewards:
            reward.add(cells)
        scores = [cells[f"{one.name}.score"] for one in found.rewards]
        scores = [score for score in scores if score is not None]
        if len(scores) > 1:
            found.disagreed.add(max(scores) - min(scores), cells)
        if any(cells[f"{one.name}.outcome"] == FAILED for one in found.rewards):
            found.failed_rows += 1
            if len(found.failed) < top:
                found.failed.append(cells)
    return found


def _pictures(table: Path, wanted: Mapping[int, str], source: Path | None) -> tuple[dict[int, str], str]:
    """(row's number -> data URI, why there are none): of positions whose rows still have these ids."""
    run = read_facts(journal_of(table), ["run"]).get("run", {})
    if source is None and not run:
        return {}, f"no pictures: {journal_of(table).name} is not there to say what was scored; give --input INPUT"
    folder = table.resolve().parent
    pictures = folder / run["pictures"] if run.get("pictures") else None
    found: dict[int, str] = {}
    try:
        opened = open_source(source or folder / run["input"], ColumnMap.parse([run.get("columns", "")]), pictures)
        files = PictureFiles(opened.root, max_bytes=_MOST_PICTURE_BYTES)
        left = len(wanted)
        for row in opened.rows(lambda position: position in wanted) if left else ():
            if row.position in wanted:
                if wanted[row.position] == row.file_row.row.id:
                    found[row.position + 1] = _thumbnail(row, files)
                left -= 1
            if not left:
                break
    except ScoreFileError as error:
        return {}, f"no pictures: {error}; give --input INPUT if it is elsewhere now"
    return found, ""


def _thumbnail(row: TableRow, files: PictureFiles) -> str:
    try:
        picture = files.image(row.file_row) if row.data is None else EncodedPicture(row.data)
    except Unreadable:
        return ""
    return scored_thumbnail(picture.data) if isinstance(picture, EncodedPicture) else ""


def _rewards(found: _Found) -> str:
    head = "<tr><th>reward</th><th>scored by</th>" + "".join(
        f'<th class="n">{name}</th>' for name in ("scored", "not applicable", "failed", "mean score", "mean raw")
    )
    lines = []
    for one in found.rewards:
        scored = one.counts[SCORED]
        means = [f"{total / scored:.4g}" if scored else "–" for total in one.sums]
        numbers = [f"{count:,}" for count in one.counts.values()] + means
        lines.append(
            f"<tr><td>{html.escape(one.name)}</td><td><code>{html.escape(one.scored_by)}</code></td>"
            + "".join(f'<td class="n">{number}</td>' for number in numbers)
            + "</tr>"
        )
    return f'<div class="card scroll"><table>{head}</tr>{"".join(lines)}</table></div>'


def _shots(title: str, rows: list[Cells], found: _Found, pictures: Mapping[int, str]) -> str:
    shots = "".join(_shot(cells, found, pictures) for cells in rows)
    content = f'<div class="shots">{shots}</div>' if shots else '<p class="note">No row has such a score.</p>'
    return f"<h2>{html.escape(title)}</h2>{content}"


def _shot(cells: Cells, found: _Found, pictures: Mapping[int, str]) -> str:
    name = html.escape(str(cells["id"]))
    shown = pictures.get(int(cells["row"]), "")
    image = f'<img alt="{name}" src="{shown}">' if shown else ""
    lines = []
    for one in found.rewards:
        raw, score = cells[f"{one.name}.raw"], cells[f"{one.name}.score"]
        said = f"{score:.3f} (raw {raw:.4g})" if score is not None else str(cells[f"{one.name}.outcome"])
        lines.append(f"{html.escape(one.name)} {html.escape(said)}")
    prompt = str(cells.get("prompt") or "")
    lines.append(html.escape(prompt[:_MOST_TEXT] + ("…" if len(prompt) > _MOST_TEXT else "")))
    said = "<br>".join(line for line in lines if line)
    return f'<figure class="card shot">{image}<figcaption><b>{name}</b><br>{said}</figcaption></figure>'


def _failed(found: _Found, pictures: Mapping[int, str]) -> str:
    if not found.failed:
        return '<p class="note">No row failed.</p>'
    lines = []
    for cells in found.failed:
        for one in found.rewards:
            if cells[f"{one.name}.outcome"] == FAILED:
                shown = pictures.get(int(cells["row"]), "")
                image = f'<img alt="" src="{shown}" style="max-width:96px">' if shown else ""
                said = "".join(f"<td>{html.escape(str(text))}</td>" for text in (one.name, cells[f"{one.name}.reason"]))
                lines.append(
                    f"<tr><td>{cells['row']}</td><td>{html.escape(str(cells['id']))}</td><td>{image}</td>{said}</tr>"
                )
    head = "<tr><th>row</th><th>id</th><th>picture</th><th>reward</th><th>reason</th></tr>"
    note = f'<p class="note">{len(found.failed):,} of {found.failed_rows:,} rows.</p>'
    return f'<div class="card scroll answers"><table>{head}{"".join(lines)}</table></div>{note}'
