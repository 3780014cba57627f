"""The surrogate likelihood of masked decoding against the exact one: `python -m benchmarks.experiments.likelihood`.

A small model, so that the exact likelihood can be computed: 8 tokens of 4 codes in 4 steps, the logits of a masked
position are sums of random numbers over the visible tokens. The reward is a random function of single tokens and of
neighbouring pairs. Compared are the expected gradients E[A ∇ log-prob], which for the exact likelihood is the gradient
of the expected reward, at several scales τ of the noise on the confidence.
"""

from __future__ import annotations

import argparse
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from benchmarks.harness import Report
from sync_r1.trainer_client.policies.showo.masked_decoding import (
    gumbel,
    masked_again,
    masked_counts,
    noise_temperatures,
    step_log_prob,
)

TOKENS, CODES, STEPS = 8, 4, 4


class SmallModel:
    """logits[i] = own[i] + Σ over visible j of pair[j, x_j, i]."""

    def __init__(self, scale: float, generator: torch.Generator) -> None:
        self.own = (scale * torch.randn(TOKENS, CODES, generator=generator)).requires_grad_()
        self.pair = (scale * torch.randn(TOKENS, CODES, TOKENS, CODES, generator=generator)).requires_grad_()
        self.single_value = torch.rand(TOKENS, CODES, generator=generator)
        self.pair_value = torch.rand(TOKENS - 1, CODES, CODES, generator=generator)

    def log_probs(self, tokens_N_I: Tensor) -> Tensor:
        """(N, I, V) given the visible tokens; −1 = masked."""
        visible = torch.nn.functional.one_hot(tokens_N_I.clamp(min=0), CODES) * (tokens_N_I >= 0)[..., None]
        return torch.log_softmax(self.own + torch.einsum("njv,jviw->niw", visible.float(), self.pair), -1)

    def reward(self, tokens_N_I: Tensor) -> Tensor:
        """In [0, 1]: mean value of the tokens and of the neighbouring pairs."""
        at, first = torch.arange(TOKENS), torch.arange(TOKENS - 1)
        single = self.single_value[at, tokens_N_I].mean(1)
        return (single + self.pair_value[first, tokens_N_I[:, :-1], tokens_N_I[:, 1:]].mean(1)) / 2


@dataclass(frozen=True)
class Drawn:
    """N decodings: their rewards and both log-probabilities, with gradient."""

    rewards_N: Tensor
    surrogate_N: Tensor
    exact_N: Tensor


def draw(model: SmallModel, count: int, tau: float, generator: torch.Generator) -> Drawn:
    """Decode as `PocketPolicy.advance` does, and record what was sampled and masked again."""
    tokens = torch.full((count, TOKENS), -1)
    surrogate, exact = torch.zeros(count), torch.zeros(count)
    for left, scale in zip(masked_counts(TOKENS, STEPS), noise_temperatures(tau, STEPS)):
        masked = tokens < 0
        log_probs = model.log_probs(tokens)
        uniform = torch.rand(count, TOKENS, 1, generator=generator)
        sampled = (log_probs.detach().exp().cumsum(-1) < uniform).sum(-1).clamp(max=CODES - 1)
        picked = log_probs.gather(2, sampled[..., None])[..., 0]
        again = torch.zeros_like(masked)
        if left:
            certain = torch.where(masked, picked.detach().exp(), torch.inf)
            again = masked_again(certain, gumbel(certain.shape, generator), torch.full((count, 1), left), scale)
        decided = masked & ~again
        rows = int(masked[0].sum())
        at = masked.nonzero()[:, 1].view(count, rows)
        own = log_probs.gather(1, at[..., None].expand(-1, -1, CODES))
        exact = exact + step_log_prob(own, sampled.gather(1, at), decided.gather(1, at), scale)
        surrogate = surrogate + torch.where(decided, picked, 0.0).sum(1)
        tokens = torch.where(decided, sampled, tokens)
    return Drawn(model.reward(tokens), surrogate, exact)


def gradients(model: SmallModel, drawn: Drawn) -> tuple[Tensor, Tensor]:
    """Mean of A ∇ log-prob over the decodings, A = reward − mean: by surrogate, by exact likelihood."""
    advantage = drawn.rewards_N - drawn.rewards_N.mean()
    parameters = [model.own, model.pair]
    found = []
    for log_prob in (drawn.surrogate_N, drawn.exact_N):
        grads = torch.autograd.grad((advantage * log_prob).mean(), parameters, retain_graph=True)
        found.append(torch.cat([grad.flatten() for grad in grads]))
    return found[0], found[1]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--models", type=int, default=6)
    parser.add_argument("--batches", type=int, default=8)
    parser.add_argument("--count", type=int, default=2048, help="decodings per batch")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    report = Report(
        "likelihood",
        "The surrogate likelihood of masked decoding against the exact one (small model)",
        ("noise τ", "logit scale", "cosine of the expected gradients", "‖surrogate‖ ÷ ‖exact‖",
         "signal-to-noise per decoding, surrogate", "signal-to-noise per decoding, exact"),
    )  # fmt: skip
    for tau in (0.25, 1.0, 1.8):
        for scale in (0.3, 1.0):
            rows = np.array([_compare(tau, scale, number, arguments) for number in range(arguments.models)])
            half = 1.96 * rows.std(0, ddof=1) / len(rows) ** 0.5
            cells = [f"{m:.3f} ± {h:.3f}" for m, h in zip(rows.mean(0), half)]
            report.rows.append((f"{tau:g}", f"{scale:g}", *cells))
    report.notes.append(
        f"{arguments.models} random models per row, {arguments.batches} × {arguments.count} decodings each; {TOKENS}"
        f" tokens, {CODES} codes, {STEPS} steps; mean and 95 % interval over models; norms and inner products by pairs"
        " of batches, so without bias"
    )
    report.notes.append("τ = 1 is the pocket policy's, 1.8 the release's with the gate; larger logits = a surer model")
    report.finish()


def _compare(tau: float, scale: float, number: int, arguments: argparse.Namespace) -> tuple[float, float, float, float]:
    generator = torch.Generator().manual_seed(number)
    model = SmallModel(scale, generator)
    pairs = [gradients(model, draw(model, arguments.count, tau, generator)) for _ in range(arguments.batches)]
    surrogate, exact = (np.stack([pair[kind].numpy() for pair in pairs]).astype(np.float64) for kind in (0, 1))

    def inner(one: np.ndarray, other: np.ndarray) -> float:
        """E one · E other, from different batches only."""
        batches = len(one)
        return float((one.sum(0) @ other.sum(0) - (one * other).sum()) / (batches * (batches - 1)))

    norms = inner(surrogate, surrogate), inner(exact, exact)
    noise = [float(np.mean((kind**2).sum(1))) - norm for kind, norm in zip((surrogate, exact), norms)]
    signal = [norm / (spread * arguments.count) for norm, spread in zip(norms, noise)]
    return inner(surrogate, exact) / (norms[0] * norms[1]) ** 0.5, (norms[0] / norms[1]) ** 0.5, signal[0], signal[1]


if __name__ == "__main__":
    main()
