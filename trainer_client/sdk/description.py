"""What a service says about itself (`Describe`), as plain values."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

from sync_r1.protos.rewards.v1 import rewards_pb2
from sync_r1.reward_models.cards import BUILT_IN_REWARDS, Part
from sync_r1.trainer_client.sdk.errors import RequestRejected, ServiceBug

_PARTS: dict[int, Part] = {rewards_pb2.PART_PICTURE: "picture", rewards_pb2.PART_ANSWER: "answer"}


@dataclass(frozen=True)
class VariantDescription:
    """One named definition of the reward; the fields are those of `Variant` in rewards.proto."""

    name: str
    summary: str
    source: str
    required_fields: tuple[str, ...]
    raw_min: float
    raw_max: float
    affine_scale: float
    affine_shift: float
    preferred_image_size: int
    groupwise: bool
    card_json: str

    @property
    def card(self) -> dict[str, Any]:
        """The whole card: validity numbers, licence, failure modes."""
        return dict(json.loads(self.card_json)) if self.card_json else {}

    @property
    def needs_image(self) -> bool:
        """Whether the reward looks at `Sample.image`; if not, it is not sent."""
        return "image" in self.required_fields

    @property
    def needs_references(self) -> bool:
        """Whether the reward looks at the concept's pictures; if not, they are not sent."""
        return "concept.references" in self.required_fields


@dataclass(frozen=True)
class ServiceLimits:
    """Limits of one request, all inclusive; the fields are those of `Limits` in rewards.proto."""

    max_items: int
    max_references: int
    max_request_bytes: int
    max_image_bytes: int
    max_pixels: int
    max_text_bytes: int
    max_inflight_items: int
    max_deadline_ms: int
    max_texts: int = 0
    """0, here and below: a service that does not say."""
    max_request_text_bytes: int = 0
    max_request_fields: int = 0
    max_request_tokens: int = 0


@dataclass(frozen=True)
class ServiceDescription:
    """A reward service: its variants, its limits and the releases it can serve."""

    reward: str
    variants: dict[str, VariantDescription]
    default_variant: str
    releases: dict[str, str]
    """Digest -> variant, for every release that can be pinned."""
    default_releases: dict[str, str]
    """Variant -> digest."""
    limits: ServiceLimits
    server_version: str
    judges: Part | None
    """Which part of a trajectory it is credit for; None: an own reward of a service that does not say it yet."""

    def variant(self, name: str) -> VariantDescription:
        """The variant of that name, or the default one for "". Raises RequestRejected listing those there are."""
        wanted = name or self.default_variant
        if wanted not in self.variants:
            raise RequestRejected(f"{self.reward} has no variant {wanted!r}; it has {sorted(self.variants)}")
        return self.variants[wanted]


def from_wire(message: rewards_pb2.DescribeResponse) -> ServiceDescription:
    """Plain values out of the protobuf message. Raises ServiceBug when it publishes no limits."""
    limits = message.limits
    if not (limits.max_items and limits.max_request_bytes and limits.max_inflight_items):
        raise ServiceBug(f"the service {message.reward!r} publishes no limits; expected all of them to be set")
    return ServiceDescription(
        reward=message.reward,
        variants={
            variant.name: VariantDescription(
                name=variant.name,
                summary=variant.summary,
                source=variant.source,
                required_fields=tuple(variant.required_fields),
                raw_min=variant.raw_min,
                raw_max=variant.raw_max,
                affine_scale=variant.affine_scale,
                affine_shift=variant.affine_shift,
                preferred_image_size=variant.preferred_image_size,
                groupwise=variant.groupwise,
                card_json=variant.card,
            )
            for variant in message.variants
        },
        default_variant=message.default_variant,
        releases={release.digest: release.variant for release in message.releases},
        default_releases=dict(message.default_releases),
        limits=ServiceLimits(
            max_items=limits.max_items,
            max_references=limits.max_references,
            max_request_bytes=limits.max_request_bytes,
            max_image_bytes=limits.max_image_bytes,
            max_pixels=limits.max_pixels,
            max_text_bytes=limits.max_text_bytes,
            max_inflight_items=limits.max_inflight_items,
            max_deadline_ms=limits.max_deadline_ms,
            max_texts=limits.max_texts,
            max_request_text_bytes=limits.max_request_text_bytes,
            max_request_fields=limits.max_request_fields,
            max_request_tokens=limits.max_request_tokens,
        ),
        server_version=message.server_version,
        judges=_PARTS.get(message.judges, BUILT_IN_REWARDS.get(message.reward)),
    )
