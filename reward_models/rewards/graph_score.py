"""What a graph gives as score: the operator's own network, from a picture, a text or both to a number."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from sync_r1.reward_models.cards import Card
from sync_r1.reward_models.inputs.encoders import ImageEncoder, Outputs, PairEncoder, TextEncoder
from sync_r1.reward_models.rewards.base import ItemReward
from sync_r1.reward_models.rewards.fields import finite_score, missing_field
from sync_r1.reward_models.runner import GraphRunner, RunContext
from sync_r1.reward_models.threads import in_thread, in_time
from sync_r1.reward_models.types import Failure, FailureCode, Outcome, Sample

FORMULA_VERSION = "1"


@dataclass(frozen=True)
class GraphScore(ItemReward):
    """value = one output of the graph, components = others of its outputs, all as they are."""

    card: Card
    encoder: ImageEncoder | TextEncoder | PairEncoder
    reader: TextEncoder | None
    """Reads the text; None where the graph takes a picture alone."""
    text: str
    """The field of the sample that is read."""
    output: str
    components: tuple[str, ...]

    @property
    def graphs(self) -> tuple[str, ...]:
        """The one."""
        return (self.encoder.graph.name,)

    async def score_batch(self, samples: Sequence[Sample], runner: GraphRunner, context: RunContext) -> list[Outcome]:
        """See `Reward.score`. Equal pictures, texts or pairs are run once."""
        in_turn = in_time(samples, context.deadline_s)
        failures = await in_thread(context.deadline_s, lambda: [self._failure(sample) for sample in in_turn])
        usable = [sample for sample, failure in zip(samples, failures) if failure is None]
        scored = iter([self._score(outputs) for outputs in await self._outputs(usable, runner, context)])
        return [failure or next(scored) for failure in failures]

    def _failure(self, sample: Sample) -> Failure | None:
        missing = missing_field(sample, self.card.required_fields)
        if missing is None and self.reader is not None and (refusal := self.reader.refusal(self._read(sample))):
            return Failure(FailureCode.BAD_TEXT, f"`{self.text}` cannot be scored: {refusal}", self.text)
        return missing

    async def _outputs(self, samples: Sequence[Sample], runner: GraphRunner, context: RunContext) -> list[Outputs]:
        """The graph's outputs for each sample."""
        texts = [self._read(sample) for sample in samples]
        pictures = [sample.image for sample in samples if sample.image is not None]
        if isinstance(self.encoder, TextEncoder):
            by_text = await self.encoder.run(texts, runner, context)
            return [by_text[text] for text in texts]
        if isinstance(self.encoder, ImageEncoder):
            by_digest = await self.encoder.run(pictures, runner, context)
            return [by_digest[picture.sha256] for picture in pictures]
        by_pair = await self.encoder.run(zip(pictures, texts), runner, context)
        return [by_pair[picture.sha256, text] for picture, text in zip(pictures, texts)]

    def _read(self, sample: Sample) -> str:
        return str(getattr(sample, self.text) or "")

    def _score(self, outputs: Outputs) -> Outcome:
        components = {name: float(outputs[name].item()) for name in self.components}
        return finite_score(float(outputs[self.output].item()), components, self.graphs)
