"""Checkpoints of a run: policy, optimiser, schedule, random states, selector and cursor, written atomically.

A checkpoint is a folder `checkpoints/step-000010/`; it gets that name only when it is complete, and then older ones go.
"""

from __future__ import annotations

import json
import os
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from sync_r1.trainer_client.curriculum import Curriculum
from sync_r1.trainer_client.dgs import Selector
from sync_r1.trainer_client.update import Learner


class CheckpointError(RuntimeError):
    """A checkpoint cannot be read; the message says which file and why."""


@dataclass
class RunState:
    """Everything of a run that changes from step to step."""

    step: int
    """Updates done."""
    learner: Learner
    selector: Selector
    curriculum: Curriculum
    generator: torch.Generator
    """Draws tokens."""
    rng: np.random.Generator
    """Draws tasks, decoding steps and the control's permutations."""


def save_checkpoint(folder: Path, state: RunState) -> Path:
    """Write `folder/step-XXXXXX` and remove older ones. A crash on the way leaves the previous checkpoint untouched."""
    target = folder / f"step-{state.step:06d}"
    partial = folder / f".{target.name}.partial"
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    state.learner.policy.save(partial / "policy")
    torch.save(
        {
            "optimiser": state.learner.optimiser.state_dict(),
            "scheduler": state.learner.scheduler.state_dict(),
            "generator": state.generator.get_state(),
        },
        partial / "trainer.pt",
    )
    cursor: dict[str, Any] = {
        "step": state.step,
        "selector": state.selector.state_dict(),
        "curriculum": state.curriculum.state_dict(),
        "rng": state.rng.bit_generator.state,
    }
    (partial / "state.json").write_text(json.dumps(cursor))
    shutil.rmtree(target, ignore_errors=True)
    os.replace(partial, target)
    for old in folder.glob("step-*"):
        if old != target:
            shutil.rmtree(old)
    return target


def latest_checkpoint(folder: Path) -> Path | None:
    """The newest complete checkpoint in `folder`, or None."""
    return max(folder.glob("step-*"), default=None)


def load_checkpoint(checkpoint: Path, state: RunState) -> None:
    """Restore everything but the policy's weights, which the caller loads from `checkpoint/"policy"` before making
    `state`.

    Raises CheckpointError.
    """
    try:
        cursor = json.loads((checkpoint / "state.json").read_text())
        tensors = torch.load(checkpoint / "trainer.pt", weights_only=True)
        state.learner.optimiser.load_state_dict(tensors["optimiser"])
        state.learner.scheduler.load_state_dict(tensors["scheduler"])
        state.generator.set_state(tensors["generator"])
        state.rng.bit_generator.state = cursor["rng"]
        state.selector.load_state_dict(cursor["selector"])
        state.curriculum.load_state_dict(cursor["curriculum"])
        state.step = int(cursor["step"])
    except (OSError, KeyError, ValueError, RuntimeError) as error:
        raise CheckpointError(
            f"{checkpoint} cannot be resumed from: {error!r}; was it written by this version?"
        ) from error
