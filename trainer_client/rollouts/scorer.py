"""The one thing that sampling, training and evaluation need of the reward services: scores of samples."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from sync_r1.reward_models.types import Sample
from sync_r1.trainer_client.sdk.ensemble import EnsembleResult


class Scorer(Protocol):
    """What trainer and evaluation need of a `RewardEnsemble`."""

    async def score(self, samples: Sequence[Sample], *, timeout_s: float | None = None) -> EnsembleResult:
        """Score N samples with every reward at once."""
        ...
