"""No score of other weights than the release named, whatever stands behind Triton's address and whenever it changes."""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import grpc
import numpy as np
import pytest
from fronts import until
from hypothesis import given
from hypothesis import strategies as st

from benchmarks.reliability import coded
from benchmarks.reliability.fleet import Cable
from sync_r1.protos.rewards.v1 import rewards_pb2_grpc
from sync_r1.reward_models.backends.local import LocalRunner
from sync_r1.reward_models.backends.repository import model_config, write_repository
from sync_r1.reward_models.graphs.spec import GraphFileMissing, data_path
from sync_r1.reward_models.profiles import Profile
from sync_r1.reward_models.releases import GraphPin
from sync_r1.reward_models.runner import RunContext
from sync_r1.reward_models.types import GraphError
from sync_r1.services.config import ServiceConfig
from sync_r1.services.local.embedded import EmbeddedTriton, TritonStartError
from sync_r1.services.runners.triton import TritonRunner
from sync_r1.services.server import RewardServer

MORE = 100
"""What the other weights add to every score."""
ITEMS, CALLERS, SWAPS = 4, 4, 6


@given(st.binary(min_size=32, max_size=32).map(bytes.hex))
def test_every_sha256_has_a_version_that_any_triton_and_any_reader_of_json_takes(sha256: str) -> None:
    version = GraphPin("graph", 1, sha256).triton_version
    assert 1 <= version < 2**53
    assert int(float(version)) == version
    other = sha256[:12] + f"{int(sha256[12], 16) ^ 1:x}" + sha256[13:]
    assert {version, GraphPin("graph", 1, other).triton_version} != {version} or int(sha256[:12], 16) == 0


def exported(folder: Path, more: int) -> Profile:
    """The coded graph as exported to `folder`: always version 1."""
    folder.mkdir()
    coded.write_graph(folder / "coded.onnx", more)
    return coded.profile_of(folder / "coded.onnx")


@pytest.fixture(scope="module")
def profiles(tmp_path_factory: pytest.TempPathFactory) -> tuple[Profile, Profile]:
    """The weights of the release, and others that keep its name and version."""
    folder = tmp_path_factory.mktemp("weights")
    return exported(folder / "named", 0), exported(folder / "other", MORE)


@pytest.fixture(scope="module")
def tritons(
    profiles: tuple[Profile, Profile], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[EmbeddedTriton, EmbeddedTriton]]:
    """One Triton over each."""
    folders = [tmp_path_factory.mktemp("models") for _ in profiles]
    for profile, folder in zip(profiles, folders):
        write_repository(profile, folder, backend="python")
    with EmbeddedTriton(folders[0]) as named, EmbeddedTriton(folders[1]) as other:
        yield named, other


async def test_two_tritons_behind_one_address_swapped_between_two_checks_under_load_mix_nothing(
    profiles: tuple[Profile, Profile], tritons: tuple[EmbeddedTriton, EmbeddedTriton]
) -> None:
    seen, over = Counter[str](), asyncio.Event()
    served = profiles[0].rewards[coded.REWARD]
    async with Cable(tritons[0].url) as cable:
        runner = TritonRunner(cable.target)
        pins = served.releases["number"].graphs
        assert await runner.ready(pins)
        # No look at readiness falls into the test: what refuses is Triton.
        config = ServiceConfig(health_interval_s=3600.0)
        server = RewardServer(served, runner, config, ready=lambda: runner.ready(pins))
        port = await server.start()

        async def caller(first: int) -> None:
            async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
                stub = rewards_pb2_grpc.RewardServiceStub(channel)
                while not over.is_set():
                    items = range(first, first + ITEMS)
                    try:
                        answer = await stub.Score(coded.request(items), timeout=30)
                        seen["wrong"] += coded.wrong(items, answer)  # "+= await" would lose what others added
                        seen["scored"] += 1
                    except grpc.aio.AioRpcError as error:
                        seen[error.code().name] += 1
                        await asyncio.sleep(0.02)

        async def more(kind: str) -> None:
            """Wait for five more of these."""
            enough = seen[kind] + 5
            await until(lambda: seen[kind] >= enough, 120)

        callers = [asyncio.ensure_future(caller(number * ITEMS)) for number in range(CALLERS)]
        for _ in range(SWAPS):
            await more("scored")
            cable.lead_to(tritons[1].url)
            await more("UNAVAILABLE")
            cable.lead_to(tritons[0].url)
        await more("scored")
        over.set()
        await asyncio.gather(*callers)
        cable.lead_to(tritons[1].url)
        assert not await runner.ready(pins), "and readiness says so"
        await server.drain()
        await runner.close()
    assert seen["wrong"] == 0
    assert set(seen) - {"DEADLINE_EXCEEDED"} == {"wrong", "scored", "UNAVAILABLE"}


def test_tensors_beside_an_onnx_file_are_part_of_its_version(tmp_path: Path) -> None:
    graphs = [exported(tmp_path / str(number), 0).graphs[coded.GRAPH] for number in range(2)]
    for number, graph in enumerate(graphs):
        data_path(graph.file).write_bytes(bytes([number]))
    assert graphs[0].pin.triton_version != graphs[1].pin.triton_version


def test_a_repository_holds_the_sha256_of_every_version_it_serves(profiles: tuple[Profile, Profile]) -> None:
    named, other = (profile.graphs[coded.GRAPH] for profile in profiles)
    text = model_config(named, replace(other, version=2), backend="onnxruntime", threads=1)
    for graph in (named, other):
        version = graph.pin.triton_version
        assert f'key: "sha256.{version}" value {{ string_value: "{graph.sha256}" }}' in text
    versions = sorted(graph.pin.triton_version for graph in (named, other))
    assert f"specific {{ versions: [ {versions[0]}, {versions[1]} ] }}" in text


def test_weights_that_change_while_a_repository_is_written_are_refused(tmp_path: Path) -> None:
    profile = exported(tmp_path / "graphs", 0)
    graph = profile.graphs[coded.GRAPH]
    before = graph.sha256
    coded.write_graph(graph.file, MORE)
    with pytest.raises(GraphFileMissing, match=rf"was exchanged .*was {before[:12]}…"):
        write_repository(profile, tmp_path / "models", backend="onnxruntime")


def test_a_triton_in_python_loads_no_weights_but_those_its_version_says(tmp_path: Path) -> None:
    profile = exported(tmp_path / "graphs", 0)
    write_repository(profile, tmp_path / "models", backend="python")
    (placed,) = (tmp_path / "models").glob("*/*/model.onnx")
    coded.write_graph(placed, MORE)
    with pytest.raises(TritonStartError, match="other weights"):
        EmbeddedTriton(tmp_path / "models").start()


async def test_the_local_runner_runs_no_weights_but_the_release_s(
    tmp_path: Path, profiles: tuple[Profile, Profile]
) -> None:
    pixels = {"pixels": np.zeros((1, 8, 8, 3), np.uint8)}
    releases = [profile.rewards[coded.REWARD].releases["number"] for profile in profiles]
    other = r"the release pins version 1 \(sha256 .*here is version 1 \(sha256"
    with LocalRunner(profiles[1]) as runner, pytest.raises(GraphError, match=other):
        await runner.run(RunContext(releases[0], time.monotonic() + 60), coded.GRAPH, pixels)
    later = exported(tmp_path / "later", 0)
    release = later.rewards[coded.REWARD].releases["number"]
    coded.write_graph(later.graphs[coded.GRAPH].file, MORE)
    with LocalRunner(later) as runner, pytest.raises(GraphFileMissing, match="was exchanged"):
        await runner.run(RunContext(release, time.monotonic() + 60), coded.GRAPH, pixels)
