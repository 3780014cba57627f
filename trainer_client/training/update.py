"""One policy update: log-probs of the recorded trajectories, Sync-GRPO's loss in micro-batches, one optimiser step per
epoch.

You are between the formulas (`sync_grpo.py`) and the loop (`loop.py`). Micro-batches change memory, never the
result: the loss is a sum over (trajectory, token), so their gradients add up.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from sync_r1.trainer_client.config import ObjectiveConfig, OptimiserConfig
from sync_r1.trainer_client.policies.base import ImageState, Policy
from sync_r1.trainer_client.training.distributed import ALONE, Ranks, Shards, parameter_groups, shard
from sync_r1.trainer_client.training.rollout import Trajectory, collate_answers
from sync_r1.trainer_client.training.sync_grpo import Credit, ModalityLoss, modality_loss


class NonFiniteUpdate(ArithmeticError):
    """A loss or the gradient is infinite or not a number; the message has the figures."""


@dataclass(frozen=True)
class RecordedLogProbs:
    """Log-probs of N trajectories under fixed weights: one (L_i,) tensor per answer, one (I,) tensor per picture."""

    answers: list[Tensor]
    images: list[Tensor]


class Learner:
    """Owns policy, frozen reference, optimiser and schedule. `total_steps` is where the cosine ends.

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
        total_steps: int,
        ranks: Ranks = ALONE,
        divide: bool = False,
    ) -> None:
        self.policy, self.reference, self.ranks = policy, reference, ranks
        self._objective, self._config = objective, optimiser
        self.shards = shard(policy, ranks) if divide else Shards()
        self._parameters = [parameter for parameter in policy.parameters() if parameter.requires_grad]
        self.optimiser = torch.optim.AdamW(
            parameter_groups(self._parameters),
            lr=optimiser.learning_rate,
            betas=optimiser.betas,
            weight_decay=optimiser.weight_decay,
        )
        schedule = learning_rate_schedule(optimiser.warmup_steps, total_steps * objective.epochs, optimiser.final_share)
        self.scheduler = torch.optim.lr_scheduler.LambdaLR(self.optimiser, schedule)

    def draw_steps(self, rng: np.random.Generator) -> list[int]:
        """The decoding steps whose tokens enter this batch's loss."""
        every = self.policy.steps
        wanted = self._objective.image_steps or every
        return sorted(int(step) for step in rng.choice(every, size=min(wanted, every), replace=False))

    def reference_log_probs(self, trajectories: Sequence[Trajectory], steps: Sequence[int]) -> RecordedLogProbs | None:
        """Under the frozen reference; None when the KL has no weight. Independent of rewards: run it while they are
        awaited.
        """
        return self._record(self.reference, trajectories, steps) if self._objective.beta > 0 else None

    @torch.no_grad()
    def _record(self, policy: Policy, trajectories: Sequence[Trajectory], steps: Sequence[int]) -> RecordedLogProbs:
        answers: list[Tensor] = [torch.empty(0)] * len(trajectories)
        images: list[Tensor] = []
        for rows in self._answer_parts(trajectories, range(len(trajectories))):
            log_probs = policy.answer_log_probs(collate_answers([trajectories[row] for row in rows]))
            for row, values in zip(rows, log_probs):
                answers[row] = values
        for rows in _parts(range(len(trajectories)), self._config.micro_batch):
            state = ImageState.concatenate([trajectories[row].state for row in rows])
            # A token has a value other than 0 at its own step only, so parts of the steps add up.
            parts = _parts(steps, self._config.micro_steps)
            images += list(torch.stack([policy.image_log_probs(state, part) for part in parts]).sum(0))
        return RecordedLogProbs(answers, images)

    def update(
        self,
        trajectories: Sequence[Trajectory],
        credit: Credit,
        steps: Sequence[int],
        reference: RecordedLogProbs | None,
    ) -> dict[str, float]:
        """Apply the objective's epochs to one batch; returns figures of the last epoch (losses, KL in nats per token,
        …).

        Raises NonFiniteUpdate before the epoch that would spoil the weights, ValueError without a valid reward.
        """
        rows = [row for row in range(len(trajectories)) if credit.weights_N[row] > 0]
        if not any(self.ranks.gather(bool(rows))):
            raise ValueError("no trajectory of this batch has a valid reward, so there is nothing to learn from")
        # With one epoch the ratio is 1 by construction, and the new log-probs, detached, are the old ones.
        old = None
        if self._objective.epochs > 1:
            with self.shards.whole():
                old = self._record(self.policy, trajectories, steps)
        figures: dict[str, float] = {}
        for _ in range(self._objective.epochs):
            self.optimiser.zero_grad(set_to_none=True)
            with self.shards.whole():
                own = self.add_gradients(trajectories, rows, credit, steps, old, reference)
            figures = _sums(self.ranks.gather(own))
            self.ranks.add_up_gradients(self._parameters)
            figures["grad_norm"] = self.ranks.clip_gradients(self._parameters, self._config.grad_clip)
            if wrong := [f"{name} {value}" for name, value in figures.items() if not math.isfinite(value)]:
                raise NonFiniteUpdate(f"the update is not finite: {', '.join(wrong)}")
            self.optimiser.step()
            self.scheduler.step()
        figures["learning_rate"] = float(self.scheduler.get_last_lr()[0])
        return figures

    def add_gradients(
        self,
        trajectories: Sequence[Trajectory],
        rows: Sequence[int],
        credit: Credit,
        steps: Sequence[int],
        old: RecordedLogProbs | None,
        reference: RecordedLogProbs | None,
    ) -> dict[str, float]:
        """Add the loss's gradients for `rows` to the policy's, in micro-batches; returns the losses' figures."""
        text = self._objective.text_loss and self._objective.answer_weight > 0
        answer_parts = self._answer_parts(trajectories, rows) if text else []
        image_parts = _parts(rows, self._config.micro_batch) if self._objective.image_weight > 0 else []
        figures: dict[str, float] = {}
        for part, share in self._in_step(answer_parts, credit):
            _add(figures, "answer", self._answer_loss(trajectories, part, share, old, reference), reference)
        for part, share in self._in_step(image_parts, credit):
            for step_part in _parts(steps, self._config.micro_steps):
                loss = self._image_loss(trajectories, part, share, step_part, len(steps), old, reference)
                _add(figures, "image", loss, reference)
        return figures

    def _in_step(self, parts: list[Sequence[int]], credit: Credit) -> list[tuple[Sequence[int], Credit]]:
        """The parts with their credit; where blocks are divided, as many in every process as the one with most has.

        Each backward pass through divided blocks adds up their gradients over the processes, so a process that is done
        early goes along with passes that count for nothing.
        """
        missing = max(self.ranks.gather(len(parts))) - len(parts) if self.shards else 0
        nothing_N = np.zeros_like(credit.weights_N)
        return [(part, credit) for part in parts] + [([0], Credit(nothing_N, nothing_N, nothing_N))] * missing

    def _answer_loss(
        self,
        trajectories: Sequence[Trajectory],
        rows: Sequence[int],
        credit: Credit,
        old: RecordedLogProbs | None,
        reference: RecordedLogProbs | None,
    ) -> ModalityLoss:
        answers = collate_answers([trajectories[row] for row in rows])
        log_probs = self.policy.answer_log_probs(answers)
        width = log_probs.shape[1]
        loss = modality_loss(
            log_probs,
            _rows([old.answers[row] for row in rows], width) if old else log_probs.detach(),
            torch.tensor(credit.answer_N[rows], dtype=log_probs.dtype),
            torch.tensor(credit.weights_N[rows], dtype=log_probs.dtype),
            answers.mask_N_L,
            tokens=self._objective.answer_tokens,
            clip=self._objective.clip,
            beta=self._objective.beta,
            reference_log_probs_N_L=_rows([reference.answers[row] for row in rows], width) if reference else None,
        )
        (self._objective.answer_weight * loss.total).backward()
        return loss

    def _image_loss(
        self,
        trajectories: Sequence[Trajectory],
        rows: Sequence[int],
        credit: Credit,
        steps: Sequence[int],
        steps_drawn: int,
        old: RecordedLogProbs | None,
        reference: RecordedLogProbs | None,
    ) -> ModalityLoss:
        state = ImageState.concatenate([trajectories[row].state for row in rows])
        log_probs = self.policy.image_log_probs(state, steps)
        # Steps are drawn uniformly, so dividing by the share drawn keeps the sum over all steps unbiased.
        share = steps_drawn / self.policy.steps
        loss = modality_loss(
            log_probs,
            torch.stack([old.images[row] for row in rows]) if old else log_probs.detach(),
            torch.tensor(credit.image_N[rows], dtype=log_probs.dtype),
            torch.tensor(credit.weights_N[rows], dtype=log_probs.dtype),
            torch.isin(state.decided_at_N_I, torch.tensor(list(steps))),
            tokens=state.tokens_N_I.shape[1] * share,
            clip=self._objective.clip,
            beta=self._objective.beta,
            reference_log_probs_N_L=torch.stack([reference.images[row] for row in rows]) if reference else None,
        )
        (self._objective.image_weight * loss.total).backward()
        return loss

    def _answer_parts(self, trajectories: Sequence[Trajectory], rows: Sequence[int]) -> list[Sequence[int]]:
        """Micro-batches of one layout each: answers with and without a picture do not mix."""
        parts: list[Sequence[int]] = []
        for with_picture in (True, False):
            same = [row for row in rows if (trajectories[row].answer.images_codes_N_I is not None) == with_picture]
            parts += _parts(same, self._config.micro_batch)
        return parts


def learning_rate_schedule(warmup: int, total: int, final_share: float) -> Callable[[int], float]:
    """Factor of the peak learning rate at update k: linear warm-up, then a cosine down to `final_share` at `total`."""

    def factor(update: int) -> float:
        if update < warmup:
            return (update + 1) / (warmup + 1)
        progress = min(1.0, (update - warmup) / max(1, total - warmup))
        return final_share + (1 - final_share) * 0.5 * (1 + math.cos(math.pi * progress))

    return factor


def _sums(figures: Sequence[dict[str, float]]) -> dict[str, float]:
    names = dict.fromkeys(name for one in figures for name in one)
    return {name: sum(one.get(name, 0.0) for one in figures) for name in names}


def _parts(rows: Sequence[int], size: int) -> list[Sequence[int]]:
    return [rows[start : start + size] for start in range(0, len(rows), size)]


def _rows(values: Sequence[Tensor], width: int) -> Tensor:
    """Recorded log-probs as (n, width): cut or padded with 0 on the right, where the mask is False anyway."""
    return torch.stack([torch.nn.functional.pad(row[:width], (0, width - min(width, len(row)))) for row in values])


def _add(figures: dict[str, float], modality: str, loss: ModalityLoss, reference: RecordedLogProbs | None) -> None:
    values = {"loss": loss.policy, "clipped": loss.clipped} | ({"kl": loss.kl} if reference else {})
    for name, value in values.items():
        figures[f"{modality}_{name}"] = figures.get(f"{modality}_{name}", 0.0) + value
