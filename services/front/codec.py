"""Between the contract's messages and the domain's words, in both directions.

    ScoreRequest ─ parse ─▶ checked message ─ Codec.samples ─▶ Sample | Failure | MissingReferences per item
    ScoreResponse ◀─ responses.response ─ Score | NotApplicable | Failure | MissingReferences per item

What is wrong with the request as a whole raises InvalidRequest; what is wrong with one item is that item's outcome.
Pictures are decoded in threads, never on the event loop.
"""

from __future__ import annotations

import asyncio
import hashlib
import re
import time
from collections.abc import Callable, Collection, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

from google.protobuf.message import DecodeError

from sync_r1.protos.rewards.v1 import rewards_pb2
from sync_r1.reward_models.images import ImageError, ImageLimits, decode, from_raw
from sync_r1.reward_models.types import Concept, Failure, FailureCode, GraphDeadline, Picture, Sample
from sync_r1.services.access.status import InvalidRequest
from sync_r1.services.config import Limits
from sync_r1.services.front.reference_cache import ReferenceCache

_DIGEST = re.compile(r"[0-9a-f]{64}")


@dataclass(frozen=True)
class MissingReferences:
    """This replica does not know the references with these digests; the client sends the item again with them."""

    sha256: tuple[str, ...]


_Place = tuple[int, int]  # (item, index of its reference, or _IMAGE)
_Decoded = Picture | ImageError
_IMAGE = -1


def parse(body: bytes, limits: Limits) -> Any:
    """The request's message, checked as a whole. Raises InvalidRequest naming the field and the limit."""
    if len(body) > limits.max_request_bytes:
        raise InvalidRequest(f"the request has {len(body)} bytes, max_request_bytes is {limits.max_request_bytes}")
    try:
        request = rewards_pb2.ScoreRequest.FromString(body)
    except DecodeError as error:
        raise InvalidRequest("the request's bytes are no sync_r1.rewards.v1.ScoreRequest") from error
    for field in ("variant", "release", "request_id"):
        size = len(getattr(request, field).encode())
        if size > limits.max_text_bytes:
            raise InvalidRequest(f"{field}: {size} bytes, the limit is {limits.max_text_bytes} (max_text_bytes)")
    items = len(request.samples)
    if not 1 <= items <= limits.max_items:
        raise InvalidRequest(f"samples: expected 1 to {limits.max_items} items (max_items), got {items}")
    seen: dict[str, int] = {}
    for index, sample in enumerate(request.samples):
        if sample.id and seen.setdefault(sample.id, index) != index:
            raise InvalidRequest(
                f"samples[{index}].id: {sample.id!r} is the id of samples[{seen[sample.id]}] too; ids must differ"
            )
    return request


class Codec:
    """Decodes the items of requests; holds the threads and the reference cache."""

    def __init__(self, limits: Limits, cache: ReferenceCache, threads: int) -> None:
        self._limits = limits
        self._image_limits = ImageLimits(max_bytes=limits.max_image_bytes, max_pixels=limits.max_pixels)
        self._cache = cache
        self._threads = threads
        self._executor = ThreadPoolExecutor(threads, thread_name_prefix="decode")

    def close(self) -> None:
        """End the threads; what they decode now is finished first."""
        self._executor.shutdown(wait=True, cancel_futures=True)

    async def samples(
        self, messages: Sequence[Any], *, team: str, required_fields: Collection[str], deadline_s: float
    ) -> list[Sample | Failure | MissingReferences]:
        """One entry for each message, in order. Pictures that the reward does not look at are not even decoded.

        Digests stand for references of the same `team` only. `deadline_s` is on `time.monotonic()`'s clock. Raises
        GraphDeadline when decoding takes longer.
        """
        looks_at = frozenset(required_fields)
        jobs = {
            (item, place): image
            for item, message in enumerate(messages)
            for place, image in _inline_pictures(message, looks_at, self._limits.max_references)
        }
        decoded = await self._decode_all(jobs, team, deadline_s)
        # Whatever the order of the items, they may refer to pictures that came inline in the same request.
        inline = {
            picture.sha256: picture
            for (_, place), picture in decoded.items()
            if place != _IMAGE and isinstance(picture, Picture)
        }

        def known(sha256: str) -> Picture | None:
            return inline.get(sha256) or self._cache.get(team, sha256)

        return [self._sample(item, message, looks_at, decoded, known) for item, message in enumerate(messages)]

    async def _decode_all(self, jobs: dict[_Place, Any], team: str, deadline_s: float) -> dict[_Place, _Decoded]:
        if not jobs:
            return {}
        # One slice per thread: a task for each picture would cost more than hashing a small raw one.
        places = list(jobs)
        slices = [places[start :: self._threads] for start in range(min(self._threads, len(places)))]
        loop = asyncio.get_running_loop()
        parts = await asyncio.gather(
            *(loop.run_in_executor(self._executor, self._decode_some, jobs, part, team, deadline_s) for part in slices)
        )
        return {place: result for part in parts for place, result in part.items()}

    def _decode_some(
        self, jobs: dict[_Place, Any], places: list[_Place], team: str, deadline_s: float
    ) -> dict[_Place, _Decoded]:
        """In a thread."""
        results = {}
        for place in places:
            if time.monotonic() > deadline_s:
                raise GraphDeadline("the deadline passed while pictures were decoded")
            results[place] = self._reference(jobs[place], team) if place[1] != _IMAGE else self._decode(jobs[place])
        return results

    def _reference(self, image: Any, team: str) -> _Decoded:
        """A reference, known by the digest that the contract gives its kind: that of a file, or of pixels and shape."""
        if image.WhichOneof("source") == "encoded":
            known = self._cache.get(team, hashlib.sha256(image.encoded).hexdigest())
            if known is not None:
                return known
        decoded = self._decode(image)
        if isinstance(decoded, Picture):
            self._cache.put(team, decoded.sha256, decoded)
        return decoded

    def _decode(self, image: Any) -> _Decoded:
        try:
            if image.WhichOneof("source") == "raw":
                return from_raw(image.raw.pixels, image.raw.height, image.raw.width, self._image_limits)
            return decode(image.encoded, self._image_limits)
        except ImageError as error:
            return error

    def _sample(
        self,
        item: int,
        message: Any,
        looks_at: frozenset[str],
        decoded: dict[_Place, _Decoded],
        known: Callable[[str], Picture | None],
    ) -> Sample | Failure | MissingReferences:
        for path, text in _texts(message):
            size = len(text.encode())
            if size > self._limits.max_text_bytes:
                return Failure(
                    FailureCode.BAD_TEXT,
                    f"{path}: {size} bytes, the limit is {self._limits.max_text_bytes} (max_text_bytes)",
                    path,
                )
        image: Picture | None = None
        if "image" in looks_at:
            if message.image.WhichOneof("source") == "sha256":
                return Failure(
                    FailureCode.BAD_IMAGE, "image: a digest stands for references only; send the picture", "image"
                )
            picture = decoded.get((item, _IMAGE))
            if isinstance(picture, ImageError):
                return Failure(FailureCode.BAD_IMAGE, f"image: {picture}", "image")
            image = picture
        references: tuple[Picture, ...] = ()
        if "concept.references" in looks_at:
            found = self._references(item, message.concept.references, decoded, known)
            if not isinstance(found, tuple):
                return found
            references = found
        return _domain_sample(message, image, references)

    def _references(
        self,
        item: int,
        messages: Sequence[Any],
        decoded: dict[_Place, _Decoded],
        known: Callable[[str], Picture | None],
    ) -> tuple[Picture, ...] | Failure | MissingReferences:
        if len(messages) > self._limits.max_references:
            return Failure(
                FailureCode.BAD_REFERENCE,
                f"concept.references: {len(messages)} pictures, the limit is {self._limits.max_references} "
                "(max_references)",
                "concept.references",
            )
        pictures, missing = [], []
        for index, message in enumerate(messages):
            path = f"concept.references[{index}]"
            got = decoded.get((item, index))
            if got is None:
                digest = message.sha256
                if not _DIGEST.fullmatch(digest):
                    return Failure(
                        FailureCode.BAD_REFERENCE,
                        f"{path}: expected a picture or the 64 lowercase hex digits of its sha256; got {digest[:66]!r}",
                        path,
                    )
                got = known(digest)
            if isinstance(got, ImageError):
                return Failure(FailureCode.BAD_REFERENCE, f"{path}: {got}", path)
            if got is None:
                missing.append(message.sha256)
            else:
                pictures.append(got)
        return MissingReferences(tuple(missing)) if missing else tuple(pictures)


def whole_groups(
    decoded: Sequence[Sample | Failure | MissingReferences], messages: Sequence[Any]
) -> list[Sample | Failure | MissingReferences]:
    """For a reward that compares a group: where one item lacks references, its whole group has to come again.

    Scoring the others now would compare them without it, and pay a judge for that.
    """
    lacking: dict[str, MissingReferences] = {}
    for item, message in zip(decoded, messages):
        if message.group and isinstance(item, MissingReferences):
            lacking.setdefault(message.group, item)
    return [
        lacking.get(message.group, item) if isinstance(item, Sample) else item
        for item, message in zip(decoded, messages)
    ]


def _inline_pictures(message: Any, looks_at: frozenset[str], max_references: int) -> Iterator[tuple[int, Any]]:
    """The pictures of one item that must be decoded, each with its place: `_IMAGE` or the reference's index."""
    if "image" in looks_at and message.image.WhichOneof("source") in ("encoded", "raw"):
        yield _IMAGE, message.image
    if "concept.references" in looks_at and len(message.concept.references) <= max_references:
        for index, reference in enumerate(message.concept.references):
            if reference.WhichOneof("source") in ("encoded", "raw"):
                yield index, reference


def _texts(message: Any) -> Iterator[tuple[str, str]]:
    """Every text of one item with its path."""
    concept = message.concept
    yield from (("id", message.id), ("group", message.group), ("prompt", message.prompt))
    yield from (("question", message.question), ("answer", message.answer))
    yield from (("concept.name", concept.name), ("concept.class_noun", concept.class_noun))
    yield from (("concept.info", concept.info), ("concept.conversation_type", concept.conversation_type))
    for path, texts in (
        ("concept.extra_info", concept.extra_info),
        ("reference_answers", message.reference_answers),
        ("choices", message.choices),
        ("nouns", message.nouns),
    ):
        yield from ((f"{path}[{index}]", text) for index, text in enumerate(texts))


def _domain_sample(message: Any, image: Picture | None, references: tuple[Picture, ...]) -> Sample:
    concept = message.concept
    return Sample(
        id=message.id,
        group=message.group,
        image=image,
        prompt=message.prompt,
        concept=Concept(
            name=concept.name,
            class_noun=concept.class_noun,
            references=references,
            info=concept.info,
            extra_info=tuple(concept.extra_info),
            conversation_type=concept.conversation_type,
        ),
        question=message.question,
        answer=message.answer,
        reference_answers=tuple(message.reference_answers),
        choices=tuple(message.choices),
        # On the wire an absent target is 0; it means something only beside choices.
        target=message.target if message.choices else None,
        nouns=tuple(message.nouns),
    )
