"""Whether a sample fits the contract, field by field, before any of it is sent: what does not is one item's failure.

protobuf would refuse the whole message, gRPC would fail the whole call, and a text where a list of texts belongs would
be read letter by letter.
"""

from __future__ import annotations

import operator
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from sync_r1.reward_models.errors import SyncR1Error
from sync_r1.reward_models.images import ImageError
from sync_r1.reward_models.types import Concept, Failure, FailureCode, Picture, Pixels, Sample
from sync_r1.trainer_client.sdk.description import VariantDescription
from sync_r1.trainer_client.sdk.errors import BadArgument, RequestRejected

_MOST_TARGET = (1 << 32) - 1
_TEXTS = ("group", "prompt", "question")
_LISTS = ("reference_answers", "choices", "nouns")
_CONCEPT_TEXTS = ("name", "class_noun", "info", "conversation_type")
_NEEDED = {"answer": "a text (it may be empty)", "target": "an index into `choices`"}
"""What the wire cannot say is missing: an answer that was never given is no empty one, nor is no target the first."""


class Unfit(SyncR1Error):
    """A value does not fit its field; `failure` is the item's outcome."""

    def __init__(self, code: FailureCode, field: str, message: str) -> None:
        super().__init__(message)
        self.failure = Failure(code, message, field)


def call_arguments(samples: Sequence[Sample], variant: object, release: object) -> list[Sample]:
    """The samples as a list; they are looked at one by one later. Raises BadArgument, RequestRejected for none."""
    if isinstance(samples, Sample | str | bytes | dict) or not isinstance(samples, Iterable):
        raise BadArgument(f"samples: expected a sequence of Sample, got {type(samples).__name__}")
    for name, value in (("variant", variant), ("release", release)):
        if not isinstance(value, str) or not value.isascii() or not (value.isprintable() or not value):
            raise BadArgument(f"{name}: expected a text of printable ASCII, or '' for the service's own, got {value!a}")
    found = list(samples)
    if not found:
        raise RequestRejected("samples is empty: expected at least one")
    return found


def check_sample(sample: Sample, variant: VariantDescription) -> None:
    """Raises Unfit for the first field that does not fit. Pictures are looked at as they are packed."""
    if not isinstance(sample, Sample):
        raise Unfit(FailureCode.MISSING_FIELD, "", f"expected a Sample, got {_named(sample)}")
    for name in _TEXTS:
        text(name, getattr(sample, name))
    for name in _LISTS:
        _texts(name, getattr(sample, name))
    if sample.answer is not None:
        text("answer", sample.answer)
    if not isinstance(sample.metadata, Mapping):
        raise Unfit(
            FailureCode.BAD_TEXT, "metadata", f"metadata: expected texts by name, got {_named(sample.metadata)}"
        )  # fmt: skip
    for name, value in sample.metadata.items():
        text("metadata", name)
        text(f"metadata[{name!a:.60}]", value)
    _target(sample)
    concept = sample.concept
    if not isinstance(concept, Concept):
        raise Unfit(FailureCode.BAD_TEXT, "concept", f"concept: expected a Concept, got {_named(concept)}")
    for name in _CONCEPT_TEXTS:
        text(f"concept.{name}", getattr(concept, name))
    _texts("concept.extra_info", concept.extra_info)
    if not isinstance(concept.references, tuple | list):
        raise Unfit(
            FailureCode.BAD_REFERENCE, "concept.references",
            f"concept.references: expected a tuple of pictures, got {_named(concept.references)}",
        )  # fmt: skip
    for name, expected in _NEEDED.items():
        if name in variant.required_fields and getattr(sample, name) is None:
            message = f"{name}: {variant.name} needs it; expected {expected}, got None"
            raise Unfit(FailureCode.MISSING_FIELD, name, message)


def text(field: str, value: Any) -> None:
    """Raises Unfit unless it is a text that UTF-8 can hold."""
    if not isinstance(value, str):
        raise Unfit(FailureCode.BAD_TEXT, field, f"{field}: expected a text, got {_named(value)}")
    try:
        value.encode()
    except UnicodeEncodeError as error:
        raise Unfit(
            FailureCode.BAD_TEXT, field,
            f"{field}: character {error.start} is {value[error.start]!a}, half of a surrogate pair, which no text can "
            "hold; read the text again as UTF-8, or replace that character",
        ) from error  # fmt: skip


def pixels_of(picture: Picture, field: str, code: FailureCode) -> Pixels:
    """The pixels of a decoded picture. Raises Unfit unless they can be had and are uint8 (height, width, 3)."""
    if not isinstance(picture, Picture):
        raise Unfit(code, field, f"{field}: expected what `picture(…)` gives, got {_named(picture)}")
    try:
        pixels = picture.pixels
    except ImageError as error:  # a file that was opened and cannot be scored (`sdk/pictures.py`)
        raise Unfit(code, field, f"{field}: {error}") from error
    if not isinstance(pixels, np.ndarray):
        raise Unfit(code, field, f"{field}: expected uint8 pixels of shape (height, width, 3), got {_named(pixels)}")
    if pixels.dtype != np.uint8 or pixels.ndim != 3 or pixels.shape[2] != 3 or 0 in pixels.shape:
        raise Unfit(
            code, field,
            f"{field}: expected uint8 pixels of shape (height, width, 3), got {pixels.dtype} {pixels.shape}",
        )  # fmt: skip
    return pixels


def _texts(field: str, values: Any) -> None:
    if not isinstance(values, tuple | list):
        cure = f"; write ({values!a:.60},)" if isinstance(values, str) else ""
        raise Unfit(FailureCode.BAD_TEXT, field, f"{field}: expected a tuple of texts, got {_named(values)}{cure}")
    for index, value in enumerate(values):
        text(f"{field}[{index}]", value)


def _target(sample: Sample) -> None:
    target = sample.target
    if target is None:
        return
    try:
        number = None if isinstance(target, bool | np.bool_) else operator.index(target)
    except TypeError:
        number = None
    if number is None or not 0 <= number <= _MOST_TARGET:
        expected = "the index of the right item in `choices`, 0 to one less than their number"
        raise Unfit(FailureCode.BAD_TEXT, "target", f"target: expected {expected}, got {target!a:.60}")


def _named(value: Any) -> str:
    """Type and beginning of a value, in ASCII: it is to be printed and sent on."""
    try:
        shown = ascii(value)[:60]
    except Exception:  # an object whose own __repr__ fails
        shown = "…"
    return f"{type(value).__name__} {shown}"
