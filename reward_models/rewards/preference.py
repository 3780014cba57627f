"""Aesthetic, by models of human preference: how people would rate this picture for this prompt.

HPSv2.1 (arXiv 2306.09341) and PickScore (arXiv 2305.01569) compare two embeddings; ImageReward (arXiv 2304.05977) reads
the prompt with the picture in view. What belongs to a score (PickScore's scale over 26, ImageReward's mean and
deviation) is inside the graphs.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from sync_r1.reward_models.cards import Card
from sync_r1.reward_models.inputs.encoders import ImageEncoder, PairEncoder, TextEncoder
from sync_r1.reward_models.rewards.base import ItemReward
from sync_r1.reward_models.rewards.fields import finite_score, missing_field
from sync_r1.reward_models.runner import GraphRunner, RunContext
from sync_r1.reward_models.types import Outcome, Picture, Sample

FORMULA_VERSION = "1"
REQUIRED_FIELDS = ("image", "prompt")


@dataclass(frozen=True)
class ImageTextPreference(ItemReward):
    """value = image embedding · text embedding.

    HPSv2.1's embeddings have length 1, so it is their cosine; PickScore's text embedding is exp(logit scale) / 26 long.
    """

    card: Card
    image_encoder: ImageEncoder
    text_encoder: TextEncoder

    @property
    def graphs(self) -> tuple[str, ...]:
        """Both towers."""
        return (self.image_encoder.graph.name, self.text_encoder.graph.name)

    async def score_batch(self, samples: Sequence[Sample], runner: GraphRunner, context: RunContext) -> list[Outcome]:
        """See `Reward.score`. Each distinct picture and each distinct prompt is embedded once."""
        failures = [missing_field(sample, REQUIRED_FIELDS) for sample in samples]
        pairs = _pairs(samples, failures)
        images, texts = await asyncio.gather(
            self.image_encoder.run((picture for picture, _ in pairs), runner, context),
            self.text_encoder.run((text for _, text in pairs), runner, context),
        )

        def value(picture: Picture, text: str) -> float:
            a_D, b_D = images[picture.sha256]["embedding"], texts[text]["embedding"]
            with np.errstate(all="ignore"):
                return float(a_D.astype(np.float64) @ b_D.astype(np.float64))

        scored = iter(finite_score(value(*pair), {}, self.graphs) for pair in pairs)
        return [failure or next(scored) for failure in failures]


@dataclass(frozen=True)
class PairPreference(ItemReward):
    """value = the graph's `score` of picture and prompt together."""

    card: Card
    encoder: PairEncoder

    @property
    def graphs(self) -> tuple[str, ...]:
        """The one that reads both."""
        return (self.encoder.graph.name,)

    async def score_batch(self, samples: Sequence[Sample], runner: GraphRunner, context: RunContext) -> list[Outcome]:
        """See `Reward.score`. Each distinct pair is read once."""
        failures = [missing_field(sample, REQUIRED_FIELDS) for sample in samples]
        pairs = _pairs(samples, failures)
        outputs = await self.encoder.run(pairs, runner, context)
        scored = iter(
            finite_score(outputs[picture.sha256, text]["score"].item(), {}, self.graphs) for picture, text in pairs
        )
        return [failure or next(scored) for failure in failures]


def _pairs(samples: Sequence[Sample], failures: Sequence[Outcome | None]) -> list[tuple[Picture, str]]:
    """Picture and prompt of the samples that did not fail, in order."""
    return [
        (sample.image, sample.prompt)
        for sample, failure in zip(samples, failures)
        if failure is None and sample.image is not None
    ]
