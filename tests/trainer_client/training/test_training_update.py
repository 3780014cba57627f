"""The update on a policy of the real classes: memory does not grow with the decoding steps, several epochs are held
back by the clip, and a KL without weight costs nothing.
"""

from __future__ import annotations

import copy
import gc
from pathlib import Path

import numpy as np
import pytest
import torch
from tiny_policy import tiny_policy
from torch import Tensor

from sync_r1.trainer_client.config import ObjectiveConfig, OptimiserConfig
from sync_r1.trainer_client.policies.base import Question
from sync_r1.trainer_client.policies.pocket.policy import PocketPolicy
from sync_r1.trainer_client.rollouts.sampler import Trajectory
from sync_r1.trainer_client.training.learner import Learner
from sync_r1.trainer_client.training.losses import RecordedLogProbs
from sync_r1.trainer_client.training.optimisers import TotalSteps
from sync_r1.trainer_client.training.sync_grpo import Credit


def trajectories_of(policy: PocketPolicy, count: int) -> list[Trajectory]:
    generator = torch.Generator().manual_seed(5)
    answers = policy.answer([Question("what colour is it ?")] * count, temperature=1.0, generator=generator)
    states = policy.advance(policy.start(["a red cat"] * count), policy.steps, temperature=1.0, generator=generator)
    return [Trajectory(0, answers.select([row]), states.select([row])) for row in range(count)]


def credit_of(count: int) -> Credit:
    signs_N = np.where(np.arange(count) % 2, 1.0, -1.0)
    return Credit(signs_N, signs_N, np.full(count, 1 / count), np.full(count, 1 / count))


def learner(policy: PocketPolicy, objective: dict[str, object], optimiser: dict[str, object]) -> Learner:
    return Learner(
        policy, copy.deepcopy(policy), ObjectiveConfig(answer_tokens=4, **objective),
        OptimiserConfig(warmup_steps=0, **optimiser), total_steps=TotalSteps(10),
    )  # fmt: skip


class Kept:
    """Counts the bytes that autograd keeps for backward passes, and remembers the most at any time."""

    def __init__(self) -> None:
        self.now = self.most = 0

    def pack(self, tensor: Tensor) -> list[Tensor]:
        kept = Holder([tensor])
        kept.of, kept.bytes = self, tensor.nbytes
        self.now += tensor.nbytes
        self.most = max(self.most, self.now)
        return kept

    def unpack(self, kept: list[Tensor]) -> Tensor:
        return kept[0]


class Holder(list[Tensor]):
    of: Kept
    bytes: int

    def __del__(self) -> None:
        self.of.now -= self.bytes


def most_kept(folder: Path, decoding_steps: int, micro_steps: int) -> int:
    """Bytes kept for backward passes at the worst moment of an update over all decoding steps."""
    policy, kept = tiny_policy(folder / f"{decoding_steps}", decoding_steps), Kept()
    chosen = trajectories_of(policy, 4)
    one = learner(policy, {"text_loss": False, "beta": 0.0}, {"micro_batch": 2, "micro_steps": micro_steps})
    gc.collect()
    with torch.autograd.graph.saved_tensors_hooks(kept.pack, kept.unpack):
        one.update(chosen, credit_of(4), range(decoding_steps), None)
    return kept.most


def test_memory_of_an_update_does_not_grow_with_the_decoding_steps(tmp_path: Path) -> None:
    few, many = most_kept(tmp_path, 4, 2), most_kept(tmp_path, 16, 2)
    assert many < 1.25 * few  # not the same: other tokens are decided together
    # The measure would see it: all steps in one backward pass keep several times as much.
    assert most_kept(tmp_path, 16, 16) > 3 * many


def test_the_clip_holds_back_several_epochs_on_one_batch(tmp_path: Path) -> None:
    """With one epoch it never acts. With several, the policy stops near the ratio it allows instead of running away."""
    figures, moved = {}, {}
    for name, epochs, clip in (("one", 1, 0.2), ("clipped", 8, 0.2), ("free", 8, 1e9)):
        policy = tiny_policy(tmp_path)
        chosen = trajectories_of(policy, 4)
        before = policy.answer_log_probs(chosen[1].answer).detach()
        one = learner(policy, {"epochs": epochs, "clip": clip, "beta": 0.0}, {"learning_rate": 0.02})
        figures[name] = one.update(chosen, credit_of(4), range(policy.steps), None)
        moved[name] = float((policy.answer_log_probs(chosen[1].answer).detach() - before).abs().sum())
    assert figures["one"]["answer_clipped"] == figures["one"]["image_clipped"] == 0
    assert figures["clipped"]["answer_clipped"] > 0
    assert figures["clipped"]["image_clipped"] > 0
    assert figures["free"]["image_clipped"] == 0
    assert moved["clipped"] < moved["free"]


@pytest.mark.parametrize("beta", [0.0, 0.5])
def test_the_kl_pulls_back_to_the_reference_and_costs_nothing_without_weight(tmp_path: Path, beta: float) -> None:
    policy = tiny_policy(tmp_path)
    chosen = trajectories_of(policy, 4)
    one = learner(policy, {"beta": beta}, {"learning_rate": 0.02})
    reference = one.reference_log_probs(chosen, range(policy.steps))
    assert (reference is not None) == (beta > 0)
    for _ in range(5):
        figures = one.update(chosen, credit_of(4), range(policy.steps), reference)
    assert ("image_kl" in figures) == ("answer_kl" in figures) == (beta > 0)
    if reference is not None:
        assert figures["image_kl"] > 0
        far = {}
        for weight in (0.0, 5.0):
            policy = tiny_policy(tmp_path)
            pulled = learner(policy, {"beta": weight}, {"learning_rate": 0.02})
            recorded = RecordedLogProbs(reference.answers, reference.images) if weight else None
            for _ in range(8):
                pulled.update(chosen, credit_of(4), range(policy.steps), recorded)
            drift = policy.image_log_probs(chosen[0].state).detach()[0] - reference.images[0]
            far[weight] = float(drift.abs().sum())
        assert far[5.0] < far[0.0]
