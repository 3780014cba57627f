"""A runner that counts what it is asked for."""

from __future__ import annotations

from sync_r1.reward_models.backends.local import LocalRunner
from sync_r1.reward_models.runner import RunContext, RunResult, Tensors


class Counting:
    """A LocalRunner that remembers how many items each graph was asked for."""

    def __init__(self, runner: LocalRunner) -> None:
        self.runner, self.items = runner, {}

    async def run(self, context: RunContext, graph: str, inputs: Tensors) -> RunResult:
        self.items[graph] = self.items.get(graph, 0) + len(next(iter(inputs.values())))
        return await self.runner.run(context, graph, inputs)
