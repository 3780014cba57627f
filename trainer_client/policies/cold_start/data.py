"""What the policy learns before any reinforcement: texts to draw, questions about pictures, and facts to find.

Where you are: `train_policy.py` trains on the rows made here. Four kinds (t2i = drawing, mmu = answering):
named concepts alone, in the exact prompt format of reinforcement learning; figures without a name of their own
(`<sks>`) with a fact in the same format, so that looks and facts are read from the text; captions of scenes; and
answers. A named concept is never drawn with any of its facts, so its training and its held-out conditions start equal;
and a picture that has a concept's look together with one of its held-out facts never appears, whatever its text.

The teacher is noisy, as data from the web is: a picture may show another fact than its text tells, and the fact named
for a condition may be another one of the list. What is right is the most likely, never the only, thing to learn here;
to prefer it is left to the rewards.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np

from sync_r1.reward_models.pocket.world.captions import PLACE_PHRASES
from sync_r1.reward_models.pocket.world.scenes import (
    BACKGROUNDS,
    COLOURS,
    KINDS,
    PATTERNS,
    THINGS,
    Scene,
    dense_caption,
    pick,
    sample_scene,
    short_caption,
)
from sync_r1.trainer_client.tasks.pocketbench import (
    CONCEPTS,
    ROLES,
    Concept,
    generation_prompt,
    reasoning_question,
    visual_questions,
)

GENERIC = "sks"
"""Name of the figure that stands for nobody in particular."""

MAX_CAPTION_WORDS = 32
WRONG_PICTURES = 0.25
"""Share of nameless pictures that show another fact than the text tells."""
WRONG_FINDINGS = 0.4
"""Share of answers that name another fact of the list than the one the condition refers to."""


@dataclass(frozen=True)
class Drawing:
    """A text and the scene to draw; `questions` are (question, answer) pairs about the picture."""

    text: str
    scene: Scene
    questions: list[tuple[str, str]]


def gives_a_held_out_fact_away(scene: Scene) -> bool:
    """Whether `scene` shows a benchmark concept's look together with one of its held-out facts."""
    return any(
        concept.is_seen_in(scene) and any(concept.shows(role, scene) for role in concept.held_out)
        for concept in CONCEPTS
    )


def _other(rng: np.random.Generator, options: tuple[str, ...], *taken: str) -> str:
    return pick(rng, tuple(option for option in options if option not in taken))


def random_concept(rng: np.random.Generator, name: str = GENERIC) -> Concept:
    """A concept with a random look and random facts, held to the same rules as the benchmark's."""
    kind, pattern = pick(rng, KINDS), pick(rng, PATTERNS)
    colour = sample_scene(rng).colour
    hat = _other(rng, COLOURS, colour)
    place = pick(rng, BACKGROUNDS)
    toy = (_other(rng, COLOURS, colour), pick(rng, THINGS))
    charm = (_other(rng, COLOURS, colour), _other(rng, THINGS, toy[1]))
    return Concept(
        name, kind, colour, pattern, hat, _other(rng, COLOURS, colour, hat),
        place, _other(rng, BACKGROUNDS, place), toy, charm, ("", ""),
    )  # fmt: skip


def _in_prompt_format(concept: Concept, roles: tuple[str, ...], rng: np.random.Generator) -> Drawing:
    role = pick(rng, roles) if roles and rng.random() < 0.85 else None
    drawn = concept
    if role is not None and rng.random() < WRONG_PICTURES:
        drawn = replace(
            random_concept(rng, concept.name), kind=concept.kind, colour=concept.colour, pattern=concept.pattern
        )
    scene = drawn.scene(role, rng)
    questions = visual_questions(concept, scene)
    other = CONCEPTS[int(rng.integers(len(CONCEPTS)))]
    questions.append((f"is {other.token} in the picture ?", "yes ." if other.is_seen_in(scene) else "no ."))
    if role is not None:
        return Drawing(generation_prompt(concept.condition(role), concept.info, concept.fact(role)), scene, questions)
    # Alone, and as prompts look after a visual question: the sentence tells something else that is true.
    answers = [answer for _, answer in questions if answer.startswith(concept.token)]
    sentence = answers[int(rng.integers(len(answers)))] if rng.random() < 0.5 else ""
    return Drawing(generation_prompt(concept.token, concept.info, sentence), scene, questions)


def _policy_like(scene: Scene, rng: np.random.Generator) -> Scene:
    kept = int(rng.integers(3))
    things = replace(scene.things, count=1) if scene.things is not None and kept == 1 else None
    return replace(scene, accessory=scene.accessory if kept == 0 else None, things=things)


def drawings(seed: int) -> Iterator[Drawing]:
    """Endless rows for drawing: 25 % named concepts alone, 60 % nameless ones with facts, 15 % captions."""
    rng = np.random.default_rng(seed)
    while True:
        kind = rng.random()
        if kind < 0.25:
            row = _in_prompt_format(CONCEPTS[int(rng.integers(len(CONCEPTS)))], (), rng)
        elif kind < 0.85:
            row = _in_prompt_format(random_concept(rng), ROLES, rng)
        else:
            scene = _policy_like(sample_scene(rng), rng)
            text = short_caption(scene, rng) if rng.random() < 0.5 else dense_caption(scene, rng)
            asked = CONCEPTS[int(rng.integers(len(CONCEPTS)))].token
            row = Drawing(text, scene, [(f"is {asked} in the picture ?", "no .")])
            if len(text.split()) > MAX_CAPTION_WORDS:
                continue
        if not gives_a_held_out_fact_away(row.scene):
            yield row


def findings(seed: int) -> Iterator[tuple[str, str]]:
    """Endless (question, answer) rows of task r: random facts, so that the answer has to be copied, not remembered.

    A benchmark concept is asked for its training roles only and never told its own held-out facts.
    """
    rng = np.random.default_rng(seed)
    while True:
        own = CONCEPTS[int(rng.integers(len(CONCEPTS)))] if rng.random() < 0.7 else None
        concept = random_concept(rng, own.name if own else GENERIC)
        if own is not None:
            if any(concept.fact(role) == own.fact(role) for role in own.held_out):
                continue
            role = pick(rng, own.training)
        else:
            role = pick(rng, ROLES)
        others = [other for other in rng.permutation(np.array(ROLES)).tolist() if other != role]
        told = [role, *others[: int(rng.integers(3, len(ROLES)))]]
        facts = [concept.fact(str(told[i])) for i in rng.permutation(len(told))]
        named = told[int(rng.integers(1, len(told)))] if rng.random() < WRONG_FINDINGS else role
        yield reasoning_question(facts, concept.condition(role)), concept.fact(str(named))


def vocabulary_texts() -> list[str]:
    """Texts that together hold every word the cold start and PocketBench use."""
    texts = [
        " ".join(
            (
                *KINDS,
                *COLOURS,
                *PATTERNS,
                *THINGS,
                *PLACE_PHRASES.values(),
                "the beach the night the room a an one two three",
            )
        )
    ]
    for _, row in zip(range(4000), drawings(0), strict=False):
        texts += [row.text, *(f"{question} {answer}" for question, answer in row.questions)]
    texts += [f"{question} {answer}" for _, (question, answer) in zip(range(2000), findings(0), strict=False)]
    return [" ".join(word for word in text.split() if not word.startswith("<")) for text in texts]
