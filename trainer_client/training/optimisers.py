"""The optimisers of a policy and their learning rates."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn

from sync_r1.trainer_client.config import ImageOptimiserConfig, OptimiserConfig
from sync_r1.trainer_client.training.distributed import parameter_groups

Modality = Literal["answer", "image"]


@dataclass(frozen=True)
class TotalSteps:
    """The steps of a run, at whose end the cosine of the learning rate ends."""

    all: int
    images: int | None = None
    """Those of the pictures' own optimiser (`optimiser.image`); None = as many."""


@dataclass(frozen=True)
class Stepper:
    """An optimiser and the losses whose gradient it follows."""

    name: str
    """Of its metrics: a prefix."""
    modalities: tuple[Modality, ...]
    optimiser: torch.optim.AdamW
    scheduler: torch.optim.lr_scheduler.LambdaLR
    grad_clip: float

    def step(self, parameters: Sequence[nn.Parameter], gradients: Sequence[Tensor | None]) -> dict[str, float]:
        """Follow `gradients`; returns the learning rate of the next step."""
        for parameter, gradient in zip(parameters, gradients):
            parameter.grad = gradient
        self.optimiser.step()
        self.scheduler.step()
        return {f"{self.name}learning_rate": float(self.scheduler.get_last_lr()[0])}


def make_steppers(
    parameters: Sequence[nn.Parameter], config: OptimiserConfig, total: TotalSteps, epochs: int
) -> list[Stepper]:
    """One for the sum of both losses, or one for each (`optimiser.image`)."""
    both = config.image is None
    modalities: tuple[Modality, ...] = ("answer", "image") if both else ("answer",)
    steppers = [Stepper("", modalities, *_adamw(parameters, config, total.all * epochs), config.grad_clip)]
    if config.image is not None:
        updates = (total.all if total.images is None else total.images) * epochs
        own = _adamw(parameters, config.image, updates)
        steppers.append(Stepper("image_", ("image",), *own, config.image.grad_clip))
    return steppers


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
