"""Between the domain's words (`reward_models.types`) and the contract's messages (`rewards.proto`).

Pictures are flattened to bytes once for each call (`pack`), and put into a message once for each attempt (`request`),
because which references are sent as digests depends on the endpoint that is asked.
"""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Sequence
from dataclasses import dataclass

from sync_r1.protos.rewards.v1 import rewards_pb2
from sync_r1.reward_models.types import (
    Failure,
    FailureCode,
    MissingReferences,
    NotApplicable,
    Outcome,
    Picture,
    Sample,
    Score,
)
from sync_r1.trainer_client.sdk.description import VariantDescription
from sync_r1.trainer_client.sdk.errors import RequestRejected, ServiceBug
from sync_r1.trainer_client.sdk.pictures import EncodedPicture, raw_digest
from sync_r1.trainer_client.sdk.sample_checks import Unfit, check_sample, pixels_of, text

_OVERHEAD_BYTES = 64  # of a nested message, generously: tags, lengths, height, width, a digest
_CODE_PREFIX = "FAILURE_CODE_"


@dataclass(frozen=True)
class PackedPicture:
    """The bytes of a picture as they travel: a file (height = width = 0) or raw pixels."""

    data: bytes
    height: int
    width: int
    sha256: str

    def fill(self, message: rewards_pb2.Image) -> None:
        """Write the picture itself (not its digest) into `message`."""
        if self.height:
            message.raw.pixels = self.data
            message.raw.height, message.raw.width = self.height, self.width
        else:
            message.encoded = self.data


@dataclass(frozen=True)
class PackedSample:
    """A sample as it travels; `size_bytes` bounds its serialised size without references."""

    id: str
    group: str
    body: rewards_pb2.Sample
    """All but the pictures, which depend on the endpoint."""
    image: PackedPicture | None
    references: tuple[PackedPicture, ...]
    size_bytes: int
    failure: Failure | None = None
    """Why it cannot be sent, if it cannot; then the rest of its fields say nothing."""


def pack(samples: Sequence[Sample], variant: VariantDescription) -> list[PackedSample]:
    """Samples with the pictures this variant looks at, as bytes; the pictures it ignores are left out.

    A sample that cannot be put into the contract's words is packed as its own `failure`. An empty id becomes the
    sample's position. Raises RequestRejected when two samples have the same id.
    """
    packed: dict[int, PackedPicture] = {}  # by object: a group shares its references, hash and copy them once
    ids = [getattr(sample, "id", "") for sample in samples]
    taken = {identifier for identifier in ids if isinstance(identifier, str)}
    result, seen = [], set()
    for position, (sample, identifier) in enumerate(zip(samples, ids)):
        try:
            text("id", identifier)
            if identifier in seen:
                raise RequestRejected(
                    f"samples[{position}].id: {identifier!r} is used twice; ids must be unique in a call"
                )
            if identifier:
                seen.add(identifier)
            else:
                identifier = _free_id(position, taken)
            result.append(_pack(sample, identifier, variant, packed))
        except Unfit as unfit:
            result.append(_unsendable(unfit.failure))
        except (MemoryError, RequestRejected):
            raise
        except Exception as error:  # whatever it is, it is this sample's
            message = f"it could not be prepared: {type(error).__name__}: {error}"
            result.append(_unsendable(Failure(FailureCode.INTERNAL, message)))
    return result


def concept_of(sample: PackedSample) -> str:
    """What decides which replica a sample belongs to: the digest of its references."""
    return hashlib.sha256(" ".join(reference.sha256 for reference in sample.references).encode()).hexdigest()


def reference_bytes(sample: PackedSample) -> int:
    """Bytes that the references of one sample take when they are all sent inline."""
    return sum(len(reference.data) + _OVERHEAD_BYTES for reference in sample.references)


def request(
    samples: Sequence[PackedSample],
    *,
    variant: str,
    release: str,
    request_id: str,
    known: Collection[str],
    inline: bool,
) -> rewards_pb2.ScoreRequest:
    """The message for these samples.

    References whose digest the endpoint knows, or that stand earlier in this very request, go as digests; with `inline`
    every reference of every sample goes as the picture itself.
    """
    message = rewards_pb2.ScoreRequest(variant=variant, release=release, request_id=request_id)
    sent = set(known)
    for packed in samples:
        sample = message.samples.add()
        sample.CopyFrom(packed.body)
        if packed.image is not None:
            packed.image.fill(sample.image)
        for reference in packed.references:
            target = sample.concept.references.add()
            if reference.sha256 in sent and not inline:
                target.sha256 = reference.sha256
            else:
                reference.fill(target)
                sent.add(reference.sha256)
    return message


def outcomes(
    samples: Sequence[PackedSample], response: rewards_pb2.ScoreResponse, target: str
) -> list[Outcome | MissingReferences]:
    """What came back, one for each sample in order. Raises ServiceBug when the response does not match the request."""
    wanted, got = [sample.id for sample in samples], [outcome.id for outcome in response.outcomes]
    if len(wanted) != len(got):
        raise ServiceBug(f"{target} broke the contract: {len(wanted)} samples were sent, {len(got)} outcomes came back")
    for position, (sent_id, got_id) in enumerate(zip(wanted, got)):
        if sent_id != got_id:
            raise ServiceBug(f"{target} broke the contract: outcomes[{position}].id is {got_id!r}, not {sent_id!r}")
    return [_outcome(outcome, target) for outcome in response.outcomes]


def _pack(
    sample: Sample, identifier: str, variant: VariantDescription, packed: dict[int, PackedPicture]
) -> PackedSample:
    """Raises Unfit."""
    check_sample(sample, variant)

    def bytes_of(picture: Picture, field: str, code: FailureCode) -> PackedPicture:
        if id(picture) not in packed:
            packed[id(picture)] = _pack_picture(picture, field, code)
        return packed[id(picture)]

    concept = sample.concept
    image = None
    if sample.image is not None and variant.needs_image:
        image = bytes_of(sample.image, "image", FailureCode.BAD_IMAGE)
    references: tuple[PackedPicture, ...] = ()
    if variant.needs_references:
        references = tuple(
            bytes_of(reference, f"concept.references[{index}]", FailureCode.BAD_REFERENCE)
            for index, reference in enumerate(concept.references)
        )
    body = rewards_pb2.Sample(
        id=identifier, group=sample.group, prompt=sample.prompt, question=sample.question, answer=sample.answer or "",
        reference_answers=sample.reference_answers, nouns=sample.nouns, metadata=sample.metadata,
        concept=rewards_pb2.Concept(
            name=concept.name, class_noun=concept.class_noun, info=concept.info,
            conversation_type=concept.conversation_type, extra_info=concept.extra_info,
        ),
    )  # fmt: skip
    if sample.target is not None:  # without a target the wire would say 0, so choices alone are not sent
        body.choices.extend(sample.choices)
        body.target = sample.target
    size = _OVERHEAD_BYTES * 2 + body.ByteSize() + (len(image.data) + _OVERHEAD_BYTES if image else 0)
    return PackedSample(identifier, sample.group, body, image, references, size)


def _unsendable(failure: Failure) -> PackedSample:
    return PackedSample("", "", rewards_pb2.Sample(), None, (), 0, failure)


def _free_id(position: int, taken: set[str]) -> str:
    """The position as an id; a caller's own ids may be numbers too."""
    identifier = str(position)
    while identifier in taken:
        identifier += "#"
    return identifier


def _pack_picture(picture: Picture, field: str, code: FailureCode) -> PackedPicture:
    """Raises Unfit."""
    if isinstance(picture, EncodedPicture):
        return PackedPicture(picture.data, 0, 0, picture.sha256)
    data = pixels_of(picture, field, code).tobytes()
    height, width = picture.pixels.shape[:2]
    # The digest is of what is sent: `picture.sha256` may be that of the file the pixels were decoded from.
    return PackedPicture(data, height, width, raw_digest(data, height, width))


def _outcome(message: rewards_pb2.Outcome, target: str) -> Outcome | MissingReferences:
    kind = message.WhichOneof("result")
    if kind == "score":
        components = {component.name: component.value for component in message.score.components}
        try:
            return Score(message.score.value, components, message.score.reason)
        except ValueError as error:  # NaN or infinity
            return Failure(FailureCode.NON_FINITE, f"{target} sent what is no score: {error}")
    if kind == "not_applicable":
        return NotApplicable(message.not_applicable.reason)
    if kind == "missing_references":
        return MissingReferences(tuple(message.missing_references.sha256))
    if kind == "failure":
        failure = message.failure
        try:
            code = FailureCode(rewards_pb2.FailureCode.Name(failure.code).removeprefix(_CODE_PREFIX))
        except ValueError:  # a newer service may have codes this client does not know
            code = FailureCode.INTERNAL
        return Failure(code, failure.message, failure.field, failure.retryable)
    raise ServiceBug(f"{target} broke the contract: the outcome of {message.id!r} is empty")
