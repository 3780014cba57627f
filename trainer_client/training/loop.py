"""The main job, read from top to bottom: rollouts, live scores, Sync-GRPO, and an honest measurement before and after.

    evaluate ─▶ ┌ draw tasks ─▶ answers, previews ─▶ gate ─▶ finished pictures ─▶ the rewards ─▶ credit ─▶ update ┐ ─▶
    evaluate
                └──────────────────────────────── `steps` times, or until the time is up ────────────────────────┘

A run is a folder: `config.json`, `metrics.jsonl` (one line per step), `journal.jsonl` (every score, before it is used),
`calibration.json`, `evaluation/{start,end}.json` with pictures, `checkpoints/`, `policy/` and `report.html`. It may be
killed at any point and ends in the same weights when it is resumed (`score_log.py`, `checkpoint.py`). `run.py` says
what a run is made of, `jobs/train.py` puts the real parts together; tests pass small ones.
"""

from __future__ import annotations

import logging
import time

import numpy as np

from sync_r1.trainer_client.config import TrainConfig
from sync_r1.trainer_client.evaluation.held_out import Evaluation
from sync_r1.trainer_client.rollouts.outage import patient, why_unscored
from sync_r1.trainer_client.rollouts.phase_timer import Phases
from sync_r1.trainer_client.sdk.ensemble import EnsembleResult
from sync_r1.trainer_client.tasks.tasks import Task
from sync_r1.trainer_client.training.batch import Batch, gather
from sync_r1.trainer_client.training.checkpoint import RunState, latest_checkpoint, load_checkpoint, save_checkpoint
from sync_r1.trainer_client.training.collector import Collector
from sync_r1.trainer_client.training.credit import step_credit
from sync_r1.trainer_client.training.dump import dump_batch
from sync_r1.trainer_client.training.learner import NonFiniteUpdate
from sync_r1.trainer_client.training.measurer import HeldOutMeasurer
from sync_r1.trainer_client.training.reward_monitor import reward_statistics
from sync_r1.trainer_client.training.run import Run, TrainingError
from sync_r1.trainer_client.training.run_log import RunLog
from sync_r1.trainer_client.training.step_metrics import of_ranks, peak_memory_mb, step_record, waiting_record
from sync_r1.trainer_client.training.sync_grpo import Credit

_RESERVE_S = 15.0
"""Kept free at the end of the budget for the report and the services' drain."""
_MAX_EMPTY_BATCHES = 3

log = logging.getLogger(__name__)


async def train(run: Run) -> tuple[Evaluation | None, Evaluation]:
    """Train the run's policy and leave everything in its folder; continues from the newest checkpoint there.

    With several ranks all of them call this. Returns (start, end); start is None when a resumed run measured it before.
    Raises TrainingError, and what the scorers raise.
    """
    config, state, checkpoints = run.config, run.new_state(), run.out / "checkpoints"
    if (checkpoint := latest_checkpoint(checkpoints)) is not None:
        load_checkpoint(checkpoint, state)
    saved_step = state.step if checkpoint else -1
    run_log = RunLog(run, state)
    scorers = patient(run.scorers, config.outage_budget_s, run_log.say_in_step)
    collector = Collector(run, state, scorers)
    measurer = HeldOutMeasurer(run, state.learner, scorers, run_log)
    start = await measurer.before()
    empty_batches, longest_step_s, first_step = 0, 0.0, state.step
    while state.step < config.steps:
        if _budget_is_used(run, measurer.needed_s, longest_step_s):
            run_log.say(f"stopped after {state.step} steps: the budget of {config.budget_s:g} s is used")
            break
        step_s, phases, plan = time.monotonic(), Phases(), config.at(state.step)
        tasks = _draw_tasks(config, state)
        with state.learner.shards.whole():
            batch = await collector.collect(tasks, phases)
        # From here to the update every process computes the same, from everybody's scores.
        gathered = gather(batch, state)
        shares, metrics = step_credit(config, state, tasks, gathered, scorers.judges)
        if shares.loss_mask_N.any():
            empty_batches = 0
            with phases("update"):
                metrics |= _update(run, state, batch, shares.rows(gathered.own))
        elif not _has_scores(gathered.scores):
            empty_batches += 1
            _check_empty(empty_batches, state, gathered.scores)
        state.step += 1
        record = {"learn": plan.learn} | step_record(state.step, tasks, gathered, shares.loss_mask_N) | metrics
        waited = waiting_record(phases, batch, time.monotonic() - step_s, scorers.all)
        record |= of_ranks(run.ranks.gather(waited)) | {"elapsed_s": time.monotonic() - run.started_s}
        run_log.step(record, reward_statistics(batch, gathered, run.ranks))
        if state.step % config.checkpoint_every == 0:
            save_checkpoint(checkpoints, state, kept=config.checkpoints_kept)
            saved_step = state.step
        longest_step_s = max(longest_step_s, time.monotonic() - step_s - record["outage_s"])
        if config.evaluation.every and state.step % config.evaluation.every == 0 and state.step < config.steps:
            await measurer.measure(f"step-{state.step:06d}")
    if empty_batches and empty_batches == state.step - first_step:
        raise TrainingError(f"no batch came back with a score, so nothing was learnt: {why_unscored(gathered.scores)}")
    if saved_step != state.step:
        save_checkpoint(checkpoints, state, kept=config.checkpoints_kept)
    memory_mb = max(run.ranks.gather(peak_memory_mb()))
    run_log.say(f"{state.step} steps made; the trainer took {memory_mb:.0f} MiB at most")
    with state.learner.shards.undivided():
        if run.ranks.main:
            run.policy.save(run.out / "policy")
    return start, await measurer.measure("end")


def _budget_is_used(run: Run, measurement_s: float, step_s: float) -> bool:
    """Whether another step would leave too little time for the last measurement. The first process decides."""
    left_s = run.started_s + run.config.budget_s - _RESERVE_S - time.monotonic() - measurement_s
    return run.ranks.broadcast(left_s < step_s)


def _draw_tasks(config: TrainConfig, state: RunState) -> list[Task]:
    """The tasks of the next step's groups, the same in all processes."""
    plan = config.at(state.step)
    count = state.selector.groups(plan.prompts)
    of = "pictures/" if plan.learn == "pictures" else ""
    return state.curriculum.draw(count, state.rng, recall_share=plan.recall_share, of=of)


def _update(run: Run, state: RunState, batch: Batch, shares: Credit) -> dict[str, float]:
    """Learn from this process's `batch` with the others; returns the update's metrics.

    Raises TrainingError where it is not finite; the batch is then kept under `failed/`.
    """
    try:
        return state.learner.update(batch.selected.trajectories, shares, batch.steps, batch.recorded)
    except NonFiniteUpdate as error:
        name = f"step-{state.step + 1:06d}" + ("" if run.ranks.main else f"-{run.ranks.rank}")
        folder = dump_batch(run.out / "failed" / name, batch, shares, str(error))
        raise TrainingError(
            f"step {state.step + 1}: {error}; the weights were not touched and the batch is in {folder}; look "
            "there for what is not a number before resuming, because --resume repeats this step exactly"
        ) from error


def _has_scores(scores: EnsembleResult) -> bool:
    return any(np.isfinite(part_N).any() for part_N in scores.contributions.values())


def _check_empty(empty_batches: int, state: RunState, scores: EnsembleResult) -> None:
    """Warn of a batch without any score. Raises TrainingError when too many in a row are like that."""
    reasons = why_unscored(scores)
    log.warning("step %d: no trajectory has a score, so nothing is learnt: %s", state.step, reasons)
    if empty_batches == _MAX_EMPTY_BATCHES:
        raise TrainingError(f"{empty_batches} batches in a row came back without a single score: {reasons}")
