"""Key facts of a text that sentence embeddings blur: numbers, colours, negation.

MiniLM rates "the car is red" against "the car is blue" about as high as against a paraphrase, so the `semantic` variant
of understanding correctness checks these by name. English only; lists, not a model, so that a failure can be read.
"""

from __future__ import annotations

from dataclasses import dataclass

from sync_r1.reward_models.answers.text_metrics import words

_NUMBER_WORDS = (
    "zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen sixteen seventeen "
    "eighteen nineteen twenty"
)
_NUMBERS = {word: value for value, word in enumerate(_NUMBER_WORDS.split())}
_NUMBERS |= {"single": 1, "once": 1, "both": 2, "pair": 2, "couple": 2, "twice": 2, "dozen": 12}

# Each word of a line means (nearly) the same colour.
_COLOUR_WORDS = {
    synonym: line.split()[0]
    for line in (
        "red reddish crimson scarlet ruby maroon",
        "green greenish emerald lime olive",
        "blue bluish navy azure cobalt",
        "yellow yellowish",
        "orange orangish",
        "purple purplish violet lavender lilac",
        "pink pinkish magenta rose",
        "brown brownish chestnut",
        "black blackish",
        "white whitish ivory",
        "grey gray greyish grayish",
        "gold golden",
        "silver silvery",
        "beige tan cream",
        "turquoise teal cyan aqua",
        "mint",
    )
    for synonym in line.split()
}
_NEGATIONS = frozenset(
    ("not", "no", "never", "none", "nothing", "nobody", "neither", "nor", "without", "cannot", "lacks")
)


@dataclass(frozen=True)
class Facts:
    """What a text says of numbers and colours, and whether it negates."""

    numbers: frozenset[float]
    colours: frozenset[str]
    negated: bool


def facts(text: str) -> Facts:
    """The key facts of one text."""
    found = words(text)
    numbers = {float(_NUMBERS.get(word, word)) for word in found if word in _NUMBERS or word[0].isdecimal()}
    colours = {_COLOUR_WORDS[word] for word in found if word in _COLOUR_WORDS}
    negated = any(word in _NEGATIONS or word.endswith("n't") for word in found)
    return Facts(frozenset(numbers), frozenset(colours), negated)


def numbers_agree(reference: str, answer: str) -> float:
    """Jaccard overlap of the numbers; 1 when neither names any. "One" may go unsaid ("a ball", "one ball")."""
    want, got = facts(reference).numbers, facts(answer).numbers
    if (want or got) == {1.0} and not (want and got):
        return 1.0
    return _overlap(want, got)


def colours_agree(reference: str, answer: str) -> float:
    """Jaccard overlap of the colours; 1 when neither names any. Naming every colour is not knowing one."""
    return _overlap(facts(reference).colours, facts(answer).colours)


def negation_agrees(reference: str, answer: str) -> float:
    """1 if both texts negate or neither does, else 0."""
    return float(facts(reference).negated == facts(answer).negated)


def is_fact_word(word: str) -> bool:
    """Whether a word is checked here (a number, a colour, a negation) and so needs no other comparison."""
    by_list = word in _NUMBERS or word in _COLOUR_WORDS or word in _NEGATIONS
    return by_list or word[0].isdecimal() or word.endswith("n't")


def _overlap(want: frozenset[float] | frozenset[str], got: frozenset[float] | frozenset[str]) -> float:
    union = want | got
    return len(want & got) / len(union) if union else 1.0
