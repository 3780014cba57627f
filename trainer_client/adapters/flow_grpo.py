"""flow_grpo: `fn(images, prompts, metadata, …) -> (scores, info)`, without its pickle wire."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from sync_r1.reward_models.types import Concept, Sample
from sync_r1.trainer_client.adapters.missing import failed, without_total
from sync_r1.trainer_client.adapters.tensors import images_of
from sync_r1.trainer_client.sdk.errors import BadArgument
from sync_r1.trainer_client.sdk.pictures import picture
from sync_r1.trainer_client.sdk.sync_client import SyncRewardEnsemble

Scorer = Callable[..., tuple[dict[str, list[float]], dict[str, Any]]]


def score_function(
    ensemble: SyncRewardEnsemble, concept_of: Callable[[dict[str, Any]], Concept] = lambda metadata: Concept()
) -> Scorer:
    """A function as flow_grpo's `multi_score` makes them: "avg" and each reward, one list of N numbers each.

    `images` is what its training scripts hand over, a torch tensor (N, 3, H, W) of floats from 0 to 1 or of uint8; or a
    uint8 array (N, 3, H, W) or (N, H, W, 3), or a list of pictures. `metadata` has an entry for each image, or is
    empty. flow_grpo subtracts the mean of "avg" over the batch and knows no missing score: one NaN would become
    everybody's advantage. So an item without a total raises RewardFailed with the reasons. A list of a single reward
    may hold NaN where that reward does not apply: flow_grpo only logs those. `info["valid"]` (N bools) is all true.

    Raises BadArgument for images, prompts and metadata that do not belong together, and what `RewardEnsemble.score`
    raises.
    """

    def score(
        images: Any, prompts: Sequence[str], metadata: Sequence[dict[str, Any]] = (), **_: Any
    ) -> tuple[dict[str, list[float]], dict[str, Any]]:
        pictures = images_of(images)
        entries = list(metadata) if len(metadata) else [{}] * len(pictures)
        if isinstance(metadata, dict) and metadata:
            raise BadArgument("metadata: expected a list with a dict for each image, got one dict")
        if not len(pictures) == len(prompts) == len(entries):
            raise BadArgument(
                f"expected as many prompts and metadata as images, got {len(pictures)} images, {len(prompts)} prompts "
                f"and {len(entries)} metadata"
            )
        samples = [
            Sample(image=picture(image), prompt=prompt, concept=concept_of(item))
            for image, prompt, item in zip(pictures, prompts, entries)
        ]
        result = ensemble.score(samples)
        if missing := without_total(result):
            raise failed(result, missing)
        scores = {name: reward.scores_N.tolist() for name, reward in result.rewards.items()}
        return scores | {"avg": result.total_N.tolist()}, {"valid": result.valid_N.tolist()}

    return score
