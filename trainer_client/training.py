"""The main job, read from top to bottom: rollouts, live scores, Sync-GRPO, and an honest measurement before and after.

    evaluate ─▶ ┌ draw tasks ─▶ answers, previews ─▶ gate ─▶ finished pictures ─▶ four rewards ─▶ credit ─▶ update ┐ ─▶
    evaluate
                └──────────────────────────────── `steps` times, or until the time is up ────────────────────────┘

A run is a folder: `config.json`, `metrics.jsonl` (one line per step), `evaluation/{start,end}.json` with pictures,
`checkpoints/`, `policy/` and `report.html`. `runs.py` puts the real parts together; tests pass small ones.
"""

from __future__ import annotations

import asyncio
import json
import logging
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from sync_r1.reward_models.types import Sample
from sync_r1.trainer_client.checkpoint import RunState, latest_checkpoint, load_checkpoint, save_checkpoint
from sync_r1.trainer_client.config import IMAGE_REWARDS, TrainConfig
from sync_r1.trainer_client.curriculum import Curriculum
from sync_r1.trainer_client.dgs import DynamicGroupScaling, Floats, NoSelection, Selected, Selector
from sync_r1.trainer_client.ensemble import EnsembleResult
from sync_r1.trainer_client.evaluation import Evaluation, Judge, Scorer, evaluate
from sync_r1.trainer_client.policies.base import Policy
from sync_r1.trainer_client.reasoning import Task, sample
from sync_r1.trainer_client.rollout import Sampler
from sync_r1.trainer_client.sync_grpo import credit, permute_within_groups
from sync_r1.trainer_client.unifybench import UnifyBench
from sync_r1.trainer_client.update import Learner

Progress = Callable[[str, int, int], None]
"""Called with (what happened, steps done, steps in all)."""
_RESERVE_S = 15.0
"""Kept free at the end of the budget for the report and the services' drain."""
_MAX_EMPTY_BATCHES = 3

log = logging.getLogger(__name__)


class TrainingError(RuntimeError):
    """The run cannot go on; the message says why and what to do."""


async def train(
    config: TrainConfig,
    out: Path,
    *,
    policy: Policy,
    reference: Policy,
    bench: UnifyBench,
    scorer: Scorer,
    gate_scorer: Scorer,
    judge: Judge | None,
    progress: Progress = lambda message, done, total: None,
    started_s: float | None = None,
) -> tuple[Evaluation | None, Evaluation]:
    """Train `policy` and leave everything in `out`; continues from the newest checkpoint there, whose weights `policy`
    must have.

    `started_s` (on `time.monotonic()`'s clock) is when the job began, for the budget. Returns (start, end); start is
    None when a resumed run measured it before. Raises TrainingError, and what the scorers raise.
    """
    started_s = time.monotonic() if started_s is None else started_s
    state = _new_state(config, policy, reference, bench)
    checkpoints = out / "checkpoints"
    if (checkpoint := latest_checkpoint(checkpoints)) is not None:
        load_checkpoint(checkpoint, state)
        _forget_after(out / "metrics.jsonl", state.step)
    sampler = Sampler(
        policy, temperature=config.sampling.temperature, batch=config.sampling.batch, generator=state.generator
    )

    async def measure(name: str) -> Evaluation:
        evaluation = await evaluate(
            policy,
            bench,
            scorer,
            judge,
            config.evaluation,
            temperature=config.sampling.temperature,
            batch=config.sampling.batch,
            timeout_s=config.score_timeout_s,
        )
        write_evaluation(out / "evaluation", name, evaluation)
        progress(f"{name}: {_headline(evaluation.means)}", state.step, config.steps)
        return evaluation

    measuring_s = time.monotonic()
    start = None if (out / "evaluation" / "start.json").exists() else await measure("start")
    evaluation_s = time.monotonic() - measuring_s if start else config.budget_s * 0.1

    async def gate(samples: Sequence[Sample]) -> Floats:
        return (await gate_scorer.score(samples, timeout_s=config.score_timeout_s)).total_N

    empty_batches, longest_step_s = 0, 0.0
    while state.step < config.steps:
        left_s = started_s + config.budget_s - _RESERVE_S - time.monotonic() - evaluation_s
        if left_s < longest_step_s:
            progress(
                f"stopped after {state.step} steps: the budget of {config.budget_s:g} s is used",
                state.step,
                config.steps,
            )
            break
        step_s = time.monotonic()
        phases = Phases()
        tasks = state.curriculum.draw(config.sampling.prompts, state.rng)
        with phases("sample"):
            selected = await state.selector.rollout(sampler, tasks, gate)
            pictures = sampler.pictures(selected.trajectories)
        phases.move("sample", "gate", selected.cost.gate_s)
        samples = [
            sample(
                tasks[trajectory.group],
                identifier=f"{state.step}-{index}",
                group=f"{state.step}-{trajectory.group}",
                pixels=pixels,
                answer=trajectory.text,
            )
            for index, (trajectory, pixels) in enumerate(zip(selected.trajectories, pictures))
        ]
        # The reference does not depend on rewards, so its forward passes fill the time in which the services work.
        scoring = asyncio.create_task(scorer.score(samples, timeout_s=config.score_timeout_s))
        steps = state.learner.draw_steps(state.rng)
        with phases("reference"):
            recorded = await asyncio.to_thread(state.learner.reference_log_probs, selected.trajectories, steps)
        with phases("score_wait"):
            scores = await scoring
        groups_N = np.array([trajectory.group for trajectory in selected.trajectories])
        total_N, image_N = (
            scores.total_N,
            scores.part_N([name for name in IMAGE_REWARDS if name in scores.contributions]),
        )
        learned_N = scores.valid_N & state.selector.choose(groups_N, total_N, scores.valid_N)
        state.curriculum.observe(tasks, groups_N, total_N, learned_N)
        gate_figures = state.selector.observe(selected, total_N, scores.valid_N)
        if config.objective.permute_rewards_within_group:
            order_N = permute_within_groups(groups_N, learned_N, state.rng)
            total_N, image_N = total_N[order_N], image_N[order_N]
        shares = credit(
            total_N,
            image_N,
            groups_N,
            learned_N,
            rule=config.objective.credit,
            baseline="leave_one_out" if config.selector.group == "dynamic" else config.objective.baseline,
            scale=config.objective.scale,
        )
        figures: dict[str, float] = {}
        if learned_N.any():
            empty_batches = 0
            with phases("update"):
                figures = state.learner.update(selected.trajectories, shares, steps, recorded)
        else:
            empty_batches += 1
            log.warning("step %d: no trajectory has a score, so nothing is learnt: %s", state.step, _reasons(scores))
            if empty_batches == _MAX_EMPTY_BATCHES:
                raise TrainingError(
                    f"{empty_batches} batches in a row came back without a single score: {_reasons(scores)}"
                )
        state.step += 1
        record = step_record(state.step, tasks, selected, scores, learned_N, groups_N) | gate_figures | figures
        record |= {"phases_s": phases.seconds, "elapsed_s": time.monotonic() - started_s}
        with (out / "metrics.jsonl").open("a") as file:
            file.write(json.dumps(record) + "\n")
        progress(f"step {state.step}: {_headline(record['rewards'])}", state.step, config.steps)
        if state.step % config.checkpoint_every == 0:
            save_checkpoint(checkpoints, state)
        longest_step_s = max(longest_step_s, time.monotonic() - step_s)
    save_checkpoint(checkpoints, state)
    policy.save(out / "policy")
    return start, await measure("end")


def _new_state(config: TrainConfig, policy: Policy, reference: Policy, bench: UnifyBench) -> RunState:
    selection_rng = np.random.default_rng([config.seed, 1])
    selector: Selector = (
        DynamicGroupScaling(config.selector, config.sampling.group_size, selection_rng)
        if config.selector.kind == "dgs"
        else NoSelection(config.sampling.group_size)
    )
    return RunState(
        step=0,
        learner=Learner(policy, reference, config.objective, config.optimiser, total_steps=config.steps),
        selector=selector,
        curriculum=Curriculum(bench, share_of_r=config.sampling.share_of_r, learnability=config.sampling.learnability),
        generator=torch.Generator().manual_seed(config.seed),
        rng=np.random.default_rng([config.seed, 0]),
    )


class Phases:
    """Seconds spent per phase of one step."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}

    @contextmanager
    def __call__(self, name: str) -> Iterator[None]:
        started_s = time.monotonic()
        yield
        self.seconds[name] = self.seconds.get(name, 0.0) + time.monotonic() - started_s

    def move(self, source: str, target: str, seconds: float) -> None:
        """Book part of one phase's time under another's name."""
        self.seconds[source] -= seconds
        self.seconds[target] = self.seconds.get(target, 0.0) + seconds


def step_record(
    step: int, tasks: Sequence[Task], selected: Selected, scores: EnsembleResult, learned_N: Any, groups_N: Any
) -> dict[str, Any]:
    """What `metrics.jsonl` keeps of one batch: means over scored items, never over failures taken as 0."""
    spread = [scores.total_N[(groups_N == group) & learned_N].std() for group in np.unique(groups_N[learned_N])]
    lengths = [int(trajectory.answer.mask_N_L.sum()) for trajectory in selected.trajectories]
    return {
        "step": step,
        "rewards": {"total": _mean(scores.total_N)}
        | {name: _mean(reward.scores_N) for name, reward in scores.rewards.items()},
        "components": {
            f"{name}/{component}": _mean(values_N)
            for name, reward in scores.rewards.items()
            for component, values_N in reward.components.items()
        },
        "by_task": {
            kind: _mean(scores.total_N[[tasks[group].kind == kind for group in groups_N]])
            for kind in sorted({task.kind for task in tasks})
        },
        "group_std": float(np.mean(spread)) if spread else None,
        "trajectories": len(selected.trajectories),
        "learned": int(learned_N.sum()),
        "failures": {name: int(reward.failed_N.sum()) for name, reward in scores.rewards.items()},
        "answer_tokens": float(np.mean(lengths)),
        "selection": asdict(selected.cost)
        | {"theta": float(np.mean(list(selected.thresholds.values()))) if selected.thresholds else None},
        "service_s": {name: reward.elapsed_s for name, reward in scores.rewards.items()},
    }


def _mean(values_N: Floats) -> float | None:
    known = values_N[~np.isnan(values_N)]
    return float(known.mean()) if len(known) else None


def _headline(means: dict[str, Any]) -> str:
    wanted = ("total", *IMAGE_REWARDS, "understanding-correctness", "oracle_success", "answer_accuracy")
    return "  ".join(f"{name} {means[name]:.3f}" for name in wanted if means.get(name) is not None)


def _reasons(scores: EnsembleResult) -> str:
    reasons = []
    for name, reward in scores.rewards.items():
        if reward.error is not None:
            reasons.append(f"{name}: {reward.error}")
        elif reward.failures:
            reasons.append(
                f"{name}: {len(reward.failures)} failures, e.g. {next(iter(reward.failures.values())).message}"
            )
    return "; ".join(reasons) or "every reward was not applicable"


def write_evaluation(folder: Path, name: str, evaluation: Evaluation) -> None:
    """`folder/NAME.json` and its pictures as `folder/NAME-00.png`, …"""
    folder.mkdir(parents=True, exist_ok=True)
    for index, shown in enumerate(evaluation.shown):
        Image.fromarray(shown.pixels).save(folder / f"{name}-{index:02d}.png")
    (folder / f"{name}.json").write_text(json.dumps(evaluation.to_json(), indent=1) + "\n")


def _forget_after(metrics: Path, step: int) -> None:
    """Drop lines of steps that the checkpoint does not know, so that a resumed run writes each step once."""
    if metrics.exists():
        kept = [line for line in metrics.read_text().splitlines() if json.loads(line)["step"] <= step]
        metrics.write_text("".join(f"{line}\n" for line in kept))
