"""Families of wordings: negations, replies to yes/no questions, spellings, forms of Unicode."""

from __future__ import annotations

import unicodedata
from collections.abc import Callable

import numpy as np
from num2words import num2words

from sync_r1.reward_models.answers.family_numbers import Made, fill

_COLOURS = ("red", "green", "blue", "yellow", "orange", "purple", "pink", "brown", "black", "white")
_OBJECTS = ("hat", "scarf", "coat", "ball", "box", "car", "door", "bag", "chair", "cup", "shirt", "boat")


def negations(rng: np.random.Generator) -> Made:
    """Not blue but red; it has no hat, it does not have a hat, it lacks a hat."""
    while True:
        thing, other_thing = (str(t) for t in rng.choice(_OBJECTS, 2, replace=False))
        colour, other = (str(c) for c in rng.choice(_COLOURS, 2, replace=False))
        yield (
            (
                f"What colour is the {thing}?", f"The {thing} is {colour}.",
                [f"The {thing} is not {other} but {colour}.", f"It is {colour}, not {other}.",
                 f"It isn't {other}, it's {colour}.", f"The {thing} is {colour} rather than {other}.",
                 f"Not {other}. It is {colour}."],
                [f"The {thing} is not {colour}.", f"It is {other}, not {colour}.", f"It is not {colour} but {other}.",
                 f"It isn't {colour}, it's {other}."],
            ),
            (
                f"What is with the {other_thing}?", f"There is no {thing}.",
                [f"There isn't a {thing}.", f"There is not any {thing}.", f"No {thing}.", f"It has no {thing}."],
                [f"There is a {thing}.", f"There is no {other_thing}.", f"It has a {thing}."],
            ),
            (
                "What does the dog wear?", f"The dog wears a {thing}.",
                [f"The dog wears a {thing}, not a {other_thing}.", f"A {thing}, but no {other_thing}.",
                 f"No doubt it wears a {thing}.", f"It doesn't wear a {other_thing}, it wears a {thing}."],
                [f"The dog wears no {thing}.", f"It does not wear a {thing}.", f"A {other_thing}, but no {thing}.",
                 f"The dog never wears a {thing}.", f"It goes without a {thing}."],
            ),
            (
                f"How many {thing}s are there?", f"There are no {thing}s.",
                ["None.", f"There are zero {thing}s.", f"0 {thing}s.", f"There aren't any {thing}s."],
                [f"There are two {thing}s.", f"There are {thing}s.", "Three."],
            ),
        )[int(rng.integers(4))]  # fmt: skip


def replies(rng: np.random.Generator) -> Made:
    """Is the hat blue? No, it is red."""
    while True:
        thing, other_thing = (str(t) for t in rng.choice(_OBJECTS, 2, replace=False))
        colour, other, third = (str(c) for c in rng.choice(_COLOURS, 3, replace=False))
        count, miscount = (int(n) for n in rng.choice(np.arange(2, 13), 2, replace=False))
        yield (
            (
                f"Is the {thing} {other}?", f"The {thing} is {colour}.",
                [f"No, the {thing} is {colour}.", f"No, it is {colour}.", f"No. It's {colour}.", "No.",
                 f"Nope, the {thing} is {colour}."],
                [f"Yes, the {thing} is {other}.", f"No, the {thing} is {third}.", "Yes.", f"It is {other}.",
                 f"No, the {thing} is not {colour}."],
            ),
            (
                f"Is the {thing} {colour}?", f"Yes, the {thing} is {colour}.",
                ["Yes.", f"Yes, it is {colour}.", f"The {thing} is {colour}.", "Yeah, it is."],
                ["No.", f"No, it is {other}.", f"The {thing} is {other}.", f"It is not {colour}."],
            ),
            (
                f"Does the dog wear a {thing}?", f"No, it wears a {other_thing}.",
                ["No.", f"No, the dog wears a {other_thing}.", f"It wears a {other_thing}.", "No, it doesn't.",
                 f"No, it does not wear a {thing}."],
                ["Yes.", f"Yes, it wears a {thing}.", "Yes, it does.", f"The dog wears a {thing}."],
            ),
            (
                f"Are there {num2words(miscount)} {thing}s?", f"There are {count} {thing}s.",
                [f"No, there are {num2words(count)}.", f"No, there are {count} {thing}s.", "No."],
                [f"Yes, there are {miscount}.", "Yes.", f"There are {miscount} {thing}s."],
            ),
        )[int(rng.integers(4))]  # fmt: skip


_SPELLINGS = """colour color|neighbour neighbor|harbour harbor|flavour flavor|behaviour behavior|armour armor
theatre theater|centre center|fibre fiber|litre liter|tyre tire|aeroplane airplane|moustache mustache|pyjamas pajamas
plough plow
doughnut donut|jewellery jewelry|traveller traveler|jeweller jeweler|catalogue catalog|grey-haired gray-haired|kerb curb
organisation organization|realised realized|organised organized|recognises recognizes|travelling traveling
labelled labeled|modelling modeling|cancelled canceled|sceptical skeptical|analysed analyzed|favourite favorite
colourful colorful|honourable honorable|paralysed paralyzed|marvellous marvelous|woollen woolen|mould mold|cosy cozy
yoghurt yogurt|chequered checkered|programme program|defence defense|licence license|storey story|axe ax|café cafe
crêpe crepe|façade facade|naïve naive|metre-long meter-long|rumour rumor|vapour vapor|parlour parlor|odour odor
apologised apologized|memorised memorized|decorated colour decorated color|fuelled fueled|signalling signaling
practise practice|enrolment enrollment|skilful skillful|fulfil fulfill|omelette omelet|liquorice licorice"""
_OTHER_WORDS = [
    "dog",
    "table",
    "mountain",
    "engine",
    "river",
    "guitar",
    "teacher",
    "blanket",
    "candle",
    "forest",
    "kitchen",
    "pencil",
    "bridge",
    "carpet",
]


def spellings(rng: np.random.Generator) -> Made:
    """Colour, color; tyre, tire; café, cafe."""
    pairs = [pair.rsplit(" ", 1) for line in _SPELLINGS.splitlines() for pair in line.split("|")]
    pairs = [pair for pair in pairs if " " not in pair[0]]
    number = 0
    while True:
        british, us = pairs[number % len(pairs)]
        others = [str(word) for word in rng.choice(_OTHER_WORDS, 2, replace=False)]
        near = pairs[int(rng.integers(len(pairs)))][0]
        wrong = [*others, *([near] if near != british else [])]
        number += 1
        one, other = (british, us) if rng.random() < 0.5 else (us, british)
        frame = ("The word is {}.", "It says {}.", "{}", "He wrote {} on the wall.")[number // len(pairs) % 4]
        yield (
            "What word is on the sign?", f"The sign says {one}.", [fill(frame, other), f"The sign says {other}."],
            [fill(frame, word) for word in wrong],
        )  # fmt: skip


def unicode_forms(rng: np.random.Generator) -> Made:
    """The same words decomposed, full-width, with soft hyphens, curly quotes and other blanks."""
    changes: tuple[Callable[[str], str], ...] = (
        lambda text: unicodedata.normalize("NFD", text),
        lambda text: "".join(chr(ord(c) + 0xFEE0) if "!" <= c <= "~" else c for c in text),
        lambda text: text.replace(" ", "\u00a0"),
        lambda text: "\u200e" + text + "\u200b",
        lambda text: text.replace("ca", "c\u00ada").replace("re", "r\u00ade"),
        lambda text: text.replace("'", "’").replace("-", "\u2011"),
        str.upper,
    )
    while True:
        thing, other_thing = (str(t) for t in rng.choice(_OBJECTS, 2, replace=False))
        colour, other = (str(c) for c in rng.choice(_COLOURS, 2, replace=False))
        count = int(rng.integers(2, 99))
        number = num2words(count)
        right = f"At the café, Zoë's {thing} has {number} {colour} stripes."
        wrong = [
            right.replace(colour, other),
            right.replace(number, num2words(count + 1)),
            right.replace(thing, other_thing),
        ]
        picked = [changes[int(n)] for n in rng.choice(len(changes), 4, replace=False)]
        yield (
            f"What does the {thing} have?",
            right,
            [change(right) for change in picked[:3]],
            [picked[3](text) for text in wrong],
        )
