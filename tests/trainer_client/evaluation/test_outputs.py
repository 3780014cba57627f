"""Outputs of any system are read or refused with file, line and key; what a policy puts out is in the same layout."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from toy_trainer import ToyPolicy

from sync_r1.trainer_client.evaluation.bench_items import ANSWER_TASKS, PICTURE_TASKS, Item, bench_items, write_items
from sync_r1.trainer_client.evaluation.outputs import Outputs, OutputsError, policy_outputs, read_outputs, write_outputs
from sync_r1.trainer_client.tasks.dreambooth import LIVE_SUBJECT_PROMPTS, OBJECT_PROMPTS
from sync_r1.trainer_client.tasks.pocketbench import write_pocketbench
from sync_r1.trainer_client.tasks.unifybench import UnifyBench, load_unifybench


@pytest.fixture(scope="module")
def bench(tmp_path_factory: pytest.TempPathFactory) -> UnifyBench:
    folder = tmp_path_factory.mktemp("pocketbench")
    write_pocketbench(folder)
    return load_unifybench(folder)


@pytest.fixture(scope="module")
def items(bench: UnifyBench) -> list[Item]:
    return bench_items(bench, prompts=2, seed=0)


def lines_of(items: list[Item]) -> list[dict[str, Any]]:
    return [
        dict(zip(("task", "concept", "index"), item.key))
        | ({"picture": "0.png"} if item.task in PICTURE_TASKS else {"answer": item.reference})
        for item in items
    ]


def write(folder: Path, lines: list[dict[str, Any]]) -> Path:
    Image.fromarray(np.zeros((8, 8, 3), np.uint8)).save(folder / "0.png")
    (folder / "outputs.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    return folder


def test_every_task_has_items_that_never_tell_the_answer(bench: UnifyBench, items: list[Item], tmp_path: Path) -> None:
    assert {item.task for item in items} == {*ANSWER_TASKS, *PICTURE_TASKS}
    assert len({item.key for item in items}) == len(items)
    bo = [item for item in items if item.concept.name == "bo"]
    assert [item.reference for item in bo if item.task == "recognition"] == ["yes ."] + ["no ."] * 27
    assert {item.prompt for item in bo if item.task == "knowledge"} == {"<bo> wearing its hat", "<bo> where it lives"}
    assert [item.prompt for item in bo if item.task == "dreambooth"] == [
        "a <bo> boy in the jungle", "a <bo> boy in the snow"]  # fmt: skip
    assert all("<" not in item.reference for item in items if item.task in PICTURE_TASKS)
    write_items(tmp_path / "items.jsonl", items, 4)
    written = [json.loads(line) for line in (tmp_path / "items.jsonl").read_text().splitlines()]
    assert len(written) == len(items)
    assert all(not {"reference", "answer"} & line.keys() for line in written)
    assert written[0].keys() == {"task", "concept", "index", "question", "picture"}


def test_dreambooth_has_25_prompts_each(shared_data: Path) -> None:
    assert len(set(OBJECT_PROMPTS)) == len(set(LIVE_SUBJECT_PROMPTS)) == 25
    published = (shared_data / "photos" / "prompts_and_classes.txt").read_text()
    listed = [line.replace("{0} {1}", "{}") for line in re.findall(r"^'(a .*)'\.format", published, re.MULTILINE)]
    assert listed == [*OBJECT_PROMPTS, *LIVE_SUBJECT_PROMPTS]


def test_complete_outputs_are_read_and_tasks_may_be_left_out(items: list[Item], tmp_path: Path) -> None:
    outputs = read_outputs(write(tmp_path, lines_of(items)), items)
    assert len(outputs.answers) + len(outputs.pictures) == len(items)
    assert set(outputs.pictures.values()) == {(tmp_path / "0.png",)}
    only_vqa = [line for line in lines_of(items) if line["task"] == "vqa"]
    assert {task for task, _, _ in read_outputs(write(tmp_path, only_vqa), items).answers} == {"vqa"}


def _change(**values: Any) -> Callable[[list[dict[str, Any]]], object]:
    return lambda lines: lines[2].update(values)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (_change(task="poem"), "line 3: key 'task': expected one of ('recognition', "),
        (_change(concept="ada"), "line 3: key 'concept': expected one of ['bo', "),
        (_change(index=99), "line 3: key 'index': <bo> has 28 items of task 'recognition' (0-27), got 99"),
        (_change(index=-1), "line 3: key 'index': Input should be greater than or equal to 0; got '-1'"),
        (_change(answer=None), "line 3: task 'recognition' wants 'answer' and no 'picture'"),
        (_change(picture="0.png"), "line 3: task 'recognition' wants 'answer' and no 'picture'"),
        (_change(index=1), "line 3: task 'recognition' of <bo>, index 1 is answered twice"),
        (_change(score=1), "line 3: key 'score': Extra inputs are not permitted"),
        (lambda lines: lines.__delitem__(slice(2, 5)), "is incomplete: 3 items are missing, of <bo> index 2-4"),
        (lambda lines: lines[-1].update(picture="gone.png"), "key 'picture': "),
        (lambda lines: lines.append(lines[-1]), "'0.png' is listed twice for task 'dreambooth' of <zoom>, index 1"),
        (lambda lines: lines.clear(), "has no outputs"),
    ],
)  # fmt: skip
def test_wrong_outputs_are_refused_with_line_and_key(
    items: list[Item], tmp_path: Path, change: Callable[[list[dict[str, Any]]], object], message: str
) -> None:
    lines = lines_of(items)
    change(lines)
    with pytest.raises(OutputsError, match=re.escape(message)):
        read_outputs(write(tmp_path, lines), items)


def test_a_folder_without_outputs_and_a_broken_line_are_named(items: list[Item], tmp_path: Path) -> None:
    with pytest.raises(OutputsError, match=r"outputs\.jsonl: the file is missing"):
        read_outputs(tmp_path, items)
    (tmp_path / "outputs.jsonl").write_text('{"task": "vqa"')
    with pytest.raises(OutputsError, match="line 1"):
        read_outputs(tmp_path, items)


def test_what_a_policy_puts_out_is_read_back(items: list[Item], tmp_path: Path) -> None:
    made = policy_outputs(ToyPolicy(), items, tmp_path, pictures=2, seed=0, batch=64)
    assert read_outputs(tmp_path, items) == made
    assert {len(paths) for paths in made.pictures.values()} == {2}
    again = policy_outputs(ToyPolicy(), items, tmp_path / "again", pictures=2, seed=0, batch=64)
    assert again.answers == made.answers
    for key, paths in made.pictures.items():
        assert [path.read_bytes() for path in paths] == [path.read_bytes() for path in again.pictures[key]]


def test_a_policy_that_refuses_a_benchmark_says_so(items: list[Item], tmp_path: Path) -> None:
    class Small(ToyPolicy):
        def answer(self, *arguments: Any, **named: Any) -> Any:
            raise ValueError("pictures must be 32×32")

    with pytest.raises(OutputsError, match="the policy cannot do this benchmark: pictures must be 32×32"):
        policy_outputs(Small(), items, tmp_path, pictures=1, seed=0, batch=8)


def test_outputs_are_written_relative_to_their_folder(tmp_path: Path) -> None:
    outputs = Outputs({("vqa", "bo", 0): "yes ."}, {("knowledge", "bo", 1): (tmp_path / "pictures" / "x.png",)})
    write_outputs(tmp_path, outputs)
    assert [json.loads(line) for line in (tmp_path / "outputs.jsonl").read_text().splitlines()] == [
        {"task": "vqa", "concept": "bo", "index": 0, "answer": "yes ."},
        {"task": "knowledge", "concept": "bo", "index": 1, "picture": "pictures/x.png"},
    ]
