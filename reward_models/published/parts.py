"""What families share: normalisation inside the graph, and the form in which a family hands over a graph."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn


@dataclass(frozen=True)
class TorchGraph:
    """One graph of a model: a module whose `forward` takes `example`'s tensors in order and gives `outputs`.

    Axis 0 of everything is the batch; `lengths` names the inputs whose axis 1 is of any length too.
    """

    module: nn.Module
    example: dict[str, Tensor]
    outputs: tuple[str, ...]
    lengths: tuple[str, ...] = field(default=())

    @property
    def dynamic_axes(self) -> dict[str, dict[int, str]]:
        """As `torch.onnx.export` wants them."""
        axes = {name: {0: "N"} for name in (*self.example, *self.outputs)}
        for name in self.lengths:
            axes[name][1] = "L"
        return axes


class Normalise(nn.Module):
    """Pixels (N, H, W, 3) of 0..255 to (N, 3, H, W): divided by 255, less the mean, by the deviation, all in float32.

    The same operations in the same order as torchvision's ToTensor and Normalize, so the results are equal bit by bit.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, mean: Sequence[float], std: Sequence[float]) -> None:
        super().__init__()
        self.register_buffer("mean", torch.tensor(mean).view(1, 3, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(std).view(1, 3, 1, 1), persistent=False)

    def forward(self, pixels: Tensor) -> Tensor:
        return (pixels.permute(0, 3, 1, 2).to(torch.float32) / 255 - self.mean) / self.std

    def _apply(self, fn: Any, recurse: bool = True) -> Normalise:
        """Stays in float32 when the model around it is halved; only its device follows."""
        super()._apply(fn, recurse)
        self.mean, self.std = self.mean.float(), self.std.float()
        return self


class RatingHead(nn.Module):
    """LAION's MLP D-1024-128-64-16-1, which ImageReward took over: embedding (N, D) to rating (N, 1).

    One linear map after another, as released: there is no activation between them. The numbers in the keys count the
    dropout layers of training.
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        dropped = nn.Identity
        self.layers = nn.Sequential(
            nn.Linear(width, 1024), dropped(), nn.Linear(1024, 128), dropped(), nn.Linear(128, 64), dropped(),
            nn.Linear(64, 16), nn.Linear(16, 1),
        )  # fmt: skip

    def forward(self, embedding: Tensor) -> Tensor:
        rating: Tensor = self.layers(embedding)
        return rating


def dtype_of(module: nn.Module) -> torch.dtype:
    """What a model computes in."""
    return next(module.parameters()).dtype


def some_pixels(size: int, *, dtype: torch.dtype = torch.uint8) -> Tensor:
    """Two noisy pictures (2, size, size, 3)."""
    generator = torch.Generator().manual_seed(0)
    return torch.randint(0, 256, (2, size, size, 3), dtype=torch.uint8, generator=generator).to(dtype)


def unit(embedding_N_D: Tensor) -> Tensor:
    """Rows of length 1, in float32 whatever the model computes in."""
    return nn.functional.normalize(embedding_N_D.float(), dim=-1)
