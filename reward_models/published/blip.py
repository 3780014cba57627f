"""ImageReward v1.0: BLIP reads the prompt with the picture in view, a linear head rates what it read.

transformers' BLIP classes are ports of the ones ImageReward was made of; `load` translates the published names. The
reward is (head(class token) − 0.1672) / 1.0333, the mean and deviation over its authors' validation set.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from transformers import BlipTextConfig, BlipTextModel, BlipVisionConfig, BlipVisionModel

from sync_r1.reward_models.published.hub import eager
from sync_r1.reward_models.published.parts import Normalise, RatingHead, TorchGraph, dtype_of, some_pixels
from sync_r1.reward_models.published.weights import load_into

MEAN, DEVIATION = 0.16717362830052426, 1.0333394966054072

# Names in ImageReward.pt -> names in transformers' vision model, in this order.
_VISION_NAMES = (
    ("patch_embed.proj", "embeddings.patch_embedding"),
    ("cls_token", "embeddings.class_embedding"),
    ("pos_embed", "embeddings.position_embedding"),
    ("blocks.", "encoder.layers."),
    (".norm1.", ".layer_norm1."),
    (".norm2.", ".layer_norm2."),
    (".attn.qkv.", ".self_attn.qkv."),
    (".attn.proj.", ".self_attn.projection."),
)


class Model(nn.Module):
    """Vision, text and head."""

    def __init__(self, config: dict[str, Any]) -> None:
        super().__init__()
        self.vision = BlipVisionModel(eager(BlipVisionConfig(**config["vision"])))
        self.text = BlipTextModel(eager(BlipTextConfig(**config["text"])), add_pooling_layer=False)
        self.head = RatingHead(self.text.config.hidden_size)


class Reward(nn.Module):
    """Pixels (N, S, S, 3), input_ids and attention_mask (N, L) to score (N, 1)."""

    def __init__(self, model: Model, normalise: Normalise) -> None:
        super().__init__()
        self.normalise, self.model = normalise, model

    def forward(self, pixels: Tensor, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        model, dtype = self.model, dtype_of(self.model)
        seen = model.vision(self.normalise(pixels).to(dtype)).last_hidden_state
        padding = (1 - attention_mask[:, None, None, :]).to(dtype) * torch.finfo(dtype).min
        read = model.text.encoder(
            model.text.embeddings(input_ids=input_ids), attention_mask=padding, encoder_hidden_states=seen
        ).last_hidden_state
        return (model.head(read[:, 0]).float() - MEAN) / DEVIATION


def build(config: dict[str, Any]) -> Model:
    """The model with random weights."""
    return Model(config).eval()


def load(config: dict[str, Any], parts: dict[str, dict[str, Tensor]], file: str) -> Model:
    """The model with published weights. Raises WeightsError."""
    model = build(config)
    load_into(model, {rename(name): tensor for name, tensor in parts["reward"].items()}, file)
    return model


def rename(name: str) -> str:
    """A published name as `Model` has it."""
    for published, ours in (("blip.visual_encoder.", "vision."), ("blip.text_encoder.", "text."), ("mlp.", "head.")):
        if name.startswith(published):
            name = ours + name.removeprefix(published)
            break
    if not name.startswith("vision."):
        return name
    for published, ours in _VISION_NAMES:
        name = name.replace(published, ours)
    return name.replace("vision.norm.", "vision.post_layernorm.")


def graphs(model: Model, config: dict[str, Any]) -> dict[str, TorchGraph]:
    """`score`."""
    generator = torch.Generator().manual_seed(0)
    mask = torch.ones(2, config["length"], dtype=torch.int64)
    mask[1, config["length"] // 2 :] = 0
    vocabulary = model.text.config.vocab_size
    example = {
        "pixels": some_pixels(model.vision.config.image_size),
        "input_ids": torch.randint(1, vocabulary, (2, config["length"]), generator=generator) * mask,
        "attention_mask": mask,
    }
    return {"score": TorchGraph(Reward(model, Normalise(config["mean"], config["std"])), example, ("score",))}
