"""Text faithfulness, by asking: does a model that answers questions about pictures see what the picture should show?

T2I-R1 (arXiv 2505.00703) asks GIT "{noun with its attributes}?" for each noun of the prompt and averages
P(yes) / (P(yes) + P(no)), the probabilities of the answer's first word.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from sync_r1.reward_models.cards import Card
from sync_r1.reward_models.inputs.encoders import Outputs, PairEncoder
from sync_r1.reward_models.rewards.base import ItemReward
from sync_r1.reward_models.rewards.fields import finite_score, missing_field
from sync_r1.reward_models.runner import GraphRunner, RunContext
from sync_r1.reward_models.types import NotApplicable, Outcome, Sample

FORMULA_VERSION = "1"
REQUIRED_FIELDS = ("image",)
_NO_NOUNS = NotApplicable("`nouns` is empty, so there is nothing to ask about; send what the picture should show")


@dataclass(frozen=True)
class YesProbability(ItemReward):
    """value = mean over the sample's nouns of P(yes) / (P(yes) + P(no)); a sample without nouns is not applicable.

    Components: `noun_0`, `noun_1`, … in the order of `nouns`.
    """

    card: Card
    encoder: PairEncoder

    @property
    def graphs(self) -> tuple[str, ...]:
        """The one that answers."""
        return (self.encoder.graph.name,)

    @property
    def optional_fields(self) -> tuple[str, ...]:
        """Without `nouns` the variant does not apply to an item."""
        return ("nouns",)

    async def score_batch(self, samples: Sequence[Sample], runner: GraphRunner, context: RunContext) -> list[Outcome]:
        """See `Reward.score`. Each distinct question about each distinct picture is asked once."""
        early = [
            missing_field(sample, REQUIRED_FIELDS) or (None if _nouns(sample) else _NO_NOUNS) for sample in samples
        ]
        pairs = [
            (sample.image, _question(noun))
            for sample, outcome in zip(samples, early)
            if outcome is None and sample.image is not None
            for noun in _nouns(sample)
        ]
        answers = await self.encoder.run(pairs, runner, context)
        return [outcome or self._score(sample, answers) for sample, outcome in zip(samples, early)]

    def _score(self, sample: Sample, answers: dict[tuple[str, str], Outputs]) -> Outcome:
        assert sample.image is not None  # checked by missing_field
        likely = [_yes(answers[sample.image.sha256, _question(noun)]) for noun in _nouns(sample)]
        components = {f"noun_{number}": value for number, value in enumerate(likely)}
        return finite_score(float(np.mean(likely)), components, self.graphs)


def _nouns(sample: Sample) -> list[str]:
    return [noun.strip() for noun in sample.nouns if noun.strip()]


def _question(noun: str) -> str:
    return f"{noun}?"


def _yes(outputs: Outputs) -> float:
    """P(yes) / (P(yes) + P(no)): the sigmoid of the difference of their logits."""
    yes, no = outputs["logits"].astype(float).tolist()
    difference = yes - no
    return 0.5 + 0.5 * math.tanh(difference / 2) if math.isfinite(difference) else math.nan
