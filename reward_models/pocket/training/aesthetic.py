"""pocket-aesthetic: a LAION-shaped head on pocket-clip's image embedding, trained to rate clean pictures above spoilt
ones.

The layout is that of LAION's improved aesthetic predictor (linear layers with dropout between them and nothing else,
on an embedding of length 1), narrower. Like LAION's, its score is a rating of about 1 (ruined) to 10; clean pocket
pictures get about 8. It says nothing about beauty: it knows the five faults of `pocket/world/distort.py`.
"""

from __future__ import annotations

import time
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from safetensors.torch import load_file
from torch import Tensor, nn

from sync_r1.reward_models.pocket.clip import ARTEFACTS, EMBED_DIM, PocketClip, pixels_to_input
from sync_r1.reward_models.pocket.training.batches import Pictures, ReconstructedPool, one_picture, spoil

CLEAN_RATING, SPOILT_RATING, RUINED_RATING = 8.0, 5.0, 1.5  # fault-free; the mildest and the worst fault


class AestheticHead(nn.Module):
    """Embedding (N, 256) of length 1 to ratings (N, 1)."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Linear(EMBED_DIM, 256),
            nn.Dropout(0.2),
            nn.Linear(256, 128),
            nn.Dropout(0.2),
            nn.Linear(128, 64),
            nn.Dropout(0.1),
            nn.Linear(64, 16),
            nn.Linear(16, 1),
        )

    def forward(self, embedding: Tensor) -> Tensor:
        rating: Tensor = self.layers(embedding)
        return rating


def load_aesthetic(path: Path = ARTEFACTS / "pocket_aesthetic.safetensors") -> AestheticHead:
    """The trained head in evaluation mode. Raises `FileNotFoundError` where it has not been trained yet."""
    head = AestheticHead()
    head.load_state_dict({name: tensor.float() for name, tensor in load_file(path).items()})
    return head.eval()


@torch.no_grad()
def _embed(clip: PocketClip, pictures: list[Pictures]) -> Tensor:
    batches = [torch.from_numpy(np.stack(pictures[start : start + 256])) for start in range(0, len(pictures), 256)]
    return torch.cat([clip.encode_image(pixels_to_input(batch), normalize=True) for batch in batches])


def train_aesthetic(
    clip: PocketClip, seed: int, pool: ReconstructedPool | None, pictures: int = 8192, steps: int = 3000
) -> AestheticHead:
    """The head, fitted by mean squared error to the ratings above, half clean and half with one fault; `clip` stays
    as it is."""
    torch.manual_seed(seed)
    rng = np.random.default_rng(seed)
    shown: list[Pictures] = []
    ratings: list[float] = []
    for number in range(pictures):
        _, picture = one_picture(rng, pool)
        rating = CLEAN_RATING
        if number % 2:
            picture, severity = spoil(picture, rng)
            rating = SPOILT_RATING + severity * (RUINED_RATING - SPOILT_RATING)
        shown.append(picture)
        ratings.append(rating)
    embedding_N_D, rating_N = _embed(clip, shown), torch.tensor(ratings)
    head = AestheticHead()
    with torch.no_grad():
        head.layers[-1].bias.fill_(float(rating_N.mean()))  # type: ignore[operator]
    optimizer = torch.optim.AdamW(head.parameters(), lr=1e-3, weight_decay=1e-4)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    began = time.monotonic()
    for step in range(steps):
        chosen = torch.from_numpy(rng.integers(0, pictures, 256))
        loss = F.mse_loss(head(embedding_N_D[chosen])[:, 0], rating_N[chosen])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
        if step % 500 == 0 or step == steps - 1:
            print(
                f"pocket-aesthetic {step + 1}/{steps} mse {float(loss.detach()):.3f} ({time.monotonic() - began:.0f} s)"
            )
    return head.eval()
