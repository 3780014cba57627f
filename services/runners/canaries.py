"""Canaries: whether graphs that are loaded also run, by one small inference where no call has proved it lately.

Triton answers "ready" for a graph whose Python process was killed. Each graph that has answered nothing for `EVERY_S`
is asked one row of zeros, in the background and one at a time, so that a look at readiness neither waits nor adds load:
a graph in use is never asked. No answer within `CANARY_S`, of the canary or of any call meanwhile, is an answer too.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, Collection
from dataclasses import dataclass

from sync_r1.reward_models.releases import GraphPin
from sync_r1.reward_models.types import GraphDeadline, GraphError, GraphOverloaded, GraphUnavailable

logger = logging.getLogger(__name__)

EVERY_S = 10.0
"""A graph that has answered nothing for so long is asked."""
CANARY_S = 30.0
"""How long a canary may take: it waits in the queue behind calls."""
_NEW = "not every graph has run yet"


@dataclass
class _Graph:
    """What is known of one graph in one version."""

    proved_s: float | None = None
    """When it last answered, by the monotonic clock."""
    died_s: float | None = None
    """When its process was last found dead: with several instances the others go on answering."""
    trouble: str = _NEW
    task: asyncio.Task[None] | None = None


class Canaries:
    """Which graphs run. `ask` runs one row through a graph and raises GraphError when that fails."""

    def __init__(self, ask: Callable[[GraphPin], Awaitable[None]]) -> None:
        self._ask = ask
        self._graphs: dict[GraphPin, _Graph] = {}

    def ran(self, pin: GraphPin) -> None:
        """The graph has answered a call."""
        graph = self._graphs.setdefault(pin, _Graph())
        graph.proved_s = time.monotonic()
        if graph.died_s is None or graph.proved_s - graph.died_s > EVERY_S:
            graph.trouble, graph.died_s = "", None

    def died(self, pin: GraphPin) -> None:
        """A call found the graph's process dead."""
        graph = self._graphs.setdefault(pin, _Graph())
        graph.trouble, graph.died_s = f"graph {pin.name}: its Python process is dead or starved", time.monotonic()

    def forget(self) -> None:
        """Triton was away: what was known is of its last life."""
        for graph in self._graphs.values():
            graph.proved_s, graph.died_s, graph.trouble = None, None, _NEW

    async def why_not(self, pins: Collection[GraphPin], timeout_s: float) -> str:
        """Why not all these run; empty if they do. Waits, for so long at most, only for graphs that never ran yet."""
        graphs = {pin: self._graphs.setdefault(pin, _Graph()) for pin in pins}
        for pin, graph in graphs.items():
            quiet = graph.proved_s is None or time.monotonic() - graph.proved_s > EVERY_S
            if (quiet or graph.trouble) and (graph.task is None or graph.task.done()):
                graph.task = asyncio.ensure_future(self._look(pin, graph))
        first = [graph.task for graph in graphs.values() if graph.proved_s is None and graph.task is not None]
        if first:
            await asyncio.wait(first, timeout=timeout_s)
        return next((graph.trouble for graph in graphs.values() if graph.trouble), "")

    async def close(self) -> None:
        """End what is under way."""
        tasks = [graph.task for graph in self._graphs.values() if graph.task is not None]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def _look(self, pin: GraphPin, graph: _Graph) -> None:
        started_s = time.monotonic()
        try:
            await self._ask(pin)
        except (GraphOverloaded, GraphUnavailable):
            return  # says nothing of the graph (or `died` was told): asked again at the next look
        except GraphDeadline:
            if graph.proved_s is None or graph.proved_s < started_s:
                graph.trouble = f"graph {pin.name}: nothing was answered within {CANARY_S:g} s"
        except GraphError as error:
            graph.trouble = str(error)
        except Exception as error:
            logger.exception("the canary of graph %s failed", pin.name)
            graph.trouble = f"graph {pin.name}: {error!r}"
        else:
            self.ran(pin)
