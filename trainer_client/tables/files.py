"""A run from an input to an output file, both checked and held before any service is asked."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType

from sync_r1.trainer_client.tables.columns import column_names
from sync_r1.trainer_client.tables.journal import Journal
from sync_r1.trainer_client.tables.output import TableOutput
from sync_r1.trainer_client.tables.rows import ColumnMap
from sync_r1.trainer_client.tables.run import Rewards, RunOptions, TableRun, check_identity, identity
from sync_r1.trainer_client.tables.sources import open_source
from sync_r1.trainer_client.tables.summary import Summary


@dataclass(frozen=True)
class InputOptions:
    """How an input is read."""

    columns: tuple[str, ...] = ()
    """FIELD=COLUMN, or several with commas."""
    pictures: Path | None = None
    """The folder that paths of pictures are relative to; the input's own if None."""
    shard: str = ""
    """I/N, "" = all of it."""
    preset: str = ""
    """Where the rewards are from; their weights make a total."""


class TableFiles:
    """Raises ScoreFileError; `with` gives the output back."""

    def __init__(self, source: Path, target: Path, rewards: Sequence[str], how: InputOptions) -> None:
        columns = ColumnMap.parse(how.columns)
        self.source = open_source(source, columns, how.pictures)
        self.output = TableOutput(target, source)
        self.journal = Journal(self.output.journal_path, target)
        pictures = identity(how.pictures, (), target)["input"] if how.pictures else ""
        given = ",".join(f"{name}={column}" for name, column in sorted(columns.given.items()))
        wanted = identity(
            source, rewards, target, columns=given, pictures=pictures, shard=how.shard, preset=how.preset
        )  # fmt: skip
        try:
            check_identity(self.journal, wanted, target)
            self.output.check_ours(self.journal)
        except BaseException:
            self.journal.close()
            raise

    def __enter__(self) -> TableFiles:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.journal.close()

    async def score(self, rewards: Rewards, options: RunOptions) -> Summary:
        """Score what has no score yet, then write the table. Raises what `TableRun.score` raises."""
        run = TableRun(self.source, rewards, self.journal, options)
        await run.score()
        self.output.write(self.journal, column_names(run.uses), run.rows())
        return run.summary
