"""How much memory one process of a run needs, from formulas whose assumptions are printed beside the result.

Where you are: `plan.py` calls this; `benchmarks/experiments/full_size_step.py` measures the same on a graphics card.

Bytes that a transformer block keeps per token for its backward pass, without recomputation, are a·hidden +
b·intermediate + c·heads·span. The factors were counted with `torch.autograd.graph.saved_tensors_hooks` on small models
of the same classes, and a test counts them again. Attention weights (c) are kept by plain matrix products only.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from sync_r1.trainer_client.config import TrainConfig
from sync_r1.trainer_client.planning.policy_size import PolicySize

BUCKET = 2**24
"""Numbers that DDP adds up at once (`distributed.py`)."""

_KEPT = {
    # (mlp, numbers): a, b, c. "gated" is Llama (RMSNorm in fp32, SwiGLU), "plain" Phi (LayerNorm, norms of q and k).
    ("gated", "fp32"): (44.0, 16.0, 0.0),
    ("gated", "bf16"): (35.0, 8.0, 0.0),
    ("gated", "adapters"): (44.0, 10.0, 0.0),
    ("plain", "fp32"): (36.0, 8.0, 4.4),
    ("plain", "bf16"): (34.0, 4.0, 6.4),
}
ASSUMPTIONS = (
    "weights: all parameters × bytes of policy.dtype (adapters 4); gradients and AdamW's two moments: those that train",
    "reference: a second copy, or nothing with adapters on bare weights (they are switched off for it)",
    "update: what one micro-batch keeps for its backward pass in every block, bf16 copies of fp32 weights where the "
    "products are bf16, and logits in fp32",
    "sampling: keys and values of sampling.rollout_rows_max sequences (twice with guidance) and logits in fp32",
    "FSDP2 divides the transformer blocks' weights, gradients and moments and gathers their weights while computing; "
    "the reference and all else are whole. DDP adds one bucket. CUDA's own few hundred MB are not counted",
)


@dataclass(frozen=True)
class Memory:
    """Bytes in one process."""

    weights: float
    reference: float
    optimiser: float
    gradients: float
    update: float
    """Activations and logits of one micro-batch."""
    sampling: float
    """Cache and logits of one sampling batch."""
    gathered: float = 0.0
    """Weights that FSDP2 gathers, or DDP's bucket."""

    @property
    def peak(self) -> float:
        """Update and sampling do not overlap."""
        kept = self.weights + self.reference + self.optimiser + self.gradients + self.gathered
        return kept + max(self.update, self.sampling)


def memory(config: TrainConfig, policy: PolicySize, *, products_bytes: int, batch: int, own_reference: bool) -> Memory:
    """One process alone. `products_bytes`: 2 where matrix products are in bf16; `batch`: rows sampled at once."""
    weights = policy.parameters * policy.weight_bytes + (
        policy.trained * (policy.trained_bytes - policy.weight_bytes) if policy.adapters else 0
    )
    optimisers = 2 if config.optimiser.image else 1  # each with gradients and moments of its own
    return Memory(
        weights=weights,
        reference=policy.parameters * policy.weight_bytes if own_reference else 0.0,
        optimiser=2.0 * optimisers * policy.trained * policy.trained_bytes,
        gradients=float(optimisers * policy.trained * policy.trained_bytes),
        update=max(_image_update(config, policy, products_bytes), _answer_update(config, policy, products_bytes)),
        sampling=_sampling(policy, products_bytes, batch),
    )


def ddp(alone: Memory, policy: PolicySize) -> Memory:
    """One of several processes that each hold everything: gradients are added up bucket by bucket."""
    return replace(alone, gathered=min(BUCKET * policy.trained_bytes, alone.gradients))


def fsdp(alone: Memory, policy: PolicySize, world: int) -> Memory:
    """One of `world` processes that share what `distributed.shard` divides."""
    kept_elsewhere = 1 - 1 / world
    optimisers = alone.gradients / (policy.trained * policy.trained_bytes)
    trained = optimisers * policy.divisible_trained * policy.trained_bytes * kept_elsewhere
    return replace(
        alone,
        weights=alone.weights - policy.divisible * policy.weight_bytes * kept_elsewhere,
        gradients=alone.gradients - trained,
        optimiser=alone.optimiser - 2 * trained,
        gathered=float(policy.divisible * policy.weight_bytes),
    )


def kept_per_token(policy: PolicySize, products_bytes: int, span: int) -> float:
    """Bytes that all blocks keep for the backward pass of one token that attends to `span` tokens."""
    numbers = "adapters" if policy.adapters and policy.weight_bytes == 2 else "bf16" if products_bytes == 2 else "fp32"
    hidden, intermediate, scores = _KEPT[policy.mlp, numbers]
    stored = scores * policy.heads * span if policy.scores_stored else 0.0
    return policy.layers * (hidden * policy.hidden + intermediate * policy.intermediate + stored)


def _branches(policy: PolicySize) -> int:
    return 2 if policy.guided else 1


def _copies(policy: PolicySize, products_bytes: int) -> float:
    """Autocast's copies of fp32 weights, kept for the backward pass."""
    return policy.trained * products_bytes if products_bytes < policy.weight_bytes else 0.0


def _image_update(config: TrainConfig, policy: PolicySize, products_bytes: int) -> float:
    rows = config.optimiser.micro_batch
    span = policy.prompt_tokens + policy.image_tokens
    # A masked picture is read once per decoding step, an autoregressive one once.
    steps = min(config.optimiser.micro_steps, config.objective.image_steps or policy.steps, policy.steps)
    reads = rows * _branches(policy) * (1 if policy.autoregressive else steps)
    logits = rows * policy.image_tokens * policy.codes * 4.0 * (_branches(policy) + 2)
    return reads * span * kept_per_token(policy, products_bytes, span) + logits + _copies(policy, products_bytes)


def _answer_update(config: TrainConfig, policy: PolicySize, products_bytes: int) -> float:
    if not config.objective.text_loss:
        return 0.0
    rows, span = config.optimiser.micro_batch, policy.question_tokens + policy.answer_tokens
    logits = rows * policy.answer_tokens * policy.text_vocab * 4.0 * 3
    return rows * span * kept_per_token(policy, products_bytes, span) + logits + _copies(policy, products_bytes)


def _sampling(policy: PolicySize, products_bytes: int, batch: int) -> float:
    branches, numbers = _branches(policy), min(products_bytes, policy.weight_bytes)
    per_token = 2 * policy.layers * policy.keys_and_values * numbers
    if policy.autoregressive:
        cached = branches * (policy.prompt_tokens + policy.image_tokens)
        logits = policy.codes * 4.0 * (branches + 2)
    else:  # the prompts of both branches, and the whole sequence of the branch that is being read
        cached = branches * policy.prompt_tokens + policy.prompt_tokens + policy.image_tokens
        logits = policy.image_tokens * policy.codes * 4.0 * (branches + 2)
    answering = (policy.question_tokens + policy.answer_tokens) * per_token + policy.text_vocab * 4.0 * 3
    return batch * max(cached * per_token + logits, answering)
