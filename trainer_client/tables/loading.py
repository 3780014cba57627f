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
class _Read:
    """A row with the pictures that could be read, and why others could not."""

    whole: Sample | Failure
    no_image: Failure | None
    no_references: Failure | None

    def sample(self, image: bool, references: bool) -> Sample | Failure:
        """For a variant that looks at these pictures; what it does not look at is not sent."""
        return (image and self.no_image) or (references and self.no_references) or self.whole


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
        read = [self._read(row) for row in unit]
        known: dict[tuple[bool, bool], tuple[list[Sample | Failure], list[bytes]]] = {}
        found = []
        for variant, release in self._uses:
            looks_at = (variant.needs_image, variant.needs_references)
            if looks_at not in known:
                samples = [one.sample(*looks_at) for one in read]
                known[looks_at] = samples, [_digest(sample, variant) for sample in samples]
            samples, inputs = known[looks_at]
            if variant.groupwise and unit[0].file_row.row.group:
                inputs = _told_apart(member_digests(inputs))
            keys = [scored_digest(digest, variant.name, release) for digest in inputs]
            cells = [Cell(row.position, key) for row, key in zip(unit, keys)]
            found.append([Loaded(cell, sample) for cell, sample in zip(cells, samples)])
        return found

    def _read(self, row: TableRow) -> _Read:
        image: Picture | None = None
        references: tuple[Picture, ...] = ()
        no_image = no_references = None
        if self._image:
            try:
                image = self._files.image(row.file_row) if row.data is None else self._held(row.data, row)
            except Unreadable as error:
                no_image = error.failure
        if self._references:
            try:
                references = self._files.references(row.file_row)
            except Unreadable as error:
                no_references = error.failure
        try:
            return _Read(sample_of(row.file_row, image, references), no_image, no_references)
        except Unreadable as error:
            return _Read(error.failure, None, None)

    def _held(self, data: bytes, row: TableRow) -> Picture:
        """The picture whose bytes the table has."""
        if len(data) > self._max_bytes:
            said = f"image: it has more than {self._max_bytes} bytes, the service's limit; make it smaller"
            raise Unreadable(Failure(FailureCode.BAD_IMAGE, f"{said} (row {row.position + 1})", "image"))
        return EncodedPicture(data)


def _digest(sample: Sample | Failure, variant: VariantDescription) -> bytes:
    """Of what is scored; of what cannot be, of the reason, which names the row or the file."""
    return text_digest(sample.message.encode()) if isinstance(sample, Failure) else sample_digest(sample, variant)


def _told_apart(inputs: Sequence[bytes]) -> list[bytes]:
    """Digests of which equal ones, rows that are alike within a group, have their number added."""
    seen: Counter[bytes] = Counter()
    found = []
    for digest in inputs:
        found.append(text_digest(digest + seen[digest].to_bytes(8, "big")) if seen[digest] else digest)
        seen[digest] += 1
    return found
