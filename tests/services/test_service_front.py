"""The typed front, through real gRPC and a real Triton: one outcome per item in order, one status per cause."""

from __future__ import annotations

import asyncio
import hashlib
import io
import json
import socket
import time
from collections.abc import AsyncIterator, Callable

import grpc
import numpy as np
import pytest
import toys
from fronts import Stub, refused, serving
from grpc_health.v1 import health_pb2, health_pb2_grpc
from PIL import Image
from toys import ToyReward

from sync_r1.protos.rewards.v1 import rewards_pb2
from sync_r1.services.config import ServiceConfig
from sync_r1.services.local.embedded import EmbeddedTriton
from sync_r1.services.runners.triton import TritonRunner
from sync_r1.services.server import RewardServer


@pytest.fixture
async def stub(toy_triton: EmbeddedTriton) -> AsyncIterator[Stub]:
    async with serving(toy_triton.url, max_items=8, max_text_bytes=64) as (_, channel):
        yield Stub(channel)


async def test_outcomes_keep_the_order_and_the_ids_of_the_samples(stub: Stub) -> None:
    response = await stub.Score(toys.request(7, 3, 250, 0, request_id="mine"), timeout=20)
    assert [(outcome.id, outcome.score.value) for outcome in response.outcomes] == [
        ("0", 7.0), ("1", 3.0), ("2", 250.0), ("3", 0.0),
    ]  # fmt: skip
    assert (response.reward, response.variant, response.request_id) == ("toy", "probe", "mine")


async def test_the_response_names_its_release_and_where_the_time_went(stub: Stub) -> None:
    description = await stub.Describe(rewards_pb2.DescribeRequest(), timeout=5)
    response = await stub.Score(toys.request(1), timeout=20)
    assert response.release == description.default_releases["probe"]
    timings = response.timings
    assert timings.triton_ns > 0
    assert timings.admission_ns + timings.prepare_ns + timings.triton_ns == timings.total_ns


async def test_a_graph_that_returns_nan_fails_that_item_only(stub: Stub) -> None:
    response = await stub.Score(toys.request(5, 255, 6), timeout=20)
    assert [outcome.WhichOneof("result") for outcome in response.outcomes] == ["score", "failure", "score"]
    assert response.outcomes[1].failure.code == rewards_pb2.FAILURE_CODE_NON_FINITE


async def test_describe_says_what_the_service_needs_and_allows(stub: Stub) -> None:
    description = await stub.Describe(rewards_pb2.DescribeRequest(), timeout=5)
    assert (description.reward, description.default_variant) == ("toy", "probe")
    assert {variant.name for variant in description.variants} == set(toys.GRAPHS)
    assert list(description.variants[0].required_fields) == ["image"]
    assert json.loads(description.variants[0].card)["licence"] == "Apache-2.0"
    assert (description.limits.max_items, description.limits.max_text_bytes) == (8, 64)
    assert {release.digest for release in description.releases} == set(description.default_releases.values())


@pytest.mark.parametrize(
    ("change", "code", "said"),
    [
        (lambda request: request.ClearField("samples"), "INVALID_ARGUMENT", "samples: expected 1 to 8 items"),
        (lambda request: request.samples.extend(toys.request(*[1] * 9).samples), "INVALID_ARGUMENT", "max_items"),
        (lambda request: setattr(request.samples[1], "id", "0"), "INVALID_ARGUMENT", "samples[1].id"),
        (lambda request: setattr(request, "variant", "x"), "INVALID_ARGUMENT", "it has narrow, probe, slow"),
        (lambda request: setattr(request, "release", "f" * 64), "NOT_FOUND", "ffff"),
    ],
)
async def test_a_wrong_request_is_refused_with_field_and_cure(
    stub: Stub, change: Callable[[rewards_pb2.ScoreRequest], None], code: str, said: str
) -> None:
    request = toys.request(1, 2)
    change(request)
    error = await refused(stub.Score(request, timeout=20))
    assert error.code().name == code
    assert said in error.details()


async def test_a_release_can_be_pinned(stub: Stub) -> None:
    digest = (await stub.Describe(rewards_pb2.DescribeRequest(), timeout=5)).default_releases["slow"]
    response = await stub.Score(toys.request(1, variant="slow", release=digest), timeout=20)
    assert (response.variant, response.release) == ("slow", digest)


async def test_bytes_that_are_no_request_are_the_callers_error(toy_triton: EmbeddedTriton) -> None:
    async with serving(toy_triton.url) as (_, channel):
        error = await refused(channel.unary_unary("/sync_r1.rewards.v1.RewardService/Score")(b"\xff\xff", timeout=5))
    assert error.code() == grpc.StatusCode.INVALID_ARGUMENT


async def test_a_request_over_the_size_limit_is_told_the_limit(toy_triton: EmbeddedTriton) -> None:
    async with serving(toy_triton.url, max_request_bytes=100_000) as (_, channel):
        request = rewards_pb2.ScoreRequest(samples=[rewards_pb2.Sample(image=toys.picture(1, side=200))])
        error = await refused(Stub(channel).Score(request, timeout=5))
    assert error.code() == grpc.StatusCode.INVALID_ARGUMENT
    assert "max_request_bytes is 100000" in error.details()


async def test_a_full_service_refuses_at_once_and_says_when_to_come_back(toy_triton: EmbeddedTriton) -> None:
    async with serving(toy_triton.url, max_items=2, max_inflight_items=2) as (_, channel):
        stub = Stub(channel)
        working = asyncio.ensure_future(stub.Score(toys.request(1, 2, variant="slow"), timeout=20))
        await asyncio.sleep(0.2)
        started = time.monotonic()
        error = await refused(stub.Score(toys.request(3), timeout=20))
        assert time.monotonic() - started < 0.5
        assert error.code() == grpc.StatusCode.RESOURCE_EXHAUSTED
        assert int(dict(error.trailing_metadata())["grpc-retry-pushback-ms"]) >= 50
        assert len((await working).outcomes) == 2
        assert len((await stub.Score(toys.request(3), timeout=20)).outcomes) == 1


async def test_a_full_triton_queue_is_overload_too(toy_triton: EmbeddedTriton) -> None:
    async with serving(toy_triton.url) as (_, channel):
        stub = Stub(channel)
        calls = [stub.Score(toys.request(1, variant="narrow"), timeout=20) for _ in range(16)]
        results = await asyncio.gather(*calls, return_exceptions=True)
    errors = [result for result in results if isinstance(result, grpc.aio.AioRpcError)]
    assert {error.code() for error in errors} == {grpc.StatusCode.RESOURCE_EXHAUSTED}
    assert all("grpc-retry-pushback-ms" in dict(error.trailing_metadata()) for error in errors)


async def test_the_callers_deadline_holds(stub: Stub) -> None:
    started = time.monotonic()
    error = await refused(stub.Score(toys.request(1, variant="slow"), timeout=0.3))
    assert error.code() == grpc.StatusCode.DEADLINE_EXCEEDED
    assert time.monotonic() - started < 0.9


async def test_a_call_without_deadline_gets_the_services(toy_triton: EmbeddedTriton) -> None:
    async with serving(toy_triton.url, max_deadline_ms=200) as (_, channel):
        error = await refused(Stub(channel).Score(toys.request(1, variant="slow")))
    assert error.code() == grpc.StatusCode.DEADLINE_EXCEEDED


async def test_a_bug_is_internal_with_an_error_id_and_without_its_text(
    stub: Stub, caplog: pytest.LogCaptureFixture
) -> None:
    request = toys.request(1)
    request.samples[0].prompt = "bug"
    error = await refused(stub.Score(request, timeout=20))
    assert error.code() == grpc.StatusCode.INTERNAL
    assert "secret" not in error.details()
    error_id = error.details().split()[2].rstrip(";")
    assert error_id in caplog.text
    assert "secret of the implementation" in caplog.text


async def test_text_over_the_limit_fails_its_item_and_names_the_field(stub: Stub) -> None:
    request = toys.request(1, 2)
    request.samples[0].concept.extra_info.extend(["short", "x" * 65])
    response = await stub.Score(request, timeout=20)
    failure = response.outcomes[0].failure
    assert (failure.code, failure.field) == (rewards_pb2.FAILURE_CODE_BAD_TEXT, "concept.extra_info[1]")
    assert "65 bytes, the limit is 64" in failure.message
    assert response.outcomes[1].score.value == 2


async def test_a_call_that_its_caller_gives_up_leaves_no_trace(toy_triton: EmbeddedTriton) -> None:
    async with serving(toy_triton.url, max_items=2, max_inflight_items=2) as (server, channel):
        stub = Stub(channel)
        call = stub.Score(toys.request(1, 2, variant="slow"), timeout=20)
        await asyncio.sleep(0.2)
        assert server.inflight_items == 2
        call.cancel()
        for _ in range(50):
            if server.inflight_items == 0:
                break
            await asyncio.sleep(0.02)
        assert server.inflight_items == 0
        assert len((await stub.Score(toys.request(3), timeout=20)).outcomes) == 1


async def test_a_port_that_is_taken_is_an_error_with_the_address(toy_triton: EmbeddedTriton) -> None:
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        config = ServiceConfig(port=other.getsockname()[1])
        server = RewardServer(toys.served(), TritonRunner(toy_triton.url), config)
        with pytest.raises(OSError, match=config.address):
            await server.start()
        await server.drain()


async def test_drain_finishes_what_was_admitted_and_refuses_the_rest(toy_triton: EmbeddedTriton) -> None:
    async with serving(toy_triton.url) as (server, channel):
        stub = Stub(channel)
        working = asyncio.ensure_future(stub.Score(toys.request(1, 2, variant="slow"), timeout=20))
        await asyncio.sleep(0.2)
        draining = asyncio.ensure_future(server.drain())
        await asyncio.sleep(0.2)
        error = await refused(stub.Score(toys.request(3), timeout=2))
        assert error.code() == grpc.StatusCode.UNAVAILABLE
        assert [outcome.score.value for outcome in (await working).outcomes] == [1.0, 2.0]
        await draining


async def test_health_follows_triton_and_calls_are_unavailable_without_it(
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    async def wait_for(wanted: int) -> None:
        for _ in range(200):
            if (await health.Check(health_pb2.HealthCheckRequest(), timeout=2)).status == wanted:
                return
            await asyncio.sleep(0.05)
        pytest.fail(f"health did not become {wanted} within 10 s")

    triton = EmbeddedTriton(toys.write_toy_repository(tmp_path_factory.mktemp("short-lived"))).start()
    try:
        async with serving(triton.url) as (_, channel):
            health = health_pb2_grpc.HealthStub(channel)
            await wait_for(health_pb2.HealthCheckResponse.SERVING)
            triton.stop()
            await wait_for(health_pb2.HealthCheckResponse.NOT_SERVING)
            # Nobody is helped if the front is restarted for it.
            alive = await health.Check(health_pb2.HealthCheckRequest(service="liveness"), timeout=2)
            assert alive.status == health_pb2.HealthCheckResponse.SERVING
            error = await refused(Stub(channel).Score(toys.request(1), timeout=5))
            assert error.code() == grpc.StatusCode.UNAVAILABLE
            assert "127.0.0.1" not in error.details()
    finally:
        triton.stop()


# References ----------------------------------------------------------------------------------------------------------


def _digest(image: rewards_pb2.Image) -> str:
    shape = b"%dx%d:" % (image.raw.height, image.raw.width) if image.WhichOneof("source") == "raw" else b""
    return hashlib.sha256(shape + (image.encoded or image.raw.pixels)).hexdigest()


def _with_references(*references: rewards_pb2.Image) -> rewards_pb2.Sample:
    sample = rewards_pb2.Sample(image=toys.picture(1))
    sample.concept.references.extend(references)
    return sample


@pytest.fixture
async def concept_stub(toy_triton: EmbeddedTriton) -> AsyncIterator[Stub]:
    async with serving(toy_triton.url, ToyReward(needs_references=True), max_references=2) as (_, channel):
        yield Stub(channel)


async def test_references_are_sent_once_then_named_by_digest(concept_stub: Stub) -> None:
    reference = toys.picture(9)
    by_digest = rewards_pb2.Image(sha256=_digest(reference))
    ask = rewards_pb2.ScoreRequest(samples=[_with_references(by_digest)])
    missing = (await concept_stub.Score(ask, timeout=20)).outcomes[0]
    assert list(missing.missing_references.sha256) == [by_digest.sha256]
    send = rewards_pb2.ScoreRequest(samples=[_with_references(reference)])
    assert (await concept_stub.Score(send, timeout=20)).outcomes[0].HasField("score")
    known = (await concept_stub.Score(ask, timeout=20)).outcomes[0]
    assert known.score.components[0].value == 1


async def test_a_digest_may_stand_for_a_picture_of_the_same_request(concept_stub: Stub) -> None:
    reference = toys.picture(11)
    by_digest = rewards_pb2.Image(sha256=_digest(reference))
    request = rewards_pb2.ScoreRequest(samples=[_with_references(by_digest), _with_references(reference)])
    outcomes = (await concept_stub.Score(request, timeout=20)).outcomes
    assert [outcome.WhichOneof("result") for outcome in outcomes] == ["score", "score"]


@pytest.mark.parametrize(
    ("references", "field", "said"),
    [
        ([rewards_pb2.Image(encoded=b"not a picture")], "concept.references[0]", "PNG, JPEG or WebP"),
        ([toys.picture(1), rewards_pb2.Image(sha256="ABC")], "concept.references[1]", "'ABC'"),
        ([toys.picture(1)] * 3, "concept.references", "max_references"),
    ],
)
async def test_a_bad_reference_fails_its_item_only(
    concept_stub: Stub, references: list[rewards_pb2.Image], field: str, said: str
) -> None:
    request = rewards_pb2.ScoreRequest(samples=[_with_references(*references), _with_references(toys.picture(4))])
    bad, good = (await concept_stub.Score(request, timeout=20)).outcomes
    assert (bad.failure.code, bad.failure.field) == (rewards_pb2.FAILURE_CODE_BAD_REFERENCE, field)
    assert said in bad.failure.message
    assert good.score.components[0].value == 1


async def test_the_same_bytes_in_another_shape_are_another_reference(concept_stub: Stub) -> None:
    flat = rewards_pb2.RawImage(pixels=np.zeros(4 * 16 * 3, np.uint8).tobytes(), height=4, width=16)
    tall = rewards_pb2.RawImage(pixels=flat.pixels, height=16, width=4)
    wrong = rewards_pb2.RawImage(pixels=flat.pixels, height=16, width=16)
    samples = [_with_references(rewards_pb2.Image(raw=raw)) for raw in (flat, tall, wrong)]
    outcomes = (await concept_stub.Score(rewards_pb2.ScoreRequest(samples=samples), timeout=20)).outcomes
    assert [outcome.WhichOneof("result") for outcome in outcomes] == ["score", "score", "failure"]


async def test_a_digest_never_stands_for_the_same_bytes_in_another_shape(concept_stub: Stub) -> None:
    flat = rewards_pb2.Image(raw=rewards_pb2.RawImage(pixels=bytes(4 * 16 * 3), height=4, width=16))
    tall = rewards_pb2.Image(raw=rewards_pb2.RawImage(pixels=bytes(4 * 16 * 3), height=16, width=4))
    assert _digest(flat) != _digest(tall)
    ask = _with_references(rewards_pb2.Image(sha256=_digest(flat)))
    # Neither beside the other shape in one request, nor after it, nor for the bytes alone.
    both = rewards_pb2.ScoreRequest(samples=[ask, _with_references(tall)])
    outcomes = (await concept_stub.Score(both, timeout=20)).outcomes
    assert [outcome.WhichOneof("result") for outcome in outcomes] == ["missing_references", "score"]
    bytes_alone = hashlib.sha256(flat.raw.pixels).hexdigest()
    for sample in (ask, _with_references(rewards_pb2.Image(sha256=bytes_alone))):
        outcome = (await concept_stub.Score(rewards_pb2.ScoreRequest(samples=[sample]), timeout=20)).outcomes[0]
        assert outcome.WhichOneof("result") == "missing_references"


async def test_raw_pixels_that_are_a_file_s_bytes_are_not_that_file(concept_stub: Stub) -> None:
    buffer = io.BytesIO()
    Image.fromarray(np.zeros((40, 40, 3), np.uint8)).save(buffer, "PNG")
    data = buffer.getvalue() + bytes(-len(buffer.getvalue()) % 3)  # Pillow ignores what follows the picture
    file = rewards_pb2.Image(encoded=data)
    pixels = rewards_pb2.Image(raw=rewards_pb2.RawImage(pixels=data, height=1, width=len(data) // 3))
    for first, other in ((file, pixels), (pixels, file)):
        send = rewards_pb2.ScoreRequest(samples=[_with_references(first)])
        assert (await concept_stub.Score(send, timeout=20)).outcomes[0].HasField("score")
        assert _digest(first) != _digest(other)
