"""LocalRunner: batches are split and come back in order, deadlines and cancellation are honoured, errors are clear."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from tiny_graphs import SIDE, write_tiny_profile

from sync_r1.reward_models.backends.local import LocalRunner
from sync_r1.reward_models.profiles import Profile
from sync_r1.reward_models.releases import GraphPin, Release
from sync_r1.reward_models.runner import RunContext
from sync_r1.reward_models.types import GraphDeadline, GraphError

GRAPH = "pocket_clip_image"


@pytest.fixture
def profile(tmp_path: Path) -> Profile:
    return write_tiny_profile(tmp_path)


@pytest.fixture
def runner(profile: Profile) -> Iterator[LocalRunner]:
    with LocalRunner(profile) as runner:
        yield runner


def context(profile: Profile, timeout_s: float = 30) -> RunContext:
    return RunContext(profile.rewards["concept-consistency"].release("clip_i"), time.monotonic() + timeout_s)


def pixels(count: int) -> np.ndarray:
    return np.random.default_rng(0).integers(1, 256, (count, SIDE, SIDE, 3), dtype=np.uint8)


async def test_a_batch_above_the_limit_is_split_and_stays_in_order(profile: Profile, runner: LocalRunner) -> None:
    batch = pixels(11)  # max_batch_size is 4
    together = await runner.run(context(profile), GRAPH, {"pixels": batch})
    alone = [await runner.run(context(profile), GRAPH, {"pixels": batch[i : i + 1]}) for i in range(11)]
    expected = np.concatenate([result.outputs["embedding"] for result in alone])
    np.testing.assert_allclose(together.outputs["embedding"], expected, atol=1e-5)
    assert together.version == 1
    assert together.elapsed_ns > 0


async def test_a_passed_deadline_is_an_error_before_anything_runs(profile: Profile, runner: LocalRunner) -> None:
    with pytest.raises(GraphDeadline, match="had passed"):
        await runner.run(context(profile, -1), GRAPH, {"pixels": pixels(1)})


async def test_a_deadline_ends_a_call_that_is_running(profile: Profile, runner: LocalRunner) -> None:
    batch = pixels(50_000)
    with pytest.raises(GraphDeadline, match="no answer within"):
        await runner.run(context(profile, 0.05), GRAPH, {"pixels": batch})


async def test_cancellation_goes_through_and_the_runner_still_works(profile: Profile, runner: LocalRunner) -> None:
    call = asyncio.create_task(runner.run(context(profile), GRAPH, {"pixels": pixels(50_000)}))
    await asyncio.sleep(0.01)
    call.cancel()
    with pytest.raises(asyncio.CancelledError):
        await call
    result = await runner.run(context(profile), GRAPH, {"pixels": pixels(1)})
    assert np.isfinite(result.outputs["embedding"]).all()


async def test_calls_may_overlap(profile: Profile, runner: LocalRunner) -> None:
    batches = [pixels(count) for count in range(1, 9)]
    results = await asyncio.gather(*(runner.run(context(profile), GRAPH, {"pixels": batch}) for batch in batches))
    assert [len(result.outputs["embedding"]) for result in results] == list(range(1, 9))


@pytest.mark.parametrize(
    ("inputs", "message"),
    [
        (
            {"pixels": np.zeros((1, SIDE, SIDE + 1, 3), np.uint8)},
            r"expected uint8 \(N, 8, 8, 3\), got uint8 \(1, 8, 9, 3\)",
        ),
        ({"pixels": np.zeros((1, SIDE, SIDE, 3), np.float32)}, "expected uint8"),
        ({"images": np.zeros((1, SIDE, SIDE, 3), np.uint8)}, r"takes \['pixels'\], got \['images'\]"),
        ({"pixels": np.zeros((0, SIDE, SIDE, 3), np.uint8)}, "at least 1"),
    ],
)
async def test_inputs_that_do_not_fit_are_named(
    profile: Profile, runner: LocalRunner, inputs: dict[str, np.ndarray], message: str
) -> None:
    with pytest.raises(GraphError, match=message):
        await runner.run(context(profile), GRAPH, inputs)


async def test_unknown_graphs_and_versions_are_errors(profile: Profile, runner: LocalRunner) -> None:
    with pytest.raises(GraphError, match="no graph 'resnet'"):
        await runner.run(context(profile), "resnet", {"pixels": pixels(1)})
    with pytest.raises(GraphError, match="has no graph 'minilm'"):
        await runner.run(context(profile), "minilm", {})
    release = Release("concept-consistency", "clip_i", "1", (GraphPin(GRAPH, 2, "0" * 64),))
    with pytest.raises(GraphError, match=r"pins version 2 \(sha256 0000.*here is version 1 \(sha256"):
        await runner.run(RunContext(release, time.monotonic() + 5), GRAPH, {"pixels": pixels(1)})


async def test_a_file_that_is_no_graph_is_an_error(tmp_path: Path, profile: Profile, runner: LocalRunner) -> None:
    (tmp_path / "image.onnx").write_bytes(b"no graph at all")
    with pytest.raises(GraphError, match=GRAPH):
        await runner.run(context(profile), GRAPH, {"pixels": pixels(1)})
