"""The UnifyBench loader reads both public forms, keeps training and held-out conditions apart, and names file and key
on error.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from sync_r1.trainer_client.pocketbench import CONCEPTS, write_pocketbench
from sync_r1.trainer_client.unifybench import UnifyBenchError, load_unifybench

ALIGNED = "personalized_driven_generation"


@pytest.fixture
def pocket(tmp_path: Path) -> Path:
    write_pocketbench(tmp_path)
    return tmp_path


def _edit(file: Path, change: Any) -> None:
    value = json.loads(file.read_text())
    value = change(value) or value
    file.write_text(json.dumps(value))


def test_pocketbench_holds_out_what_it_says(pocket: Path) -> None:
    bench = load_unifybench(pocket)
    assert [concept.name for concept in bench.concepts] == [concept.name for concept in CONCEPTS]
    for concept, written in zip(bench.concepts, CONCEPTS):
        assert {condition.text for condition in concept.held_out_conditions} == {
            written.condition(role) for role in written.held_out
        }
        assert len(concept.train_conditions) == 4
        train_facts = {condition.fact for condition in concept.train_conditions}
        assert train_facts.isdisjoint(condition.fact for condition in concept.held_out_conditions)
        assert len(concept.descriptions) == len(concept.extra_info) == 6
        # No training picture shows a held-out place or home, or any other held-out fact.
        shown = {fact for facts in concept.shown_facts.values() for fact in facts}
        assert shown.isdisjoint(condition.fact for condition in concept.held_out_conditions)
        assert train_facts <= shown


def test_photos_of_real_subjects_load(shared_data: Path) -> None:
    bench = load_unifybench(shared_data / "photos")
    assert len(bench.concepts) == 8
    for concept in bench.concepts:
        assert concept.token in concept.info
        assert all(path.is_file() for path in (*concept.train_images, *concept.test_images))
        assert concept.train_conditions
        assert concept.held_out_conditions
        assert not set(concept.train_conditions) & set(concept.held_out_conditions)
        for condition in concept.train_conditions:
            assert condition.fact is not None
            assert concept.extra_info[condition.fact]


def test_the_list_form_of_conditions_starts_with_the_plain_photo(pocket: Path) -> None:
    (pocket / "concept/test/bo/pocket.json").unlink()
    file = pocket / "concept/test/bo/t2i_conditions.json"
    file.write_text(json.dumps(["a photo of <bo>", "<bo> in Paris", "<bo> asleep", "<bo> on the moon"]))
    bo = load_unifybench(pocket).concepts[0]
    assert [condition.text for condition in bo.train_conditions] == ["<bo> in Paris", "<bo> on the moon"]
    assert [condition.text for condition in bo.held_out_conditions] == ["<bo> asleep"]
    assert {condition.fact for condition in (*bo.train_conditions, *bo.held_out_conditions)} == {None}


def test_a_condition_that_is_trained_on_and_held_out_is_refused(pocket: Path) -> None:
    def twice(value: dict[str, Any]) -> None:
        value["conditions"].append({**value["conditions"][0], "split": "training"})

    file = pocket / "concept/test/bo/pocket.json"
    _edit(file, twice)
    with pytest.raises(UnifyBenchError, match="trained on and held out at once") as error:
        load_unifybench(pocket)
    assert str(file) in str(error.value)


@pytest.mark.parametrize(
    ("file", "change", "key"),
    [
        ("concept/train/mia/info.json", lambda value: value.pop("class") and None, "class"),
        ("concept/train/mia/info.json", lambda value: value.update(extra_info=["a", 3]), "extra_info.1"),
        (
            "concept/train/mia/conversations.json",
            lambda value: value["0.png"][2].pop("answer") and None,
            "0.png.2.answer",
        ),
        ("concept/test/mia/vqa.json", lambda value: ["no", "dict"], "(the whole file)"),
        ("concept/test/mia/t2i_conditions.json", lambda value: {"other": []}, ALIGNED),
        ("concept/test/mia/t2i_conditions.json", lambda value: value[ALIGNED].pop() and None, ALIGNED),
        ("concept/train/train_images.json", lambda value: value.pop("mia") and None, "mia"),
        ("concepts_list.json", lambda value: [*value[:2], 7], "2"),
    ],
)
def test_errors_name_file_and_key(pocket: Path, file: str, change: Any, key: str) -> None:
    _edit(pocket / file, change)
    with pytest.raises(UnifyBenchError) as error:
        load_unifybench(pocket)
    assert str(pocket / file) in str(error.value)
    assert key in str(error.value)


@pytest.mark.parametrize("file", ["concepts_list.json", "concept/train/zoom/info.json", "concept/train/zoom/3.png"])
def test_a_missing_file_is_named(pocket: Path, file: str) -> None:
    (pocket / file).unlink()
    with pytest.raises(UnifyBenchError) as error:
        load_unifybench(pocket)
    assert str(pocket / file) in str(error.value)
