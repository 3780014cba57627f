"""`GraphRouter`: the one runner of a service. Judges go to their endpoints, every other graph to Triton."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import replace
from pathlib import Path

from sync_r1.reward_models.graphs.spec import GraphSpec
from sync_r1.reward_models.profiles import ServedReward
from sync_r1.reward_models.releases import GraphPin
from sync_r1.reward_models.runner import RunContext, RunResult, Tensors
from sync_r1.services.runners.judge_endpoints import JudgesError, read_endpoints
from sync_r1.services.runners.judges import JudgeRunner
from sync_r1.services.runners.triton import TritonRunner


class GraphRouter:
    """A `GraphRunner` over one Triton and the endpoints of some judges."""

    def __init__(self, triton: TritonRunner, judges: JudgeRunner, judge_names: Collection[str]) -> None:
        self._triton, self._judges = triton, judges
        self._judge_names = frozenset(judge_names)

    async def run(self, context: RunContext, graph: str, inputs: Tensors) -> RunResult:
        """See `GraphRunner.run`."""
        runner = self._judges if graph in self._judge_names else self._triton
        return await runner.run(context, graph, inputs)

    async def ready(self, pins: Collection[GraphPin]) -> bool:
        """Whether Triton has loaded all of these that are its own. Endpoints are not asked: every look would cost."""
        return await self._triton.ready([pin for pin in pins if pin.name not in self._judge_names])

    async def close(self) -> None:
        """End all connections."""
        await self._judges.close()
        await self._triton.close()


def with_judges(
    served: Sequence[ServedReward], triton: TritonRunner, file: Path | None
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
    router = GraphRouter(triton, JudgeRunner(list(used.values()), endpoints), {name for name, _ in used})
    return kept, router, sorted(set(left_out))
