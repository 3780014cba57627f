"""Masked parallel decoding as pure functions: how many tokens stay masked, which ones, and with which probabilities.

Where you are: `pocket.py` calls these once per decoding step; `showo.py` gives the logits. MaskGIT (Chang et al.,
arXiv 2202.04200) as Show-o uses it (arXiv 2408.12528), with two differences, both on purpose: the last step leaves no
token masked, and the caller keeps the masked state when it draws a preview.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor


def cosine_schedule(progress: Tensor) -> Tensor:
    """Share of the tokens that is still masked at `progress` in 0…1: cos(π/2 · progress)."""
    return torch.cos(progress * (math.pi / 2))


def masked_counts(tokens: int, steps: int) -> list[int]:
    """How many of `tokens` are masked after each of `steps` steps: strictly falling, and 0 after the last.

    Raises:
        ValueError: more steps than tokens, so that some step could decide nothing.
    """
    if not 1 <= steps <= tokens:
        raise ValueError(f"steps must be between 1 and the number of tokens ({tokens}), got {steps}")
    counts: list[int] = []
    left = tokens
    for step in range(steps):
        wanted = math.floor(tokens * math.cos(math.pi / 2 * (step + 1) / steps))
        remaining_steps = steps - step - 1
        left = max(remaining_steps, min(left - 1, wanted)) if remaining_steps else 0
        counts.append(left)
    return counts


def noise_temperatures(initial: float, steps: int) -> list[float]:
    """Scale of the Gumbel noise per step; it compounds: τ ← τ · (1 − (t+1)/T), so it reaches 0 at the last step."""
    scales: list[float] = []
    scale = initial
    for step in range(steps):
        scale *= 1.0 - (step + 1) / steps
        scales.append(scale)
    return scales


def gumbel(shape: Sequence[int], generator: torch.Generator | None) -> Tensor:
    """Standard Gumbel noise."""
    uniform = torch.rand(tuple(shape), generator=generator)
    return -torch.log((-torch.log(uniform.clamp(min=1e-20))).clamp(min=1e-20))


def masked_again(probabilities_N_I: Tensor, noise_N_I: Tensor, mask_len_N_1: Tensor, tau: float) -> Tensor:
    """Which tokens are masked again (True): the `mask_len` least confident by log p + τ · noise.

    Tokens that are to stay known have probability inf. `mask_len` must be smaller than the number of tokens.
    """
    confidence = torch.log(probabilities_N_I.clamp(min=1e-20)) + tau * noise_N_I
    cut_off_N_1 = confidence.sort(dim=-1).values.gather(1, mask_len_N_1.long())
    return confidence < cut_off_N_1


def guided_log_probs(conditional: Tensor, unconditional: Tensor | None, guidance: float) -> Tensor:
    """Log-probabilities of classifier-free guidance, (1+g)·conditional − g·unconditional, over the last axis."""
    if unconditional is not None:
        conditional = (1 + guidance) * conditional - guidance * unconditional
    return torch.log_softmax(conditional.float(), dim=-1)
