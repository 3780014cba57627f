"""`objective` and `optimiser`: what an update follows, and how far."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from sync_r1.trainer_client.config.section import Section, Share


class ObjectiveConfig(Section):
    """Sync-GRPO's objective (see `sync_grpo.py`)."""

    kind: Literal["sync_grpo", "best_of_n"] = "sync_grpo"
    """"best_of_n": supervised fine-tuning on the best trajectory of each group (a control)."""
    baseline: Literal["mean", "leave_one_out"] = "mean"
    scale: Literal["none", "std"] = "none"
    credit: Literal["per_modality", "joint"] = "per_modality"
    text_loss: bool = True
    """False = answer tokens are rewarded but get no gradient, as in the release (ablation)."""
    answer_weight: float = Field(default=1.0, ge=0)
    image_weight: float = Field(default=1.0, ge=0)
    clip: float = Field(default=0.2, gt=0)
    beta: float = Field(default=0.01, ge=0)
    """Weight of the k3 KL to the frozen start policy; 0 saves its forward passes."""
    image_beta: float | None = Field(default=None, ge=0)
    """The same for image tokens; None = `beta`."""
    image_scale: Literal["none", "batch_rms"] = "none"
    """"batch_rms": the advantages of pictures are divided by their root mean square over the batch, so that the size of
    an update does not depend on how far the pictures' rewards happen to differ.
    """
    epochs: int = Field(default=1, ge=1)
    """Updates per rollout batch; the clip only acts from the second one on."""
    answer_tokens: int = Field(default=16, ge=1)
    """The constant that divides the sum over an answer's tokens (about the longest answer the policy can give)."""
    image_steps: int = Field(default=0, ge=0)
    """Decoding steps per update whose tokens enter the loss, drawn anew each time and re-weighted (unbiased); 0 =
    all.
    """
    permute_rewards_within_group: bool = False
    """The control: every reward keeps its group but not its trajectory. It must show no gain."""


class ImageOptimiserConfig(Section):
    """AdamW of the pictures' loss alone, with moments of its own; the defaults are those that the pocket policy learns
    pictures with (`benchmarks/RESULTS.md` has the figures).
    """

    learning_rate: float = Field(default=2e-4, gt=0)
    betas: tuple[Share, Share] = (0.9, 0.95)
    weight_decay: float = Field(default=0.0, ge=0)
    grad_clip: float = Field(default=1.0, gt=0)
    warmup_steps: int = Field(default=4, ge=0)
    final_share: float = Field(default=0.3, ge=0, le=1)


class OptimiserConfig(Section):
    """AdamW with warm-up and cosine decay."""

    image: ImageOptimiserConfig | None = None
    """Settings of the pictures' loss; None = one optimiser for the sum of both losses."""
    learning_rate: float = Field(default=1e-4, gt=0)
    betas: tuple[Share, Share] = (0.9, 0.999)
    weight_decay: float = Field(default=1e-3, ge=0)
    grad_clip: float = Field(default=1.0, gt=0)
    warmup_steps: int = Field(default=3, ge=0)
    final_share: float = Field(default=0.1, ge=0, le=1)
    """Learning rate at the last step as a share of the peak."""
    micro_batch: int = Field(default=8, ge=1)
    """Trajectories per backward pass; bounds memory and changes no result."""
    micro_steps: int = Field(default=8, ge=1)
    """Decoding steps per backward pass over pictures; bounds memory and changes no result."""
