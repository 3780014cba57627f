"""Training of the oracle (see `train.py` for the command): plain supervised learning of every attribute, on its own
scenes."""

from __future__ import annotations

import copy
import math
import time
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from safetensors.torch import load_file
from torch import nn

from sync_r1.reward_models.pocket.clip import pixels_to_input
from sync_r1.reward_models.pocket.oracle import OracleNet
from sync_r1.reward_models.pocket.training.batches import ReconstructedPool, one_picture
from sync_r1.reward_models.pocket.training.train_clip import follow
from sync_r1.reward_models.pocket.world.attributes import labels

BATCH, LEARNING_RATE, WEIGHT_DECAY, EMA_DECAY = 96, 1.5e-3, 0.03, 0.997


def train_oracle(steps: int, seed: int, pool: ReconstructedPool | None, start_from: Path | None) -> OracleNet:
    """A trained network (the moving average of its weights). `start_from`: weights of an earlier stage without the
    pool."""
    torch.manual_seed(seed)
    rng = np.random.default_rng(seed)
    net = OracleNet().to(memory_format=torch.channels_last)
    if start_from is not None:
        net.load_state_dict({name: tensor.float() for name, tensor in load_file(start_from).items()})
    average = copy.deepcopy(net).eval()
    peak = LEARNING_RATE if start_from is None else 0.5 * LEARNING_RATE
    optimizer = torch.optim.AdamW(net.parameters(), lr=peak, weight_decay=WEIGHT_DECAY)
    began = time.monotonic()
    for step in range(steps):
        for group in optimizer.param_groups:
            group["lr"] = (
                peak * min(1.0, (step + 1) / 50) * (0.02 + 0.98 * 0.5 * (1 + math.cos(math.pi * step / steps)))
            )
        scenes, pictures = zip(*(one_picture(rng, pool) for _ in range(BATCH)))
        target_N_A = torch.tensor([labels(scene) for scene in scenes])
        with torch.autocast("cpu", torch.bfloat16):
            pixels = pixels_to_input(torch.from_numpy(np.stack(pictures)))
            logits = net(pixels.to(memory_format=torch.channels_last)).float()
        parts = [
            F.cross_entropy(part, target) for part, target in zip(logits.split(net.sizes, -1), target_N_A.unbind(-1))
        ]
        loss = torch.stack(parts).sum()
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(net.parameters(), 5.0)
        optimizer.step()
        follow(average, net, min(EMA_DECAY, (step + 1) / (step + 10)))
        if step % 50 == 0 or step == steps - 1:
            print(
                f"oracle {step + 1}/{steps} loss {float(loss.detach()):.3f} ({time.monotonic() - began:.0f} s)",
                flush=True,
            )
    return average
