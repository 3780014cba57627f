"""A reward variant run without a service: its samples, its graphs as torch modules, its scores and what they cost."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from typing import Any

from benchmarks.originals import Item
from sync_r1.reward_models.images import decode
from sync_r1.reward_models.releases import Release
from sync_r1.reward_models.rewards.base import Reward
from sync_r1.reward_models.runner import GraphRunner, RunContext, RunResult, Tensors
from sync_r1.reward_models.types import Concept, Outcome, Sample, Score

ROUNDS = 2
TIMEOUT_S = 600.0


class ModuleRunner:
    """A `GraphRunner` over the torch modules that `sync-r1 export` would write, without writing them."""

    def __init__(self, model: str, network: Any) -> None:
        from sync_r1.reward_models.published.catalogue import MODELS
        from sync_r1.reward_models.published.torch_engine import family_of

        entry = MODELS[model]
        graphs = family_of(entry.family).graphs(network, entry.config)
        self._graphs = {entry.graphs[key].name: graph for key, graph in graphs.items()}

    async def run(self, context: RunContext, graph: str, inputs: Tensors) -> RunResult:
        """See `GraphRunner.run`; one item at a time, as memory is scarce."""
        import numpy as np
        import torch

        made, started_ns = self._graphs[graph], time.perf_counter_ns()
        rows = []
        for row in range(len(next(iter(inputs.values())))):
            found = made.module(
                *(torch.from_numpy(np.ascontiguousarray(inputs[name][row : row + 1])) for name in made.example)
            )
            rows.append([part.numpy() for part in (found if isinstance(found, tuple) else (found,))])
        outputs = {name: np.concatenate(parts) for name, parts in zip(made.outputs, zip(*rows))}
        return RunResult(outputs, 1, time.perf_counter_ns() - started_ns)


def samples_of(items: Sequence[Item]) -> list[Sample]:
    """Items as a service gets them; their concepts are persons, for those who ask."""
    return [
        Sample(
            id=str(number),
            image=decode(item.image),
            prompt=item.prompt,
            nouns=item.nouns,
            concept=Concept(references=tuple(map(decode, item.references)), conversation_type="person"),
        )
        for number, item in enumerate(items)
    ]


def timed(reward: Reward, release: Release, runner: GraphRunner, asked: Sequence[Sample]) -> tuple[list[float], float]:
    """Scores of the samples (NaN where an item has none), and CPU milliseconds per item: the least of some rounds.

    CPU time, because it hardly depends on what else the machine does.
    """

    async def rounds() -> tuple[list[Outcome], list[float]]:
        times = []
        await reward.score(asked[:1], runner, RunContext(release, time.monotonic() + TIMEOUT_S))  # loads the graphs
        for _ in range(ROUNDS):
            context, started = RunContext(release, time.monotonic() + TIMEOUT_S), time.process_time()
            outcomes = await reward.score(asked, runner, context)
            times.append((time.process_time() - started) * 1e3 / len(asked))
        return outcomes, times

    outcomes, times = asyncio.run(rounds())
    values = [outcome.value if isinstance(outcome, Score) else float("nan") for outcome in outcomes]
    return values, min(times)
