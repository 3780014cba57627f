"""What a system answered and drew for a benchmark: a folder with one JSONL file and pictures, whoever made it.

    outputs.jsonl     {"task": "vqa", "concept": "bo", "index": 0, "answer": "a red hat ."}
                      {"task": "dreambooth", "concept": "bo", "index": 3, "picture": "pictures/bo-3-0.png"}

Tasks and indices are those of `bench_items.py` (`sync-r1 evaluate --items FILE` writes them). An item of a picture task
has one line per picture. A task may be left out altogether; one that is there must be complete, for a mean over
what a system chose to answer compares with nothing.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import torch
from PIL import Image
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from sync_r1.reward_models.errors import SyncR1Error
from sync_r1.reward_models.types import Pixels
from sync_r1.trainer_client.evaluation.bench_items import ANSWER_TASKS, PICTURE_TASKS, Item, Key
from sync_r1.trainer_client.policies.base import Policy, Question
from sync_r1.trainer_client.rollouts.sampler import parts_of
from sync_r1.trainer_client.tasks.tasks import load_pixels, prompt_of

OUTPUTS_FILE = "outputs.jsonl"


class OutputsError(SyncR1Error, ValueError):
    """The outputs do not fit the benchmark; the message names file, line and key, and what was expected."""


class _Line(BaseModel):
    model_config = ConfigDict(extra="forbid")
    task: str
    concept: str
    index: Annotated[int, Field(ge=0)]
    answer: str | None = None
    picture: str | None = None


@dataclass(frozen=True)
class Outputs:
    """Answers and picture files by item."""

    answers: dict[Key, str]
    pictures: dict[Key, tuple[Path, ...]]


def read_outputs(folder: Path, items: Sequence[Item]) -> Outputs:
    """Read and check a folder of outputs against the benchmark's items. Raises OutputsError."""
    file = folder / OUTPUTS_FILE
    if not file.is_file():
        raise OutputsError(f"{file}: the file is missing; its layout is described in docs/evaluation.md")
    known = {item.key for item in items}
    answers: dict[Key, str] = {}
    pictures: dict[Key, tuple[Path, ...]] = {}
    for number, text in enumerate(file.read_text(encoding="utf-8").splitlines(), start=1):
        if not text.strip():
            continue
        where = f"{file}, line {number}"
        line = _parse(text, where)
        key = (line.task, line.concept, line.index)
        if key not in known:
            raise OutputsError(f"{where}: {_unknown(key, known)}")
        if line.task in ANSWER_TASKS:
            if line.answer is None or line.picture is not None:
                raise OutputsError(f"{where}: task {line.task!r} wants 'answer' and no 'picture'")
            if key in answers:
                raise OutputsError(f"{where}: {_named(key)} is answered twice; keep one line")
            answers[key] = line.answer
        else:
            if line.picture is None or line.answer is not None:
                raise OutputsError(f"{where}: task {line.task!r} wants 'picture' and no 'answer'")
            path = folder / line.picture
            if not path.is_file():
                raise OutputsError(f"{where}: key 'picture': {path} does not exist")
            if path in pictures.get(key, ()):
                raise OutputsError(f"{where}: {line.picture!r} is listed twice for {_named(key)}")
            pictures[key] = (*pictures.get(key, ()), path)
    if not answers and not pictures:
        raise OutputsError(f"{file} has no outputs; expected one JSON object per line")
    _check_complete(file, items, {**answers, **pictures}.keys())
    return Outputs(answers, pictures)


def write_outputs(folder: Path, outputs: Outputs) -> None:
    """Write `outputs.jsonl` for pictures that lie in `folder`."""
    lines = [dict(zip(("task", "concept", "index"), key)) | {"answer": text} for key, text in outputs.answers.items()]
    lines += [
        dict(zip(("task", "concept", "index"), key)) | {"picture": str(path.relative_to(folder))}
        for key, paths in outputs.pictures.items()
        for path in paths
    ]
    (folder / OUTPUTS_FILE).write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")


@torch.no_grad()
def policy_outputs(
    policy: Policy,
    items: Sequence[Item],
    folder: Path,
    *,
    pictures: int,
    seed: int,
    batch: int,
    on_progress: Callable[[str, int, int], None] = lambda what, done, total: None,
) -> Outputs:
    """Let a policy do all items and leave them in `folder` in the layout above.

    Answers are greedy; `pictures` are drawn per item at temperature 1. A knowledge picture is drawn from the policy's
    own answer to its condition, as in training. Raises OutputsError when the policy refuses the benchmark's questions
    or pictures.
    """
    folder.mkdir(parents=True, exist_ok=True)
    answers: dict[Key, str] = {}
    drawn: dict[Key, tuple[Path, ...]] = {}
    generator = torch.Generator().manual_seed(seed)
    try:
        # Questions with and without a picture have different layouts, so they are answered in separate batches.
        asked = [item for item in items if item.task in ANSWER_TASKS]
        with_picture, without = [i for i in asked if i.picture], [i for i in asked if not i.picture]
        for part in parts_of(with_picture, batch) + parts_of(without, batch):
            questions = [Question(item.prompt, load_pixels(item.picture) if item.picture else None) for item in part]
            texts = policy.answer(questions, temperature=0.0, generator=None).texts
            answers |= {item.key: text for item, text in zip(part, texts)}
            on_progress("answering", len(answers), len(asked))
        wanted = [(item, number) for item in items if item.task in PICTURE_TASKS for number in range(pictures)]
        for done, chosen in enumerate(parts_of(wanted, batch)):
            prompts = [_draw_from(item, answers) for item, _ in chosen]
            state = policy.advance(policy.start(prompts), policy.steps, temperature=1.0, generator=generator)
            for (item, number), pixels in zip(chosen, policy.decode(state)):
                path = folder / "pictures" / f"{item.task}-{item.concept.name}-{item.index:02d}-{number}.png"
                _save(path, pixels)
                drawn[item.key] = (*drawn.get(item.key, ()), path)
            on_progress("drawing", min((done + 1) * batch, len(wanted)), len(wanted))
    except ValueError as error:
        raise OutputsError(f"the policy cannot do this benchmark: {error}") from error
    outputs = Outputs(answers, drawn)
    write_outputs(folder, outputs)
    return outputs


def _draw_from(item: Item, answers: dict[Key, str]) -> str:
    if item.recall is None:
        return item.prompt
    return prompt_of(item.recall, answers["recall", item.concept.name, item.index])


def _save(path: Path, pixels: Pixels) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path)


def _parse(text: str, where: str) -> _Line:
    try:
        return _Line.model_validate_json(text)
    except ValidationError as error:
        first = error.errors()[0]
        key = ".".join(str(part) for part in first["loc"]) or "(the whole line)"
        raise OutputsError(f"{where}: key {key!r}: {first['msg']}; got {str(first.get('input'))[:80]!r}") from None


def _unknown(key: Key, known: Iterable[Key]) -> str:
    task, concept, index = key
    tasks = (*ANSWER_TASKS, *PICTURE_TASKS)
    if task not in tasks:
        return f"key 'task': expected one of {tasks}, got {task!r}"
    concepts = sorted({name for _, name, _ in known})
    if concept not in concepts:
        return f"key 'concept': expected one of {concepts}, got {concept!r}"
    there = sorted(i for t, c, i in known if (t, c) == (task, concept))
    return f"key 'index': <{concept}> has {len(there)} items of task {task!r} ({_spans(there)}), got {index}"


def _check_complete(file: Path, items: Sequence[Item], given: Iterable[Key]) -> None:
    given = set(given)
    for task in sorted({task for task, _, _ in given}):
        missing = [item.key for item in items if item.task == task and item.key not in given]
        if missing:
            first = missing[0]
            of_concept = [index for _, concept, index in missing if concept == first[1]]
            raise OutputsError(
                f"{file}: task {task!r} is incomplete: {len(missing)} items are missing, of <{first[1]}> index "
                f"{_spans(of_concept)}; give all of them, or leave the task out altogether"
            )


def _named(key: Key) -> str:
    return f"task {key[0]!r} of <{key[1]}>, index {key[2]}"


def _spans(numbers: Sequence[int]) -> str:
    """ "0-3, 7" for 0, 1, 2, 3, 7."""
    spans: list[list[int]] = []
    for number in numbers:
        if spans and number == spans[-1][1] + 1:
            spans[-1][1] = number
        else:
            spans.append([number, number])
    return ", ".join(str(low) if low == high else f"{low}-{high}" for low, high in spans) or "none"
