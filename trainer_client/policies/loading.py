"""From the `policy` section of a configuration to a policy, and to the frozen reference of a run.

Where you are: `jobs/train.py` calls these. A folder that a policy was saved to (`Policy.save`) says in its
`config.json` which kind it is and needs nothing else from the configuration.
"""

from __future__ import annotations

import json
import os
from pathlib import Path

import torch

from sync_r1.trainer_client.config import ConfigError, PolicyConfig
from sync_r1.trainer_client.policies.base import Policy
from sync_r1.trainer_client.policies.janus import weights as janus_weights
from sync_r1.trainer_client.policies.janus.policy import JanusPolicy
from sync_r1.trainer_client.policies.pocket.policy import PocketPolicy
from sync_r1.trainer_client.policies.showo.policy import ShowoPolicy
from sync_r1.trainer_client.policies.showo.weights import WeightsError

RANDOM = "random"
"""As `policy.weights`: weights at full size that nobody trained, for the plan and for memory measurements only."""


def load_policy(config: PolicyConfig, precision: str) -> Policy:
    """The policy that `config` names; `precision` (auto, fp32, bf16) is that of its matrix products.

    Raises ConfigError when there is nothing to load, or only random weights.
    """
    if config.weights == RANDOM:
        raise ConfigError(
            "policy.weights: random weights cannot be trained from; they are for `train --check` and "
            "benchmarks/experiments/full_size_step.py. Give a folder with weights"
        )
    kind = saved_kind(Path(config.weights)) or config.kind
    try:
        if kind == "pocket":
            return _pocket(config, precision)
        if kind == "janus":
            return _janus(config, precision)
        if kind == "showo":
            return _showo(config, precision)
    except FileNotFoundError as error:
        raise ConfigError(f"policy: {config.weights!r} lacks a file that a {kind} policy needs: {error}") from error
    raise ConfigError(f"policy.kind: {kind!r} cannot be loaded")


def load_reference(config: PolicyConfig, precision: str, policy: Policy) -> Policy:
    """The frozen reference of a run that started from `config` and now trains `policy`: where it started from, not
    where it was interrupted.

    Adapters on bare weights have their start below them, so no second copy is made. Raises ConfigError as
    `load_policy` does.
    """
    bare = saved_kind(Path(config.weights)) is None
    if bare and isinstance(policy, JanusPolicy) and policy.adapters is not None:
        return policy.reference()
    return load_policy(config, precision)


def saved_kind(folder: Path) -> str | None:
    """The kind of the policy that was saved to `folder`; None for anything else, a folder of published weights too."""
    try:
        raw = json.loads((folder / "config.json").read_text())
    except (OSError, json.JSONDecodeError):
        return None
    kind = raw.get("kind", "pocket" if "steps" in raw and "model" in raw else None)
    return kind if isinstance(kind, str) else None


def policy_device(config: PolicyConfig) -> torch.device:
    """Where the policy lives. Raises ConfigError for a card that is not there: the CPU never stands in for it."""
    if not config.device:
        return torch.device(f"cuda:{os.environ.get('LOCAL_RANK', 0)}" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(config.device)
    except RuntimeError:
        raise ConfigError(
            f'policy.device: expected "cuda", "cuda:1", … or "cpu", got {config.device!r}; left out, it is found'
        ) from None
    found = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if device.type == "cuda" and (device.index or 0) >= found:
        cards = f"only {found} graphics cards" if found else "no graphics card"
        raise ConfigError(f"policy.device: {config.device!r}, but torch finds {cards} here; leave it out")
    if device.type not in ("cuda", "cpu"):
        raise ConfigError(f'policy.device: expected "cuda" or "cpu", got {config.device!r}')
    return device


def torch_precision(precision: str, device: torch.device) -> torch.dtype:
    """The type of the matrix products; "auto" is bf16 on graphics cards and on processors with bfloat16 arithmetic."""
    if precision == "auto":
        # Older releases of torch cannot tell.
        capabilities: dict[str, object] = getattr(torch.cpu, "get_capabilities", dict)()
        fast = device.type == "cuda" or capabilities.get("avx512_bf16") or capabilities.get("amx_bf16")
        precision = "bf16" if fast else "fp32"
    return {"fp32": torch.float32, "bf16": torch.bfloat16}[precision]


def _janus(config: PolicyConfig, precision: str) -> JanusPolicy:
    device, folder = policy_device(config), Path(config.weights)
    if saved_kind(folder):
        policy = janus_weights.load(folder, device=device)
    else:
        try:
            policy = janus_weights.from_pretrained(
                folder,
                dtype=torch_precision(config.dtype, device),
                device=device,
                lora=config.lora,
                steps=config.steps,
                guidance=5.0 if config.guidance is None else config.guidance,
                answer_tokens=config.answer_tokens,
            )
        except ValueError as error:
            raise ConfigError(str(error)) from error
    policy.precision = torch_precision(precision, device)
    return policy


def _pocket(config: PolicyConfig, precision: str) -> PocketPolicy:
    if config.device and policy_device(config).type != "cpu":
        raise ConfigError(f"policy.device: {config.device!r}, but a pocket policy runs on the processor; leave it out")
    try:
        policy = PocketPolicy.load(Path(config.weights)) if config.weights else PocketPolicy.load()
    except FileNotFoundError as error:
        raise ConfigError(
            f"policy: {config.weights!r} is neither 'pocket' nor a folder with a saved policy: {error}"
        ) from error
    _set_sampling(policy, config)
    policy.model.precision = torch_precision(precision, torch.device("cpu"))
    return policy


def _showo(config: PolicyConfig, precision: str) -> ShowoPolicy:
    device = policy_device(config)
    magvit, phi = (Path(name) if name else None for name in (config.image_tokenizer, config.text_tokenizer))
    dtype = torch_precision(config.dtype, device)
    try:
        policy = ShowoPolicy.from_pretrained(showo=Path(config.weights), magvit=magvit, phi=phi, dtype=dtype)
    except WeightsError as error:
        raise ConfigError(f"policy: {error}") from None
    policy.model.to(device)
    policy.tokenizer.to(device)
    policy.max_answer_tokens = config.answer_tokens
    _set_sampling(policy, config)
    policy.model.precision = torch_precision(precision, device)
    return policy


def _set_sampling(policy: ShowoPolicy, config: PolicyConfig) -> None:
    if config.steps is not None:
        policy.steps = config.steps
    if config.guidance is not None:
        policy.guidance = config.guidance
    if config.noise is not None:
        policy.noise = config.noise
