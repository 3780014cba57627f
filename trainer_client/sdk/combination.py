"""From several rewards to one number for each item: pure functions of arrays.

Shapes: R rewards, N items. `scores_R_N` are mapped to [0, 1]; `counted_R_N` says which of them exist (a reward that
failed or does not apply has none, and its entry is never read). Every combination returns `contributions_R_N`: what
each reward adds to each item's total, so that `total_N = contributions_R_N.sum(0)` and any part of the total can be
told apart (Sync-GRPO credits image tokens with the part that comes from the picture). An item that no reward counts
for gets NaN: no total, rather than one of 0.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]
Bools = npt.NDArray[np.bool_]
Ints = npt.NDArray[np.int64]


def weighted_sum(scores_R_N: Floats, counted_R_N: Bools, weights_R: Floats) -> Floats:
    """Weighted sum; where a reward does not count, the others keep the total weight in their proportions.

    So an item's total stays on the same scale as its neighbours' and depends on no other item. Raises ValueError for
    wrong shapes, negative weights or a counted score that is not finite.
    """
    scores_R_N = _checked(scores_R_N, counted_R_N, weights_R)
    used_R_N = weights_R[:, None] * counted_R_N
    present_N = used_R_N.sum(0)
    with np.errstate(invalid="ignore", divide="ignore"):
        scale_N = np.where(present_N > 0, weights_R.sum() / present_N, np.nan)
    return used_R_N * scores_R_N * scale_N


def gdpo(
    scores_R_N: Floats,
    counted_R_N: Bools,
    weights_R: Floats,
    groups_N: Ints,
    *,
    std_floor: float = 0.02,
    whitening_floor: float = 0.1,
) -> Floats:
    """GDPO (arXiv 2601.05242): normalise each reward over its group, sum with weights, whiten over the batch.

    Rewards of different spread then pull equally hard, instead of a wide one swallowing a narrow one. Two floors, on
    the [0, 1] scale and on that of the weighted sum, keep noise small: a reward that hardly varies in its group is not
    blown up to unit variance, nor is a batch in which none does. A reward that does not count for an item adds what
    its group's mean adds: nothing. The totals are advantages already: centred, about unit variance.

    Raises ValueError as `weighted_sum` does.
    """
    scores_R_N = _checked(scores_R_N, counted_R_N, weights_R)
    if groups_N.shape != scores_R_N.shape[1:]:
        raise ValueError(f"expected groups of shape {scores_R_N.shape[1:]}, got {groups_N.shape}")
    normalised_R_N = np.zeros_like(scores_R_N)
    for reward, counted_N in enumerate(counted_R_N):
        for group in np.unique(groups_N[counted_N]):
            members = np.flatnonzero(counted_N & (groups_N == group))
            values = scores_R_N[reward, members]
            normalised_R_N[reward, members] = (values - values.mean()) / max(float(values.std()), std_floor)
    any_N = (counted_R_N & (weights_R > 0)[:, None]).any(0)
    weighted_R_N = weights_R[:, None] * normalised_R_N
    weighted_R_N[:, ~any_N] = np.nan
    if any_N.any():
        spread = max(float(weighted_R_N[:, any_N].sum(0).std()), whitening_floor)
        weighted_R_N = (weighted_R_N - weighted_R_N[:, any_N].mean(1, keepdims=True)) / spread
    return weighted_R_N


def kept_items(failed_R_N: Bools, policies: Sequence[str], groups_N: Ints) -> Bools:
    """Which items stay, N bools, before any baseline is computed.

    A failed reward takes its item out (`drop_item`), or the item's whole group (`drop_group`); `monitor_only` takes
    nothing out. `required` is the caller's to act on; here it counts as `drop_item`.
    """
    kept_N = np.ones(failed_R_N.shape[1], dtype=np.bool_)
    for policy, failed_N in zip(policies, failed_R_N):
        if policy == "drop_group":
            kept_N &= ~np.isin(groups_N, groups_N[failed_N])
        elif policy != "monitor_only":
            kept_N &= ~failed_N
    return kept_N


def group_numbers(groups: Sequence[str]) -> Ints:
    """Group names as numbers in order of appearance; items without a name ("") are each a group of their own."""
    numbers: dict[tuple[str, int], int] = {}
    return np.array(
        [numbers.setdefault((name, -1 if name else i), len(numbers)) for i, name in enumerate(groups)], np.int64
    )


def _checked(scores_R_N: Floats, counted_R_N: Bools, weights_R: Floats) -> Floats:
    """Scores with 0 where they do not count, so that no arithmetic ever meets what stands there."""
    if scores_R_N.ndim != 2 or counted_R_N.shape != scores_R_N.shape or weights_R.shape != scores_R_N.shape[:1]:
        raise ValueError(
            f"expected scores and counted of shape (R, N) and weights of shape (R,), got {scores_R_N.shape}, "
            f"{counted_R_N.shape} and {weights_R.shape}"
        )
    if not np.isfinite(weights_R).all() or (weights_R < 0).any():
        raise ValueError(f"weights must be finite and >= 0, got {weights_R.tolist()}")
    if not np.isfinite(scores_R_N[counted_R_N]).all():
        raise ValueError("a score that counts is not finite; mark it as not counted, never pass it as a number")
    return np.where(counted_R_N, scores_R_N, 0.0)
