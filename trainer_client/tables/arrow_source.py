"""Arrow tables as sources: Parquet files, a data set that `datasets` saved to disk, and tables in memory.

Pictures are columns of bytes, of paths, or of both (`datasets.Image`). pyarrow is imported when one of these is opened.
Where a part of a file cannot be read, the rows that lie there fail, and the others do not.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sync_r1.trainer_client.sdk.sample_file import ScoreFileError, reason
from sync_r1.trainer_client.tables.rows import (
    Broken,
    ColumnMap,
    Place,
    TableRow,
    Wanted,
    odd_row,
    table_row,
    unused_columns,
)

_ROWS_WITH_PICTURES, _ROWS_OF_TEXT = 64, 4096
"""Read at once; so many are in memory."""


@dataclass(frozen=True)
class Part:
    """A row group of a file, a file, or all of a table in memory."""

    name: str
    start: int
    """Rows of the file before it."""
    count: int
    batches: Callable[[list[str], int], Iterator[Any]]
    """(columns, most rows) -> record batches. `NAME.path` is the part without bytes of a column with both."""


class ArrowSource:
    """The rows of some parts, one after the other. Raises ScoreFileError for what cannot be read."""

    def __init__(self, path: Path, schema: Any, parts: Sequence[Part], columns: ColumnMap, root: Path | None) -> None:
        self.path, self._parts, self._bound = path, parts, root
        self.root = root or Path()
        self._mapping = columns.of(schema.names, str(path))
        self.fields: frozenset[str] | None = frozenset(self._mapping)
        self.unused = unused_columns(schema.names, self._mapping)
        image = self._mapping.get("image", "")
        self._image = image if image and _holds_bytes(schema.field(image).type) else ""
        """The column of pictures, if it holds bytes."""
        self._has_path = bool(self._image) and _is_struct(schema.field(image).type)

    def rows(self, wanted: Wanted) -> Iterator[TableRow]:
        """See `Source`."""
        position = 0
        for part in self._parts:
            for number, cells in enumerate(self._cells(part, bytes_too=wanted is not None), part.start + 1):
                place = Place(position, f"{part.name}, row {number}", str(position + 1), self._bound)
                if isinstance(cells, str):
                    yield odd_row(place, "", "", cells)
                else:
                    if self._image and (wanted is None or not wanted(position)):
                        cells[self._image] = _without_bytes(cells.get(self._image))
                    yield table_row(place, cells, self._mapping)
                position += 1

    def _cells(self, part: Part, *, bytes_too: bool) -> Iterator[dict[str, Any] | str]:
        """The cells of every row of a part, or what is wrong with a row."""
        columns = list(dict.fromkeys(self._mapping.values()))
        without = [name for name in columns if name != self._image]
        without += [f"{self._image}.path"] if self._has_path else []
        done, problem = 0, ""
        if self._image and bytes_too:
            try:
                for cells in _rows(part, columns, _ROWS_WITH_PICTURES):
                    yield cells
                    done += 1
            except _unreadable() as error:
                problem = f"its picture cannot be read: {_first_line(error)}; make the file again"
        if done == part.count:
            return
        read = 0
        try:
            for cells in _rows(part, without, _ROWS_OF_TEXT):
                read += 1
                if read > done:
                    yield cells | ({self._image: Broken(problem)} if problem else {})
                    done += 1
        except _unreadable() as error:
            for _ in range(done, part.count):
                yield f"cannot be read: {_first_line(error)}; make the file again"


def parquet_source(path: Path, files: Sequence[Path], columns: ColumnMap, root: Path | None) -> ArrowSource:
    """Of one Parquet file or several of one schema. Raises ScoreFileError for one that is none."""
    import pyarrow.parquet as pq

    parts, schemas = [], []
    for file in files:
        with _named(file), pq.ParquetFile(file) as found:
            schemas.append(found.schema_arrow)
            start = 0
            for group in range(found.num_row_groups):
                count = found.metadata.row_group(group).num_rows
                parts.append(Part(str(file), start, count, _parquet_batches(file, group, found.metadata)))
                start += count
    _check_alike(files, schemas)
    return ArrowSource(path, schemas[0], parts, columns, root or (path if path.is_dir() else path.parent))


def saved_dataset(path: Path, columns: ColumnMap, root: Path | None) -> ArrowSource:
    """Of a folder that `Dataset.save_to_disk` wrote. Raises ScoreFileError for one that is broken."""
    import pyarrow as pa

    try:
        state = json.loads((path / "state.json").read_text())
        files = [path / one["filename"] for one in state["_data_files"]]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ScoreFileError(f"{path / 'state.json'} does not name the data set's files: {error}") from error
    parts, schemas = [], []
    for file in files:
        with _named(file), pa.memory_map(str(file)) as mapped:
            stream = pa.ipc.open_stream(mapped)
            schemas.append(stream.schema)
            parts.append(Part(str(file), 0, sum(batch.num_rows for batch in stream), _stream_batches(file)))
    if not files:
        raise ScoreFileError(f"{path} has no data files")
    _check_alike(files, schemas)
    return ArrowSource(path, schemas[0], parts, columns, root or path)


def table_source(table: Any, columns: ColumnMap, root: Path | None) -> ArrowSource:
    """Of a pyarrow.Table; paths may lead anywhere if there is no `root`."""
    part = Part("the table", 0, table.num_rows, lambda names, rows: _selected(table.to_batches(), names, rows))
    return ArrowSource(Path("the table"), table.schema, [part], columns, root)


def _rows(part: Part, columns: list[str], most: int) -> Iterator[dict[str, Any]]:
    if not columns:
        yield from ({} for _ in range(part.count))
        return
    for batch in part.batches(columns, most):
        yield from batch.to_pylist()


def _parquet_batches(file: Path, group: int, metadata: Any) -> Callable[[list[str], int], Iterator[Any]]:
    def batches(columns: list[str], rows: int) -> Iterator[Any]:
        import pyarrow.parquet as pq

        with pq.ParquetFile(file, metadata=metadata, pre_buffer=False) as found:
            yield from found.iter_batches(rows, row_groups=[group], columns=columns, use_threads=False)

    return batches


def _stream_batches(file: Path) -> Callable[[list[str], int], Iterator[Any]]:
    def batches(columns: list[str], rows: int) -> Iterator[Any]:
        import pyarrow as pa

        with pa.memory_map(str(file)) as mapped:
            yield from _selected(pa.ipc.open_stream(mapped), columns, rows)

    return batches


def _selected(batches: Any, columns: list[str], rows: int) -> Iterator[Any]:
    """Slices of batches with some of their columns; see `Part.batches`."""
    import pyarrow as pa

    for batch in batches:
        arrays, names = [], []
        for column in columns:
            if column in batch.schema.names:
                arrays.append(batch.column(column))
                names.append(column)
            else:
                name = column.removesuffix(".path")
                arrays.append(pa.StructArray.from_arrays([batch.column(name).field("path")], ["path"]))
                names.append(name)
        chosen = pa.RecordBatch.from_arrays(arrays, names)
        for start in range(0, batch.num_rows, rows):
            yield chosen.slice(start, rows)


def _without_bytes(value: Any) -> Any:
    """What stands for a picture that was not wanted: it is there, and has its path."""
    if isinstance(value, Broken):
        return value
    return {"bytes": b"", "path": value.get("path") if isinstance(value, Mapping) else None}


def _is_struct(kind: Any) -> bool:
    import pyarrow as pa

    return bool(pa.types.is_struct(kind)) and {"bytes", "path"} <= {field.name for field in kind}


def _holds_bytes(kind: Any) -> bool:
    import pyarrow as pa

    return _is_struct(kind) or any(
        check(kind) for check in (pa.types.is_binary, pa.types.is_large_binary, pa.types.is_fixed_size_binary)
    )


def _check_alike(files: Sequence[Path], schemas: Sequence[Any]) -> None:
    for file, schema in zip(files, schemas):
        if schema.names != schemas[0].names:
            raise ScoreFileError(
                f"{file} has the columns {', '.join(schema.names)}, but {files[0]} has {', '.join(schemas[0].names)}; "
                "score them one by one"
            )


@contextmanager
def _named(file: Path) -> Iterator[None]:
    """What pyarrow says of a file that it cannot read becomes one sentence about the file."""
    try:
        yield
    except _unreadable() as error:
        said = reason(error) if isinstance(error, OSError) and error.strerror else _first_line(error)
        raise ScoreFileError(f"cannot read {file}: {said}; make the file again") from error


def _unreadable() -> tuple[type[Exception], ...]:
    import pyarrow as pa

    return (pa.ArrowException, OSError)


def _first_line(error: BaseException) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0].rstrip(". ")
