"""The main job, read from top to bottom: rollouts, live scores, Sync-GRPO, and an honest measurement before and after.

    evaluate ─▶ ┌ draw tasks ─▶ answers, previews ─▶ gate ─▶ finished pictures ─▶ four rewards ─▶ credit ─▶ update ┐ ─▶
    evaluate
                └──────────────────────────────── `steps` times, or until the time is up ────────────────────────┘

A run is a folder: `config.json`, `metrics.jsonl` (one line per step), `journal.jsonl` (every score, before it is used),
`calibration.json`, `evaluation/{start,end}.json` with pictures, `checkpoints/`, `policy/` and `report.html`. It may be
killed at any point and ends in the same weights when it is resumed (`journal.py`, `checkpoint.py`). `jobs/train.py`
puts the real parts together; tests pass small ones.
"""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from sync_r1.trainer_client.config import ANSWER_REWARD, IMAGE_REWARDS, TrainConfig
from sync_r1.trainer_client.durable_files import append_line, write_text
from sync_r1.trainer_client.evaluation.held_out import Evaluation, Judge, evaluate
from sync_r1.trainer_client.monitoring.alarms import Alarm
from sync_r1.trainer_client.policies.base import Policy
from sync_r1.trainer_client.rollouts.answer_tree import nodes_of, part_rewards
from sync_r1.trainer_client.rollouts.dgs import make_selector
from sync_r1.trainer_client.rollouts.outage import PatientScorer, why_unscored
from sync_r1.trainer_client.rollouts.phase_timer import Phases
from sync_r1.trainer_client.rollouts.sampler import Sampler
from sync_r1.trainer_client.rollouts.scorer import Scorer
from sync_r1.trainer_client.rollouts.selectors import Selected
from sync_r1.trainer_client.sdk.combination import Floats
from sync_r1.trainer_client.sdk.ensemble import EnsembleResult
from sync_r1.trainer_client.sdk.reward_use import reward_of
from sync_r1.trainer_client.tasks.curriculum import Curriculum
from sync_r1.trainer_client.tasks.tasks import Task
from sync_r1.trainer_client.tasks.unifybench import UnifyBench
from sync_r1.trainer_client.training.batch import Scorers, collect, gather
from sync_r1.trainer_client.training.checkpoint import RunState, latest_checkpoint, load_checkpoint, save_checkpoint
from sync_r1.trainer_client.training.distributed import ALONE, Ranks
from sync_r1.trainer_client.training.dump import dump_batch
from sync_r1.trainer_client.training.journal import Journal
from sync_r1.trainer_client.training.learner import Learner, NonFiniteUpdate
from sync_r1.trainer_client.training.reward_watch import Watch, batch_figures
from sync_r1.trainer_client.training.step_metrics import (
    forget_after,
    of_ranks,
    peak_memory_mb,
    step_record,
    waiting_record,
)
from sync_r1.trainer_client.training.sync_grpo import (
    Credit,
    best_of_n,
    credit,
    permute_within_groups,
    permuted,
    scaled_by_rms,
    tree_credit,
)

Progress = Callable[[str, int, int], None]
"""Called with (what happened, steps done, steps in all)."""
_RESERVE_S = 15.0
"""Kept free at the end of the budget for the report and the services' drain."""
_MAX_EMPTY_BATCHES = 3
_SEEDS_APART = 1_000_003
"""Between the seeds of two processes' tokens: far more than the seeds that anybody tries."""

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
    answer_scorer: Scorer | None = None,
    picture_scorer: Scorer | None = None,
    judge: Judge | None,
    progress: Progress = lambda message, done, total: None,
    started_s: float | None = None,
    ranks: Ranks = ALONE,
) -> tuple[Evaluation | None, Evaluation]:
    """Train `policy` and leave everything in `out`; continues from the newest checkpoint there, whose weights `policy`
    must have.

    `answer_scorer` and `picture_scorer` have the rewards of answers and of pictures alone: groups that are trees and
    the measurement of pictures of the right sentence need them. `started_s` (on `time.monotonic()`'s clock) is when the
    job began, for the budget. With several `ranks` all of them call this and the first one writes. Returns (start,
    end); start is None when a resumed run measured it before. Raises TrainingError, and what the scorers raise.
    """
    started_s = time.monotonic() if started_s is None else started_s
    state = _new_state(config, policy, reference, bench, ranks)
    learner, checkpoints, metrics = state.learner, out / "checkpoints", out / "metrics.jsonl"
    if (checkpoint := latest_checkpoint(checkpoints)) is not None:
        load_checkpoint(checkpoint, state)
    if ranks.main:
        forget_after(metrics, state.step)
    saved_step = state.step if checkpoint else -1
    watch = Watch(out, {name: reward.weight for name, reward in config.rewards.items()}) if ranks.main else None
    journal = Journal(out / ("journal.jsonl" if ranks.main else f"journal-{ranks.rank}.jsonl"))
    sampling = config.sampling
    sampler = Sampler(
        policy, temperature=sampling.temperature, batch=sampling.rollout_rows_max, generator=state.generator
    )

    def say(message: str) -> None:
        progress(f"step {state.step + 1}: {message}", state.step, config.steps)

    def patient(one: Scorer) -> PatientScorer:
        return PatientScorer(one, config.outage_budget_s, say)

    scorers = Scorers(
        patient(scorer),
        patient(gate_scorer),
        patient(answer_scorer) if answer_scorer is not None else None,
        patient(picture_scorer) if picture_scorer is not None else None,
    )

    def warn(when: str, found: list[Alarm]) -> None:
        for alarm in found:
            progress(f"{when}: {alarm.level} ({alarm.kind}): {alarm.message}", state.step, config.steps)

    async def measure(name: str) -> Evaluation:
        own: list[Evaluation] = []
        with learner.shards.whole():
            if ranks.main:
                evaluation = await evaluate(
                    policy,
                    bench,
                    scorers.total,
                    judge,
                    config.evaluation,
                    picture_ensemble=scorers.pictures,
                    temperature=config.sampling.temperature,
                    batch=config.sampling.rollout_rows_max,
                    timeout_s=config.score_timeout_s,
                )
                own.append(evaluation)
            (evaluation,) = ranks.agree(own)
        if watch is not None:
            write_evaluation(out / "evaluation", name, evaluation)
            progress(f"{name}: {_headline(evaluation.means)}", state.step, config.steps)
            warn(name, watch.measured(evaluation.values))
        return evaluation

    measuring_s = time.monotonic()
    measured = ranks.agree((out / "evaluation" / "start.json").exists())
    start = None if measured else await measure("start")
    evaluation_s = time.monotonic() - measuring_s if start else config.budget_s * 0.1

    empty_batches, longest_step_s, first_step, reasons = 0, 0.0, state.step, ""
    while state.step < config.steps:
        left_s = started_s + config.budget_s - _RESERVE_S - time.monotonic() - evaluation_s
        if ranks.agree(left_s < longest_step_s):
            progress(
                f"stopped after {state.step} steps: the budget of {config.budget_s:g} s is used",
                state.step,
                config.steps,
            )
            break
        step_s, phases = time.monotonic(), Phases()
        scorers.reset()
        plan = config.at(state.step)
        of = "pictures/" if plan.learn == "pictures" else ""
        count = state.selector.groups(plan.prompts)
        tasks = state.curriculum.draw(count, state.rng, recall_share=plan.recall_share, of=of)
        with learner.shards.whole():
            batch = await collect(config, state, sampler, tasks, journal=journal, scorers=scorers, phases=phases)
        # From here to the update every process computes the same, from everybody's scores.
        whole = gather(batch, state)
        selected, scores = whole.selected, whole.scores
        groups_N = np.array([trajectory.group for trajectory in selected.trajectories])
        shares, gate_figures = step_credit(config, state, tasks, selected, scores)
        learned_N = (shares.answer_weights_N > 0) | (shares.image_weights_N > 0)
        own = shares.rows(whole.own)
        figures: dict[str, float] = {}
        if learned_N.any():
            empty_batches = 0
            try:
                with phases("update"):
                    figures = learner.update(batch.selected.trajectories, own, batch.steps, batch.recorded)
            except NonFiniteUpdate as error:
                name = f"step-{state.step + 1:06d}" + ("" if ranks.main else f"-{ranks.rank}")
                folder = dump_batch(out / "failed" / name, batch, own, str(error))
                raise TrainingError(
                    f"step {state.step + 1}: {error}; the weights were not touched and the batch is in {folder}; look "
                    "there for what is not a number before resuming, because --resume repeats this step exactly"
                ) from error
        elif not any(np.isfinite(part_N).any() for part_N in scores.contributions.values()):
            empty_batches += 1
            reasons = why_unscored(scores)
            log.warning("step %d: no trajectory has a score, so nothing is learnt: %s", state.step, reasons)
            if empty_batches == _MAX_EMPTY_BATCHES:
                raise TrainingError(
                    f"{empty_batches} batches in a row came back without a single score: {reasons}"
                )
        state.step += 1
        record = {"learn": plan.learn} | step_record(state.step, tasks, selected, scores, learned_N, groups_N)
        record |= gate_figures | figures
        waited = waiting_record(phases, batch, time.monotonic() - step_s, scorers.all)
        record |= of_ranks(ranks.gather(waited)) | {"elapsed_s": time.monotonic() - started_s}
        hygiene = batch_figures(batch, whole, ranks)
        new_alarms: list[Alarm] = []
        if watch is not None:
            record["hygiene"], new_alarms = watch.step(hygiene)
            append_line(metrics, json.dumps(record))
        progress(f"step {state.step}: {_headline(record['rewards'])}", state.step, config.steps)
        warn(f"step {state.step}", new_alarms)
        if state.step % config.checkpoint_every == 0:
            save_checkpoint(checkpoints, state, kept=config.checkpoints_kept)
            saved_step = state.step
        longest_step_s = max(longest_step_s, time.monotonic() - step_s - record["outage_s"])
        if config.evaluation.every and state.step % config.evaluation.every == 0 and state.step < config.steps:
            await measure(f"step-{state.step:06d}")
    if empty_batches and empty_batches == state.step - first_step:
        raise TrainingError(
            f"none of the {empty_batches} batches came back with a score, so nothing was learnt: {reasons}"
        )
    if saved_step != state.step:
        save_checkpoint(checkpoints, state, kept=config.checkpoints_kept)
    memory_mb = max(ranks.gather(peak_memory_mb()))
    progress(f"{state.step} steps made; the trainer took {memory_mb:.0f} MiB at most", state.step, config.steps)
    with learner.shards.undivided():
        if ranks.main:
            policy.save(out / "policy")
    return start, await measure("end")


def step_credit(
    config: TrainConfig, state: RunState, tasks: Sequence[Task], selected: Selected, scores: EnsembleResult
) -> tuple[Credit, dict[str, float]]:
    """Credit of a step's rows, and the selector's figures; selector and curriculum learn from the scores."""
    groups_N = np.array([trajectory.group for trajectory in selected.trajectories], np.int64)
    images = [name for name in scores.contributions if reward_of(name) in IMAGE_REWARDS]
    plan, objective = config.at(state.step), config.objective
    if plan.tree:
        answers = [name for name in scores.contributions if name not in images]
        answers_N, images_N = part_rewards(scores, answers), part_rewards(scores, images)
        shares = _tree_credit(config, state, tasks, selected, answers_N, images_N)
        return scaled_by_rms(shares) if objective.image_scale == "batch_rms" else shares, {}
    total_N, image_N = scores.total_N, scores.part_N(images)
    learned_N = scores.valid_N & state.selector.choose(groups_N, total_N, scores.valid_N)
    state.curriculum.observe(tasks, groups_N, total_N, scores.valid_N)
    figures = state.selector.observe(selected, total_N, image_N, scores.valid_N)
    if objective.permute_rewards_within_group:
        order_N = permute_within_groups(groups_N, learned_N, state.rng)
        total_N, image_N = total_N[order_N], image_N[order_N]
    shares = (
        best_of_n(total_N, groups_N, learned_N)
        if objective.kind == "best_of_n"
        else credit(
            total_N,
            image_N,
            groups_N,
            learned_N,
            rule=objective.credit,
            baseline="leave_one_out" if config.selector.group == "dynamic" else objective.baseline,
            scale=objective.scale,
        )
    )
    return scaled_by_rms(shares) if objective.image_scale == "batch_rms" else shares, figures


def _tree_credit(
    config: TrainConfig,
    state: RunState,
    tasks: Sequence[Task],
    selected: Selected,
    answers_N: Floats,
    images_N: Floats,
) -> Credit:
    plan, objective = config.at(state.step), config.objective
    groups_N = np.array([trajectory.group for trajectory in selected.trajectories], np.int64)
    nodes_N = nodes_of(selected.trajectories)
    if plan.learn == "pictures":
        # One sentence per prompt: what differs within a group differs among the pictures of a sentence.
        state.curriculum.observe(tasks, groups_N, images_N, np.isfinite(images_N), of="pictures/")
    else:
        state.curriculum.observe(tasks, groups_N, answers_N, np.isfinite(answers_N))
    shares = tree_credit(
        answers_N,
        images_N,
        groups_N,
        nodes_N,
        pictured_share=plan.pictured / plan.answers,
        baseline=objective.baseline,
        scale=objective.scale,
    )
    return permuted(shares, groups_N, nodes_N, state.rng) if objective.permute_rewards_within_group else shares


def _new_state(config: TrainConfig, policy: Policy, reference: Policy, bench: UnifyBench, ranks: Ranks) -> RunState:
    # Each process draws its own tokens; what all of them draw alike (tasks, decoding steps) comes from `rng`.
    own = [ranks.rank] if ranks.rank else []
    return RunState(
        step=0,
        learner=Learner(
            policy,
            reference,
            config.objective,
            config.optimiser,
            total_steps=config.updates_of("answers") if config.optimiser.image else config.steps,
            image_steps=config.updates_of("pictures"),
            ranks=ranks,
            divide=config.parallel == "fsdp2",
        ),
        selector=make_selector(
            config.selector, config.sampling.group_size, np.random.default_rng([config.seed, 1, *own])
        ),
        curriculum=Curriculum(
            bench, recall_share=config.sampling.recall_share, learnability=config.sampling.learnability
        ),
        generator=torch.Generator().manual_seed(config.seed + _SEEDS_APART * ranks.rank),
        rng=np.random.default_rng([config.seed, 0]),
    )


def _headline(means: dict[str, Any]) -> str:
    wanted = ("total", *IMAGE_REWARDS, ANSWER_REWARD, "oracle_success", "answer_accuracy")
    known = {name: mean for name, mean in means.items() if mean is not None}
    return "  ".join(f"{name} {mean:.3f}" for name, mean in known.items() if reward_of(name) in wanted)


def write_evaluation(folder: Path, name: str, evaluation: Evaluation) -> None:
    """`folder/NAME.json` and its pictures as `folder/NAME-00.png`, …"""
    folder.mkdir(parents=True, exist_ok=True)
    for index, shown in enumerate(evaluation.shown):
        Image.fromarray(shown.pixels).save(folder / f"{name}-{index:02d}.png")
    write_text(folder / f"{name}.json", json.dumps(evaluation.to_json(), indent=1) + "\n")
