"""The JSON files of UnifyBench and UnifyBench++ as pydantic forms: where files become data, and wrong files errors.

`unifybench.py` puts what is read here together. Three forms of a question occur in public data and are all accepted:
`{query, answer}`; the same with an `image`, or in a dict by image; and the generated form of the public evaluation,
`{image, type, conversations: [{from, value}, {from, value}]}`. Every error names file and key, says what was expected
and what came.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError

from sync_r1.reward_models.errors import SyncR1Error
from sync_r1.reward_models.pocket.world.scenes import Scene

T = TypeVar("T")
U = TypeVar("U")
_GENERATED_KINDS = ("rec", "vqa", "text_only")
Text = Annotated[str, Field(min_length=1)]


class UnifyBenchError(SyncR1Error, ValueError):
    """A file of the benchmark is missing or says something else than the layout; the message names file and key."""


class _Form(BaseModel):
    model_config = ConfigDict(extra="ignore", populate_by_name=True)


class _Asked(_Form):
    query: Text
    answer: Text
    image: Text | None = None


class _Message(_Form):
    sender: Text = Field(alias="from")
    value: Text


class _Generated(_Form):
    image: Text | None = None
    type: Text
    conversations: Annotated[list[_Message], Field(min_length=2, max_length=2)]


class PocketCondition(_Form):
    """One condition of PocketBench and on which side it stands."""

    role: Text
    condition: Text
    split: Literal["training", "held_out"]


class Pocket(_Form):
    """PocketBench's own file: which conditions are held out, and what the training pictures show."""

    conditions: list[PocketCondition]
    train_pictures: dict[str, Scene]


class Info(_Form):
    """`info.json`."""

    class_noun: Text = Field(alias="class")
    info: Text
    extra_info: list[Text] = []
    conversation_type: str = ""
    dense: list[Text] = []
    """One dense description per condition, written by `sync-r1 densify`."""
    nouns: list[Annotated[list[Text], Field(min_length=1)]] = []
    """The noun phrases of each, written beside them."""


@dataclass(frozen=True)
class Question:
    """A question of a file in whichever form; `kind` is "" where the form has none, `image` a file name or path."""

    question: str
    answer: str
    image: str | None = None
    kind: str = ""


def read_json(file: Path, form: type[T]) -> T:
    """`file` as `form`. Raises UnifyBenchError naming file and key."""
    return _validate(file, form, _bytes(file))


def read_list_or_dict(file: Path, listed: type[T], by_key: type[U]) -> T | U:
    """A file that may hold a list or a dict; the form is chosen by its first character, so that errors are precise."""
    content = _bytes(file)
    return _validate(file, by_key if content.lstrip().startswith(b"{") else listed, content)


def read_training_pictures(root: Path) -> dict[str, tuple[Path, ...]]:
    """Concept -> its training pictures, those listed in `train_images.json`, in the order of `concepts_list.json`.

    Raises UnifyBenchError, also for a concept that is named twice or not listed, and a picture that does not exist.
    """
    names = read_json(root / "concepts_list.json", list[Text])
    if len(set(names)) < len(names):
        raise UnifyBenchError(f"{root / 'concepts_list.json'}: every concept once, got {names}")
    train = root / "concept" / "train"
    listed = read_json(train / "train_images.json", dict[str, list[Text]])
    pictures = {}
    for name in names:
        if name not in listed:
            raise UnifyBenchError(f"{train / 'train_images.json'}: key {name!r} is missing")
        pictures[name] = tuple(train / name / file for file in listed[name])
        for path in pictures[name]:
            if not path.is_file():
                raise UnifyBenchError(f"{path}: listed in train_images.json but does not exist")
    return pictures


def read_questions(file: Path, *, kind: str = "") -> list[Question]:
    """The questions of a file in any of the public forms; `kind` keeps those of that type where the form has types.

    Raises UnifyBenchError.
    """
    content = _bytes(file)
    if content.lstrip().startswith(b"{"):
        by_image: dict[str, list[_Asked]] = _validate(file, dict[str, list[_Asked]], content)
        return [Question(turn.query, turn.answer, image) for image, turns in by_image.items() for turn in turns]
    if _is_generated(content):
        questions = [_spoken(entry) for entry in _validate(file, list[_Generated], content)]
        return [question for question in questions if not kind or question.kind == kind]
    return [Question(turn.query, turn.answer, turn.image) for turn in _validate(file, list[_Asked], content)]


def read_generated(root: Path, test: Path, name: str) -> list[Question]:
    """The questions of `root/test_data/NAME.json` with absolute pictures, [] without that file.

    Pictures are relative to `root` or to the concept's test folder `test`. Raises UnifyBenchError.
    """
    file = root / "test_data" / f"{name}.json"
    if not file.exists():
        return []
    questions = []
    for index, asked in enumerate(read_questions(file)):
        if asked.kind not in _GENERATED_KINDS:
            raise UnifyBenchError(f"{file}: key '{index}.type': expected one of {_GENERATED_KINDS}, got {asked.kind!r}")
        if asked.image is None or asked.kind == "text_only":
            if asked.kind != "text_only":
                raise UnifyBenchError(f"{file}: key '{index}.image' is missing; a {asked.kind!r} question needs one")
            questions.append(replace(asked, image=None))
            continue
        found = next((path for path in (root / asked.image, test / asked.image) if path.is_file()), None)
        if found is None:
            raise UnifyBenchError(f"{file}: key '{index}.image': {asked.image!r} is neither in {root} nor in {test}")
        questions.append(replace(asked, image=str(found)))
    return questions


def _is_generated(content: bytes) -> bool:
    try:
        loaded = json.loads(content)
    except ValueError:
        return False
    return isinstance(loaded, list) and bool(loaded) and isinstance(loaded[0], dict) and "conversations" in loaded[0]


def _spoken(entry: _Generated) -> Question:
    asked, answered = (message.value for message in entry.conversations)
    # LLaVA's marker for where the picture goes is no part of the question.
    return Question(asked.replace("<image>", "").strip(), answered.strip(), entry.image, entry.type)


def _bytes(file: Path) -> bytes:
    try:
        return file.read_bytes()
    except FileNotFoundError:
        raise UnifyBenchError(f"{file}: the file is missing; is {file.name} part of the layout you have?") from None


def _validate(file: Path, form: Any, content: bytes) -> Any:
    try:
        return TypeAdapter(form).validate_json(content)
    except ValidationError as error:
        first = error.errors()[0]
        key = ".".join(str(part) for part in first["loc"]) or "(the whole file)"
        raise UnifyBenchError(f"{file}: key {key!r}: {first['msg']}; got {str(first.get('input'))[:80]!r}") from None
