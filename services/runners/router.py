"""`GraphRouter`: the one runner of a service. Judges go to their endpoints, own functions to workers of the service,
every other graph to Triton."""

from __future__ import annotations

import logging
from collections.abc import Collection, Sequence
from dataclasses import replace
from pathlib import Path

from sync_r1.reward_models.graphs.spec import GraphSpec
from sync_r1.reward_models.profiles import ServedReward
from sync_r1.reward_models.releases import GraphPin
from sync_r1.reward_models.runner import RunContext, RunResult, Tensors
from sync_r1.reward_models.types import GraphUnavailable
from sync_r1.services.runners.judge_endpoints import JudgesError, read_endpoints
from sync_r1.services.runners.judges import JudgeRunner
from sync_r1.services.runners.python import PythonRunner
from sync_r1.services.runners.triton import TritonRunner

logger = logging.getLogger(__name__)


class GraphRouter:
    """A `GraphRunner` over one Triton, or none, the endpoints of some judges, and the workers of own functions."""

    def __init__(
        self, triton: TritonRunner | None, judges: JudgeRunner, judge_names: Collection[str], python: PythonRunner
    ) -> None:
        self._triton, self._judges, self._python = triton, judges, python
        self._judge_names = frozenset(judge_names)
        self._python_names = frozenset(name for name, _ in python.pools)
        self._not_ready = ""

    async def start(self) -> None:
        """Start the workers of own functions. Raises LoadError where one of these cannot be loaded."""
        await self._python.start()

    async def run(self, context: RunContext, graph: str, inputs: Tensors) -> RunResult:
        """See `GraphRunner.run`."""
        if graph in self._judge_names:
            return await self._judges.run(context, graph, inputs)
        if graph in self._python_names:
            return await self._python.run(context, graph, inputs)
        if self._triton is None:
            raise GraphUnavailable(f"graph {graph!r} runs on Triton, and this service was told of none")
        return await self._triton.run(context, graph, inputs)

    async def ready(self, pins: Collection[GraphPin]) -> bool:
        """Whether Triton has loaded all of these that are its own, and own functions have workers; logs why not, once.

        Endpoints are not asked: every look would cost. Nor is a Triton that runs none of these.
        """
        why_not = self._python.why_not_ready(pins)
        if why_not and why_not != self._not_ready:
            logger.warning("not ready: %s", why_not)
        self._not_ready = why_not
        if why_not:
            return False
        on_triton = [pin for pin in pins if pin.name not in self._judge_names | self._python_names]
        if self._triton is None:
            return not on_triton
        return await self._triton.ready(on_triton) if on_triton else True

    async def close(self) -> None:
        """End all connections and workers."""
        await self._judges.close()
        await self._python.close()
        if self._triton is not None:
            await self._triton.close()


def with_judges(
    served: Sequence[ServedReward], triton: TritonRunner | None, file: Path | None
) -> tuple[list[ServedReward], GraphRouter, list[str]]:
    """What can be served, the runner that does it, and the variants left out because their judge has no endpoint.

    `file` is that of `--judges`. Raises JudgesError when it cannot be used, or lacks the judge of a default variant.
    """
    endpoints = read_endpoints(file) if file is not None else {}
    known = {name for reward in served for name, graph in reward.graphs.items() if graph.judge is not None}
    for name in endpoints:
        if name not in known:
            raise JudgesError(f"--judges {file}: {name!r} is no judge of the profile; it has {sorted(known) or 'none'}")
    kept, left_out = [], list[str]()
    used: dict[tuple[str, str], GraphSpec] = {}
    for reward in served:
        variants = {}
        for name, variant in reward.variants.items():
            judges = [reward.graphs[graph] for graph in variant.graphs if reward.graphs[graph].judge is not None]
            missing = [judge.name for judge in judges if judge.name not in endpoints]
            if missing and name == reward.default_variant:
                raise JudgesError(
                    f"{reward.name}: the default variant {name!r} needs an endpoint for judge {missing[0]!r}; "
                    "name it in the file of --judges (docs/judges.md)"
                )
            if missing:
                left_out.append(name)
                continue
            variants[name] = variant
            used |= {(judge.name, judge.sha256): judge for judge in judges}
        kept.append(replace(reward, variants=variants))
    functions = {
        (graph, reward.graphs[graph].sha256): reward.graphs[graph]
        for reward in kept
        for variant in reward.variants.values()
        for graph in variant.graphs
        if reward.graphs[graph].python is not None
    }
    python = PythonRunner(list(functions.values()))
    router = GraphRouter(triton, JudgeRunner(list(used.values()), endpoints), {name for name, _ in used}, python)
    return kept, router, sorted(set(left_out))
