"""ArcFace's IResNet-100 with random weights, in the form of insightface's `glintr100.onnx`: the real one's cost without
its weights, which are for non-commercial research and are not shipped."""

from __future__ import annotations

import warnings
from pathlib import Path

import torch
from torch import Tensor, nn

BLOCKS, WIDTHS = (3, 13, 30, 3), (64, 128, 256, 512)


class Block(nn.Module):
    """Two convolutions behind a batch norm, and the way around them."""

    def __init__(self, before: int, width: int, stride: int) -> None:
        super().__init__()
        self.residual = nn.Sequential(
            nn.BatchNorm2d(before), nn.Conv2d(before, width, 3, 1, 1, bias=False), nn.BatchNorm2d(width),
            nn.PReLU(width), nn.Conv2d(width, width, 3, stride, 1, bias=False), nn.BatchNorm2d(width),
        )  # fmt: skip
        around = (nn.Conv2d(before, width, 1, stride, bias=False), nn.BatchNorm2d(width))
        self.around = nn.Sequential(*around) if stride > 1 else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.residual(x) + self.around(x)
        return out


def write(file: Path) -> None:
    """Write the network (65 million parameters, seed 0) as ONNX: faces (N, 3, 112, 112) to embeddings (N, 512)."""
    torch.manual_seed(0)
    layers: list[nn.Module] = [nn.Conv2d(3, 64, 3, 1, 1, bias=False), nn.BatchNorm2d(64), nn.PReLU(64)]
    before = 64
    for count, width in zip(BLOCKS, WIDTHS):
        for number in range(count):
            layers.append(Block(before, width, stride=1 if number else 2))
            before = width
    head = (nn.BatchNorm2d(512), nn.Flatten(), nn.Linear(512 * 7 * 7, 512), nn.BatchNorm1d(512))
    network = nn.Sequential(*layers, *head).eval()
    with warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore")  # as in `reward_models.export`
        torch.onnx.export(
            network, (torch.zeros(1, 3, 112, 112),), str(file), input_names=["input.1"], output_names=["feature"],
            dynamic_axes={"input.1": {0: "N"}, "feature": {0: "N"}}, opset_version=17, dynamo=False,
        )  # fmt: skip
