"""Aesthetic: is it a good picture? A small MLP on an image embedding.

The shape is LAION's aesthetic predictor V2 (sac+logos+ava1-l14-linearMSE): the L2-normalised CLIP embedding through an
MLP D-1024-128-64-16-1. Encoder, normalisation and head are one graph.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from sync_r1.reward_models.cards import Card
from sync_r1.reward_models.inputs.encoders import ImageEncoder, Outputs
from sync_r1.reward_models.rewards.base import ItemReward
from sync_r1.reward_models.rewards.fields import finite_score, missing_field
from sync_r1.reward_models.runner import GraphRunner, RunContext
from sync_r1.reward_models.types import Outcome, Sample

FORMULA_VERSION = "1"
REQUIRED_FIELDS = ("image",)


@dataclass(frozen=True)
class Aesthetic(ItemReward):
    """value = the head's `score` output, on the scale it was trained on."""

    card: Card
    encoder: ImageEncoder

    @property
    def graphs(self) -> tuple[str, ...]:
        """Encoder and head in one."""
        return (self.encoder.graph.name,)

    async def score_batch(self, samples: Sequence[Sample], runner: GraphRunner, context: RunContext) -> list[Outcome]:
        """See `Reward.score`. Each distinct picture is scored once."""
        failures = [missing_field(sample, REQUIRED_FIELDS) for sample in samples]
        pictures = (sample.image for sample in samples if sample.image is not None)
        outputs = await self.encoder.run(pictures, runner, context)
        return [failure or self._score(sample, outputs) for sample, failure in zip(samples, failures)]

    def _score(self, sample: Sample, outputs: dict[str, Outputs]) -> Outcome:
        assert sample.image is not None  # checked by missing_field
        return finite_score(outputs[sample.image.sha256]["score"].item(), {}, self.graphs)
