"""Checkpoints of a run: policy, optimiser, schedule, random states, selector and cursor, written atomically.

A checkpoint is a folder `checkpoints/step-000010/`; it gets that name only when it is complete and on the disk. The
last few are kept: its `SHA256SUMS` (the format of `sha256sum -c`) tells whether one is intact, and a damaged one is
passed over for the one before.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError

from sync_r1.reward_models.errors import SyncR1Error
from sync_r1.trainer_client.atomic_write import sync
from sync_r1.trainer_client.policies.base import Policy
from sync_r1.trainer_client.rollouts.selection import Selector
from sync_r1.trainer_client.tasks.curriculum import Curriculum
from sync_r1.trainer_client.training.distributed import full_optimiser_state, load_full_optimiser_state
from sync_r1.trainer_client.training.learner import Learner

_SUMS = "SHA256SUMS"

log = logging.getLogger(__name__)


class CheckpointError(SyncR1Error, RuntimeError):
    """A checkpoint cannot be read, or written; the message says which one and why."""


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


def save_checkpoint(folder: Path, state: RunState, *, kept: int = 1) -> None:
    """Write `folder/step-XXXXXX` and remove all but the newest `kept`. A crash on the way leaves those that are there
    untouched. With several processes all must call it; the first one writes. Raises CheckpointError.
    """
    learner, ranks = state.learner, state.learner.ranks
    # Drawn numbers and the selector's choices differ between processes; the rest of the state is the same in all.
    generators = ranks.gather(state.generator.get_state())
    cursor: dict[str, Any] = {
        "step": state.step,
        "selectors": ranks.gather(state.selector.state_dict()),
        "curriculum": state.curriculum.state_dict(),
        "rng": state.rng.bit_generator.state,
    }
    tensors: dict[str, Any] = {"generators": generators}
    for stepper in learner.steppers:
        tensors[f"{stepper.name}optimiser"] = full_optimiser_state(stepper.optimiser)
        tensors[f"{stepper.name}scheduler"] = stepper.scheduler.state_dict()
    with learner.shards.undivided():
        if ranks.main:
            _write(folder, learner.policy, tensors, cursor, kept)
    ranks.barrier()


def _write(folder: Path, policy: Policy, tensors: dict[str, Any], cursor: dict[str, Any], kept: int) -> None:
    target = folder / f"step-{cursor['step']:06d}"
    partial = folder / f".{target.name}.partial"
    try:
        _fill(partial, policy, tensors, cursor)
    except (OSError, RuntimeError, SafetensorError) as error:
        # torch and safetensors have words of their own for a full disk ("unexpected pos 26112 vs 26004").
        shutil.rmtree(partial, ignore_errors=True)
        free_mb = shutil.disk_usage(folder if folder.exists() else folder.parent).free / 1e6
        raise CheckpointError(
            f"{target} could not be written, where {free_mb:.0f} MB are free: {error}; earlier checkpoints are as they "
            "were: make room, then --resume continues from the last one"
        ) from error
    shutil.rmtree(target, ignore_errors=True)
    os.replace(partial, target)
    sync(folder)
    # Later ones, if any, are damaged: the run was continued from an earlier one.
    keep = sorted(path for path in folder.glob("step-*") if path.name <= target.name)[-kept:]
    for old in folder.glob("step-*"):
        if old not in keep:
            shutil.rmtree(old)


def _fill(partial: Path, policy: Policy, tensors: dict[str, Any], cursor: dict[str, Any]) -> None:
    """Write all files of a checkpoint, and their sums, through to the disk."""
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    policy.save(partial / "policy")
    torch.save(tensors, partial / "trainer.pt")
    (partial / "state.json").write_text(json.dumps(cursor))
    sums = [f"{digest}  {name}\n" for name, digest in _digests(partial).items()]
    (partial / _SUMS).write_text("".join(sums))
    for path in [*partial.rglob("*"), partial]:
        sync(path)


def latest_checkpoint(folder: Path) -> Path | None:
    """The newest intact checkpoint in `folder`, with a warning for each damaged one passed over; None without any.

    Raises CheckpointError when there are some and all are damaged.
    """
    found = sorted(folder.glob("step-*"), reverse=True)
    for checkpoint in found:
        if not (reason := _damage(checkpoint)):
            return checkpoint
        log.warning("%s is damaged and passed over for the one before: %s", checkpoint, reason)
    if found:
        raise CheckpointError(
            f"none of the {len(found)} checkpoints in {folder} is intact (newest: {_damage(found[0])}); remove the "
            "folder to start over: its journal.jsonl gives the same scores again"
        )
    return None


def load_checkpoint(checkpoint: Path, state: RunState) -> None:
    """Restore everything but the policy's weights, which the caller loads from `checkpoint/"policy"` before making
    `state`.

    Raises CheckpointError.
    """
    if reason := _damage(checkpoint):
        raise CheckpointError(f"{checkpoint} is damaged: {reason}")
    try:
        cursor = json.loads((checkpoint / "state.json").read_text())
        tensors = torch.load(checkpoint / "trainer.pt", weights_only=True)
        ranks = state.learner.ranks
        if len(tensors["generators"]) != ranks.size:
            raise ValueError(f"{len(tensors['generators'])} processes wrote it and this run has {ranks.size}")
        for stepper in state.learner.steppers:
            load_full_optimiser_state(stepper.optimiser, tensors[f"{stepper.name}optimiser"])
            stepper.scheduler.load_state_dict(tensors[f"{stepper.name}scheduler"])
        state.generator.set_state(tensors["generators"][ranks.rank])
        state.rng.bit_generator.state = cursor["rng"]
        state.selector.load_state_dict(cursor["selectors"][ranks.rank])
        state.curriculum.load_state_dict(cursor["curriculum"])
        state.step = int(cursor["step"])
    except (OSError, KeyError, ValueError, RuntimeError) as error:
        raise CheckpointError(
            f"{checkpoint} cannot be resumed from: {error!r}; was it written by this version, in as many processes?"
        ) from error


def _damage(checkpoint: Path) -> str:
    """What is wrong with the files of a checkpoint; "" if nothing is."""
    try:
        lines = (checkpoint / _SUMS).read_text().splitlines()
        expected = {name: digest for digest, name in (line.split("  ", 1) for line in lines)}
        found = _digests(checkpoint)
    except (OSError, ValueError) as error:
        return f"{_SUMS} cannot be checked: {error}"
    wrong = sorted(name for name in expected.keys() | found.keys() if expected.get(name) != found.get(name))
    return f"{', '.join(wrong)} differ from {_SUMS}" if wrong else ""


def _digests(folder: Path) -> dict[str, str]:
    """Path in the folder -> SHA-256 of each file but the sums themselves."""
    digests = {}
    for file in sorted(path for path in folder.rglob("*") if path.is_file() and path.name != _SUMS):
        digest = hashlib.sha256()
        with file.open("rb") as stream:
            while block := stream.read(1 << 20):
                digest.update(block)
        digests[str(file.relative_to(folder))] = digest.hexdigest()
    return digests
