"""The explicit reasoning loop of Sync-R1 as data: what is asked, which sentence is kept, what is drawn from, what is
scored.

    Task ──question──▶ answer ──extract_sentence──▶ sentence ──generation_prompt──▶ picture ──sample──▶ the rewards

Task u asks about a training picture; task r shows no picture, lists the concept's facts and names a condition such as
"<bo> wearing its hat", and the answer must be exactly the fact it refers to.

Which text? The policy draws from its *own* sentence, but text faithfulness and the gate score the picture against the
condition's ground truth (`reward_text`), in which the policy's words never occur: otherwise "say something easy, draw
it" would win.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Literal

import numpy as np
import numpy.typing as npt

from sync_r1.reward_models.types import Concept, Picture, Sample
from sync_r1.trainer_client.sdk.pictures import picture, read_pixels
from sync_r1.trainer_client.tasks.pocketbench import generation_prompt, reasoning_question
from sync_r1.trainer_client.tasks.unifybench import BenchConcept, Condition, Turn, UnifyBench

MAX_SENTENCE_WORDS = 20
MAX_REFERENCES = 4
"""Reference pictures sent per concept; further ones change the mean cosine little and cost a forward pass each."""
TRUE_SENTENCE = "true sentence: "
"""Before the names of figures of pictures that were drawn from the right sentence instead of the policy's answer."""


@dataclass(frozen=True)
class Task:
    """What one group shares: a question with its reference answer, and a condition to draw the concept in."""

    kind: Literal["u", "r"]
    concept: BenchConcept
    condition: Condition
    question: str
    reference_answer: str
    picture: Path | None = None
    """Task u: the picture asked about."""
    choices: tuple[str, ...] = ()
    """Task r: the facts in the order in which the question lists them."""

    @property
    def key(self) -> str:
        """Names what is drawn, the same in every batch: a prompt's running threshold is kept under it."""
        return f"{self.concept.name}/{self.condition.text}"

    @property
    def target(self) -> int | None:
        """Index in `choices` of the right answer."""
        return self.choices.index(self.reference_answer) if self.choices else None


def recall_task(concept: BenchConcept, condition: Condition, rng: np.random.Generator) -> Task:
    """Task r. Raises ValueError if the condition refers to no fact."""
    if condition.fact is None:
        raise ValueError(f"task r needs a condition that refers to a fact, but {condition.text!r} refers to none")
    facts = tuple(concept.extra_info[index] for index in rng.permutation(len(concept.extra_info)))
    question = reasoning_question(facts, condition.text)
    return Task("r", concept, condition, question, concept.extra_info[condition.fact], choices=facts)


def picture_task(concept: BenchConcept, picture: Path, turn: Turn, condition: Condition) -> Task:
    """Task u: a question about a picture, then the concept is drawn under `condition`."""
    return Task("u", concept, condition, turn.question, turn.answer, picture)


def prompts(bench: UnifyBench, kind: Literal["u", "r"]) -> list[tuple[BenchConcept, Condition]]:
    """All (concept, training condition) pairs that a task of `kind` can be made of; never one that is held out."""
    return [
        (concept, condition)
        for concept in bench.concepts
        for condition in concept.train_conditions
        if (condition.fact is not None if kind == "r" else _pictures_showing(concept, condition))
    ]


def make_task(concept: BenchConcept, condition: Condition, kind: Literal["u", "r"], rng: np.random.Generator) -> Task:
    """A task for one of `prompts`; the order of facts (r), or picture and question (u), are random."""
    if kind == "r":
        return recall_task(concept, condition, rng)
    paths = _pictures_showing(concept, condition)
    path = paths[int(rng.integers(len(paths)))]
    turns = concept.conversations[path.name]
    return picture_task(concept, path, turns[int(rng.integers(len(turns)))], condition)


def _pictures_showing(concept: BenchConcept, condition: Condition) -> list[Path]:
    """Training pictures with questions; where the benchmark says what they show, only those that show the fact."""
    return [
        path
        for path in concept.train_images
        if path.name in concept.conversations
        and (not concept.shown_facts or condition.fact in concept.shown_facts[path.name])
    ]


def extract_sentence(answer: str) -> str:
    """The first sentence of an answer, at most 20 words of it; "" if there is none."""
    match = re.match(r"\s*(.+?(?:[.!?](?=\s|$)|$))", answer, flags=re.DOTALL)
    return " ".join(match.group(1).split()[:MAX_SENTENCE_WORDS]) if match else ""


def prompt_of(task: Task, answer: str) -> str:
    """What the picture is drawn from: condition, look, and the sentence extracted from the policy's own answer."""
    return generation_prompt(task.condition.text, task.concept.info, extract_sentence(answer))


def reward_text(task: Task) -> str:
    """The ground truth that the picture is scored against, without the concept's name; independent of any answer.

    Where the benchmark describes its facts (PocketBench, or after `sync-r1 densify`) that description. Otherwise
    condition, `info` and the fact the condition refers to. The name is replaced by the class noun, because no encoder
    knows what <bo> is.
    """
    concept, fact = task.concept, task.condition.fact
    if concept.descriptions and fact is not None:
        return concept.descriptions[fact]
    if concept.dense_descriptions and fact is not None:
        return concept.dense_descriptions[fact].replace(concept.token, f"the {concept.class_noun}")
    known = [task.condition.text, concept.info] + ([concept.extra_info[fact]] if fact is not None else [])
    text = " ".join(sentence if sentence.rstrip().endswith((".", "!", "?")) else f"{sentence}." for sentence in known)
    return text.replace(concept.token, f"the {concept.class_noun}")


def reward_nouns(task: Task) -> tuple[str, ...]:
    """The noun phrases of `reward_text`, where the benchmark says them for the fact that the condition refers to.

    () elsewhere: the class noun alone would give every condition the same mean, which no longer asks for the condition.
    """
    fact = task.condition.fact
    return task.concept.nouns[fact] if task.concept.nouns and fact is not None else ()


def sample(task: Task, *, identifier: str, group: str, pixels: npt.NDArray[np.uint8] | None, answer: str) -> Sample:
    """What the services are sent for one finished trajectory; `pixels` None where no picture was drawn."""
    return Sample(
        id=identifier,
        group=group,
        image=None if pixels is None else picture(pixels),
        prompt=reward_text(task),
        concept=reward_concept(task.concept),
        question=task.question,
        answer=answer,
        reference_answers=(task.reference_answer,),
        choices=task.choices,
        target=task.target,
        nouns=reward_nouns(task),
    )


def gate_sample(task: Task, *, identifier: str, group: str, pixels: npt.NDArray[np.uint8]) -> Sample:
    """What the gate's services are sent for a preview: no answer in any form."""
    return Sample(
        id=identifier,
        group=group,
        image=picture(pixels),
        prompt=reward_text(task),
        concept=reward_concept(task.concept),
        nouns=reward_nouns(task),
    )


@lru_cache(maxsize=4096)
def load_pixels(path: Path) -> npt.NDArray[np.uint8]:
    """A benchmark picture as uint8 (H, W, 3) RGB, kept in memory. Raises ImageError naming the file."""
    return read_pixels(path)


@lru_cache(maxsize=1024)
def _references(paths: Sequence[Path]) -> tuple[Picture, ...]:
    return tuple(picture(load_pixels(path)) for path in paths)


def reward_concept(concept: BenchConcept) -> Concept:
    """The concept as services know it, with its first reference pictures."""
    return Concept(
        name=concept.token,
        class_noun=concept.class_noun,
        references=_references(concept.train_images[:MAX_REFERENCES]),
        info=concept.info,
        extra_info=concept.extra_info,
        conversation_type=concept.conversation_type,
    )
