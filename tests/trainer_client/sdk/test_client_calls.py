"""The reward client: order, batching, references and everything a service can do wrong, over real gRPC."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace

import grpc
import numpy as np
import pytest
from scripted_service import RELEASE, ScriptedService, aborting, overloaded, sleeping

from sync_r1.protos.rewards.v1 import rewards_pb2 as pb
from sync_r1.reward_models.types import Concept, Failure, FailureCode, NotApplicable, Picture, Sample, Score
from sync_r1.trainer_client import (
    Backoff,
    ClientSettings,
    DeadlineExceeded,
    Overloaded,
    RequestRejected,
    RewardClient,
    ServiceBug,
    ServiceUnreachable,
    SyncRewardClient,
    Timeout,
    picture,
)


def quick(total_s: float, connect_s: float) -> ClientSettings:
    return ClientSettings(Timeout(total_s, connect_s), backoff=Backoff(0.01, 0.05))


def grey(value: int, side: int = 4) -> Picture:
    return picture(np.full((side, side, 3), value, np.uint8))


def samples(count: int, *, group: str = "", references: tuple[Picture, ...] = ()) -> list[Sample]:
    concept = Concept("<bo>", "dog", references)
    return [Sample(group=group, image=grey(i), concept=concept) for i in range(count)]


def values(outcomes: tuple[object, ...]) -> list[float]:
    return [outcome.value for outcome in outcomes if isinstance(outcome, Score)]


@asynccontextmanager
async def running(*services: ScriptedService) -> AsyncIterator[RewardClient]:
    for service in services:
        await service.start()
    client = RewardClient([service.target for service in services], quick(10, 1))
    try:
        yield client
    finally:
        await client.close()
        for service in services:
            await service.stop()


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


# --- order, results, batching -------------------------------------------------------------------------------------


async def test_outcomes_come_back_in_order_across_several_requests() -> None:
    service = ScriptedService(script=[sleeping(0.1)])  # the first request answers last
    async with running(service) as client:
        batch = await client.score(samples(21))
    assert values(batch.outcomes) == list(range(21))
    assert sorted(len(request.samples) for request in service.requests) == [7, 7, 7]
    assert (batch.reward, batch.variant, batch.release) == ("aesthetic", "mean", RELEASE)
    assert [(t.items, t.attempts, t.triton_ns) for t in batch.timings] == [(7, 1, 3)] * 3
    assert service.describes == 1


async def test_failures_and_not_applicable_are_told_apart_and_others_are_scored() -> None:
    prompts = ["", "fail", "not applicable", "nan", ""]
    async with running(ScriptedService()) as client:
        batch = await client.score([Sample(image=grey(7), prompt=prompt) for prompt in prompts])
    kinds = [type(outcome) for outcome in batch.outcomes]
    assert kinds == [Score, Failure, NotApplicable, Failure, Score]
    assert batch.outcomes[1] == Failure(FailureCode.BAD_IMAGE, "image: not decodable", "image")
    assert batch.outcomes[3].code is FailureCode.NON_FINITE


async def test_groups_of_a_groupwise_reward_are_never_split() -> None:
    service = ScriptedService(groupwise=True)
    async with running(service) as client:
        mixed = [replace(sample, id=f"{g}/{i}", group=g) for i in range(5) for g, sample in zip("abc", samples(3))]
        await client.score(mixed)
    seen = [{sample.group for sample in request.samples} for request in service.requests]
    assert sorted("".join(sorted(groups)) for groups in seen) == ["a", "b", "c"]
    assert all(len(request.samples) == 5 for request in service.requests)


async def test_group_over_the_limit_is_refused_with_both_numbers() -> None:
    async with running(ScriptedService(groupwise=True)) as client:
        with pytest.raises(RequestRejected, match=r"'g' has 9 samples.*at most 8"):
            await client.score(samples(9, group="g"))


async def test_requests_stay_under_the_byte_limit_and_an_oversized_item_fails_alone() -> None:
    service = ScriptedService()
    service.limits.max_request_bytes = 20_000
    async with running(service) as client:
        batch = await client.score([Sample(image=grey(i, side)) for i, side in enumerate([50, 50, 50, 50, 90])])
    assert values(batch.outcomes) == [0, 1, 2, 3]
    assert isinstance(batch.outcomes[4], Failure)
    assert batch.outcomes[4].field == "image"
    assert "a request may hold" in batch.outcomes[4].message
    assert max(request.ByteSize() for request in service.requests) <= 20_000


async def test_answer_that_was_never_given_is_a_failure_and_an_empty_one_is_sent() -> None:
    service = ScriptedService(required_fields=("question", "answer"))
    async with running(service) as client:
        batch = await client.score([Sample(question="?", answer=None), Sample(question="?", answer="")])
    assert [type(outcome) for outcome in batch.outcomes] == [Failure, Score]
    assert batch.outcomes[0].code is FailureCode.MISSING_FIELD
    assert [len(request.samples) for request in service.requests] == [1]


async def test_pictures_a_reward_does_not_use_are_not_sent() -> None:
    service = ScriptedService(required_fields=("question", "answer"))
    async with running(service) as client:
        await client.score([Sample(image=grey(1), concept=Concept(references=(grey(2),)), question="?", answer="a")])
    sent = service.requests[0].samples[0]
    assert not sent.HasField("image")
    assert not sent.concept.references


async def test_variant_release_and_request_id_travel_in_message_and_metadata() -> None:
    service = ScriptedService()
    async with running(service) as client:
        batch = await client.score(samples(1), variant="mean", release="b" * 64)
    assert (service.requests[0].variant, service.requests[0].release) == ("mean", "b" * 64)
    assert service.requests[0].request_id
    assert service.metadata[0]["sync-r1-variant"] == "mean"
    assert service.metadata[0]["sync-r1-release"] == "b" * 64
    assert batch.release == "b" * 64


async def test_batch_scored_by_two_releases_is_scored_again_by_one() -> None:
    service = ScriptedService()

    async def next_release(request: pb.ScoreRequest, context: object) -> pb.ScoreResponse:
        response = service.scored(request)
        response.release = "c" * 64
        return response

    service.script = [next_release]
    async with running(service) as client:
        batch = await client.score(samples(16))
    assert values(batch.outcomes) == list(range(16))
    assert [request.release for request in service.requests][:2] == ["", ""]
    assert service.requests[2].release == batch.release


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        (lambda response: response.outcomes.pop(), "3 samples were sent, 2 outcomes"),
        (lambda response: response.outcomes.reverse(), r"outcomes\[0\].id is '2', not '0'"),
        (lambda response: response.outcomes[1].ClearField("score"), "the outcome of '1' is empty"),
    ],
)
async def test_response_that_breaks_the_contract_is_the_services_bug(bad: object, message: str) -> None:
    service = ScriptedService()

    async def step(request: pb.ScoreRequest, context: object) -> pb.ScoreResponse:
        response = service.scored(request)
        bad(response)  # type: ignore[operator]
        return response

    service.script = [step]
    async with running(service) as client:
        with pytest.raises(ServiceBug, match=message):
            await client.score(samples(3))


async def test_bad_arguments_are_refused_before_anything_is_sent() -> None:
    service = ScriptedService()
    async with running(service) as client:
        with pytest.raises(RequestRejected, match="samples is empty"):
            await client.score([])
        with pytest.raises(RequestRejected, match=r"'x' is used twice"):
            await client.score([Sample(id="x"), Sample(id="x")])
        with pytest.raises(RequestRejected, match=r"no variant 'nope'; it has \['mean'\]"):
            await client.score(samples(1), variant="nope")
        with pytest.raises(RequestRejected, match="samples: expected a sequence of Sample, got Sample"):
            await client.score(Sample(image=grey(1)))  # type: ignore[arg-type]
        with pytest.raises(RequestRejected, match=r"release: expected a text of printable ASCII.*'\\xe9'"):
            await client.score(samples(1), release="é")
    assert not service.requests


# --- references ---------------------------------------------------------------------------------------------------


async def test_references_are_sent_once_and_then_by_digest() -> None:
    service = ScriptedService(required_fields=("image", "concept.references"))
    references = (grey(200), grey(201))
    async with running(service) as client:
        await client.score(samples(3, references=references))
        await client.score(samples(3, references=references))
    kinds = [[r.WhichOneof("source") for s in q.samples for r in s.concept.references] for q in service.requests]
    assert kinds == [["raw", "raw"] + ["sha256"] * 4, ["sha256"] * 6]


async def test_items_whose_references_were_lost_are_sent_again_with_all_of_them() -> None:
    service = ScriptedService(required_fields=("image", "concept.references"))
    references = (grey(200), grey(201))
    async with running(service) as client:
        await client.score(samples(2, references=references))
        service.known.clear()  # as after a restart
        batch = await client.score(samples(2, references=references))
    assert values(batch.outcomes) == [0, 1]
    resent = [r.WhichOneof("source") for s in service.requests[-1].samples for r in s.concept.references]
    assert resent == ["raw"] * 4


async def test_whole_group_is_sent_again_when_one_item_of_a_groupwise_reward_lacks_references() -> None:
    service = ScriptedService(required_fields=("image", "concept.references"), groupwise=True)
    async with running(service) as client:
        await client.score(samples(1, references=(grey(200),)))
        service.known.clear()
        pair = samples(1, group="g") + samples(1, group="g", references=(grey(200),))
        batch = await client.score([replace(sample, id=str(i)) for i, sample in enumerate(pair)])
    assert len(values(batch.outcomes)) == 2
    assert [len(request.samples) for request in service.requests] == [1, 2, 2]


async def test_service_that_always_misses_references_ends_in_an_error() -> None:
    service = ScriptedService(required_fields=("image", "concept.references"))

    async def missing(request: pb.ScoreRequest, context: object) -> pb.ScoreResponse:
        lacking = pb.MissingReferences(sha256=["f" * 64])
        return pb.ScoreResponse(outcomes=[pb.Outcome(id=s.id, missing_references=lacking) for s in request.samples])

    service.script = [missing] * 2
    async with running(service) as client:
        with pytest.raises(ServiceBug, match="every reference was sent"):
            await client.score(samples(1, references=(grey(200),)))


# --- faults -------------------------------------------------------------------------------------------------------


async def test_nothing_on_the_port_names_the_port_and_the_cure() -> None:
    port = free_port()
    async with RewardClient(f"127.0.0.1:{port}", quick(30, 0.3)) as client:
        with pytest.raises(
            ServiceUnreachable, match=rf"nothing answers at 127.0.0.1:{port}; is `sync-r1 up` running\?"
        ):
            await client.score(samples(1))


async def test_port_that_takes_connections_and_says_nothing_is_given_up() -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        target = f"127.0.0.1:{silent.getsockname()[1]}"
        async with RewardClient(target, quick(30, 0.3)) as client:
            with pytest.raises(ServiceUnreachable, match=f"nothing answers at {target}"):
                await client.score(samples(1))


async def test_unavailable_and_overloaded_are_retried() -> None:
    service = ScriptedService(script=[aborting(grpc.StatusCode.UNAVAILABLE, "Triton is down"), overloaded()])
    async with running(service) as client:
        batch = await client.score(samples(2))
    assert values(batch.outcomes) == [0, 1]
    assert batch.timings[0].attempts == 3


async def test_overload_beyond_the_budget_is_reported_at_once() -> None:
    async with running(ScriptedService(script=[overloaded(pushback_ms=60_000)])) as client:
        with pytest.raises(Overloaded, match=r"queue full.*gave up after 1 attempts") as caught:
            await client.score(samples(1), timeout_s=5)
    assert caught.value.pushback_s == 60


@pytest.mark.parametrize(
    ("code", "trailers", "expected"),
    [
        (grpc.StatusCode.INVALID_ARGUMENT, {}, RequestRejected),
        (grpc.StatusCode.NOT_FOUND, {}, RequestRejected),
        (grpc.StatusCode.UNAUTHENTICATED, {}, RequestRejected),
        (grpc.StatusCode.RESOURCE_EXHAUSTED, {}, RequestRejected),
        (grpc.StatusCode.RESOURCE_EXHAUSTED, {"grpc_retry_pushback_ms": "-1"}, RequestRejected),
        (grpc.StatusCode.DEADLINE_EXCEEDED, {}, DeadlineExceeded),
        (grpc.StatusCode.INTERNAL, {}, ServiceBug),
        (grpc.StatusCode.UNKNOWN, {}, ServiceBug),
    ],
)
async def test_everything_else_is_never_retried(
    code: grpc.StatusCode, trailers: dict[str, str], expected: type[Exception]
) -> None:
    service = ScriptedService(script=[aborting(code, "error id 1234", **trailers)])
    async with running(service) as client:
        with pytest.raises(expected, match="error id 1234"):
            await client.score(samples(1))
    assert len(service.requests) == 1


async def test_slow_service_ends_with_the_callers_time() -> None:
    async with running(ScriptedService(script=[sleeping(20)])) as client:
        with pytest.raises(DeadlineExceeded):
            await client.score(samples(1), timeout_s=0.3)


async def test_restarted_service_is_found_again() -> None:
    service = ScriptedService()
    async with running(service) as client:
        await client.score(samples(1))
        await service.stop()
        task = asyncio.ensure_future(client.score(samples(1)))
        await asyncio.sleep(0.2)
        assert not task.done()
        await service.start(service.port)
        assert values((await task).outcomes) == [0]


async def test_wait_ready_waits_for_serving_and_says_why_it_gave_up() -> None:
    service = ScriptedService(serving=False)
    async with running(service) as client:
        with pytest.raises(ServiceUnreachable, match="not serving"):
            await client.wait_ready(0.2)
        service.serving = True
        await client.wait_ready(5)
    async with RewardClient(f"127.0.0.1:{free_port()}", quick(5, 0.2)) as client:
        with pytest.raises(ServiceUnreachable, match="nothing answers"):
            await client.wait_ready(0.3)


async def test_client_of_another_event_loop_is_refused_in_words() -> None:
    async with running(ScriptedService()) as client:
        await client.score(samples(1))
        with pytest.raises(RuntimeError, match="another event loop"):
            await asyncio.to_thread(lambda: asyncio.run(client.score(samples(1))))


async def test_sync_client_works_while_another_loop_runs() -> None:
    """As in a notebook: the calling thread has a running loop already."""
    service = await ScriptedService().start()

    def work() -> list[float]:
        async def cell() -> list[float]:
            with SyncRewardClient(service.target) as client:
                client.wait_ready(5)
                assert client.describe().reward == "aesthetic"
                return values(client.score(samples(3)).outcomes)

        return asyncio.run(cell())

    assert await asyncio.to_thread(work) == [0, 1, 2]
    await service.stop()
