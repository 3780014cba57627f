"""A pocket policy of a few thousand weights, of the real classes."""

from __future__ import annotations

from pathlib import Path

import torch

from sync_r1.trainer_client.policies.pocket.policy import PocketPolicy
from sync_r1.trainer_client.policies.pocket.text import Words, write_vocabulary
from sync_r1.trainer_client.policies.showo.image_tokenizer import Magvit, MagvitConfig
from sync_r1.trainer_client.policies.showo.image_tokenizer_layers import StageSizes
from sync_r1.trainer_client.policies.showo.network import Showo, ShowoConfig


def tiny_policy(folder: Path, steps: int = 4) -> PocketPolicy:
    """Untrained, but with weights large enough that its distributions are far from uniform; always the same. `folder`
    gets its vocabulary and its tokenizer, so that the policy can be loaded with `shared=folder`.
    """
    folder.mkdir(parents=True, exist_ok=True)
    torch.manual_seed(0)
    texts = ["a red cat", "what colour is it ? yes ."]
    write_vocabulary(folder / "words.json", texts, ["<bo>"])
    words = Words(folder / "words.json")
    sizes = StageSizes(32, (1, 1), (1, 1))
    tokenizer = Magvit(MagvitConfig(sizes, sizes, bits=6, image_size=32, patch=4))
    tokenizer.save(folder / "tokenizer.safetensors", dtype=torch.float32)
    config = ShowoConfig(
        len(words), image_codes=64, image_tokens=16, hidden_size=32, intermediate_size=64, layers=2, heads=2,
        max_positions=128,
    )  # fmt: skip
    model = Showo(config)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.3)
    return PocketPolicy(model, tokenizer, words, steps=steps, noise=1.8)
