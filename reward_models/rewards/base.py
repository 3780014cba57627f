"""The `Reward`: a named formula over the outputs of graphs.

A reward owns its formula and its preprocessing; it never knows where graphs run (`GraphRunner`) nor how requests reach
it (`services`). One instance is one variant; it holds no state that a request could change.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from sync_r1.reward_models.cards import Card
from sync_r1.reward_models.runner import GraphRunner, RunContext
from sync_r1.reward_models.types import Outcome, Sample


class Reward(Protocol):
    """One variant of one of the four rewards."""

    @property
    def card(self) -> Card:
        """What it measures, its source, what it needs and how it may fail."""
        ...

    @property
    def graphs(self) -> tuple[str, ...]:
        """Names of the graphs it runs; each must be pinned by the release of the context."""
        ...

    async def score(self, samples: Sequence[Sample], runner: GraphRunner, context: RunContext) -> list[Outcome]:
        """One outcome for each sample, in order.

        Work that samples share (a prompt, a reference picture) is done once. Raises GraphError when a graph could not
        be run at all; whatever concerns one item only is that item's Failure.
        """
        ...
