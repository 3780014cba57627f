"""flow_grpo: `fn(images, prompts, metadata) -> (scores, info)`, without its pickle wire."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from sync_r1.reward_models.types import Concept, Sample
from sync_r1.trainer_client.sdk.pictures import picture
from sync_r1.trainer_client.sdk.sync_client import SyncRewardEnsemble

Scorer = Callable[[Any, Sequence[str], Sequence[dict[str, Any]]], tuple[dict[str, list[float]], dict[str, Any]]]


def score_function(
    ensemble: SyncRewardEnsemble, concept_of: Callable[[dict[str, Any]], Concept] = lambda metadata: Concept()
) -> Scorer:
    """A function as flow_grpo's `multi_score` makes them: "avg" and each reward, one list of N numbers each.

    `images` is uint8 (N, 3, H, W), a torch tensor or an array, or a list of pictures. flow_grpo averages what it gets
    and knows no missing score, so an item without a total is NaN, never 0: `info["valid"]` (N bools) says which items
    may enter a baseline. Raises what `RewardEnsemble.score` raises.
    """

    def score(
        images: Any, prompts: Sequence[str], metadata: Sequence[dict[str, Any]]
    ) -> tuple[dict[str, list[float]], dict[str, Any]]:
        samples = [
            Sample(image=picture(image), prompt=prompt, concept=concept_of(item))
            for image, prompt, item in zip(_pictures(images), prompts, metadata)
        ]
        result = ensemble.score(samples)
        scores = {name: reward.scores_N.tolist() for name, reward in result.rewards.items()}
        return scores | {"avg": result.total_N.tolist()}, {"valid": result.valid_N.tolist()}

    return score


def _pictures(images: Any) -> list[Any]:
    if isinstance(images, list | tuple):
        return list(images)
    array = np.asarray(images.cpu() if hasattr(images, "cpu") else images)
    if array.ndim != 4 or array.shape[1] != 3 or array.dtype != np.uint8:
        raise ValueError(f"expected uint8 images of shape (N, 3, H, W), got {array.dtype} {array.shape}")
    return list(array.transpose(0, 2, 3, 1))
