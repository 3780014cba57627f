"""Generated answers of kinds that string comparison gets wrong: right ones written otherwise, and near misses.

`num2words` and `babel` (development dependencies) write the numbers, dates, units and money, so that what reads them is
not tested on its own tables. Half of each family, by the hash of family and reference, is held out: rules and lists
were made on the other half only.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from sync_r1.reward_models.answers import family_measures, family_numbers, family_texts

PER_FAMILY = 400
"""Pairs at least, held-out ones included."""


@dataclass(frozen=True)
class FamilyPair:
    """An answer to a question with its reference, and whether it is right."""

    question: str
    reference: str
    answer: str
    right: bool


FAMILIES: dict[str, Callable[[np.random.Generator], family_numbers.Made]] = {
    "number_words": family_numbers.number_words,
    "number_formats": family_numbers.number_formats,
    "decimals": family_numbers.decimals,
    "ordinals": family_numbers.ordinals,
    "dates": family_measures.dates,
    "times": family_measures.times,
    "units": family_measures.units,
    "money": family_measures.money,
    "fractions": family_numbers.fractions,
    "negations": family_texts.negations,
    "replies": family_texts.replies,
    "spellings": family_texts.spellings,
    "scripts": family_numbers.scripts,
    "unicode_forms": family_texts.unicode_forms,
}


def family(name: str, *, held_out: bool, count: int = PER_FAMILY) -> list[FamilyPair]:
    """The half of a family of at least `count` pairs that was held out, or the other half. Pairs are distinct."""
    rng = np.random.default_rng(int.from_bytes(hashlib.sha256(name.encode()).digest()[:4], "big"))
    made: dict[FamilyPair, None] = {}
    for question, reference, right, wrong in FAMILIES[name](rng):
        for answers, label in ((right, True), (wrong, False)):
            made |= dict.fromkeys(FamilyPair(question, reference, answer, label) for answer in answers)
        if len(made) >= count:
            break
    return [pair for pair in made if _is_held_out(name, pair.reference) == held_out]


def _is_held_out(name: str, reference: str) -> bool:
    return hashlib.sha256(f"{name}\n{reference}".encode()).digest()[0] % 2 == 1
