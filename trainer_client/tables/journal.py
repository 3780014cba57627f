"""What a run has found out, in a file beside its output: safe from SIGKILL, and never more than pages of it in memory.

    outcomes   one for each (use of a reward, key of what was scored): score, "not applicable" or failure
    rows       which outcomes the rows of the input have, by position; made anew by every run

A key is a digest of all scored inputs, variant and release (`row_identity.py`): rows that are equal share their outcome
and are scored once. The file is an SQLite database with a write-ahead log; one process has it at a time.
"""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from sync_r1.reward_models.types import Failure, FailureCode, NotApplicable, Outcome, Score
from sync_r1.trainer_client.sdk.output_place import CURE, unwritable
from sync_r1.trainer_client.sdk.sample_file import ScoreFileError

_APPLICATION = 0x53523144
_SCORED, _NOT_APPLICABLE, _FAILED = range(3)
_TABLES = """
CREATE TABLE facts (name TEXT PRIMARY KEY, value TEXT NOT NULL);
CREATE TABLE outcomes (
    id INTEGER PRIMARY KEY, use INTEGER NOT NULL, key BLOB NOT NULL, run INTEGER NOT NULL, kind INTEGER NOT NULL,
    body TEXT NOT NULL, UNIQUE (key, use)
);
CREATE TABLE rows (position INTEGER, use INTEGER, outcome INTEGER NOT NULL, PRIMARY KEY (position, use)) WITHOUT ROWID;
"""
_UPSERT = f"""
INSERT INTO outcomes (use, key, run, kind, body) VALUES (?, ?, ?, ?, ?) ON CONFLICT (key, use)
DO UPDATE SET run = excluded.run, kind = excluded.kind, body = excluded.body WHERE outcomes.kind = {_FAILED}
"""
_PLACE = "INSERT OR REPLACE INTO rows SELECT ?, ?, id FROM outcomes WHERE key = ? AND use = ?"
_IN_ORDER = """
SELECT rows.position, rows.use, outcomes.kind, outcomes.body FROM rows JOIN outcomes ON outcomes.id = rows.outcome
ORDER BY rows.position, rows.use
"""
_TO_REPEAT = f"""
SELECT DISTINCT rows.position FROM rows JOIN outcomes ON outcomes.id = rows.outcome
WHERE outcomes.kind = {_FAILED} AND outcomes.run < ? ORDER BY rows.position
"""


@dataclass(frozen=True)
class Cell:
    """What one row is for one use of a reward."""

    position: int
    key: bytes


class Journal:
    """An opened and locked journal; None as its path: one in memory. Raises ScoreFileError throughout."""

    def __init__(self, path: Path | None, output: Path) -> None:
        self._path, self._output = path, output
        with self._said():
            self._created = path is None or not path.exists() or path.stat().st_size == 0
            self._database = sqlite3.connect(str(path or ":memory:"), timeout=0, isolation_level=None)
        try:
            with self._said():
                self._open()
        except ScoreFileError:
            self._database.close()
            raise
        self.run = int(self.fact("runs") or 0) + 1

    def _open(self) -> None:
        """Recognise it, or make it; nothing that is not ours is changed."""
        run = self._database.execute
        run("PRAGMA locking_mode = EXCLUSIVE")
        if self._created:
            run(f"PRAGMA application_id = {_APPLICATION}")
        elif run("PRAGMA application_id").fetchone()[0] != _APPLICATION:
            raise sqlite3.NotSupportedError
        run("PRAGMA journal_mode = WAL")
        run("PRAGMA synchronous = NORMAL")  # safe from SIGKILL; a lost power supply costs the last calls, no more
        run("BEGIN EXCLUSIVE")
        if run("SELECT count(*) FROM sqlite_master").fetchone()[0] == 0:
            for statement in _TABLES.split(";"):
                run(statement)
        run("COMMIT")

    def close(self) -> None:
        """Let another process have it; one that was made here and has no outcome is removed."""
        empty = self._created and self._path is not None
        try:
            empty = empty and self._database.execute("SELECT 1 FROM outcomes LIMIT 1").fetchone() is None
            self._database.close()
        except sqlite3.Error:
            empty = False
        if empty and self._path is not None:
            self._path.unlink(missing_ok=True)

    def fact(self, name: str) -> Any:
        """What was kept under a name, None if nothing was."""
        with self._said():
            found = self._database.execute("SELECT value FROM facts WHERE name = ?", (name,)).fetchone()
        return None if found is None else json.loads(found[0])

    def keep(self, name: str, value: Any) -> None:
        """Keep a value, in place of the one before."""
        with self._said():
            self._database.execute("INSERT OR REPLACE INTO facts VALUES (?, ?)", (name, json.dumps(value)))

    def begin(self) -> None:
        """Begin a run: the input's rows have no outcomes yet."""
        self.keep("runs", self.run)
        with self._said():
            self._database.execute("DELETE FROM rows")

    def find(self, use: int, cells: Sequence[Cell]) -> list[bool | None]:
        """Give the cells the outcomes that there are; for each: has it one, or (False) a failure of an earlier run?"""
        found: list[bool | None] = []
        with self._transaction():
            for cell in cells:
                known = self._database.execute(
                    "SELECT id, kind, run FROM outcomes WHERE key = ? AND use = ?", (cell.key, use)
                ).fetchone()
                if known is not None:
                    values = (cell.position, use, known[0])
                    self._database.execute("INSERT OR REPLACE INTO rows VALUES (?, ?, ?)", values)
                found.append(None if known is None else known[1] != _FAILED or known[2] == self.run)
        return found

    def record(self, use: int, cells: Sequence[Cell], outcomes: Sequence[Outcome]) -> None:
        """Keep outcomes, all or (with an error) none; a failure never takes a score's place."""
        bodies = [_body(outcome) for outcome in outcomes]
        with self._transaction():
            self._database.executemany(
                _UPSERT, [(use, cell.key, self.run, kind, body) for cell, (kind, body) in zip(cells, bodies)]
            )
            self._database.executemany(_PLACE, [(cell.position, use, cell.key, use) for cell in cells])

    def to_repeat(self) -> Iterator[int]:
        """Positions of rows with a failure of an earlier run, in order."""
        with self._said():
            for (position,) in self._database.execute(_TO_REPEAT, (self.run,)):
                yield position

    def in_order(self) -> Iterator[tuple[int, dict[int, Outcome]]]:
        """(position, use -> outcome) of all rows, in order."""
        position, held = -1, dict[int, Outcome]()
        with self._said():
            for at, use, kind, body in self._database.execute(_IN_ORDER):
                if at != position and held:
                    yield position, held
                    held = {}
                position = at
                held[use] = _outcome(kind, body)
        if held:
            yield position, held

    @contextmanager
    def _transaction(self) -> Iterator[None]:
        with self._said():
            self._database.execute("BEGIN")
            try:
                yield
                self._database.execute("COMMIT")
            except BaseException:
                if self._database.in_transaction:
                    self._database.execute("ROLLBACK")
                raise

    @contextmanager
    def _said(self) -> Iterator[None]:
        """What the database says, as one sentence with its cure."""
        path = self._path or Path("a journal in memory")
        try:
            yield
        except sqlite3.Error as error:
            if "locked" in str(error):
                said = f"another `sync-r1 score` is writing {self._output}; wait for it, or give another --output"
                raise ScoreFileError(said) from error
            if isinstance(error, sqlite3.NotSupportedError) or "not a database" in str(error):
                said = f"{path} was not written by `sync-r1 score`, so nothing was changed; {CURE}"
                raise ScoreFileError(said) from error
            if isinstance(error, sqlite3.OperationalError):
                raise unwritable(path, OSError(str(error))) from error
            raise ScoreFileError(f"{path} is damaged ({error}); move it and {self._output} away") from error
        except OSError as error:
            raise unwritable(path, error) from error


def read_facts(path: Path, names: Iterable[str]) -> dict[str, Any]:
    """Facts of a journal that may be in use; {} if there is none."""
    if not path.is_file():
        return {}
    try:
        database = sqlite3.connect(f"{path.resolve().as_uri()}?mode=ro", uri=True, timeout=0)
        try:
            found = dict(database.execute("SELECT name, value FROM facts").fetchall())
        finally:
            database.close()
    except sqlite3.Error:
        return {}
    return {name: json.loads(found[name]) for name in names if name in found}


def _body(outcome: Outcome) -> tuple[int, str]:
    if isinstance(outcome, Score):
        return _SCORED, json.dumps(asdict(outcome))
    if isinstance(outcome, NotApplicable):
        return _NOT_APPLICABLE, json.dumps(asdict(outcome))
    return _FAILED, json.dumps(asdict(outcome) | {"code": outcome.code.value})


def _outcome(kind: int, body: str) -> Outcome:
    fields = json.loads(body)
    if kind == _SCORED:
        return Score(**fields)
    if kind == _NOT_APPLICABLE:
        return NotApplicable(**fields)
    return Failure(**fields | {"code": FailureCode(fields["code"])})
