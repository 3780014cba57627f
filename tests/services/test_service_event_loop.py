"""Nobody's request stops the others: what is within the published limits is refused or worked on off the event loop."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Sequence
from dataclasses import replace

import grpc
import numpy as np
import pytest
import toys
from fronts import Stub, refused, serving, serving_as
from hypothesis import given
from hypothesis import strategies as st

from sync_r1.protos.rewards.v1 import rewards_pb2
from sync_r1.reward_models.graphs.spec import GraphSpec
from sync_r1.reward_models.inputs.encoders import TextEncoder
from sync_r1.reward_models.profiles import load_profile
from sync_r1.reward_models.rewards.text_faithfulness import MAX_CLAUSES, TextFaithfulness
from sync_r1.reward_models.runner import RunContext, RunResult, Tensors
from sync_r1.reward_models.threads import in_thread, in_time
from sync_r1.reward_models.types import Failure, GraphDeadline, RequestTooLong, Sample
from sync_r1.services.access.status import InvalidRequest
from sync_r1.services.config import Limits, ServiceConfig
from sync_r1.services.front import codec
from sync_r1.services.front.wire_scan import check_wire
from sync_r1.services.local.embedded import EmbeddedTriton
from sync_r1.services.telemetry.scrape import scrape

FAR_S = 1e12


async def test_more_fields_than_published_are_refused_before_they_are_parsed(
    toy_triton: EmbeddedTriton, monkeypatch: pytest.MonkeyPatch
) -> None:
    parsed: list[int] = []

    class Counting:
        FromString = staticmethod(lambda body: parsed.append(len(body)))

    request = toys.request(1)
    request.samples[0].choices.extend([""] * 1_600_000)
    body = request.SerializeToString()
    with monkeypatch.context() as patched:
        patched.setattr(codec.rewards_pb2, "ScoreRequest", Counting)
        with pytest.raises(InvalidRequest, match="more than 65536 fields"):
            codec.parse(body, Limits())
    assert parsed == []
    async with serving(toy_triton.url) as (_, channel):
        error = await refused(Stub(channel).Score(request, timeout=60))
    assert error.code() == grpc.StatusCode.INVALID_ARGUMENT
    assert "max_request_fields" in error.details()


@pytest.mark.parametrize("field", ["prompt", "metadata", "choices", "unknown"])
def test_bytes_beside_the_pictures_are_refused_before_they_are_parsed_wherever_they_are(field: str) -> None:
    request = toys.request(*range(9))
    for sample in request.samples:
        if field == "prompt":
            sample.prompt = "a," * 300
        elif field == "metadata":
            sample.metadata["note"] = "x" * 600
        elif field == "choices":
            sample.choices.extend(["x" * 60] * 10)
    body = request.SerializeToString()
    if field == "unknown":
        body += bytes([0x7A, 0x80, 0x28]) + b"x" * 5120  # field 15 of the request, which the contract has not
    with pytest.raises(InvalidRequest, match="max_request_text_bytes"):
        check_wire(body, Limits(max_request_text_bytes=5000))


def test_pictures_do_not_count_as_texts() -> None:
    request = toys.request(1, 2)
    for sample in request.samples:
        sample.image.CopyFrom(toys.picture(1, side=64))
        sample.concept.references.add(encoded=b"x" * 20_000)
    check_wire(request.SerializeToString(), Limits(max_request_text_bytes=1024))


@given(st.binary(max_size=200))
def test_bytes_that_are_no_request_end_the_scan_and_are_the_parsers(body: bytes) -> None:
    check_wire(body, Limits())


async def test_one_item_with_too_many_texts_fails_alone_and_says_how_many_are_allowed(
    toy_triton: EmbeddedTriton,
) -> None:
    request = toys.request(7, 8)
    request.samples[0].nouns.extend(["dog"] * 65)
    async with serving(toy_triton.url) as (_, channel):
        described = await Stub(channel).Describe(rewards_pb2.DescribeRequest(), timeout=20)
        outcomes = (await Stub(channel).Score(request, timeout=20)).outcomes
    assert described.limits.max_texts == 64
    assert outcomes[0].failure.code == rewards_pb2.FAILURE_CODE_BAD_TEXT
    assert outcomes[0].failure.field == "nouns"
    assert outcomes[1].score.value == 8


async def test_every_limit_of_a_request_is_published(toy_triton: EmbeddedTriton) -> None:
    async with serving(toy_triton.url) as (_, channel):
        limits = (await Stub(channel).Describe(rewards_pb2.DescribeRequest(), timeout=20)).limits
    assert {field.name: value for field, value in limits.ListFields()} == Limits().model_dump()


class _Ones:
    """A runner whose every output is ones; it notes the rows that it was given."""

    def __init__(self, width: int = 4) -> None:
        self.rows: list[int] = []
        self._width = width

    async def run(self, context: RunContext, graph: str, inputs: Tensors) -> RunResult:
        rows = len(next(iter(inputs.values())))
        self.rows.append(rows)
        return RunResult({"embedding": np.ones((rows, self._width), np.float32)}, 1, 0)


def _encoder(graph: GraphSpec, seen: list[str]) -> TextEncoder:
    """Ten token ids for each text; it notes the thread that it works in."""

    def encode(texts: Sequence[str]) -> dict[str, np.ndarray]:
        seen.append(threading.current_thread().name)
        return {"tokens": np.ones((len(texts), 10), np.int64)}

    return TextEncoder(graph, encode)


async def test_a_call_whose_texts_take_more_tokens_than_published_runs_no_graph() -> None:
    runner = _Ones()
    encoder = _encoder(load_profile("pocket").graphs["pocket_clip_text"], [])
    context = RunContext(toys.release(), FAR_S, max_tokens=100)
    with pytest.raises(RequestTooLong, match=r"take 110 token ids or more, the limit is 100 \(max_request_tokens\)"):
        await encoder.run([f"text {number}" for number in range(11)], runner, context)
    assert runner.rows == []
    await encoder.run([f"text {number}" for number in range(10)], runner, context)
    assert runner.rows == [10]


def test_too_many_tokens_are_the_callers_error() -> None:
    from sync_r1.services.access import status

    assert status._SAID_AS_IT_IS[RequestTooLong] == grpc.StatusCode.INVALID_ARGUMENT


async def test_texts_are_split_and_tokenised_off_the_event_loop() -> None:
    reward = load_profile("pocket").rewards["text-faithfulness"].variants["clauses"]
    assert isinstance(reward, TextFaithfulness)
    seen: list[str] = []
    hostile = replace(reward, text_encoder=_encoder(reward.text_encoder.graph, seen), split=True)
    picture = toys_picture()
    samples = [Sample(id=str(number), image=picture, prompt="a," * 4096) for number in range(8)]
    await hostile.score(samples, _Ones(), RunContext(toys.release(), FAR_S))
    assert seen
    assert threading.main_thread().name not in seen


async def test_a_prompt_of_more_clauses_than_a_graph_should_read_fails_alone() -> None:
    reward = load_profile("pocket").rewards["text-faithfulness"].variants["clauses"]
    assert isinstance(reward, TextFaithfulness)
    quiet = replace(reward, text_encoder=_encoder(reward.text_encoder.graph, []), split=True)
    many = ", ".join(f"a{number} dog" for number in range(MAX_CLAUSES + 1))
    samples = [Sample(id="0", image=toys_picture(), prompt=many), Sample(id="1", image=toys_picture(), prompt="a dog")]
    first, second = await quiet.score(samples, _Ones(), RunContext(toys.release(), FAR_S))
    assert isinstance(first, Failure)
    assert f"the limit is {MAX_CLAUSES}" in first.message
    assert not isinstance(second, Failure)


def toys_picture() -> object:
    from tiny_graphs import picture

    return picture(1)


async def test_work_is_not_begun_in_a_thread_after_its_deadline() -> None:
    begun: list[int] = []
    with pytest.raises(GraphDeadline):
        await in_thread(time.monotonic() - 1, lambda: begun.append(1))
    assert begun == []


async def test_work_under_way_in_a_thread_ends_at_its_deadline() -> None:
    """A thread cannot be stopped; it looks at the clock between two items."""
    deadline_s = time.monotonic() + 0.2
    done: list[int] = []

    def endless() -> None:
        for _ in in_time(iter(int, 1), deadline_s):
            done.append(1)
            time.sleep(0.01)

    with pytest.raises(GraphDeadline):
        await asyncio.wait_for(in_thread(deadline_s, endless), 60)
    assert done


async def test_the_service_says_how_late_its_event_loop_is(toy_triton: EmbeddedTriton) -> None:
    async with serving_as(toy_triton.url, ServiceConfig(metrics_port=0)) as (server, _):
        await asyncio.sleep(0.2)
        asyncio.get_running_loop().call_soon(time.sleep, 0.3)  # what a request must never do
        await asyncio.sleep(0.2)
        found = (await asyncio.to_thread(scrape, f"127.0.0.1:{server.metrics_port}")).samples
    lag = {
        float(dict(labels)["le"]): value
        for (name, labels), value in found.items()
        if name == "sync_r1_event_loop_lag_seconds_bucket"
    }
    assert lag[float("inf")] >= 3
    assert lag[float("inf")] - lag[0.2] >= 1
