"""A pool of finished trajectories of a frozen policy, for `gradients.py`: rewards, rewards of previews, and gradients.

For every prompt many trajectories are drawn once, each with its rewards, those of its previews after the first decoding
steps, and the gradients of its answer's and its picture's log-probability, kept as a random sketch, which preserves
inner products.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from sync_r1.trainer_client.config import PolicyConfig
from sync_r1.trainer_client.jobs.train import load_benchmark
from sync_r1.trainer_client.policies.base import Policy
from sync_r1.trainer_client.policies.loading import load_policy
from sync_r1.trainer_client.rollouts.sampler import Sampler, Trajectory
from sync_r1.trainer_client.sdk.client import RewardClient
from sync_r1.trainer_client.sdk.combination import Floats
from sync_r1.trainer_client.sdk.ensemble import RewardEnsemble, RewardUse
from sync_r1.trainer_client.tasks.curriculum import Curriculum
from sync_r1.trainer_client.tasks.tasks import Task, sample

WEIGHTS = {
    "concept-consistency": 0.26, "text-faithfulness": 0.26, "aesthetic": 0.13, "understanding-correctness": 0.35,
}  # fmt: skip
IMAGE_ONLY = {"concept-consistency": 0.4, "text-faithfulness": 0.4, "aesthetic": 0.2}
RELEASED = {"concept-consistency": 0.65, "text-faithfulness": 0.35}
PREVIEWS = (1, 2, 3, 4)
"""Decoding steps (of 8) at which the pool's previews are scored."""
TRUNCATED_AT = 1
ANSWER_SCALE, IMAGE_SCALE = 2.0 / 16, 1.0 / 64
"""answer_weight / answer_tokens and image_weight / image tokens of the main job's objective."""
_SKETCH = 16_384
_REQUEST_ITEMS = 96


def prompts_of_pool(count: int, folder: Path) -> list[Task]:
    """The prompts that every pool of that size has."""
    curriculum = Curriculum(load_benchmark("pocket", folder), recall_share=0.85, learnability=0.0)
    return curriculum.draw(count, np.random.default_rng(3))


@dataclass(frozen=True)
class PoolRewards:
    """P prompts with N trajectories each."""

    rewards_P_N: dict[str, Floats]
    previews_P_N: dict[int, dict[str, Floats]]
    """Decoding step -> the rewards of the preview after it."""


@dataclass(frozen=True)
class Pool(PoolRewards):
    """The same with gradients; D = size of the sketch."""

    answer_P_N_D: npt.NDArray[np.float32]
    image_P_N_D: npt.NDArray[np.float32]
    truncated_P_N_D: npt.NDArray[np.float32]
    """Of the tokens that were decided before step `TRUNCATED_AT`."""


def weighted(rewards: dict[str, Floats], weights: dict[str, float]) -> Floats:
    """Weighted sum; not normalised, which no rank and no variance rule sees."""
    return np.asarray(sum(weight * rewards[name] for name, weight in weights.items()))


async def collect(
    prompts: int, per_prompt: int, policy_name: str, targets: dict[str, str], folder: Path, *, gradients: bool
) -> None:
    """Draw the pool and write it to `folder/rewards.npz` and, where wanted, `folder/gradients.npz`."""
    policy = load_policy(PolicyConfig(weights=policy_name), "auto")
    tasks = prompts_of_pool(prompts, folder)
    ensemble = RewardEnsemble({name: (RewardClient(targets[name]), RewardUse(w)) for name, w in WEIGHTS.items()})
    sampler = Sampler(policy, temperature=1.0, rows_max=64, generator=torch.Generator().manual_seed(5))
    trajectories = sampler.begin(tasks, [group for group in range(prompts) for _ in range(per_prompt)])
    arrays: dict[str, Any] = {}
    for step in (*PREVIEWS, policy.steps):
        trajectories = sampler.advance(trajectories, step)
        for name, scores_N in (await _scores(ensemble, tasks, trajectories, sampler)).items():
            arrays[f"{step}/{name}"] = scores_N.reshape(prompts, per_prompt)
        print(f"drawn and scored up to step {step}", flush=True)
    await ensemble.close()
    np.savez(folder / "rewards.npz", **arrays)
    if gradients:
        rows = _sketches(policy, trajectories)
        shaped = {name: np.stack(vectors).reshape(prompts, per_prompt, -1) for name, vectors in rows.items()}
        np.savez(folder / "gradients.npz", **shaped)


def _sketches(policy: Policy, trajectories: Sequence[Trajectory]) -> dict[str, list[npt.NDArray[np.float32]]]:
    sketch = _Sketch(list(policy.parameters()))
    rows: dict[str, list[npt.NDArray[np.float32]]] = {"answer": [], "image": [], "truncated": []}
    for number, trajectory in enumerate(trajectories):
        rows["answer"].append(sketch(policy.answer_log_probs(trajectory.answer).sum() * ANSWER_SCALE))
        rows["image"].append(sketch(policy.image_log_probs(trajectory.state).sum() * IMAGE_SCALE))
        early = policy.image_log_probs(trajectory.state, range(TRUNCATED_AT))
        rows["truncated"].append(sketch(early.sum() * IMAGE_SCALE))
        if number % 256 == 0:
            print(f"{number} of {len(trajectories)} gradients", flush=True)
    return rows


async def _scores(
    ensemble: RewardEnsemble, tasks: Sequence[Task], trajectories: Sequence[Trajectory], sampler: Sampler
) -> dict[str, Floats]:
    samples = [
        sample(tasks[t.group], identifier=str(number), group=str(t.group), pixels=pixels, answer=t.text)
        for number, (t, pixels) in enumerate(zip(trajectories, sampler.previews(trajectories)))
    ]
    parts = [
        await ensemble.score(samples[start : start + _REQUEST_ITEMS], timeout_s=120)
        for start in range(0, len(samples), _REQUEST_ITEMS)
    ]
    scores = {name: np.concatenate([part.rewards[name].scores_N for part in parts]) for name in WEIGHTS}
    if not all(np.isfinite(values).all() for values in scores.values()):
        raise RuntimeError("some rewards of the pool failed; look at the services' log and start again")
    return scores


class _Sketch:
    """Gradients as count sketches: each parameter is added, with a random sign, to one of `_SKETCH` sums."""

    def __init__(self, parameters: list[torch.nn.Parameter]) -> None:
        self._parameters = parameters
        count, generator = sum(p.numel() for p in parameters), torch.Generator().manual_seed(11)
        self._bucket = torch.randint(0, _SKETCH, (count,), generator=generator)
        self._sign = torch.randint(0, 2, (count,), generator=generator).float() * 2 - 1

    def __call__(self, scalar: torch.Tensor) -> npt.NDArray[np.float32]:
        gradients = torch.autograd.grad(scalar, self._parameters, allow_unused=True)
        flat = torch.cat([
            torch.zeros(p.numel()) if g is None else g.flatten() for p, g in zip(self._parameters, gradients)
        ])  # fmt: skip
        return torch.zeros(_SKETCH).index_add_(0, self._bucket, flat * self._sign).numpy()


def load_rewards(folder: Path, steps: int = 8) -> PoolRewards:
    """The rewards that `collect` wrote."""
    with np.load(folder / "rewards.npz") as arrays:
        return PoolRewards(
            {name: arrays[f"{steps}/{name}"] for name in WEIGHTS},
            {step: {name: arrays[f"{step}/{name}"] for name in WEIGHTS} for step in PREVIEWS},
        )


def load(folder: Path) -> Pool:
    """All that `collect` wrote."""
    rewards = load_rewards(folder)
    with np.load(folder / "gradients.npz") as arrays:
        return Pool(rewards.rewards_P_N, rewards.previews_P_N, arrays["answer"], arrays["image"], arrays["truncated"])
