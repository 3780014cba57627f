"""Concept consistency: does the picture show *this* concept? Cosine between the picture and the references.

Variants `clip_i` (Yo'Chameleon, arXiv 2504.20998) and `dino` (DreamBooth, arXiv 2208.12242) differ only in the image
encoder; either can compare with every reference and average, or with the mean of the references' embeddings.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from sync_r1.reward_models.cards import Card
from sync_r1.reward_models.inputs.encoders import ImageEncoder, Outputs, cosine
from sync_r1.reward_models.rewards.base import ItemReward
from sync_r1.reward_models.rewards.fields import finite_score, missing_field
from sync_r1.reward_models.runner import GraphRunner, RunContext
from sync_r1.reward_models.types import Outcome, Sample

FORMULA_VERSION = "1"
REQUIRED_FIELDS = ("image", "concept.references")
ReferenceMode = Literal["mean_cosine", "mean_embedding"]


@dataclass(frozen=True)
class ConceptConsistency(ItemReward):
    """value = mean over references of cos(image, reference), or cos(image, mean of unit reference embeddings).

    Components: `reference_min` and `reference_max`, the cosines to the least and the most similar reference.
    """

    card: Card
    encoder: ImageEncoder
    references: ReferenceMode = "mean_cosine"

    @property
    def graphs(self) -> tuple[str, ...]:
        """The image encoder."""
        return (self.encoder.graph.name,)

    async def score_batch(self, samples: Sequence[Sample], runner: GraphRunner, context: RunContext) -> list[Outcome]:
        """See `Reward.score`. Each distinct picture, reference or not, is embedded once."""
        failures = [missing_field(sample, REQUIRED_FIELDS) for sample in samples]
        pictures = [
            picture
            for sample, failure in zip(samples, failures)
            if failure is None and sample.image is not None
            for picture in (sample.image, *sample.concept.references)
        ]
        embeddings = await self.encoder.run(pictures, runner, context)
        return [failure or self._score(sample, embeddings) for sample, failure in zip(samples, failures)]

    def _score(self, sample: Sample, embeddings: dict[str, Outputs]) -> Outcome:
        assert sample.image is not None  # checked by missing_field
        image_D = embeddings[sample.image.sha256]["embedding"]
        references_R_D = np.stack([embeddings[picture.sha256]["embedding"] for picture in sample.concept.references])
        cosines_R = [cosine(image_D, reference_D) for reference_D in references_R_D]
        if self.references == "mean_embedding":
            with np.errstate(all="ignore"):
                unit_R_D = references_R_D / np.linalg.norm(references_R_D, axis=1, keepdims=True)
            value = cosine(image_D, unit_R_D.mean(axis=0))
        else:
            value = float(np.mean(cosines_R))
        return finite_score(value, {"reference_min": min(cosines_R), "reference_max": max(cosines_R)}, self.graphs)
