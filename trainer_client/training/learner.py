"""One policy update: log-probs of the recorded trajectories, Sync-GRPO's loss, one step of each optimiser per epoch.

You are between the losses (`losses.py`) and the loop (`loop.py`).
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from torch import Tensor

from sync_r1.reward_models.errors import SyncR1Error
from sync_r1.trainer_client.config import ObjectiveConfig, OptimiserConfig
from sync_r1.trainer_client.policies.base import Policy
from sync_r1.trainer_client.rollouts.sampler import Trajectory
from sync_r1.trainer_client.training.distributed import SINGLE_PROCESS, Ranks, Shards, shard
from sync_r1.trainer_client.training.losses import BatchLosses, LossBatch, RecordedLogProbs
from sync_r1.trainer_client.training.optimisers import Modality, Stepper, TotalSteps, make_steppers
from sync_r1.trainer_client.training.sync_grpo import Credit


class NonFiniteUpdate(SyncR1Error, ArithmeticError):
    """A loss or the gradient is infinite or not a number; the message has the figures."""


class Learner:
    """Owns policy, frozen reference, optimisers and schedules.

    With several `ranks`, each calls `update` with trajectories of its own and gets the update of all; `divide` spreads
    the policy's transformer blocks over them (FSDP2).
    """

    def __init__(
        self,
        policy: Policy,
        reference: Policy,
        objective: ObjectiveConfig,
        optimiser: OptimiserConfig,
        *,
        total_steps: TotalSteps,
        ranks: Ranks = SINGLE_PROCESS,
        divide: bool = False,
    ) -> None:
        self.policy, self.reference, self.ranks = policy, reference, ranks
        self._objective = objective
        self.shards = shard(policy, ranks) if divide else Shards()
        self.losses = BatchLosses(policy, objective, optimiser)
        self.parameters = [parameter for parameter in policy.parameters() if parameter.requires_grad]
        self.steppers = make_steppers(self.parameters, optimiser, total_steps, objective.epochs)

    def draw_steps(self, rng: np.random.Generator) -> list[int]:
        """The decoding steps whose tokens enter this batch's loss."""
        every = self.policy.steps
        wanted = self._objective.image_steps or every
        return sorted(int(step) for step in rng.choice(every, size=min(wanted, every), replace=False))

    def reference_log_probs(self, trajectories: Sequence[Trajectory], steps: Sequence[int]) -> RecordedLogProbs | None:
        """Under the frozen reference; None when the KL has no weight. Independent of rewards: run it while they are
        awaited.
        """
        wanted: list[Modality] = [modality for modality, beta in self.losses.betas.items() if beta > 0]
        return self.losses.record(self.reference, trajectories, steps, wanted) if wanted else None

    def update(
        self,
        trajectories: Sequence[Trajectory],
        credit: Credit,
        steps: Sequence[int],
        reference: RecordedLogProbs | None,
    ) -> dict[str, float]:
        """Apply the objective's epochs to one batch; returns metrics of the last epoch (losses, KL in nats per token,
        …).

        Raises NonFiniteUpdate before the epoch that would spoil the weights, ValueError without a valid reward.
        """
        rows = self.losses.rows_of("answer", credit) + self.losses.rows_of("image", credit)
        if not any(self.ranks.gather(bool(rows))):
            raise ValueError("no trajectory of this batch has a valid reward, so there is nothing to learn from")
        # With one epoch the ratio is 1 by construction, and the new log-probs, detached, are the old ones.
        old = None
        if self._objective.epochs > 1:
            with self.shards.whole():
                old = self.losses.record(self.policy, trajectories, steps)
        batch = LossBatch(trajectories, credit, steps, old, reference)
        metrics: dict[str, float] = {}
        for _ in range(self._objective.epochs):
            metrics = self._epoch(batch)
        return metrics

    def _epoch(self, batch: LossBatch) -> dict[str, float]:
        """One step of each optimiser whose loss has rows. All gradients are taken before the first step."""
        metrics: dict[str, float] = {}
        gradients: list[tuple[Stepper, list[Tensor | None]]] = []
        for stepper in self.steppers:
            has_rows = any(self.losses.rows_of(modality, batch.credit) for modality in stepper.modalities)
            if not any(self.ranks.gather(has_rows)):
                continue
            own = self._gradients(stepper, batch)
            if wrong := [f"{name} {value}" for name, value in own.items() if not math.isfinite(value)]:
                raise NonFiniteUpdate(f"the update is not finite: {', '.join(wrong)}")
            metrics |= own
            gradients.append((stepper, [parameter.grad for parameter in self.parameters]))
        for stepper, own_gradients in gradients:
            metrics |= stepper.step(self.parameters, own_gradients)
        return metrics

    def _gradients(self, stepper: Stepper, batch: LossBatch) -> dict[str, float]:
        """Put the clipped gradients of all processes into the parameters; returns the metrics of their losses."""
        stepper.optimiser.zero_grad(set_to_none=True)
        own = self.add_gradients(batch, stepper.modalities)
        metrics = _sums(self.ranks.gather(own))
        self.ranks.all_reduce_gradients(self.parameters)
        metrics[f"{stepper.name}grad_norm"] = self.ranks.clip_gradients(self.parameters, stepper.grad_clip)
        return metrics

    def add_gradients(self, batch: LossBatch, modalities: Sequence[Modality] = ("answer", "image")) -> dict[str, float]:
        """Add the gradients of this process's rows to the parameters'; returns the losses' metrics."""
        with self.shards.whole():
            return self.losses.add_gradients(batch, modalities, self.ranks, self.shards)


def _sums(metrics: Sequence[dict[str, float]]) -> dict[str, float]:
    names = dict.fromkeys(name for one in metrics for name in one)
    return {name: sum(one.get(name, 0.0) for one in metrics) for name in names}
