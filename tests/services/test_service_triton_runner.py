"""`TritonRunner` runs exactly the release's version, splits large batches in order, and tells its errors apart."""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import AsyncIterator

import numpy as np
import pytest
import toys
from tritonclient.grpc import service_pb2

from benchmarks.reliability.fleet import Cable
from sync_r1.reward_models.runner import RunContext
from sync_r1.reward_models.types import GraphDeadline, GraphError, GraphOverloaded, GraphUnavailable
from sync_r1.services.local.embedded import EmbeddedTriton
from sync_r1.services.runners.triton import TritonRunner
from sync_r1.services.runners.triton_link import SILENT_LOOKS, TritonLink


@pytest.fixture(params=["messages", "shared memory"])
async def runner(request: pytest.FixtureRequest, toy_triton: EmbeddedTriton) -> AsyncIterator[TritonRunner]:
    runner = TritonRunner(toy_triton.url, shared_memory=request.param == "shared memory")
    yield runner
    await runner.close()


def _context(graph: str = "probe", version: int = 1, seconds: float = 20.0) -> RunContext:
    return RunContext(toys.release(graph, version), time.monotonic() + seconds, "test")


def _pixels(*reds: int, side: int = toys.SIDE) -> np.ndarray:
    pixels = np.zeros((len(reds), side, side, 3), np.uint8)
    pixels[:, 0, 0, 0] = reds
    return pixels


@pytest.mark.parametrize("side", [8, 224])  # 224: large enough to travel in shared memory
async def test_rows_keep_their_order_in_batches_larger_than_the_graph_takes(runner: TritonRunner, side: int) -> None:
    reds = list(range(11))  # the graph takes 4 at once
    result = await runner.run(_context(), "probe", {"pixels": _pixels(*reds, side=side)})
    np.testing.assert_array_equal(result.outputs["score"], np.array(reds, np.float32)[:, None])
    assert result.version == 1
    assert result.elapsed_ns > 0


async def test_concurrent_calls_do_not_mix_their_pictures(runner: TritonRunner) -> None:
    calls = [runner.run(_context(), "probe", {"pixels": _pixels(red, red, side=224)}) for red in range(40)]
    for red, result in enumerate(await asyncio.gather(*calls)):
        assert (result.outputs["score"] == red).all()


async def test_arrays_that_are_views_arrive_as_they_look(runner: TritonRunner) -> None:
    mirrored = _pixels(1, 2, side=224)[:, :, ::-1]
    result = await runner.run(_context(), "probe", {"pixels": mirrored})
    assert (result.outputs["score"] == 0).all()


async def test_a_version_that_is_not_loaded_is_unavailable_never_another_version(runner: TritonRunner) -> None:
    expected, held = (toys.release(version=version).graphs[0].sha256[:12] for version in (2, 1))
    both = f"version 2 .*expected weights of sha256 {expected}…, Triton has {held}…"
    for _ in range(2):
        with pytest.raises(GraphUnavailable, match=both):
            await runner.run(_context(version=2), "probe", {"pixels": _pixels(1)})


async def test_a_graph_outside_the_release_is_refused(runner: TritonRunner) -> None:
    with pytest.raises(GraphError, match="no graph 'slow'"):
        await runner.run(_context("probe"), "slow", {"pixels": _pixels(1)})


async def test_the_deadline_ends_the_call(runner: TritonRunner) -> None:
    started = time.monotonic()
    with pytest.raises(GraphDeadline):
        await runner.run(_context("slow", seconds=0.2), "slow", {"pixels": _pixels(1)})
    assert time.monotonic() - started < 0.9  # the graph itself takes 1 s


async def test_a_full_queue_is_overload_and_not_unavailability(runner: TritonRunner) -> None:
    # Batches of 4 are full: one runs, one waits, the others find the queue full.
    calls = [runner.run(_context("narrow"), "narrow", {"pixels": _pixels(1, 1, 1, 1)}) for _ in range(6)]
    results = await asyncio.gather(*calls, return_exceptions=True)
    kinds = {type(result) for result in results if isinstance(result, Exception)}
    assert kinds == {GraphOverloaded}
    assert any(not isinstance(result, Exception) for result in results)


async def test_wrong_inputs_are_an_error_of_their_own(runner: TritonRunner) -> None:
    with pytest.raises(GraphError, match="FP32") as caught:
        await runner.run(_context(), "probe", {"pixels": _pixels(1).astype(np.float32)})
    assert type(caught.value) is GraphError
    with pytest.raises(GraphError, match="first axis"):
        await runner.run(_context(), "probe", {"pixels": _pixels()})


async def test_nobody_answering_is_unavailable_within_the_deadline() -> None:
    runner = TritonRunner("127.0.0.1:9")
    with pytest.raises(GraphUnavailable):
        await runner.run(_context(seconds=5), "probe", {"pixels": _pixels(1)})
    assert not await runner.ready(toys.release().graphs)
    await runner.close()


async def test_shared_memory_leaves_no_files_even_while_in_use(toy_triton: EmbeddedTriton) -> None:
    runner = TritonRunner(toy_triton.url, shared_memory=True)
    await runner.run(_context(), "probe", {"pixels": _pixels(1, side=224)})
    left = [name for name in os.listdir("/dev/shm") if name.startswith("sync-r1-")]
    assert not left
    await runner.close()


async def test_readiness_is_of_the_release_not_of_triton_at_large(runner: TritonRunner) -> None:
    assert await runner.ready(toys.release("probe").graphs)
    assert not await runner.ready(toys.release("probe", version=7).graphs)


async def test_a_lost_machine_is_noticed_by_its_silence_and_calls_on_it_end(toy_triton: EmbeddedTriton) -> None:
    pins = toys.release().graphs
    async with Cable(toy_triton.url) as cable:
        runner = TritonRunner(cable.target)
        assert await runner.ready(pins)
        slow = asyncio.ensure_future(runner.run(_context("slow", seconds=120), "slow", {"pixels": _pixels(1)}))
        await asyncio.sleep(0.3)
        cable.lose()
        # Two looks of 2 s, one a second, then a new connection: within 10 s at a front's interval.
        looks = [await runner.ready(pins) for _ in range(4)]
        assert looks[:2] == [False, False]
        assert any(looks[2:])
        with pytest.raises(GraphUnavailable):
            await slow
        result = await runner.run(_context(), "probe", {"pixels": _pixels(7)})
        assert result.outputs["score"][0, 0] == 7
        await runner.close()


async def test_calls_on_a_connection_that_was_only_slow_are_not_ended(toy_triton: EmbeddedTriton) -> None:
    link = TritonLink(toy_triton.url)
    request = service_pb2.ModelInferRequest(model_name="slow", model_version=str(toys.VERSION))
    request.inputs.add(name="pixels", datatype="UINT8", shape=[1, 1, 1, 3])
    request.raw_input_contents.append(bytes([5, 0, 0]))
    slow = asyncio.ensure_future(link.ask("ModelInfer", request, timeout_s=60))
    await asyncio.sleep(0.1)
    assert [await link.live(-1.0) for _ in range(SILENT_LOOKS)] == [False] * SILENT_LOOKS
    assert await link.live(20.0)  # asks the former connection too, which answers
    assert np.frombuffer((await slow).raw_output_contents[0], np.float32) == 5
    await link.close()
