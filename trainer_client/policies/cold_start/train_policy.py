"""Cold start, second stage: train the pocket policy by masked-token and next-token prediction (fixed seeds, CPU).

Called by `cold_start.py --stage policy`. Pictures are rendered and turned into tokens once; every step then mixes
rows to draw (image tokens masked by the cosine distribution of mask ratios, one text in ten dropped so that guidance
has its unconditional branch), questions about pictures, and facts to find. Stops after a fixed time with the learning
rate at zero; the validation curve is written beside the weights.
"""

from __future__ import annotations

import json
import math
import time
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from sync_r1.reward_models.pocket.world.scenes import render
from sync_r1.trainer_client.policies.cold_start.data import Drawing, drawings, findings
from sync_r1.trainer_client.policies.cold_start.losses import answer_loss, drawing_loss, random_masks
from sync_r1.trainer_client.policies.cold_start.muon import Muon, split_parameters
from sync_r1.trainer_client.policies.pocket.policy import PocketPolicy
from sync_r1.trainer_client.policies.pocket.text import Words
from sync_r1.trainer_client.policies.showo.image_tokenizer import Magvit
from sync_r1.trainer_client.policies.showo.network import Showo, ShowoConfig

STEPS = 8
"""Decoding steps T of the pocket policy."""


@dataclass(frozen=True)
class PolicyTraining:
    """Settings of the run that made the checked-in policy."""

    pictures: int = 24_000
    minutes: float = 16.0
    drawing_rows: int = 24
    looking_rows: int = 6
    finding_rows: int = 8
    learning_rate: float = 3e-3
    dropout: float = 0.1
    ema: float = 0.997
    seed: int = 11
    threads: int = 2
    report_every_s: float = 120.0


@dataclass(frozen=True)
class Pool:
    """Rendered rows: texts as ids, pictures as token ids (M, I), and the questions about each picture as (question,
    answer) ids.
    """

    texts: list[list[int]]
    image_ids_M_I: Tensor
    questions: list[list[tuple[list[int], list[int]]]]


def make_pool(count: int, seed: int, tokenizer: Magvit, words: Words, config: ShowoConfig) -> Pool:
    """Render and encode `count` rows of `data.drawings`.

    Without jitter: the few minutes of training then go into what is drawn, not into where its edges fall.
    """
    rows: list[Drawing] = list(islice(drawings(seed), count))
    codes = [tokenizer.encode([render(row.scene, None) for row in rows[i : i + 256]]) for i in range(0, count, 256)]
    questions = [
        [(words.encode(question), [*words.encode(answer), words.end_id]) for question, answer in row.questions]
        for row in rows
    ]
    return Pool(
        [words.encode(row.text, soft_tokens=True) for row in rows], torch.cat(codes) + config.first_code_id, questions
    )


def init_codes_from_bits(model: Showo, bits: int) -> None:
    """Let codes that share bits start with similar embeddings and logits, so that rare codes learn from common ones."""
    config = model.config
    signs = ((torch.arange(config.image_codes)[:, None] >> torch.arange(bits - 1, -1, -1)) & 1).float() * 2 - 1
    rows = slice(config.first_code_id, config.first_code_id + config.image_codes)
    with torch.no_grad():
        for weight in (model.showo.model.embed_tokens.weight, model.showo.lm_head.weight):
            weight[rows] = 0.25 * weight[rows] + signs @ torch.randn(bits, config.hidden_size) * 0.02 / math.sqrt(bits)


class _Batches:
    """Random rows of the pool, as losses."""

    def __init__(self, pool: Pool, words: Words, settings: PolicyTraining, seed: int) -> None:
        self.pool, self.words, self.settings = pool, words, settings
        self.rng = np.random.default_rng(seed)
        self.findings = findings(seed)

    def losses(self, model: Showo, *, dropout: float) -> dict[str, Tensor]:
        pool, settings, rng = self.pool, self.settings, self.rng
        chosen = rng.integers(len(pool.texts), size=settings.drawing_rows).tolist()
        texts = [[] if rng.random() < dropout else pool.texts[i] for i in chosen]
        masked = random_masks(len(chosen), model.config.image_tokens, rng)
        seen = rng.integers(len(pool.texts), size=settings.looking_rows).tolist()
        looked = [pool.questions[i][int(rng.integers(len(pool.questions[i])))] for i in seen]
        found = [
            (self.words.encode(question), [*self.words.encode(answer), self.words.end_id])
            for question, answer in islice(self.findings, settings.finding_rows)
        ]
        return {
            "drawing": drawing_loss(model, texts, pool.image_ids_M_I[chosen], masked),
            "looking": answer_loss(model, *_columns(looked), list(pool.image_ids_M_I[seen])),
            "finding": answer_loss(model, *_columns(found), [None] * len(found)),
        }


def _columns(pairs: list[tuple[list[int], list[int]]]) -> tuple[list[list[int]], list[list[int]]]:
    return [question for question, _ in pairs], [answer for _, answer in pairs]


@torch.no_grad()
def validate(model: Showo, pool: Pool, words: Words, settings: PolicyTraining) -> dict[str, float]:
    """Mean losses over the same 6 batches every time, nats per token."""
    batches = _Batches(pool, words, settings, seed=settings.seed + 100)
    with torch.autocast("cpu", torch.bfloat16):
        parts = [batches.losses(model, dropout=0.0) for _ in range(6)]
    return {name: round(float(torch.stack([part[name] for part in parts]).mean()), 4) for name in parts[0]}


def train_policy(folder: Path, settings: PolicyTraining) -> None:
    """Write `policy.safetensors` (float16), `config.json` and `policy_curve.json` into `folder`, which holds
    tokenizer and vocabulary.
    """
    torch.set_num_threads(settings.threads)
    torch.manual_seed(settings.seed)
    words, tokenizer = Words(folder / "words.json"), Magvit.load(folder / "tokenizer.safetensors")
    bits, grid = tokenizer.config.bits, tokenizer.config.grid
    config = ShowoConfig(
        len(words), 2**bits, grid**2, hidden_size=192, intermediate_size=768, layers=6, heads=4, max_positions=256
    )
    model, averaged = Showo(config), Showo(config)
    init_codes_from_bits(model, bits)
    averaged.load_state_dict(model.state_dict())
    validation = make_pool(512, settings.seed + 50, tokenizer, words, config)
    pool = make_pool(settings.pictures, settings.seed, tokenizer, words, config)
    batches = _Batches(pool, words, settings, settings.seed)
    hidden_weights, rest = split_parameters(model, adam_names=("embed_tokens", "lm_head"))
    optimizers = (
        Muon(hidden_weights, settings.learning_rate, weight_decay=0.05),
        torch.optim.AdamW(rest, settings.learning_rate, betas=(0.9, 0.98), weight_decay=0.0),
    )
    curve: list[dict[str, float]] = []
    started, next_report, step = time.monotonic(), settings.report_every_s, 0
    while (elapsed := time.monotonic() - started) < settings.minutes * 60:
        done = elapsed / (settings.minutes * 60)
        # Constant, then linearly to zero over the last 40 %.
        rate = settings.learning_rate * min(1.0, (step + 1) / 100, (1 - done) / 0.4)
        for group in (group for optimizer in optimizers for group in optimizer.param_groups):
            group["lr"] = rate
        with torch.autocast("cpu", torch.bfloat16):
            losses = batches.losses(model, dropout=settings.dropout)
        model.zero_grad()
        (losses["drawing"] + 0.3 * losses["looking"] + 0.3 * losses["finding"]).backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        for optimizer in optimizers:
            optimizer.step()
        step += 1
        decay = min(settings.ema, step / (step + 10))
        with torch.no_grad():
            for mean, value in zip(averaged.parameters(), model.parameters(), strict=True):
                mean.lerp_(value, 1 - decay)
        if elapsed > next_report:
            next_report += settings.report_every_s
            curve.append(
                {"step": step, "minutes": round(elapsed / 60, 2), **validate(averaged, validation, words, settings)}
            )
            print(json.dumps(curve[-1]), flush=True)
            _write(folder, averaged, tokenizer, words, curve)
    curve.append({"step": step, "minutes": settings.minutes, **validate(averaged, validation, words, settings)})
    _write(folder, averaged, tokenizer, words, curve)


def _write(folder: Path, averaged: Showo, tokenizer: Magvit, words: Words, curve: list[dict[str, float]]) -> None:
    stored = Showo(averaged.config).half()
    stored.load_state_dict(averaged.state_dict())
    PocketPolicy(stored, tokenizer, words, steps=STEPS).save(folder)
    (folder / "policy_curve.json").write_text(json.dumps(curve, indent=1) + "\n")
