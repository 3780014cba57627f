"""Tokens, teams and quotas: nobody without an active token is served, nobody takes more than its team's share."""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import logging
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest
import toys
import yaml
from certificates import Authority
from fronts import Stub, large, pushback_ms, refused, serving_as, started, trailers, until
from grpc_health.v1 import health_pb2, health_pb2_grpc
from hypothesis import given, settings
from hypothesis import strategies as st
from toys import ToyReward

from sync_r1.protos.rewards.v1 import rewards_pb2
from sync_r1.services.access import tokens
from sync_r1.services.access.interceptor import SCORE
from sync_r1.services.access.quotas import OverQuota, Team
from sync_r1.services.access.tokens import Tokens, TokensError, mint
from sync_r1.services.config import Limits, ServiceConfig, TlsConfig
from sync_r1.services.local.embedded import EmbeddedTriton
from sync_r1.services.server import RewardServer
from sync_r1.services.telemetry import scrape as watch
from sync_r1.trainer_client import ClientSettings, RewardClient, Sample, Token, picture

VISION, ROBOTS, NEXT = "vision-token-1", "robots-token-1", "vision-token-2"


def bearer(token: str) -> tuple[tuple[str, str], ...]:
    return (("authorization", f"Bearer {token}"),)


def write(path: Path, **teams: Any) -> Path:
    """The file of these teams, each the list of its tokens, or its whole entry with tokens under `tokens`."""
    entries = {}
    for name, team in teams.items():
        entry = dict(team) if isinstance(team, dict) else {"tokens": team}
        hashes = [hashlib.sha256(token.encode()).hexdigest() for token in entry.pop("tokens")]
        entries[name] = {"tokens_sha256": hashes, **entry}
    path.write_text(yaml.safe_dump({"teams": entries}))
    return path


def replace(path: Path, text: str | None) -> None:
    path.unlink()
    if text is not None:
        path.write_text(text)


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return write(tmp_path / "tokens.yaml", vision=[VISION], robots=[ROBOTS])


# Who gets in ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("metadata", "code"),
    [
        ((), "UNAUTHENTICATED"),
        ((("authorization", "Basic dTpw"),), "UNAUTHENTICATED"),
        ((("authorization", "Bearer "),), "UNAUTHENTICATED"),
        ((("authorization", VISION),), "UNAUTHENTICATED"),
        (bearer("wrong"), "PERMISSION_DENIED"),
        (bearer(VISION.upper()), "PERMISSION_DENIED"),
        (bearer(hashlib.sha256(VISION.encode()).hexdigest()), "PERMISSION_DENIED"),  # the file's line is no token
    ],
)
@pytest.mark.parametrize("method", ["Score", "Describe"])
async def test_without_an_active_token_nothing_is_answered(
    toy_triton: EmbeddedTriton, file: Path, metadata: tuple[tuple[str, str], ...], code: str, method: str
) -> None:
    async with serving_as(toy_triton.url, ServiceConfig(tokens=file)) as (server, channel):
        stub = Stub(channel)
        call = (
            stub.Score(large(20_000_000), timeout=20, metadata=metadata)
            if method == "Score"
            else stub.Describe(rewards_pb2.DescribeRequest(), timeout=20, metadata=metadata)
        )
        error = await refused(call)
        assert error.code().name == code
        assert not any(secret in error.details() for secret in (VISION, "dTpw", "wrong"))
        assert all(team.usage.requests == 0 for team in server.teams.values())


async def test_a_team_s_token_opens_the_service_and_its_use_is_counted(toy_triton: EmbeddedTriton, file: Path) -> None:
    async with serving_as(toy_triton.url, ServiceConfig(tokens=file)) as (server, channel):
        request = toys.request(1, 2, 3)
        response = await Stub(channel).Score(request, timeout=20, metadata=bearer(VISION))
        assert [outcome.score.value for outcome in response.outcomes] == [1, 2, 3]
        await Stub(channel).Score(toys.request(1), timeout=20, metadata=(("authorization", f"bearer {ROBOTS}"),))
        vision, robots = server.teams["vision"].usage, server.teams["robots"].usage
        assert (vision.requests, vision.items, vision.bytes) == (1, 3, request.ByteSize())
        assert (robots.requests, robots.items) == (1, 1)


async def test_what_each_team_used_is_on_the_metrics_page(toy_triton: EmbeddedTriton, file: Path) -> None:
    write(file, vision={"tokens": [VISION], "max_inflight_items": 2}, robots=[ROBOTS])
    config = ServiceConfig(tokens=file, metrics_port=0)

    async def used(server: RewardServer) -> dict[str, dict[str, float]]:
        seen = await asyncio.to_thread(watch.scrape, f"127.0.0.1:{server.metrics_port}")
        found: dict[str, dict[str, float]] = {}
        for (name, labels), value in seen.samples.items():
            if name.startswith("sync_r1_team_"):
                found.setdefault(dict(labels)["team"], {})[name.removeprefix("sync_r1_team_")] = value
        return found

    async with serving_as(toy_triton.url, config) as (server, channel):
        score, request = Stub(channel).Score, toys.request(1, 2)
        nothing = {"items_total": 0, "bytes_total": 0, "over_quota_total": 0, "inflight_items": 0}
        assert await used(server) == {"vision": nothing, "robots": nothing}
        await score(request, timeout=20, metadata=bearer(VISION))
        await refused(score(request, timeout=20, metadata=bearer("wrong")))
        working = asyncio.ensure_future(score(toys.request(7, variant="slow"), timeout=20, metadata=bearer(VISION)))
        await until(lambda: server.inflight_items == 1)
        await refused(score(request, timeout=20, metadata=bearer(VISION)))
        await score(request, timeout=20, metadata=bearer(ROBOTS))
        seen = await used(server)
        await working
    size = request.ByteSize()
    assert seen["robots"] == {"items_total": 2, "bytes_total": size, "over_quota_total": 0, "inflight_items": 0}
    vision = seen["vision"]
    assert (vision["items_total"], vision["over_quota_total"], vision["inflight_items"]) == (3, 1, 1)


async def test_health_is_for_everybody(toy_triton: EmbeddedTriton, file: Path) -> None:
    async with serving_as(toy_triton.url, ServiceConfig(tokens=file, health_port=0)) as (server, channel):
        for open_channel in (channel, grpc.aio.insecure_channel(f"127.0.0.1:{server.health_port}")):
            health = health_pb2_grpc.HealthStub(open_channel)
            answer = await health.Check(health_pb2.HealthCheckRequest(), timeout=20)
            assert answer.status == health_pb2.HealthCheckResponse.SERVING
            await open_channel.close()


async def test_a_token_is_replaced_without_a_gap_and_the_old_one_ends_at_once(
    toy_triton: EmbeddedTriton, file: Path
) -> None:
    async with serving_as(toy_triton.url, ServiceConfig(tokens=file)) as (server, channel):
        stub = Stub(channel)
        request = toys.request(1)
        write(file, vision=[VISION, NEXT], robots=[ROBOTS])
        for token in (VISION, NEXT, ROBOTS):
            assert (await stub.Score(request, timeout=20, metadata=bearer(token))).outcomes
        under_way = asyncio.ensure_future(
            stub.Score(toys.request(5, variant="slow"), timeout=20, metadata=bearer(VISION))
        )
        await asyncio.sleep(0.3)
        write(file, vision=[NEXT], robots=[])
        for token in (VISION, ROBOTS):
            error = await refused(stub.Score(request, timeout=20, metadata=bearer(token)))
            assert error.code() == grpc.StatusCode.PERMISSION_DENIED
        assert (await stub.Score(request, timeout=20, metadata=bearer(NEXT))).outcomes
        assert (await under_way).outcomes[0].score.value == 5  # what was admitted is answered
        assert server.teams["vision"].usage.requests == 4  # the team is the same one


@pytest.mark.parametrize("text", ["teams: [", "teams: {}", "team: {}", "", None])
async def test_a_broken_new_file_changes_nothing_and_is_logged(
    toy_triton: EmbeddedTriton, file: Path, text: str | None, caplog: pytest.LogCaptureFixture
) -> None:
    async with serving_as(toy_triton.url, ServiceConfig(tokens=file)) as (_, channel):
        stub = Stub(channel)
        replace(file, text)
        for _ in range(2):
            assert (await stub.Score(toys.request(1), timeout=20, metadata=bearer(VISION))).outcomes
        assert (await refused(stub.Score(toys.request(1), timeout=20))).code() == grpc.StatusCode.UNAUTHENTICATED
    assert caplog.text.count("the teams stay as they were") == 1


async def test_logs_and_errors_hold_no_token(
    toy_triton: EmbeddedTriton, file: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    bug = toys.request(1)
    bug.samples[0].prompt = "bug"
    async with serving_as(toy_triton.url, ServiceConfig(tokens=file)) as (_, channel):
        for token in (VISION, "a-token-of-nobody"):
            error = await refused(Stub(channel).Score(bug, timeout=20, metadata=bearer(token)))
            assert token not in error.details()
    assert "secret of the implementation" in caplog.text  # so the log was really looked at
    assert VISION not in caplog.text
    assert "a-token-of-nobody" not in caplog.text


async def test_a_team_cannot_name_the_references_of_another(toy_triton: EmbeddedTriton, file: Path) -> None:
    reference = toys.picture(9)
    digest = hashlib.sha256(b"8x8:" + reference.raw.pixels).hexdigest()

    def ask(named: rewards_pb2.Image) -> rewards_pb2.ScoreRequest:
        request = toys.request(1)
        request.samples[0].concept.references.append(named)
        return request

    reward = ToyReward(needs_references=True)
    async with serving_as(toy_triton.url, ServiceConfig(tokens=file), reward) as (_, channel):
        score = Stub(channel).Score
        assert (await score(ask(reference), timeout=20, metadata=bearer(VISION))).outcomes[0].HasField("score")
        named = ask(rewards_pb2.Image(sha256=digest))
        assert (await score(named, timeout=20, metadata=bearer(VISION))).outcomes[0].HasField("score")
        others = await score(named, timeout=20, metadata=bearer(ROBOTS))
        assert list(others.outcomes[0].missing_references.sha256) == [digest]


async def test_tls_and_tokens_together(toy_triton: EmbeddedTriton, file: Path, tmp_path: Path) -> None:
    authority = Authority()
    cert, key = authority.sign().write(tmp_path, "server")
    config = ServiceConfig(tls=TlsConfig(cert=cert, key=key), tokens=file)
    async with started(toy_triton.url, config) as (_, port):
        credentials = grpc.composite_channel_credentials(
            grpc.ssl_channel_credentials(authority.cert), grpc.access_token_call_credentials(ROBOTS)
        )
        async with grpc.aio.secure_channel(f"localhost:{port}", credentials) as channel:
            assert (await Stub(channel).Score(toys.request(4), timeout=20)).outcomes[0].score.value == 4


# The file ------------------------------------------------------------------------------------------------------------


def test_every_active_hash_is_compared_whichever_matches(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    compared: list[bytes] = []
    compare = hmac.compare_digest

    def counting(known: bytes, shown: bytes) -> bool:
        compared.append(known)
        return compare(known, shown)

    monkeypatch.setattr(tokens.hmac, "compare_digest", counting)
    write(file, vision=[VISION, NEXT], robots=[ROBOTS])
    read = Tokens(file)
    for token, name in ((VISION, "vision"), (ROBOTS, "robots"), ("x", None)):
        compared.clear()
        team = read.team_of(token)
        assert (team.name if team is not None else None) == name
        assert len(compared) == 3


def test_a_minted_token_is_the_one_its_hash_belongs_to(tmp_path: Path) -> None:
    token, digest = mint()
    assert len(token) >= 43  # 256 bits
    assert mint()[0] != token
    path = tmp_path / "tokens.yaml"
    path.write_text(f"teams: {{a: {{tokens_sha256: [{digest}]}}}}")
    team = Tokens(path).team_of(token)
    assert team is not None
    assert team.name == "a"


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("teams: {vision: {tokens_sha256: [secret-token-in-clear]}}", "teams.vision.tokens_sha256.0"),
        ("teams: {vision: {tokens_sha256: []}, robots: {}}", "teams.robots.tokens_sha256"),
        ("teams: {'a b': {tokens_sha256: []}}", "teams.a b"),
        ("teams: {vision: {tokens_sha256: [], items_per_s: 0}}", "items_per_s"),
        ("teams: {vision: {tokens_sha256: [], rate: 5}}", "teams.vision.rate"),
        (f"teams: {{a: {{tokens_sha256: [{'a' * 64}]}}, b: {{tokens_sha256: [{'a' * 64}]}}}}", "the same token"),
        ("vision", "the file"),
    ],
)
def test_a_wrong_file_is_refused_with_the_place_and_without_the_value(tmp_path: Path, text: str, said: str) -> None:
    path = tmp_path / "tokens.yaml"
    path.write_text(text)
    with pytest.raises(TokensError) as caught:
        Tokens(path)
    assert said in str(caught.value)
    assert "tokens.yaml" in str(caught.value)
    assert "secret-token" not in str(caught.value)


# Quotas --------------------------------------------------------------------------------------------------------------


async def test_a_team_over_its_share_in_work_waits_while_another_is_served(
    toy_triton: EmbeddedTriton, file: Path
) -> None:
    write(file, vision={"tokens": [VISION], "max_inflight_items": 1}, robots=[ROBOTS])
    async with serving_as(toy_triton.url, ServiceConfig(tokens=file)) as (server, channel):
        score = Stub(channel).Score
        working = asyncio.ensure_future(score(toys.request(1, variant="slow"), timeout=20, metadata=bearer(VISION)))
        await asyncio.sleep(0.3)
        error = await refused(score(toys.request(3), timeout=20, metadata=bearer(VISION)))
        assert error.code() == grpc.StatusCode.RESOURCE_EXHAUSTED
        assert "max_inflight_items" in error.details()
        assert (pushback_ms(error) or 0) > 0
        assert (await score(toys.request(3), timeout=20, metadata=bearer(ROBOTS))).outcomes
        assert len((await working).outcomes) == 1
        assert (await score(toys.request(3), timeout=20, metadata=bearer(VISION))).outcomes
        assert server.teams["vision"].usage.over_quota == 1


async def test_a_team_over_its_rate_is_told_when_to_come_back(toy_triton: EmbeddedTriton, file: Path) -> None:
    write(file, vision={"tokens": [VISION], "items_per_s": 2}, robots=[ROBOTS])
    async with serving_as(toy_triton.url, ServiceConfig(tokens=file)) as (_, channel):
        score, too_large = Stub(channel).Score, large(140_000_000)
        await score(toys.request(*range(12)), timeout=20, metadata=bearer(VISION))  # 10 items into debt: 5 s
        # Refused from the metadata alone: its body is over gRPC's own limit and would have been told that instead.
        error = await refused(score(too_large, timeout=20, metadata=bearer(VISION)))
        assert error.code() == grpc.StatusCode.RESOURCE_EXHAUSTED
        assert "items_per_s" in error.details()
        wait_ms = pushback_ms(error)
        assert wait_ms is not None
        assert 0 < wait_ms <= 5000
        assert (await score(toys.request(3), timeout=20, metadata=bearer(ROBOTS))).outcomes
        await asyncio.sleep(wait_ms / 1000 + 0.05)
        assert (await score(toys.request(3), timeout=20, metadata=bearer(VISION))).outcomes


@pytest.mark.parametrize("share", [None, 2048])
async def test_a_team_s_announced_bodies_fill_its_own_share_only(
    toy_triton: EmbeddedTriton, file: Path, share: int | None
) -> None:
    """It announces bodies and keeps them: without a share of its own it shuts everybody out, for a bounded time."""
    write(file, vision={"tokens": [VISION]} | ({"max_inflight_bytes": share} if share else {}), robots=[ROBOTS])
    config = ServiceConfig(tokens=file, limits=Limits(max_request_bytes=2048), max_inflight_bytes=4096)
    async with serving_as(toy_triton.url, config) as (server, channel):
        sizes = (("x-byte-size", "2048"), *bearer(VISION))
        kept = [channel.stream_unary(SCORE)(timeout=30, metadata=sizes) for _ in range(2)]
        await until(lambda: server.inflight_bytes == (share or 4096))
        score, request = Stub(channel).Score, toys.request(1)
        announced = (("x-byte-size", str(request.ByteSize())),)
        if share is None:
            error = await refused(score(request, timeout=20, metadata=(*announced, *bearer(ROBOTS))))
            assert error.code() == grpc.StatusCode.RESOURCE_EXHAUSTED
        else:
            assert (await score(request, timeout=20, metadata=(*announced, *bearer(ROBOTS)))).outcomes
            error = await refused(score(request, timeout=20, metadata=(*announced, *bearer(VISION))))
            assert trailers(error)["sync-r1-refused"] == "quota"
            assert "may have 2048 (max_inflight_bytes)" in error.details()
        for call in kept:
            call.cancel()
        await until(lambda: server.inflight_bytes == 0)
        assert (await score(request, timeout=20, metadata=(*announced, *bearer(VISION)))).outcomes


async def test_describe_tells_a_team_its_own_limits_and_its_client_keeps_to_them(
    toy_triton: EmbeddedTriton, file: Path
) -> None:
    write(file, vision={"tokens": [VISION], "max_inflight_items": 2, "max_inflight_bytes": 1_000_000}, robots=[ROBOTS])
    async with started(toy_triton.url, ServiceConfig(tokens=file)) as (server, port):
        for token, items, size in ((VISION, 2, 1_000_000), (ROBOTS, 256, 64 << 20)):
            settings = ClientSettings(token=Token(token))
            async with RewardClient(f"127.0.0.1:{port}", settings) as client:
                limits = (await client.describe()).limits
                assert (limits.max_items, limits.max_request_bytes) == (items, size)
                batch = await client.score([Sample(image=picture(np.full((8, 8, 3), n, np.uint8))) for n in range(7)])
                assert [outcome.value for outcome in batch.outcomes] == list(range(7))
        assert server.teams["vision"].usage.over_quota == 0
        async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
            error = await refused(Stub(channel).Score(toys.request(1, 2, 3), timeout=20, metadata=bearer(VISION)))
    assert error.code() == grpc.StatusCode.INVALID_ARGUMENT  # it could wait for ever
    assert "may have 2 items in work (max_inflight_items), the request has 3" in error.details()


async def test_what_the_service_refuses_is_not_charged_to_the_team(toy_triton: EmbeddedTriton, file: Path) -> None:
    write(file, vision={"tokens": [VISION], "items_per_s": 1000})
    config = ServiceConfig(tokens=file, limits=Limits(max_items=1, max_inflight_items=1))
    async with serving_as(toy_triton.url, config) as (server, channel):
        score = Stub(channel).Score
        working = asyncio.ensure_future(score(toys.request(1, variant="slow"), timeout=20, metadata=bearer(VISION)))
        await asyncio.sleep(0.3)
        assert "may be" in (await refused(score(toys.request(3), timeout=20, metadata=bearer(VISION)))).details()
        await working
        usage = server.teams["vision"].usage
        assert (usage.requests, usage.items, usage.over_quota) == (1, 1, 0)


class _Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


@settings(deadline=None, max_examples=200)
@given(
    rate=st.integers(1, 50),
    steps=st.lists(st.tuples(st.floats(0, 3), st.integers(1, 40)), min_size=1, max_size=60),
)
def test_the_rate_holds_over_any_time_up_to_one_second_s_worth_and_one_request(
    rate: int, steps: list[tuple[float, int]]
) -> None:
    clock = _Clock()
    team = Team("t", clock)
    team.allow(items_per_s=rate, max_inflight_items=None)
    used = largest = 0
    for wait_s, items in steps:
        clock.now += wait_s
        try:
            with team.admit(items, 0):
                used += items
                largest = max(largest, items)
        except OverQuota as error:
            clock.now += error.pushback_ms / 1000 + 1e-6
            with team.admit(items, 0):  # whoever waits as told is admitted
                used += items
                largest = max(largest, items)
        assert used <= rate * (clock.now + 1) + largest
    assert team.inflight_items == 0
