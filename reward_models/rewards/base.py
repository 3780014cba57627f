"""The `Reward`: a named formula over the outputs of graphs.

A reward owns its formula and its preprocessing; it never knows where graphs run (`GraphRunner`) nor how requests reach
it (`services`). One instance is one variant; it holds no state that a request could change.

`ItemReward` is what every reward here is made of: it keeps items apart. Whatever goes wrong while one item is prepared
or scored is that item's Failure, found by scoring halves of the batch by themselves.
"""

from __future__ import annotations

import logging
import uuid
from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Protocol

from sync_r1.reward_models.cards import Card
from sync_r1.reward_models.images import ImageError
from sync_r1.reward_models.inputs.encoders import TextError
from sync_r1.reward_models.inputs.preparation import Preparation
from sync_r1.reward_models.rewards.fields import misfit
from sync_r1.reward_models.runner import GraphRunner, RunContext
from sync_r1.reward_models.threads import each_in_turn, in_thread
from sync_r1.reward_models.types import Failure, FailureCode, GraphError, Outcome, Sample

logger = logging.getLogger(__name__)


class Reward(Protocol):
    """One variant of a reward."""

    @property
    def card(self) -> Card:
        """What it measures, its source, what it needs and how it may fail."""
        ...

    @property
    def graphs(self) -> tuple[str, ...]:
        """Names of the graphs it runs; each must be pinned by the release of the context."""
        ...

    @property
    def optional_fields(self) -> tuple[str, ...]:
        """Paths in `Sample` that it reads where an item has them, beside the required ones of the card."""
        ...

    async def score(self, samples: Sequence[Sample], runner: GraphRunner, context: RunContext) -> list[Outcome]:
        """One outcome for each sample, in order.

        Work that samples share (a prompt, a reference picture) is done once. Raises GraphError when a graph could not
        be run at all; whatever concerns one item only is that item's Failure.
        """
        ...


class ItemReward(ABC):
    """A `Reward` whose formula is `score_batch`."""

    card: Card

    @property
    def preparations(self) -> tuple[Preparation, ...]:
        """All that its encoders need of a picture; the pixels may be gone once this is made of them."""
        parts = [getattr(self, name) for name in getattr(self, "__dataclass_fields__", ())]
        found = [by for part in parts for by in getattr(part, "preparations", ())]
        return tuple(dict.fromkeys(found))

    @property
    def optional_fields(self) -> tuple[str, ...]:
        """See `Reward.optional_fields`."""
        return ()

    async def score(self, samples: Sequence[Sample], runner: GraphRunner, context: RunContext) -> list[Outcome]:
        """See `Reward.score`. A value of a wrong type and half a character are failures that name their field."""
        outcomes: dict[int, Outcome] = {}
        units: dict[tuple[str, int], list[int]] = {}
        failures = await in_thread(context.deadline_s, lambda: each_in_turn(misfit, samples, context.deadline_s))
        for number, (sample, failure) in enumerate(zip(samples, failures)):
            if failure is not None:
                outcomes[number] = failure
            else:
                together = self.card.groupwise and bool(sample.group)
                units.setdefault((sample.group, -1) if together else ("", number), []).append(number)
        if units:
            outcomes |= await self._apart(list(units.values()), samples, runner, context)
        return [outcomes[number] for number in range(len(samples))]

    async def _apart(
        self,
        units: Sequence[Sequence[int]],
        samples: Sequence[Sample],
        runner: GraphRunner,
        context: RunContext,
        graph_runs: bool = False,
    ) -> dict[int, Outcome]:
        """Outcomes by number. Where the batch as a whole raises, its halves are scored, so that what one item does
        wrong stays with it. `units` are items, or groups where a group is scored as one; `graph_runs` says that the
        graphs do run on some of them, so that a GraphError is an item's fault too.
        """
        numbers = [number for unit in units for number in unit]
        try:
            scored = await self.score_batch([samples[number] for number in numbers], runner, context)
            if len(scored) != len(numbers):
                raise RuntimeError(f"{self.card.variant} gave {len(scored)} outcomes for {len(numbers)} samples")
            return dict(zip(numbers, scored))
        except GraphError as error:
            if type(error) is not GraphError:  # nobody answers, a full queue, no time: that concerns the call
                raise
            if len(units) == 1 and graph_runs:
                return dict.fromkeys(numbers, failure_of(error, context.request_id))
            if not graph_runs and (len(units) == 1 or not await self._runs_on_an_end(units, samples, runner, context)):
                raise
            graph_runs = True
        except Exception as error:
            if len(units) == 1:
                return dict.fromkeys(numbers, failure_of(error, context.request_id))
        middle = len(units) // 2
        first = await self._apart(units[:middle], samples, runner, context, graph_runs)
        return first | await self._apart(units[middle:], samples, runner, context, graph_runs)

    async def _runs_on_an_end(
        self, units: Sequence[Sequence[int]], samples: Sequence[Sample], runner: GraphRunner, context: RunContext
    ) -> bool:
        """Whether the graphs run on the first or the last unit alone. Where they run on neither they are broken, and
        trying every item would only cost time.
        """
        for unit in (units[0], units[-1]):
            try:
                await self.score_batch([samples[number] for number in unit], runner, context)
            except GraphError as error:
                if type(error) is not GraphError:
                    raise
            except Exception:
                continue  # it says nothing of the graphs, and is met again
            else:
                return True
        return False

    @abstractmethod
    async def score_batch(self, samples: Sequence[Sample], runner: GraphRunner, context: RunContext) -> list[Outcome]:
        """See `Reward.score`. It may raise anything: an item at which it does so by itself gets a Failure."""


def failure_of(error: Exception, request_id: str = "") -> Failure:
    """One item's Failure for what was raised over it; a bug's trace goes to the log under the id in the message."""
    if isinstance(error, TextError):
        return Failure(FailureCode.BAD_TEXT, str(error))
    if isinstance(error, ImageError):
        return Failure(FailureCode.BAD_IMAGE, str(error))
    error_id = uuid.uuid4().hex[:12]
    logger.error("request %r: error %s at one item", request_id, error_id, exc_info=error)
    return Failure(FailureCode.INTERNAL, f"internal error {error_id}; the log of the service says more")
