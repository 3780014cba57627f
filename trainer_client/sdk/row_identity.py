"""Which row is which, whatever it is called and wherever it stands: the key of a scored row of a table or file.

    key = SHA-256(all scored inputs, of a group: of all its members, variant, release) : occurrence among equal rows

A row whose inputs change gets another key, so that an old score is never taken for it; a row that only moves or gets
another id keeps its own. Nothing here knows of files.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Sequence
from functools import cache
from typing import Any

from sync_r1.reward_models.types import Picture, RewardError, Sample
from sync_r1.trainer_client.sdk.description import VariantDescription
from sync_r1.trainer_client.sdk.pictures import EncodedPicture, raw_digest

_LABELS = ("id", "group")  # how a sample is called; which samples share a group counts, not what the group is called


@dataclasses.dataclass(frozen=True)
class RowKey:
    """`digest` is 32 bytes; `occurrence` counts the rows of equal digest before this one."""

    digest: bytes
    occurrence: int

    def __str__(self) -> str:
        return f"{self.digest.hex()}:{self.occurrence}"

    def packed(self) -> bytes:
        """40 bytes, for an index of many."""
        return self.digest + self.occurrence.to_bytes(8, "big")

    @classmethod
    def parse(cls, text: str) -> RowKey:
        """The inverse of `str`. Raises ValueError."""
        digest, _, occurrence = text.partition(":")
        key = cls(bytes.fromhex(digest), int(occurrence))
        if str(key) != text or len(key.digest) != 32 or not 0 <= key.occurrence < 1 << 64:
            raise ValueError(f"expected 64 hex digits, a colon and a number, got {text!r}")
        return key


class RowKeys:
    """Gives the rows of one pass over a table their keys; every row must be asked for, in the table's order.

    It remembers a digest for each row, nothing else of it.
    """

    def __init__(self, variant: str, release: str) -> None:
        self._variant, self._release = variant, release
        self._seen: dict[bytes, int] = {}

    def key(self, inputs: bytes) -> RowKey:
        """The key of the next row; `inputs` is its digest (`sample_digest`, `member_digests` or `text_digest`)."""
        digest = scored_digest(inputs, self._variant, self._release)
        occurrence = self._seen.get(digest, 0)
        self._seen[digest] = occurrence + 1
        return RowKey(digest, occurrence)


def scored_digest(inputs: bytes, variant: str, release: str) -> bytes:
    """SHA-256 of what was scored and what scored it: equal for rows whose scores must be equal."""
    return hashlib.sha256(f"{variant}\0{release}\0".encode() + inputs).digest()


def sample_digest(sample: Sample, variant: VariantDescription) -> bytes:
    """SHA-256 of what `variant` scores of a sample: every field but its labels, pictures by their content.

    Pictures that the variant does not look at are left out, as they are on the wire. A field at its default is left
    out, so that a field that is added to `Sample` later changes no key.
    """
    if not variant.needs_image:
        sample = dataclasses.replace(sample, image=None)
    if not variant.needs_references:
        sample = dataclasses.replace(sample, concept=dataclasses.replace(sample.concept, references=()))
    return text_digest(json.dumps(_plain(sample), sort_keys=True).encode())


def member_digests(inputs: Sequence[bytes]) -> list[bytes]:
    """Digests of the members of a group whose scores depend on one another: each of itself and of all, in order."""
    whole = b"".join(inputs)
    return [text_digest(b"member\0" + own + whole) for own in inputs]


def text_digest(text: bytes) -> bytes:
    """Of a row that could not be made into a sample, and so has no score: of its own text."""
    return hashlib.sha256(text).digest()


def _plain(value: Any) -> Any:
    if isinstance(value, Picture):
        return {"picture": _picture_digest(value)}
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        found = ((name, getattr(value, name), default) for name, default in _fields(type(value)))
        return {name: _plain(one) for name, one, default in found if one != default}
    if isinstance(value, list | tuple):
        return [_plain(one) for one in value]
    if value is None or isinstance(value, str | int | float):
        return value
    return [type(value).__name__, repr(value)]


@cache
def _fields(kind: type) -> tuple[tuple[str, Any], ...]:
    """(name, default) of the fields that count."""
    labels = _LABELS if issubclass(kind, Sample) else ()
    return tuple((one.name, one.default) for one in dataclasses.fields(kind) if one.name not in labels)


def _picture_digest(picture: Picture) -> str:
    """Of what is sent; `picture.sha256` may be that of the file that pixels were decoded from."""
    if isinstance(picture, EncodedPicture):
        return f"file {picture.sha256}"
    try:
        pixels = picture.pixels
    except RewardError:  # it is nobody's pixels, and will be its item's failure
        return f"refused {picture.sha256}"
    return f"pixels {raw_digest(pixels.tobytes(), pixels.shape[0], pixels.shape[1])}"
