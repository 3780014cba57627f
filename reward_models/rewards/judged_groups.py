"""Pictures of a group judged side by side: one question with all of them.

An answer that does not fit is a failure of the whole group, as in `judged.py`, whose variants ask about items.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from sync_r1.reward_models.cards import Card
from sync_r1.reward_models.graphs.judges import AS_PNG, files, texts
from sync_r1.reward_models.graphs.spec import GraphSpec
from sync_r1.reward_models.inputs.preparation import Preparation
from sync_r1.reward_models.rewards.base import ItemReward
from sync_r1.reward_models.rewards.fields import missing_field
from sync_r1.reward_models.rewards.judge_forms import COUNT, JudgeForm, filled
from sync_r1.reward_models.rewards.judged import answer_of, unparsable
from sync_r1.reward_models.runner import GraphRunner, RunContext, Tensors
from sync_r1.reward_models.threads import in_thread, in_time
from sync_r1.reward_models.types import Failure, FailureCode, Outcome, Picture, Sample

FORMULA_VERSION = "1"


@dataclass(frozen=True)
class JudgedGroup(ItemReward):
    """Groupwise: all pictures of a group in one question, with a reference where the form shows one.

    The reference is the group's first one; a sample without a group is a group of its own. Pictures go in the order of
    their digests, so the order of the samples changes nothing.
    """

    card: Card
    judge: GraphSpec
    form: JudgeForm
    max_group: int

    @property
    def graphs(self) -> tuple[str, ...]:
        """The judge."""
        return (self.judge.name,)

    @property
    def preparations(self) -> tuple[Preparation, ...]:
        """Judges see files."""
        return (AS_PNG,)

    @property
    def optional_fields(self) -> tuple[str, ...]:
        """Items of one `group` are judged together."""
        return ("group",)

    async def score_batch(self, samples: Sequence[Sample], runner: GraphRunner, context: RunContext) -> list[Outcome]:
        """See `Reward.score`. One question per group; pictures that a group holds twice are sent once."""
        outcomes: dict[int, Outcome] = {}
        groups: dict[tuple[str, int], list[int]] = {}
        for number, sample in enumerate(samples):
            failure = missing_field(sample, self.form.required)
            if failure is not None:
                outcomes[number] = failure
            else:
                groups.setdefault((sample.group, -1 if sample.group else number), []).append(number)
        tasks = [
            asyncio.ensure_future(self._score_group([samples[number] for number in members], runner, context))
            for members in groups.values()
        ]
        try:
            scored = await asyncio.gather(*tasks)
        finally:
            for task in tasks:
                task.cancel()
        for members, found in zip(groups.values(), scored):
            outcomes |= dict(zip(members, found))
        return [outcomes[number] for number in range(len(samples))]

    async def _score_group(
        self, samples: Sequence[Sample], runner: GraphRunner, context: RunContext
    ) -> Sequence[Outcome]:
        refused = self._refused(samples)
        if refused is not None:
            return [refused] * len(samples)
        pictures = {sample.image.sha256: sample.image for sample in samples if sample.image is not None}
        order = sorted(pictures)
        shown: list[Picture] = []
        for part in self.form.shows:
            shown += [pictures[digest] for digest in order] if part == "group" else samples[0].concept.references[:1]
        in_turn = in_time(shown, context.deadline_s)
        encoded = await in_thread(context.deadline_s, lambda: [picture.prepared(AS_PNG) for picture in in_turn])
        text = filled(str(self.form.asks), {COUNT: str(len(order))})
        result = await runner.run(context, self.judge.name, {"text": texts([text]), "pictures": files([encoded])})
        marks = self._marks(result.outputs, len(order), context)
        if isinstance(marks, Failure):
            return [marks] * len(samples)
        by_digest = {digest: marks[number] for number, digest in enumerate(order, start=1)}
        return [self.form.worth(by_digest[sample.image.sha256]) for sample in samples if sample.image is not None]

    def _refused(self, samples: Sequence[Sample]) -> Failure | None:
        if len(samples) > self.max_group:
            message = (
                f"group {samples[0].group!r} has {len(samples)} pictures, and this judge compares at most "
                f"{self.max_group} at once (max_group); use smaller groups"
            )
            return Failure(FailureCode.BAD_TEXT, message, "group")
        references = {shown.sha256 for sample in samples for shown in sample.concept.references[:1]}
        if len(references) > 1 and "reference" in self.form.shows:
            message = (
                f"group {samples[0].group!r} has {len(references)} different first references; "
                "pictures are compared with one, so a group must be of one concept"
            )
            return Failure(FailureCode.BAD_REFERENCE, message, "concept.references[0]")
        return None

    def _marks(self, outputs: Tensors, count: int, context: RunContext) -> dict[int, dict[str, Any]] | Failure:
        answer = answer_of(outputs, 0)
        if isinstance(answer, Failure):
            return answer
        try:
            return self.form.read_group(answer, count)
        except ValueError as error:
            return unparsable(self.judge.name, context, error, answer)
