"""Judges as files: what a language model is asked, in which form it answers, and what the answer is worth.

    pictures: [image]                        # image, reference, references; or group: all pictures of a group at once
    model: Qwen/Qwen2.5-VL-7B-Instruct       # as the endpoint calls it; where that is, only `--judges` says
    system: You rate how tidy a room is …
    user: {wanted: prompt}                   # key -> field of the sample, sent as JSON; or a text with {prompt} in it
    answer:
      reason: {type: text}
      tidy: {type: integer, min: 1, max: 10}
    score: {tidy: 1}                         # weights of fields, each mapped to [0, 1]; or one field, as it is

A judge is called after its file. Those of this project lie in `reward_models/judges/`.
"""

from __future__ import annotations

import re
from functools import cache
from pathlib import Path
from typing import Annotated, Literal

import yaml
from pydantic import Field, FiniteFloat, ValidationError, model_validator

from sync_r1.reward_models.errors import nearest_first
from sync_r1.reward_models.graphs.judges import Judge, JudgePrompt
from sync_r1.reward_models.profiles.file_parts import Strict
from sync_r1.reward_models.rewards.judge_forms import ASKABLE, COUNT, AnswerField, JudgeForm, Shown, paths_of
from sync_r1.reward_models.types import ProfileError

_BUILT_IN = Path(__file__).parent.parent / "judges"
_NAME = re.compile(r"[A-Za-z0-9_-]{1,64}")
_TOP_LOGPROBS = 20
"""Alternatives of the first token that are asked for: as many as endpoints give."""


class FieldFile(Strict):
    """One field of the answer."""

    type: Literal["text", "number", "integer", "boolean"]
    min: FiniteFloat | None = None
    max: FiniteFloat | None = None
    one_of: tuple[int | FiniteFloat, ...] = ()
    zero_at: FiniteFloat | None = None
    """The number that is 0 on [0, 1]: the least one unless stated."""
    one_at: FiniteFloat | None = None
    max_length: int = Field(default=2000, ge=1, le=20_000)
    """Characters of a text."""

    @model_validator(mode="after")
    def _bounded(self) -> FieldFile:
        bounds = self.min is not None and self.max is not None
        if self.type in ("number", "integer"):
            if bounds == bool(self.one_of):
                raise ValueError("a number needs its range: both `min` and `max`, or `one_of`")
        elif bounds or self.one_of or self.model_fields_set & {"min", "max", "zero_at", "one_at"}:
            raise ValueError(f"a {self.type} has no range")
        if not self.field("").one_at > self.field("").zero_at:
            raise ValueError("the map to [0, 1] must rise: expected `one_at` (or `max`) above `zero_at` (or `min`)")
        return self

    def field(self, name: str) -> AnswerField:
        """The field under its name."""
        numbers = [float(number) for number in self.one_of] or [0.0, 1.0]
        low = min(numbers) if self.min is None else self.min
        high = max(numbers) if self.max is None else self.max
        return AnswerField(
            name=name,
            type=self.type,
            low=low,
            high=high,
            one_of=self.one_of,
            zero_at=low if self.zero_at is None else self.zero_at,
            one_at=high if self.one_at is None else self.one_at,
            longest=self.max_length,
        )


class JudgeFile(Strict):
    """A judge, as its YAML says it."""

    version: int = Field(default=1, ge=1)
    model: str = ""
    pictures: tuple[Shown, ...] = ()
    system: str = Field(min_length=1)
    user: str | dict[str, str] = Field(min_length=1)
    answer: Literal["yes_no"] | Annotated[dict[str, FieldFile], Field(min_length=1)]
    """`yes_no`: the probability of "yes" as the first token, which the endpoint must tell."""
    score: str | dict[str, Annotated[FiniteFloat, Field(gt=0)]] = ""
    blank_answer: FiniteFloat | None = None
    """The score of a blank answer, which is then not sent."""
    max_tokens: int | None = Field(default=None, ge=1)

    @model_validator(mode="after")
    def _fits_together(self) -> JudgeFile:
        self._check_user()
        self._check_score()
        if "group" in self.pictures and self.answer == "yes_no":
            raise ValueError("answer: yes_no is about one picture; with `group` expected fields for each of them")
        if "group" in self.pictures and {"image", "references"} & set(self.pictures):
            raise ValueError("pictures: `group` stands alone or with `reference`, which all of its pictures share")
        return self

    def _check_user(self) -> None:
        known = (COUNT,) if "group" in self.pictures else ASKABLE
        try:
            paths = paths_of(self.user if isinstance(self.user, str) else tuple(self.user.items()))
        except ValueError as error:
            raise ValueError(f"user: {error}; a brace that is meant as one is written twice") from None
        if "group" in self.pictures and not isinstance(self.user, str):
            raise ValueError(
                "user: the items of a `group` differ in their texts; expected one text, in which {count} may stand"
            )
        for path in paths:
            if path not in known:
                raise ValueError(
                    f"user: there is no field {path!r} to ask about; there are {nearest_first(path, known)}"
                )
        if self.blank_answer is not None and "answer" not in paths:
            raise ValueError("blank_answer: the question does not name `answer`")
        if not (paths or self.pictures):
            raise ValueError("user: nothing of the item is shown or named; name a field, or show a picture")

    def _check_score(self) -> None:
        if self.answer == "yes_no":
            if self.score:
                raise ValueError("score: with `answer: yes_no` it is the probability of yes; leave it out")
            return
        numbers = [name for name, field in self.answer.items() if field.type != "text"]
        if not self.score:
            raise ValueError(f"score: say which field it is, or the weights of several; there are {numbers}")
        for name in [self.score] if isinstance(self.score, str) else self.score:
            if name not in numbers:
                raise ValueError(f"score: the answer has no number {name!r}; it has {nearest_first(name, numbers)}")

    @property
    def form(self) -> JudgeForm:
        """What stands around the prompt."""
        fields = () if self.answer == "yes_no" else tuple(file.field(name) for name, file in self.answer.items())
        return JudgeForm(
            shows=self.pictures,
            asks=self.user if isinstance(self.user, str) else tuple(self.user.items()),
            fields=fields,
            score=tuple(self.score.items()) if isinstance(self.score, dict) else self.score if fields else (),
            blank_answer=self.blank_answer,
        )

    def prompt(self, name: str) -> JudgePrompt:
        """What is asked, under the judge's name."""
        form, one_token = self.form, self.answer == "yes_no"
        usual = 1 if one_token else 4096 if form.groupwise else 300
        return JudgePrompt(
            name=name,
            version=self.version,
            system=self.system.strip(),
            max_tokens=self.max_tokens or usual,
            schema=form.schema,
            top_logprobs=_TOP_LOGPROBS if one_token else 0,
        )


def read_judge(path: Path) -> tuple[Judge, JudgeForm]:
    """An own judge and its form, which its digest covers. Raises ProfileError: one sentence with file and key."""
    if not _NAME.fullmatch(path.stem):
        raise ProfileError(f"judge {path}: it is called after its file, so that is up to 64 of A-Z a-z 0-9 _ and -")
    file = _read(path)
    if not file.model:
        raise ProfileError(f"judge {path}: model: is missing; expected what the endpoint calls the model")
    return Judge(file.prompt(path.stem), file.model, file.form.digest), file.form


@cache
def built_in_judge(name: str) -> tuple[JudgePrompt, JudgeForm]:
    """A judge of this project: `answer`, `pictures`, `scene` or `vqascore`. The profile says which model it asks."""
    file = _read(_BUILT_IN / f"{name}.yaml")
    return file.prompt(name), file.form


def _read(path: Path) -> JudgeFile:
    if not path.is_file():
        raise ProfileError(f"judge {path}: there is no such file")
    try:
        raw = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise ProfileError(f"judge {path} cannot be read: {' '.join(str(error).split())}") from None
    if not isinstance(raw, dict):
        raise ProfileError(
            f"judge {path}: expected a mapping with `system`, `user`, `answer` …, got {type(raw).__name__}"
        )
    try:
        return JudgeFile.model_validate(raw)
    except ValidationError as error:
        # Of a key that may hold two kinds of values the last kind's fault is told: that of the fields.
        first = error.errors(include_url=False)[-1]
        key = ".".join(
            str(part) for part in first["loc"] if not str(part).startswith(("dict[", "literal[")) and part != "str"
        )
        message = str(first["msg"]).removeprefix("Value error, ")
        raise ProfileError(f"judge {path}: {key}{': ' if key else ''}{message}") from None
