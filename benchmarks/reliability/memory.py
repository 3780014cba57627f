"""Memory over two million items: front, Triton and SDK stay as large as they were

Raw pictures of several sizes and PNG files, texts and concepts with references by digest, through one `RewardClient`.
Growth is the slope of a straight line through the resident memory after the first quarter of the items.
"""

from __future__ import annotations

import asyncio
import io
import itertools
import os
import time
from dataclasses import replace

import numpy as np
from PIL import Image

from benchmarks.reliability import coded
from benchmarks.reliability.fleet import Fleet, fleet
from benchmarks.reliability.process_use import Cores, family, inside, shown
from benchmarks.reliability.record import Result
from benchmarks.reliability.sdk_load import SETTINGS
from sync_r1.reward_models.types import Sample, Score
from sync_r1.trainer_client import Concept, EncodedPicture, RewardClient, picture

ITEMS, SHORT_ITEMS, EACH, CALLERS = 2_000_000, 10_000, 64, 8
_SIDES = (16, 32, 48, 64)
_SAMPLE_S = 0.5


def samples(number: int) -> list[Sample]:
    """One call's: a size of its own, every sixteenth call as files."""
    side = _SIDES[number // EACH % len(_SIDES)]
    numbers = [one % coded.NUMBERS for one in range(number, number + EACH)]
    made = [coded.sample(one, side) for one in numbers]
    if number // EACH % 16 == 0:
        made = [replace(one, image=_file(value, side)) for one, value in zip(made, numbers)]
    concept = Concept("<bo>", "dog", (picture(coded.pixels(number % 1000, 8)),))
    return [replace(one, prompt=f"a photo of <bo>, number {one.id}", concept=concept) for one in made]


def _file(number: int, side: int) -> EncodedPicture:
    buffer = io.BytesIO()
    Image.fromarray(coded.pixels(number, side)).save(buffer, "PNG", compress_level=1)
    return EncodedPicture(buffer.getvalue())


async def drill(running: Fleet, wanted: int) -> tuple[dict[str, list[tuple[int, float]]], int, int, str]:
    """(items so far, MB) of each process, items scored, calls wrong, and what was the limit."""
    curves: dict[str, list[tuple[int, float]]] = {"front": [], "Triton and its stub": [], "SDK": []}
    cores = Cores({"front": running.replicas[0].pid, "Triton": running.triton.pid}, "SDK and callers")
    started_s = time.monotonic()
    done = wrong = 0
    numbers = itertools.count(0, EACH)
    async with RewardClient(running.replicas[0].target, SETTINGS) as client:

        async def caller() -> None:
            nonlocal done, wrong
            while done < wanted:
                first = next(numbers)
                batch = await client.score(samples(first))
                want = [float(one % coded.NUMBERS) for one in range(first, first + EACH)]
                got = [outcome.value if isinstance(outcome, Score) else None for outcome in batch.outcomes]
                wrong += got != want
                done += EACH

        work = [asyncio.ensure_future(caller()) for _ in range(CALLERS)]
        pending = set(work)
        while pending:
            _, pending = await asyncio.wait(pending, timeout=_SAMPLE_S)
            curves["front"].append((done, inside(running.replicas[0].pid).rss_mb))
            curves["Triton and its stub"].append((done, sum(inside(pid).rss_mb for pid in family(running.triton.pid))))
            curves["SDK"].append((done, inside(os.getpid()).rss_mb))
        await asyncio.gather(*work)
        limit = f"{done / (time.monotonic() - started_s):,.0f} items/s; {shown(cores.used())}, which are the limit"
    return curves, done, wrong, limit


def run(short: bool) -> Result:
    """See the module."""
    wanted = SHORT_ITEMS if short else ITEMS
    with fleet(1) as running:
        curves, done, wrong, limit = asyncio.run(drill(running, wanted))
    result = Result()
    for name, curve in curves.items():
        later = np.array([point for point in curve if point[0] >= wanted / 4], float)
        slope = float(np.polyfit(later[:, 0], later[:, 1], 1)[0]) if len(later) > 2 else float("nan")
        grown_mb = slope * 0.75 * wanted
        result.add(
            f"{name}: memory is flat over {done:,} items",
            f"{later[0, 1]:.1f} MB after a quarter, {later[-1, 1]:.1f} MB at the end, highest {later[:, 1].max():.1f}; "
            f"slope {slope * 1e6:+.1f} bytes an item ({grown_mb:+.1f} MB over the last three quarters)",
            "≤ 5 MB by the slope", grown_mb <= 5,
        )  # fmt: skip
    result.add("and the scores are right", f"{wrong} wrong calls of {done // EACH:,}", "0", wrong == 0)
    result.notes.append(f"Sides {_SIDES}, every sixteenth call as PNG files, {CALLERS} callers. {limit}.")
    return result
