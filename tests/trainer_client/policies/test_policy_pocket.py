"""The pocket policy: what it sampled is what its log-probabilities describe, and previews leave the masked state
alone.
"""

from __future__ import annotations

import copy
from pathlib import Path

import numpy as np
import pytest
import torch

from sync_r1.trainer_client.policies.base import ImageState, Question
from sync_r1.trainer_client.policies.pocket.policy import PocketPolicy
from sync_r1.trainer_client.policies.pocket.text import SOFT_TOKENS, Words, write_vocabulary
from sync_r1.trainer_client.policies.showo.image_tokenizer import Magvit, MagvitConfig
from sync_r1.trainer_client.policies.showo.image_tokenizer_layers import StageSizes
from sync_r1.trainer_client.policies.showo.network import Showo, ShowoConfig
from sync_r1.trainer_client.policies.showo.policy import MASKED

PROMPTS = ["<bo> wearing its hat . <bo> 's hat is green .", "a red cat", "<bo> at the beach"]


@pytest.fixture
def policy(tmp_path: Path) -> PocketPolicy:
    """Tiny and untrained, but with weights large enough that its distributions are far from uniform."""
    torch.manual_seed(0)
    write_vocabulary(tmp_path / "words.json", [*PROMPTS, "what colour is it ? yes ."], ["<bo>"])
    words = Words(tmp_path / "words.json")
    sizes = StageSizes(32, (1, 1), (1, 1))
    tokenizer = Magvit(MagvitConfig(sizes, sizes, bits=6, image_size=32, patch=4))
    config = ShowoConfig(
        len(words),
        image_codes=64,
        image_tokens=16,
        hidden_size=32,
        intermediate_size=64,
        layers=2,
        heads=2,
        max_positions=128,
    )
    model = Showo(config)
    with torch.no_grad():
        for p in model.parameters():
            p.add_(torch.randn_like(p) * 0.3)
    return PocketPolicy(model, tokenizer, words, steps=4, noise=1.8)


def seeded(seed: int = 1) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def _finished(policy: PocketPolicy) -> ImageState:
    return policy.advance(policy.start(PROMPTS), policy.steps, temperature=1.0, generator=seeded())


@pytest.mark.parametrize("guidance", [0.0, 2.0])
def test_image_log_probs_are_those_of_sampling(
    policy: PocketPolicy, guidance: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Recorded while decoding: the probability of each token at the step that decided it."""
    policy.guidance = guidance
    recorded: list[torch.Tensor] = []
    original = PocketPolicy._code_log_probs

    def recording(self: PocketPolicy, tokens, prefixes, scored, temperature):  # type: ignore[no-untyped-def]
        log_probs = original(self, tokens, prefixes, scored, temperature)
        full = torch.full((*tokens.shape, log_probs.shape[-1]), torch.nan)
        full[scored] = log_probs
        recorded.append(full)
        return log_probs

    monkeypatch.setattr(PocketPolicy, "_code_log_probs", recording)
    state = _finished(policy)
    monkeypatch.setattr(PocketPolicy, "_code_log_probs", original)
    at_sampling = torch.stack(recorded).gather(0, state.decided_at_N_I[None, ..., None].expand(-1, -1, -1, 64))[0]
    expected = at_sampling.gather(2, state.tokens_N_I[..., None])[..., 0]
    with torch.no_grad():
        torch.testing.assert_close(policy.image_log_probs(state), expected, atol=1e-4, rtol=1e-4)
        parts = policy.image_log_probs(state, [0, 2]) + policy.image_log_probs(state, [1, 3])
    torch.testing.assert_close(parts, expected, atol=1e-4, rtol=1e-4)


def test_image_log_probs_reach_every_weight_of_the_network(policy: PocketPolicy) -> None:
    policy.image_log_probs(_finished(policy), [1, 2]).sum().backward()
    without = [name for name, p in policy.model.named_parameters() if p.grad is None or not p.grad.abs().sum() > 0]
    # Shifting all keys by the same vector changes no attention weight, so the keys' additive terms alone may stay
    # without.
    assert all("k_" in name for name in without)


def test_answer_log_probs_are_those_of_sampling(policy: PocketPolicy, monkeypatch: pytest.MonkeyPatch) -> None:
    picture = np.random.default_rng(0).integers(0, 256, (32, 32, 3)).astype(np.uint8)
    questions = [
        Question("what colour is it ?", picture),
        Question("<bo> wearing its hat ?"),
        Question("is it red ?", picture),
    ]
    recorded: list[torch.Tensor] = []
    original = Showo.text_logits

    def recording(self: Showo, hidden: torch.Tensor) -> torch.Tensor:
        recorded.append(original(self, hidden))
        return recorded[-1]

    monkeypatch.setattr(Showo, "text_logits", recording)
    answers = policy.answer(questions, temperature=1.0, generator=seeded())
    monkeypatch.setattr(Showo, "text_logits", original)
    logits = torch.stack(recorded, 1)
    expected = torch.log_softmax(logits, -1).gather(2, answers.tokens_N_L[..., None])[..., 0] * answers.mask_N_L
    with torch.no_grad():
        torch.testing.assert_close(policy.answer_log_probs(answers), expected, atol=1e-4, rtol=1e-4)
    assert answers.images_codes_N_I is not None
    assert answers.images_codes_N_I.shape == (2, 16)
    alone = policy.answer(questions[1:2], temperature=0.0)
    assert alone.texts == policy.answer(questions, temperature=0.0).texts[1:2], "padding must not change an answer"


def test_every_token_is_decided_once_and_none_is_left(policy: PocketPolicy) -> None:
    state = policy.start(PROMPTS)
    for step in range(1, policy.steps + 1):
        before, state = state, policy.advance(state, step, temperature=1.0, generator=seeded(step))
        known = before.tokens_N_I != MASKED
        assert torch.equal(state.tokens_N_I[known], before.tokens_N_I[known])
        assert torch.equal(state.decided_at_N_I == policy.steps, state.tokens_N_I == MASKED)
    assert not (state.tokens_N_I == MASKED).any()
    assert policy.decode(state).shape == (3, 32, 32, 3)


def test_preview_leaves_the_state_masked(policy: PocketPolicy) -> None:
    state = policy.advance(policy.start(PROMPTS), 1, temperature=1.0, generator=seeded())
    copied = copy.deepcopy(state)
    pictures = policy.preview(state)
    assert pictures.shape == (3, 32, 32, 3)
    assert pictures.dtype == np.uint8
    assert torch.equal(state.tokens_N_I, copied.tokens_N_I)
    assert (state.tokens_N_I == MASKED).any()
    with pytest.raises(ValueError, match="step 1 of 4"):
        policy.decode(state)


def test_selected_and_joined_states_continue_as_their_rows_would(policy: PocketPolicy) -> None:
    short = policy.start(["a red cat"])
    joined = ImageState.concatenate([short, policy.start(PROMPTS[:1])])
    assert len(joined.select([1, 1, 0])) == 3
    greedy = policy.advance(joined, policy.steps, temperature=0.0)
    alone = policy.advance(short, policy.steps, temperature=0.0)
    assert torch.equal(greedy.select([0]).tokens_N_I, alone.tokens_N_I)
    with pytest.raises(ValueError, match="same step"):
        ImageState.concatenate([greedy, short])


def test_concepts_bring_their_soft_tokens_into_prompts_for_pictures(policy: PocketPolicy) -> None:
    plain, soft = (
        policy.words.encode("<bo> wearing its hat"),
        policy.words.encode("<bo> wearing its hat", soft_tokens=True),
    )
    assert len(soft) == len(plain) + SOFT_TOKENS
    assert soft[-3:] == plain[-3:]


def test_saved_policy_answers_the_same(policy: PocketPolicy, tmp_path: Path) -> None:
    policy.tokenizer.save(tmp_path / "tokenizer.safetensors", dtype=torch.float32)
    policy.save(tmp_path)
    again = PocketPolicy.load(tmp_path, shared=tmp_path)
    state = policy.advance(policy.start(PROMPTS), 4, temperature=0.0)
    assert torch.equal(again.advance(again.start(PROMPTS), 4, temperature=0.0).tokens_N_I, state.tokens_N_I)


@pytest.mark.parametrize("text", ["", "a " * 200])
def test_empty_and_endless_texts_are_refused(policy: PocketPolicy, text: str) -> None:
    with pytest.raises(ValueError, match="1 to 96 words"):
        policy.start([text])
    with pytest.raises(ValueError, match="1 to 96 words"):
        policy.answer([Question(text)])
