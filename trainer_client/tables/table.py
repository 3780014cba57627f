"""A source as a run sees it: one shard of it, with unique ids, and the same rows in every pass."""

from __future__ import annotations

import hashlib
import re
import zlib
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, replace

from sync_r1.reward_models.types import Failure
from sync_r1.trainer_client.sdk.sample_file import ScoreFileError
from sync_r1.trainer_client.tables.rows import Place, Source, TableRow, Wanted, odd_row
from sync_r1.trainer_client.tables.sources import SeenIds, stamp


@dataclass(frozen=True)
class Shard:
    """Part `index` (from 0) of `parts`: every parts-th row, or, where groups are scored together, whole groups."""

    index: int
    parts: int

    @classmethod
    def parse(cls, text: str) -> Shard:
        """Of "0/8". Raises ScoreFileError."""
        found = re.fullmatch(r"(\d+)/(\d+)", text)
        if not found or not int(found[1]) < int(found[2]):
            raise ScoreFileError(f"--shard: expected I/N with I from 0 to N - 1, as 0/8, got {text!r}")
        return cls(int(found[1]), int(found[2]))

    def has(self, position: int, group: str) -> bool:
        """Whether a row is in this part; `group` "" if it may be apart from others."""
        return (zlib.crc32(group.encode()) if group else position) % self.parts == self.index


WHOLE = Shard(0, 1)


class Table:
    """The rows of a shard of a source. `scan` comes first; it raises ScoreFileError if no row can be scored."""

    def __init__(self, source: Source, shard: Shard, *, groupwise: bool) -> None:
        self.source = source
        self.count = 0
        """Rows of the shard."""
        self.end = 0
        """Rows of the source."""
        self.group_sizes: Counter[str] = Counter()
        self._shard, self._groupwise = shard, groupwise
        self._stamp = stamp(source.path)
        self._scanned = ""

    def scan(self) -> None:
        """Count the rows, without their pictures."""
        sound, first = 0, ""
        for row in self.rows(None):
            self.count += 1
            sound += row.file_row.problem is None
            first = first or _message(row.file_row.problem)
            if group := self.group_of(row):
                self.group_sizes[group] += 1
        if not self.end:
            raise ScoreFileError(f"{self.source.path} has no rows; expected pictures or samples to score")
        if self.count and not sound:
            raise ScoreFileError(f"none of the {self.count} rows of {self.source.path} can be scored: {first}")

    def rows(self, wanted: Wanted) -> Iterator[TableRow]:
        """The rows of the shard, in order. Raises ScoreFileError when they are not those of the first pass."""
        seen, told, end = SeenIds(), hashlib.sha256(), 0
        alone = not self._groupwise

        def wanted_here(position: int) -> bool:
            return wanted is not None and wanted(position) and (not alone or self._shard.has(position, ""))

        for row in self.source.rows(None if wanted is None else wanted_here):
            end += 1
            row = self._unique(row, seen)
            told.update(f"{row.file_row.row.id}\n".encode())
            if self._shard.has(row.position, self.group_of(row)):
                yield row
        if self._scanned not in ("", told.hexdigest()) or self._stamp != stamp(self.source.path):
            raise ScoreFileError(f"{self.source.path} was changed while it was read; run the same command again")
        self._scanned, self.end = told.hexdigest(), end

    def group_of(self, row: TableRow) -> str:
        """The group that a row must be scored with, "" if none."""
        return row.file_row.row.group if self._groupwise else ""

    def _unique(self, row: TableRow, seen: SeenIds) -> TableRow:
        """The row, or its failure if another one had its id before."""
        before = seen.first(row.file_row.row.id, row.position)
        if before is None:
            return row
        identifier = row.file_row.row.id
        said = (
            f"{self.source.path}, row {row.position + 1}: the id {identifier!r} is that of row {before + 1} too; "
            "give each row its own, or name another column with --columns id=COLUMN"
        )
        other = f"row {row.position + 1}"
        while seen.first(other, row.position) is not None:  # a row may be called "row 2"
            other += "#"
        place = Place(row.position, "", other, None)
        odd = odd_row(place, "", "id", said, path=row.path)
        failure = odd.file_row.problem
        assert failure is not None
        failure = replace(failure, message=failure.message.removeprefix(": "))
        return replace(odd, file_row=replace(odd.file_row, problem=failure))


def _message(problem: Failure | None) -> str:
    return "" if problem is None else problem.message
