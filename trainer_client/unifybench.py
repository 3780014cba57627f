"""UnifyBench and UnifyBench++ from disk: personal concepts with pictures, questions and conditions to draw them under.

You are at the edge where files become data: pydantic checks every JSON file, and an error names file and key. Layout:

    concepts_list.json                                  [concept, …]
    concept/train/train_images.json                     {concept: [file, …]}
    concept/train/<c>/{*.png, info.json, conversations.json, positive_recognitions.json, random_recognitions.json}
    concept/test/<c>/{*.png, text_only.json, vqa.json, t2i_conditions.json}
    concept/test/<c>/pocket.json                        PocketBench only: split, and what the facts look like

`t2i_conditions.json` is a list (UnifyBench; the first entry is the plain photo and belongs to no fact) or a dict with
"personalized_driven_generation", index-aligned with `extra_info` (UnifyBench++). Evaluating on conditions that were
trained on proves nothing, so every concept has disjoint training and held-out conditions: PocketBench says which,
elsewhere the even ones train and the odd ones are held out.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, RootModel, TypeAdapter, ValidationError

from sync_r1.reward_models.pocket.scenes import Scene, plan_caption, write_caption
from sync_r1.trainer_client.pocketbench import ROLES
from sync_r1.trainer_client.pocketbench import Concept as PocketConcept

T = TypeVar("T")
_Text = Annotated[str, Field(min_length=1)]
_ALIGNED_KEY = "personalized_driven_generation"


class UnifyBenchError(ValueError):
    """A file of the benchmark is missing or says something else than the layout; the message names file and key."""


class _Turn(BaseModel):
    model_config = ConfigDict(extra="ignore")
    query: _Text
    answer: _Text


class _PocketCondition(BaseModel):
    model_config = ConfigDict(extra="ignore")
    role: _Text
    condition: _Text
    split: Literal["training", "held_out"]


class _Pocket(BaseModel):
    """PocketBench's own file: the concept's factors, which conditions are held out, and what the pictures show."""

    model_config = ConfigDict(extra="ignore")
    conditions: list[_PocketCondition]
    train_pictures: dict[str, Scene]


class _Conditions(RootModel[list[_Text] | dict[str, list[_Text]]]):
    """Both public forms of `t2i_conditions.json`."""


class _Info(BaseModel):
    model_config = ConfigDict(extra="ignore", populate_by_name=True)
    class_noun: _Text = Field(alias="class")
    info: _Text
    extra_info: list[_Text] = []
    conversation_type: str = ""


@dataclass(frozen=True)
class Turn:
    """One question and its reference answer."""

    question: str
    answer: str


@dataclass(frozen=True)
class Condition:
    """A situation to draw the concept in, and the index in `extra_info` of the fact it refers to (None: no fact)."""

    text: str
    fact: int | None


@dataclass(frozen=True)
class BenchConcept:
    """One concept. `name` is the folder's ("bo"), `token` what texts call it ("<bo>"); pictures are absolute paths."""

    name: str
    class_noun: str
    info: str
    extra_info: tuple[str, ...]
    conversation_type: str
    train_images: tuple[Path, ...]
    test_images: tuple[Path, ...]
    conversations: dict[str, tuple[Turn, ...]]
    """Training questions by picture file name."""
    text_only: tuple[Turn, ...]
    test_vqa: dict[str, tuple[Turn, ...]]
    """Held-out questions by picture file name."""
    test_text_only: tuple[Turn, ...]
    train_conditions: tuple[Condition, ...]
    held_out_conditions: tuple[Condition, ...]
    descriptions: tuple[str, ...] = ()
    """What a picture showing each fact looks like, without the name, index-aligned with `extra_info`; () if nobody
    says.
    """
    shown_facts: dict[str, tuple[int, ...]] = field(default_factory=dict)
    """Training picture file name -> the facts it shows; {} if nobody says."""

    @property
    def token(self) -> str:
        """The name as texts write it."""
        return f"<{self.name}>"


@dataclass(frozen=True)
class UnifyBench:
    """A whole benchmark folder."""

    root: Path
    concepts: tuple[BenchConcept, ...]


def load_unifybench(root: Path) -> UnifyBench:
    """Read and check a benchmark folder.

    Raises UnifyBenchError, naming file and key, when a file is missing or malformed, a picture does not exist,
    conditions do not fit `extra_info`, or a training condition is also held out.
    """
    names = _read(root / "concepts_list.json", list[_Text])
    images = _read(root / "concept" / "train" / "train_images.json", dict[str, list[_Text]])
    return UnifyBench(root, tuple(_concept(root, name, images) for name in names))


def _concept(root: Path, name: str, images: dict[str, list[str]]) -> BenchConcept:
    train, test = root / "concept" / "train" / name, root / "concept" / "test" / name
    if name not in images:
        raise UnifyBenchError(f"{root / 'concept' / 'train' / 'train_images.json'}: key {name!r} is missing")
    info = _read(train / "info.json", _Info)
    conversations = _read(train / "conversations.json", dict[str, list[_Turn]])
    text_only = conversations.pop("text_only", [])
    conditions = _conditions(test, info)
    pocket_file = test / "pocket.json"
    pocket = _read(pocket_file, _Pocket) if pocket_file.exists() else None
    train_conditions, held_out_conditions = _split(conditions, pocket, pocket_file)
    descriptions, shown_facts = _looks(_read(pocket_file, PocketConcept), pocket) if pocket else ((), {})
    return BenchConcept(
        name=name,
        class_noun=info.class_noun,
        info=info.info,
        extra_info=tuple(info.extra_info),
        conversation_type=info.conversation_type,
        train_images=_pictures(train, images[name]),
        test_images=tuple(sorted(test.glob("*.png"))),
        conversations={file: _turns(turns) for file, turns in conversations.items()},
        text_only=_turns(text_only),
        test_vqa={file: _turns(turns) for file, turns in _read(test / "vqa.json", dict[str, list[_Turn]]).items()},
        test_text_only=_turns(_read(test / "text_only.json", list[_Turn])),
        train_conditions=train_conditions,
        held_out_conditions=held_out_conditions,
        descriptions=descriptions,
        shown_facts=shown_facts,
    )


def _conditions(test: Path, info: _Info) -> tuple[Condition, ...]:
    file = test / "t2i_conditions.json"
    either: Any = list[_Text] | dict[str, list[_Text]]
    loaded: list[str] | dict[str, list[str]] = _read(file, either)
    if isinstance(loaded, list):
        # UnifyBench: "a photo of <bo>" comes first and refers to no fact; the others name none either.
        return tuple(Condition(text, None) for text in loaded[1:])
    if _ALIGNED_KEY not in loaded:
        raise UnifyBenchError(f"{file}: key {_ALIGNED_KEY!r} is missing; got {sorted(loaded)}")
    texts = loaded[_ALIGNED_KEY]
    if len(texts) != len(info.extra_info):
        raise UnifyBenchError(
            f"{file}: {_ALIGNED_KEY!r} must have one condition per extra_info item of info.json: "
            f"expected {len(info.extra_info)}, got {len(texts)}"
        )
    return tuple(Condition(text, fact) for fact, text in enumerate(texts))


def _split(
    conditions: Sequence[Condition], pocket: _Pocket | None, file: Path
) -> tuple[tuple[Condition, ...], tuple[Condition, ...]]:
    """(training, held-out), disjoint by text and therefore by fact."""
    if pocket is None:
        train, held_out = tuple(conditions[0::2]), tuple(conditions[1::2])
    else:
        by_text = {condition.text: condition for condition in conditions}
        for index, entry in enumerate(pocket.conditions):
            if entry.condition not in by_text:
                raise UnifyBenchError(
                    f"{file}: key 'conditions.{index}': {entry.condition!r} is not in t2i_conditions.json"
                )
        train, held_out = (
            tuple(by_text[entry.condition] for entry in pocket.conditions if entry.split == split)
            for split in ("training", "held_out")
        )
    if both := {condition.text for condition in train} & {condition.text for condition in held_out}:
        raise UnifyBenchError(
            f"{file}: key 'conditions': trained on and held out at once: {sorted(both)}; keep each once"
        )
    return train, held_out


def _looks(concept: PocketConcept, pocket: _Pocket) -> tuple[tuple[str, ...], dict[str, tuple[int, ...]]]:
    """(descriptions per fact, facts per training picture) of a PocketBench concept, from its factors."""
    descriptions = []
    for role in ROLES:
        rng = np.random.default_rng(0)
        scene = concept.scene(role, rng)
        # The caption names figure and fact only; what the fact leaves open in the scene is not mentioned.
        plan = replace(
            plan_caption(scene, rng), pattern=True, accessory=True, background=role in ("place", "home"), things=True,
            relation=False, verb=0.0,
        )  # fmt: skip
        descriptions.append(write_caption(scene, plan))
    shown = {
        file: tuple(fact for fact, role in enumerate(ROLES) if concept.shows(role, scene))
        for file, scene in pocket.train_pictures.items()
    }
    return tuple(descriptions), shown


def _pictures(folder: Path, files: Iterable[str]) -> tuple[Path, ...]:
    paths = tuple(folder / file for file in files)
    for path in paths:
        if not path.is_file():
            raise UnifyBenchError(f"{path}: listed in train_images.json but does not exist")
    return paths


def _turns(turns: Iterable[_Turn]) -> tuple[Turn, ...]:
    return tuple(Turn(turn.query, turn.answer) for turn in turns)


def _read(file: Path, form: type[T]) -> T:
    try:
        return TypeAdapter(form).validate_json(file.read_bytes())
    except FileNotFoundError:
        raise UnifyBenchError(f"{file}: the file is missing; is {file.name} part of the layout you have?") from None
    except ValidationError as error:
        first = error.errors()[0]
        key = ".".join(str(part) for part in first["loc"]) or "(the whole file)"
        raise UnifyBenchError(f"{file}: key {key!r}: {first['msg']}; got {str(first.get('input'))[:80]!r}") from None
