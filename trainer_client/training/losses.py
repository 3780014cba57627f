"""The losses of a batch in micro-batches: log-probs of recorded trajectories, and the gradients that they give.

You are between the formulas (`sync_grpo.py`) and the update (`learner.py`). Micro-batches change memory, never the
result: the loss is a sum over (trajectory, token), so their gradients add up.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from sync_r1.trainer_client.config import ObjectiveConfig, OptimiserConfig
from sync_r1.trainer_client.policies.base import ImageState, Policy
from sync_r1.trainer_client.rollouts.sampler import Trajectory, collate_answers, parts_of
from sync_r1.trainer_client.training.distributed import Ranks, Shards
from sync_r1.trainer_client.training.optimisers import Modality
from sync_r1.trainer_client.training.sync_grpo import Credit, ModalityLoss, TokenLogProbs, modality_loss

Part = tuple[Sequence[int], Credit]
"""Rows of a micro-batch, and the credit that they have in it."""


@dataclass(frozen=True)
class RecordedLogProbs:
    """Log-probs of N trajectories under fixed weights: one (L_i,) tensor per answer, one (I,) tensor per picture, (0,)
    where a trajectory has none; None for a modality whose KL has no weight.
    """

    answers: list[Tensor] | None
    images: list[Tensor] | None


@dataclass(frozen=True)
class LossBatch:
    """What is learnt from in one update."""

    trajectories: Sequence[Trajectory]
    credit: Credit
    steps: Sequence[int]
    """Decoding steps whose tokens enter the loss."""
    old: RecordedLogProbs | None
    """Under the weights before the update; None = those of now."""
    reference: RecordedLogProbs | None


class BatchLosses:
    """The losses of `policy` under `objective`, in micro-batches as `optimiser` has them."""

    def __init__(self, policy: Policy, objective: ObjectiveConfig, optimiser: OptimiserConfig) -> None:
        self.policy, self._objective = policy, objective
        self._micro_batch, self._micro_steps = optimiser.micro_batch, optimiser.micro_steps

    @property
    def betas(self) -> dict[Modality, float]:
        """Weight of the KL to the reference."""
        image_beta = self._objective.image_beta
        return {"answer": self._objective.beta, "image": self._objective.beta if image_beta is None else image_beta}

    @torch.no_grad()
    def record(
        self,
        policy: Policy,
        trajectories: Sequence[Trajectory],
        steps: Sequence[int],
        modalities: Sequence[Modality] = ("answer", "image"),
    ) -> RecordedLogProbs:
        """The log-probs of `trajectories` under `policy` as it is now."""
        nothing = torch.empty(0)
        answers, images = [nothing] * len(trajectories), [nothing] * len(trajectories)
        asked = [row for row, one in enumerate(trajectories) if one.answer is not None]
        for rows in self._answer_parts(trajectories, asked) if "answer" in modalities else ():
            log_probs = policy.answer_log_probs(collate_answers([trajectories[row] for row in rows]))
            for row, values in zip(rows, log_probs):
                answers[row] = values
        pictured = [row for row, one in enumerate(trajectories) if one.state is not None]
        for rows in parts_of(pictured, self._micro_batch) if "image" in modalities else ():
            state = ImageState.concatenate([trajectories[row].picture for row in rows])
            # A token has a value other than 0 at its own step only, so parts of the steps add up.
            parts = parts_of(steps, self._micro_steps)
            for row, values in zip(rows, torch.stack([policy.image_log_probs(state, part) for part in parts]).sum(0)):
                images[row] = values
        return RecordedLogProbs(answers if "answer" in modalities else None, images if "image" in modalities else None)

    def rows_of(self, modality: Modality, credit: Credit) -> list[int]:
        """Trajectories whose answer (or picture) is in the loss."""
        objective = self._objective
        if modality == "answer":
            weighted, weights_N = objective.text_loss and objective.answer_weight > 0, credit.answer_weights_N
        else:
            weighted, weights_N = objective.image_weight > 0, credit.image_weights_N
        return np.flatnonzero(weights_N > 0).tolist() if weighted else []

    def add_gradients(
        self, batch: LossBatch, modalities: Sequence[Modality], ranks: Ranks, shards: Shards
    ) -> dict[str, float]:
        """Add the loss's gradients for the rows with weight to the policy's, in micro-batches; returns the losses'
        metrics.
        """
        metrics: dict[str, float] = {}
        trajectories = batch.trajectories
        if "answer" in modalities:
            answered = [row for row, one in enumerate(trajectories) if one.answer is not None]
            parts = self._answer_parts(trajectories, self.rows_of("answer", batch.credit))
            for part in _in_step(parts, batch.credit, answered, ranks if shards else None):
                _add(metrics, "answer", self._answer_loss(batch, part))
        if "image" in modalities:
            pictured = [row for row, one in enumerate(trajectories) if one.state is not None]
            parts = parts_of(self.rows_of("image", batch.credit), self._micro_batch)
            for part in _in_step(parts, batch.credit, pictured, ranks if shards else None):
                for steps in parts_of(batch.steps, self._micro_steps):
                    _add(metrics, "image", self._image_loss(batch, part, steps))
        return metrics

    def _answer_loss(self, batch: LossBatch, part: Part) -> ModalityLoss:
        (rows, credit), objective = part, self._objective
        answers = collate_answers([batch.trajectories[row] for row in rows])
        log_probs = self.policy.answer_log_probs(answers)
        width, old = log_probs.shape[1], batch.old.answers if batch.old else None
        before = batch.reference.answers if batch.reference else None
        loss = modality_loss(
            TokenLogProbs(
                log_probs,
                _padded([old[row] for row in rows], width) if old else log_probs.detach(),
                answers.mask_N_L,
                _padded([before[row] for row in rows], width) if before else None,
            ),
            torch.tensor(credit.answer_N[rows], dtype=log_probs.dtype),
            torch.tensor(credit.answer_weights_N[rows], dtype=log_probs.dtype),
            tokens=objective.answer_tokens,
            clip=objective.clip,
            beta=self.betas["answer"],
        )
        (objective.answer_weight * loss.total).backward()
        return loss

    def _image_loss(self, batch: LossBatch, part: Part, steps: Sequence[int]) -> ModalityLoss:
        (rows, credit), objective = part, self._objective
        state = ImageState.concatenate([batch.trajectories[row].picture for row in rows])
        log_probs, old = self.policy.image_log_probs(state, steps), batch.old.images if batch.old else None
        before = batch.reference.images if batch.reference else None
        # Steps are drawn uniformly, so dividing by the share drawn keeps the sum over all steps unbiased.
        share = len(batch.steps) / self.policy.steps
        loss = modality_loss(
            TokenLogProbs(
                log_probs,
                torch.stack([old[row] for row in rows]) if old else log_probs.detach(),
                torch.isin(state.decided_at_N_I, torch.tensor(list(steps))),
                torch.stack([before[row] for row in rows]) if before else None,
            ),
            torch.tensor(credit.image_N[rows], dtype=log_probs.dtype),
            torch.tensor(credit.image_weights_N[rows], dtype=log_probs.dtype),
            tokens=state.tokens_N_I.shape[1] * share,
            clip=objective.clip,
            beta=self.betas["image"],
        )
        (objective.image_weight * loss.total).backward()
        return loss

    def _answer_parts(self, trajectories: Sequence[Trajectory], rows: Sequence[int]) -> list[Sequence[int]]:
        """Micro-batches of one layout each: answers with and without a picture do not mix."""
        parts: list[Sequence[int]] = []
        for about_picture in (True, False):
            same = [row for row in rows if _asks_about_picture(trajectories[row]) == about_picture]
            parts += parts_of(same, self._micro_batch)
        return parts


def _in_step(parts: list[Sequence[int]], credit: Credit, rows: Sequence[int], together: Ranks | None) -> list[Part]:
    """The parts with their credit; where blocks are divided among the processes `together`, as many in each of them as
    the one with most has.

    Each backward pass through divided blocks adds up their gradients over the processes, so a process that is done
    early goes along with passes, of one of `rows`, that count for nothing.
    """
    missing = max(together.gather(len(parts))) - len(parts) if together else 0
    nothing_N = np.zeros_like(credit.answer_N)
    nothing = Credit(nothing_N, nothing_N, nothing_N, nothing_N)
    return [(part, credit) for part in parts] + [(rows[:1], nothing)] * missing


def _asks_about_picture(trajectory: Trajectory) -> bool:
    return trajectory.answer is not None and trajectory.answer.images_codes_N_I is not None


def _padded(values: Sequence[Tensor], width: int) -> Tensor:
    """Recorded log-probs as (n, width): cut or padded with 0 on the right, where the mask is False anyway."""
    return torch.stack([torch.nn.functional.pad(row[:width], (0, width - min(width, len(row)))) for row in values])


def _add(metrics: dict[str, float], modality: Modality, loss: ModalityLoss) -> None:
    values = {"loss": loss.policy, "clipped": loss.clipped} | ({} if loss.kl is None else {"kl": loss.kl})
    for name, value in values.items():
        metrics[f"{modality}_{name}"] = metrics.get(f"{modality}_{name}", 0.0) + value
