"""`score_table`: a table in memory scored, by the rules of `sync-r1 score`."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from sync_r1.trainer_client.sdk.client import RewardClient
from sync_r1.trainer_client.sdk.errors import BadArgument
from sync_r1.trainer_client.sdk.reward_use import RewardUse, variant_of
from sync_r1.trainer_client.sdk.settings import DEFAULT_SETTINGS, ClientSettings
from sync_r1.trainer_client.tables.arrow_source import table_source
from sync_r1.trainer_client.tables.columns import column_names
from sync_r1.trainer_client.tables.journal import Journal
from sync_r1.trainer_client.tables.output import arrow_table
from sync_r1.trainer_client.tables.rows import ColumnMap
from sync_r1.trainer_client.tables.run import RunOptions, TableRun


def score_table(
    rewards: Mapping[str, str | Sequence[str]],
    table: Any,
    *,
    columns: Mapping[str, str] | None = None,
    pictures: Path | str | None = None,
    settings: ClientSettings = DEFAULT_SETTINGS,
) -> Any:
    """A pyarrow.Table of scores, one row for each row of `table`, in order (`columns.py` says which columns).

    `rewards`: `REWARD` or `REWARD/VARIANT` -> "host:port", or several replicas'. `table`: a pyarrow.Table, or what
    makes one: a DataFrame of pandas or polars, a Dataset of `datasets`. Pictures are a column of paths, of files'
    bytes, or of both; `columns` says which column is which field, where its name does not; paths are relative to
    `pictures`, and may lead anywhere without it. Works where an event loop runs, as in Jupyter.

    A row that cannot be scored has its reason in the table. Raises ScoreFileError for a table none of whose rows can
    be, and what `RewardClient.score` raises where no row is at fault.
    """
    if not rewards:
        raise BadArgument("expected at least one reward: {'aesthetic': 'localhost:9001'}")
    source = table_source(
        _as_arrow(table), ColumnMap(dict(columns or {})), None if pictures is None else Path(pictures)
    )

    async def scored() -> Any:
        clients = {name: RewardClient(endpoints, settings) for name, endpoints in rewards.items()}
        journal = Journal(None, source.path)
        try:
            uses = {name: (client, RewardUse(0.0, variant_of(name))) for name, client in clients.items()}
            run = TableRun(source, uses, journal, RunOptions())
            await run.score()
            return arrow_table(column_names(run.uses), run.rows())
        finally:
            journal.close()
            for client in clients.values():
                await client.close()

    with ThreadPoolExecutor(1) as thread:  # a loop of its own: the caller's may be running
        return thread.submit(lambda: asyncio.run(scored())).result()


def _as_arrow(table: Any) -> Any:
    """As a pyarrow.Table, by the table's own conversion."""
    import pyarrow as pa

    if isinstance(table, pa.Table):
        return table
    if isinstance(table, pa.RecordBatch):
        return pa.Table.from_batches([table])
    if hasattr(table, "with_format"):  # a Dataset of `datasets`: its own table would leave out its selection
        found = table.with_format("arrow")[:]
        return found if isinstance(found, pa.Table) else pa.table(found)
    try:
        return pa.table(table)
    except (TypeError, ValueError) as error:
        said = f"expected a pyarrow.Table or what makes one (a DataFrame, a Dataset), got {type(table).__name__}"
        raise BadArgument(f"{said}: {error}") from error
