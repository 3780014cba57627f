"""What a benchmark asks: every question to answer and every picture to draw, each with its place in the table.

    load_unifybench ─▶ bench_items ─▶ a policy, or any other system ─▶ Outputs (`outputs.py`) ─▶ `unifybench_metrics.py`

| task | item | answered or drawn |
|---|---|---|
| recognition | "is <bo> in the picture?" about the concept's test pictures, and about others | answer |
| vqa, text_only | the benchmark's held-out questions with and without a picture | answer |
| recall | task r: which of the facts does a held-out condition refer to? | answer |
| knowledge | the concept under each held-out condition, whose fact the drawer must know | pictures |
| dreambooth | the concept under DreamBooth's prompts | pictures |

An item is named by task, concept and index; the same benchmark and seed give the same items.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np

from sync_r1.trainer_client.tasks.dreambooth import LIVE_SUBJECT_PROMPTS, OBJECT_PROMPTS
from sync_r1.trainer_client.tasks.tasks import Task, recall_task, reward_text
from sync_r1.trainer_client.tasks.unifybench import BenchConcept, Turn, UnifyBench

TaskName = Literal["recognition", "vqa", "text_only", "recall", "knowledge", "dreambooth"]
ANSWER_TASKS: tuple[TaskName, ...] = ("recognition", "vqa", "text_only", "recall")
PICTURE_TASKS: tuple[TaskName, ...] = ("knowledge", "dreambooth")
_LIVE = ("human", "person", "animal")
Key = tuple[str, str, int]
"""(task, concept's name, index)."""


@dataclass(frozen=True)
class Item:
    """One question or one thing to draw."""

    task: TaskName
    concept: BenchConcept
    index: int
    prompt: str
    """The question; for a picture what is to be drawn, with the concept's name."""
    reference: str
    """The right answer; for a picture the text that it is scored against, without the concept's name."""
    picture: Path | None = None
    """What the question is about."""
    recall: Task | None = None
    """recall and knowledge: the held-out condition as a task r."""

    @property
    def key(self) -> Key:
        """What an output names the item by."""
        return self.task, self.concept.name, self.index

    def to_json(self) -> dict[str, object]:
        """What another system needs to answer or draw it; never the right answer."""
        values: dict[str, object] = {"task": self.task, "concept": self.concept.name, "index": self.index}
        values["draw" if self.task in PICTURE_TASKS else "question"] = self.prompt
        return values | ({"picture": str(self.picture)} if self.picture else {})


def bench_items(bench: UnifyBench, *, prompts: int, seed: int) -> list[Item]:
    """All items of a benchmark, with the first `prompts` of DreamBooth's; `seed` orders the facts of task r."""
    return [item for concept in bench.concepts for item in _concept_items(bench, concept, prompts, seed)]


def write_items(file: Path, items: list[Item], pictures: int) -> None:
    """One JSON line per item; `pictures` is how many of each picture are wanted."""
    lines = [
        item.to_json() | ({"pictures": pictures} if item.task in PICTURE_TASKS else {}) for item in items
    ]  # fmt: skip
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text("".join(json.dumps(line) + "\n" for line in lines))


def is_live(concept: BenchConcept) -> bool:
    """Whether DreamBooth's prompts for live subjects apply."""
    return concept.conversation_type.lower() in _LIVE


def _concept_items(bench: UnifyBench, concept: BenchConcept, prompts: int, seed: int) -> Iterator[Item]:
    for index, (path, turn) in enumerate(_recognition(bench, concept)):
        yield Item("recognition", concept, index, turn.question, turn.answer, path)
    for index, (path, turn) in enumerate(_visual(concept)):
        yield Item("vqa", concept, index, turn.question, turn.answer, path)
    for index, turn in enumerate(_generated(concept, "text_only") or concept.test_text_only):
        yield Item("text_only", concept, index, turn.question, turn.answer)
    for index, condition in enumerate(concept.held_out_conditions):
        if condition.fact is not None:
            task = recall_task(concept, condition, np.random.default_rng([seed, condition.fact]))
            yield Item("recall", concept, index, task.question, task.reference_answer, recall=task)
            yield Item("knowledge", concept, index, condition.text, reward_text(task), recall=task)
    templates = LIVE_SUBJECT_PROMPTS if is_live(concept) else OBJECT_PROMPTS
    for index, template in enumerate(templates[:prompts]):
        named, unnamed = f"{concept.token} {concept.class_noun}", concept.class_noun
        yield Item("dreambooth", concept, index, template.format(named), template.format(unnamed))


def _recognition(bench: UnifyBench, concept: BenchConcept) -> list[tuple[Path, Turn]]:
    """Generated questions where there are any; else the concept's own test pictures against pictures of others."""
    generated = [(Path(asked.image), Turn(asked.question, asked.answer))
                 for asked in concept.generated if asked.kind == "rec" and asked.image]  # fmt: skip
    if generated:
        return generated
    # Look-alikes in the training folder may have been trained on, so strangers and the other concepts are asked about.
    others = [path for other in bench.concepts if other is not concept for path in other.test_images]
    positive = [(path, turn) for path in concept.test_images for turn in concept.positive_recognitions]
    return positive + [
        (path, turn) for path in (*bench.random_images, *others) for turn in concept.random_recognitions
    ]  # fmt: skip


def _visual(concept: BenchConcept) -> list[tuple[Path, Turn]]:
    generated = [(Path(asked.image), Turn(asked.question, asked.answer))
                 for asked in concept.generated if asked.kind == "vqa" and asked.image]  # fmt: skip
    return generated or [(path, turn) for path in concept.test_images for turn in concept.test_vqa.get(path.name, ())]


def _generated(concept: BenchConcept, kind: str) -> list[Turn]:
    return [Turn(asked.question, asked.answer) for asked in concept.generated if asked.kind == kind]
