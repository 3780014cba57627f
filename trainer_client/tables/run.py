"""A run: every row of a table scored with several rewards at once, whatever was interrupted on the way.

    scan ─▶ choose variants and releases ─▶ rows never tried ─▶ rows that failed in an earlier run ─▶ the table

Rows stream through: in memory are the calls under way, 16 bytes a row to know its id again, and a byte a row of those
that are tried again.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncGenerator, Callable, Iterator, Mapping, Sequence
from contextlib import aclosing
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any

from sync_r1.trainer_client.sdk.client import RewardClient
from sync_r1.trainer_client.sdk.description import ServiceDescription, VariantDescription
from sync_r1.trainer_client.sdk.errors import RequestRejected, ServiceBug
from sync_r1.trainer_client.sdk.reward_use import AffineMap, RewardUse, reward_of
from sync_r1.trainer_client.sdk.sample_file import ScoreFileError, whole_groups
from sync_r1.trainer_client.tables.columns import ScoredUse, table_cells, with_totals
from sync_r1.trainer_client.tables.journal import Journal
from sync_r1.trainer_client.tables.lanes import Lane, Tally
from sync_r1.trainer_client.tables.loading import Loaded, Loader
from sync_r1.trainer_client.tables.output import chunks
from sync_r1.trainer_client.tables.rows import Source
from sync_r1.trainer_client.tables.summary import Summary
from sync_r1.trainer_client.tables.table import WHOLE, Shard, Table

_DESCRIBE_S = 10.0


@dataclass(frozen=True)
class Progress:
    """How far a run is."""

    rows: int
    total: int
    failed: int
    """Scores that failed."""


@dataclass(frozen=True)
class RunOptions:
    """What may be asked of a run."""

    shard: Shard = WHOLE
    rescore: bool = False
    """Score rows again that another variant or release scored."""
    max_failed: int | None = None
    on_progress: Callable[[Progress], None] = field(default=lambda progress: None)


Rewards = Mapping[str, tuple[RewardClient, RewardUse]]
"""Name of the use (`REWARD` or `REWARD/VARIANT`) -> (client, how it takes part). Weights of 0 make no total."""


@dataclass(frozen=True)
class _Chosen:
    client: RewardClient
    described: ServiceDescription
    variant: VariantDescription
    release: str


class TableRun:
    """One run; `score` fills the journal, `rows` are those of the table then. Both raise ScoreFileError."""

    def __init__(self, source: Source, rewards: Rewards, journal: Journal, options: RunOptions) -> None:
        self._source, self._rewards, self._journal, self._options = source, rewards, journal, options
        self.uses: list[ScoredUse] = []
        self.summary = Summary()

    async def score(self) -> None:
        """Score the rows that the journal has no score of.

        Raises ScoreFileError before anything is changed, TooManyFailed, or what `RewardClient.score` raises where no
        row is at fault: what was scored until then is in the journal.
        """
        chosen = [await self._choose(name) for name in self._rewards]
        groupwise = any(one.variant.groupwise for one in chosen)
        self._check_fields(chosen)
        self._table = Table(self._source, self._options.shard, groupwise=groupwise)
        await asyncio.to_thread(self._table.scan)
        self.uses = [self._scored_use(name, one) for name, one in zip(self._rewards, chosen)]
        self._journal.begin()
        self._journal.keep("uses", [(use.name, use.variant, use.release) for use in self.uses])
        done = 0

        def add(cells: int) -> None:
            nonlocal done
            done += cells
            rows = min(done // len(chosen), self._table.count)
            self._options.on_progress(Progress(rows, self._table.count, tally.failed))

        tally = Tally(self._options.max_failed, add)
        add(0)
        lanes = [
            Lane(
                number,
                one.client,
                one.variant,
                one.release,
                self._journal,
                tally,
                one.described.limits.max_deadline_ms / 1000,
            )
            for number, one in enumerate(chosen)
        ]
        try:
            await self._score(lanes, chosen)
        finally:
            for lane in lanes:
                await lane.cancel()

    def rows(self) -> Iterator[dict[str, Any]]:
        """The rows of the table, in order, and what they say in the summary."""
        for chunk in chunks(self._cells()):
            for cells in with_totals(chunk, self.uses):
                self.summary.add(cells, self.uses)
                yield cells

    async def _score(self, lanes: Sequence[Lane], chosen: Sequence[_Chosen]) -> None:
        max_bytes = max(one.described.limits.max_image_bytes for one in chosen)
        loader = Loader([(one.variant, one.release) for one in chosen], self._source.root, max_bytes)
        async with aclosing(self._loaded(loader, lambda position: True)) as loaded:
            async for chunk in loaded:
                for number, lane in enumerate(lanes):
                    await lane.first([unit[number] for unit in chunk])
        for lane in lanes:
            await lane.finish()
        if not any(lane.later for lane in lanes):
            return
        again = bytearray(self._table.end)
        for position in self._journal.to_repeat():
            again[position] = 1
        whole = any(one.variant.groupwise for one in chosen)
        async with aclosing(self._loaded(loader, lambda position: whole or bool(again[position]))) as loaded:
            async for chunk in loaded:
                for number, lane in enumerate(lanes):
                    await lane.again([unit[number] for unit in chunk])
        for lane in lanes:
            await lane.finish()

    async def _loaded(
        self, loader: Loader, wanted: Callable[[int], bool]
    ) -> AsyncGenerator[list[list[list[Loaded]]], None]:
        """Chunks of units with a row that is wanted; files are read on another thread while calls are under way."""
        rows = (row for row in self._table.rows(wanted) if wanted(row.position))
        units = whole_groups(rows, self._table.group_of, self._table.group_sizes)
        loaded = loader.chunks(units)
        while chunk := await asyncio.to_thread(lambda: list(islice(loaded, 1))):
            yield chunk[0]

    def _cells(self) -> Iterator[dict[str, Any]]:
        found = self._journal.in_order()
        for row in self._table.rows(None):
            position, outcomes = next(found, (-1, {}))
            if position != row.position or len(outcomes) != len(self.uses):
                raise ScoreFileError(f"{self._source.path} was changed while it was read; run the same command again")
            yield table_cells(row, outcomes, self.uses)

    async def _choose(self, name: str) -> _Chosen:
        """Variant and release of a use: those of the journal, as long as they are served."""
        client, use = self._rewards[name]
        described = await client.describe(timeout_s=_DESCRIBE_S)
        if described.reward != reward_of(name):
            raise RequestRejected(f"{', '.join(client.endpoints)} serves {described.reward}, not {reward_of(name)}")
        held = {one: (variant, release) for one, variant, release in self._journal.fact("uses") or ()}
        before = held.get(name, ("", ""))
        old = before[0] if not self._options.rescore or before[0] in described.variants else ""
        chosen = described.variant(use.variant or old)
        release = described.default_releases.get(chosen.name, "")
        if not release:
            raise ServiceBug(f"the service {described.reward!r} names no release of its variant {chosen.name!r}")
        if before[0] == chosen.name and described.releases.get(before[1]) == chosen.name and not self._options.rescore:
            release = before[1]  # no longer the default, but still served
        if before[1] and before != (chosen.name, release) and not self._options.rescore:
            raise ScoreFileError(
                f"the journal holds scores of {name} by {before[0]}@{before[1][:12]}, the service would give "
                f"{chosen.name}@{release[:12]}; give another --output, or --rescore to score all rows again"
            )
        return _Chosen(client, described, chosen, release)

    def _check_fields(self, chosen: Sequence[_Chosen]) -> None:
        """Raises ScoreFileError for a table that lacks a field which a reward needs of every row."""
        fields = self._source.fields
        if fields is None:
            return
        for one in chosen:
            for needed in one.variant.required_fields:
                if not {needed, needed.partition(".")[0]} & fields:
                    has = ", ".join([*sorted(fields), *self._source.unused])
                    raise ScoreFileError(
                        f"{one.described.reward}/{one.variant.name} needs {needed}, and no column of "
                        f"{self._source.path} is called so; it has {has}; say which one it is: "
                        f"--columns {needed}=COLUMN"
                    )

    def _scored_use(self, name: str, one: _Chosen) -> ScoredUse:
        use = self._rewards[name][1]
        affine = use.affine or AffineMap(one.variant.affine_scale, one.variant.affine_shift)
        return ScoredUse(name, one.variant.name, one.release, affine, use.weight or None)


def identity(source: Path, rewards: Sequence[str], output: Path, **options: str) -> dict[str, str]:
    """What makes a run the same one again, to be kept in its journal; paths as they are seen from OUT."""
    seen = os.path.relpath(source.resolve(), output.resolve().parent)
    return {"input": seen, "rewards": ",".join(rewards), **options}


def check_identity(journal: Journal, wanted: Mapping[str, str], output: Path) -> None:
    """Raises ScoreFileError if the journal is of another run; keeps what is wanted in a new one."""
    held = journal.fact("run")
    if held is None:
        journal.keep("run", dict(wanted))
        return
    for name, value in wanted.items():
        if held.get(name, "") != value:
            raise ScoreFileError(
                f"{output} is of another run: its {name} {held.get(name) or 'none'!r}, not {value or 'none'!r}; give "
                "another --output, or move it and its journal away"
            )
