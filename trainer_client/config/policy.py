"""`policy`: what is trained."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from sync_r1.trainer_client.config.section import Section


class LoraConfig(Section):
    """Low-rank adapters (Hu et al., arXiv 2106.09685) by peft: the weights stay, small matrices beside them train."""

    rank: int = Field(default=16, ge=1)
    alpha: float = Field(default=32.0, gt=0)
    """The adapters' product is scaled by alpha / rank."""
    targets: tuple[str, ...] = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")
    """Names of the language model's layers that get one."""


class PolicyConfig(Section):
    """What is trained. `policy: pocket` and `policy: FOLDER` (one that a policy was saved to) are short forms."""

    kind: Literal["pocket", "showo", "janus"] = "pocket"
    """A folder that a policy was saved to says its kind itself."""
    weights: str = ""
    """A folder with weights; "" = the checked-in cold start (pocket only); "random" = random ones at full size, only
    for `--check` and `benchmarks/experiments/full_size_step.py`.
    """
    image_tokenizer: str = ""
    """showo: the folder of MAGVIT-v2's weights."""
    text_tokenizer: str = ""
    """showo: the folder of Phi-1.5's tokenizer."""
    size: Literal["1b", "7b"] = "1b"
    """janus: the published size of which random weights or, without the folder, the plan are made."""
    dtype: Literal["fp32", "bf16"] = "fp32"
    """Of the weights (`precision` is that of the products). An update of 1e-6 is lost in bf16's eight bits, so full
    fine-tuning needs fp32; frozen weights below adapters do not (the adapters are always fp32).
    """
    device: str = ""
    """"cuda", "cuda:1" or "cpu"; "" = the graphics card of this process (LOCAL_RANK) if there is one, else the
    processor. The pocket policy always runs on the processor.
    """
    steps: int | None = Field(default=None, ge=1)
    """Decoding steps of a picture; None = the policy's own (janus: one per row of the picture's grid)."""
    guidance: float | None = Field(default=None, ge=0)
    """Classifier-free guidance as the model's own code counts it: pocket and showo g in (1+g)·conditional −
    g·unconditional, 0 = none; janus w in unconditional + w·(conditional − unconditional), 1 = none. None = the policy's
    own (janus: 5).
    """
    noise: float | None = Field(default=None, ge=0)
    """pocket and showo: initial scale τ of the Gumbel noise on the confidence by which tokens are masked again; None =
    the policy's own.
    """
    answer_tokens: int = Field(default=100, ge=1)
    """Longest answer that showo and janus give."""
    lora: LoraConfig | None = None
    """janus: train adapters instead of the language model's own weights."""
