"""GIT fine-tuned on VQAv2: the logits it gives some answers as the first word after a question about a picture.

P(yes) / (P(yes) + P(no)) is the sigmoid of the difference of two of them (T2I-R1, arXiv 2505.00703, asks
"{attribute noun}?"). Questions of any length can share a batch: a token sees the picture and what came before it, so
padding behind a question changes nothing.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from transformers import GitConfig, GitForCausalLM

from sync_r1.reward_models.published.hub import eager, load_pretrained
from sync_r1.reward_models.published.parts import Normalise, TorchGraph, dtype_of, some_pixels


class AnswerLogits(nn.Module):
    """Pixels (N, S, S, 3), input_ids (N, L), how many of them count (N, 1), answers' ids (N, 2) to logits (N, 2)."""

    def __init__(self, model: GitForCausalLM, normalise: Normalise) -> None:
        super().__init__()
        self.normalise, self.model = normalise, model

    def forward(self, pixels: Tensor, input_ids: Tensor, length: Tensor, answers: Tensor) -> Tensor:
        git = self.model.git
        seen = git.image_encoder(self.normalise(pixels).to(dtype_of(git))).last_hidden_state
        seen = git.visual_projection(seen)
        words, count = git.embeddings, input_ids.shape[1]
        # As `GitEmbeddings` does, whose addition in place the exporter loses.
        places = words.position_embeddings(words.position_ids[:, :count])
        hidden = torch.cat([seen, words.LayerNorm(words.word_embeddings(input_ids) + places)], dim=1)
        # The picture sees itself whole; a word sees the picture, the words before it and itself.
        place = torch.arange(hidden.shape[1], device=hidden.device)
        visible = (place[None, :] < seen.shape[1]) | (place[None, :] <= place[:, None])
        hidden_from = (~visible).to(hidden.dtype) * torch.finfo(hidden.dtype).min
        hidden = git.encoder(hidden, attention_mask=hidden_from[None, None]).last_hidden_state
        last = seen.shape[1] + length - 1
        last_N_D = hidden.gather(1, last[:, :, None].expand(-1, -1, hidden.shape[2]))[:, 0]
        return self.model.output(last_N_D).float().gather(1, answers)


def build(config: dict[str, Any]) -> GitForCausalLM:
    """The model with random weights."""
    return GitForCausalLM(_settings(config)).eval()


def load(config: dict[str, Any], parts: dict[str, dict[str, Tensor]], file: str) -> Any:
    """The model with published weights. Raises WeightsError."""
    return load_pretrained(GitForCausalLM, _settings(config), parts["git"], file)


def graphs(model: GitForCausalLM, config: dict[str, Any]) -> dict[str, TorchGraph]:
    """`answers`."""
    generator = torch.Generator().manual_seed(0)
    vocabulary = model.config.vocab_size
    example = {
        "pixels": some_pixels(model.config.vision_config.image_size),
        "input_ids": torch.randint(1, vocabulary, (2, 8), generator=generator),
        "length": torch.tensor([[8], [5]]),
        "answers": torch.randint(1, vocabulary, (2, 2), generator=generator),
    }
    module = AnswerLogits(model, Normalise(config["mean"], config["std"]))
    return {"answers": TorchGraph(module, example, ("logits",), ("input_ids",))}


def _settings(config: dict[str, Any]) -> GitConfig:
    settings = eager(GitConfig(**config["settings"]))
    eager(settings.vision_config)
    return settings
