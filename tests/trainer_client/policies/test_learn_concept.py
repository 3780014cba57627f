"""A concept is learned from a few pictures by its own tokens alone, and what is saved knows it."""

from __future__ import annotations

import copy
import json
import shutil
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
from sync_r1.trainer_client.policies.base import Question
from sync_r1.trainer_client.policies.concepts.data import ConceptData, benchmark_files, concept_files, read_concept
from sync_r1.trainer_client.policies.concepts.embeddings import ConceptLearner, ConceptTraining, learn_concept
from sync_r1.trainer_client.policies.concepts.learn import learn_concepts
from sync_r1.trainer_client.policies.loading import load_policy
from sync_r1.trainer_client.policies.pocket.policy import PocketPolicy
from sync_r1.trainer_client.policies.showo.policy import ShowoPolicy
from sync_r1.trainer_client.tasks.named_benchmarks import UNSEEN_CONCEPTS
from sync_r1.trainer_client.tasks.pocketbench import CONCEPTS, write_pocketbench
from sync_r1.trainer_client.tasks.unifybench_schema import UnifyBenchError

LISTED = ["0.png", "6.png"]
"""One picture of the concept alone, one with a fact."""
ONCE = ConceptTraining(understanding_steps=1, generation_steps=1, rows=8, learning_rate=2e-2)
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
    files = [concept_files(folder, folder / "info.json")]
    (result,) = learn_concepts(files, tmp_path / "out", policy=section, settings=QUICK)
    learned = load_policy(PolicyConfig(weights=str(tmp_path / "out"), device="cpu"), "fp32")
    assert isinstance(learned, ShowoPolicy)
    assert learned.words.learned == ("<pip>",)
    ids = learned.words.concept_ids("<pip>")
    assert set(ids.all) <= set(learned.start(["<pip> at the beach"]).prompt_ids_N_P[0].tolist())
    assert learned.model.showo.model.embed_tokens.weight.shape[0] == learned.model.config.vocab_size
    state = learned.advance(learned.start(["<pip> at the beach"]), learned.steps, generator=torch.Generator())
    assert learned.image_log_probs(state).isfinite().all()
    (summary,) = json.loads((tmp_path / "out" / "concept.json").read_text())["concepts"]
    assert (summary["name"], summary["pictures"]) == ("<pip>", 2)
    assert summary["after"]["generation"] == result.after.generation
    with pytest.raises(ConfigError, match="already holds something"):
        learn_concepts(files, tmp_path / "out", policy=section)


def _write(folder: Path, size: int) -> None:
    folder.mkdir()
    for name in ("a.png", "b.png", "a_mask.png"):
        Image.new("RGB", (2 * size, size + 3), "red").save(folder / name)
    (folder / "info.json").write_text(json.dumps({"class": "cat", "info": "<pip> is a red cat ."}))


def test_pictures_become_squares_and_questions_come_from_info_where_there_are_none(tmp_path: Path) -> None:
    _write(tmp_path / "c", 16)
    data = read_concept(concept_files(tmp_path / "c", tmp_path / "c" / "info.json"), 16)
    assert [picture.shape for picture in data.pictures] == [(16, 16, 3)] * 2
    assert data.questions == tuple((i, "what is <pip> ?", "<pip> is a red cat .") for i in range(2))


def test_a_concept_of_the_benchmark_is_read_with_its_questions_and_its_lookalikes(tmp_path: Path) -> None:
    write_pocketbench(tmp_path, concepts=CONCEPTS[:1])
    data = read_concept(benchmark_files(tmp_path)[0], 64)
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
        concept_files(tmp_path / "c", info)
    assert not out.exists()


def test_what_is_learned_later_leaves_what_was_learned_as_it_was(policy: ShowoPolicy) -> None:
    size = policy.tokenizer.config.image_size
    learn_concept(policy, concept(size), QUICK)
    rows, drawn, said = _rows(policy, "<pip>"), _drawn(policy, "<pip> at the beach"), _said(policy)
    for name in ("<lu>", "<ned>"):
        learn_concept(policy, replace(concept(size), name=name), QUICK)
    assert policy.words.learned == ("<pip>", "<lu>", "<ned>")
    assert policy.model.config.text_vocab == len(policy.words)
    assert all(torch.equal(now, then) for now, then in zip(_rows(policy, "<pip>"), rows))
    assert torch.equal(_drawn(policy, "<pip> at the beach"), drawn)
    assert _said(policy) == said


def _rows(policy: ShowoPolicy, name: str) -> list[torch.Tensor]:
    ids, network = policy.words.concept_ids(name).all, policy.model.showo
    matrices = (network.model.embed_tokens.weight, network.lm_head.weight, network.lm_head.bias)
    return [matrix.detach()[ids].clone() for matrix in matrices]


def _drawn(policy: ShowoPolicy, prompt: str) -> torch.Tensor:
    generator = torch.Generator().manual_seed(0)
    return policy.advance(policy.start([prompt] * 4), policy.steps, generator=generator).tokens_N_I


def _said(policy: ShowoPolicy) -> list[str]:
    questions = [Question("what is <pip> ?"), Question("what colour is <pip> ?")]
    return policy.answer(questions, temperature=0.0, generator=None).texts


@pytest.fixture
def bench(tmp_path: Path) -> Path:
    """A benchmark of two concepts of which nothing but the training half is there; it lists two pictures of each."""
    root = tmp_path / "bench"
    write_pocketbench(root, concepts=UNSEEN_CONCEPTS[:2])
    shutil.rmtree(root / "concept" / "test")
    (root / "concept" / "train" / "train_images.json").write_text(json.dumps({"tom": LISTED, "ada": LISTED}))
    return root


def learn(*arguments: str | Path) -> tuple[int, str]:
    result = CliRunner().invoke(app, ["learn-concept", *map(str, arguments)])
    return result.exit_code, " ".join(result.output.split())


def test_a_whole_benchmark_is_learned_into_one_policy(bench: Path, tmp_path: Path) -> None:
    settings, told = replace(ONCE, generation_steps=4), list[str]()
    learn_concepts(
        benchmark_files(bench), tmp_path / "both", policy=PolicyConfig(), settings=settings,
        progress=lambda message, done, steps: told.append(f"{message} {done}/{steps}"),
    )  # fmt: skip
    both = PocketPolicy.load(tmp_path / "both")
    assert both.words.learned == ("<tom>", "<ada>")
    entries = json.loads((tmp_path / "both" / "concept.json").read_text())["concepts"]
    assert [(entry["name"], entry["pictures"]) for entry in entries] == [("<tom>", 2), ("<ada>", 2)]
    assert all(entry["after"]["generation"] < entry["before"]["generation"] for entry in entries)
    assert told[-1].startswith("<ada>: step 4")
    assert told[-1].endswith(" 9/10")
    # A policy that knows one of them learns the other alone, and comes to the same.
    learn_concepts(benchmark_files(bench)[:1], tmp_path / "one", policy=PolicyConfig(), settings=settings)
    section = PolicyConfig(weights=str(tmp_path / "one"))
    told.clear()
    learn_concepts(
        benchmark_files(bench), tmp_path / "again", policy=section, settings=settings,
        progress=lambda message, done, steps: told.append(message),
    )  # fmt: skip
    assert told[0] == "<tom>: the policy knows it already, left as it is"
    again = PocketPolicy.load(tmp_path / "again").model.state_dict()
    assert all(torch.equal(again[name], value) for name, value in both.model.state_dict().items())


def test_what_is_learned_is_what_the_benchmark_lists_for_training(bench: Path) -> None:
    talks = bench / "concept" / "train" / "tom" / "conversations.json"
    asked = {**json.loads(talks.read_text()), "1.png": [{"query": "what is unlisted ?", "answer": "it ."}]}
    talks.write_text(json.dumps(asked))
    for files, written in zip(benchmark_files(bench), UNSEEN_CONCEPTS):
        data = read_concept(files, 64)
        assert files.name == written.token
        assert [file.name for file in files.pictures] == LISTED
        for picture, file in zip(data.pictures, files.pictures):
            assert np.array_equal(picture, np.asarray(Image.open(file)))
        assert len(data.pictures) == 2
        texts = " ".join(f"{question} {answer}" for _, question, answer in data.questions)
        assert f"is {written.token} wearing a hat ?" in texts
        assert "unlisted" not in texts
        assert not any(written.fact(role) in texts or written.condition(role) in texts for role in written.held_out)
        assert len(read_concept(concept_files(files.folder, files.folder / "info.json"), 64).pictures) == 10


def test_a_call_that_was_cut_off_leaves_no_policy_and_goes_on_to_the_same_weights(bench: Path, tmp_path: Path) -> None:
    files, wholly, out = benchmark_files(bench), tmp_path / "wholly", tmp_path / "out"
    uncut = learn_concepts(files, wholly, policy=PolicyConfig(), settings=ONCE)

    def interrupted(message: str, done: int, steps: int) -> None:
        if message.startswith("<ada>"):
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        learn_concepts(files, out, policy=PolicyConfig(), settings=ONCE, progress=interrupted)
    assert not out.exists()
    told: list[str] = []
    resumed = learn_concepts(
        files, out, policy=PolicyConfig(), settings=ONCE, progress=lambda message, done, steps: told.append(message)
    )
    assert not any(message.startswith("<tom>: step") for message in told), "it was learned before"
    assert resumed == uncut
    assert {file.name for file in tmp_path.iterdir()} == {"bench", "wholly", "out"}
    for file in ("policy.safetensors", "config.json", "concept.json"):
        assert (out / file).read_bytes() == (wholly / file).read_bytes()


def test_what_was_begun_otherwise_is_not_gone_on_with(bench: Path, tmp_path: Path) -> None:
    files, out = benchmark_files(bench), tmp_path / "out"
    learn_concepts(files[:1], out, policy=PolicyConfig(), settings=ONCE)
    out.replace(tmp_path / ".out.partial")
    learn_concepts(files[1:], out, policy=PolicyConfig(), settings=ONCE, seed=1)
    assert PocketPolicy.load(out).words.learned == ("<ada>",)
    assert not (tmp_path / ".out.partial").exists()


def test_concepts_that_are_all_known_or_badly_named_are_an_error_in_one_line(bench: Path, tmp_path: Path) -> None:
    code, output = learn("--data", "pocket", "--out", tmp_path / "out")
    assert code == 1
    assert "the policy already knows <bo>, <mia>" in output
    assert "nothing is left to learn" in output
    for forms in ((), ("--data", bench, "--images", bench), ("--images", bench), ("--data", bench, "--info", bench)):
        code, output = learn(*forms, "--out", tmp_path / "out")
        assert code == 1
        assert "give either --images and --info (one concept) or --data (a whole benchmark), got" in output
    info = bench / "concept" / "train" / "ada" / "info.json"
    info.write_text(info.read_text().replace("<ada>", "<eva>"))
    code, output = learn("--data", bench, "--out", tmp_path / "out")
    assert code == 1
    assert "must name the concept of its folder, <ada>, got <eva>" in output
    (bench / "concept" / "train" / "tom" / LISTED[1]).unlink()
    code, output = learn("--data", bench, "--out", tmp_path / "out")
    assert code == 1
    assert f"{LISTED[1]}: listed in train_images.json but does not exist" in output
    assert not (tmp_path / "out").exists()
