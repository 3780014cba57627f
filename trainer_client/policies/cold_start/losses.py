"""Supervised losses of a Show-o-style network: masked image tokens to predict, answers to continue.

Where you are: the cold start trains everything with these, `policies/concepts/embeddings.py` a concept's tokens only.
Ids are on the CPU; a layout is what `policies/showo/network.py` says.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from sync_r1.trainer_client.policies.showo.network import Showo, ShowoConfig, attention_allowed


def drawing_loss(model: Showo, texts: list[list[int]], image_ids_N_I: Tensor, masked_N_I: Tensor) -> Tensor:
    """Cross-entropy per masked image token, in nats; `texts` as they follow `<|t2i|>`."""
    config = model.config
    prompts = _pad([[config.special("<|t2i|>"), *text] for text in texts], config)
    ends = [torch.full((len(texts), 1), config.special(name)) for name in ("<|soi|>", "<|eoi|>")]
    ids = torch.cat([prompts, ends[0], torch.where(masked_N_I, config.mask_id, image_ids_N_I), ends[1]], 1)
    ids, masked = ids.to(model.device), masked_N_I.to(model.device)
    hidden, _ = model.hidden(ids, attention_allowed(ids, config, image_first=False))
    logits = model.code_logits(hidden[:, -1 - config.image_tokens : -1][masked])
    return F.cross_entropy(logits.float(), (image_ids_N_I[masked_N_I] - config.first_code_id).to(model.device))


def answer_loss(
    model: Showo, questions: list[list[int]], answers: list[list[int]], images: Sequence[Tensor | None]
) -> Tensor:
    """Cross-entropy per answer token (end token included), in nats; `images` are the ids (I,) of what is looked at."""
    config = model.config
    rows = []
    for question, answer, image_ids in zip(questions, answers, images):
        image = [] if image_ids is None else [config.special("<|soi|>"), *image_ids.tolist(), config.special("<|eoi|>")]
        rows.append([config.special("<|mmu|>"), *image, *question, *answer])
    ids = _pad(rows, config)
    target = torch.zeros(ids.shape, dtype=torch.bool)
    for i, answer in enumerate(answers):
        target[i, -len(answer) :] = True
    ids, target = ids.to(model.device), target.to(model.device)
    hidden, _ = model.hidden(ids[:, :-1], attention_allowed(ids[:, :-1], config, image_first=True))
    logits = model.text_logits(hidden[target[:, 1:]])
    return F.cross_entropy(logits.float(), ids[target])


def random_masks(rows: int, tokens: int, rng: np.random.Generator) -> Tensor:
    """Bool (rows, tokens): the share of masked tokens is cos(π/2 · u), u uniform; at least one token each."""
    counts = np.maximum(1, np.round(tokens * np.cos(np.pi / 2 * rng.random(rows)))).astype(int)
    ranks = rng.random((rows, tokens)).argsort(1).argsort(1)
    return torch.from_numpy(ranks < counts[:, None])


def _pad(rows: list[list[int]], config: ShowoConfig) -> Tensor:
    longest = max(len(row) for row in rows)
    return torch.tensor([[config.special("<|pad|>")] * (longest - len(row)) + row for row in rows])
