"""Training of pocket-clip (see `train.py` for the command).

The text tower first learns on its own to tell attributes and relations (in joint training it learns the axis of a
relation but not its direction). Then both towers learn from the contrastive loss, in which every scene stands beside
a near miss, from choosing each picture's caption among its negatives, and from attribute heads that read pictures and
texts through the *same* weights, so that both sides put the same fact in the same place. The heads are not part of
the exported graphs.
"""

from __future__ import annotations

import copy
import math
import time
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from sync_r1.reward_models.pocket.clip import EMBED_DIM, PocketClip, pixels_to_input
from sync_r1.reward_models.pocket.training.batches import (
    NEGATIVES_PER_PICTURE,
    ClipBatch,
    ReconstructedPool,
    clip_batch,
    text_batch,
)
from sync_r1.reward_models.pocket.world.attributes import ATTRIBUTES, UNTOLD

PAIRS, SPOILT, TEXT_BATCH, TEXT_STEPS = 48, 16, 192, 250
LEARNING_RATE, WEIGHT_DECAY, EMA_DECAY = 1e-3, 0.02, 0.997
# The heads read embeddings of length 1; scaled up, their logits can become confident.
_HEAD_SCALE = 16.0


class ClipTrainer(nn.Module):
    """pocket-clip with its training-only heads: attributes (shared by pictures and texts) and clean-or-degraded."""

    def __init__(self) -> None:
        super().__init__()
        self.model = PocketClip()
        self.sizes = [len(options) for options in ATTRIBUTES.values()]
        self.attributes = nn.Linear(EMBED_DIM, sum(self.sizes))
        self.quality = nn.Linear(EMBED_DIM, 1)

    def attribute_loss(self, embedding_N_D: Tensor, labels_N_A: Tensor) -> Tensor:
        logits_per_attribute = self.attributes(embedding_N_D * _HEAD_SCALE).split(self.sizes, dim=-1)
        losses = [
            F.cross_entropy(logits.float(), labels, ignore_index=UNTOLD, reduction="sum")
            / (labels != UNTOLD).sum().clamp(min=1)
            for logits, labels in zip(logits_per_attribute, labels_N_A.unbind(-1))
        ]
        return torch.stack(losses).mean()

    def loss(self, batch: ClipBatch) -> tuple[Tensor, dict[str, float]]:
        count = len(batch.pixels_N)
        pixels = torch.from_numpy(np.concatenate([batch.pixels_N, batch.spoilt_M]))
        with torch.autocast("cpu", torch.bfloat16), sdpa_kernel(SDPBackend.MATH):  # flash attention is slow backwards
            images = self.model.encode_image(pixels_to_input(pixels).to(memory_format=torch.channels_last))
            texts = self.model.encode_text(torch.from_numpy(batch.tokens_3N_L))
        images, texts = F.normalize(images.float(), dim=-1), F.normalize(texts.float(), dim=-1)
        clean, own, wrong = images[:count], texts[:count], texts[count:]
        scale = self.model.logit_scale.exp().clamp(max=100)
        seen_labels_N_A, told_labels_3N_A = (
            torch.from_numpy(array) for array in (batch.picture_labels_N_A, batch.text_labels_3N_A)
        )
        told_N_A = told_labels_3N_A[:count]
        true_N_N = ((told_N_A == UNTOLD) | (told_N_A == seen_labels_N_A[:, None])).all(-1)
        also_true_N_N = true_N_N & torch.from_numpy(batch.clause_N) & ~torch.eye(count, dtype=torch.bool)
        logits_N_N = (scale * clean @ own.T).masked_fill(also_true_N_N, -1e4)
        target = torch.arange(count)
        contrastive = (F.cross_entropy(logits_N_N, target) + F.cross_entropy(logits_N_N.T, target)) / 2
        wrong_N_K = scale * torch.einsum("nd,nkd->nk", clean, wrong.view(count, NEGATIVES_PER_PICTURE, -1))
        choices = torch.cat([logits_N_N.diagonal()[:, None], wrong_N_K], dim=1)
        choosing = F.cross_entropy(choices, torch.zeros(count, dtype=torch.long))
        seen = self.attribute_loss(clean, seen_labels_N_A)
        told = self.attribute_loss(texts, told_labels_3N_A)
        spoilt = torch.cat([torch.zeros(count), torch.ones(len(images) - count)])
        quality = F.binary_cross_entropy_with_logits(self.quality(images * _HEAD_SCALE)[:, 0], spoilt)
        parts = {"contrastive": contrastive, "choosing": choosing, "seen": seen, "told": told, "quality": quality}
        total = contrastive + choosing + seen + told + 0.5 * quality
        return total, {name: float(part.detach()) for name, part in parts.items()}


def train_clip(steps: int, seed: int, pool: ReconstructedPool | None, start_from: Path | None) -> ClipTrainer:
    """A trained `ClipTrainer` (the exponential moving average of its weights). `start_from`: weights of an earlier
    stage."""
    torch.manual_seed(seed)
    rng = np.random.default_rng(seed)
    trainer = ClipTrainer()
    if start_from is not None:
        trainer.load_state_dict({name: tensor.float() for name, tensor in load_file(start_from).items()})
    else:
        _teach_text(trainer, rng)
    average = copy.deepcopy(trainer).eval()
    peak = LEARNING_RATE if start_from is None else 0.5 * LEARNING_RATE
    optimizer = torch.optim.AdamW(trainer.parameters(), lr=peak, weight_decay=WEIGHT_DECAY, betas=(0.9, 0.98))
    began = time.monotonic()
    for step in range(steps):
        for group in optimizer.param_groups:
            group["lr"] = (
                peak * min(1.0, (step + 1) / 50) * (0.02 + 0.98 * 0.5 * (1 + math.cos(math.pi * step / steps)))
            )
        loss, parts = trainer.loss(clip_batch(PAIRS, SPOILT, rng, pool))
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(trainer.parameters(), 1.0)
        optimizer.step()
        follow(average, trainer, min(EMA_DECAY, (step + 1) / (step + 10)))
        if step % 50 == 0 or step == steps - 1:
            shown = " ".join(f"{name} {value:.3f}" for name, value in parts.items())
            print(f"pocket-clip {step + 1}/{steps} {shown} ({time.monotonic() - began:.0f} s)", flush=True)
    return average


def _teach_text(trainer: ClipTrainer, rng: np.random.Generator) -> None:
    optimizer = torch.optim.AdamW(trainer.parameters(), lr=LEARNING_RATE)
    for step in range(TEXT_STEPS):
        tokens_N_L, told_N_A = text_batch(TEXT_BATCH, rng)
        with torch.autocast("cpu", torch.bfloat16), sdpa_kernel(SDPBackend.MATH):
            embedding = trainer.model.encode_text(torch.from_numpy(tokens_N_L))
        loss = trainer.attribute_loss(F.normalize(embedding.float(), dim=-1), torch.from_numpy(told_N_A))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        if step % 50 == 0 or step == TEXT_STEPS - 1:
            print(f"text tower alone {step + 1}/{TEXT_STEPS} told {float(loss.detach()):.3f}", flush=True)


@torch.no_grad()
def follow(average: nn.Module, model: nn.Module, decay: float) -> None:
    """One step of the moving average; counters and batch statistics are averaged or copied alike."""
    for kept, new in zip(average.state_dict().values(), model.state_dict().values()):
        if kept.is_floating_point():
            kept.lerp_(new, 1 - decay)
        else:
            kept.copy_(new)


def save_half(model: nn.Module, path: Path) -> None:
    """Writes the weights as float16 and rounds `model` to them, so that graphs exported from it agree with the file."""
    half = {
        name: tensor.half().contiguous() for name, tensor in model.state_dict().items() if tensor.is_floating_point()
    }
    others = {
        name: tensor.contiguous() for name, tensor in model.state_dict().items() if not tensor.is_floating_point()
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    save_file({**half, **others}, path)
    model.load_state_dict({**{name: tensor.float() for name, tensor in half.items()}, **others})
