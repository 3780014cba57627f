"""FaceNet: InceptionResnetV1 of `facenet-pytorch`, trained on VGGFace2, as the released Sync-R1 loads it.

Takes faces cut out by MTCNN (`library/mtcnn.py`, output `face160`) and normalises as (x - 127.5) / 128.
"""

from __future__ import annotations

from typing import Any

from facenet_pytorch import InceptionResnetV1
from torch import Tensor, nn

from sync_r1.reward_models.published.parts import TorchGraph, dtype_of, some_pixels, unit
from sync_r1.reward_models.published.weights import load_into


class FaceEmbedding(nn.Module):
    """Faces (N, 160, 160, 3) to embeddings (N, 512) of length 1."""

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net = net

    def forward(self, pixels: Tensor) -> Tensor:
        x = (pixels.permute(0, 3, 1, 2).float() - 127.5) / 128
        return unit(self.net(x.to(dtype_of(self.net))))


def build(config: dict[str, Any]) -> Any:
    """The model with random weights."""
    return InceptionResnetV1(pretrained=None, classify=False).eval()


def load(config: dict[str, Any], parts: dict[str, dict[str, Tensor]], file: str) -> Any:
    """The model with published weights; their classifier (`logits`) is left out. Raises WeightsError."""
    model = build(config)
    load_into(model, parts["facenet"], file)
    return model


def graphs(model: nn.Module, config: dict[str, Any]) -> dict[str, TorchGraph]:
    """`face`."""
    return {"face": TorchGraph(FaceEmbedding(model), {"pixels": some_pixels(160)}, ("embedding",))}
