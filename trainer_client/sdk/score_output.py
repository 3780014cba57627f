"""The file that `sync-r1 score` writes: recognised before it is touched, held by one process, never torn or half true.

Its lines are those of `score_lines.py`, appended as rows are scored. `arrange` brings them into the input's order,
under the ids that rows have now, by writing a new file and putting it in place of the old one. A score that leaves the
file is kept beside it, in NAME.superseded.
"""

from __future__ import annotations

import fcntl
import json
import os
import stat
from array import array
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, BinaryIO

from sync_r1.trainer_client.sdk.output_place import CURE, check_place, sync_folder, unwritable, write_all
from sync_r1.trainer_client.sdk.row_identity import RowKey
from sync_r1.trainer_client.sdk.sample_file import ScoreFileError
from sync_r1.trainer_client.sdk.score_lines import Line, is_torn, line_text, parse_line

ABSENT = -1


@dataclass(frozen=True)
class Found:
    """Where a row's line is, and whether it says that the row failed."""

    offset: int
    failed: bool


class ScoreOutput:
    """An output file, opened, locked and recognised; `with` gives it back. Raises ScoreFileError throughout.

    Memory holds an index of 40 bytes per line, not the lines.
    """

    def __init__(self, target: Path, source: Path) -> None:
        self.path = target
        self.superseded = 0
        """Scores that `arrange` has moved to NAME.superseded."""
        self.scored_by: set[tuple[str, str, str]] = set()
        """(reward, variant, release) of the lines that say so."""
        self.old_lines = 0
        """Lines of an earlier version, which did not record what it scored."""
        self._index: dict[bytes, int] = {}
        self._beside = target.with_name(target.name + ".superseded")
        self._draft = target.with_name(f".{target.name}.partial")
        self._end = 0
        self._held: list[int] = []
        for path in (target, self._draft, self._beside):
            check_place(path, source)
        try:
            target.parent.mkdir(parents=True, exist_ok=True)
            self._created = not target.exists()
            self._file = self._locked()
            self._recognise()
        except OSError as error:
            self.close()
            raise unwritable(target, error) from error
        except ScoreFileError:
            self.close()
            raise

    def __enter__(self) -> ScoreOutput:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Let another process have the file; one that was made here and has no line yet is removed."""
        if self._held and self._created and os.fstat(self._file).st_size == 0:
            self.path.unlink(missing_ok=True)
        while self._held:
            os.close(self._held.pop())

    @property
    def empty(self) -> bool:
        return self._end == 0

    def find(self, key: RowKey) -> Found | None:
        """The line of a row, the last one if there are several."""
        found = self._index.get(key.packed())
        return None if found is None else Found(found >> 1, bool(found & 1))

    def cut_torn(self) -> None:
        """Clear up after a killed run: remove half a line at the end, or give a whole one its line break."""
        try:
            self._draft.unlink(missing_ok=True)
            size = os.fstat(self._file).st_size
            if size > self._end:
                os.ftruncate(self._file, self._end)
            elif self._end and os.pread(self._file, 1, self._end - 1) != b"\n":
                self._end += os.pwrite(self._file, b"\n", self._end)
        except OSError as error:
            raise unwritable(self.path, error) from error

    def append(self, lines: list[tuple[RowKey, dict[str, Any]]]) -> list[int]:
        """Write one line for each row, all or (with an error) none of them; returns where each begins."""
        texts = [line_text(str(key), fields) for key, fields in lines]
        starts, end = [], self._end
        for text in texts:
            starts.append(end)
            end += len(text)
        try:
            write_all(self._file, b"".join(texts), self._end)
        except OSError as error:
            os.ftruncate(self._file, self._end)
            raise unwritable(self.path, error) from error
        self._end = end
        for (key, fields), start in zip(lines, starts):
            self._index[key.packed()] = start << 1 | ("failure" in fields)
        return starts

    def lines(self, order: Iterable[int]) -> Iterator[Line]:
        """The lines that begin there."""
        with self._reader() as file:
            for offset in order:
                file.seek(offset)
                yield Line.model_validate_json(file.readline())

    def arrange(self, order: array[int], ids: Iterable[str], scored_by: tuple[str, str, str]) -> array[int]:
        """Bring the lines into the input's order, under the rows' present ids; returns where they are then.

        `order` has for each row of the input where its line is, or ABSENT. Scores of other rows stay behind those as
        long as `scored_by` scored them and no row of the input has their id; else scores go to NAME.superseded, and
        failures go. The old file stays until the new one is whole.
        """
        try:
            return self._arrange(order, ids, scored_by)
        except OSError as error:
            raise unwritable(self.path, error) from error
        finally:
            self._draft.unlink(missing_ok=True)

    def _arrange(self, order: array[int], ids: Iterable[str], scored_by: tuple[str, str, str]) -> array[int]:
        staying, leaving = dict[int, str](), array("q")
        for offset, line in self._others(order):
            if line.failure is None and line.sync_r1_row and line.scored_by == scored_by:
                staying[offset] = line.id
            elif line.failure is None:
                leaving.append(offset)
        draft = self._open_draft()
        placed, index, taken = array("q", [ABSENT] * len(order)), dict[bytes, int](), set[str]()
        names = set(staying.values())
        with self._reader() as old, os.fdopen(os.dup(draft), "wb") as new:
            for position, identifier in enumerate(ids):
                if identifier in names:
                    taken.add(identifier)
                if order[position] != ABSENT:
                    old.seek(order[position])
                    placed[position] = _copy(old.readline(), new, index, identifier)
            for offset, identifier in staying.items():
                old.seek(offset)
                text = old.readline()
                if identifier not in taken:
                    _copy(text, new, index, identifier)
                else:
                    leaving.append(offset)
            new.flush()
            os.fsync(draft)
            end = new.tell()
            self._keep_beside(old, leaving)
        os.replace(self._draft, self.path)
        self._file, self._end, self._index = draft, end, index  # the old file's lock is kept: others may wait at it
        sync_folder(self.path.parent)
        return placed

    def is_arranged(self, order: array[int], ids: Iterable[str]) -> bool:
        """Whether `arrange` would change nothing (it may where scores of other rows stand at the end)."""
        expected = 0
        with self._reader() as file:
            for position, identifier in enumerate(ids):
                if order[position] == ABSENT:
                    continue
                if order[position] != expected:
                    return False
                text = file.readline()
                if Line.model_validate_json(text).id != identifier:
                    return False
                expected += len(text)
        return expected == self._end

    def _others(self, order: array[int]) -> Iterator[tuple[int, Line]]:
        """The lines that are of no row of the input, and where they begin."""
        placed, offset = set(order), 0
        with self._reader() as file:
            for text in file:
                if offset not in placed:
                    yield offset, Line.model_validate_json(text)
                offset += len(text)

    def _open_draft(self) -> int:
        self._draft.unlink(missing_ok=True)
        draft = os.open(self._draft, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o666)
        self._held.append(draft)
        fcntl.flock(draft, fcntl.LOCK_EX)
        os.fchmod(draft, stat.S_IMODE(os.fstat(self._file).st_mode))
        return draft

    def _keep_beside(self, old: BinaryIO, leaving: array[int]) -> None:
        """Append lines to NAME.superseded, which must be ours too."""
        if not leaving:
            return
        with open(self._beside, "a+b") as file:
            file.seek(0)
            end = 0
            for number, text in enumerate(file, start=1):
                try:
                    parse_line(text)
                except ValueError as error:
                    if not text.endswith(b"\n") and is_torn(text, old=True):
                        break
                    raise _not_ours(self._beside, number) from error
                end += len(text)
            file.truncate(end)
            for offset in leaving:
                old.seek(offset)
                file.write(old.readline())
            file.flush()
            os.fsync(file.fileno())
        self.superseded += len(leaving)

    def _locked(self) -> int:
        flags = os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
        descriptor = os.open(self.path, flags, 0o666)
        self._held.append(descriptor)
        self._file = descriptor
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            self._created = False
            raise _busy(self.path) from None
        if not self.path.exists() or not os.path.samestat(os.fstat(descriptor), self.path.stat()):
            self._created = False  # another run put a new file in its place, or removed it, since it was opened
            raise _busy(self.path)
        return descriptor

    def _recognise(self) -> None:
        """Index the lines; changes nothing. What may stand behind the last whole line is the beginning of one."""
        with self._reader() as file:
            for number, text in enumerate(file, start=1):
                whole = text.endswith(b"\n")
                try:
                    line = parse_line(text)
                except ValueError as error:
                    if not whole and is_torn(text, bool(self.old_lines)):
                        return
                    raise _not_ours(self.path, number) from error
                if line.sync_r1_row:
                    packed = RowKey.parse(line.sync_r1_row).packed()
                    self._index[packed] = self._end << 1 | (line.failure is not None)
                else:
                    self.old_lines += 1
                if line.reward:
                    self.scored_by.add(line.scored_by)
                self._end += len(text)

    def _reader(self) -> BinaryIO:
        return self.path.open("rb")  # an own description: duplicates of one share where they read


def _copy(text: bytes, new: BinaryIO, index: dict[bytes, int], identifier: str) -> int:
    fields = json.loads(text)
    key, start = RowKey.parse(fields["sync_r1_row"]), new.tell()
    index[key.packed()] = start << 1 | ("failure" in fields)
    new.write(text if fields["id"] == identifier else line_text(str(key), {**fields, "id": identifier}))
    return start


def _not_ours(path: Path, number: int) -> ScoreFileError:
    return ScoreFileError(f"{path}, line {number} was not written by `sync-r1 score`, so nothing was changed; {CURE}")


def _busy(path: Path) -> ScoreFileError:
    return ScoreFileError(f"another `sync-r1 score` is writing {path}; wait for it, or give another --output")
