"""One training step of each policy at full size on a graphics card, with random weights: memory and time against the
plan. `python -m benchmarks.experiments.full_size_step [NAME …]`; NAME of showo_512, janus_pro_1b, janus_pro_7b.

One group on one prompt, drawn, previewed, decoded, given made-up advantages and learnt from by the trainer's own
`Learner`. Nothing is judged: random weights need as much memory and time as trained ones, and draw noise. Janus-Pro 7B
is measured with adapters on bf16 weights, because all its weights do not train on one card; the others as configured.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers

import sync_r1.trainer_client.config as configuration
from benchmarks.harness import Report
from sync_r1.trainer_client.config import TrainConfig, load_config
from sync_r1.trainer_client.planning.plan import Plan, make_plan
from sync_r1.trainer_client.policies.base import Policy, Question
from sync_r1.trainer_client.policies.janus import weights as janus_weights
from sync_r1.trainer_client.policies.janus.policy import JanusPolicy
from sync_r1.trainer_client.policies.janus.random_weights import random_policy
from sync_r1.trainer_client.policies.loading import torch_precision
from sync_r1.trainer_client.policies.showo.image_tokenizer import Magvit, MagvitConfig
from sync_r1.trainer_client.policies.showo.network import Showo, ShowoConfig
from sync_r1.trainer_client.policies.showo.policy import ShowoPolicy
from sync_r1.trainer_client.policies.showo.text import END, PhiText
from sync_r1.trainer_client.rollouts.sampler import Trajectory
from sync_r1.trainer_client.training.learner import Learner
from sync_r1.trainer_client.training.optimisers import TotalSteps
from sync_r1.trainer_client.training.sync_grpo import Credit

OVERRIDES = {
    "showo_512": (),
    "janus_pro_1b": (),
    "janus_pro_7b": ("policy.dtype=bf16", "policy.lora={rank: 16, alpha: 32}", "parallel=ddp"),
}
_QUESTION = "Below is some information about <bo>. " + "<bo> wears a green hat with a small feather. " * 6
_PROMPT = "<bo> wearing its hat. <bo> is a small brown dog with a white chest. <bo>'s hat is green."
_GIB = 2**30


@dataclass(frozen=True)
class Phase:
    """One part of the step; `peak_bytes` is 0 where memory cannot be asked (on a processor)."""

    name: str
    seconds: float
    peak_bytes: int


def one_step(make: Callable[[], tuple[Policy, Policy]], config: TrainConfig, device: torch.device) -> list[Phase]:
    """Load, sample, preview, decode, reference, update: what each took. `make` gives policy and reference."""
    phases: list[Phase] = []

    @contextmanager
    def phase(name: str) -> Iterator[None]:
        if device.type == "cuda":
            torch.cuda.synchronize(device)
            torch.cuda.reset_peak_memory_stats(device)
        started_s = time.perf_counter()
        yield
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        peak = torch.cuda.max_memory_allocated(device) if device.type == "cuda" else 0
        phases.append(Phase(name, time.perf_counter() - started_s, peak))

    with phase("load"):
        policy, reference = make()
        learner = Learner(policy, reference, config.objective, config.optimiser, total_steps=TotalSteps(1))
    rows, generator = config.sampling.group_size, torch.Generator().manual_seed(config.seed)
    picture = np.random.default_rng(config.seed).integers(0, 256, (_side(policy), _side(policy), 3)).astype(np.uint8)
    with phase("answer"):
        answers = policy.answer([Question(_QUESTION, picture)] * rows, temperature=1.0, generator=generator)
    with phase("draw"):
        early = policy.advance(policy.start([_PROMPT] * rows), 1, temperature=1.0, generator=generator)
        state = policy.advance(early, policy.steps, temperature=1.0, generator=generator)
    with phase("preview and decode"):
        policy.preview(early)
        policy.decode(state)
    trajectories = [Trajectory(0, answers.select([row]), state.select([row])) for row in range(rows)]
    steps = learner.draw_steps(np.random.default_rng(config.seed))
    with phase("reference"):
        recorded = learner.reference_log_probs(trajectories, steps)
    advantages_N = np.linspace(-1.0, 1.0, rows)
    credit = Credit(advantages_N, advantages_N, np.full(rows, 1.0 / rows), np.full(rows, 1.0 / rows))
    with phase("update"):
        learner.update(trajectories, credit, steps, recorded)
    return phases


def random_pair(config: TrainConfig, device: torch.device) -> tuple[Policy, Policy]:
    """Policy and reference of a configuration at full size with random weights; adapters share their base."""
    dtype, section = torch_precision(config.policy.dtype, device), config.policy
    if section.kind == "showo":
        return _showo(config, dtype, device), _showo(config, dtype, device)

    def janus() -> JanusPolicy:
        policy = random_policy(
            janus_weights.published_config(section.size), dtype=dtype, device=device, lora=section.lora,
            guidance=5.0 if section.guidance is None else section.guidance, answer_tokens=section.answer_tokens,
        )  # fmt: skip
        policy.precision = torch_precision(config.precision, device)
        return policy

    policy = janus()
    return policy, policy.reference() if section.lora is not None else janus()


def _showo(config: TrainConfig, dtype: torch.dtype, device: torch.device) -> ShowoPolicy:
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokenizer = Tokenizer(models.BPE({token: i for i, token in enumerate((END, *alphabet))}, []))
    tokenizer.pre_tokenizer, tokenizer.decoder = pre_tokenizers.ByteLevel(add_prefix_space=False), decoders.ByteLevel()
    tokenizer.add_special_tokens([END])
    with tempfile.TemporaryDirectory() as folder:
        tokenizer.save(f"{folder}/tokenizer.json")
        words = PhiText(Path(folder) / "tokenizer.json")
    with torch.device(device):
        model, pictures = Showo(ShowoConfig(pad_first=True), attention="sdpa").to(dtype), Magvit(MagvitConfig())
    model.precision = torch_precision(config.precision, device)
    sampling = {name: getattr(config.policy, name) for name in ("steps", "guidance", "noise")}
    given: dict[str, Any] = {name: value for name, value in sampling.items() if value is not None}
    policy = ShowoPolicy(model, pictures, words, **given)
    policy.max_answer_tokens = config.policy.answer_tokens
    return policy


def _side(policy: Policy) -> int:
    if isinstance(policy, JanusPolicy):
        return int(policy.model.config.vision_config.image_size)
    return policy.tokenizer.config.image_size if isinstance(policy, ShowoPolicy) else 64


def rows_of(name: str, phases: list[Phase], plan: Plan) -> list[tuple[str, ...]]:
    """Table rows: measured and planned peak of each phase."""
    memory = plan.memory["1 process"]
    start = memory.weights + memory.reference
    # AdamW makes its moments in the first step, so before it only weights and reference are there.
    planned = {
        "load": start,
        "answer": start + memory.sampling,
        "draw": start + memory.sampling,
        "update": max(memory.peak, start + memory.gradients + memory.update),
    }
    return [
        (
            name,
            phase.name,
            f"{phase.seconds:.2f}",
            f"{phase.peak_bytes / _GIB:.2f}" if phase.peak_bytes else "",
            f"{planned[phase.name] / _GIB:.2f}" if phase.name in planned else "",
        )
        for phase in phases
    ]


def configured(name: str) -> TrainConfig:
    """The configuration `name` with random weights and one group."""
    folder = Path(configuration.__file__).parents[1] / "configs"
    changes = ("policy.weights=random", "sampling.prompts=1", *OVERRIDES[name])
    return load_config(folder / f"{name}.yaml", changes)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"of {', '.join(OVERRIDES)}")
    names = parser.parse_args().names or list(OVERRIDES)
    if unknown := set(names) - set(OVERRIDES):
        parser.error(f"no configuration is called {sorted(unknown)}; there are {list(OVERRIDES)}")
    if not torch.cuda.is_available():
        sys.exit("full size needs a graphics card, and torch finds none; `sync-r1 train --check` works without one")
    device = torch.device("cuda")
    columns = ("configuration", "phase", "seconds", "peak GiB", "planned GiB")
    report = Report("full_size_step", "One step at full size, random weights", columns)
    report.notes.append(f"{torch.cuda.get_device_name(device)}, torch {torch.__version__}; one group of each")
    for name in names:
        config = configured(name)
        try:
            phases = one_step(lambda config=config: random_pair(config, device), config, device)  # type: ignore[misc]
            report.rows += rows_of(name, phases, make_plan(config))
        except torch.cuda.OutOfMemoryError as error:
            report.notes.append(f"{name} does not fit on this card: {str(error).splitlines()[0]}")
        torch.cuda.empty_cache()
    report.finish()


if __name__ == "__main__":
    main()
