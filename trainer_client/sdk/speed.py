"""How fast a running reward service is, measured from outside: the figures from which `capacity.py` plans replicas.

Two measurements for each size of a request: one call at a time (how long it takes, and how much that varies), and as
many at once as fill the service (how many items a second). Items are random pictures and fixed texts, so a score means
nothing here; every item must have one. Repeated pictures would be no shortcut: services cache references only.
"""

from __future__ import annotations

import asyncio
import statistics
import time
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from pydantic import TypeAdapter

from sync_r1.reward_models.types import Concept, Sample, Score
from sync_r1.trainer_client.sdk.client import RewardClient
from sync_r1.trainer_client.sdk.errors import RequestRejected
from sync_r1.trainer_client.sdk.pictures import picture

_TEXTS = ("a red circle on a white table", "a blue square in the park", "a green triangle beside a tree")
_TIMEOUT_S = 300.0
_FEWEST_CALLS = 3


@dataclass(frozen=True)
class Speed:
    """One reward, with requests of `items` items."""

    reward: str
    variant: str
    release: str
    side: int
    """Pixels of the pictures' sides; 0 where the reward sees none."""
    items: int
    call_s: float
    """Mean time of a call, one at a time."""
    call_variation: float
    """Squared coefficient of variation of that time (variance ÷ mean²)."""
    items_per_s: float
    """With enough calls at once to fill the service."""
    client_cores: float
    """Cores that the measuring process used meanwhile; part of the machine's where both share one."""
    cores: float
    """What served this: cores of one replica (its front and, without a GPU, its graphs) …"""
    gpus: float
    """… and GPUs."""


SPEEDS = TypeAdapter(list[Speed])
"""The file that `sync-r1 capacity measure` writes and `capacity plan` reads."""


def samples(items: int, side: int, seed: int = 0) -> list[Sample]:
    """Items with every field that a pointwise reward may want; pictures are `side` x `side` x 3, one a reference."""
    rng = np.random.default_rng(seed)

    def noise() -> np.ndarray[tuple[int, ...], np.dtype[np.uint8]]:
        coarse = rng.integers(0, 256, (8, 8, 3), dtype=np.uint8)
        return np.ascontiguousarray(coarse.repeat(-(-side // 8), 0).repeat(-(-side // 8), 1)[:side, :side])

    concept = Concept("<bo>", "dog", (picture(noise()),), info=_TEXTS[0])
    return [
        Sample(
            id=str(number), image=picture(noise()), prompt=_TEXTS[number % 3], concept=concept,
            question="What is in the picture?", answer=_TEXTS[number % 3], reference_answers=(_TEXTS[0],),
        )
        for number in range(items)
    ]  # fmt: skip


@dataclass(frozen=True)
class Load:
    """What a service is measured under."""

    seconds: float
    side: int
    """Of pictures, pixels."""
    parallel: int
    """Calls at once."""


async def measure(
    client: RewardClient,
    sizes: Sequence[int],
    load: Load,
    *,
    cores: float,
    gpus: float,
    variant: str = "",
) -> list[Speed]:
    """Measure each size for twice `load.seconds`. `client` must not cut such a request.

    Raises RequestRejected when an item gets no score: a failure is answered faster than a score is computed.
    """
    description = await client.describe()
    chosen = description.variant(variant)
    speeds = []
    for size in sizes:
        work = samples(size, load.side)
        await _calls(client, work, chosen.name, 1, 0.0)  # references, caches, threads
        alone_s, _ = await _calls(client, work, chosen.name, 1, load.seconds)
        cpu_s, started_s = time.process_time(), time.perf_counter()
        _, scored = await _calls(client, work, chosen.name, load.parallel, load.seconds)
        wall_s = time.perf_counter() - started_s
        mean_s = statistics.fmean(alone_s)
        speeds.append(
            Speed(
                reward=description.reward, variant=chosen.name,
                release=description.default_releases[chosen.name], items=size,
                side=load.side if chosen.needs_image else 0,
                call_s=mean_s, call_variation=statistics.pvariance(alone_s) / mean_s**2, items_per_s=scored / wall_s,
                client_cores=(time.process_time() - cpu_s) / wall_s, cores=cores, gpus=gpus,
            )
        )  # fmt: skip
    return speeds


async def _calls(
    client: RewardClient, work: Sequence[Sample], variant: str, parallel: int, seconds: float
) -> tuple[list[float], int]:
    """Each call's time, and how many items were scored, `parallel` calls at once for `seconds` (or a few calls)."""
    took_s: list[float] = []
    over_s = time.perf_counter() + seconds

    async def caller() -> None:
        while len(took_s) < _FEWEST_CALLS or time.perf_counter() < over_s:
            started_s = time.perf_counter()
            batch = await client.score(work, variant=variant, timeout_s=_TIMEOUT_S)
            took_s.append(time.perf_counter() - started_s)
            unscored = [outcome for outcome in batch.outcomes if not isinstance(outcome, Score)]
            if unscored:
                raise RequestRejected(
                    f"{batch.reward} ({variant}): {len(unscored)} of {len(work)} items got no score, so their speed "
                    f"would say nothing; the first: {unscored[0]}"
                )

    await asyncio.gather(*(caller() for _ in range(parallel)))
    return took_s, len(took_s) * len(work)
