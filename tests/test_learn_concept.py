"""A concept is learned from a few pictures by its own tokens alone, and what is saved knows it."""

from __future__ import annotations

import copy
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from showo_folders import write_published
from typer.testing import CliRunner

from sync_r1.cli.main import app
from sync_r1.trainer_client.config import ConfigError, PolicyConfig
from sync_r1.trainer_client.evaluation.pocketbench import CONCEPTS, write_pocketbench
from sync_r1.trainer_client.evaluation.unifybench_files import UnifyBenchError
from sync_r1.trainer_client.policies.base import Question
from sync_r1.trainer_client.policies.concept_data import ConceptData, read_concept
from sync_r1.trainer_client.policies.learn_concept import (
    ConceptLearner,
    ConceptTraining,
    learn_concept,
    learn_from_folder,
)
from sync_r1.trainer_client.policies.loading import load_policy
from sync_r1.trainer_client.policies.pocket import PocketPolicy
from sync_r1.trainer_client.policies.showo_policy import ShowoPolicy

QUICK = ConceptTraining(understanding_steps=5, generation_steps=10, rows=2, learning_rate=2e-2)


@pytest.fixture(params=["pocket", "showo"])
def policy(request: pytest.FixtureRequest, tmp_path: Path) -> ShowoPolicy:
    if request.param == "pocket":
        return PocketPolicy.load()
    return write_published(tmp_path / "published").load(steps=4)


def concept(size: int) -> ConceptData:
    rng = np.random.default_rng(0)
    pictures = tuple(rng.integers(0, 256, (size, size, 3)).astype(np.uint8) for _ in range(3))
    questions = ((0, "what is <pip> ?", "<pip> is a red cat ."), (None, "what colour is <pip> ?", "red ."))
    return ConceptData("<pip>", "cat", pictures[:2], pictures[2:], (*questions, (2, "is it <pip> ?", "no .")))


def test_only_the_new_tokens_train_and_all_of_them_do(policy: ShowoPolicy) -> None:
    before, at = copy.deepcopy(policy.model), policy.model.config.text_vocab
    learner = ConceptLearner(policy, concept(policy.tokenizer.config.image_size), QUICK)
    trained = {name: p for name, p in policy.model.named_parameters() if p.requires_grad}
    assert {p.shape[0] for p in trained.values()} == {1, len(learner.ids.all)}
    assert len(trained) == 3
    start = learner.embeddings.rows.detach().clone()
    learner.step(drawing=False)
    asked = learner.embeddings.rows.grad
    assert asked is not None
    told = 1 + len(learner.ids.understanding)
    assert (asked[:told].abs().sum(1) > 0).all()
    assert (asked[told:] == 0).all(), "questions do not show the tokens of drawings"
    for _ in range(3):
        learner.step(drawing=True)
    assert (learner.embeddings.rows != start).any(1).all()
    learner.finish()
    count = len(learner.ids.all)
    after = policy.model.state_dict()
    for name, value in before.state_dict().items():
        kept = after[name]
        if "embed" in name or "lm_head" in name:
            kept = torch.cat([kept[:at], kept[at + count :]])
        assert torch.equal(kept, value), name
    assert all(p.requires_grad for p in policy.parameters())


def test_learning_lowers_both_losses_and_answers_never_say_a_soft_token(policy: ShowoPolicy) -> None:
    data = concept(policy.tokenizer.config.image_size)
    before, after = learn_concept(policy, data, QUICK)
    assert after.understanding < before.understanding
    assert after.generation < before.generation
    soft = set(policy.words.concept_ids("<pip>").all[1:])
    answers = policy.answer([Question("what is <pip> ?")] * 8, temperature=2.0, generator=torch.Generator())
    assert not soft & set(answers.tokens_N_L.flatten().tolist())
    with pytest.raises(ValueError, match="already knows <pip>"):
        learn_concept(policy, data, QUICK)


def test_what_is_saved_draws_with_the_tokens_it_learned(policy: ShowoPolicy, tmp_path: Path) -> None:
    folder = tmp_path / "concept"
    _write(folder, policy.tokenizer.config.image_size)
    weights = tmp_path / "before"
    policy.save(weights)
    section = PolicyConfig(weights=str(weights), device="cpu")
    losses = learn_from_folder(folder, folder / "info.json", tmp_path / "out", policy=section, settings=QUICK)
    learned = load_policy(PolicyConfig(weights=str(tmp_path / "out"), device="cpu"), "fp32")
    assert isinstance(learned, ShowoPolicy)
    assert learned.words.learned == ("<pip>",)
    ids = learned.words.concept_ids("<pip>")
    assert set(ids.all) <= set(learned.start(["<pip> at the beach"]).prompt_ids_N_P[0].tolist())
    assert learned.model.showo.model.embed_tokens.weight.shape[0] == learned.model.config.vocab_size
    state = learned.advance(learned.start(["<pip> at the beach"]), learned.steps, generator=torch.Generator())
    assert learned.image_log_probs(state).isfinite().all()
    summary = json.loads((tmp_path / "out" / "concept.json").read_text())
    assert (summary["name"], summary["pictures"]) == ("<pip>", 2)
    assert summary["after"]["generation"] == losses[1].generation
    with pytest.raises(ConfigError, match="already holds a policy"):
        learn_from_folder(folder, folder / "info.json", tmp_path / "out", policy=section)


def _write(folder: Path, size: int) -> None:
    folder.mkdir()
    for name in ("a.png", "b.png", "a_mask.png"):
        Image.new("RGB", (2 * size, size + 3), "red").save(folder / name)
    (folder / "info.json").write_text(json.dumps({"class": "cat", "info": "<pip> is a red cat ."}))


def test_pictures_become_squares_and_questions_come_from_info_where_there_are_none(tmp_path: Path) -> None:
    _write(tmp_path / "c", 16)
    data = read_concept(tmp_path / "c", tmp_path / "c" / "info.json", 16)
    assert [picture.shape for picture in data.pictures] == [(16, 16, 3)] * 2
    assert data.questions == tuple((i, "what is <pip> ?", "<pip> is a red cat .") for i in range(2))


def test_a_concept_of_the_benchmark_is_read_with_its_questions_and_its_lookalikes(tmp_path: Path) -> None:
    write_pocketbench(tmp_path, concepts=CONCEPTS[:1])
    folder = tmp_path / "concept" / "train" / "bo"
    data = read_concept(folder, folder / "info.json", 64)
    assert (data.name, data.class_noun, len(data.pictures), len(data.others)) == ("<bo>", "boy", 10, 4)
    recognised = [(number, answer) for number, question, answer in data.questions if question.startswith("is <bo> in")]
    assert recognised[-4:] == [(number, "no .") for number in range(10, 14)]
    assert any(number is None for number, _, _ in data.questions), "questions about no picture"


def test_a_folder_to_learn_nothing_from_is_an_error_in_one_line(tmp_path: Path) -> None:
    _write(tmp_path / "c", 16)
    info = tmp_path / "c" / "info.json"
    (tmp_path / "empty").mkdir()
    out = tmp_path / "out"
    shown = CliRunner().invoke(
        app, ["learn-concept", "--images", str(tmp_path / "empty"), "--info", str(info), "--out", str(out)]
    )
    assert shown.exit_code == 1
    assert "no pictures" in shown.output
    info.write_text(json.dumps({"class": "cat", "info": "Pip is a cat."}))
    with pytest.raises(UnifyBenchError, match="key 'info' must name the concept"):
        read_concept(tmp_path / "c", info, 16)
    assert not out.exists()


def test_a_second_concept_leaves_the_first_as_it_was(tmp_path: Path) -> None:
    policy = write_published(tmp_path).load(steps=4)
    learn_concept(policy, concept(8), QUICK)
    first = policy.model.showo.model.embed_tokens.weight.detach()[policy.words.concept_ids("<pip>").all].clone()
    learn_concept(policy, replace(concept(8), name="<lu>"), QUICK)
    assert policy.words.learned == ("<pip>", "<lu>")
    assert torch.equal(policy.model.showo.model.embed_tokens.weight[policy.words.concept_ids("<pip>").all], first)
    assert policy.model.config.text_vocab == len(policy.words)
