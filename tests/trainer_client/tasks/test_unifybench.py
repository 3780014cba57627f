"""The UnifyBench loader reads both public forms, keeps training and held-out conditions apart, and names file and key
on error.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sync_r1.trainer_client.tasks.pocketbench import CONCEPTS, write_pocketbench
from sync_r1.trainer_client.tasks.unifybench import Turn, UnifyBenchError, load_unifybench

ALIGNED = "personalized_driven_generation"


@pytest.fixture(scope="module")
def read_only(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A benchmark of which a property test rewrites one file, the conditions of <bo>."""
    folder = tmp_path_factory.mktemp("bench")
    write_pocketbench(folder)
    (folder / "concept/test/bo/pocket.json").unlink()
    (folder / "concepts_list.json").write_text('["bo"]')
    return folder


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
        ("concept/test/mia/vqa.json", lambda value: ["no", "dict"], "key '0'"),
        ("concept/test/mia/vqa.json", lambda value: 7, "(the whole file)"),
        ("concept/test/mia/vqa.json", lambda value: {"9.png": value["0.png"]}, "9.png"),
        ("concept/train/mia/positive_recognitions.json", lambda value: [{"query": "who?"}], "0.answer"),
        ("concept/train/mia/info.json", lambda value: value.update(dense=["one"]), "dense"),
        ("concept/train/mia/info.json", lambda value: value.update(nouns=[["one"]]), "'nouns': expected one entry per"),
        ("concept/train/mia/info.json", lambda value: value.update(nouns=[["hat"]] * 5 + [[]]), "nouns.5"),
        ("concept/train/mia/info.json", lambda value: value.update(nouns=[["<mia> 's hat"]] * 6), "'nouns.0'"),
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


def test_a_fact_that_two_conditions_tell_cannot_be_on_both_sides(pocket: Path) -> None:
    (pocket / "concept/test/bo/pocket.json").unlink()
    file = pocket / "concept/train/bo/info.json"
    _edit(file, lambda value: value["extra_info"].__setitem__(1, value["extra_info"][0].upper()))
    with pytest.raises(UnifyBenchError, match="'extra_info': a fact is trained on and held out at once") as error:
        load_unifybench(pocket)
    assert str(file) in str(error.value)


def _words(text: str) -> str:
    return " ".join("".join(letter if letter.isalnum() else " " for letter in text.lower()).split())


@settings(max_examples=40, deadline=None)
@given(st.lists(st.sampled_from(["<bo> asleep", "<bo>  Asleep.", "<bo> in Paris", "<bo> in paris", "<bo> wet"])))
def test_no_list_of_conditions_is_trained_on_and_held_out(read_only: Path, texts: list[str]) -> None:
    file = read_only / "concept/test/bo/t2i_conditions.json"
    file.write_text(json.dumps(["a photo of <bo>", *texts]))
    overlap = {_words(text) for text in texts[0::2]} & {_words(text) for text in texts[1::2]}
    if overlap:
        with pytest.raises(UnifyBenchError, match="trained on and held out at once"):
            load_unifybench(read_only)
    else:
        bo = load_unifybench(read_only).concepts[0]
        sides = [{_words(c.text) for c in side} for side in (bo.train_conditions, bo.held_out_conditions)]
        assert sides[0].isdisjoint(sides[1])
        assert sides[0] | sides[1] == {_words(text) for text in texts}
        assert bo.plain_condition == "a photo of <bo>"


def test_all_forms_of_questions_are_accepted(pocket: Path) -> None:
    test = pocket / "concept/test/bo"
    raw = [{"query": "who ?", "answer": "<bo> ."}, {"query": "where ?", "answer": "here ."}]
    expected = load_unifybench(pocket).concepts[0].test_vqa.keys()
    spoken = [
        {"type": "vqa", "image": "concept/test/bo/0.png", "conversations": [
            {"from": "human", "value": "<image>\n" + turn["query"]}, {"from": "gpt", "value": turn["answer"]}]}
        for turn in raw
    ]  # fmt: skip
    forms: list[Any] = [{"0.png": raw}, raw, [{**turn, "image": "0.png"} for turn in raw], spoken]
    for form in forms:
        (test / "vqa.json").write_text(json.dumps(form))
        bo = load_unifybench(pocket).concepts[0]
        assert bo.test_vqa.keys() == expected
        assert bo.test_vqa["0.png"] == (Turn("who ?", "<bo> ."), Turn("where ?", "here ."))
    texts: list[Any] = [raw, [{**entry, "type": "text_only", "image": "black_512x512.png"} for entry in spoken]]
    for form in texts:
        (test / "text_only.json").write_text(json.dumps(form))
        read = load_unifybench(pocket).concepts[0].test_text_only
        assert read == (Turn("who ?", "<bo> ."), Turn("where ?", "here ."))


def test_generated_questions_are_read_and_their_pictures_found(pocket: Path) -> None:
    def entry(kind: str, image: str) -> dict[str, Any]:
        said = [{"from": "human", "value": "<image>\nis <bo> here ?"}, {"from": "gpt", "value": "Yes"}]
        return {"type": kind, "image": image, "conversations": said}

    file = pocket / "test_data/bo.json"
    file.parent.mkdir()
    file.write_text(json.dumps([entry("rec", "random_images/0.png"), entry("vqa", "0.png"), entry("text_only", "")]))
    with pytest.raises(UnifyBenchError, match=r"2\.image"):
        load_unifybench(pocket)
    file.write_text(json.dumps([entry("rec", "random_images/0.png"), entry("vqa", "0.png"), entry("text_only", "b")]))
    generated = load_unifybench(pocket).concepts[0].generated
    assert [asked.kind for asked in generated] == ["rec", "vqa", "text_only"]
    assert [asked.image for asked in generated] == [
        str(pocket / "random_images/0.png"), str(pocket / "concept/test/bo/0.png"), None]  # fmt: skip
    for wrong, key in ((entry("rec", "gone.png"), "0.image"), (entry("poem", "0.png"), "0.type")):
        file.write_text(json.dumps([wrong]))
        with pytest.raises(UnifyBenchError, match=key.replace(".", r"\.")) as error:
            load_unifybench(pocket)
        assert str(file) in str(error.value)


def test_the_rest_of_the_layout_is_read(pocket: Path) -> None:
    bench = load_unifybench(pocket)
    assert len(bench.random_images) == 20
    assert bench.black_picture == pocket / "black_512x512.png"
    for concept in bench.concepts:
        assert len(concept.negative_images) == 4
        assert [turn.answer for turn in concept.positive_recognitions] == ["yes ."]
        assert [turn.answer for turn in concept.random_recognitions] == ["no ."]
        assert concept.text_only
        assert "text_only" not in concept.conversations


@pytest.mark.parametrize("file", ["concepts_list.json", "concept/train/zoom/info.json", "concept/train/zoom/3.png"])
def test_a_missing_file_is_named(pocket: Path, file: str) -> None:
    (pocket / file).unlink()
    with pytest.raises(UnifyBenchError) as error:
        load_unifybench(pocket)
    assert str(pocket / file) in str(error.value)
