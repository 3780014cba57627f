"""CLIP, SigLIP, HPSv2.1 and LAION's aesthetic head, by open_clip's own classes.

A configuration is `{"architecture": name in open_clip or its JSON, "quick_gelu": bool, "mean": …, "std": …}`; with
`"head": true` the image graph ends in LAION's MLP.
Every embedding leaves its graph with length 1, as every score of this family uses it.
"""

from __future__ import annotations

import copy
from typing import Any

import open_clip
import torch
from open_clip.model import CLIP, CustomTextCLIP
from torch import Tensor, nn

from sync_r1.reward_models.published.parts import Normalise, RatingHead, TorchGraph, dtype_of, some_pixels, unit
from sync_r1.reward_models.published.weights import load_into


class ImageTower(nn.Module):
    """Pixels (N, S, S, 3) to embedding (N, D), and with a head to score (N, 1) as well."""

    def __init__(self, visual: nn.Module, normalise: Normalise, head: nn.Module | None) -> None:
        super().__init__()
        self.normalise, self.visual, self.head = normalise, visual, head

    def forward(self, pixels: Tensor) -> Tensor | tuple[Tensor, Tensor]:
        dtype = dtype_of(self.visual)
        embedding = unit(self.visual(self.normalise(pixels).to(dtype)))
        if self.head is None:
            return embedding
        return self.head(embedding.to(dtype)).float(), embedding


class TextTower(nn.Module):
    """Tokens (N, L) to embedding (N, D)."""

    def __init__(self, clip: nn.Module) -> None:
        super().__init__()
        self.clip = copy.copy(clip)  # the same tensors, but without the pictures' half, which no text needs
        self.clip._modules = {name: part for name, part in clip._modules.items() if name != "visual"}

    def forward(self, tokens: Tensor) -> Tensor:
        return unit(self.clip.encode_text(tokens))  # type: ignore[operator]


class Model(nn.Module):
    """open_clip's model, and beside it what is not open_clip's."""

    def __init__(self, config: dict[str, Any]) -> None:
        super().__init__()
        architecture = config["architecture"]
        settings = open_clip.get_model_config(architecture) if isinstance(architecture, str) else dict(architecture)
        settings["quick_gelu"] = config.get("quick_gelu", False)
        custom = settings.pop("custom_text", False)
        self.clip = (CustomTextCLIP if custom else CLIP)(**settings)
        self.head = RatingHead(settings["embed_dim"]) if config.get("head") else None


def build(config: dict[str, Any]) -> Model:
    """The model with random weights."""
    return Model(config).eval()


def load(config: dict[str, Any], parts: dict[str, dict[str, Tensor]], file: str) -> Model:
    """The model with published weights. Raises WeightsError."""
    model = build(config)
    named = {f"{part}.{name}": tensor for part, state in parts.items() for name, tensor in state.items()}
    load_into(model, named, file)
    return model


def graphs(model: Model, config: dict[str, Any]) -> dict[str, TorchGraph]:
    """`image`, and unless the model has a head, `text`."""
    visual: Any = model.clip.visual
    size = visual.image_size[0] if isinstance(visual.image_size, tuple) else visual.image_size
    pixels = some_pixels(size, dtype=torch.float32 if config.get("float_pixels") else torch.uint8)
    tower = ImageTower(visual, Normalise(config["mean"], config["std"]), model.head)
    if model.head is not None:
        return {"score": TorchGraph(tower, {"pixels": pixels}, ("score", "embedding"))}
    generator = torch.Generator().manual_seed(0)
    tokens = torch.randint(1, model.clip.vocab_size - 1, (2, model.clip.context_length), generator=generator)
    tokens[0, 5], tokens[0, 6:], tokens[1, -1] = model.clip.vocab_size - 1, 0, model.clip.vocab_size - 1
    return {
        "image": TorchGraph(tower, {"pixels": pixels}, ("embedding",)),
        "text": TorchGraph(TextTower(model.clip), {"tokens": tokens}, ("embedding",)),
    }
