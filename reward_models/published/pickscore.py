"""PickScore v1: CLIP ViT-H/14 fine-tuned on preferences, by transformers' `CLIPModel` (that is how it is published).

score = exp(logit scale) · cosine / 26. The scale is a weight, so it is inside the text graph: the score is the dot
product of the two graphs' embeddings, and nobody outside needs to know it.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from transformers import CLIPConfig, CLIPModel

from sync_r1.reward_models.published.hub import eager, load_pretrained
from sync_r1.reward_models.published.parts import Normalise, TorchGraph, dtype_of, some_pixels, unit

DIVISOR = 26.0
"""About the largest scaled cosine; how Flow-GRPO brings PickScore near 1."""


class ImageTower(nn.Module):
    """Pixels (N, S, S, 3) to embedding (N, D) of length 1."""

    def __init__(self, clip: CLIPModel, normalise: Normalise) -> None:
        super().__init__()
        self.normalise, self.vision, self.projection = normalise, clip.vision_model, clip.visual_projection

    def forward(self, pixels: Tensor) -> Tensor:
        pooled = self.vision(self.normalise(pixels).to(dtype_of(self.vision))).pooler_output
        return unit(self.projection(pooled))


class TextTower(nn.Module):
    """Tokens (N, L) to embedding (N, D) of length exp(logit scale) / 26."""

    def __init__(self, clip: CLIPModel) -> None:
        super().__init__()
        text = clip.text_model
        self.embeddings, self.encoder, self.norm = text.embeddings, text.encoder, text.final_layer_norm
        self.projection, self.logit_scale = clip.text_projection, clip.logit_scale

    def forward(self, tokens: Tensor) -> Tensor:
        hidden = self.embeddings(input_ids=tokens)
        ahead = torch.full((tokens.shape[1], tokens.shape[1]), float("-inf"), dtype=hidden.dtype, device=hidden.device)
        mask_1_1_L_L = torch.triu(ahead, diagonal=1)[None, None]
        hidden = self.norm(self.encoder(inputs_embeds=hidden, attention_mask=mask_1_1_L_L).last_hidden_state)
        # The end of a text has the largest id of all.
        pooled = hidden[torch.arange(hidden.shape[0], device=hidden.device), tokens.argmax(dim=-1)]
        return unit(self.projection(pooled)) * self.logit_scale.float().exp() / DIVISOR


def build(config: dict[str, Any]) -> CLIPModel:
    """The model with random weights."""
    return CLIPModel(_settings(config)).eval()


def load(config: dict[str, Any], parts: dict[str, dict[str, Tensor]], file: str) -> Any:
    """The model with published weights. Raises WeightsError."""
    return load_pretrained(CLIPModel, _settings(config), parts["clip"], file)


def graphs(model: CLIPModel, config: dict[str, Any]) -> dict[str, TorchGraph]:
    """`image` and `text`."""
    vision, text = model.config.vision_config, model.config.text_config
    image = ImageTower(model, Normalise(config["mean"], config["std"]))
    generator = torch.Generator().manual_seed(0)
    length = text.max_position_embeddings
    tokens = torch.randint(1, text.vocab_size - 1, (2, length), generator=generator)
    tokens[0, 5], tokens[0, 6:], tokens[1, -1] = text.vocab_size - 1, 0, text.vocab_size - 1
    return {
        "image": TorchGraph(image, {"pixels": some_pixels(vision.image_size)}, ("embedding",)),
        "text": TorchGraph(TextTower(model), {"tokens": tokens}, ("embedding",)),
    }


def _settings(config: dict[str, Any]) -> CLIPConfig:
    settings = eager(CLIPConfig(**config["settings"]))
    for part in (settings.vision_config, settings.text_config):
        eager(part)
    return settings
