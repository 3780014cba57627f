"""The table that a run writes: in one piece, in place of the one of the run before, and of no other file.

OUT is made beside itself, then renamed; the journal knows the digest of what a run wrote. An OUT that is not what this
journal's run wrote (another run's, or edited since) is never replaced.
"""

from __future__ import annotations

import csv
import hashlib
import json
import os
from collections.abc import Iterable, Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import IO, Any, TypeVar

from sync_r1.trainer_client.sdk.output_place import CURE, check_place, sync_folder, unwritable
from sync_r1.trainer_client.sdk.sample_file import ScoreFileError
from sync_r1.trainer_client.tables.columns import column_kind
from sync_r1.trainer_client.tables.journal import Journal

FORMATS = (".parquet", ".csv", ".jsonl")
CHUNK = 2000
"""Rows that are made ready at once."""
Item = TypeVar("Item")


class TableOutput:
    """The places of OUT, its draft and its journal, checked before anything is asked. Raises ScoreFileError."""

    def __init__(self, path: Path, source: Path) -> None:
        if path.suffix not in FORMATS:
            raise ScoreFileError(f"{path}: expected a name that ends with {', '.join(FORMATS)}")
        self.path = path
        self.journal_path = journal_of(path)
        self._draft = path.with_name(f".{path.name}.partial")
        for place in (path, self._draft, self.journal_path):
            check_place(place, source)
        if source.is_dir() and path.suffix == ".parquet" and path.resolve().parent == source.resolve():
            raise ScoreFileError(f"{path} would be a part of the input {source}; give an --output elsewhere")
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise unwritable(path, error) from error
        if path.exists() and not self.journal_path.exists():
            raise ScoreFileError(f"{path} has no {self.journal_path.name} beside it that says what it holds; {CURE}")

    def check_ours(self, journal: Journal) -> None:
        """Raises ScoreFileError unless OUT is what a run with this journal wrote, or is not there."""
        if self.path.exists() and _digest(self.path) not in (journal.fact("written") or []):
            raise ScoreFileError(
                f"{self.path} is not what the run of {self.journal_path.name} wrote: it is another run's, or was "
                f"changed since; {CURE}"
            )

    def write(self, journal: Journal, names: Sequence[str], rows: Iterable[dict[str, Any]]) -> None:
        """Write the table, all of it or nothing; the one before stays until then."""
        try:
            with self._draft.open("wb") as file:
                _WRITERS[self.path.suffix](file, names, rows)
                file.flush()
                os.fsync(file.fileno())
            before = [_digest(self.path)] if self.path.exists() else []
            journal.keep("written", [*before, _digest(self._draft)])  # a kill on either side of the renaming is known
            os.replace(self._draft, self.path)
            sync_folder(self.path.parent)
        except OSError as error:
            raise unwritable(self.path, error) from error
        finally:
            self._draft.unlink(missing_ok=True)


def journal_of(path: Path) -> Path:
    """The journal beside a table."""
    return path.with_name(f"{path.name}.journal")


def chunks(items: Iterable[Item], size: int = CHUNK) -> Iterator[list[Item]]:
    """Lists of up to `size` of them."""
    rest = iter(items)
    while chunk := list(islice(rest, size)):
        yield chunk


def arrow_table(names: Sequence[str], rows: Iterable[dict[str, Any]]) -> Any:
    """The rows as a pyarrow.Table."""
    import pyarrow as pa

    schema = _schema(names)
    return pa.Table.from_batches([pa.RecordBatch.from_pylist(chunk, schema) for chunk in chunks(rows)], schema)


def _schema(names: Sequence[str]) -> Any:
    import pyarrow as pa

    kinds = {int: pa.int64(), float: pa.float64(), str: pa.string()}
    return pa.schema([(name, kinds[column_kind(name)]) for name in names])


def _write_parquet(file: IO[bytes], names: Sequence[str], rows: Iterable[dict[str, Any]]) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    schema = _schema(names)
    with pq.ParquetWriter(file, schema) as writer:
        for chunk in chunks(rows):
            writer.write_batch(pa.RecordBatch.from_pylist(chunk, schema))


def _write_csv(file: IO[bytes], names: Sequence[str], rows: Iterable[dict[str, Any]]) -> None:
    line = _Line()
    writer = csv.writer(line, lineterminator="\n")
    for cells in (names, *()):
        writer.writerow(cells)
        file.write(line.text.encode())
    for row in rows:
        writer.writerow(["" if row[name] is None else row[name] for name in names])
        file.write(line.text.encode())


def _write_jsonl(file: IO[bytes], names: Sequence[str], rows: Iterable[dict[str, Any]]) -> None:
    for row in rows:
        cells = {
            name: json.loads(row[name]) if name.endswith(".components") and row[name] else row[name] for name in names
        }
        file.write(json.dumps(cells, ensure_ascii=False).encode() + b"\n")


_WRITERS = {".parquet": _write_parquet, ".csv": _write_csv, ".jsonl": _write_jsonl}


class _Line:
    """Takes the text of one row from a csv.writer."""

    text = ""

    def write(self, text: str) -> None:
        self.text = text


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        digest = hashlib.sha256()
        while data := file.read(1 << 20):
            digest.update(data)
    return digest.hexdigest()


def read_table(path: Path) -> Iterator[dict[str, Any]]:
    """The rows of a table that a run wrote. Raises ScoreFileError for a file that is none."""
    try:
        reader = {".parquet": _read_parquet, ".csv": _read_csv, ".jsonl": _read_jsonl}[path.suffix]
        first = True
        for cells in reader(path):
            if first and not ({"row", "id", "path"} <= cells.keys() and any(n.endswith(".outcome") for n in cells)):
                raise ScoreFileError(f"{path} was not written by `sync-r1 score REWARD INPUT --output {path.name}`")
            first = False
            yield cells
    except KeyError:
        raise ScoreFileError(f"{path}: expected a table that `sync-r1 score` wrote, {', '.join(FORMATS)}") from None
    except (OSError, ValueError) as error:
        if isinstance(error, ScoreFileError):
            raise
        raise ScoreFileError(f"cannot read {path}: {(str(error).splitlines() or ['?'])[0]}") from error


def _read_parquet(path: Path) -> Iterator[dict[str, Any]]:
    import pyarrow.parquet as pq

    with pq.ParquetFile(path) as file:
        for batch in file.iter_batches(batch_size=CHUNK):
            yield from batch.to_pylist()


def _read_csv(path: Path) -> Iterator[dict[str, Any]]:
    with path.open(encoding="utf-8", newline="") as file:
        for cells in csv.DictReader(file):
            yield {
                name: None if not value else column_kind(name)(value) for name, value in cells.items() if name
            }  # fmt: skip


def _read_jsonl(path: Path) -> Iterator[dict[str, Any]]:
    with path.open("rb") as file:
        yield from map(json.loads, file)
