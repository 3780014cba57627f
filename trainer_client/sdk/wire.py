"""Between the domain's words (`reward_models.types`) and the contract's messages (`rewards.proto`).

Pictures are flattened to bytes once for each call (`pack`), and put into a message once for each attempt (`request`),
because which references are sent as digests depends on the endpoint that is asked.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass

from sync_r1.protos.rewards.v1 import rewards_pb2
from sync_r1.reward_models.types import Failure, FailureCode, NotApplicable, Outcome, Picture, Sample, Score
from sync_r1.trainer_client.sdk.description import VariantDescription
from sync_r1.trainer_client.sdk.errors import RequestRejected, ServiceBug
from sync_r1.trainer_client.sdk.pictures import EncodedPicture, raw_digest

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
    """A sample whose pictures are bytes; `size_bytes` bounds its serialised size without references."""

    id: str
    sample: Sample
    image: PackedPicture | None
    references: tuple[PackedPicture, ...]
    size_bytes: int


@dataclass(frozen=True)
class MissingReferences:
    """The answer "send the pictures themselves": resolved by the client, never seen by its caller."""

    sha256: tuple[str, ...]


def pack(samples: Sequence[Sample], variant: VariantDescription) -> list[PackedSample]:
    """Samples with the pictures this variant looks at, as bytes; the pictures it ignores are left out.

    An empty id becomes the sample's position. Raises RequestRejected when two samples have the same id.
    """
    packed: dict[int, PackedPicture] = {}  # by object: a group shares its references, hash and copy them once

    def bytes_of(picture: Picture) -> PackedPicture:
        if id(picture) not in packed:
            packed[id(picture)] = _pack_picture(picture)
        return packed[id(picture)]

    result, seen = [], set()
    for position, sample in enumerate(samples):
        identifier = sample.id or str(position)
        if identifier in seen:
            raise RequestRejected(f"samples[{position}].id: {identifier!r} is used twice; ids must be unique in a call")
        seen.add(identifier)
        image = bytes_of(sample.image) if sample.image is not None and variant.needs_image else None
        references = tuple(map(bytes_of, sample.concept.references)) if variant.needs_references else ()
        size = _OVERHEAD_BYTES * 4 + _text_bytes(sample) + (len(image.data) + _OVERHEAD_BYTES if image else 0)
        result.append(PackedSample(identifier, sample, image, references, size))
    return result


def local_failure(sample: PackedSample, variant: VariantDescription) -> Failure | None:
    """What the wire could not say: an answer that was never given is not an empty one, nor is no target the first."""
    for field, expected in (("answer", "a text (it may be empty)"), ("target", "an index into `choices`")):
        if field in variant.required_fields and getattr(sample.sample, field) is None:
            message = f"{field}: {variant.name} needs it; expected {expected}, got None"
            return Failure(FailureCode.MISSING_FIELD, message, field)
    return None


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
    every reference of every sample goes as the picture itself. Raises RequestRejected naming the sample and what is
    wrong when a value does not fit its field.
    """
    message = rewards_pb2.ScoreRequest(variant=variant, release=release, request_id=request_id)
    sent = set(known)
    for packed in samples:
        try:
            _fill(message.samples.add(), packed, sent, inline)
        except (TypeError, ValueError) as error:
            raise RequestRejected(f"sample {packed.id!r} does not fit the contract: {error}") from error
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


def _fill(message: rewards_pb2.Sample, packed: PackedSample, sent: set[str], inline: bool) -> None:
    sample, concept = packed.sample, packed.sample.concept
    message.id, message.group, message.prompt = packed.id, sample.group, sample.prompt
    message.question, message.answer = sample.question, sample.answer or ""
    message.reference_answers.extend(sample.reference_answers)
    message.nouns.extend(sample.nouns)
    message.metadata.update(sample.metadata)
    if sample.target is not None:  # without a target the wire would say 0, so choices alone are not sent
        message.choices.extend(sample.choices)
        message.target = sample.target
    message.concept.name, message.concept.class_noun = concept.name, concept.class_noun
    message.concept.info, message.concept.conversation_type = concept.info, concept.conversation_type
    message.concept.extra_info.extend(concept.extra_info)
    if packed.image is not None:
        packed.image.fill(message.image)
    for reference in packed.references:
        target = message.concept.references.add()
        if reference.sha256 in sent and not inline:
            target.sha256 = reference.sha256
        else:
            reference.fill(target)
            sent.add(reference.sha256)


def _pack_picture(picture: Picture) -> PackedPicture:
    if isinstance(picture, EncodedPicture):
        return PackedPicture(picture.data, 0, 0, picture.sha256)
    pixels = picture.pixels
    data = pixels.tobytes()
    # The digest is of what is sent: `picture.sha256` may be that of the file the pixels were decoded from.
    return PackedPicture(data, pixels.shape[0], pixels.shape[1], raw_digest(data, pixels.shape[0], pixels.shape[1]))


def _text_bytes(sample: Sample) -> int:
    concept = sample.concept
    texts = (
        sample.id, sample.group, sample.prompt, sample.question, sample.answer or "", concept.name, concept.class_noun,
        concept.info, concept.conversation_type, *concept.extra_info, *sample.reference_answers, *sample.choices,
        *sample.nouns, *sample.metadata.keys(), *sample.metadata.values(),
    )  # fmt: skip
    entries = 8 * len(sample.metadata)  # each is a message of its own
    return entries + sum(4 * len(text) + 8 for text in texts)  # 4: the longest UTF-8 character


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
