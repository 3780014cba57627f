"""DINO ViT-S/16 and DINOv2, by transformers' classes: the class token after the last layer norm is the embedding.

DreamBooth (arXiv 2208.12242) compares DINO's class tokens by their cosine; length is left as it is.
"""

from __future__ import annotations

from typing import Any

import transformers
from torch import Tensor, nn

from sync_r1.reward_models.published.hub import eager, load_pretrained
from sync_r1.reward_models.published.parts import Normalise, TorchGraph, dtype_of, some_pixels

_KINDS: dict[str, tuple[Any, Any, dict[str, Any]]] = {
    "vit": (transformers.ViTModel, transformers.ViTConfig, {"add_pooling_layer": False}),
    "dinov2": (transformers.Dinov2Model, transformers.Dinov2Config, {}),
}


class ClassToken(nn.Module):
    """Pixels (N, S, S, 3) to embedding (N, D)."""

    def __init__(self, encoder: nn.Module, normalise: Normalise) -> None:
        super().__init__()
        self.normalise, self.encoder = normalise, encoder

    def forward(self, pixels: Tensor) -> Tensor:
        hidden_N_L_D: Tensor = self.encoder(self.normalise(pixels).to(dtype_of(self.encoder))).last_hidden_state
        return hidden_N_L_D[:, 0].float()


def build(config: dict[str, Any]) -> Any:
    """The model with random weights."""
    kind, settings, options = _KINDS[config["kind"]]
    return kind(eager(settings(**config["settings"])), **options).eval()


def load(config: dict[str, Any], parts: dict[str, dict[str, Tensor]], file: str) -> Any:
    """The model with published weights. Raises WeightsError."""
    kind, settings, options = _KINDS[config["kind"]]
    return load_pretrained(kind, eager(settings(**config["settings"])), parts["vision"], file, **options)


def graphs(model: nn.Module, config: dict[str, Any]) -> dict[str, TorchGraph]:
    """`image`."""
    tower = ClassToken(model, Normalise(config["mean"], config["std"]))
    return {"image": TorchGraph(tower, {"pixels": some_pixels(config["size"])}, ("embedding",))}
