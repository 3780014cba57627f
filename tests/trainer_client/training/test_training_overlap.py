"""Scoring while sampling: it really is at the same time, the result does not depend on when scores come, and the record
says what was waited for.
"""

from __future__ import annotations

import asyncio
import json
import random
import threading
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError
from toy_trainer import ToyPolicy, ToyScorer, toy_config

from sync_r1.reward_models.types import Sample
from sync_r1.trainer_client.config import TrainConfig
from sync_r1.trainer_client.policies.base import ImageState
from sync_r1.trainer_client.rollouts.scorer import Scorers
from sync_r1.trainer_client.sdk.ensemble import EnsembleResult
from sync_r1.trainer_client.tasks.pocketbench import write_pocketbench
from sync_r1.trainer_client.tasks.unifybench import UnifyBench, load_unifybench
from sync_r1.trainer_client.training.loop import train
from sync_r1.trainer_client.training.run import Run


@pytest.fixture(scope="module")
def bench(tmp_path_factory: pytest.TempPathFactory) -> UnifyBench:
    folder = tmp_path_factory.mktemp("pocketbench")
    write_pocketbench(folder)
    return load_unifybench(folder)


def config(**changes: object) -> TrainConfig:
    values: dict[str, object] = {
        "steps": 3,
        "sampling": {"prompts": 5, "group_size": 4, "chunks": 3},
        "evaluation": {"pictures_per_condition": 1, "shown": 1},
        "objective": {"answer_tokens": 1, "beta": 0.01},
    }
    return toy_config(**values | changes)


def gate_scorer() -> ToyScorer:
    return ToyScorer(weights={"concept-consistency": 0.65, "text-faithfulness": 0.35})


async def run(
    settings: TrainConfig, out: Path, bench: UnifyBench, policy: ToyPolicy, scorer: Any, gate: Any = None
) -> list[Any]:
    await train(
        Run(
            settings, out, policy=policy, reference=ToyPolicy(), bench=bench,
            scorers=Scorers(scorer, gate or gate_scorer()),
        )
    )  # fmt: skip
    return [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]


async def test_a_chunk_is_scored_while_the_next_is_sampled(tmp_path: Path, bench: UnifyBench) -> None:
    """The sampler holds the second chunk back until the first is being scored, and the scorer the first until the
    second has been sampled: one after the other, neither would ever end.
    """
    scoring, sampled = threading.Event(), threading.Event()

    class Policy(ToyPolicy):
        calls = 0

        def advance(self, state: ImageState, until_step: int, **options: Any) -> ImageState:
            if len(state) == 4:  # evaluation draws all of its pictures at once
                self.calls += 1
                if self.calls == 2:
                    assert scoring.wait(60)
                    sampled.set()
            return super().advance(state, until_step, **options)

    class Scorer(ToyScorer):
        async def score(self, samples: Sequence[Sample], *, timeout_s: float | None = None) -> EnsembleResult:
            if samples[0].id == "0-0":
                scoring.set()
                assert await asyncio.to_thread(sampled.wait, 60)
            return await super().score(samples, timeout_s=timeout_s)

    settings = config(steps=1, sampling={"prompts": 2, "group_size": 4, "chunks": 2})
    (record,) = await run(settings, tmp_path, bench, Policy(), Scorer())
    assert record["inflight_max"] >= 4
    assert record["trajectories"] == 8


async def test_previews_are_sampled_while_the_gate_of_others_is_asked(tmp_path: Path, bench: UnifyBench) -> None:
    """The gate's answer for the first chunk is held back until previews of the second are there: if the trainer waited
    for it before it sampled on, neither would ever come.
    """
    previewed = threading.Event()

    class Policy(ToyPolicy):
        calls = 0

        def preview(self, state: ImageState) -> Any:
            self.calls += 1
            if self.calls == 2:
                previewed.set()
            return super().preview(state)

    @dataclass
    class Gate(ToyScorer):
        async def score(self, samples: Sequence[Sample], *, timeout_s: float | None = None) -> EnsembleResult:
            if not self.requests:
                assert await asyncio.to_thread(previewed.wait, 60)
            return await super().score(samples, timeout_s=timeout_s)

    gate, scorer = Gate(weights=gate_scorer().weights), ToyScorer()
    settings = config(
        steps=1,
        sampling={"prompts": 2, "group_size": 4, "chunks": 2},
        selector={"kind": "dgs", "preview_at": 0.5, "max_rounds": 1},
    )
    (record,) = await run(settings, tmp_path, bench, Policy(), scorer, gate)
    assert [len(request) for request in gate.requests] == [8, 8]
    assert record["trajectories"] == 8
    # Two steps and the filling pass for each of 16 previews, two more for each picture: what another chunk samples
    # meanwhile is not counted twice.
    assert record["selection"]["policy_steps"] == 16 * 3 + 8 * 2


@pytest.mark.parametrize("selector", [{"kind": "none"}, {"kind": "dgs", "preview_at": 0.5, "max_rounds": 2}])
async def test_the_result_does_not_depend_on_when_scores_come(
    tmp_path: Path, bench: UnifyBench, selector: dict[str, Any]
) -> None:
    @dataclass
    class Dawdling(ToyScorer):
        random: random.Random = field(default_factory=lambda: random.Random(0))

        async def score(self, samples: Sequence[Sample], *, timeout_s: float | None = None) -> EnsembleResult:
            await asyncio.sleep(self.random.choice((0.0, 0.02, 0.1)))
            return await super().score(samples, timeout_s=timeout_s)

    prompt, late = ToyPolicy(), ToyPolicy()
    late_gate = Dawdling(weights=gate_scorer().weights)
    first = await run(config(selector=selector), tmp_path / "a", bench, prompt, ToyScorer())
    second = await run(config(selector=selector), tmp_path / "b", bench, late, Dawdling(), late_gate)
    for one, other in zip(prompt.parameters(), late.parameters()):
        assert one.detach().numpy().tobytes() == other.detach().numpy().tobytes()
    for key in ("rewards", "selection"):
        assert [record[key] for record in first] == [record[key] for record in second]
    if selector["kind"] == "dgs":
        assert {record["selection"]["rounds"] for record in first} != {3}, "no chunk needed a second round"


async def test_groups_stay_whole_and_keep_their_numbers(tmp_path: Path, bench: UnifyBench) -> None:
    scorer = ToyScorer()
    records = await run(config(steps=1), tmp_path, bench, ToyPolicy(), scorer)
    chunks = [request for request in scorer.requests if request[0].id.startswith("0-")]
    assert [len(chunk) for chunk in chunks] == [8, 8, 4]
    assert [sample.id for chunk in chunks for sample in chunk] == [f"0-{index}" for index in range(20)]
    groups = [[sample.group for sample in chunk] for chunk in chunks]
    assert [sorted(set(chunk)) for chunk in groups] == [["0-0", "0-1"], ["0-2", "0-3"], ["0-4"]]
    assert records[0]["learned"] == 20


async def test_the_record_says_what_was_waited_for(tmp_path: Path, bench: UnifyBench) -> None:
    class Slow(ToyScorer):
        async def score(self, samples: Sequence[Sample], *, timeout_s: float | None = None) -> EnsembleResult:
            if not samples[0].id.startswith("held-out"):
                await asyncio.sleep(0.3)
            return await super().score(samples, timeout_s=timeout_s)

    for record in await run(config(), tmp_path, bench, ToyPolicy(), Slow()):
        assert record["tail_time_s"] >= 0.2  # the last chunk's score comes at least this long after its sampling
        assert 0 < record["reward_wait_share"] <= 1
        waited_s = record["phases_s"]["score_wait"] + record["phases_s"]["gate"]
        assert record["reward_wait_share"] == pytest.approx(waited_s / record["step_s"])
        assert 8 <= record["inflight_max"] <= 20
        assert record["peak_memory_mb"] > 1
        assert record["outage_s"] == 0


def test_whitening_over_the_batch_excludes_parts() -> None:
    with pytest.raises(ValidationError, match=r"needs sampling\.chunks = 1"):
        config(combination="gdpo")
