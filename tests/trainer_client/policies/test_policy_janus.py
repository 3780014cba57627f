"""Janus as a policy, on a tiny random model of the real classes: what it sampled is what its log-probs describe, the
guidance is Janus's, adapters alone train, and the trainer's whole step works on it.
"""

from __future__ import annotations

import copy
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from tiny_janus import CODES, GRID, LORA, PROMPTS, tiny_config
from toy_trainer import ToyScorer, toy_config

from sync_r1.trainer_client.config import ConfigError, LoraConfig, ObjectiveConfig, OptimiserConfig, PolicyConfig
from sync_r1.trainer_client.policies.base import ImageState, Question
from sync_r1.trainer_client.policies.janus.policy import UNDECIDED, JanusPolicy
from sync_r1.trainer_client.policies.janus.random_weights import random_policy
from sync_r1.trainer_client.policies.loading import load_policy, load_reference
from sync_r1.trainer_client.rollouts.sampler import Trajectory
from sync_r1.trainer_client.rollouts.scorer import Scorers
from sync_r1.trainer_client.tasks.pocketbench import write_pocketbench
from sync_r1.trainer_client.tasks.unifybench import load_unifybench
from sync_r1.trainer_client.training.learner import Learner
from sync_r1.trainer_client.training.loop import train
from sync_r1.trainer_client.training.optimisers import TotalSteps
from sync_r1.trainer_client.training.run import Run
from sync_r1.trainer_client.training.sync_grpo import Credit


def tiny(lora: LoraConfig | None = None, seed: int = 0, guidance: float = 5.0) -> JanusPolicy:
    """Weights large enough that the distributions are far from uniform."""
    torch.manual_seed(seed)
    policy = random_policy(
        tiny_config(), dtype=torch.float32, device=torch.device("cpu"), lora=lora, guidance=guidance, answer_tokens=8
    )
    torch.manual_seed(seed + 1)  # the adapters took numbers too
    with torch.no_grad():
        for name, parameter in policy.model.named_parameters():
            if "lora" not in name:
                parameter.add_(torch.randn_like(parameter) * 0.15)
    return policy


def seeded(seed: int = 1) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def picture(seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (32, 32, 3)).astype(np.uint8)


def _drawn(policy: JanusPolicy, prompts: list[str] = PROMPTS) -> ImageState:
    return policy.advance(policy.start(prompts), policy.steps, temperature=1.0, generator=seeded())


@pytest.mark.parametrize("guidance", [1.0, 5.0])
def test_image_log_probs_are_those_of_sampling(guidance: float, monkeypatch: pytest.MonkeyPatch) -> None:
    """Recorded with the key-value cache, token by token; recomputed in one pass over everything."""
    policy = tiny(guidance=guidance)
    recorded: list[torch.Tensor] = []
    original = JanusPolicy._code_log_probs

    def recording(self: JanusPolicy, hidden: torch.Tensor, temperature: float) -> torch.Tensor:
        recorded.append(original(self, hidden, temperature))
        return recorded[-1]

    monkeypatch.setattr(JanusPolicy, "_code_log_probs", recording)
    state = _drawn(policy)
    monkeypatch.setattr(JanusPolicy, "_code_log_probs", original)
    expected = torch.stack(recorded, 1).gather(2, state.tokens_N_I[..., None])[..., 0]
    with torch.no_grad():
        torch.testing.assert_close(policy.image_log_probs(state), expected, atol=1e-4, rtol=1e-4)
        parts = policy.image_log_probs(state, [0, 2]) + policy.image_log_probs(state, [1, 3])
    torch.testing.assert_close(parts, expected, atol=1e-4, rtol=1e-4)
    assert expected.exp().max() > 2.0 / CODES, "a nearly uniform model would hide mistakes"


def test_guidance_is_the_naive_formula() -> None:
    """Two plain passes of the real model without cache or batch: uncond + w (cond − uncond), as Janus generates."""
    policy = tiny(guidance=5.0)
    state = _drawn(policy, PROMPTS[:1])
    ids, tokenizer = state.prompt_ids_N_P, policy.text.processor.tokenizer
    words = [i for i, token in enumerate(ids[0].tolist()) if token not in (tokenizer.bos_token_id, 4)]
    assert tokenizer.convert_ids_to_tokens(4) == "<begin_of_image>"
    assert len(words) == ids.shape[1] - 2
    empty = ids.clone()
    empty[0, words] = tokenizer.pad_token_id
    with torch.no_grad():
        codes = policy.model.prepare_embeddings_for_image_generation(state.tokens_N_I[:, :-1])
        logits = []
        for prompt in (ids, empty):
            embedded = torch.cat([policy.model.get_input_embeddings()(prompt), codes], 1)
            hidden = policy.model.model.language_model(inputs_embeds=embedded).last_hidden_state
            logits.append(policy.model.model.generation_head(hidden[:, ids.shape[1] - 1 :]))
        guided = logits[1] + 5.0 * (logits[0] - logits[1])
        expected = torch.log_softmax(guided, -1).gather(2, state.tokens_N_I[..., None])[..., 0]
        torch.testing.assert_close(policy.image_log_probs(state), expected, atol=1e-4, rtol=1e-4)


def test_greedy_pictures_are_those_of_transformers_own_generation() -> None:
    policy = tiny(guidance=5.0)
    state = policy.start(PROMPTS[1:2])
    special = policy.text.processor.tokenizer
    settings = policy.model.generation_config
    settings.bos_token_id, settings.pad_token_id = special.bos_token_id, special.pad_token_id
    settings.generation_kwargs = {"boi_token_id": special.convert_tokens_to_ids(special.boi_token)}
    expected = policy.model.generate(
        state.prompt_ids_N_P, attention_mask=torch.ones_like(state.prompt_ids_N_P), generation_mode="image",
        guidance_scale=5, do_sample=False, use_cache=True, max_length=200,
    )  # fmt: skip
    drawn = policy.advance(state, policy.steps, temperature=0.0)
    assert torch.equal(drawn.tokens_N_I, expected)


def test_answer_log_probs_are_those_of_sampling() -> None:
    policy = tiny()
    questions = [Question("what colour?", picture()), Question("is it red?", picture(1))]
    answers = policy.answer(questions, temperature=1.0, generator=seeded())
    assert answers.images_codes_N_I is not None
    assert answers.images_codes_N_I.shape == (2, 3, 32, 32)
    # The cache against a pass per token without one.
    with torch.no_grad():
        expected = torch.zeros(answers.tokens_N_L.shape)
        for column in range(answers.tokens_N_L.shape[1]):
            ids = torch.cat([answers.prompt_ids_N_P, answers.tokens_N_L[:, :column]], 1)
            embedded = policy._embed_questions(answers.prompt_ids_N_P, answers.images_codes_N_I)
            rest = policy.model.get_input_embeddings()(answers.tokens_N_L[:, :column])
            mask = torch.cat([ids[:, : embedded.shape[1]] != policy.text.pad_id, torch.ones(rest.shape[:2])], 1)
            out = policy.model.model.language_model(
                inputs_embeds=torch.cat([embedded, rest], 1), attention_mask=mask.long()
            )
            logits = torch.log_softmax(policy.model.lm_head(out.last_hidden_state[:, -1]), -1)
            expected[:, column] = logits.gather(1, answers.tokens_N_L[:, column, None])[:, 0]
        got = policy.answer_log_probs(answers)
    torch.testing.assert_close(got, expected * answers.mask_N_L, atol=1e-4, rtol=1e-4)


def test_answers_look_at_the_picture_and_padding_changes_none() -> None:
    policy = tiny()
    short, long = Question("red?", picture()), Question("what is the colour of its hat?", picture(1))
    together = policy.answer([short, long], temperature=0.0)
    assert together.texts[0] == policy.answer([short], temperature=0.0).texts[0]
    other = policy.answer([Question("red?", picture(5))], temperature=1.0, generator=seeded())
    same = copy.copy(other)
    assert same.images_codes_N_I is not None
    with torch.no_grad():
        seen = policy.answer_log_probs(other)
        object.__setattr__(same, "images_codes_N_I", -same.images_codes_N_I)
        assert not torch.allclose(policy.answer_log_probs(same), seen)
    blind = policy.answer([Question("red?")], temperature=0.0)
    assert blind.images_codes_N_I is None


def test_rows_are_decided_in_order_and_continue_as_they_would_alone() -> None:
    policy = tiny()
    half = policy.advance(policy.start(PROMPTS), 2, temperature=0.0)
    assert half.decided_at_N_I[0].tolist() == [0] * GRID + [1] * GRID + [policy.steps] * 2 * GRID
    assert torch.equal(half.tokens_N_I == UNDECIDED, half.decided_at_N_I == policy.steps)
    whole = policy.advance(policy.start(PROMPTS), policy.steps, temperature=0.0)
    assert torch.equal(policy.advance(half, policy.steps, temperature=0.0).tokens_N_I, whole.tokens_N_I)
    alone = policy.advance(policy.start(PROMPTS[1:2]), policy.steps, temperature=0.0)
    assert torch.equal(whole.select([1]).tokens_N_I, alone.tokens_N_I), "padding must not change a picture"
    joined = ImageState.concatenate([alone, whole.select([0])])
    with torch.no_grad():
        both = policy.image_log_probs(joined)
        torch.testing.assert_close(both[:1], policy.image_log_probs(alone), atol=1e-4, rtol=1e-4)


def test_a_preview_is_what_is_drawn_and_nothing_else() -> None:
    policy = tiny()
    state = policy.advance(policy.start(PROMPTS), 2, temperature=1.0, generator=seeded())
    before = state.tokens_N_I.clone()
    preview = policy.preview(state)
    assert preview.shape == (3, 16, 32, 3)
    assert preview.dtype == np.uint8
    assert torch.equal(state.tokens_N_I, before)
    with pytest.raises(ValueError, match="step 2 of 4"):
        policy.decode(state)
    with pytest.raises(ValueError, match="before the first step"):
        policy.preview(policy.start(PROMPTS))
    finished = _drawn(policy)
    assert np.array_equal(policy.preview(finished), policy.decode(finished))
    # A truncated picture beside a finished one, as learning from rejected previews has them.
    cut = ImageState.concatenate([finished.select([0]), replace(state, step=policy.steps).select([1])])
    assert policy.preview(cut).shape == (2, 32, 32, 3)
    assert np.array_equal(policy.preview(cut)[0], policy.decode(finished)[0])
    with torch.no_grad():
        log_probs = policy.image_log_probs(cut)
        expected = policy.image_log_probs(state, [0, 1])[1]
    torch.testing.assert_close(log_probs[1], expected, atol=1e-4, rtol=1e-4)
    assert policy.decode(finished).std() > 1


def test_adapters_alone_train_and_the_reference_is_the_start() -> None:
    bare, policy = tiny(), tiny(LORA)
    names = [name for name, parameter in policy.model.named_parameters() if parameter.requires_grad]
    assert names
    assert all("lora" in name and "language_model" in name for name in names)
    assert len(list(policy.parameters())) == len(names)
    state, reference = _drawn(bare), policy.reference()
    assert not list(reference.parameters())
    with torch.no_grad():
        start = bare.image_log_probs(state)
        torch.testing.assert_close(policy.image_log_probs(state), start, atol=1e-5, rtol=1e-5)
        for parameter in policy.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.3)
        assert not torch.allclose(policy.image_log_probs(state), start, atol=1e-2)
        torch.testing.assert_close(reference.image_log_probs(state), start, atol=1e-5, rtol=1e-5)
        assert not torch.allclose(policy.image_log_probs(state), start, atol=1e-2), "adapters must be on again"
    assert all(parameter.requires_grad for parameter in policy.parameters())
    assert len(list(policy.parameters())) == len(names)
    with pytest.raises(ValueError, match="second time"):
        bare.reference()


def test_without_adapters_the_language_model_trains_and_the_eyes_do_not() -> None:
    policy = tiny()
    named = dict(policy.model.named_parameters())
    trained = {name.removeprefix("model.").partition(".")[0] for name, p in named.items() if p.requires_grad}
    assert trained == {"language_model", "lm_head"}
    policy.image_log_probs(_drawn(policy)).sum().backward()
    with_gradient = {name for name, p in named.items() if p.grad is not None}
    assert any("layers.1.mlp" in name for name in with_gradient)
    assert not any("vision" in name or "vqmodel" in name or "generation" in name for name in with_gradient)


@pytest.mark.parametrize("lora", [None, LORA])
def test_a_step_raises_what_was_better_than_its_group_and_lowers_what_was_worse(lora: LoraConfig | None) -> None:
    policy = tiny(lora)
    reference = policy.reference() if lora else tiny()
    optimiser = OptimiserConfig(
        learning_rate=2e-3 if lora else 1e-4, warmup_steps=0, weight_decay=0.0, micro_batch=1, micro_steps=4
    )
    objective = ObjectiveConfig(beta=0.01, answer_tokens=8)
    learner = Learner(policy, reference, objective, optimiser, total_steps=TotalSteps(5))
    answers = policy.answer([Question("what?", picture())] * 2, temperature=1.0, generator=seeded())
    state = _drawn(policy, PROMPTS[:1] * 2)
    trajectories = [Trajectory(0, answers.select([row]), state.select([row])) for row in range(2)]
    steps = [0, 1, 2, 3]

    def log_probs() -> np.ndarray:
        recorded = learner.losses.record(policy, trajectories, steps)
        return np.array([[float(rows[row].sum()) for row in range(2)] for rows in (recorded.answers, recorded.images)])

    before = log_probs()
    credit = Credit(np.array([1.0, -1.0]), np.array([1.0, -1.0]), np.array([0.5, 0.5]), np.array([0.5, 0.5]))
    figures = learner.update(trajectories, credit, steps, learner.reference_log_probs(trajectories, steps))
    change = log_probs() - before
    assert (change[:, 0] > 0).all()
    assert (change[:, 1] < 0).all()
    assert figures["image_kl"] == pytest.approx(0.0, abs=1e-6), "policy and reference start equal"
    assert figures["grad_norm"] > 0


def _saved_base(folder: Path) -> Path:
    base = tiny()
    base.model.save_pretrained(folder)
    base.text.processor.save_pretrained(folder)
    return folder


def test_adapters_are_saved_alone_and_come_back_onto_their_base(tmp_path: Path) -> None:
    base = _saved_base(tmp_path / "base")
    config = PolicyConfig(kind="janus", weights=str(base), lora=LORA, device="cpu", answer_tokens=8)
    policy = load_policy(config, "fp32")
    assert isinstance(policy, JanusPolicy)
    with torch.no_grad():
        for parameter in policy.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.3)
    policy.save(tmp_path / "saved")
    assert not (tmp_path / "saved" / "model").exists()
    assert json.loads((tmp_path / "saved" / "config.json").read_text())["kind"] == "janus"
    # The folder says all there is to say: `policy: FOLDER` is enough.
    again = load_policy(PolicyConfig(weights=str(tmp_path / "saved"), device="cpu"), "fp32")
    assert isinstance(again, JanusPolicy)
    state = _drawn(policy)
    with torch.no_grad():
        expected = policy.image_log_probs(state)
        torch.testing.assert_close(again.image_log_probs(state), expected)
        # A run from bare weights has its reference below the adapters, one from adapters needs them a second time.
        below = load_reference(config, "fp32", again)
        torch.testing.assert_close(below.image_log_probs(state), tiny().image_log_probs(state), atol=1e-5, rtol=1e-5)
        start = load_reference(PolicyConfig(weights=str(tmp_path / "saved"), device="cpu"), "fp32", again)
        torch.testing.assert_close(start.image_log_probs(state), expected)
    assert len(list(again.parameters())) == len(list(policy.parameters())) > 0


def test_a_whole_model_is_saved_and_comes_back(tmp_path: Path) -> None:
    policy = load_policy(PolicyConfig(kind="janus", weights=str(_saved_base(tmp_path / "base")), device="cpu"), "fp32")
    policy.save(tmp_path / "saved")
    again = load_policy(PolicyConfig(weights=str(tmp_path / "saved"), device="cpu"), "fp32")
    assert isinstance(policy, JanusPolicy)
    assert isinstance(again, JanusPolicy)
    greedy = policy.advance(policy.start(PROMPTS), 4, temperature=0.0)
    assert torch.equal(again.advance(again.start(PROMPTS), 4, temperature=0.0).tokens_N_I, greedy.tokens_N_I)


def test_what_cannot_be_loaded_says_what_is_missing(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"nowhere.*config\.json"):
        load_policy(PolicyConfig(kind="janus", weights=str(tmp_path / "nowhere")), "fp32")
    with pytest.raises(ConfigError, match="random weights cannot be trained"):
        load_policy(PolicyConfig(kind="janus", weights="random"), "fp32")
    base = str(_saved_base(tmp_path / "base"))
    wrong = LoraConfig(targets=("query",))
    with pytest.raises(ConfigError, match="query"):
        load_policy(PolicyConfig(kind="janus", weights=base, lora=wrong, device="cpu"), "fp32")
    with pytest.raises(ConfigError, match="divide the picture's 4 rows"):
        load_policy(PolicyConfig(kind="janus", weights=base, steps=3, device="cpu"), "fp32")


@pytest.mark.parametrize("text", ["", " ", "a" * 600])
def test_empty_and_endless_texts_are_refused(text: str) -> None:
    policy = tiny()
    with pytest.raises(ValueError, match="1 to 512 tokens"):
        policy.start([text])
    with pytest.raises(ValueError, match="1 to 512 tokens"):
        policy.answer([Question(text)])


def test_bf16_weights_and_float32_adapters_work_together() -> None:
    policy = random_policy(tiny_config(), dtype=torch.bfloat16, device=torch.device("cpu"), lora=LORA, answer_tokens=4)
    assert {parameter.dtype for parameter in policy.parameters()} == {torch.float32}
    state = _drawn(policy, PROMPTS[:1])
    log_probs = policy.image_log_probs(state)
    assert log_probs.dtype == torch.float32
    log_probs.sum().backward()
    assert policy.decode(state).shape == (1, 32, 32, 3)


async def test_the_whole_job_runs_on_janus(tmp_path: Path) -> None:
    """Evaluate, two steps behind the gate, evaluate: the trainer knows nothing of Janus."""
    write_pocketbench(tmp_path / "benchmark")
    policy = tiny(LORA)
    start = [parameter.detach().clone() for parameter in policy.parameters()]
    config = toy_config(
        steps=2,
        sampling={"prompts": 2, "group_size": 2, "rollout_rows_max": 32},
        selector={"kind": "dgs", "preview_at": 0.5, "target_acceptance": 0.5, "max_rounds": 1},
        objective={"answer_tokens": 8, "beta": 0.01},
        optimiser={"learning_rate": 1e-3, "warmup_steps": 0, "micro_batch": 4, "micro_steps": 4},
        evaluation={"pictures_per_condition": 1, "shown": 1},
    )
    gate = ToyScorer(weights={"concept-consistency": 0.65, "text-faithfulness": 0.35})
    first, _ = await train(
        Run(
            config, tmp_path, policy=policy, reference=policy.reference(),
            bench=load_unifybench(tmp_path / "benchmark"), scorers=Scorers(ToyScorer(), gate),
        )
    )  # fmt: skip
    assert first is not None
    records = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert [record["trajectories"] for record in records] == [4, 4]
    assert [len(request) for request in gate.requests] == [8, 8]
    assert all(sample.image is not None and sample.image.pixels.shape == (16, 32, 3) for sample in gate.requests[0])
    assert any(not torch.equal(now, then) for now, then in zip(policy.parameters(), start))
    assert (tmp_path / "policy" / "adapter" / "adapter_model.safetensors").exists()
