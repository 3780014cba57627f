"""Sync-GRPO as pure functions: from rewards to advantages, and from advantages to the loss of both modalities.

You are in the trainer, at the formulas; nothing here knows a policy, a service or a file. `learner.py` applies them.

    rewards_N, groups_N, valid_N ──▶ credit() or tree_credit() ──▶ Credit ──▶ modality_loss() per modality

Shapes: N trajectories of the batch, L answer tokens, I image tokens. A trajectory is one answer and the picture made
from it. An item without a valid reward carries advantage 0 *and* weight 0: it contributes to no sum, not even to the
KL.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from sync_r1.trainer_client.sdk.combination import Bools, Floats, Ints

Baseline = Literal["mean", "leave_one_out"]
Scale = Literal["none", "std"]
CreditRule = Literal["per_modality", "joint"]

_STD_FLOOR = 0.01
"""A group whose rewards (in [0, 1]) hardly differ must not be blown up to unit variance when dividing by its std."""
_RMS_FLOOR = 1e-3
"""Pictures of a batch that differ by less than this in reward are told apart by noise alone."""


def advantages(
    rewards_N: Floats,
    groups_N: Ints,
    valid_N: Bools,
    *,
    baseline: Baseline = "mean",
    scale: Scale = "none",
) -> Floats:
    """Each trajectory's reward relative to its group; 0 where `valid_N` is False or the group has one valid member.

    "mean" is Dr. GRPO (arXiv 2503.20783): A_i = R_i - mean_group(R). "leave_one_out" (RLOO, arXiv 2402.14740)
    subtracts the mean of the *others*, which equals n/(n-1) times that and stays unbiased when groups differ in size.
    "std" divides by max(std_group, 0.01) as GRPO (arXiv 2402.03300) does.

    Raises ValueError when shapes differ or a valid reward is not finite.
    """
    _same_length(rewards_N=rewards_N, groups_N=groups_N, valid_N=valid_N)
    if not np.isfinite(rewards_N[valid_N]).all():
        raise ValueError(
            "a reward marked valid is not finite; failed scores must be marked invalid, never passed as numbers"
        )
    result_N = np.zeros(len(rewards_N), dtype=np.float64)
    for group in np.unique(groups_N[valid_N]):
        members = np.flatnonzero((groups_N == group) & valid_N)
        if len(members) < 2:
            continue
        centred = rewards_N[members] - rewards_N[members].mean()
        if baseline == "leave_one_out":
            centred = centred * len(members) / (len(members) - 1)
        if scale == "std":
            centred = centred / max(float(rewards_N[members].std()), _STD_FLOOR)
        result_N[members] = centred
    return result_N


def group_weights(groups_N: Ints, valid_N: Bools) -> Floats:
    """Weights that sum to 1 and give each group the same sum however many valid members it has; 0 for invalid items."""
    _same_length(groups_N=groups_N, valid_N=valid_N)
    weights_N = np.zeros(len(groups_N), dtype=np.float64)
    groups = np.unique(groups_N[valid_N])
    for group in groups:
        members = (groups_N == group) & valid_N
        weights_N[members] = 1.0 / (len(groups) * members.sum())
    return weights_N


@dataclass(frozen=True)
class Credit:
    """What each trajectory's tokens are credited with, and how much its answer and its picture weigh (0 = not in the
    loss).
    """

    answer_N: Floats
    image_N: Floats
    answer_weights_N: Floats
    image_weights_N: Floats

    @property
    def loss_mask_N(self) -> Bools:
        """Rows whose answer or picture is in the loss."""
        return (self.answer_weights_N > 0) | (self.image_weights_N > 0)

    def rows(self, rows: slice | Ints) -> Credit:
        """That of some trajectories."""
        return Credit(self.answer_N[rows], self.image_N[rows], self.answer_weights_N[rows], self.image_weights_N[rows])


def credit(
    total_N: Floats,
    image_N: Floats,
    groups_N: Ints,
    valid_N: Bools,
    *,
    rule: CreditRule = "per_modality",
    baseline: Baseline = "mean",
    scale: Scale = "none",
) -> Credit:
    """Split the advantage over the modalities: an action is credited only with what it can change.

    `total_N` is the combined reward, `image_N` its part that comes from the picture (with the same weights, so that
    total - image depends on the answer alone). Answer tokens get the total advantage, because the answer steers the
    picture; image tokens get that of the image part, because the answer came before them. "joint" gives both the total
    one, as the released Sync-R1 does.
    """
    total_advantages_N = advantages(total_N, groups_N, valid_N, baseline=baseline, scale=scale)
    image_advantages_N = (
        advantages(image_N, groups_N, valid_N, baseline=baseline, scale=scale)
        if rule == "per_modality"
        else total_advantages_N
    )
    weights_N = group_weights(groups_N, valid_N)
    return Credit(total_advantages_N, image_advantages_N, weights_N, weights_N)


def tree_credit(
    answers_N: Floats,
    images_N: Floats,
    groups_N: Ints,
    nodes_N: Ints,
    *,
    pictured_share: float,
    baseline: Baseline = "mean",
    scale: Scale = "none",
) -> Credit:
    """Credit for groups in which K answers are drawn, m of them get pictures, and M pictures share a sentence.

    Rows are pictures, and answers without any. `nodes_N` numbers the answers (of the whole batch); `answers_N` is the
    answer's own reward, on the first row of its node, and `images_N` the picture's, NaN where there is none.

    A picture is compared with the others of the *same* sentence (leave-one-out), never across sentences: what another
    sentence is worth is no merit of the picture's tokens, and log-probabilities of kept tokens do not average to zero
    under one sentence, so that a baseline over several would turn that mean into a gradient. An answer gets its own
    reward relative to all K, and the mean of its pictures relative to the m pictured ones, divided by `pictured_share`
    = m/K, its probability of being pictured, so that the expectation is that of picturing all.
    Raises ValueError as `advantages` does.
    """
    _same_length(answers_N=answers_N, images_N=images_N, groups_N=groups_N, nodes_N=nodes_N)
    pictured_N = np.isfinite(images_N)
    siblings_N = np.isin(nodes_N, [node for node in np.unique(nodes_N) if pictured_N[nodes_N == node].sum() > 1])
    image_N = advantages(images_N, nodes_N, pictured_N, baseline="leave_one_out", scale=scale)
    answered_N = np.isfinite(answers_N)
    means_N = np.full(len(images_N), np.nan)
    for row in np.flatnonzero(answered_N):
        members_N = pictured_N & (nodes_N == nodes_N[row])
        means_N[row] = images_N[members_N].mean() if members_N.any() else np.nan
    answer_N = advantages(answers_N, groups_N, answered_N, baseline=baseline, scale=scale)
    if pictured_share > 0:
        drawn_N = np.isfinite(means_N)
        answer_N = answer_N + advantages(means_N, groups_N, drawn_N, baseline=baseline, scale=scale) / pictured_share
    return Credit(
        answer_N, image_N, group_weights(groups_N, answered_N), group_weights(groups_N, pictured_N & siblings_N)
    )


def permuted(shares: Credit, groups_N: Ints, nodes_N: Ints, rng: np.random.Generator) -> Credit:
    """The control for trees: advantages keep their size and lose their cause, answers' within groups and pictures'
    within sentences.
    """
    answers_N = permute_within_groups(groups_N, shares.answer_weights_N > 0, rng)
    images_N = permute_within_groups(nodes_N, shares.image_weights_N > 0, rng)
    return Credit(shares.answer_N[answers_N], shares.image_N[images_N], shares.answer_weights_N, shares.image_weights_N)


def scaled_by_rms(shares: Credit) -> Credit:
    """The same with the pictures' advantages divided by their root mean square over the batch, (at least 0.001)."""
    counted_N = shares.image_N[shares.image_weights_N > 0]
    size = max(float(np.sqrt((counted_N**2).mean())), _RMS_FLOOR) if len(counted_N) else 1.0
    return replace(shares, image_N=shares.image_N / size)


def best_of_n(total_N: Floats, groups_N: Ints, valid_N: Bools) -> Credit:
    """Supervised fine-tuning on the best of each group, as a `Credit`: advantage 1 and all of the group's weight for
    that trajectory, nothing for the others. At ratio 1 the loss's gradient is that of its negative log-likelihood.
    """
    best_N = np.zeros(len(total_N), dtype=np.bool_)
    for group in np.unique(groups_N[valid_N]):
        members = np.flatnonzero((groups_N == group) & valid_N)
        best_N[members[np.argmax(total_N[members])]] = True
    ones_N = best_N.astype(np.float64)
    weights_N = group_weights(groups_N, best_N)
    return Credit(ones_N, ones_N.copy(), weights_N, weights_N)


def k3(log_probs: Tensor, reference_log_probs: Tensor) -> Tensor:
    """Schulman's k3 estimate of KL(policy || reference) per token: e^(ref - lp) - (ref - lp) - 1 >= 0, from policy
    samples.
    """
    difference = reference_log_probs - log_probs
    return torch.exp(difference) - difference - 1.0


@dataclass(frozen=True)
class ModalityLoss:
    """The loss of one modality over (part of) a batch; all but `total` are detached sums, so parts of a batch add
    up.
    """

    total: Tensor
    policy: float
    kl: float | None
    """Weighted mean of k3 per token, nats; None without a reference."""
    clipped: float
    """Weighted fraction of tokens on which the clip took the gradient away."""


@dataclass(frozen=True)
class TokenLogProbs:
    """Log-probs (N, L) of tokens under the policy, before the update, and under the frozen reference."""

    new_N_L: Tensor
    old_N_L: Tensor
    mask_N_L: Tensor
    """True where the policy chose the token. The others may hold anything, -inf included."""
    reference_N_L: Tensor | None = None


def modality_loss(
    log_probs: TokenLogProbs,
    advantages_N: Tensor,
    weights_N: Tensor,
    *,
    tokens: float,
    clip: float = 0.2,
    beta: float = 0.0,
) -> ModalityLoss:
    """PPO's clipped surrogate plus beta times the k3 KL to a frozen reference.

    loss = -sum_i w_i / tokens * sum_t mask_it [min(r A_i, clip(r, 1-eps, 1+eps) A_i) - beta k3_it],  r = e^(lp - old).

    `tokens` is a constant of the run (the most tokens this modality can have), not the trajectory's own length:
    dividing by that would favour long wrong answers (Dr. GRPO).
    Because the loss is a sum over (trajectory, token), a batch may be cut in both directions and the gradients added.

    Raises ValueError when beta > 0 without reference log-probs.
    """
    if beta > 0 and log_probs.reference_N_L is None:
        raise ValueError(f"beta is {beta}, so the log-probs of the frozen reference are needed, but none were given")
    # Positions outside the mask are replaced before arithmetic can make a NaN of what they hold.
    zero, mask_N_L = torch.zeros_like(log_probs.new_N_L), log_probs.mask_N_L
    new = torch.where(mask_N_L, log_probs.new_N_L, zero)
    old = torch.where(mask_N_L, log_probs.old_N_L, zero)
    ratio = torch.exp(new - old)
    advantage = advantages_N.unsqueeze(1)
    plain, clamped = ratio * advantage, ratio.clamp(1.0 - clip, 1.0 + clip) * advantage
    per_token = mask_N_L * weights_N.unsqueeze(1) / tokens
    policy = -(per_token * torch.minimum(plain, clamped)).sum()
    total, divergence = policy, None
    if log_probs.reference_N_L is not None:
        kl = (per_token * k3(new, torch.where(mask_N_L, log_probs.reference_N_L, zero))).sum()
        total, divergence = policy + beta * kl, kl.item()
    clipped = (per_token * (clamped < plain)).sum().item()
    return ModalityLoss(total, policy.item(), divergence, clipped)


def permute_within_groups(groups_N: Ints, valid_N: Bools, rng: np.random.Generator) -> Ints:
    """Indices that shuffle valid items inside each group: the control that keeps every reward's size and breaks its
    cause.
    """
    order_N = np.arange(len(groups_N), dtype=np.int64)
    for group in np.unique(groups_N[valid_N]):
        members = np.flatnonzero((groups_N == group) & valid_N)
        order_N[members] = rng.permutation(members)
    return order_N


def _same_length(**arrays: npt.NDArray[np.generic]) -> None:
    lengths = {name: array.shape for name, array in arrays.items()}
    if len(set(lengths.values())) != 1:
        raise ValueError(f"expected arrays of one shape (N,), got {lengths}")
