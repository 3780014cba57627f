"""Masked decoding follows the published schedule and leaves nothing masked."""

from __future__ import annotations

import itertools
import os
from pathlib import Path

import numpy as np
import pytest
import torch

from sync_r1.trainer_client.policies.showo.masked_decoding import (
    cosine_schedule,
    guided_log_probs,
    gumbel,
    kept_set_log_prob,
    masked_again,
    masked_counts,
    noise_temperatures,
    step_log_prob,
)

SHARED = Path(os.environ.get("SYNC_R1_SHARED", Path(__file__).parents[3].parent / "shared" / "data"))
GOLDEN = SHARED / "showo_golden" / "golden.npz"
golden_needed = pytest.mark.skipif(not GOLDEN.exists(), reason="golden values of Show-o are not in this checkout")


@golden_needed
def test_schedule_masks_and_guidance_give_the_published_numbers() -> None:
    with np.load(GOLDEN) as golden:
        schedule = cosine_schedule(torch.from_numpy(golden["schedule_t"]))
        np.testing.assert_allclose(schedule, golden["schedule_cosine"], atol=1e-6)
        probs, noise, lengths = (torch.from_numpy(golden[f"keep_{name}"]) for name in ("probs", "gumbel", "mask_len"))
        for tau in (0.0, 1.8):
            np.testing.assert_array_equal(masked_again(probs, noise, lengths, tau), golden[f"keep_mask_tau{tau}"])
        # Rows 0 and 1 are the conditional and unconditional rows; codes are ids 210…273 at the 16 image positions
        # before <|eoi|>.
        logits = torch.from_numpy(golden["logits_t2i"])[:2, -17:-1, 210:274]
        guided = guided_log_probs(logits[:1], logits[1:], 5.0)
        np.testing.assert_allclose(guided, golden["guided_logprobs"], atol=1e-4)


@pytest.mark.parametrize(("tokens", "steps"), [(64, 8), (1024, 50), (16, 16), (64, 1)])
def test_every_step_decides_something_and_the_last_leaves_no_mask(tokens: int, steps: int) -> None:
    counts = masked_counts(tokens, steps)
    assert len(counts) == steps
    assert counts[-1] == 0
    assert all(after < before for before, after in zip([tokens, *counts], counts, strict=False))


def test_more_steps_than_tokens_is_refused() -> None:
    with pytest.raises(ValueError, match="number of tokens"):
        masked_counts(4, 5)


def test_noise_scale_compounds_to_zero() -> None:
    assert noise_temperatures(1.8, 4) == pytest.approx([1.8 * 0.75, 1.8 * 0.75 * 0.5, 1.8 * 0.75 * 0.5 * 0.25, 0.0])


def _by_orders(confidence: torch.Tensor, kept: tuple[int, ...], tau: float) -> float:
    """Plackett-Luce: the kept tokens win in any order, each against all that are still left."""
    weights = torch.exp(confidence.double() / tau)
    chance = 0.0
    for order in itertools.permutations(kept):
        left, product = set(range(len(weights))), 1.0
        for index in order:
            product *= float(weights[index] / weights[sorted(left)].sum())
            left.remove(index)
        chance += product
    return chance


@pytest.mark.parametrize("tau", [0.05, 0.4, 1.0, 1.8])
@pytest.mark.parametrize("size", [1, 3, 4])
def test_the_kept_sets_probability_is_that_of_all_orders_together(tau: float, size: int) -> None:
    confidence = torch.log_softmax(torch.randn(5, generator=torch.Generator().manual_seed(size)) * 2, 0).double()
    sets = list(itertools.combinations(range(5), size))
    kept = torch.stack([torch.isin(torch.arange(5), torch.tensor(chosen)) for chosen in sets])
    found = kept_set_log_prob(confidence.expand(len(sets), -1), kept, tau).exp()
    expected = torch.tensor([_by_orders(confidence, chosen, tau) for chosen in sets], dtype=torch.float64)
    torch.testing.assert_close(found, expected, rtol=1e-6, atol=1e-12)
    assert float(found.sum()) == pytest.approx(1.0, abs=1e-8)


def test_the_kept_sets_probability_is_the_frequency_with_which_decoding_keeps_it() -> None:
    probabilities = torch.tensor([0.6, 0.3, 0.2, 0.05]).expand(40_000, -1)
    noise = gumbel(probabilities.shape, torch.Generator().manual_seed(0))
    kept = ~masked_again(probabilities, noise, torch.full((len(probabilities), 1), 2), 0.7)
    for chosen in itertools.combinations(range(4), 2):
        wanted = torch.isin(torch.arange(4), torch.tensor(chosen))
        exact = float(kept_set_log_prob(probabilities[:1].log(), wanted[None], 0.7).exp())
        assert float((kept == wanted).all(1).float().mean()) == pytest.approx(exact, abs=0.01)


def test_without_noise_or_without_a_choice_the_set_is_certain() -> None:
    confidence = torch.tensor([[-0.1, -2.0, -1.0]])
    best, other = torch.tensor([[True, False, True]]), torch.tensor([[True, True, False]])
    assert float(kept_set_log_prob(confidence, best, 0.0)) == 0.0
    assert float(kept_set_log_prob(confidence, other, 0.0)) == -float("inf")
    assert float(kept_set_log_prob(confidence, torch.ones(1, 3, dtype=torch.bool), 1.0)) == 0.0


def test_the_likelihoods_of_all_outcomes_of_a_step_sum_to_one_and_so_have_no_gradient() -> None:
    logits = torch.randn(3, 2, generator=torch.Generator().manual_seed(0), dtype=torch.float64).requires_grad_()
    outcomes = [
        (tokens, chosen) for tokens in itertools.product(range(2), repeat=3)
        for chosen in itertools.combinations(range(3), 2)
    ]  # fmt: skip
    tokens = torch.tensor([tokens for tokens, _ in outcomes])
    kept = torch.stack([torch.isin(torch.arange(3), torch.tensor(chosen)) for _, chosen in outcomes])
    log_probs = torch.log_softmax(logits, -1).expand(len(outcomes), -1, -1)
    total = step_log_prob(log_probs, tokens, kept, 0.8).exp().sum()
    assert total.item() == pytest.approx(1.0, abs=1e-8)
    total.backward()
    assert logits.grad is not None
    assert float(logits.grad.abs().max()) < 1e-7


def test_extreme_confidences_give_finite_values_and_gradients() -> None:
    confidence = torch.tensor([[-0.0, -700.0, -300.0, -1.0]]).requires_grad_()
    value = kept_set_log_prob(confidence, torch.tensor([[False, True, True, False]]), 0.02)
    value.sum().backward()
    assert torch.isfinite(value).all()
    assert confidence.grad is not None
    assert torch.isfinite(confidence.grad).all()
