"""Muon, the optimiser of the cold start: momentum whose update is made orthogonal per weight matrix.

Where you are: used by the two cold-start stages only; reinforcement learning uses AdamW. On one CPU core the number
of steps is what is scarce, and Muon needs fewer. Source: Jordan et al., "Muon: An optimizer for hidden layers in
neural networks" (2024); convolutions are treated as matrices (output channels × the rest), everything that is not a
hidden weight matrix is left to AdamW by `split_parameters`.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn

_QUINTIC = (3.4445, -4.7750, 2.0315)
"""Coefficients of the Newton-Schulz iteration, chosen by the source for a steep slope at 0."""


def orthogonal(matrix: Tensor, iterations: int = 5) -> Tensor:
    """The nearest semi-orthogonal matrix, roughly (singular values end between about 0.7 and 1.2); bfloat16 is
    enough for that.
    """
    a, b, c = _QUINTIC
    tall = matrix.shape[0] > matrix.shape[1]
    x = (matrix.T if tall else matrix).bfloat16()
    x = x / (x.norm() + 1e-7)
    for _ in range(iterations):
        gram = x @ x.T
        x = a * x + (b * gram + c * gram @ gram) @ x
    return (x.T if tall else x).to(matrix.dtype)


class Muon(torch.optim.Optimizer):
    """Nesterov momentum, orthogonalised; `lr` is the root-mean-square size of an update relative to AdamW's (factor
    0.2·√max(shape)).
    """

    def __init__(
        self, params: Iterable[nn.Parameter], lr: float, momentum: float = 0.95, weight_decay: float = 0.0
    ) -> None:
        super().__init__(params, {"lr": lr, "momentum": momentum, "weight_decay": weight_decay})

    @torch.no_grad()
    def step(self, closure: Any = None) -> None:  # type: ignore[override]
        """One update of all parameters that have a gradient."""
        for group in self.param_groups:
            for p in group["params"]:
                if p.grad is None:
                    continue
                state = self.state[p]
                buffer = state.setdefault("momentum", torch.zeros_like(p.grad))
                buffer.lerp_(p.grad, 1 - group["momentum"])
                update = p.grad.lerp(buffer, group["momentum"]).reshape(p.shape[0], -1)
                scale = 0.2 * max(update.shape) ** 0.5
                p.mul_(1 - group["lr"] * group["weight_decay"])
                p.add_(orthogonal(update).view_as(p), alpha=-group["lr"] * scale)


def split_parameters(model: nn.Module, *, adam_names: tuple[str, ...]) -> tuple[list[nn.Parameter], list[nn.Parameter]]:
    """(hidden weight matrices for Muon, the rest for AdamW); names that contain one of `adam_names` belong to the
    rest.
    """
    hidden: list[nn.Parameter] = []
    rest: list[nn.Parameter] = []
    for name, p in model.named_parameters():
        (hidden if p.ndim >= 2 and not any(part in name for part in adam_names) else rest).append(p)
    return hidden, rest
