"""Cold start, first stage: train the pocket tokenizer on rendered scenes (fixed seeds, CPU).

Called by `cold_start.py --stage tokenizer`. The loss is pixel error (L1 and squared), a term on the picture's edges
(outlines carry the attributes, yet few pixels), and two terms on the hidden values as in lookup-free quantisation:
commitment to ±1, and an entropy term that keeps every bit in use over the batch. Half of the pictures look like what
the policy draws (one figure with at most one addition).
"""

from __future__ import annotations

import json
import time
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.nn import functional as F

from sync_r1.reward_models.pocket.world.scenes import Scene, render, sample_scene
from sync_r1.trainer_client.policies.cold_start.muon import Muon, split_parameters
from sync_r1.trainer_client.policies.showo.image_tokenizer import Magvit, MagvitConfig, to_pixels
from sync_r1.trainer_client.policies.showo.image_tokenizer_layers import StageSizes

POCKET_TOKENIZER = MagvitConfig(
    StageSizes(96, (1, 1), (1, 1)), StageSizes(96, (1, 1), (1, 1)), bits=11, image_size=64, patch=4
)


@dataclass(frozen=True)
class TokenizerTraining:
    """Settings of the run that made the checked-in tokenizer."""

    pictures: int = 40_000
    minutes: float = 15.0
    batch: int = 32
    learning_rate: float = 3e-3
    ema: float = 0.998
    seed: int = 7
    threads: int = 1


def policy_like(scene: Scene, rng: np.random.Generator) -> Scene:
    """Keep at most one of accessory and companion, and the companion single: what PocketBench asks the policy to
    draw.
    """
    kept = int(rng.integers(4))
    things = replace(scene.things, count=1) if scene.things is not None and kept in (1, 2) else None
    accessory = scene.accessory if kept == 0 or things is None else None
    return replace(scene, accessory=accessory if kept != 3 else None, things=things)


def render_pictures(count: int, seed: int) -> npt.NDArray[np.uint8]:
    """uint8 (count, 64, 64, 3): even rows any scene, odd rows policy-like ones."""
    rng = np.random.default_rng(seed)
    pictures = np.empty((count, 64, 64, 3), np.uint8)
    for i in range(count):
        scene = sample_scene(rng)
        pictures[i] = render(policy_like(scene, rng) if i % 2 else scene, rng)
    return pictures


def _edges(pixels_NCHW: Tensor) -> tuple[Tensor, Tensor]:
    return pixels_NCHW[..., 1:, :] - pixels_NCHW[..., :-1, :], pixels_NCHW[..., 1:] - pixels_NCHW[..., :-1]


def _binary_entropy(p: Tensor) -> Tensor:
    p = p.clamp(1e-4, 1 - 1e-4)
    return -(p * p.log() + (1 - p) * (1 - p).log())


def tokenizer_loss(pixels: Tensor, decoded: Tensor, hidden: Tensor) -> Tensor:
    """Pixel error + edges + commitment + bit usage; all in units of pixels in −1…1."""
    pixel = (decoded - pixels).abs().mean() + 2.0 * F.mse_loss(decoded, pixels)
    edge = sum((a - b).abs().mean() for a, b in zip(_edges(decoded), _edges(pixels), strict=True))
    commitment = F.mse_loss(hidden, hidden.detach().sign())
    p_NPC = torch.sigmoid(4.0 * hidden.flatten(2).transpose(1, 2))
    usage = _binary_entropy(p_NPC).mean() - _binary_entropy(p_NPC.mean((0, 1))).mean()
    return pixel + 0.5 * edge + 0.02 * commitment + 0.02 * usage


@torch.no_grad()
def measure(model: Magvit, pictures: npt.NDArray[np.uint8]) -> dict[str, float]:
    """PSNR (dB, mean over pictures of the uint8 round trip) and the share of codes in use."""
    codes = model.encode(pictures)
    error = (model.decode(codes).astype(np.float64) - pictures) ** 2
    psnr = 10 * np.log10(255**2 / error.mean((1, 2, 3)))
    return {"psnr_db": round(float(psnr.mean()), 3), "codes_used": int(codes.unique().numel())}


def train_tokenizer(folder: Path, settings: TokenizerTraining) -> None:
    """Write `tokenizer.safetensors`, `tokenizer.json` and `tokenizer_curve.json` into `folder`."""
    torch.set_num_threads(settings.threads)
    torch.manual_seed(settings.seed)
    validation = render_pictures(1024, settings.seed + 1)
    pictures = render_pictures(settings.pictures, settings.seed)
    model = Magvit(POCKET_TOKENIZER).to(memory_format=torch.channels_last)
    averaged = Magvit(POCKET_TOKENIZER).eval()
    averaged.load_state_dict(model.state_dict())
    hidden_weights, rest = split_parameters(model, adam_names=("conv_in", "conv_out", "quant_conv"))
    optimizers = (
        Muon(hidden_weights, settings.learning_rate),
        torch.optim.AdamW(rest, settings.learning_rate, betas=(0.9, 0.99), weight_decay=1e-4),
    )
    rng = np.random.default_rng(settings.seed)
    curve: list[dict[str, float]] = []
    started, next_report, step = time.monotonic(), 60.0, 0
    while (elapsed := time.monotonic() - started) < settings.minutes * 60:
        done = elapsed / (settings.minutes * 60)
        rate = settings.learning_rate * min(1.0, (step + 1) / 200) * (0.5 + 0.5 * float(np.cos(np.pi * done))) + 1e-5
        for group in (group for optimizer in optimizers for group in optimizer.param_groups):
            group["lr"] = rate
        batch = pictures[rng.integers(len(pictures), size=settings.batch)]
        pixels = to_pixels(batch).contiguous(memory_format=torch.channels_last)
        decoded, hidden = model(pixels)
        loss = tokenizer_loss(pixels, decoded, hidden)
        model.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        for optimizer in optimizers:
            optimizer.step()
        step += 1
        decay = min(settings.ema, step / (step + 20))
        with torch.no_grad():
            for mean, value in zip(averaged.parameters(), model.parameters(), strict=True):
                mean.lerp_(value, 1 - decay)
        if elapsed > next_report:
            next_report += 60.0
            curve.append({"step": step, "minutes": round(elapsed / 60, 2), "train_loss": round(loss.item(), 4)})
            curve[-1].update(measure(averaged, validation))
            print(json.dumps(curve[-1]), flush=True)
            averaged.save(folder / "tokenizer.safetensors")
    curve.append({"step": step, "minutes": settings.minutes, "train_loss": round(loss.item(), 4)})
    curve[-1].update(measure(averaged, validation))
    averaged.save(folder / "tokenizer.safetensors")
    (folder / "tokenizer_curve.json").write_text(json.dumps(curve, indent=1) + "\n")


__all__ = ["POCKET_TOKENIZER", "TokenizerTraining", "policy_like", "render_pictures", "train_tokenizer"]
