"""The one place that says whether a sample is what it should be and has what a reward needs, and how a graph's number
becomes an outcome."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Sequence
from numbers import Integral

from sync_r1.reward_models.types import Concept, Failure, FailureCode, Outcome, Picture, Sample, Score

_HALF_A_CHARACTER = re.compile("[\ud800-\udfff]")
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
    "nouns": lambda sample: any(text.strip() for text in sample.nouns),
    "concept.name": lambda sample: bool(sample.concept.name.strip()),
    "concept.class_noun": lambda sample: bool(sample.concept.class_noun.strip()),
    "concept.info": lambda sample: bool(sample.concept.info.strip()),
    "concept.extra_info": lambda sample: any(text.strip() for text in sample.concept.extra_info),
    "id": lambda sample: bool(sample.id),
    "group": lambda sample: bool(sample.group),
    "metadata": lambda sample: bool(sample.metadata),
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
    "nouns": "at least one thing that the picture should show",
    "concept.name": "the concept's name",
    "concept.class_noun": "what the concept is, in one word",
    "concept.info": "what is known of the concept",
    "concept.extra_info": "at least one sentence more of what is known of the concept",
}


def misfit(sample: Sample) -> Failure | None:
    """The Failure of the first field that does not hold what `Sample` says it does, or None.

    A text that is one where a list of texts belongs would be read letter by letter; half a surrogate pair (what
    remains of an emoji that was cut in two) is no character, and nothing can encode it.
    """
    concept = sample.concept
    if not isinstance(concept, Concept):
        return _unfit("concept", "a Concept", concept)
    texts = {
        "id": sample.id, "group": sample.group, "prompt": sample.prompt, "question": sample.question,
        "answer": "" if sample.answer is None else sample.answer, "concept.name": concept.name,
        "concept.class_noun": concept.class_noun, "concept.info": concept.info,
        "concept.conversation_type": concept.conversation_type,
    }  # fmt: skip
    lists = {
        "reference_answers": sample.reference_answers, "choices": sample.choices, "nouns": sample.nouns,
        "concept.extra_info": concept.extra_info,
    }  # fmt: skip
    for path, found in lists.items():
        if not isinstance(found, list | tuple):
            return _unfit(path, "a list of texts", found)
        texts |= {f"{path}[{index}]": text for index, text in enumerate(found)}
    for path, text in texts.items():
        if not isinstance(text, str):
            return _unfit(path, "a text", text)
        if not text.isascii() and (half := _HALF_A_CHARACTER.search(text)):
            message = (
                f"`{path}` has half a surrogate pair ({half[0]!a}) at character {half.start()}, which is no "
                "character; send the whole one, or leave it out"
            )
            return Failure(FailureCode.BAD_TEXT, message, path)
    if sample.target is not None and not isinstance(sample.target, Integral):
        return _unfit("target", "an index into `choices`", sample.target)
    if sample.image is not None and not isinstance(sample.image, Picture):
        return _unfit("image", "a Picture", sample.image, FailureCode.BAD_IMAGE)
    if not isinstance(concept.references, list | tuple):
        return _unfit("concept.references", "a list of Pictures", concept.references, FailureCode.BAD_REFERENCE)
    for index, picture in enumerate(concept.references):
        if not isinstance(picture, Picture):
            return _unfit(f"concept.references[{index}]", "a Picture", picture, FailureCode.BAD_REFERENCE)
    return None


def _unfit(path: str, expected: str, found: object, code: FailureCode = FailureCode.BAD_TEXT) -> Failure:
    return Failure(code, f"`{path}` is of type {type(found).__name__}; expected {expected}", path)


def is_present(sample: Sample, path: str) -> bool:
    """Whether `sample` has the field; an empty answer is one."""
    return _PRESENT[path](sample)


def missing_field(sample: Sample, required: Sequence[str]) -> Failure | None:
    """The Failure of the first required field that `sample` lacks, or None."""
    for path in required:
        if not is_present(sample, path):
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
