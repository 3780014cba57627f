"""`cpu-pocket` really runs: its rendered pods under podman, made of images built here (`make k8s-test`).

What podman cannot show (native sidecars, Services, autoscalers, network policies) is listed in docs/kubernetes.md.
"""

from __future__ import annotations

import asyncio
import itertools
import os
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import podman_images
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from k8s_manifests import REWARDS, fronts, manifests
from podman_pods import Pod, pod_of, podman

from benchmarks.reliability import canary, canary_route, envoy
from benchmarks.reliability.fleet import free_port
from sync_r1.protos.rewards.v1 import rewards_pb2, rewards_pb2_grpc
from sync_r1.reward_models.backends.local import LocalRunner
from sync_r1.reward_models.profiles import load_profile
from sync_r1.reward_models.runner import RunContext
from sync_r1.reward_models.types import Score
from sync_r1.trainer_client import ClientSettings, Concept, RewardClient, RewardClientError, Sample, picture
from sync_r1.trainer_client.sdk.settings import Replicas

pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(3600),
    pytest.mark.skipif(os.environ.get("SYNC_R1_K8S") != "1", reason="run by `make k8s-test`: it may install podman"),
]
FRONT_MB = 400
READY_S = 180.0
_LOAD_ITEMS, _CALLERS = 8, 4


@pytest.fixture(scope="module")
def images() -> None:
    """Built; skips where they cannot be."""
    podman_images.build()


@pytest.fixture(scope="module")
def pods(images: None) -> Iterator[dict[str, Pod]]:
    """One replica of each reward and a second one of `aesthetic`, all SERVING; by name."""
    documents = manifests("overlays/cpu-pocket")
    by_reward = {load.labels["app.kubernetes.io/name"]: load for load in fronts(documents)}
    started: dict[str, Pod] = {}
    try:
        for name in (*REWARDS, "aesthetic-2"):
            ports = (free_port(), free_port(), free_port())
            pod = pod_of(by_reward[name.removesuffix("-2")], documents, f"sync-r1-{name}", ports)
            pod.remove()
            started[name] = pod
            pod.play()
        for pod in started.values():
            _wait_serving(pod)
        yield started
    finally:
        for pod in started.values():
            pod.remove()


def _wait_serving(pod: Pod) -> None:
    """What the readiness probe asks, of the same port."""
    until_s = time.monotonic() + READY_S
    while _health(pod, "") != health_pb2.HealthCheckResponse.SERVING:
        if time.monotonic() > until_s:
            logs = "\n".join(f"{name}:\n{pod.log(name)}" for name in ("models", "triton", "front"))
            pytest.fail(f"{pod.name} was not SERVING after {READY_S:g} s.\n{logs}")
        time.sleep(0.5)


def _health(pod: Pod, service: str) -> Any:
    with grpc.insecure_channel(f"127.0.0.1:{pod.health_port}") as channel:
        try:
            return health_pb2_grpc.HealthStub(channel).Check(
                health_pb2.HealthCheckRequest(service=service), timeout=3
            ).status  # fmt: skip
        except grpc.RpcError:
            return None


def _samples(count: int) -> list[Sample]:
    """Pictures of noise, each with all that any reward asks for."""
    rng = np.random.default_rng(7)
    noise = [picture(rng.integers(0, 256, (64, 64, 3), dtype=np.uint8)) for _ in range(count + 1)]
    bo = Concept("<bo>", "dog", references=(noise[count],))
    return [
        Sample(
            id=str(number), image=noise[number], prompt="a red dog left of a blue ball", concept=bo,
            question="What does <bo> wear?", answer=f"<bo> wears {number} red hats.",
            reference_answers=("<bo> wears a red hat.",),
        )
        for number in range(count)
    ]  # fmt: skip


def _expected(reward: str, samples: list[Sample]) -> list[float]:
    """What the same graphs say in this process, without Triton, containers and network."""
    profile = load_profile("pocket")
    served = profile.rewards[reward]
    release = served.release(served.default_variant)

    async def score() -> list[Any]:
        context = RunContext(release, deadline_s=time.monotonic() + 120)
        with LocalRunner(profile) as runner:
            return list(await served.variants[served.default_variant].score(samples, runner, context))

    outcomes = asyncio.run(score())
    assert all(isinstance(outcome, Score) for outcome in outcomes), outcomes
    return [outcome.value for outcome in outcomes]


def test_the_front_is_small_and_has_no_torch(images: None) -> None:
    assert podman_images.size_mb("localhost/sync-r1/front:0.1.0") < FRONT_MB
    said = podman(
        "run", "--rm", "--read-only", "--entrypoint", "python3", "localhost/sync-r1/front:0.1.0", "-c",
        "import importlib.util as u, os; print(os.getuid(), [m for m in ('torch', 'onnxruntime') if u.find_spec(m)])",
    )  # fmt: skip
    assert "1000 []" in said


@pytest.mark.parametrize("reward", REWARDS)
def test_a_service_answers_with_the_scores_that_its_graphs_give(reward: str, pods: dict[str, Pod]) -> None:
    samples = _samples(6)

    async def score() -> Any:
        async with RewardClient(pods[reward].target) as client:
            assert (await client.describe()).reward == reward
            return await client.score(samples)

    batch = asyncio.run(score())
    assert [outcome.value for outcome in batch.outcomes] == pytest.approx(_expected(reward, samples), abs=1e-4)


def test_pods_are_as_confined_as_their_manifests_say(pods: dict[str, Pod]) -> None:
    pod = pods["aesthetic"]
    for container in ("front", "triton"):
        name = f"{pod.name}-{container}"
        assert podman("exec", name, "id", "-u").strip() == "1000"
        assert "Read-only file system" in podman("exec", name, "touch", "/x", check=False)
        capabilities = podman("exec", name, "grep", "CapEff", "/proc/self/status")
        assert int(capabilities.split()[1], 16) == 0
    # Triton's calls are on the pod's loopback: nothing of it is published, and its port is not on the pod's address.
    table = podman("exec", f"{pod.name}-front", "cat", "/proc/net/tcp", "/proc/net/tcp6")
    listening = [line.split()[1] for line in table.splitlines() if line.split()[3] == "0A"]
    calls = [address for address in listening if address.endswith(":1F41")]  # 8001
    assert calls
    assert all(address.endswith("0100007F:1F41") for address in calls)  # 127.0.0.1, as IPv4 or mapped into IPv6


def test_liveness_readiness_and_metrics_are_where_the_manifests_say(pods: dict[str, Pod]) -> None:
    import urllib.request

    pod = pods["understanding-correctness"]
    assert _health(pod, "liveness") == health_pb2.HealthCheckResponse.SERVING
    with urllib.request.urlopen(f"http://127.0.0.1:{pod.metrics_port}/metrics", timeout=10) as page:
        assert b'sync_r1_ready{reward="understanding-correctness"} 1.0' in page.read()


def test_replicas_restarted_one_after_the_other_under_load_lose_nothing(pods: dict[str, Pod]) -> None:
    replicas = [pods["aesthetic"], pods["aesthetic-2"]]
    samples = _samples(64)
    expected = _expected("aesthetic", samples)
    lost: Counter[str] = Counter()
    answered, wrong, took_s = 0, 0, [0.0]

    async def caller(client: RewardClient, number: int, over: asyncio.Event) -> None:
        nonlocal answered, wrong
        for first in itertools.count(number * _LOAD_ITEMS, _LOAD_ITEMS):
            if over.is_set():
                return
            places = [(first + offset) % len(samples) for offset in range(_LOAD_ITEMS)]
            began_s = time.monotonic()
            try:
                batch = await client.score([samples[place] for place in places])
            except RewardClientError as error:
                lost[f"{type(error).__name__}: {error}"[:200]] += 1
                continue
            took_s.append(time.monotonic() - began_s)
            answered += len(batch.outcomes)
            got = [getattr(outcome, "value", float("nan")) for outcome in batch.outcomes]
            wrong += sum(not abs(one - expected[place]) < 1e-4 for one, place in zip(got, places))
            wrong += len(places) - len(got)

    async def restart_both(client: RewardClient) -> list[int]:
        seen = []
        for pod in replicas:
            before = answered
            await asyncio.to_thread(pod.end)
            assert await asyncio.to_thread(_health, pod, "") is None
            await asyncio.to_thread(pod.start)
            await asyncio.to_thread(_wait_serving, pod)
            seen.append(answered - before)
            await asyncio.sleep(3)  # the client finds it again before the other one goes
        return seen

    async def drill() -> tuple[list[int], dict[str, Any]]:
        over = asyncio.Event()
        settings = ClientSettings(replicas=Replicas(health_s=1.0, health_answer_s=1.0))
        async with RewardClient([pod.target for pod in replicas], settings) as client:
            callers = [asyncio.create_task(caller(client, number, over)) for number in range(_CALLERS)]
            await asyncio.sleep(2)
            try:
                seen = await restart_both(client)
            finally:
                over.set()
                await asyncio.gather(*callers)
            return seen, client.stats()

    during, stats = asyncio.run(drill())
    print(f"\n{answered:,} items, {during} of them while a replica was away, slowest call {max(took_s):.2f} s; {stats}")
    assert not lost
    assert wrong == 0
    assert min(during) > 0  # the other replica went on


def test_envoy_parts_the_calls_between_two_releases_by_weight(pods: dict[str, Pod], tmp_path: Path) -> None:
    port, admin = free_port(), free_port()
    digests = ("0" * 64, "1" * 64)  # no call is pinned here; the canary drill pins
    canary_route.write_routes(tmp_path / "routes.json", canary_route.route_of((75, 25), digests))
    source = {"path_config_source": {"path": str(tmp_path / "routes.json")}, "resource_api_version": "V3"}
    config = envoy.bootstrap(
        port, admin, {"rds": {"route_config_name": "rewards", "config_source": source}},
        {"stable": [pods["aesthetic"].port], "canary": [pods["aesthetic-2"].port]},
    )  # fmt: skip
    request = rewards_pb2.ScoreRequest()
    raw = request.samples.add(id="0").image.raw
    raw.pixels, raw.height, raw.width = bytes(64 * 64 * 3), 64, 64
    with envoy.started(config, tmp_path, admin), grpc.insecure_channel(f"127.0.0.1:{port}") as channel:
        stub, count = rewards_pb2_grpc.RewardServiceStub(channel), 400
        for _ in range(count):
            assert stub.Score(request, timeout=30).outcomes[0].HasField("score")
        counted = envoy.stats(admin)
    to_canary = counted["cluster.canary.upstream_rq_total"]
    low, high = canary.bounds(count, 0.25)
    assert low <= to_canary / count <= high
    assert to_canary + counted["cluster.stable.upstream_rq_total"] == count


def test_a_wrong_digest_stops_a_pod_in_its_first_container_and_says_so(images: None, tmp_path: Path) -> None:
    done = podman(
        "run", "--rm", "--read-only", "--tmpfs", "/tmp", "--tmpfs", "/models:mode=1777",
        "--env", "SYNC_R1_GRAPHS=/models/graphs", "--env", f"SYNC_R1_BUNDLE_DIGEST=sha256:{'0' * 64}",
        "localhost/sync-r1/models:0.1.0", "repository", "--out=/models/repository", check=False,
    )  # fmt: skip
    assert "cannot be had" in done
