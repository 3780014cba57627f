"""The reasoning loop keeps its promises: what is asked, which sentence is kept, and that no score ever reads the
policy's words.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from toy_trainer import sample_task

from sync_r1.trainer_client.tasks.pocketbench import write_pocketbench
from sync_r1.trainer_client.tasks.tasks import (
    extract_sentence,
    gate_sample,
    picture_task,
    prompt_of,
    recall_task,
    reward_nouns,
    reward_text,
    sample,
)
from sync_r1.trainer_client.tasks.unifybench import BenchConcept, Condition, Turn, UnifyBench, load_unifybench

PIXELS = np.zeros((64, 64, 3), np.uint8)


@pytest.fixture(scope="module")
def bench(tmp_path_factory: pytest.TempPathFactory) -> UnifyBench:
    folder = tmp_path_factory.mktemp("pocketbench")
    write_pocketbench(folder)
    return load_unifybench(folder)


@pytest.mark.parametrize(
    ("answer", "sentence"),
    [
        ("<bo> 's hat is green . <bo> lives in the forest .", "<bo> 's hat is green ."),
        ("A red ribbon. And more!", "A red ribbon."),
        ("no full stop at all", "no full stop at all"),
        ("  two\nlines . x", "two lines ."),
        ("", ""),
        (" ".join(["word"] * 30), " ".join(["word"] * 20)),
        ("it costs 3.5 coins . yes .", "it costs 3.5 coins ."),
    ],
)
def test_the_first_sentence_is_kept_up_to_twenty_words(answer: str, sentence: str) -> None:
    assert extract_sentence(answer) == sentence


def test_the_prompt_is_condition_look_and_the_policys_own_sentence(bench: UnifyBench) -> None:
    bo = bench.concepts[0]
    task = recall_task(bo, bo.train_conditions[0], np.random.default_rng(0))
    prompt = prompt_of(task, "<bo> 's scarf is red . and more")
    assert prompt == f"{task.condition.text} . {bo.info} <bo> 's scarf is red ."


def test_changing_the_answer_alone_changes_neither_scores_input(bench: UnifyBench) -> None:
    """Text faithfulness and the gate see the same prompt and nouns whatever the policy says: "say something easy, draw
    it" cannot win.
    """
    rng = np.random.default_rng(0)
    for _ in range(20):
        task = sample_task(bench, "r", rng)
        sent = [
            sample(task, identifier="x", group="g", pixels=PIXELS, answer=answer)
            for answer in (task.reference_answer, "a red mug .", "")
        ]
        assert len({item.prompt for item in sent}) == 1
        assert sent[0].prompt == reward_text(task)
        preview = gate_sample(task, identifier="x", group="g", pixels=PIXELS)
        assert preview.prompt == sent[0].prompt
        assert {item.nouns for item in (*sent, preview)} == {reward_nouns(task)}
        assert preview.answer is None
        assert preview.question == ""


def test_pocket_text_says_what_the_picture_must_show_without_the_name(bench: UnifyBench) -> None:
    bo = bench.concepts[0]
    texts = {condition.text: reward_text(recall_task(bo, condition, np.random.default_rng(0)))
             for condition in (*bo.train_conditions, *bo.held_out_conditions)}  # fmt: skip
    assert texts["<bo> wearing its hat"] == "a blue striped boy with a green hat"
    assert texts["<bo> where it lives"] == "a blue striped boy in the forest"
    assert texts["<bo> with its toy"] == "a blue striped boy with a yellow ball"
    assert not any("<" in text for text in texts.values())


def test_nouns_are_what_the_text_says_there_is_to_see(bench: UnifyBench) -> None:
    bo = bench.concepts[0]
    tasks = {condition.text: recall_task(bo, condition, np.random.default_rng(0))
             for condition in (*bo.train_conditions, *bo.held_out_conditions)}  # fmt: skip
    assert reward_nouns(tasks["<bo> wearing its hat"]) == ("blue striped boy", "green hat")
    assert reward_nouns(tasks["<bo> at its favourite place"]) == ("blue striped boy", "beach")
    assert reward_nouns(tasks["<bo> with its toy"]) == ("blue striped boy", "yellow ball")
    assert all(noun in reward_text(task) for task in tasks.values() for noun in reward_nouns(task))


def test_elsewhere_the_text_is_condition_look_and_fact_with_the_class_for_the_name() -> None:
    concept = BenchConcept(
        "koda", "stuffed animal", "<koda> is a grey husky.", ("<koda>'s sled is painted green.",), "object",
        (), (), {}, (), {}, (), (Condition("<koda> with its sled", 0),), (),
    )  # fmt: skip
    task = recall_task(concept, concept.train_conditions[0], np.random.default_rng(0))
    assert reward_text(task) == (
        "the stuffed animal with its sled. the stuffed animal is a grey husky. "
        "the stuffed animal's sled is painted green."
    )
    assert reward_nouns(task) == ()


def test_task_r_shuffles_the_facts_and_knows_the_right_one(bench: UnifyBench) -> None:
    kit = bench.concepts[2]
    rng = np.random.default_rng(0)
    tasks = [recall_task(kit, kit.train_conditions[1], rng) for _ in range(20)]
    assert len({task.choices for task in tasks}) > 10
    for task in tasks:
        assert sorted(task.choices) == sorted(kit.extra_info)
        assert task.target is not None
        assert task.choices[task.target] == task.reference_answer
        assert task.question.endswith(f"{task.condition.text} ?")


def test_training_never_draws_a_held_out_condition(bench: UnifyBench) -> None:
    rng = np.random.default_rng(0)
    for kind in ("u", "r"):
        for _ in range(300):
            task = sample_task(bench, kind, rng)  # type: ignore[arg-type]
            assert task.condition in task.concept.train_conditions
            assert task.condition.text not in {condition.text for condition in task.concept.held_out_conditions}


def test_task_u_draws_under_a_condition_whose_fact_its_picture_shows(bench: UnifyBench) -> None:
    rng = np.random.default_rng(0)
    for _ in range(100):
        task = sample_task(bench, "u", rng)
        assert task.picture is not None
        assert task.condition.fact in task.concept.shown_facts[task.picture.name]


def test_samples_carry_what_each_reward_needs(bench: UnifyBench) -> None:
    bo = bench.concepts[0]
    task = picture_task(bo, bo.train_images[0], Turn("what colour is <bo> ?", "<bo> is blue ."), bo.train_conditions[0])
    item = sample(task, identifier="1", group="g", pixels=PIXELS, answer="<bo> is red .")
    assert item.answer == "<bo> is red ."
    assert item.reference_answers == ("<bo> is blue .",)
    assert item.target is None
    assert item.concept.class_noun == "boy"
    assert len(item.concept.references) == 4
    assert item.image is not None
    assert item.image.pixels.shape == (64, 64, 3)


def test_a_condition_without_a_fact_cannot_be_recalled(bench: UnifyBench) -> None:
    with pytest.raises(ValueError, match="refers to none"):
        recall_task(bench.concepts[0], Condition("a photo of <bo>", None), np.random.default_rng(0))


def test_reference_pictures_are_read_once(bench: UnifyBench) -> None:
    bo = bench.concepts[0]
    task = recall_task(bo, bo.train_conditions[0], np.random.default_rng(0))
    first, second = (gate_sample(task, identifier=name, group="g", pixels=PIXELS) for name in "ab")
    assert first.concept.references[0] is second.concept.references[0]
    assert Path(bo.train_images[0]).exists()
