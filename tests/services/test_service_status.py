"""The status table of `services/access/status.py`, row by row, on the real Triton: one cause, one status, for good.

Clients decide by these whether to retry and where, so a row that changes breaks them.
"""

from __future__ import annotations

import asyncio
import os
import signal
import time
from collections.abc import Awaitable, Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest
import toys
import yaml
from fronts import Stub, pushback_ms, refused, serving_as, trailers, until
from toys import ToyReward
from tritonclient.grpc import service_pb2, service_pb2_grpc

from sync_r1.protos.rewards.v1 import rewards_pb2
from sync_r1.reward_models.runner import GraphRunner, RunContext
from sync_r1.reward_models.types import GraphDeadline, Outcome, Sample
from sync_r1.services.access.tokens import mint
from sync_r1.services.config import Limits, ServiceConfig
from sync_r1.services.local.embedded import EmbeddedTriton
from sync_r1.services.runners.triton import TritonRunner


@dataclass(frozen=True)
class WrongInput(ToyReward):
    """A reward with a bug: it sends what its graph does not take."""

    async def score(self, samples: Sequence[Sample], runner: GraphRunner, context: RunContext) -> list[Outcome]:
        await runner.run(context, self.graph, {"pixels": np.zeros((1, 8, 8, 3), np.float32)})
        return []


LIMITS = Limits(max_items=4, max_inflight_items=4, max_request_bytes=1_000_000, max_deadline_ms=20_000)
TOKEN, DIGEST = mint()
Provoke = Callable[[Stub, Callable[..., Any]], Awaitable[object]]


async def _malformed(stub: Stub, score: Callable[..., Any]) -> object:
    return await score(rewards_pb2.ScoreRequest())


async def _too_many_items(stub: Stub, score: Callable[..., Any]) -> object:
    return await score(toys.request(1, 2, 3, 4, 5))


async def _too_large(stub: Stub, score: Callable[..., Any]) -> object:
    return await score(toys.request(1), size=1_000_001)


async def _unknown_variant(stub: Stub, score: Callable[..., Any]) -> object:
    return await score(toys.request(1, variant="x"))


async def _unknown_release(stub: Stub, score: Callable[..., Any]) -> object:
    return await score(toys.request(1, release="f" * 64))


async def _admission_full(stub: Stub, score: Callable[..., Any]) -> object:
    working = asyncio.ensure_future(score(toys.request(1, variant="slow")))
    await asyncio.sleep(0.2)
    try:
        return await score(toys.request(2, 3, 4, 5))
    finally:
        await working


async def _triton_queue_full(stub: Stub, score: Callable[..., Any]) -> object:
    # One runs, one waits, the others find the queue full.
    calls = [asyncio.ensure_future(score(toys.request(1, variant="narrow"))) for _ in range(4)]
    results = await asyncio.gather(*calls, return_exceptions=True)
    raise next(result for result in results if isinstance(result, Exception))


async def _deadline(stub: Stub, score: Callable[..., Any]) -> object:
    return await score(toys.request(1, 2, variant="slow"), timeout=1.2)


async def _no_token(stub: Stub, score: Callable[..., Any]) -> object:
    return await stub.Score(toys.request(1), timeout=20)


async def _wrong_token(stub: Stub, score: Callable[..., Any]) -> object:
    return await stub.Score(toys.request(1), timeout=20, metadata=(("authorization", "Bearer wrong"),))


async def _our_bug(stub: Stub, score: Callable[..., Any]) -> object:
    request = toys.request(1)
    request.samples[0].prompt = "bug"
    return await score(request)


async def _graph_refuses_its_input(stub: Stub, score: Callable[..., Any]) -> object:
    return await score(toys.request(1))


# cause -> (what provokes it, status, whether it says when to come back, words of its message)
TABLE: dict[str, tuple[Provoke, str, bool, str]] = {
    "malformed": (_malformed, "INVALID_ARGUMENT", False, "samples: expected 1 to 4 items (max_items)"),
    "too many items": (_too_many_items, "INVALID_ARGUMENT", False, "max_items"),
    "too large": (_too_large, "INVALID_ARGUMENT", False, "max_request_bytes"),
    "unknown variant": (_unknown_variant, "INVALID_ARGUMENT", False, "variant: "),
    "unknown release": (_unknown_release, "NOT_FOUND", False, "release: "),
    "admission full": (_admission_full, "RESOURCE_EXHAUSTED", True, "1 items are in work"),
    "Triton's queue full": (_triton_queue_full, "RESOURCE_EXHAUSTED", True, "queue of a graph is full"),
    "deadline passed": (_deadline, "DEADLINE_EXCEEDED", False, ""),
    "no credential": (_no_token, "UNAUTHENTICATED", False, "authorization: Bearer"),
    "wrong credential": (_wrong_token, "PERMISSION_DENIED", False, "no longer"),
    "our bug": (_our_bug, "INTERNAL", False, "internal error "),
    "our bug, found by Triton": (_graph_refuses_its_input, "INTERNAL", False, "internal error "),
}


@pytest.mark.parametrize("cause", TABLE)
async def test_each_cause_has_its_status(toy_triton: EmbeddedTriton, tmp_path: Path, cause: str) -> None:
    provoke, code, comes_back, said = TABLE[cause]
    tokens = tmp_path / "tokens.yaml"
    tokens.write_text(yaml.safe_dump({"teams": {"a": {"tokens_sha256": [DIGEST]}}}))
    rewards = [WrongInput()] if cause == "our bug, found by Triton" else []
    config = ServiceConfig(limits=LIMITS, tokens=tokens)
    async with serving_as(toy_triton.url, config, *rewards) as (server, channel):
        stub = Stub(channel)

        def score(request: rewards_pb2.ScoreRequest, *, timeout: float = 20, size: int | None = None) -> Any:
            size = request.ByteSize() if size is None else size
            metadata = (("authorization", f"Bearer {TOKEN}"), ("x-byte-size", str(size)))
            return stub.Score(request, timeout=timeout, metadata=metadata)

        error = await refused(provoke(stub, score))
        assert error.code().name == code
        assert said in error.details()
        assert (pushback_ms(error) is not None) == comes_back
        for inside in (toy_triton.url, "Traceback", "secret", "KeyError", "float32", "FP32"):
            assert inside not in error.details() + str(trailers(error))
        await until(lambda: server.inflight_items == 0)
        await until(lambda: server.inflight_bytes == 0)


async def test_what_is_wrong_with_one_item_is_no_status(toy_triton: EmbeddedTriton) -> None:
    reward = ToyReward(needs_references=True)
    async with serving_as(toy_triton.url, ServiceConfig(limits=LIMITS), reward) as (_, channel):
        request = toys.request(1, 2, 255, 4)
        for sample in request.samples:
            sample.concept.references.append(toys.picture(9))
        request.samples[0].image.encoded = b"no picture"
        request.samples[1].concept.references[0].sha256 = "a" * 64
        response = await Stub(channel).Score(request, timeout=20)
    kinds = [outcome.WhichOneof("result") for outcome in response.outcomes]
    assert kinds == ["failure", "missing_references", "failure", "score"]


# Rows that need a Triton of their own ---------------------------------------------------------------------------------


@pytest.fixture
def mortal_triton(tmp_path: Path) -> Iterator[EmbeddedTriton]:
    triton = EmbeddedTriton(toys.write_toy_repository(tmp_path / "models")).start()
    yield triton
    triton.stop()


@pytest.mark.parametrize("number", [signal.SIGKILL, pytest.param(signal.SIGTERM, marks=pytest.mark.slow)])
async def test_a_triton_that_ends_in_mid_batch_is_unavailable_or_has_answered(
    mortal_triton: EmbeddedTriton, number: signal.Signals
) -> None:
    async with serving_as(mortal_triton.url, ServiceConfig()) as (server, channel):
        stub = Stub(channel)
        await stub.Score(toys.request(1), timeout=20)
        calls = [asyncio.ensure_future(stub.Score(toys.request(n, variant="slow"), timeout=20)) for n in range(12)]
        await asyncio.sleep(0.5)
        os.kill(mortal_triton.pid, number)
        results = await asyncio.gather(*calls, return_exceptions=True)
        later = await refused(stub.Score(toys.request(1), timeout=20))
        errors = [result for result in results if isinstance(result, grpc.aio.AioRpcError)]
        assert len(errors) + sum(hasattr(result, "outcomes") for result in results) == 12
        assert {error.code() for error in [*errors, later]} == {grpc.StatusCode.UNAVAILABLE}
        assert all(mortal_triton.url not in error.details() for error in errors)
        for n, result in enumerate(results):
            assert not hasattr(result, "outcomes") or result.outcomes[0].score.value == n
        await until(lambda: server.inflight_items == 0)


async def test_draining_is_unavailable(toy_triton: EmbeddedTriton) -> None:
    async with serving_as(toy_triton.url, ServiceConfig()) as (server, channel):
        await Stub(channel).Score(toys.request(1), timeout=20)
        await server.drain()
        assert (await refused(Stub(channel).Score(toys.request(1), timeout=5))).code() == grpc.StatusCode.UNAVAILABLE


# Deadline and cancellation reach Triton ------------------------------------------------------------------------------


async def _executed(triton: EmbeddedTriton, graph: str) -> int:
    """Rows that a graph has run so far, by Triton's own count."""
    async with grpc.aio.insecure_channel(triton.url) as channel:
        request = service_pb2.ModelStatisticsRequest(name=graph, version=str(toys.VERSION))
        stats = await service_pb2_grpc.GRPCInferenceServiceStub(channel).ModelStatistics(request, timeout=10)
    return int(stats.model_stats[0].inference_count)


async def test_a_call_given_up_leaves_triton_s_queue_unrun(toy_triton: EmbeddedTriton) -> None:
    before = await _executed(toy_triton, "slow")
    async with serving_as(toy_triton.url, ServiceConfig()) as (server, channel):
        stub = Stub(channel)
        running = asyncio.ensure_future(stub.Score(toys.request(1, variant="slow"), timeout=20))
        await asyncio.sleep(0.3)
        waiting = stub.Score(toys.request(2, variant="slow"), timeout=20)  # the graph is busy for a second
        await until(lambda: server.inflight_items == 2)
        await asyncio.sleep(0.2)
        waiting.cancel()
        await running
        await stub.Score(toys.request(3, variant="slow"), timeout=20)
    assert await _executed(toy_triton, "slow") - before == 2


async def test_the_deadline_is_told_to_triton_s_queue_as_well(
    toy_triton: EmbeddedTriton, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Triton itself drops a request whose time is up; its UNAVAILABLE is told apart from that of a Triton gone."""
    runner = TritonRunner(toy_triton.url)
    ask = runner._link.ask

    async def patient(method: str, request: Any, *, timeout_s: float, **options: Any) -> Any:
        longer_s = timeout_s + 10 if method == "ModelInfer" else timeout_s
        return await ask(method, request, timeout_s=longer_s, **options)  # so that Triton's own answer is seen

    before = await _executed(toy_triton, "slow")
    pixels = np.zeros((1, 8, 8, 3), np.uint8)
    running = asyncio.ensure_future(
        runner.run(RunContext(toys.release("slow"), time.monotonic() + 20, "a"), "slow", {"pixels": pixels})
    )
    await asyncio.sleep(0.3)
    monkeypatch.setattr(runner._link, "ask", patient)
    with pytest.raises(GraphDeadline) as caught:
        await runner.run(RunContext(toys.release("slow"), time.monotonic() + 0.2, "b"), "slow", {"pixels": pixels})
    triton_said = caught.value.__cause__
    assert isinstance(triton_said, grpc.aio.AioRpcError)
    assert triton_said.code() == grpc.StatusCode.UNAVAILABLE
    await running
    assert await _executed(toy_triton, "slow") - before == 1
    await runner.close()
