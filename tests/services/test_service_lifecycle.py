"""The life of a service as a process: it drains without losing anything admitted, and moves its clients on in time."""

from __future__ import annotations

import asyncio
import os
import re
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import grpc
import pytest
import tiny_graphs
import toys
from fronts import Stub, serving_as, until
from grpc_health.v1 import health_pb2, health_pb2_grpc

from sync_r1.protos.rewards.v1 import rewards_pb2
from sync_r1.reward_models.backends.repository import write_repository
from sync_r1.reward_models.graphs.spec import data_path
from sync_r1.reward_models.profiles import load_profile
from sync_r1.services.config import ServiceConfig
from sync_r1.services.front.servicer import RewardServicer
from sync_r1.services.local import processes, up
from sync_r1.services.local.embedded import EmbeddedTriton
from sync_r1.services.serve import ServeConfig
from sync_r1.trainer_client.jobs.local_services import START_TIMEOUT_S


@pytest.fixture
def tiny_triton(tmp_path: Path) -> Iterator[EmbeddedTriton]:
    """A Triton with the graphs of `tmp_path`/tiny.yaml."""
    profile = tiny_graphs.write_tiny_profile(tmp_path)
    write_repository(profile, tmp_path / "models", backend="python", graphs=["pocket_aesthetic"], threads=1)
    with EmbeddedTriton(tmp_path / "models") as triton:
        yield triton


async def test_sigterm_under_load_loses_nothing_that_was_admitted(tiny_triton: EmbeddedTriton, tmp_path: Path) -> None:
    announced = tmp_path / "address"
    config = ServeConfig(
        reward="aesthetic",
        profile=str(tmp_path / "tiny.yaml"),
        triton=tiny_triton.url,
        announce=announced,
        service=ServiceConfig(drain_s=1.0),
    )
    log = tmp_path / "service.log"
    command = [sys.executable, "-m", "sync_r1.services.serve", config.model_dump_json()]
    process = processes.spawn(command, log=log, environment=os.environ)
    try:
        await until(lambda: announced.exists() or process.poll() is not None, 60)
        assert process.poll() is None, processes.tail(log)
        address = announced.read_text()
        answered: list[float] = []
        errors: list[grpc.StatusCode] = []

        async def client(number: int) -> None:
            picture = tiny_graphs.picture(number).pixels
            image = rewards_pb2.Image(raw=rewards_pb2.RawImage(pixels=picture.tobytes(), height=8, width=8))
            request = rewards_pb2.ScoreRequest(samples=[rewards_pb2.Sample(image=image)] * 3)
            options = [("grpc.use_local_subchannel_pool", 1)]
            async with grpc.aio.insecure_channel(address, options=options) as channel:
                while True:
                    try:
                        response = await Stub(channel).Score(request, timeout=60)
                    except grpc.aio.AioRpcError as error:
                        errors.append(error.code())
                        return
                    assert all(outcome.HasField("score") for outcome in response.outcomes)
                    answered.append(time.monotonic())

        clients = [asyncio.create_task(client(number)) for number in range(8)]
        await until(lambda: len(answered) >= 50, 60)
        process.terminate()
        await asyncio.sleep(0.3)
        async with grpc.aio.insecure_channel(address) as channel:  # load balancers are told first …
            health = await health_pb2_grpc.HealthStub(channel).Check(health_pb2.HealthCheckRequest(), timeout=20)
        assert health.status == health_pb2.HealthCheckResponse.NOT_SERVING
        told_s = time.monotonic()
        await asyncio.wait_for(asyncio.gather(*clients), 60)
        assert max(answered) > told_s  # … and whoever has not turned away yet is still served
        assert set(errors) == {grpc.StatusCode.UNAVAILABLE}
        assert await asyncio.to_thread(process.wait, 60) == 0
    finally:
        processes.stop(process, grace_s=5)
    drained = re.search(r"drained; (\d+) requests were admitted, (\d+) items are left", processes.tail(log, 50))
    assert drained is not None
    assert (int(drained[1]), int(drained[2])) == (len(answered), 0)


async def test_clients_are_moved_to_new_connections_and_lose_no_call(
    toy_triton: EmbeddedTriton, monkeypatch: pytest.MonkeyPatch
) -> None:
    peers = set()
    describe = RewardServicer.describe

    async def recording(self: RewardServicer, request: Any, context: grpc.aio.ServicerContext) -> Any:
        peers.add(context.peer())
        return await describe(self, request, context)

    monkeypatch.setattr(RewardServicer, "describe", recording)
    async with serving_as(toy_triton.url, ServiceConfig(max_connection_age_s=0.3)) as (_, channel):
        stub = Stub(channel)
        slow = [asyncio.ensure_future(stub.Score(toys.request(n, variant="slow"), timeout=60)) for n in range(3)]
        until_s = time.monotonic() + 2.5
        while time.monotonic() < until_s or len(peers) < 3:
            await stub.Describe(rewards_pb2.DescribeRequest(), timeout=20)  # raises if the move costs a call
            await asyncio.sleep(0.01)
            assert time.monotonic() < until_s + 60
        assert [(await call).outcomes[0].score.value for call in slow] == [0, 1, 2]
    assert len(peers) >= 3


def test_a_service_told_of_a_wrong_file_does_not_start_and_says_which(tmp_path: Path) -> None:
    file = tmp_path / "wrong.file"
    file.write_text("teams: {vision: {}}")
    command = [sys.executable, "-m", "sync_r1.cli.main", "serve", "aesthetic", "--triton", "127.0.0.1:9", "--port", "0"]
    done = subprocess.run([*command, "--tokens", str(file)], capture_output=True, text=True, timeout=120, check=False)
    output = "".join((done.stdout + done.stderr).split("\n"))
    assert done.returncode == 1
    assert "wrong.file: teams.vision.tokens_sha256" in output
    assert "Traceback" not in output


def test_a_start_may_take_as_long_as_its_weights_need_and_judges_have_none(tmp_path: Path) -> None:
    large, judge = load_profile("full").graphs["hps_v2_1_image"], load_profile("judges").graphs["judge_answer"]
    large = replace(large, file=tmp_path / "large.onnx")
    for file, size in ((large.file, 1_000_000), (data_path(large.file), 2_000_000_000)):
        with file.open("wb") as sparse:
            sparse.truncate(size)
    assert up._start_s([judge]) == up.START_S
    assert up._start_s([judge, large, large]) == up.START_S + 2_001_000_000 / up.LOADED_BYTES_PER_S
    whole_profile_s = up.START_S + 12e9 / up.LOADED_BYTES_PER_S
    assert 2 * whole_profile_s <= START_TIMEOUT_S, "a trainer does not give up before Triton, then services, would"
