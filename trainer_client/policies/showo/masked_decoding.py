"""Masked parallel decoding as pure functions: how many tokens stay masked, which ones, and with which probabilities.

Where you are: `policies/pocket/policy.py` calls these once per decoding step; `network.py` gives the logits. MaskGIT
(Chang et al., arXiv 2202.04200) as Show-o uses it (arXiv 2408.12528), with two differences, both on purpose: the last
step leaves no token masked, and the caller keeps the masked state when it draws a preview.
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


_QUADRATURE = 257
"""Points of the integral in `kept_set_log_prob`; its integrand is smooth on the scale 1 and 36 wide at the least."""


def kept_set_log_prob(confidence_N_M: Tensor, kept_N_M: Tensor, tau: float) -> Tensor:
    """Log-probability (N,) that of M tokens exactly `kept` are the most confident by confidence + τ · Gumbel noise.

    `confidence` is the log-probability of each sampled token. Scaled by 1/τ, the best of the others is itself Gumbel
    with location a = logsumexp of the others, so the set is kept with probability
    ∫ Gumbel(t; a) Π_kept (1 − exp(−exp(φ − t))) dt (Gumbel-top-k, arXiv 1903.06059), taken by the trapezoid rule in
    double precision. 0 where all are kept; at τ = 0 the choice is certain, so 0 or −inf.
    """
    kept = kept_N_M.sum(-1)
    if bool((kept == kept_N_M.shape[-1]).all()):
        return confidence_N_M.sum(-1) * 0.0
    if tau == 0:
        least = confidence_N_M.masked_fill(~kept_N_M, torch.inf).amin(-1)
        most = confidence_N_M.masked_fill(kept_N_M, -torch.inf).amax(-1)
        return torch.where(least >= most, 0.0, -torch.inf)
    phi_N_M = confidence_N_M.double() / tau
    location_N = phi_N_M.masked_fill(kept_N_M, -torch.inf).logsumexp(-1)
    # Kept tokens that are unlikely to win pull the mass to the left, by log(k + 1) at most.
    low = -(math.log(int(kept.max()) + 1) + 6.0)
    from_location_Q = torch.linspace(low, 30.0, _QUADRATURE, dtype=torch.float64)
    t_N_Q = location_N.detach()[..., None] + from_location_Q
    z_N_Q = t_N_Q - location_N[..., None]
    log_density_N_Q = -z_N_Q - torch.exp(-z_N_Q)
    gap_N_Q_M = phi_N_M[..., None, :] - t_N_Q[..., None]
    # log(1 − exp(−exp(gap))): gap itself far on the left, 0 far on the right; both without overflow in the gradient.
    inner = torch.log(-torch.expm1(-torch.exp(gap_N_Q_M.clamp(-30.0, 5.0))))
    log_wins = torch.where(gap_N_Q_M < -30.0, gap_N_Q_M, torch.where(gap_N_Q_M > 5.0, 0.0, inner))
    log_integrand = log_density_N_Q + log_wins.masked_fill(~kept_N_M[..., None, :], 0.0).sum(-1)
    spacing = (30.0 - low) / (_QUADRATURE - 1)
    return (log_integrand.logsumexp(-1) + math.log(spacing)).to(confidence_N_M.dtype)


def step_log_prob(log_probs_N_M_V: Tensor, tokens_N_M: Tensor, kept_N_M: Tensor, tau: float) -> Tensor:
    """Exact log-likelihood (N,) of one decoding step: all M masked positions were sampled, and then `kept` was kept.

    The surrogate that the trainer uses, Σ log p over the kept tokens, leaves out the tokens that were sampled and
    masked again, and the choice of the kept set; both depend on the parameters.
    """
    confidence_N_M = log_probs_N_M_V.gather(-1, tokens_N_M[..., None])[..., 0]
    return confidence_N_M.sum(-1) + kept_set_log_prob(confidence_N_M, kept_N_M, tau)
