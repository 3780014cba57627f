"""UnifyBench and UnifyBench++ from disk: personal concepts with pictures, questions and conditions to draw them under.

Layout (`unifybench_schema.py` has the forms of the JSON files):

    concepts_list.json                                  [concept, …]
    concept/train/train_images.json                     {concept: [file, …]}
    concept/train/<c>/{*.png, info.json, conversations.json, positive_recognitions.json, random_recognitions.json}
    concept/train/<c>/{negative_example/, cropped/}     optional: look-alikes, and the concept cut out
    concept/test/<c>/{*.png, text_only.json, vqa.json, t2i_conditions.json}
    concept/test/<c>/pocket.json                        PocketBench only: split, and what the facts look like
    test_data/<c>.json                                  optional: the generated questions of the public evaluation
    random_images/, black_512x512.png                   optional: strangers; the picture of task r in the release

`t2i_conditions.json` is a list (UnifyBench; the first entry is the plain photo and belongs to no fact) or a dict with
"personalized_driven_generation", index-aligned with `extra_info` (UnifyBench++). Evaluating on conditions that were
trained on proves nothing, so every concept has disjoint training and held-out conditions: PocketBench says which,
elsewhere the even ones train and the odd ones are held out. Neither a text (but for case and punctuation) nor a fact
may stand on both sides.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from sync_r1.trainer_client.tasks.pocket_captions import Looks, pocket_looks
from sync_r1.trainer_client.tasks.pocketbench import Concept as PocketConcept
from sync_r1.trainer_client.tasks.unifybench_schema import (
    Info,
    Pocket,
    Question,
    Text,
    UnifyBenchError,
    read_generated,
    read_json,
    read_list_or_dict,
    read_questions,
    read_training_pictures,
)

__all__ = ["BenchConcept", "Condition", "Turn", "UnifyBench", "UnifyBenchError", "load_unifybench"]
_ALIGNED_KEY = "personalized_driven_generation"


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
    nouns: tuple[tuple[str, ...], ...] = ()
    """What there is to see in a picture of each fact: noun phrases of its description, without the name, index-aligned
    with `extra_info`; () if nobody says.
    """
    shown_facts: dict[str, tuple[int, ...]] = field(default_factory=dict)
    """Training picture file name -> the facts it shows; {} if nobody says."""
    positive_recognitions: tuple[Turn, ...] = ()
    """Asked about pictures of the concept; the answer is yes."""
    random_recognitions: tuple[Turn, ...] = ()
    """Asked about pictures of anything else; the answer is no."""
    negative_images: tuple[Path, ...] = ()
    """Look-alikes to train recognition on."""
    cropped_images: tuple[Path, ...] = ()
    plain_condition: str | None = None
    """UnifyBench's first condition, the plain photo; UnifyBench++ has none."""
    dense_descriptions: tuple[str, ...] = ()
    """What `sync-r1 densify` wrote: one dense description per fact, () before."""
    generated: tuple[Question, ...] = ()
    """Questions of `test_data/<c>.json`; images are absolute paths."""

    @property
    def token(self) -> str:
        """The name as texts write it."""
        return f"<{self.name}>"


@dataclass(frozen=True)
class UnifyBench:
    """A whole benchmark folder."""

    root: Path
    concepts: tuple[BenchConcept, ...]
    random_images: tuple[Path, ...] = ()
    """Pictures of none of the concepts."""
    black_picture: Path | None = None
    """What the release shows a policy in task r, where there is nothing to look at."""


def load_unifybench(root: Path) -> UnifyBench:
    """Read and check a benchmark folder.

    Raises UnifyBenchError, naming file and key, when a file is missing or malformed, a picture does not exist,
    conditions do not fit `extra_info`, or a training condition is also held out.
    """
    black = root / "black_512x512.png"
    return UnifyBench(
        root,
        tuple(_concept(root, name, pictures) for name, pictures in read_training_pictures(root).items()),
        random_images=_folder(root / "random_images"),
        black_picture=black if black.is_file() else None,
    )


def _concept(root: Path, name: str, train_images: tuple[Path, ...]) -> BenchConcept:
    train, test = root / "concept" / "train" / name, root / "concept" / "test" / name
    info = read_json(train / "info.json", Info)
    conversations = read_questions(train / "conversations.json")
    plain, conditions = _conditions(test, info)
    pocket_file = test / "pocket.json"
    pocket = read_json(pocket_file, Pocket) if pocket_file.exists() else None
    train_conditions, held_out_conditions = _split(conditions, pocket, test, info)
    looks = pocket_looks(read_json(pocket_file, PocketConcept), pocket) if pocket else Looks()
    test_images = _folder(test)
    _check_densified(train / "info.json", info, f"<{name}>")
    return BenchConcept(
        name=name,
        class_noun=info.class_noun,
        info=info.info,
        extra_info=tuple(info.extra_info),
        conversation_type=info.conversation_type,
        train_images=train_images,
        test_images=test_images,
        conversations=_by_image([asked for asked in conversations if asked.image != "text_only"]),
        text_only=_turns(asked for asked in conversations if asked.image == "text_only"),
        test_vqa=_test_vqa(test, test_images),
        test_text_only=_turns(read_questions(test / "text_only.json", kind="text_only")),
        train_conditions=train_conditions,
        held_out_conditions=held_out_conditions,
        descriptions=looks.descriptions,
        nouns=looks.nouns or tuple(map(tuple, info.nouns)),
        shown_facts=looks.shown_facts,
        positive_recognitions=_turns(read_questions(train / "positive_recognitions.json")),
        random_recognitions=_turns(read_questions(train / "random_recognitions.json")),
        negative_images=_folder(train / "negative_example"),
        cropped_images=_folder(train / "cropped"),
        plain_condition=plain,
        dense_descriptions=tuple(info.dense),
        generated=tuple(read_generated(root, test, name)),
    )


def _check_densified(file: Path, info: Info, token: str) -> None:
    """Raises UnifyBenchError where what `sync-r1 densify` writes does not fit the facts."""
    for key, written in (("dense", info.dense), ("nouns", info.nouns)):
        if written and len(written) != len(info.extra_info):
            raise UnifyBenchError(
                f"{file}: key {key!r}: expected one entry per extra_info item ({len(info.extra_info)}), got "
                f"{len(written)}; run `sync-r1 densify` again"
            )
    for fact, nouns in enumerate(info.nouns):
        if named := [noun for noun in nouns if token in noun]:
            raise UnifyBenchError(
                f"{file}: key 'nouns.{fact}': expected nouns without the name {token}, no model knows it; got {named}"
            )


def _conditions(test: Path, info: Info) -> tuple[str | None, tuple[Condition, ...]]:
    """(the plain photo's condition or None, the others)."""
    file = test / "t2i_conditions.json"
    loaded = read_list_or_dict(file, list[Text], dict[str, list[Text]])
    if isinstance(loaded, list):
        # UnifyBench: "a photo of <bo>" comes first and refers to no fact; the others name none either.
        return (loaded[0] if loaded else None), tuple(Condition(text, None) for text in loaded[1:])
    if _ALIGNED_KEY not in loaded:
        raise UnifyBenchError(f"{file}: key {_ALIGNED_KEY!r} is missing; got {sorted(loaded)}")
    texts = loaded[_ALIGNED_KEY]
    if len(texts) != len(info.extra_info):
        raise UnifyBenchError(
            f"{file}: {_ALIGNED_KEY!r} must have one condition per extra_info item of info.json: "
            f"expected {len(info.extra_info)}, got {len(texts)}"
        )
    return None, tuple(Condition(text, fact) for fact, text in enumerate(texts))


def _split(
    conditions: Sequence[Condition], pocket: Pocket | None, test: Path, info: Info
) -> tuple[tuple[Condition, ...], tuple[Condition, ...]]:
    """(training, held-out). Raises UnifyBenchError when a text or a fact is on both sides."""
    file = test / ("pocket.json" if pocket else "t2i_conditions.json")
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
    if both := _texts(condition.text for condition in train) & _texts(condition.text for condition in held_out):
        raise UnifyBenchError(
            f"{file}: key 'conditions': trained on and held out at once: {sorted(both)}; keep each once"
        )
    told, asked = (
        _texts(info.extra_info[condition.fact] for condition in side if condition.fact is not None)
        for side in (train, held_out)
    )
    if told & asked:
        raise UnifyBenchError(
            f"{test.parents[1] / 'train' / test.name / 'info.json'}: key 'extra_info': a fact is trained on and held "
            f"out at once: {sorted(told & asked)}; keep each once"
        )
    return train, held_out


def _texts(texts: Iterable[str]) -> set[str]:
    """Texts as they are compared: words only, in lower case."""
    return {" ".join(re.findall(r"\w+", text.lower())) for text in texts}


def _test_vqa(test: Path, test_images: Sequence[Path]) -> dict[str, tuple[Turn, ...]]:
    """Questions by test picture; those that name no picture are asked about every one."""
    questions = read_questions(test / "vqa.json", kind="vqa")
    known = [path.name for path in test_images]
    for index, asked in enumerate(questions):
        if asked.image is not None and Path(asked.image).name not in known:
            raise UnifyBenchError(
                f"{test / 'vqa.json'}: key {asked.image!r} (question {index}): no such picture; {test} has {known}"
            )
    everywhere = [asked for asked in questions if asked.image is None]
    return _by_image(
        [replace(asked, image=Path(asked.image).name) for asked in questions if asked.image is not None]
        + [replace(asked, image=name) for name in known for asked in everywhere]
    )


def _folder(folder: Path) -> tuple[Path, ...]:
    return tuple(sorted(folder.glob("*.png")))


def _turns(questions: Iterable[Question]) -> tuple[Turn, ...]:
    return tuple(Turn(asked.question, asked.answer) for asked in questions)


def _by_image(questions: Sequence[Question]) -> dict[str, tuple[Turn, ...]]:
    images = dict.fromkeys(asked.image or "" for asked in questions)
    return {image: _turns(asked for asked in questions if asked.image == image) for image in images}
