"""Text faithfulness, variant `ocr`: is the text that the prompt asks for written in the picture?

As Flow-GRPO (arXiv 2505.05470, `flow_grpo/ocr.py`) defines it, with RapidOCR in place of PaddleOCR.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from sync_r1.reward_models.cards import Card
from sync_r1.reward_models.inputs.encoders import Outputs
from sync_r1.reward_models.inputs.whole_pictures import WholePictures
from sync_r1.reward_models.rewards.base import ItemReward
from sync_r1.reward_models.rewards.fields import finite_score, missing_field
from sync_r1.reward_models.runner import GraphRunner, RunContext
from sync_r1.reward_models.threads import in_thread, in_time
from sync_r1.reward_models.types import Failure, FailureCode, NotApplicable, Outcome, Sample

FORMULA_VERSION = "1"
REQUIRED_FIELDS = ("image", "prompt")
LONGEST_WANTED = 512
"""Characters; comparing takes time with the square of it, and no picture of this size shows more."""
NOTHING_QUOTED = 'the prompt asks for no text: what is to be written must stand in "double quotes"'


@dataclass(frozen=True)
class RenderedText(ItemReward):
    """value = 1 - min(edit distance, wanted length) / wanted length; 1 if the wanted text is part of what is read.

    Both texts in lower case and without spaces. The wanted text is what the prompt quotes first. Components:
    `edit_distance` (at most `wanted_length`), `wanted_length`, `read_length` (characters), and `confidence`, the
    reader's own, in [0, 1].
    """

    card: Card
    pictures: WholePictures

    @property
    def graphs(self) -> tuple[str, ...]:
        """The reader."""
        return (self.pictures.graph.name,)

    async def score_batch(self, samples: Sequence[Sample], runner: GraphRunner, context: RunContext) -> list[Outcome]:
        """See `Reward.score`. Each distinct picture is read once."""
        early = [missing_field(sample, REQUIRED_FIELDS) or _refused(sample) for sample in samples]
        images = [sample.image for sample, done in zip(samples, early) if done is None and sample.image is not None]
        outputs = await self.pictures.run(images, runner, context) if images else {}
        pairs = in_time(zip(samples, early), context.deadline_s)
        return await in_thread(
            context.deadline_s, lambda: [done or self._score(sample, outputs) for sample, done in pairs]
        )

    def _score(self, sample: Sample, outputs: dict[str, Outputs]) -> Outcome:
        assert sample.image is not None  # checked by missing_field
        output = outputs[sample.image.sha256]
        wanted, read = normalised(quoted(sample.prompt)), normalised(text_of(output))
        if wanted in read:
            distance = 0
        elif len(read) >= 2 * len(wanted):  # as many insertions as that already
            distance = len(wanted)
        else:
            distance = min(edit_distance(read, wanted), len(wanted))
        components = {
            "edit_distance": float(distance),
            "wanted_length": float(len(wanted)),
            "read_length": float(len(read)),
            "confidence": output["confidence"].item(),
        }
        return finite_score(1 - distance / len(wanted), components, self.graphs)


def quoted(prompt: str) -> str:
    """What the prompt quotes first, in straight or curly double quotes; empty if nothing."""
    found = re.search(r'"([^"]*)"|“([^”]*)”', prompt)
    return (found[1] or found[2] or "") if found else ""


def normalised(text: str) -> str:
    """Lower case, without any white space."""
    return "".join(text.lower().split())


def text_of(output: Outputs) -> str:
    """The text of one picture: bytes of UTF-8 (L,), zeros after its end."""
    return output["text"].tobytes().rstrip(b"\0").decode()


def edit_distance(a: str, b: str) -> int:
    """Insertions, deletions and substitutions of characters that make `b` of `a` (Levenshtein, 1966)."""
    row = list(range(len(b) + 1))
    for i, left in enumerate(a, start=1):
        diagonal, row[0] = row[0], i
        for j, right in enumerate(b, start=1):
            diagonal, row[j] = row[j], min(row[j] + 1, row[j - 1] + 1, diagonal + (left != right))
    return row[-1]


def _refused(sample: Sample) -> NotApplicable | Failure | None:
    wanted = normalised(quoted(sample.prompt))
    if len(wanted) > LONGEST_WANTED:
        message = f"`prompt` quotes {len(wanted)} characters to be written, the limit is {LONGEST_WANTED}"
        return Failure(FailureCode.BAD_TEXT, message, "prompt")
    return None if wanted else NotApplicable(NOTHING_QUOTED)
