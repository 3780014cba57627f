"""Labelled answers on which the understanding rewards are measured: right paraphrases and wrong answers.

Three sets: `semantic_pairs.json`, written by hand (the constants of `semantic` were chosen on it); the facts of the
pocket domain in several wordings; and the questions of a folder in the UnifyBench layout with each other's answers.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from sync_r1.reward_models.answers.statements import read
from sync_r1.reward_models.answers.text_metrics import words


@dataclass(frozen=True)
class LabelledAnswer:
    """An answer to a question, the reference it is compared with, and whether it is right."""

    question: str
    reference: str
    answer: str
    right: bool
    choices: tuple[str, ...] = ()
    """The items to select from; `reference` is one of them."""


def written_pairs() -> list[LabelledAnswer]:
    """The hand-written set."""
    entries = json.loads(Path(__file__).with_name("semantic_pairs.json").read_text())
    return [
        LabelledAnswer(entry["question"], entry["reference"], answer, label == "right")
        for entry in entries
        for label in ("right", "wrong")
        for answer in entry[label]
    ]


_COLOURS = ("red", "green", "blue", "yellow", "orange", "purple", "pink", "brown")
_PLACES = ("at the beach", "in the forest", "in the snow", "in the city", "in the room")
_THINGS = ("ball", "star", "flower", "box")


def pocket_pairs(count: int = 60, seed: int = 0) -> list[LabelledAnswer]:
    """Facts as PocketBench words them; wrong ones change colour, thing or place, negate, or tell another."""
    rng = np.random.default_rng(seed)
    made: list[LabelledAnswer] = []
    for number in range(count):
        colour, other = (str(c) for c in rng.choice(_COLOURS, 2, replace=False))
        thing, another = (str(t) for t in rng.choice(_THINGS, 2, replace=False))
        place, elsewhere = (str(p) for p in rng.choice(_PLACES, 2, replace=False))
        where = place.split(" ", 1)[1]
        question, reference, right, wrong = (
            (
                "<bo> wearing its hat ?",
                f"<bo> 's hat is {colour} .",
                (f"<bo> 's hat is {colour} .", f"<bo> has a {colour} hat .", f"its hat is {colour} ."),
                (
                    f"<bo> 's hat is {other} .",
                    f"<bo> 's scarf is {colour} .",
                    f"<bo> 's hat is not {colour} .",
                    "yes .",
                ),
            ),
            (
                "where is <bo> ?",
                f"<bo> lives {place} .",
                (f"{place} .", f"it lives {place} .", f"<bo> 's home is {where} ."),
                (
                    f"<bo> lives {elsewhere} .",
                    f"{elsewhere} .",
                    f"<bo> 's hat is {colour} .",
                    f"<bo> never lives {place} .",
                ),
            ),
            (
                "<bo> with its toy ?",
                f"<bo> 's toy is a {colour} {thing} .",
                (f"a {colour} {thing} .", f"<bo> has a {colour} {thing} .", f"the toy of <bo> is a {colour} {thing} ."),
                (
                    f"<bo> 's toy is a {other} {thing} .",
                    f"<bo> 's toy is a {colour} {another} .",
                    f"a {other} {another} .",
                    f"<bo> 's toy is two {colour} {thing}s .",
                ),
            ),
        )[number % 3]
        made += [LabelledAnswer(question, reference, answer, True) for answer in right]
        made += [LabelledAnswer(question, reference, answer, False) for answer in wrong]
    return made


def photo_pairs(folder: Path) -> list[LabelledAnswer]:
    """Each subject's questions: its own answer, bare and as a sentence, against the other questions' answers.

    An answer that shares a content word or a fact with the right one is left out of the wrong ones, so the labels hold.
    """
    asked = {
        (entry["query"], entry["answer"])
        for file in sorted((folder / "concept" / "train").glob("*/conversations.json"))
        for entry in json.loads(file.read_text())["text_only"]
    }
    made: list[LabelledAnswer] = []
    for query, answer in sorted(asked):
        bare = answer.rstrip(".")
        made += [LabelledAnswer(query, answer, text, True) for text in (answer, f"It is {bare.lower()}.", bare.lower())]
        made += [
            LabelledAnswer(query, answer, other, False)
            for _, other in sorted(asked)
            if not (set(words(other)) - {"a"}) & set(words(answer))
            and not set(read(other).main.colours) & set(read(answer).main.colours)
        ]
    return made


def selection_pairs(count: int = 40, seed: int = 1) -> list[LabelledAnswer]:
    """Task r: six facts, and answers that tell the right one (with and without its name), another one, or nothing."""
    rng = np.random.default_rng(seed)
    made: list[LabelledAnswer] = []
    for _ in range(count):
        colours = [str(colour) for colour in rng.choice(_COLOURS, 4, replace=False)]
        place, home = (str(place) for place in rng.choice(_PLACES, 2, replace=False))
        toy, charm = (str(thing) for thing in rng.choice(_THINGS, 2, replace=False))
        items = (
            f"<bo> 's hat is {colours[0]} .",
            f"<bo> 's scarf is {colours[1]} .",
            f"<bo> 's favourite place is {place.split(' ', 1)[1]} .",
            f"<bo> lives {home} .",
            f"<bo> 's toy is a {colours[2]} {toy} .",
            f"<bo> 's charm is a {colours[3]} {charm} .",
        )
        target, other = (int(number) for number in rng.choice(len(items), 2, replace=False))
        right, wrong = items[target], items[other]
        made += [LabelledAnswer("", right, text, True, items) for text in (right, right.replace("<bo>", "it"))]
        made += [
            LabelledAnswer("", right, text, False, items) for text in (wrong, wrong.replace("<bo>", "it"), "<bo> .")
        ]
    return made


def yes_no_pairs() -> list[LabelledAnswer]:
    """Recognition: both answers in three wordings, for a right "Yes." and a right "No."."""
    said = {"Yes.": ("yes", "Yes, it is.", "I think yes ."), "No.": ("no", "No, it is not.", "I think no .")}
    return [
        LabelledAnswer("Is <bo> in the picture?", reference, answer, reference == meaning)
        for reference in said
        for meaning, answers in said.items()
        for answer in answers
    ]


def choice_pairs() -> list[LabelledAnswer]:
    """Multiple choice: every letter A to D in the wordings that models use, against every right letter."""
    wordings = ("{}", "{}.", "({})", "{}) a cat", "The answer is {}.", "Answer: {}")
    return [
        LabelledAnswer("Which is it?", right, wording.format(letter), right == letter)
        for right in "ABCD"
        for letter in "ABCD"
        for wording in wordings
    ]
