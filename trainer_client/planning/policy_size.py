"""The policy of a configuration as sizes: how many numbers it has, which of them train, how long its sequences are.

Where you are: `plan.py` multiplies these. Networks are built on torch's `meta` device, which makes shapes without
memory, from the folder's own configuration where the folder is there and from the published sizes where it is not.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch
from peft import LoraConfig as PeftLoraConfig
from peft import get_peft_model
from torch import nn
from transformers import JanusConfig, JanusForConditionalGeneration

from sync_r1.trainer_client.config import ConfigError, PolicyConfig
from sync_r1.trainer_client.policies.janus import weights as janus_weights
from sync_r1.trainer_client.policies.janus.frozen import train_language_model
from sync_r1.trainer_client.policies.loading import RANDOM, saved_kind
from sync_r1.trainer_client.policies.pocket.policy import ARTEFACTS, PocketPolicy
from sync_r1.trainer_client.policies.showo import weights as published
from sync_r1.trainer_client.policies.showo.image_tokenizer import Magvit, MagvitConfig
from sync_r1.trainer_client.policies.showo.network import Showo, ShowoConfig

_QUESTION_TOKENS = 512
"""Text of a question in the plan: the longest that Janus takes, and about the longest list of facts."""
_PROMPT_TOKENS = 128
"""Text of a picture's prompt in the plan: condition, look, and a sentence of at most 20 words."""
_DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}


@dataclass(frozen=True)
class PolicySize:
    """What memory and work depend on. Lengths are tokens; `*_bytes` is the size of one number."""

    kind: str
    parameters: int
    trained: int
    weight_bytes: int
    trained_bytes: int
    """Of a trained number (adapters are float32 beside bf16 weights)."""
    adapters: bool
    layers: int
    hidden: int
    keys_and_values: int
    """Width of a token's keys (or values) in one layer."""
    intermediate: int
    heads: int
    mlp: Literal["gated", "plain"]
    scores_stored: bool
    """Whether attention keeps its weights for the backward pass (plain matrix products) or not (fused kernels)."""
    autoregressive: bool
    divisible: int
    """Parameters in transformer blocks of which something trains: what FSDP2 divides (`distributed.shard`)."""
    divisible_trained: int
    image_tokens: int
    codes: int
    text_vocab: int
    steps: int
    guided: bool
    picture_side: int
    question_tokens: int
    """Longest question in the plan, its picture's tokens included."""
    prompt_tokens: int
    answer_tokens: int
    max_positions: int
    missing: tuple[str, ...]
    """Folders and files that a run needs and that are not here."""


def policy_size(config: PolicyConfig) -> PolicySize:
    """Raises ConfigError when the section says something that no policy can be."""
    kind = saved_kind(Path(config.weights)) or config.kind
    try:
        return {"pocket": _pocket, "showo": _showo, "janus": _janus}[kind](config)
    except (ValueError, OSError) as error:
        raise ConfigError(f"policy: {error}") from error


def _pocket(config: PolicyConfig) -> PolicySize:
    folder = Path(config.weights) if config.weights else ARTEFACTS
    raw = json.loads((folder / "config.json").read_text())
    tokenizer = MagvitConfig.from_json((ARTEFACTS / "tokenizer.json").read_text())
    return _masked(
        config,
        ShowoConfig(**raw["model"]),
        tokenizer,
        _Drawing(config.steps or raw["steps"], raw["guidance"] if config.guidance is None else config.guidance),
        _Texts(question=96, prompt=96, answer=PocketPolicy.max_answer_tokens),
        missing=(),
        fused=False,
    )


def _showo(config: PolicyConfig) -> PolicySize:
    saved = saved_kind(Path(config.weights)) == "showo"
    wanted = [("policy.weights", config.weights, "the published show-o-512x512")]
    if not saved:  # a saved policy remembers the other two
        wanted.append(("policy.image_tokenizer", config.image_tokenizer, "the published magvitv2"))
        wanted.append(("policy.text_tokenizer", config.text_tokenizer, "the published phi-1.5"))
    missing = tuple(
        f"{key}: {folder or 'not given'} ({what})"
        for key, folder, what in wanted
        if config.weights != RANDOM and not (folder and Path(folder).exists())
    )
    sizes, sampling = ShowoConfig(pad_first=True), {}
    if not missing and config.weights != RANDOM:
        settings = published.read_settings(
            Path(config.weights),
            Path(config.image_tokenizer) if config.image_tokenizer else None,
            Path(config.text_tokenizer) if config.text_tokenizer else None,
        )
        sizes, sampling = settings.sizes, settings.sampling
    return _masked(
        config,
        sizes,
        MagvitConfig(),
        _Drawing(
            config.steps or sampling.get("steps", 50),
            sampling.get("guidance", 5.0) if config.guidance is None else config.guidance,
        ),
        _Texts(_QUESTION_TOKENS + sizes.image_tokens, _PROMPT_TOKENS, config.answer_tokens),
        missing=missing,
        fused=True,
    )


@dataclass(frozen=True)
class _Drawing:
    """How a picture is decoded."""

    steps: int
    guidance: float


@dataclass(frozen=True)
class _Texts:
    """Longest texts of the plan, tokens."""

    question: int
    prompt: int
    answer: int


def _masked(
    config: PolicyConfig, sizes: ShowoConfig, tokenizer: MagvitConfig, drawing: _Drawing, texts: _Texts,
    *, missing: tuple[str, ...], fused: bool,
) -> PolicySize:  # fmt: skip
    if drawing.steps > sizes.image_tokens:
        raise ValueError(
            f"steps: expected at most {sizes.image_tokens}, one per token of the picture, got {drawing.steps}"
        )
    with torch.device("meta"):
        model, pictures = Showo(sizes, attention="sdpa" if fused else "eager"), Magvit(tokenizer)
    width = _DTYPES[config.dtype].itemsize
    return PolicySize(
        kind=config.kind, parameters=_count(model.parameters()) + _count(pictures.parameters()),
        trained=_count(model.parameters()), weight_bytes=width, trained_bytes=width, adapters=False,
        layers=sizes.layers, hidden=sizes.hidden_size, keys_and_values=sizes.hidden_size,
        intermediate=sizes.intermediate_size, heads=sizes.heads, mlp="plain", scores_stored=not fused,
        autoregressive=False, **_divisible(model), image_tokens=sizes.image_tokens, codes=sizes.image_codes,
        text_vocab=sizes.text_vocab, steps=drawing.steps, guided=drawing.guidance > 0,
        picture_side=tokenizer.image_size,
        question_tokens=texts.question, prompt_tokens=texts.prompt, answer_tokens=texts.answer,
        max_positions=sizes.max_positions, missing=missing,
    )  # fmt: skip


def _janus(config: PolicyConfig) -> PolicySize:
    folder, saved = Path(config.weights), saved_kind(Path(config.weights))
    raw = json.loads((folder / "config.json").read_text()) if saved else {}
    base = Path(raw["base"]) if raw.get("base") else folder / "model" if saved else folder
    missing: tuple[str, ...] = ()
    if (base / "config.json").exists():
        sizes = JanusConfig.from_pretrained(base, local_files_only=True)
    else:
        sizes = janus_weights.published_config(config.size)
        if config.weights != RANDOM:
            missing = (f"policy.weights: {base or 'not given'} (Janus-Pro in transformers' layout)",)
    grid = int(sizes.vq_config.num_patches)
    steps = config.steps or raw.get("steps") or grid
    if grid % steps:
        raise ValueError(f"steps must divide the picture's {grid} rows of tokens, got {steps}")
    with torch.device("meta"):
        model = JanusForConditionalGeneration(sizes)
        train_language_model(model)
        adapters = (folder / "adapter").exists() or (config.lora is not None and not saved)
        if (folder / "adapter").exists():
            get_peft_model(model, PeftLoraConfig.from_pretrained(str(folder / "adapter")))
        elif config.lora is not None and not saved:
            janus_weights.add_adapters(model, config.lora)
    text, guidance = sizes.text_config, raw.get("guidance", 5.0) if config.guidance is None else config.guidance
    width = getattr(torch, raw["dtype"]).itemsize if saved else _DTYPES[config.dtype].itemsize
    return PolicySize(
        kind="janus", parameters=_count(model.parameters()),
        trained=_count(parameter for parameter in model.parameters() if parameter.requires_grad),
        weight_bytes=width, trained_bytes=4 if adapters else width, adapters=adapters,
        layers=text.num_hidden_layers, hidden=text.hidden_size,
        keys_and_values=text.num_key_value_heads * text.hidden_size // text.num_attention_heads,
        intermediate=text.intermediate_size, heads=text.num_attention_heads, mlp="gated", scores_stored=False,
        autoregressive=True, **_divisible(model), image_tokens=grid**2, codes=sizes.vq_config.num_embeddings,
        text_vocab=text.vocab_size, steps=steps, guided=guidance != 1, picture_side=sizes.vision_config.image_size,
        question_tokens=_QUESTION_TOKENS + sizes.vision_config.num_image_tokens, prompt_tokens=_PROMPT_TOKENS,
        answer_tokens=raw.get("answer_tokens", config.answer_tokens), max_positions=text.max_position_embeddings,
        missing=missing,
    )  # fmt: skip


def _count(parameters: Iterable[nn.Parameter]) -> int:
    return sum(parameter.numel() for parameter in parameters)


def _divisible(model: nn.Module) -> dict[str, int]:
    lists = (module for module in model.modules() if isinstance(module, nn.ModuleList))
    blocks = [block for members in lists for block in members if any(one.requires_grad for one in block.parameters())]
    # Lists may be nested; a parameter counts once.
    inside = list({id(one): one for block in blocks for one in block.parameters()}.values())
    return {"divisible": _count(inside), "divisible_trained": _count(one for one in inside if one.requires_grad)}
