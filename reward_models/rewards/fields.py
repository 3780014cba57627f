"""The one place that says whether a sample has what a reward needs, and how a graph's number becomes an outcome."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

from sync_r1.reward_models.types import Failure, FailureCode, Outcome, Sample, Score

# Path in `Sample` -> whether it is present. An empty answer is an answer (a wrong one), so only None is missing.
_PRESENT: dict[str, Callable[[Sample], bool]] = {
    "image": lambda sample: sample.image is not None,
    "prompt": lambda sample: bool(sample.prompt.strip()),
    "question": lambda sample: bool(sample.question.strip()),
    "answer": lambda sample: sample.answer is not None,
    "reference_answers": lambda sample: any(text.strip() for text in sample.reference_answers),
    "concept.references": lambda sample: bool(sample.concept.references),
    "concept.conversation_type": lambda sample: bool(sample.concept.conversation_type.strip()),
    "choices": lambda sample: len(sample.choices) >= 2,
    "target": lambda sample: sample.target is not None,
}

_EXPECTED = {
    "image": "a picture",
    "prompt": "a text that says what the picture should show",
    "question": "the question that was answered",
    "answer": "the answer to be scored",
    "reference_answers": "at least one right answer",
    "concept.references": "at least one reference picture of the concept",
    "concept.conversation_type": 'what kind of concept it is: "person", "animal" or "object"',
    "choices": "at least two items to select from",
    "target": "the index of the right item in `choices`",
}


def missing_field(sample: Sample, required: Sequence[str]) -> Failure | None:
    """The Failure of the first required field that `sample` lacks, or None."""
    for path in required:
        if not _PRESENT[path](sample):
            return Failure(FailureCode.MISSING_FIELD, f"`{path}` is missing or empty; expected {_EXPECTED[path]}", path)
    if "target" in required and not 0 <= (sample.target or 0) < len(sample.choices):
        message = f"`target` is {sample.target}, but `choices` has {len(sample.choices)} items; expected 0 to one less"
        return Failure(FailureCode.BAD_TEXT, message, "target")
    return None


def finite_score(value: float, components: dict[str, float], graphs: Sequence[str]) -> Outcome:
    """A Score, or the Failure NON_FINITE that names the number and the graphs it came from."""
    for name, number in (("value", value), *components.items()):
        if not math.isfinite(number):
            message = f"{name} is {number}: graph {' or '.join(graphs)} returned a number that is not finite"
            return Failure(FailureCode.NON_FINITE, message)
    return Score(value, components)
