"""Between the contract's messages and the domain's words, in both directions.

    ScoreRequest ─ parse ─▶ checked message ─ Codec.samples ─▶ Sample | Failure | MissingReferences per item
    ScoreResponse ◀─ responses.response ─ Score | NotApplicable | Failure | MissingReferences per item

What is wrong with the request as a whole raises InvalidRequest; what is wrong with one item is that item's outcome.
Pictures are decoded in threads, never on the event loop.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import replace
from typing import Any

from google.protobuf.message import DecodeError

from sync_r1.protos.rewards.v1 import rewards_pb2
from sync_r1.reward_models.images import ImageError
from sync_r1.reward_models.inputs.preparation import Preparation
from sync_r1.reward_models.rewards.base import failure_of
from sync_r1.reward_models.threads import each_in_turn, in_thread
from sync_r1.reward_models.types import Concept, Failure, FailureCode, MissingReferences, Picture, Sample
from sync_r1.services.access.status import InvalidRequest
from sync_r1.services.config import Limits
from sync_r1.services.echo import echoed
from sync_r1.services.front.picture_decoder import IMAGE, Decoded, PictureDecoder, Place
from sync_r1.services.front.reference_cache import ReferenceCache
from sync_r1.services.front.wire_scan import check_wire

_DIGEST = re.compile(r"[0-9a-f]{64}")


def parse(body: bytes, limits: Limits) -> Any:
    """The request's message, checked as a whole. Raises InvalidRequest naming the field and the limit.

    Call it in a thread: a request at its limits takes 50 ms and more.
    """
    if len(body) > limits.max_request_bytes:
        raise InvalidRequest(f"the request has {len(body)} bytes, max_request_bytes is {limits.max_request_bytes}")
    check_wire(body, limits)
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
                f"samples[{index}].id: {echoed(sample.id)} is the id of samples[{seen[sample.id]}] too; ids must differ"
            )
    return request


class Codec:
    """Decodes the items of requests; holds the threads and the reference cache."""

    def __init__(self, limits: Limits, cache: ReferenceCache, threads: int) -> None:
        self._limits = limits
        self._cache = cache
        self._decoder = PictureDecoder(limits, cache, threads)

    def close(self) -> None:
        """End the threads; what they decode now is finished first."""
        self._decoder.close()

    def needed_bytes(
        self, messages: Sequence[Any], *, required_fields: Collection[str], preparations: tuple[Preparation, ...]
    ) -> int:
        """See `PictureDecoder.needed_bytes`."""
        return self._decoder.needed_bytes(messages, frozenset(required_fields), preparations)

    async def samples(
        self,
        messages: Sequence[Any],
        *,
        team: str,
        required_fields: Collection[str],
        deadline_s: float,
        preparations: tuple[Preparation, ...] = (),
    ) -> list[Sample | Failure | MissingReferences]:
        """One entry for each message, in order. Pictures that the reward does not look at are not even decoded.

        Of inline pictures only what `preparations` make is kept, if there are any. Digests stand for references of the
        same `team` only. `deadline_s` is on `time.monotonic()`'s clock. Raises
        GraphDeadline when decoding takes longer.
        """
        looks_at = frozenset(required_fields)
        decoded = await self._decoder.decode(messages, looks_at, team, deadline_s, preparations)
        # Whatever the order of the items, they may refer to pictures that came inline in the same request.
        inline = {
            picture.sha256: picture
            for (_, place), picture in decoded.items()
            if place != IMAGE and isinstance(picture, Picture)
        }

        def known(sha256: str) -> Picture | None:
            return inline.get(sha256) or self._cache.get(team, sha256)

        def translated(numbered: tuple[int, Any]) -> Sample | Failure | MissingReferences:
            try:
                return self._sample(*numbered, looks_at, decoded, known)
            except Exception as error:
                return failure_of(error)

        return await in_thread(deadline_s, lambda: each_in_turn(translated, enumerate(messages), deadline_s))

    def _sample(
        self,
        item: int,
        message: Any,
        looks_at: frozenset[str],
        decoded: dict[Place, Decoded],
        known: Callable[[str], Picture | None],
    ) -> Sample | Failure | MissingReferences:
        for path, texts in _lists(message):
            if len(texts) > self._limits.max_texts:
                what = f"{path}: {len(texts)} entries, the limit is {self._limits.max_texts} (max_texts)"
                return Failure(FailureCode.BAD_TEXT, what, path)
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
            picture = decoded.get((item, IMAGE))
            if isinstance(picture, ImageError):
                return Failure(FailureCode.BAD_IMAGE, f"image: {picture}", "image")
            if isinstance(picture, Failure):
                return replace(picture, field="image")
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
        decoded: dict[Place, Decoded],
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
                        f"{path}: expected a picture or the 64 lower-case digits of its sha256, got {echoed(digest)}",
                        path,
                    )
                got = known(digest)
            if isinstance(got, ImageError):
                return Failure(FailureCode.BAD_REFERENCE, f"{path}: {got}", path)
            if isinstance(got, Failure):
                return replace(got, field=path)
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


def _texts(message: Any) -> Iterator[tuple[str, str]]:
    """Every text that is read of one item, with its path: metadata are not, and have the request's limit only."""
    concept = message.concept
    yield from (("id", message.id), ("group", message.group), ("prompt", message.prompt))
    yield from (("question", message.question), ("answer", message.answer))
    yield from (("concept.name", concept.name), ("concept.class_noun", concept.class_noun))
    yield from (("concept.info", concept.info), ("concept.conversation_type", concept.conversation_type))
    for path, texts in _lists(message):
        if path != "metadata":
            yield from ((f"{path}[{index}]", text) for index, text in enumerate(texts))


def _lists(message: Any) -> tuple[tuple[str, Collection[str]], ...]:
    """Every list of texts of one item, with its path, and its metadata."""
    return (
        ("concept.extra_info", message.concept.extra_info),
        ("reference_answers", message.reference_answers),
        ("choices", message.choices),
        ("nouns", message.nouns),
        ("metadata", message.metadata),
    )


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
        metadata=dict(message.metadata),
    )
