"""A rolling update without a proxy: four replicas get another release one by one, under the SDK's load

`docs/swap.md`, as told there. The two releases score the same picture differently (by `MORE`), so a batch whose parts
came from both would be seen from its scores alone. Batches of 256 items are cut into 16 requests each.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import signal
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory

from benchmarks.reliability import coded
from benchmarks.reliability.fleet import START_S, Replica, all_ready, until
from benchmarks.reliability.record import Result
from benchmarks.reliability.sdk_load import SETTINGS
from sync_r1.reward_models.backends.repository import write_repository
from sync_r1.reward_models.types import Score
from sync_r1.services.config import ServiceConfig
from sync_r1.services.local.embedded import EmbeddedTriton
from sync_r1.trainer_client import RewardClient, RewardClientError

MORE, ITEMS, CALLERS, REPLICAS = 1 << 23, 256, 4, 4
_BETWEEN, _GIVE_UP_S = 20, 120.0
"""Batches that are scored between two replicas."""


@dataclass
class Seen:
    """What callers of the SDK got."""

    batches: Counter[str] = field(default_factory=Counter)
    """By the release that the batch names."""
    wrong: int = 0
    """Batches with a score that is not that of the picture by the release which the batch names."""
    lost: Counter[str] = field(default_factory=Counter)
    last: str = ""
    """The release that scores after the last replica was exchanged."""


@contextlib.contextmanager
def releases() -> Iterator[tuple[list[Replica], Path, dict[str, float]]]:
    """Replicas of the old release, the new one's file, and what each release's digest adds to a picture's number."""
    with contextlib.ExitStack() as stack:
        folder = Path(stack.enter_context(TemporaryDirectory(prefix="sync-r1-rolling-")))
        files, adds = (folder / "old.onnx", folder / "new.onnx"), (0, MORE)
        for file, more in zip(files, adds):
            coded.write_graph(file, more)
        old, new = (coded.profile_of(file, version=version) for version, file in enumerate(files, 1))
        write_repository(old, folder / "models", backend="python", also=[new])
        triton = stack.enter_context(EmbeddedTriton(folder / "models", ready_timeout_s=START_S))
        service = ServiceConfig(metrics_port=0, health_interval_s=0.2)
        replicas = []
        for number in range(REPLICAS):
            replica = Replica(folder, f"replica-{number}", triton.url, service, graph=str(files[0]))
            stack.callback(replica.stop)
            replica.spawn()
            replicas.append(replica)
        asyncio.run(all_ready(replicas))
        digests = (profile.rewards[coded.REWARD].releases["number"].digest for profile in (old, new))
        yield replicas, files[1], dict(zip(digests, map(float, adds)))


async def drill(replicas: list[Replica], file: Path, adds: dict[str, float], between: int) -> Seen:
    """Roll all replicas under load."""
    seen, over = Seen(), asyncio.Event()
    numbers = itertools.cycle(range(0, MORE - ITEMS, ITEMS))

    async def caller(client: RewardClient) -> None:
        while not over.is_set():
            first = next(numbers)
            try:
                batch = await client.score([coded.sample(number) for number in range(first, first + ITEMS)])
            except RewardClientError as error:
                seen.lost[f"{type(error).__name__}: {error}"[:160]] += 1
                continue
            values = [one.value - adds[batch.release] if isinstance(one, Score) else None for one in batch.outcomes]
            seen.wrong += values != [float(number) for number in range(first, first + ITEMS)]
            seen.batches[batch.release] += 1

    async def reached(count: int) -> bool:
        return seen.batches.total() + seen.lost.total() >= count

    async def rest() -> None:
        wanted = seen.batches.total() + seen.lost.total() + between
        await until(partial(reached, wanted), _GIVE_UP_S)

    async with RewardClient([replica.target for replica in replicas], SETTINGS) as client:
        callers = [asyncio.ensure_future(caller(client)) for _ in range(CALLERS)]
        await rest()
        for replica in replicas:
            await replica.end(signal.SIGTERM)
            replica.become(graph=str(file), version=2)
            await replica.restart()
            await rest()
        over.set()
        await asyncio.gather(*callers)
        seen.last = (await client.score([coded.sample(1)])).release
    return seen


def run(short: bool) -> Result:
    """See the module."""
    with releases() as (replicas, file, adds):
        seen = asyncio.run(drill(replicas, file, adds, 3 if short else _BETWEEN))
    result, digests = Result(), list(adds)
    old, new = (seen.batches[digest] for digest in digests)
    result.add(
        f"batches of {ITEMS} items pass while replicas of two releases answer",
        f"{old + new} batches passed ({old} by the old release, {new} by the new one), {seen.lost.total()} failed"
        + (f": {dict(seen.lost)}" if seen.lost else ""),
        "all", not seen.lost and old > 0 and new > 0,
    )  # fmt: skip
    result.add(
        "every batch is of the one release that it names",
        f"{seen.wrong} batches with a score of another release or picture", "0", not seen.wrong,
    )  # fmt: skip
    result.add(
        "after the last replica everything is scored by the new release",
        "by the new one" if seen.last == digests[1] else "by the old one", "by the new one", seen.last == digests[1],
    )  # fmt: skip
    result.notes.append(
        f"{CALLERS} callers through one client, {REPLICAS} replicas, each ended by SIGTERM and started anew."
    )
    return result
