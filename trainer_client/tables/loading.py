"""Rows as what is sent of them: pictures are read, within bounds, and every row gets the keys of its outcomes."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from sync_r1.reward_models.types import Failure, FailureCode, Picture, Sample
from sync_r1.trainer_client.sdk.description import VariantDescription
from sync_r1.trainer_client.sdk.picture_files import PictureFiles, Unreadable, sample_of
from sync_r1.trainer_client.sdk.pictures import EncodedPicture
from sync_r1.trainer_client.sdk.row_identity import member_digests, sample_digest, scored_digest, text_digest
from sync_r1.trainer_client.tables.journal import Cell
from sync_r1.trainer_client.tables.rows import TableRow

_CHUNK_ROWS, _CHUNK_BYTES = 64, 8 << 20


@dataclass(frozen=True)
class Loaded:
    """One row for one use of a reward: the sample, or why there is none."""

    cell: Cell
    sample: Sample | Failure

    @property
    def size(self) -> int:
        """Bytes of its picture."""
        picture = self.sample.image if isinstance(self.sample, Sample) else None
        return len(picture.data) if isinstance(picture, EncodedPicture) else 0


@dataclass(frozen=True)
class _Pictures:
    image: Picture | Unreadable | None
    references: tuple[Picture, ...] | Unreadable


class Loader:
    """Reads the rows' pictures, each once for all uses. `uses`: (variant, release)."""

    def __init__(self, uses: Sequence[tuple[VariantDescription, str]], root: Path, max_bytes: int) -> None:
        self._uses, self._max_bytes = uses, max_bytes
        self._files = PictureFiles(root, max_bytes=max_bytes)
        self._image = any(variant.needs_image for variant, _ in uses)
        self._references = any(variant.needs_references for variant, _ in uses)

    def chunks(self, units: Iterable[list[TableRow]]) -> Iterator[list[list[list[Loaded]]]]:
        """Lists of units of rows that are scored together; for each unit and use: its rows, loaded."""
        chunk: list[list[list[Loaded]]] = []
        rows = size = 0
        for unit in units:
            loaded = self.load(unit)
            chunk.append(loaded)
            rows += len(unit)
            size += max((sum(one.size for one in use) for use in loaded), default=0)
            if rows >= _CHUNK_ROWS or size >= _CHUNK_BYTES:
                yield chunk
                chunk, rows, size = [], 0, 0
        if chunk:
            yield chunk

    def load(self, unit: Sequence[TableRow]) -> list[list[Loaded]]:
        """For each use, the rows of the unit."""
        pictures = [self._read(row) for row in unit]
        found = []
        for variant, release in self._uses:
            samples = [_sample(row, shown, variant) for row, shown in zip(unit, pictures)]
            inputs = [
                text_digest(one.message.encode()) if isinstance(one, Failure) else sample_digest(one, variant)
                for one in samples
            ]
            if variant.groupwise and unit[0].file_row.row.group:
                inputs = _told_apart(member_digests(inputs))
            keys = [scored_digest(digest, variant.name, release) for digest in inputs]
            cells = [Cell(row.position, key) for row, key in zip(unit, keys)]
            found.append([Loaded(cell, sample) for cell, sample in zip(cells, samples)])
        return found

    def _read(self, row: TableRow) -> _Pictures:
        image: Picture | Unreadable | None = None
        references: tuple[Picture, ...] | Unreadable = ()
        if self._image:
            try:
                image = self._files.image(row.file_row) if row.data is None else self._held(row.data, row)
            except Unreadable as error:
                image = error
        if self._references:
            try:
                references = self._files.references(row.file_row)
            except Unreadable as error:
                references = error
        return _Pictures(image, references)

    def _held(self, data: bytes, row: TableRow) -> Picture:
        """The picture whose bytes the table has."""
        if len(data) > self._max_bytes:
            said = f"image: it has more than {self._max_bytes} bytes, the service's limit; make it smaller"
            raise Unreadable(Failure(FailureCode.BAD_IMAGE, f"{said} (row {row.position + 1})", "image"))
        return EncodedPicture(data)


def _sample(row: TableRow, pictures: _Pictures, variant: VariantDescription) -> Sample | Failure:
    image = pictures.image if variant.needs_image else None
    references = pictures.references if variant.needs_references else ()
    for read in (image, references):
        if isinstance(read, Unreadable):
            return read.failure
    assert not isinstance(image, Unreadable)
    assert not isinstance(references, Unreadable)
    try:
        return sample_of(row.file_row, image, references)
    except Unreadable as error:
        return error.failure


def _told_apart(inputs: Sequence[bytes]) -> list[bytes]:
    """Digests of which equal ones, rows that are alike within a group, have their number added."""
    seen: Counter[bytes] = Counter()
    found = []
    for digest in inputs:
        found.append(text_digest(digest + seen[digest].to_bytes(8, "big")) if seen[digest] else digest)
        seen[digest] += 1
    return found
