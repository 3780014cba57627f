"""What one batch says about its rewards: scale, saturation, correlations, duplicates. Pure functions.

Shapes: N trajectories in groups of one prompt each; `groups_N` are group numbers. Scores are on the cards' [0, 1]
scale, NaN where there is none. "Within groups" means after each group's own mean is taken off: that is all an advantage
sees.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from itertools import combinations
from typing import Any

import numpy as np
from PIL import Image

from sync_r1.reward_models.types import Pixels
from sync_r1.trainer_client.sdk.combination import Bools, Floats, Ints
from sync_r1.trainer_client.sdk.ensemble import EnsembleResult

FLAT_STD = 1e-3
"""Scores of a group whose standard deviation is at most this tell nothing apart: half of what one picture's score may
differ by between batches in half precision."""
CLIP_EPS = 1e-6
"""A score this close to 0 or 1 stands at the end of its card's map, which cuts off what lies beyond."""
NEAR_DUPLICATE = 0.02
"""Pictures that differ by at most this are near-identical (mean over 16×16 cells and three colours of the absolute
difference, black to white being 1). Five levels of 256: noise and compression stay below, another pose does not."""
_CELLS = 16


def score_statistics(scores: EnsembleResult, groups_N: Ints) -> dict[str, Any]:
    """Everything that the scores of one batch tell, ready for JSON; None stands for what cannot be computed.

    `rewards`: per reward and for "total" (see `_of_scores`, `_cut_off`). `variance_share`: which share of the total's
    variance within groups each reward accounts for; they add up to 1. `correlations`: Pearson within groups by
    "one|other", with the number of trajectories that have both.
    """
    columns = {name: reward.scores_N for name, reward in scores.rewards.items()}
    rewards = {
        name: _of_scores(reward.scores_N, groups_N)
        | {
            "cut_off": _cut_off(reward.scores_N, reward.raw_N),
            "raw_mean": _finite(_mean(reward.raw_N)),
            "raw_std": _finite(_std(reward.raw_N)),
            "variant": reward.variant,
            "release": reward.release,
        }
        for name, reward in scores.rewards.items()
    }
    rewards["total"] = _of_scores(scores.total_N, groups_N)
    return {
        "rewards": rewards,
        "variance_share": variance_share(scores.contributions, scores.valid_N, groups_N),
        "correlations": {
            f"{one}|{other}": correlation(columns[one], columns[other], groups_N)
            for one, other in combinations(columns, 2)
        },
    }


def rollout_statistics(
    pictures: Sequence[Pixels], picture_groups_N: Ints, answers: Sequence[str], answer_groups_N: Ints
) -> dict[str, float | int]:
    """Sums over a batch, or one process's part of it, from which `duplicate_statistics` makes shares.

    `near_duplicates`: pictures with a near-identical one in their group; `distance` over `pairs`: of pictures of one
    group; `same_answers`: answers that another of their group gave too.
    """
    near_duplicates = same = pairs = 0
    distance = 0.0
    for members in _groups(picture_groups_N):
        apart_G_G = picture_distances([pictures[index] for index in members])
        upper = apart_G_G[np.triu_indices(len(members), 1)]
        distance, pairs = distance + float(upper.sum()), pairs + len(upper)
        np.fill_diagonal(apart_G_G, np.inf)
        near_duplicates += int((apart_G_G.min(1) <= NEAR_DUPLICATE).sum()) if len(members) > 1 else 0
    for members in _groups(answer_groups_N):
        counts = Counter(_normalised(answers[index]) for index in members)
        same += sum(count for count in counts.values() if count > 1)
    return {
        "pictures": len(pictures), "answers": len(answers),
        "near_duplicates": near_duplicates, "same_answers": same, "distance": distance, "pairs": pairs,
    }  # fmt: skip


def duplicate_statistics(
    parts: Sequence[dict[str, float | int]], answers: Sequence[str], groups_N: Ints
) -> dict[str, Any]:
    """Shares of duplicates in a whole batch: `pictures` with a near-identical one in their group and `answers` given
    twice in their group; `picture_distance`, the mean within groups; `common_answer`, the largest share of groups whose
    most frequent answer is the same (None with fewer than three groups).
    """
    sums = {key: sum(part[key] for part in parts) for key in parts[0]}
    favourites = [
        Counter(_normalised(answers[index]) for index in members).most_common(1)[0][0] for members in _groups(groups_N)
    ]
    return {
        "pictures": sums["near_duplicates"] / max(sums["pictures"], 1),
        "answers": sums["same_answers"] / max(sums["answers"], 1),
        "picture_distance": sums["distance"] / sums["pairs"] if sums["pairs"] else None,
        "common_answer": max(Counter(favourites).values()) / len(favourites) if len(favourites) > 2 else None,
    }


def picture_distances(pictures: Sequence[Pixels]) -> Floats:
    """(G, G): how far the pictures of a group lie apart, on the scale of `NEAR_DUPLICATE`."""
    size = (_CELLS, _CELLS)
    cells_G_C = np.stack(
        [np.asarray(Image.fromarray(one).resize(size, Image.Resampling.BOX), np.float64).ravel() for one in pictures]
    )
    return np.abs(cells_G_C[:, None] - cells_G_C[None]).mean(-1) / 255


def correlation(one_N: Floats, other_N: Floats, groups_N: Ints) -> dict[str, float | int | None]:
    """Pearson's r within groups, over the `n` trajectories with both scores; None where either does not vary there."""
    both_N = np.isfinite(one_N) & np.isfinite(other_N)
    one, other = (centred(values_N[both_N], groups_N[both_N]) for values_N in (one_N, other_N))
    lengths = float(np.sqrt((one**2).sum() * (other**2).sum()))
    flat = min(_std(one), _std(other)) <= FLAT_STD if both_N.any() else True
    return {"r": None if flat else float((one * other).sum()) / lengths, "n": int(both_N.sum())}


def variance_share(contributions: dict[str, Floats], valid_N: Bools, groups_N: Ints) -> dict[str, float | None]:
    """Per reward Σ c·t / Σ t², with contribution c and total t less their groups' means: its share of the total's
    variance within groups, negative for one that the others outvote. None where the total does not vary.
    """
    parts = {name: centred(values_N[valid_N], groups_N[valid_N]) for name, values_N in contributions.items()}
    total = np.sum(list(parts.values()), axis=0)
    squared = float((total**2).sum())
    return {name: float((part * total).sum()) / squared if squared > 1e-12 else None for name, part in parts.items()}


def centred(values_N: Floats, groups_N: Ints) -> Floats:
    """Finite values less the mean of their group."""
    _, index_N = np.unique(groups_N, return_inverse=True)
    counts = np.bincount(index_N)
    return values_N - (np.bincount(index_N, values_N) / np.maximum(counts, 1))[index_N]


def _of_scores(values_N: Floats, groups_N: Ints) -> dict[str, Any]:
    """`count`, `mean`, `std` of the scored ones, the shares `at_low` and `at_high` of the card's ends, the mean
    `group_std` and the share of `flat_groups` among groups with at least two scores.
    """
    known_N = np.isfinite(values_N)
    spreads = [
        float(values_N[members].std())
        for members in ([i for i in group if known_N[i]] for group in _groups(groups_N))
        if len(members) > 1
    ]
    values = values_N[known_N]
    return {
        "count": len(values),
        "mean": _finite(_mean(values)),
        "std": _finite(_std(values)),
        "at_low": float((values <= CLIP_EPS).mean()) if len(values) else None,
        "at_high": float((values >= 1 - CLIP_EPS).mean()) if len(values) else None,
        "group_std": float(np.mean(spreads)) if spreads else None,
        "flat_groups": float(np.mean([spread <= FLAT_STD for spread in spreads])) if spreads else None,
    }


def _cut_off(scores_N: Floats, raw_N: Floats) -> float | None:
    """Share of scores at an end of the card's map at which raw scores differ: the map hides differences there."""
    known_N = np.isfinite(scores_N)
    ends = [raw_N[known_N & (scores_N <= CLIP_EPS)], raw_N[known_N & (scores_N >= 1 - CLIP_EPS)]]
    cut = sum(len(raw) for raw in ends if len(raw) and np.ptp(raw) > CLIP_EPS)
    return cut / int(known_N.sum()) if known_N.any() else None


def _groups(groups_N: Ints) -> Iterator[list[int]]:
    for group in np.unique(groups_N):
        yield np.flatnonzero(groups_N == group).tolist()


def _normalised(text: str) -> str:
    return " ".join(text.lower().split())


def _mean(values: Floats) -> float:
    known = values[np.isfinite(values)]
    return float(known.mean()) if len(known) else float("nan")


def _std(values: Floats) -> float:
    known = values[np.isfinite(values)]
    return float(known.std()) if len(known) else float("nan")


def _finite(value: float) -> float | None:
    return value if np.isfinite(value) else None
