"""What a configuration will do, computed before anything is loaded: parameters, memory, work and requests per step.

Where you are: `sync-r1 train --check` prints a `Plan`; `policy_size.py` has the policy's sizes, `memory.py` the
memory. Nothing here needs weights, services or a graphics card. Where a step's work depends on rewards (how many rounds
a gate takes) figures are pairs: at least, at most.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping
from dataclasses import dataclass, fields
from pathlib import Path

import numpy as np
import torch

from sync_r1.reward_models.profiles import load_profile
from sync_r1.reward_models.types import ProfileError
from sync_r1.trainer_client.config import ConfigError, StepSampling, TrainConfig, check_names
from sync_r1.trainer_client.planning.memory import Memory, ddp, fsdp, memory
from sync_r1.trainer_client.planning.policy_size import PolicySize, policy_size
from sync_r1.trainer_client.policies.loading import RANDOM, saved_kind, torch_precision
from sync_r1.trainer_client.sdk.reward_use import reward_of, variant_of
from sync_r1.trainer_client.tasks.named_benchmarks import POCKET_BENCHMARKS
from sync_r1.trainer_client.tasks.tasks import MAX_REFERENCES
from sync_r1.trainer_client.tasks.unifybench import UnifyBenchError, load_unifybench

Pair = tuple[int, int]
"""At least, at most."""
_TEXT_BYTES = 1024
"""Texts of one item, generously."""


@dataclass(frozen=True)
class Work:
    """One step, summed over all processes. Rows are trajectories; a policy step is one (trajectory, decoding step), as
    `selection.policy_steps` in `metrics.jsonl` counts them.
    """

    groups: Pair
    proposed: Pair
    finished: Pair
    """Pictures that are scored."""
    policy_steps: Pair
    gate_requests: Pair
    """To each of the gate's services."""
    gate_items: Pair
    """Items in one of them."""
    requests: int
    """To each reward's service."""
    items: Pair
    """Items in one of them."""
    backward_passes: Pair
    """Micro-batches of the update, answers and pictures, over all epochs."""


@dataclass(frozen=True)
class Service:
    """A reward service that the run needs."""

    reward: str
    variant: str
    """"" = the service's default."""
    weight: float
    gate_weight: float
    bytes_per_step: Pair
    """Sent to it, gate included; references once, then as digests."""


@dataclass(frozen=True)
class Plan:
    """All that `--check` prints. `errors` keep the run from starting, `warnings` do not."""

    policy: PolicySize
    products_bytes: int
    work: Work
    services: tuple[Service, ...]
    memory: dict[str, Memory]
    """By layout: "1 process", "DDP × 8", "FSDP2 × 8"."""
    errors: tuple[str, ...]
    warnings: tuple[str, ...]


def make_plan(config: TrainConfig, world: int = 1, endpoints: Collection[str] | None = None) -> Plan:
    """The plan for one process and, beyond one, for `world` of them.

    `endpoints`: the rewards that are served already; None = `sync-r1 up` will serve those of the run's profiles.
    Raises ConfigError when the policy cannot exist; everything else that is wrong is in `errors`.
    """
    policy = policy_size(config.policy)
    device = torch.device("cpu" if policy.kind == "pocket" else config.policy.device or "cuda")
    products_bytes = torch_precision(config.precision, device).itemsize
    work = step_work(config, policy)
    own_reference = not (policy.adapters and saved_kind(Path(config.policy.weights)) is None)
    alone = memory(
        config,
        policy,
        products_bytes=products_bytes,
        batch=min(config.sampling.rollout_rows_max, max(work.proposed)),
        own_reference=own_reference,
    )
    layouts = {"1 process": alone}
    if world > 1:
        layouts |= {f"DDP × {world}": ddp(alone, policy), f"FSDP2 × {world}": fsdp(alone, policy, world)}
    needed, unknown = _served(config, endpoints)
    return Plan(
        policy, products_bytes, work, _services(config, policy, work, needed), layouts,
        (*unknown, *_errors(config, policy)), tuple(_warnings(config, policy)),
    )  # fmt: skip


def step_work(config: TrainConfig, policy: PolicySize) -> Work:
    """Counts for one step of this configuration: at least and at most over the phases of its schedule."""
    plans = [config.phase(phase) for phase in config.schedule] or [config.phase(None)]
    works = [_tree_work(config, policy, plan) if plan.tree else _plain_work(config, policy) for plan in plans]

    def span(name: str) -> Pair:
        pairs = [getattr(work, name) for work in works]
        return min(low for low, _ in pairs), max(high for _, high in pairs)

    pairs = {field.name: span(field.name) for field in fields(Work) if field.name != "requests"}
    return Work(requests=max(work.requests for work in works), **pairs)


def _tree_work(config: TrainConfig, policy: PolicySize, plan: StepSampling) -> Work:
    groups, chunks = plan.prompts, [
        len(part) for part in np.array_split(np.arange(plan.prompts), min(config.sampling.chunks, plan.prompts))
    ]  # fmt: skip
    answers, pictures = (0 if plan.learn == "pictures" else plan.answers), plan.pictured * plan.pictures
    steps = min(config.objective.image_steps or policy.steps, policy.steps)
    of_images = math.ceil(groups * pictures / config.optimiser.micro_batch) * math.ceil(
        steps / config.optimiser.micro_steps
    )
    passes = math.ceil(groups * answers / config.optimiser.micro_batch) + of_images
    items, rows = max(answers, pictures), pictures + (0 if plan.learn == "pictures" else answers - plan.pictured)
    return Work(
        groups=(groups, groups),
        proposed=(groups * rows, groups * rows),
        finished=(groups * pictures, groups * pictures),
        policy_steps=(groups * pictures * policy.steps, groups * pictures * policy.steps),
        gate_requests=(0, 0),
        gate_items=(0, 0),
        requests=len(chunks),
        items=(min(chunks) * items, max(chunks) * items),
        backward_passes=(config.objective.epochs * passes, config.objective.epochs * passes),
    )


def _plain_work(config: TrainConfig, policy: PolicySize) -> Work:
    prompts = config.sampling.prompts
    work = config.selector.work(prompts, config.sampling.group_size, policy.steps)
    chunks = [len(part) for part in np.array_split(np.arange(prompts), min(config.sampling.chunks, prompts))]
    rounds, asked = work.gate_rounds, work.previews if work.gate_rounds[1] else 0
    return Work(
        groups=work.groups,
        proposed=_times(work.groups, work.drawn),
        finished=_times(work.groups, work.finished),
        policy_steps=_times(work.groups, work.policy_steps),
        gate_requests=(len(chunks) * rounds[0], len(chunks) * rounds[1]),
        gate_items=(min(chunks) * asked, max(chunks) * asked),
        requests=len(chunks),
        items=(min(chunks) * work.finished[0], max(chunks) * work.finished[1] * work.groups[1] // prompts),
        backward_passes=(
            _backward_passes(config, policy, work.learned[0]),
            _backward_passes(config, policy, work.learned[1]),
        ),
    )


def _backward_passes(config: TrainConfig, policy: PolicySize, rows: int) -> int:
    """Answers with and without a picture do not share a micro-batch, so theirs may be one more than this."""
    objective, optimiser = config.objective, config.optimiser
    steps = min(objective.image_steps or policy.steps, policy.steps)
    parts = math.ceil(rows / optimiser.micro_batch)
    images = parts * math.ceil(steps / optimiser.micro_steps) if objective.image_weight > 0 else 0
    answers = parts if objective.text_loss and objective.answer_weight > 0 else 0
    return objective.epochs * (images + answers)


def _needs(config: TrainConfig) -> dict[tuple[str, str], tuple[str, ...]]:
    """(reward, variant) -> the fields that it reads, of the run's profiles; "" is the default variant.

    Raises ProfileError.
    """
    needs: dict[tuple[str, str], tuple[str, ...]] = {}
    for served in (one for name in (config.profile, *config.also) for one in load_profile(name).rewards.values()):
        for variant, reward in served.variants.items():
            needs.setdefault((served.name, variant), reward.card.required_fields)
        needs.setdefault((served.name, ""), needs[served.name, served.default_variant])
    return needs


def _served(
    config: TrainConfig, endpoints: Collection[str] | None
) -> tuple[dict[tuple[str, str], tuple[str, ...]], tuple[str, ...]]:
    """(`_needs`, what is wrong with the names of rewards)."""
    needs: dict[tuple[str, str], tuple[str, ...]] = {}
    try:
        needs = _needs(config)
    except ProfileError as error:
        if endpoints is None:  # where the services run already, the profile is theirs, and need not be here
            return needs, (f"profile: {error}",)
    profiles = " and ".join((config.profile, *config.also))
    known, lacks = {name for name, _ in needs}, f"profile {profiles} has no reward"
    try:
        check_names(config, *((known, lacks) if endpoints is None else (endpoints, "no endpoint for")))
    except ConfigError as error:
        return needs, (str(error),)
    return needs, ()


def _services(
    config: TrainConfig, policy: PolicySize, work: Work, needed: Mapping[tuple[str, str], Collection[str]]
) -> tuple[Service, ...]:
    gate = config.selector.gate_weights
    picture = policy.picture_side**2 * 3
    services = []
    for name in dict.fromkeys((*config.rewards, *gate)):
        use, reward = config.rewards.get(name), reward_of(name)
        variant = (use.variant if use else "") or variant_of(name)
        needs = needed.get((reward, variant), ("image", "concept.references"))  # at most, where nobody says
        item = _TEXT_BYTES + (picture if "image" in needs else 0)
        references = config.sampling.prompts * MAX_REFERENCES * picture if "concept.references" in needs else 0
        final = work.finished if use else (0, 0)
        looked = work.proposed if name in gate else (0, 0)
        sent = (item * (final[0] + looked[0]), item * (final[1] + looked[1]) + references)
        services.append(Service(reward, variant, use.weight if use else 0.0, gate.get(name, 0.0), sent))
    return tuple(services)


def _errors(config: TrainConfig, policy: PolicySize) -> list[str]:
    errors = []
    drawing = policy.prompt_tokens + policy.image_tokens + (0 if policy.autoregressive else 2)
    answering = policy.question_tokens + policy.answer_tokens
    # The lengths of texts are the plan's assumption; only what cannot fit at any length is an error.
    if policy.image_tokens + policy.answer_tokens > policy.max_positions or drawing > policy.max_positions:
        errors.append(
            f"policy: sequences of {max(drawing, answering)} tokens, but the network has {policy.max_positions} "
            "positions; use fewer answer tokens"
        )
    benchmark = Path(config.benchmark)
    if config.benchmark not in POCKET_BENCHMARKS and benchmark.exists():
        try:
            load_unifybench(benchmark)
        except UnifyBenchError as error:
            errors.append(f"benchmark: {error}")
    errors += config.selector.errors(policy.steps)
    return errors


def _warnings(config: TrainConfig, policy: PolicySize) -> list[str]:
    warnings = [f"missing {what}" for what in policy.missing]
    if config.benchmark not in POCKET_BENCHMARKS and not Path(config.benchmark).exists():
        warnings.append(f"missing benchmark: {config.benchmark} (a folder in the UnifyBench layout)")
    if config.policy.weights == RANDOM:
        warnings.append("policy.weights: random weights can be planned and measured, not trained")
    if policy.trained_bytes == 2:
        warnings.append(
            "policy.dtype: bf16 weights have eight bits, so an update of 1e-6 is lost; use fp32 (products are bf16 by "
            "`precision`), or adapters"
        )
    if policy.kind != "pocket" and config.objective.answer_tokens < policy.answer_tokens:
        warnings.append(
            f"objective.answer_tokens ({config.objective.answer_tokens}) divides sums over up to "
            f"{policy.answer_tokens} answer tokens (policy.answer_tokens): long answers weigh more than one"
        )
    steps = min(config.objective.image_steps or policy.steps, policy.steps)
    if policy.autoregressive and config.optimiser.micro_steps < steps:
        warnings.append(
            f"optimiser.micro_steps ({config.optimiser.micro_steps}) cuts a pass that an autoregressive policy makes "
            f"once for all {steps} steps; set it to {steps}"
        )
    return warnings


def _times(left: Pair, right: Pair) -> Pair:
    return left[0] * right[0], left[1] * right[1]
