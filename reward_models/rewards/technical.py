"""Aesthetic, variant `technical`: is the picture distorted? BRISQUE (Mittal et al., 2012); not preference."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from sync_r1.reward_models.cards import Card
from sync_r1.reward_models.inputs.whole_pictures import WholePictures
from sync_r1.reward_models.rewards.base import ItemReward
from sync_r1.reward_models.rewards.fields import finite_score, missing_field
from sync_r1.reward_models.runner import GraphRunner, RunContext
from sync_r1.reward_models.types import Outcome, Sample

FORMULA_VERSION = "1"
REQUIRED_FIELDS = ("image",)


@dataclass(frozen=True)
class TechnicalQuality(ItemReward):
    """value = 1 - b / 100, where b is BRISQUE clipped to [0, 100]; component `brisque` is b before clipping.

    BRISQUE has no value for a picture without texture (one colour) or of a few pixels: that is a failure.
    """

    card: Card
    pictures: WholePictures

    @property
    def graphs(self) -> tuple[str, ...]:
        """BRISQUE's."""
        return (self.pictures.graph.name,)

    async def score_batch(self, samples: Sequence[Sample], runner: GraphRunner, context: RunContext) -> list[Outcome]:
        """See `Reward.score`. Each distinct picture is measured once."""
        failures = [missing_field(sample, REQUIRED_FIELDS) for sample in samples]
        images = [sample.image for sample in samples if sample.image is not None]
        outputs = await self.pictures.run(images, runner, context)
        outcomes: list[Outcome] = []
        for sample, failure in zip(samples, failures):
            if sample.image is None or failure is not None:
                assert failure is not None  # missing_field says so
                outcomes.append(failure)
                continue
            brisque = outputs[sample.image.sha256]["score"].item()
            value = 1 - float(np.clip(brisque, 0, 100)) / 100  # NaN stays NaN
            outcomes.append(finite_score(value, {"brisque": brisque}, self.graphs))
        return outcomes
