"""What stands around a judge's prompt: what it is shown and asked about an item, and what its answer is worth.

`profiles/judge_files.py` reads forms from YAML; `judged.py` and `judged_groups.py` put the questions.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from string import Formatter
from typing import Annotated, Any, Literal, cast

from pydantic import AfterValidator, ConfigDict, Field, TypeAdapter
from typing_extensions import TypedDict

from sync_r1.reward_models.types import Outcome, Picture, Sample, Score

Shown = Literal["image", "reference", "references", "group"]
"""The item's picture; the concept's first reference or all of them; all pictures of the item's group."""
_TEXTS: dict[str, Callable[[Sample], str | Sequence[str]]] = {
    "prompt": lambda sample: sample.prompt,
    "question": lambda sample: sample.question,
    "answer": lambda sample: sample.answer or "",
    "reference_answers": lambda sample: sample.reference_answers,
    "choices": lambda sample: sample.choices,
    "nouns": lambda sample: sample.nouns,
    "concept.name": lambda sample: sample.concept.name,
    "concept.class_noun": lambda sample: sample.concept.class_noun,
    "concept.info": lambda sample: sample.concept.info,
    "concept.extra_info": lambda sample: sample.concept.extra_info,
    "concept.conversation_type": lambda sample: sample.concept.conversation_type,
}
ASKABLE = tuple(_TEXTS)
"""Paths in `Sample` that a question may be made of."""
COUNT = "count"
"""What the question about a group may name: how many of its pictures are shown."""
REASON = "reason"
"""The field whose text comes back with the score."""


@dataclass(frozen=True)
class AnswerField:
    """One field of a judge's answer: what may stand in it, and which numbers the map to [0, 1] takes to its ends."""

    name: str
    type: Literal["text", "number", "integer", "boolean"]
    low: float = 0.0
    high: float = 1.0
    one_of: tuple[int | float, ...] = ()
    zero_at: float = 0.0
    one_at: float = 1.0
    longest: int = 2000
    """Characters of a text."""

    @property
    def schema(self) -> dict[str, Any]:
        """Its JSON schema. Ranges are checked here only: not every endpoint takes them."""
        kind = "string" if self.type == "text" else self.type
        return {"type": kind} | ({"enum": list(self.one_of)} if self.one_of else {})

    @property
    def annotation(self) -> Any:
        """What pydantic checks it against."""
        if self.type == "text":
            return Annotated[str, Field(max_length=self.longest)]
        if self.type == "boolean":
            return bool
        number: Any = int if self.type == "integer" else float
        return Annotated[number, AfterValidator(self._within)]

    def unit(self, number: float) -> float:
        """The number on [0, 1]."""
        return (number - self.zero_at) / (self.one_at - self.zero_at)

    def _within(self, number: float) -> float:
        if self.one_of and number not in self.one_of:
            raise ValueError(f"expected one of {', '.join(map(str, self.one_of))}")
        if not self.low <= number <= self.high:  # NaN too
            raise ValueError(f"expected {self.low:g} to {self.high:g}")
        return number


@dataclass(frozen=True)
class JudgeForm:
    """A judge's questions and answers. Nothing in it but the text of an item comes from a caller."""

    shows: tuple[Shown, ...]
    """In this order, before the text."""
    asks: str | tuple[tuple[str, str], ...]
    """A text with the names of `ASKABLE` in braces; or the key of each in a JSON object, out of which no text gets."""
    fields: tuple[AnswerField, ...]
    """In the order of the answer; none where the answer is yes or no and what counts is its first token."""
    score: str | tuple[tuple[str, float], ...] = ()
    """The field that is the score; or the weights of fields, each mapped to [0, 1], whose mean is the score."""
    blank_answer: float | None = None
    """The score of an item with a blank answer, which is not sent; None = it is sent."""

    @property
    def groupwise(self) -> bool:
        """Whether a question is about all pictures of a group."""
        return "group" in self.shows

    @property
    def required(self) -> tuple[str, ...]:
        """Paths in `Sample` without which nothing is asked."""
        picture = ["image"] if {"image", "group"} & set(self.shows) else []
        references = ["concept.references"] if {"reference", "references"} & set(self.shows) else []
        named = paths_of(self.asks)
        return (*picture, *(path for path in ASKABLE if path in named), *references)

    @property
    def schema(self) -> dict[str, Any]:
        """JSON schema of the answer; empty where it is free text."""
        if not self.fields:
            return {}
        fields = {field.name: field.schema for field in self.fields}
        if not self.groupwise:
            return _object(fields)
        return _object({"marks": {"type": "array", "items": _object({"picture": {"type": "integer"}} | fields)}})

    @property
    def digest(self) -> str:
        """All of it as one text, for the digest of an own judge."""
        return json.dumps(asdict(self), sort_keys=True)

    @property
    def score_range(self) -> tuple[float, float]:
        """The least and the greatest score."""
        if isinstance(self.score, str):
            field = self._field(self.score)
            return field.low, field.high
        ends = [(self._field(name), weight) for name, weight in self.score]
        if not ends:
            return 0.0, 1.0
        total = sum(weight for _, weight in ends)
        return (
            sum(field.unit(field.low) * weight for field, weight in ends) / total,
            sum(field.unit(field.high) * weight for field, weight in ends) / total,
        )

    def text(self, sample: Sample) -> str:
        """The question about an item."""
        if isinstance(self.asks, str):
            return filled(self.asks, {path: _said(_TEXTS[path](sample)) for path in paths_of(self.asks)})
        item = {key: _filled_in(_TEXTS[path](sample)) for key, path in self.asks}
        return json.dumps(item, ensure_ascii=False)

    def pictures(self, sample: Sample) -> tuple[Picture, ...]:
        """What is shown with it."""
        found: list[Picture | None] = []
        for shown in self.shows:
            if shown == "references":
                found += sample.concept.references
            else:
                found.append(sample.image if shown == "image" else sample.concept.references[0])
        return tuple(picture for picture in found if picture is not None)

    def read(self, answer: str) -> dict[str, Any]:
        """The fields of an answer about one item. Raises ValueError when it has not the form that was asked for."""
        return dict(self._reader.validate_json(answer))

    def read_group(self, answer: str, count: int) -> dict[int, dict[str, Any]]:
        """The fields for each of `count` pictures, by its number from 1 on. Raises ValueError as `read` does."""
        marks = self._reader.validate_json(answer)["marks"]
        numbers = sorted(mark["picture"] for mark in marks)
        if numbers != list(range(1, count + 1)):
            raise ValueError(f"expected marks of pictures 1 to {count}, got those of {numbers}")
        return {mark["picture"]: mark for mark in marks}

    def worth(self, answer: dict[str, Any]) -> Outcome:
        """The score of the fields of one answer; the other numbers are its components."""
        numbers = {field.name: float(answer[field.name]) for field in self.fields if field.type != "text"}
        said = answer.get(REASON)
        reason = said if isinstance(said, str) else ""
        if isinstance(self.score, str):
            return Score(numbers.pop(self.score), numbers, reason)
        units = {name: self._field(name).unit(number) for name, number in numbers.items()}
        total = sum(weight for _, weight in self.score)
        return Score(sum(units[name] * weight for name, weight in self.score) / total, units, reason)

    def _field(self, name: str) -> AnswerField:
        return next(field for field in self.fields if field.name == name)

    @cached_property
    def _reader(self) -> TypeAdapter[Any]:
        """Nothing is converted, nothing may be added."""
        fields = {field.name: field.annotation for field in self.fields}
        if not self.groupwise:
            return TypeAdapter(_exact("Answer", fields))
        return TypeAdapter(_exact("Answers", {"marks": list[_exact("Mark", {"picture": int} | fields)]}))  # type: ignore[misc]


def paths_of(asks: str | Sequence[tuple[str, str]]) -> tuple[str, ...]:
    """The paths that a question is made of, in order. Raises ValueError for braces that do not fit."""
    if not isinstance(asks, str):
        return tuple(path for _, path in asks)
    return tuple(name for _, name, _, _ in Formatter().parse(asks) if name is not None)


def filled(template: str, values: dict[str, str]) -> str:
    """The template with the values in place of their names; what stands in a value is never read as a template."""
    return "".join(
        literal + ("" if name is None else values[name]) for literal, name, _, _ in Formatter().parse(template)
    )


def _exact(name: str, fields: dict[str, Any]) -> Any:
    made = cast(Any, TypedDict)(name, fields)  # keys as the file names them, also those that no class could have
    made.__pydantic_config__ = ConfigDict(extra="forbid", strict=True)
    return made


def _filled_in(value: str | Sequence[str]) -> str | list[str]:
    return value if isinstance(value, str) else [text for text in value if text.strip()]


def _said(value: str | Sequence[str]) -> str:
    found = _filled_in(value)
    return found if isinstance(found, str) else json.dumps(found, ensure_ascii=False)


def _object(properties: dict[str, Any]) -> dict[str, Any]:
    return {
        "type": "object", "properties": properties, "required": list(properties), "additionalProperties": False,
    }  # fmt: skip
