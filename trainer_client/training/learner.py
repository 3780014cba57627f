"""One policy update: log-probs of the recorded trajectories, Sync-GRPO's loss in micro-batches, one optimiser step per
epoch.

You are between the formulas (`sync_grpo.py`) and the loop (`loop.py`). Micro-batches change memory, never the
result: the loss is a sum over (trajectory, token), so their gradients add up.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from torch import Tensor, nn

from sync_r1.reward_models.errors import SyncR1Error
from sync_r1.trainer_client.config import ImageOptimiserConfig, ObjectiveConfig, OptimiserConfig
from sync_r1.trainer_client.policies.base import ImageState, Policy
from sync_r1.trainer_client.rollouts.sampler import Trajectory, collate_answers
from sync_r1.trainer_client.training.distributed import ALONE, Ranks, Shards, parameter_groups, shard
from sync_r1.trainer_client.training.sync_grpo import Credit, ModalityLoss, modality_loss

Modality = Literal["answer", "image"]


class NonFiniteUpdate(SyncR1Error, ArithmeticError):
    """A loss or the gradient is infinite or not a number; the message has the figures."""


@dataclass(frozen=True)
class RecordedLogProbs:
    """Log-probs of N trajectories under fixed weights: one (L_i,) tensor per answer, one (I,) tensor per picture, (0,)
    where a trajectory has none; None for a modality whose KL has no weight.
    """

    answers: list[Tensor] | None
    images: list[Tensor] | None


@dataclass(frozen=True)
class _Stepper:
    """An optimiser and the losses whose gradient it follows."""

    name: str
    """Of its figures: a prefix."""
    modalities: tuple[Modality, ...]
    optimiser: torch.optim.AdamW
    scheduler: torch.optim.lr_scheduler.LambdaLR
    grad_clip: float


class Learner:
    """Owns policy, frozen reference, optimisers and schedules. `total_steps` is where the cosine ends, `image_steps`
    where that of the pictures' own optimiser does (`optimiser.image`; None = there too).

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
        image_steps: int | None = None,
        ranks: Ranks = ALONE,
        divide: bool = False,
    ) -> None:
        self.policy, self.reference, self.ranks = policy, reference, ranks
        self._objective, self._config = objective, optimiser
        self.shards = shard(policy, ranks) if divide else Shards()
        self._parameters = [parameter for parameter in policy.parameters() if parameter.requires_grad]
        updates = total_steps * objective.epochs
        self.optimiser, self.scheduler = _adamw(self._parameters, optimiser, updates)
        self.image_optimiser: torch.optim.AdamW | None = None
        self.image_scheduler: torch.optim.lr_scheduler.LambdaLR | None = None
        if optimiser.image is not None:
            updates = (total_steps if image_steps is None else image_steps) * objective.epochs
            self.image_optimiser, self.image_scheduler = _adamw(self._parameters, optimiser.image, updates)

    def draw_steps(self, rng: np.random.Generator) -> list[int]:
        """The decoding steps whose tokens enter this batch's loss."""
        every = self.policy.steps
        wanted = self._objective.image_steps or every
        return sorted(int(step) for step in rng.choice(every, size=min(wanted, every), replace=False))

    def reference_log_probs(self, trajectories: Sequence[Trajectory], steps: Sequence[int]) -> RecordedLogProbs | None:
        """Under the frozen reference; None when the KL has no weight. Independent of rewards: run it while they are
        awaited.
        """
        wanted = self._objective.beta > 0, self._image_beta > 0
        return self._record(self.reference, trajectories, steps, *wanted) if any(wanted) else None

    @property
    def _image_beta(self) -> float:
        image_beta = self._objective.image_beta
        return self._objective.beta if image_beta is None else image_beta

    @torch.no_grad()
    def _record(
        self,
        policy: Policy,
        trajectories: Sequence[Trajectory],
        steps: Sequence[int],
        of_answers: bool = True,
        of_images: bool = True,
    ) -> RecordedLogProbs:
        nothing = torch.empty(0)
        answers, images = [nothing] * len(trajectories), [nothing] * len(trajectories)
        asked = [row for row, one in enumerate(trajectories) if one.answer is not None]
        for rows in self._answer_parts(trajectories, asked) if of_answers else ():
            log_probs = policy.answer_log_probs(collate_answers([trajectories[row] for row in rows]))
            for row, values in zip(rows, log_probs):
                answers[row] = values
        pictured = [row for row, one in enumerate(trajectories) if one.state is not None]
        for rows in _parts(pictured, self._config.micro_batch) if of_images else ():
            state = ImageState.concatenate([trajectories[row].picture for row in rows])
            # A token has a value other than 0 at its own step only, so parts of the steps add up.
            parts = _parts(steps, self._config.micro_steps)
            for row, values in zip(rows, torch.stack([policy.image_log_probs(state, part) for part in parts]).sum(0)):
                images[row] = values
        return RecordedLogProbs(answers if of_answers else None, images if of_images else None)

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
        rows = self._rows_of("answer", credit) + self._rows_of("image", credit)
        if not any(self.ranks.gather(bool(rows))):
            raise ValueError("no trajectory of this batch has a valid reward, so there is nothing to learn from")
        # With one epoch the ratio is 1 by construction, and the new log-probs, detached, are the old ones.
        old = None
        if self._objective.epochs > 1:
            with self.shards.whole():
                old = self._record(self.policy, trajectories, steps)
        figures: dict[str, float] = {}
        for _ in range(self._objective.epochs):
            figures = self._epoch(trajectories, credit, steps, old, reference)
        return figures

    def _epoch(
        self,
        trajectories: Sequence[Trajectory],
        credit: Credit,
        steps: Sequence[int],
        old: RecordedLogProbs | None,
        reference: RecordedLogProbs | None,
    ) -> dict[str, float]:
        """One step of each optimiser whose loss has rows. Both gradients are taken before either step."""
        figures: dict[str, float] = {}
        gradients: list[tuple[_Stepper, list[Tensor | None]]] = []
        for stepper in self._steppers():
            if not any(self.ranks.gather(any(self._rows_of(one, credit) for one in stepper.modalities))):
                continue
            stepper.optimiser.zero_grad(set_to_none=True)
            with self.shards.whole():
                own = self.add_gradients(trajectories, credit, steps, old, reference, stepper.modalities)
            own_figures = _sums(self.ranks.gather(own))
            self.ranks.add_up_gradients(self._parameters)
            own_figures[f"{stepper.name}grad_norm"] = self.ranks.clip_gradients(self._parameters, stepper.grad_clip)
            if wrong := [f"{name} {value}" for name, value in own_figures.items() if not math.isfinite(value)]:
                raise NonFiniteUpdate(f"the update is not finite: {', '.join(wrong)}")
            figures |= own_figures
            gradients.append((stepper, [parameter.grad for parameter in self._parameters]))
        for stepper, own_gradients in gradients:
            for parameter, gradient in zip(self._parameters, own_gradients):
                parameter.grad = gradient
            stepper.optimiser.step()
            stepper.scheduler.step()
            figures[f"{stepper.name}learning_rate"] = float(stepper.scheduler.get_last_lr()[0])
        return figures

    def _steppers(self) -> list[_Stepper]:
        if self.image_optimiser is None or self.image_scheduler is None or self._config.image is None:
            return [_Stepper("", ("answer", "image"), self.optimiser, self.scheduler, self._config.grad_clip)]
        clip = self._config.image.grad_clip
        return [
            _Stepper("", ("answer",), self.optimiser, self.scheduler, self._config.grad_clip),
            _Stepper("image_", ("image",), self.image_optimiser, self.image_scheduler, clip),
        ]

    def _rows_of(self, modality: Modality, credit: Credit) -> list[int]:
        """Trajectories whose answer (or picture) is in the loss."""
        objective = self._objective
        if modality == "answer":
            weighted, weights_N = objective.text_loss and objective.answer_weight > 0, credit.answer_weights_N
        else:
            weighted, weights_N = objective.image_weight > 0, credit.image_weights_N
        return np.flatnonzero(weights_N > 0).tolist() if weighted else []

    def add_gradients(
        self,
        trajectories: Sequence[Trajectory],
        credit: Credit,
        steps: Sequence[int],
        old: RecordedLogProbs | None,
        reference: RecordedLogProbs | None,
        modalities: Sequence[Modality] = ("answer", "image"),
    ) -> dict[str, float]:
        """Add the loss's gradients for the rows with weight to the policy's, in micro-batches; returns the losses'
        figures.
        """
        figures: dict[str, float] = {}
        if "answer" in modalities:
            answered = [row for row, one in enumerate(trajectories) if one.answer is not None]
            parts = self._answer_parts(trajectories, self._rows_of("answer", credit))
            for part, share in self._in_step(parts, credit, answered):
                _add(figures, "answer", self._answer_loss(trajectories, part, share, old, reference))
        if "image" in modalities:
            pictured = [row for row, one in enumerate(trajectories) if one.state is not None]
            parts = _parts(self._rows_of("image", credit), self._config.micro_batch)
            for part, share in self._in_step(parts, credit, pictured):
                for step_part in _parts(steps, self._config.micro_steps):
                    loss = self._image_loss(trajectories, part, share, step_part, len(steps), old, reference)
                    _add(figures, "image", loss)
        return figures

    def _in_step(
        self, parts: list[Sequence[int]], credit: Credit, rows: Sequence[int]
    ) -> list[tuple[Sequence[int], Credit]]:
        """The parts with their credit; where blocks are divided, as many in every process as the one with most has.

        Each backward pass through divided blocks adds up their gradients over the processes, so a process that is done
        early goes along with passes, of one of `rows`, that count for nothing.
        """
        missing = max(self.ranks.gather(len(parts))) - len(parts) if self.shards else 0
        nothing_N = np.zeros_like(credit.answer_N)
        nothing = Credit(nothing_N, nothing_N, nothing_N, nothing_N)
        return [(part, credit) for part in parts] + [(rows[:1], nothing)] * missing

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
        width, before = log_probs.shape[1], reference.answers if reference else None
        loss = modality_loss(
            log_probs,
            _rows([old.answers[row] for row in rows], width) if old and old.answers else log_probs.detach(),
            torch.tensor(credit.answer_N[rows], dtype=log_probs.dtype),
            torch.tensor(credit.answer_weights_N[rows], dtype=log_probs.dtype),
            answers.mask_N_L,
            tokens=self._objective.answer_tokens,
            clip=self._objective.clip,
            beta=self._objective.beta,
            reference_log_probs_N_L=_rows([before[row] for row in rows], width) if before else None,
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
        state = ImageState.concatenate([trajectories[row].picture for row in rows])
        log_probs, before = self.policy.image_log_probs(state, steps), reference.images if reference else None
        # Steps are drawn uniformly, so dividing by the share drawn keeps the sum over all steps unbiased.
        share = steps_drawn / self.policy.steps
        loss = modality_loss(
            log_probs,
            torch.stack([old.images[row] for row in rows]) if old and old.images else log_probs.detach(),
            torch.tensor(credit.image_N[rows], dtype=log_probs.dtype),
            torch.tensor(credit.image_weights_N[rows], dtype=log_probs.dtype),
            torch.isin(state.decided_at_N_I, torch.tensor(list(steps))),
            tokens=state.tokens_N_I.shape[1] * share,
            clip=self._objective.clip,
            beta=self._image_beta,
            reference_log_probs_N_L=torch.stack([before[row] for row in rows]) if before else None,
        )
        (self._objective.image_weight * loss.total).backward()
        return loss

    def _answer_parts(self, trajectories: Sequence[Trajectory], rows: Sequence[int]) -> list[Sequence[int]]:
        """Micro-batches of one layout each: answers with and without a picture do not mix."""
        parts: list[Sequence[int]] = []
        for with_picture in (True, False):
            same = [row for row in rows if _looked(trajectories[row]) == with_picture]
            parts += _parts(same, self._config.micro_batch)
        return parts


def _looked(trajectory: Trajectory) -> bool:
    """Whether its question is about a picture."""
    return trajectory.answer is not None and trajectory.answer.images_codes_N_I is not None


def _adamw(
    parameters: Sequence[nn.Parameter], config: OptimiserConfig | ImageOptimiserConfig, updates: int
) -> tuple[torch.optim.AdamW, torch.optim.lr_scheduler.LambdaLR]:
    optimiser = torch.optim.AdamW(
        parameter_groups(parameters), lr=config.learning_rate, betas=config.betas, weight_decay=config.weight_decay
    )
    schedule = learning_rate_schedule(config.warmup_steps, updates, config.final_share)
    return optimiser, torch.optim.lr_scheduler.LambdaLR(optimiser, schedule)


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


def _add(figures: dict[str, float], modality: Modality, loss: ModalityLoss) -> None:
    values = {"loss": loss.policy, "clipped": loss.clipped} | ({} if loss.kl is None else {"kl": loss.kl})
    for name, value in values.items():
        figures[f"{modality}_{name}"] = figures.get(f"{modality}_{name}", 0.0) + value
