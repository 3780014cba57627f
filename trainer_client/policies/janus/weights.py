"""Janus-Pro from files, from a saved run, or in a published size without any weights.

Where you are: `loading.py` and the plan call these. The folder of published weights is the one in transformers' layout
(deepseek-community/Janus-Pro-1B and -7B), not the original one of deepseek-ai.
"""

from __future__ import annotations

import json
import re
from pathlib import Path

import torch
from peft import LoraConfig as PeftLoraConfig
from peft import PeftModel, get_peft_model
from transformers import (
    JanusConfig,
    JanusForConditionalGeneration,
    JanusProcessor,
    JanusVisionConfig,
    JanusVQVAEConfig,
    LlamaConfig,
)

from sync_r1.trainer_client.config import LoraConfig
from sync_r1.trainer_client.policies.janus.policy import JanusPolicy

_LANGUAGE_MODELS = {
    # hidden, intermediate, layers, heads: `language_config` of deepseek-ai/Janus-Pro-1B and -7B
    "1b": (2048, 5632, 24, 16),
    "7b": (4096, 11008, 30, 32),
}


def published_config(size: str) -> JanusConfig:
    """The sizes of Janus-Pro "1b" or "7b" (Chen et al., arXiv 2501.17811): 384×384 pictures of 576 tokens."""
    hidden, intermediate, layers, heads = _LANGUAGE_MODELS[size]
    return JanusConfig(
        text_config=LlamaConfig(
            vocab_size=102400,
            hidden_size=hidden,
            intermediate_size=intermediate,
            num_hidden_layers=layers,
            num_attention_heads=heads,
            num_key_value_heads=heads,
            max_position_embeddings=16384,
            tie_word_embeddings=False,
        ),
        vision_config=JanusVisionConfig(projection_dim=hidden),
        vq_config=JanusVQVAEConfig(projection_dim=hidden, image_token_embed_dim=hidden),
        # The published head is a matrix of its own: 13.8 GB of bf16 language model are 6.9 · 10^9 numbers only so.
        tie_word_embeddings=False,
    )


def add_adapters(model: JanusForConditionalGeneration, lora: LoraConfig) -> PeftModel:
    """Fresh adapters beside the language model's layers, which change nothing yet; all else is frozen.

    Raises ValueError when a target is no layer of the language model.
    """
    names = {name.rpartition(".")[2] for name, _ in model.model.language_model.named_modules()}
    if unknown := set(lora.targets) - names:
        raise ValueError(f"policy.lora.targets: the language model has no layer called {sorted(unknown)}")
    targets = "|".join(map(re.escape, lora.targets))
    return get_peft_model(
        model,
        PeftLoraConfig(
            r=lora.rank, lora_alpha=lora.alpha, target_modules=rf"model\.language_model\..*\.({targets})", bias="none"
        ),
    )


def from_pretrained(
    folder: Path,
    *,
    dtype: torch.dtype,
    device: torch.device,
    lora: LoraConfig | None = None,
    steps: int | None = None,
    guidance: float = 5.0,
    answer_tokens: int = 100,
) -> JanusPolicy:
    """Published weights, with fresh adapters where `lora` asks for some.

    Raises FileNotFoundError without the folder's config, ValueError for adapters or steps that do not fit.
    """
    model, processor = _base(folder, dtype, device)
    adapters = add_adapters(model, lora) if lora is not None else None
    return JanusPolicy(
        model, processor, adapters=adapters, steps=steps, guidance=guidance, answer_tokens=answer_tokens,
        base=str(folder),
    )  # fmt: skip


def load(folder: Path, *, device: torch.device) -> JanusPolicy:
    """Read what `JanusPolicy.save` wrote; adapters come onto the base they were trained on.

    Raises FileNotFoundError.
    """
    raw = json.loads((folder / "config.json").read_text())
    with_adapters = (folder / "adapter").exists()
    base = Path(raw["base"]) if with_adapters else folder / "model"
    model, processor = _base(base, getattr(torch, raw["dtype"]), device)
    adapters = PeftModel.from_pretrained(model, str(folder / "adapter"), is_trainable=True) if with_adapters else None
    return JanusPolicy(
        model, processor, adapters=adapters, steps=raw["steps"], guidance=raw["guidance"],
        answer_tokens=raw["answer_tokens"], base=raw["base"],
    )  # fmt: skip


def _base(
    folder: Path, dtype: torch.dtype, device: torch.device
) -> tuple[JanusForConditionalGeneration, JanusProcessor]:
    # transformers would look for a missing folder's name on the network.
    if not (folder / "config.json").exists():
        raise FileNotFoundError(f"{folder / 'config.json'}")
    model = JanusForConditionalGeneration.from_pretrained(folder, dtype=dtype, local_files_only=True)
    return model.to(device), JanusProcessor.from_pretrained(folder, local_files_only=True)
