"""Sync-GRPO's formulas keep their promises: closed forms, numerical gradients, and nothing from items without a
reward.
"""

from __future__ import annotations

import numpy as np
import pytest
import torch

from sync_r1.trainer_client.training.sync_grpo import (
    ModalityLoss,
    TokenLogProbs,
    advantages,
    credit,
    group_weights,
    k3,
    modality_loss,
    permute_within_groups,
)

GROUPS_N = np.array([0, 0, 0, 1, 1, 2, 2, 2])
REWARDS_N = np.array([0.1, 0.5, 0.9, 0.3, 0.7, 0.4, 0.4, 0.4])
ALL_N = np.ones(8, dtype=np.bool_)


def test_mean_baseline_is_dr_grpo() -> None:
    expected = [-0.4, 0.0, 0.4, -0.2, 0.2, 0.0, 0.0, 0.0]
    np.testing.assert_allclose(advantages(REWARDS_N, GROUPS_N, ALL_N), expected, atol=1e-12)


def test_leave_one_out_subtracts_the_mean_of_the_others() -> None:
    result_N = advantages(REWARDS_N, GROUPS_N, ALL_N, baseline="leave_one_out")
    for index in range(8):
        others = (GROUPS_N[index] == GROUPS_N) & (np.arange(8) != index)
        assert result_N[index] == pytest.approx(REWARDS_N[index] - REWARDS_N[others].mean())


def test_std_scale_gives_unit_variance_but_never_blows_up_a_constant_group() -> None:
    result_N = advantages(REWARDS_N, GROUPS_N, ALL_N, scale="std")
    assert result_N[:3].std() == pytest.approx(1.0)
    nearly_N = np.array([0.5, 0.5 + 1e-6])
    assert np.abs(advantages(nearly_N, np.zeros(2, dtype=np.int64), ALL_N[:2], scale="std")).max() < 1e-4


def test_advantages_follow_a_permutation_of_the_items() -> None:
    order = np.random.default_rng(0).permutation(8)
    permuted = advantages(REWARDS_N[order], GROUPS_N[order], ALL_N[order])
    np.testing.assert_allclose(permuted, advantages(REWARDS_N, GROUPS_N, ALL_N)[order])


def test_each_group_weighs_the_same_however_large() -> None:
    valid_N = ALL_N.copy()
    valid_N[0] = False
    weights_N = group_weights(GROUPS_N, valid_N)
    assert weights_N[0] == 0.0
    for group in range(3):
        assert weights_N[group == GROUPS_N].sum() == pytest.approx(1 / 3)


def test_invalid_items_change_nothing_for_the_others() -> None:
    valid_N = ALL_N.copy()
    valid_N[1] = False
    poisoned_N = REWARDS_N.copy()
    poisoned_N[1] = np.nan
    result = credit(poisoned_N, poisoned_N, GROUPS_N, valid_N)
    assert result.answer_N[1] == result.image_N[1] == result.answer_weights_N[1] == 0.0
    np.testing.assert_allclose(result.answer_N[[0, 2]], [-0.4, 0.4])
    with pytest.raises(ValueError, match="not finite"):
        advantages(poisoned_N, GROUPS_N, ALL_N)


def test_image_tokens_are_not_credited_with_the_answer() -> None:
    image_N = np.array([0.5, 0.5, 0.5, 0.2, 0.4, 0.1, 0.1, 0.1])
    split = credit(REWARDS_N, image_N, GROUPS_N, ALL_N)
    np.testing.assert_allclose(split.image_N[:3], 0.0)
    np.testing.assert_allclose(split.answer_N[:3], [-0.4, 0.0, 0.4], atol=1e-12)
    joint = credit(REWARDS_N, image_N, GROUPS_N, ALL_N, rule="joint")
    np.testing.assert_array_equal(joint.image_N, joint.answer_N)


def _random_batch(items: int = 4, tokens: int = 5) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(3)

    def draw(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, generator=generator, dtype=torch.float64)

    new = -draw(items, tokens).abs()
    return {
        "log_probs_N_L": new,
        "old_log_probs_N_L": new + 0.3 * draw(items, tokens),
        "reference_log_probs_N_L": new + 0.5 * draw(items, tokens),
        "advantages_N": draw(items),
        "weights_N": torch.full((items,), 1 / items, dtype=torch.float64),
        "mask_N_L": draw(items, tokens) > -0.5,
    }


def loss_of(batch: dict[str, torch.Tensor], **settings: float) -> ModalityLoss:
    log_probs = TokenLogProbs(
        batch["log_probs_N_L"], batch["old_log_probs_N_L"], batch["mask_N_L"], batch.get("reference_log_probs_N_L")
    )
    return modality_loss(log_probs, batch["advantages_N"], batch["weights_N"], **settings)


def test_gradient_equals_the_numerical_one() -> None:
    batch = _random_batch()
    log_probs = batch.pop("log_probs_N_L").requires_grad_()
    assert torch.autograd.gradcheck(
        lambda x: loss_of(batch | {"log_probs_N_L": x}, tokens=5, clip=0.2, beta=0.1).total,
        (log_probs,),
        eps=1e-7,
        atol=1e-6,
    )


def test_on_policy_gradient_is_minus_weighted_advantage() -> None:
    """At ratio 1 the surrogate's gradient is REINFORCE's: d loss / d lp = -w A / tokens, on chosen tokens only."""
    batch = _random_batch()
    log_probs = batch["log_probs_N_L"].requires_grad_()
    mask, weights, advantage = batch["mask_N_L"], batch["weights_N"], batch["advantages_N"]
    modality_loss(TokenLogProbs(log_probs, log_probs.detach(), mask), advantage, weights, tokens=5).total.backward()
    assert log_probs.grad is not None
    torch.testing.assert_close(log_probs.grad, -(mask * (weights * advantage).unsqueeze(1)) / 5)


def test_zero_variance_groups_and_dropped_items_give_no_gradient() -> None:
    batch = _random_batch(items=3)
    groups_N, valid_N = np.array([0, 0, 1]), np.array([True, True, False])
    shares = credit(np.array([0.5, 0.5, np.nan]), np.zeros(3), groups_N, valid_N)
    log_probs = batch["log_probs_N_L"].clone()
    log_probs[2] = -torch.inf  # whatever a dropped item holds must not leak
    mask = batch["mask_N_L"].clone()
    mask[2] = False
    log_probs.requires_grad_()
    loss = modality_loss(
        TokenLogProbs(log_probs, log_probs.detach(), mask),
        torch.from_numpy(shares.answer_N),
        torch.from_numpy(shares.answer_weights_N),
        tokens=5,
    )
    loss.total.backward()
    assert log_probs.grad is not None
    assert torch.count_nonzero(log_probs.grad) == 0


def test_clip_takes_the_gradient_away_only_where_the_policy_already_moved_enough() -> None:
    old = torch.zeros(4, 1, dtype=torch.float64)
    new = torch.log(torch.tensor([[1.5], [1.5], [0.5], [0.5]], dtype=torch.float64)).requires_grad_()
    advantage = torch.tensor([1.0, -1.0, 1.0, -1.0], dtype=torch.float64)
    loss = modality_loss(
        TokenLogProbs(new, old, torch.ones(4, 1, dtype=torch.bool)),
        advantage,
        torch.full((4,), 0.25, dtype=torch.float64),
        tokens=1,
    )
    loss.total.backward()
    assert new.grad is not None
    assert [bool(value) for value in new.grad.flatten() == 0] == [True, False, False, True]
    assert loss.clipped == pytest.approx(0.5)


def test_clip_acts_with_several_epochs_on_one_batch() -> None:
    """One update per batch never leaves ratio 1; further epochs must be stopped by the clip, not run away."""
    logits = torch.zeros(1, 4, dtype=torch.float64, requires_grad=True)
    optimiser = torch.optim.SGD([logits], lr=2.0)
    tokens = torch.tensor([[0], [1]])
    old = torch.log_softmax(logits, -1).detach().expand(2, 4).gather(1, tokens)
    clipped = []
    for _ in range(6):
        new = torch.log_softmax(logits, -1).expand(2, 4).gather(1, tokens)
        weights, mask = torch.full((2,), 0.5, dtype=torch.float64), torch.ones(2, 1, dtype=torch.bool)
        log_probs, advantage = TokenLogProbs(new, old, mask), torch.tensor([1.0, -1.0], dtype=torch.float64)
        loss = modality_loss(log_probs, advantage, weights, tokens=1)
        clipped.append(loss.clipped)
        optimiser.zero_grad()
        loss.total.backward()
        optimiser.step()
    assert clipped[0] == 0.0
    assert clipped[-1] == 1.0


def test_a_batch_may_be_cut_along_items_and_tokens() -> None:
    batch = _random_batch()
    whole = loss_of(batch, tokens=5, beta=0.1)
    parts = [
        loss_of(
            {name: value[rows, columns] if value.ndim == 2 else value[rows] for name, value in batch.items()},
            tokens=5,
            beta=0.1,
        )
        for rows in (slice(0, 1), slice(1, 4))
        for columns in (slice(0, 2), slice(2, 5))
    ]
    torch.testing.assert_close(sum(part.total for part in parts), whole.total)
    assert sum(part.kl for part in parts) == pytest.approx(whole.kl)


def test_k3_is_an_unbiased_non_negative_kl() -> None:
    generator = torch.Generator().manual_seed(0)
    policy, reference = torch.log_softmax(torch.randn(2, 8, generator=generator, dtype=torch.float64), -1)
    tokens = torch.multinomial(policy.exp(), 200_000, replacement=True, generator=generator)
    estimate = k3(policy[tokens], reference[tokens])
    assert estimate.min() >= 0
    assert estimate.mean().item() == pytest.approx((policy.exp() * (policy - reference)).sum().item(), rel=0.02)


def test_kl_needs_its_reference() -> None:
    batch = _random_batch()
    batch.pop("reference_log_probs_N_L")
    with pytest.raises(ValueError, match="frozen reference"):
        loss_of(batch, tokens=5, beta=0.1)


def test_permutation_control_stays_inside_groups_and_keeps_dropped_items() -> None:
    valid_N = ALL_N.copy()
    valid_N[2] = False
    order_N = permute_within_groups(GROUPS_N, valid_N, np.random.default_rng(1))
    np.testing.assert_array_equal(GROUPS_N[order_N], GROUPS_N)
    assert order_N[2] == 2
    assert sorted(order_N) == list(range(8))
