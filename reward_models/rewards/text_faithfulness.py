"""Text faithfulness: does the picture show what the text says? Cosine between picture and text.

`clip_t` scores the whole prompt (CLIPScore, arXiv 2104.08718, without its factor). `clauses` splits a dense prompt,
because CLIP's text tower ends after 77 tokens and one vector blurs details, and combines the scores of the clauses.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from sync_r1.reward_models.cards import Card
from sync_r1.reward_models.inputs.encoders import ImageEncoder, Outputs, TextEncoder, cosine
from sync_r1.reward_models.rewards.base import ItemReward
from sync_r1.reward_models.rewards.fields import finite_score, missing_field
from sync_r1.reward_models.runner import GraphRunner, RunContext
from sync_r1.reward_models.threads import each_in_turn, in_thread
from sync_r1.reward_models.types import Failure, FailureCode, Outcome, Sample

FORMULA_VERSION = "1"
REQUIRED_FIELDS = ("image", "prompt")
MAX_CLAUSES = 64
"""Of one prompt: each is embedded."""


@dataclass(frozen=True)
class TextFaithfulness(ItemReward):
    """value = cos(image, prompt), or with `split` the mean of the clauses' mean and their minimum.

    Components with `split`: `clause_mean`, `clause_min` and `clause_0`, `clause_1`, … in the order of the prompt.
    """

    card: Card
    image_encoder: ImageEncoder
    text_encoder: TextEncoder
    split: bool = False

    @property
    def graphs(self) -> tuple[str, ...]:
        """Both towers."""
        return (self.image_encoder.graph.name, self.text_encoder.graph.name)

    async def score_batch(self, samples: Sequence[Sample], runner: GraphRunner, context: RunContext) -> list[Outcome]:
        """See `Reward.score`. Each distinct picture and each distinct clause is embedded once."""

        def split(sample: Sample) -> tuple[list[str], Failure | None]:
            texts = clauses_of(sample.prompt) if self.split else [sample.prompt]
            return texts, self._failure(sample, texts)

        found = await in_thread(context.deadline_s, lambda: each_in_turn(split, samples, context.deadline_s))
        clauses, failures = [texts for texts, _ in found], [failure for _, failure in found]
        usable = [number for number, failure in enumerate(failures) if failure is None]
        images, texts = await asyncio.gather(
            self.image_encoder.run(
                (picture for number in usable if (picture := samples[number].image) is not None), runner, context
            ),
            self.text_encoder.run((text for number in usable for text in clauses[number]), runner, context),
        )
        return await in_thread(
            context.deadline_s,
            lambda: [
                failure or self._score(sample, clause, images, texts)
                for sample, clause, failure in zip(samples, clauses, failures)
            ],
        )

    def _failure(self, sample: Sample, texts: Sequence[str]) -> Failure | None:
        missing = missing_field(sample, REQUIRED_FIELDS)
        if missing is not None:
            return missing
        if len(texts) > MAX_CLAUSES:
            message = f"`prompt` has {len(texts)} clauses, the limit is {MAX_CLAUSES}; shorten it, or join some"
            return Failure(FailureCode.BAD_TEXT, message, "prompt")
        for text in texts:
            refusal = self.text_encoder.refusal(text)
            if refusal:
                return Failure(FailureCode.BAD_TEXT, f"`prompt` cannot be scored: {refusal}", "prompt")
        return None

    def _score(
        self, sample: Sample, clauses: Sequence[str], images: dict[str, Outputs], texts: dict[str, Outputs]
    ) -> Outcome:
        assert sample.image is not None  # checked by missing_field
        image_D = images[sample.image.sha256]["embedding"]
        cosines_C = [cosine(image_D, texts[clause]["embedding"]) for clause in clauses]
        if not self.split:
            return finite_score(cosines_C[0], {}, self.graphs)
        mean, least = float(np.mean(cosines_C)), float(np.min(cosines_C))
        components = {"clause_mean": mean, "clause_min": least}
        components |= {f"clause_{number}": value for number, value in enumerate(cosines_C)}
        return finite_score((mean + least) / 2, components, self.graphs)


def clauses_of(prompt: str) -> list[str]:
    """Split a dense prompt at sentence ends, semicolons and commas; pieces of one word join their neighbour.

    A prompt without any of these is one clause. Commas inside numbers ("20,000") do not split. Each piece is read once.
    """
    clauses: list[list[str]] = []
    lengths: list[int] = []
    for piece in re.split(r"(?<=[.!?])\s+|;|,(?!\d)|\n", prompt):
        clause = piece.strip(" .!?")
        if not re.search(r"\w", clause):
            continue
        length = len(clause.split())
        if clauses and 1 in (length, lengths[-1]):
            clauses[-1].append(clause)
            lengths[-1] += length
        else:
            clauses.append([clause])
            lengths.append(length)
    return [", ".join(pieces) for pieces in clauses] or [prompt]
