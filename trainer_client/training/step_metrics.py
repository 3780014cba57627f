"""What `metrics.jsonl` says about a step: one JSON object per line, the source of the report's charts."""

from __future__ import annotations

import json
import resource
import sys
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch

from sync_r1.trainer_client.atomic_write import cut_torn_line, write_text
from sync_r1.trainer_client.rollouts.answer_tree import first_rows, nodes_of
from sync_r1.trainer_client.rollouts.outage import PatientScorer
from sync_r1.trainer_client.rollouts.phase_timer import Phases
from sync_r1.trainer_client.sdk.combination import Bools, Floats
from sync_r1.trainer_client.tasks.tasks import Task
from sync_r1.trainer_client.training.batch import Batch, GatheredBatch


def step_record(step: int, tasks: Sequence[Task], gathered: GatheredBatch, loss_mask_N: Bools) -> dict[str, Any]:
    """What is kept of one batch: means over scored items, never over failures taken as 0.

    `loss_mask_N`: rows whose answer or picture is in the loss.
    """
    selected, scores, groups_N = gathered.selected, gathered.scores, gathered.groups_N
    counted_N = loss_mask_N & np.isfinite(scores.total_N)
    spread = [scores.total_N[(groups_N == group) & counted_N].std() for group in np.unique(groups_N[counted_N])]
    first = [selected.trajectories[row] for row in first_rows(nodes_of(selected.trajectories))]
    lengths = [int(one.answer.mask_N_L.sum()) for one in first if one.answer is not None]
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
        "learned": int(loss_mask_N.sum()),
        "failures": {name: int(reward.failed_N.sum()) for name, reward in scores.rewards.items()},
        "answers": len(lengths),
        "pictures": sum(one.state is not None for one in selected.trajectories),
        "answer_tokens": float(np.mean(lengths)) if lengths else None,
        "selection": asdict(selected.cost)
        | {"theta": float(np.mean(list(selected.thresholds.values()))) if selected.thresholds else None},
        "service_s": {name: reward.elapsed_s for name, reward in scores.rewards.items()},
    }


def waiting_record(phases: Phases, batch: Batch, step_s: float, scorers: Sequence[PatientScorer]) -> dict[str, Any]:
    """Where one step's time went, and how much of it the services cost.

    `reward_wait_share`: of the step's time, with nothing to do but wait for scores, the gate's included. `tail_time_s`:
    from the end of sampling until the last score. `inflight_max`: items sent and not scored yet, at most.
    """
    waited_s = phases.seconds["score_wait"] + phases.seconds["gate"]
    return {
        "phases_s": phases.seconds,
        "step_s": step_s,
        "reward_wait_share": waited_s / step_s,
        "tail_time_s": batch.tail_s,
        "inflight_max": max(scorer.inflight_max for scorer in scorers),
        "outage_s": sum(scorer.outage_s for scorer in scorers),
        "peak_memory_mb": peak_memory_mb(),
    }


def of_ranks(waited: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """The `waiting_record`s of all processes as one: the first one's phases, what is in flight together, else the
    largest (the step is as long as that of the slowest).
    """
    largest = {name: max(one[name] for one in waited) for name in waited[0] if name != "phases_s"}
    return largest | {
        "phases_s": waited[0]["phases_s"],
        "inflight_max": sum(one["inflight_max"] for one in waited),
    }


def peak_memory_mb() -> float:
    """The most memory this process has used so far, MiB: of the graphics card if it works on one, else resident."""
    if torch.cuda.is_available() and torch.cuda.is_initialized():
        return torch.cuda.max_memory_allocated() / 2**20
    # Linux counts KiB, macOS bytes.
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (2**20 if sys.platform == "darwin" else 2**10)


def forget_after(metrics: Path, step: int) -> None:
    """Drop lines of steps that the checkpoint does not know, so that a resumed run writes each step once."""
    if metrics.exists():
        cut_torn_line(metrics)
        kept = [line for line in metrics.read_text().splitlines() if json.loads(line)["step"] <= step]
        write_text(metrics, "".join(f"{line}\n" for line in kept))


def _mean(values_N: Floats) -> float | None:
    known = values_N[~np.isnan(values_N)]
    return float(known.mean()) if len(known) else None
