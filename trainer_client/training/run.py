"""What one training run is made of. `jobs/train.py` puts the real parts together; tests pass small ones."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch

from sync_r1.reward_models.errors import SyncR1Error
from sync_r1.trainer_client.config import TrainConfig
from sync_r1.trainer_client.evaluation.oracle import SuccessOracle
from sync_r1.trainer_client.policies.base import Policy
from sync_r1.trainer_client.rollouts.scorer import Scorer, Scorers
from sync_r1.trainer_client.rollouts.selectors import make_selector
from sync_r1.trainer_client.tasks.curriculum import Curriculum
from sync_r1.trainer_client.tasks.unifybench import UnifyBench
from sync_r1.trainer_client.training.checkpoint import RunState
from sync_r1.trainer_client.training.distributed import SINGLE_PROCESS, Ranks
from sync_r1.trainer_client.training.learner import Learner
from sync_r1.trainer_client.training.optimisers import TotalSteps

Progress = Callable[[str, int, int], None]
"""Called with (what happened, steps done, steps in all)."""
_SEEDS_APART = 1_000_003
"""Between the seeds of two processes' tokens: far more than the seeds that anybody tries."""


class TrainingError(SyncR1Error, RuntimeError):
    """The run cannot go on; the message says why and what to do."""


@dataclass(frozen=True)
class Run:
    """The parts of a run that stay the same from its first step to its last."""

    config: TrainConfig
    out: Path
    """Its folder."""
    policy: Policy
    """What is trained, with the weights of the newest checkpoint in `out` if there is one."""
    reference: Policy
    """The frozen policy that the run started from."""
    bench: UnifyBench
    scorers: Scorers[Scorer]
    """Groups that are trees and the measurement of pictures of the right sentence need those of answers and pictures
    alone.
    """
    oracle: SuccessOracle | None = None
    progress: Progress = lambda message, done, total: None
    ranks: Ranks = SINGLE_PROCESS
    """With several, all of them train and the first one writes."""
    started_s: float = field(default_factory=time.monotonic)
    """When the job began, on `time.monotonic()`'s clock, for the budget."""

    def new_state(self) -> RunState:
        """Where it starts without a checkpoint."""
        config, ranks = self.config, self.ranks
        # Each process draws its own tokens; what all of them draw alike (tasks, decoding steps) comes from `rng`.
        own = [ranks.rank] if ranks.rank else []
        return RunState(
            step=0,
            learner=Learner(
                self.policy,
                self.reference,
                config.objective,
                config.optimiser,
                total_steps=TotalSteps(
                    config.updates_of("answers") if config.optimiser.image else config.steps,
                    config.updates_of("pictures"),
                ),
                ranks=ranks,
                divide=config.parallel == "fsdp2",
            ),
            selector=make_selector(
                config.selector,
                config.sampling.group_size,
                np.random.default_rng([config.seed, 1, *own]),
                self.scorers.judges,
            ),
            curriculum=Curriculum(
                self.bench, recall_share=config.sampling.recall_share, learnability=config.sampling.learnability
            ),
            generator=torch.Generator().manual_seed(config.seed + _SEEDS_APART * ranks.rank),
            rng=np.random.default_rng([config.seed, 0]),
        )
