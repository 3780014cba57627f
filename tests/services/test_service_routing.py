"""Two releases side by side on a real Triton: pinned, switched under load, rolled back, and run in the shadow."""

from __future__ import annotations

import asyncio
import os
import shutil
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path

import grpc
import numpy as np
import pytest
import toys
import yaml

from sync_r1.protos.rewards.v1 import rewards_pb2, rewards_pb2_grpc
from sync_r1.reward_models.profiles import ServedReward
from sync_r1.reward_models.rewards.fields import finite_score
from sync_r1.reward_models.runner import GraphRunner, RunContext
from sync_r1.reward_models.types import Outcome, Sample, Score
from sync_r1.services.config import ServiceConfig
from sync_r1.services.local.embedded import EmbeddedTriton
from sync_r1.services.routing import Routes, RoutesError
from sync_r1.services.runners.triton import TritonRunner
from sync_r1.services.server import RewardServer
from sync_r1.services.telemetry.scrape import Scrape, scrape
from sync_r1.trainer_client import ClientSettings, Limits, RewardClient, ScoredBatch
from sync_r1.trainer_client import picture as sdk_picture

Stub = rewards_pb2_grpc.RewardServiceStub
SWITCHES = 20
REDS = (1, 2, 3, 4, 5, 6)


class Pair(toys.ToyReward):
    """The sum of two graphs' scores, run one after the other, so that a switch can fall in between."""

    @property
    def graphs(self) -> tuple[str, ...]:
        return ("probe", "twin")

    async def score(self, samples: Sequence[Sample], runner: GraphRunner, context: RunContext) -> list[Outcome]:
        first = await toys.ToyReward("probe").score(samples, runner, context)
        await asyncio.sleep(0.005)
        then = await toys.ToyReward("twin").score(samples, runner, context)
        return [finite_score(one.value + other.value, {}, self.graphs) for one, other in zip(first, then)
                if isinstance(one, Score) and isinstance(other, Score)]  # fmt: skip


def with_pair(version: int) -> ServedReward:
    """The toy variants and `pair`, whose graphs are in this version; in version 2 both score 100 higher, by code of
    this file."""
    served = toys.served()
    probe = served.graphs["probe"]
    if version == 2:
        probe = replace(probe, version=version, file=Path(__file__))
    graphs = {**served.graphs, "probe": probe, "twin": replace(probe, name="twin")}
    return replace(served, graphs=graphs, variants={**served.variants, "pair": Pair("pair")})


OLD, NEW = with_pair(1), with_pair(2)
SERVED = {"old": OLD, "new": NEW}
DIGEST = {name: served.releases["probe"].digest for name, served in SERVED.items()}


@pytest.fixture(scope="module")
def triton(tmp_path_factory: pytest.TempPathFactory) -> Iterator[EmbeddedTriton]:
    folder = toys.write_toy_repository(tmp_path_factory.mktemp("releases"))
    model = folder / "probe" / str(toys.VERSION) / "model.py"
    new = NEW.graphs["probe"].pin.triton_version
    (folder / "probe" / str(new)).mkdir()
    higher = model.read_text().replace("score[score", "score += 100\n        score[score")
    (folder / "probe" / str(new) / "model.py").write_text(higher)
    config = folder / "probe" / "config.pbtxt"
    config.write_text(config.read_text().replace(f"[ {toys.VERSION} ]", f"[ {toys.VERSION}, {new} ]"))
    shutil.copytree(folder / "probe", folder / "twin")
    twin = folder / "twin" / "config.pbtxt"
    twin.write_text(twin.read_text().replace('"probe"', '"twin"'))
    with EmbeddedTriton(folder) as running:
        yield running


@asynccontextmanager
async def serving(
    triton: EmbeddedTriton, routes: Path | None, new: ServedReward = NEW
) -> AsyncIterator[tuple[Stub, RewardServer]]:
    runner = TritonRunner(triton.url)
    server = RewardServer([OLD, new], runner, ServiceConfig(routes=routes, metrics_port=0))
    port = await server.start()
    async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
        yield Stub(channel), server
    await server.drain()
    await runner.close()


def write(path: Path, **entry: object) -> None:
    """As an editor or a ConfigMap does it: a new file takes the old one's place at once."""
    draft = path.with_suffix(".draft")
    draft.write_text(yaml.safe_dump({"toy": entry}))
    os.replace(draft, path)


async def test_both_releases_can_be_pinned_and_each_gives_its_own_score(triton: EmbeddedTriton) -> None:
    async with serving(triton, None) as (stub, _):
        description = await stub.Describe(rewards_pb2.DescribeRequest(), timeout=5)
        answers = {
            name: await stub.Score(toys.request(7, variant="probe", release=digest), timeout=20)
            for name, digest in DIGEST.items()
        }
    assert set(DIGEST.values()) <= {release.digest for release in description.releases}
    assert description.default_releases["probe"] == DIGEST["old"]
    assert {name: answer.outcomes[0].score.value for name, answer in answers.items()} == {"old": 7, "new": 107}
    assert {name: answer.release for name, answer in answers.items()} == DIGEST


async def test_switching_the_default_under_load_loses_nothing_and_mixes_nothing(
    triton: EmbeddedTriton, tmp_path: Path
) -> None:
    routes = tmp_path / "routes.yaml"
    write(routes)
    expected = {DIGEST["old"]: [1.0, 2.0, 3.0], DIGEST["new"]: [101.0, 102.0, 103.0]}
    answers: list[rewards_pb2.ScoreResponse] = []
    switching = True

    async def caller(stub: Stub) -> None:
        while switching:
            answers.append(await stub.Score(toys.request(1, 2, 3), timeout=30))  # raises if one is lost

    async with serving(triton, routes) as (stub, _):
        callers = [asyncio.ensure_future(caller(stub)) for _ in range(4)]
        for turn in range(SWITCHES):
            name = ("new", "old")[turn % 2]
            write(routes, releases={"probe": DIGEST[name][:12]})
            told = await stub.Describe(rewards_pb2.DescribeRequest(), timeout=20)
            assert told.default_releases["probe"] == DIGEST[name]
            await asyncio.sleep(0.05)  # some more load on this default
        switching = False
        await asyncio.gather(*callers)
        last = await stub.Score(toys.request(1), timeout=20)
    assert {answer.release for answer in answers} == set(DIGEST.values())
    for answer in answers:
        assert [outcome.score.value for outcome in answer.outcomes] == expected[answer.release]
    assert last.release == DIGEST["old"]  # rolled back


async def test_a_release_of_two_graphs_is_never_mixed_whoever_asks_while_it_is_switched(
    triton: EmbeddedTriton, tmp_path: Path
) -> None:
    """Clients of the SDK, whose calls are cut into three requests each: some take the default, one pins a release."""
    routes = tmp_path / "routes.yaml"
    write(routes)
    digests = {name: served.releases["pair"].digest for name, served in SERVED.items()}
    expected = {
        digests["old"]: [2.0 * red for red in REDS],
        digests["new"]: [2.0 * (red + 100) for red in REDS],
    }
    samples = [Sample(id=str(red), image=sdk_picture(np.full((8, 8, 3), red, np.uint8))) for red in REDS]
    batches: dict[str, list[ScoredBatch]] = {"": [], digests["old"]: []}
    switching = True
    runner = TritonRunner(triton.url)
    server = RewardServer([OLD, NEW], runner, ServiceConfig(routes=routes))
    where = f"127.0.0.1:{await server.start()}"
    settings = ClientSettings(limits=Limits(max_items_per_request=2))
    clients = [RewardClient(where, settings) for _ in range(3)]

    async def caller(client: RewardClient, release: str) -> None:
        while switching:
            batches[release].append(await client.score(samples, variant="pair", release=release, timeout_s=30))

    callers = [asyncio.ensure_future(caller(*asked)) for asked in zip(clients, ("", "", digests["old"]))]
    for turn in range(SWITCHES):
        write(routes, releases={"pair": digests[("new", "old")[turn % 2]][:12]})
        await asyncio.sleep(0.1)
    switching = False
    await asyncio.gather(*callers)
    await asyncio.gather(*(client.close() for client in clients))
    await server.drain()
    await runner.close()
    assert {batch.release for batch in batches[""]} == set(digests.values())
    assert {batch.release for batch in batches[digests["old"]]} == {digests["old"]}
    for batch in (*batches[""], *batches[digests["old"]]):
        values = [outcome.value for outcome in batch.outcomes if isinstance(outcome, Score)]
        assert values == expected[batch.release]


async def test_a_file_that_cannot_be_used_changes_nothing(
    triton: EmbeddedTriton, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    routes = tmp_path / "routes.yaml"
    write(routes, releases={"probe": DIGEST["new"]})
    async with serving(triton, routes) as (stub, _):
        for wrong in ({"releases": {"probe": "0" * 12}}, {"default_variant": "nothing"}, {"colour": "red"}):
            write(routes, **wrong)
            assert (await stub.Score(toys.request(1, variant="probe"), timeout=20)).release == DIGEST["new"]
    assert caplog.text.count("the routes stay as they were") == 3


@pytest.mark.parametrize(
    ("entry", "said"),
    [
        ({"releases": {"probe": "0" * 12}}, "has no release '000000000000'"),
        ({"releases": {"probe": "abc"}}, "releases.probe"),
        ({"releases": {"missing": DIGEST["old"]}}, "none of that variant"),
        ({"default_variant": "missing"}, "default_variant: 'missing' is none of"),
        ({"shadow": {"variant": "probe", "share": 2}}, "shadow.share"),
    ],
)
def test_a_wrong_file_is_named_with_key_and_expectation(tmp_path: Path, entry: dict[str, object], said: str) -> None:
    write(tmp_path / "routes.yaml", **entry)
    with pytest.raises(RoutesError) as caught:
        Routes([OLD, NEW], tmp_path / "routes.yaml")
    assert said in str(caught.value)
    assert "routes.yaml" in str(caught.value)


async def shadow_counts(server: RewardServer, items: int) -> dict[str, float]:
    """Items given to the shadow, by result, once `items` of them are accounted for."""
    for _ in range(400):
        seen: Scrape = await asyncio.to_thread(scrape, f"127.0.0.1:{server.metrics_port}")
        counts = {
            dict(labels)["result"]: value
            for (name, labels), value in seen.samples.items()
            if name == "sync_r1_shadow_items_total"
        }
        if sum(counts.values()) >= items:
            return counts
        await asyncio.sleep(0.05)
    raise AssertionError(f"the shadow accounted for {counts}, expected {items} items")


async def test_a_shadow_is_compared_logged_and_never_returned(
    triton: EmbeddedTriton, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO", "sync_r1.services.front.shadow")
    routes = tmp_path / "routes.yaml"
    write(routes, shadow={"variant": "probe", "release": DIGEST["new"]})
    async with serving(triton, routes) as (stub, server):
        response = await stub.Score(toys.request(1, 2, 255), timeout=20)
        counts = await shadow_counts(server, 3)
        seen = await asyncio.to_thread(scrape, f"127.0.0.1:{server.metrics_port}")
    assert response.release == DIGEST["old"]
    assert [outcome.score.value for outcome in response.outcomes[:2]] == [1, 2]
    assert f"shadow probe ({DIGEST['new'][:12]}): 2 of 3 items compared, mean difference 0.3937" in caplog.text
    # 255 is the toy's NaN in both releases.
    assert counts == {"compared": 2, "not_compared": 1}
    bounds = {
        float(dict(labels)["le"]): value
        for (name, labels), value in seen.samples.items()
        if name == "sync_r1_shadow_difference_bucket"
    }
    # 100 of 254 higher.
    assert (bounds[0.2], bounds[0.5]) == (0, 2)


async def test_a_slow_shadow_is_never_waited_for_and_drops_what_is_too_much(
    triton: EmbeddedTriton, tmp_path: Path
) -> None:
    routes = tmp_path / "routes.yaml"
    write(routes, shadow={"variant": "slow"})
    async with serving(triton, routes) as (stub, server):
        requests = [toys.request(*[1] * 200, variant="probe") for _ in range(3)]
        responses = await asyncio.gather(*(stub.Score(request, timeout=20) for request in requests))
        assert [len(response.outcomes) for response in responses] == [200] * 3
        counts = await shadow_counts(server, 400)
    assert counts["dropped"] == 400


class Broken(toys.ToyReward):
    """A new version with a bug."""

    async def score(self, *_: object) -> list[Outcome]:
        raise KeyError("bug of the new version")


async def test_a_broken_shadow_fails_nothing_but_itself(
    triton: EmbeddedTriton, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    routes = tmp_path / "routes.yaml"
    write(routes, shadow={"variant": "probe", "release": DIGEST["new"]})
    broken = replace(NEW, variants={**NEW.variants, "probe": Broken()})
    async with serving(triton, routes, broken) as (stub, server):
        answer = await stub.Score(toys.request(1, request_id="r-7"), timeout=20)
        counts = await shadow_counts(server, 1)
    assert answer.outcomes[0].score.value == 1
    assert counts == {"failed": 1}
    assert "shadow probe of request 'r-7': KeyError" in caplog.text
