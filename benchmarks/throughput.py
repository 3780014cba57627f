"""How much of the bare backend's speed is left after gRPC, decoding and Triton?

    python -m benchmarks.throughput [--rounds 8] [--batches 6] [--concurrency 3]

The same work on both sides, at saturation: batches of 16 different JPEG files of 512x512 are decoded, resized and
scored by concept consistency (`dino`: EfficientNet-lite2 at 260x260, a graph that is bound by its arithmetic) against
one reference picture. `in process` decodes in threads and runs the graph with `LocalRunner`; `service` sends the files
through the SDK to the service, which runs the graph on the embedded Triton. Both have the same ONNX Runtime threads
and keep the same number of batches under way. Rounds alternate; the promise is a ratio of at least 0.90.
"""

from __future__ import annotations

import argparse
import asyncio
import io
import os
import time
from collections.abc import Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import numpy as np
from PIL import Image

from benchmarks.harness import Report, ratio
from benchmarks.harness import figure as figure_of
from sync_r1.reward_models.backends.local import LocalRunner
from sync_r1.reward_models.images import decode
from sync_r1.reward_models.profiles import load_profile
from sync_r1.reward_models.runner import RunContext
from sync_r1.reward_models.types import Concept, Sample, Score
from sync_r1.trainer_client import EncodedPicture, RewardClient

REWARD, VARIANT = "concept-consistency", "dino"
_TIMEOUT_S = 120.0
_SIDE = 512

Way = Callable[[list[Sample]], Awaitable[None]]
"""Scores a batch, one way or the other."""


def jpeg(rng: np.random.Generator) -> EncodedPicture:
    """A picture with structure at several scales, so that decoding it costs what a photo's does."""
    layers = [
        Image.fromarray(rng.integers(0, 256, (size, size, 3), dtype=np.uint8)).resize((_SIDE, _SIDE))
        for size in (4, 32, 256)
    ]
    image = Image.blend(Image.blend(layers[0], layers[1], 0.4), layers[2], 0.2)
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=90)
    return EncodedPicture(buffer.getvalue())


def batches(count: int, items: int) -> list[list[Sample]]:
    """Batches without a picture in common but the reference."""
    rng = np.random.default_rng(0)
    concept = Concept("<bo>", "dog", (jpeg(rng),))
    return [[Sample(id=str(i), image=jpeg(rng), concept=concept) for i in range(items)] for _ in range(count)]


async def saturated(score: Way, work: list[list[Sample]], concurrency: int) -> float:
    """Pictures per second when `concurrency` batches are under way until all are done."""
    queue = list(work)

    async def worker() -> None:
        while queue:
            await score(queue.pop())

    started = time.perf_counter()
    await asyncio.gather(*(worker() for _ in range(concurrency)))
    return sum(map(len, work)) / (time.perf_counter() - started)


def in_process(runner: LocalRunner, decoders: ThreadPoolExecutor) -> Way:
    """Decode a batch's files in threads and score them here."""
    served = load_profile("pocket").rewards[REWARD]
    reward, release = served.variants[VARIANT], served.release(VARIANT)

    def decoded(sample: Sample) -> Sample:
        assert isinstance(sample.image, EncodedPicture)
        return replace(sample, image=decode(sample.image.data))

    async def score(samples: list[Sample]) -> None:
        loop = asyncio.get_running_loop()
        reference = samples[0].concept.references[0]
        assert isinstance(reference, EncodedPicture)
        concept = replace(samples[0].concept, references=(decode(reference.data),))
        tasks = [loop.run_in_executor(decoders, decoded, sample) for sample in samples]
        ready = [replace(sample, concept=concept) for sample in await asyncio.gather(*tasks)]
        context = RunContext(release, time.monotonic() + _TIMEOUT_S)
        if not all(isinstance(outcome, Score) for outcome in await reward.score(ready, runner, context)):
            raise RuntimeError("an item has no score")

    return score


def through_service(client: RewardClient) -> Way:
    """Send a batch's files to the service."""

    async def score(samples: list[Sample]) -> None:
        batch = await client.score(samples, variant=VARIANT, timeout_s=_TIMEOUT_S)
        if not all(isinstance(outcome, Score) for outcome in batch.outcomes):
            raise RuntimeError("an item has no score")

    return score


async def measure(
    endpoint: str, rounds: int, count: int, items: int, concurrency: int, threads: int
) -> tuple[list[float], list[float]]:
    """Pictures per second, (service, in process), a pair for each round."""
    work = batches(count, items)
    service, local = [], []
    decoders = ThreadPoolExecutor(os.cpu_count())
    with LocalRunner(load_profile("pocket"), threads=threads) as runner:
        async with RewardClient(endpoint) as client:
            ways = [(through_service(client), service), (in_process(runner, decoders), local)]
            for score, _ in ways:
                await saturated(score, work[:concurrency], concurrency)
            for number in range(rounds):
                for score, figures in ways if number % 2 else reversed(ways):
                    figures.append(await saturated(score, work, concurrency))
    decoders.shutdown()
    return service, local


def main() -> None:
    """Entry point of the module."""
    from sync_r1.services.local import up

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=8, help="measurements each way")
    parser.add_argument("--batches", type=int, default=6, help="batches in a measurement")
    parser.add_argument("--items", type=int, default=16, help="pictures in a batch")
    parser.add_argument("--concurrency", type=int, default=3, help="batches under way at once")
    parser.add_argument("--threads", type=int, default=os.cpu_count() or 1, help="ONNX Runtime's threads, both sides")
    arguments = parser.parse_args()
    sizes = (arguments.rounds, arguments.batches, arguments.items, arguments.concurrency, arguments.threads)
    with up.start("pocket", rewards=[REWARD], triton=up.TritonOptions(threads=arguments.threads)) as running:
        service, local = asyncio.run(measure(running.endpoints[REWARD], *sizes))
    report = Report("throughput", "Through service and Triton against in process", ("measurement", "median [95 %]"))
    report.rows.append(("service, pictures/s", figure_of(service)))
    report.rows.append(("in process, pictures/s", figure_of(local)))
    report.rows.append(("service ÷ in process (≥ 0.90)", ratio(service, local)))
    report.notes.append(
        f"{arguments.batches} batches of {arguments.items} JPEG files of {_SIDE}x{_SIDE} in a round, "
        f"{arguments.concurrency} under way, {arguments.rounds} rounds in turns, {arguments.threads} ONNX Runtime "
        f"threads, on {os.cpu_count()} cores"
    )
    print(f"\nwritten: {report.finish().relative_to(Path.cwd())}")


if __name__ == "__main__":
    main()
