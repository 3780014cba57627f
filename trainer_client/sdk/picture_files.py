"""Rows of a file as samples: their pictures are read here, within bounds, and what cannot be read is one row's."""

from __future__ import annotations

import stat
from collections import OrderedDict
from pathlib import Path

from sync_r1.reward_models.errors import SyncR1Error
from sync_r1.reward_models.types import Concept, Failure, FailureCode, Picture, Sample
from sync_r1.trainer_client.sdk.pictures import EncodedPicture
from sync_r1.trainer_client.sdk.sample_file import FileRow, reason

_KEPT_BYTES = 64 << 20


class Unreadable(SyncR1Error):
    """A row cannot be made into a sample; `failure` says what is wrong."""

    def __init__(self, failure: Failure) -> None:
        self.failure = failure


class PictureFiles:
    """Reads the pictures of rows in `folder`; references, which many rows share, are kept up to `kept_bytes`.

    A path that is no regular file, or holds more than `max_bytes`, is that row's failure and is not read.
    """

    def __init__(self, folder: Path, *, max_bytes: int, kept_bytes: int = _KEPT_BYTES) -> None:
        self._folder, self._max_bytes, self._room = folder, max_bytes, kept_bytes
        self._kept: OrderedDict[str, EncodedPicture] = OrderedDict()

    def to_sample(self, one: FileRow, *, image: bool = True, references: bool = True) -> Sample:
        """The sample of a row, with those pictures that are asked for. Raises Unreadable."""
        shown = self.image(one) if image else None
        return sample_of(one, shown, self.references(one) if references else ())

    def image(self, one: FileRow) -> Picture | None:
        """The picture of a row, None if it has none. Raises Unreadable."""
        path = one.row.image
        return None if path is None or one.problem is not None else self._read(path, "image", FailureCode.BAD_IMAGE)

    def references(self, one: FileRow) -> tuple[Picture, ...]:
        """The pictures of a row's concept. Raises Unreadable."""
        paths = () if one.problem is not None else one.row.concept.references
        return tuple(self._reference(path, index) for index, path in enumerate(paths))

    def _reference(self, path: str, index: int) -> EncodedPicture:
        if path in self._kept:
            self._kept.move_to_end(path)
            return self._kept[path]
        loaded = self._read(path, f"concept.references[{index}]", FailureCode.BAD_REFERENCE)
        self._kept[path] = loaded
        self._room -= len(loaded.data)
        while self._room < 0 and len(self._kept) > 1:
            self._room += len(self._kept.popitem(last=False)[1].data)
        return loaded

    def _read(self, path: str, field: str, code: FailureCode) -> EncodedPicture:
        try:
            file = self._folder / path
            if not stat.S_ISREG(file.stat().st_mode):  # of a FIFO or a device there may be no end
                raise OSError("it is no regular file; expected a PNG, JPEG or WebP file")
            with file.open("rb") as stream:
                data = stream.read(self._max_bytes + 1)
            if len(data) > self._max_bytes:
                raise OSError(f"it has more than {self._max_bytes} bytes, the service's limit; send a smaller one")
        except (OSError, ValueError) as error:
            message = f"{field}: cannot read {self._folder / path!s}: {reason(error)}"
            raise Unreadable(Failure(code, message.replace("\0", "\\0"), field)) from error
        return EncodedPicture(data)


def sample_of(one: FileRow, image: Picture | None, references: tuple[Picture, ...]) -> Sample:
    """The sample of a row with these pictures. Raises Unreadable for a row that is none."""
    if one.problem is not None:
        raise Unreadable(one.problem)
    whole = Concept(**{**dict(one.row.concept), "references": references})
    return Sample(**{**dict(one.row), "image": image, "concept": whole})
