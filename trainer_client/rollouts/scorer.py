"""What sampling, training and evaluation need of the reward services: scores of samples."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Generic, Protocol, TypeVar

from sync_r1.reward_models.cards import BUILT_IN_REWARDS, Part
from sync_r1.reward_models.types import Sample
from sync_r1.trainer_client.sdk.ensemble import EnsembleResult


class Scorer(Protocol):
    """What trainer and evaluation need of a `RewardEnsemble`."""

    async def score(self, samples: Sequence[Sample], *, timeout_s: float | None = None) -> EnsembleResult:
        """Score N samples with every reward at once."""
        ...


Kind = TypeVar("Kind", bound=Scorer)


@dataclass(frozen=True)
class Scorers(Generic[Kind]):
    """What a batch is scored by."""

    total: Kind
    """Every reward, of an answer and its picture."""
    gate: Kind
    answers: Kind | None = None
    """The rewards of answers alone, and of pictures alone: for groups that are trees (`answer_tree.py`)."""
    pictures: Kind | None = None
    judges: Mapping[str, Part] = field(default_factory=lambda: BUILT_IN_REWARDS)
    """Reward -> which part of a trajectory it is credit for."""

    @property
    def all(self) -> list[Kind]:
        """Those that there are."""
        return [one for one in (self.total, self.gate, self.answers, self.pictures) if one is not None]
