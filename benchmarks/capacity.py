"""What an item costs a reward service, in CPU seconds of its front and of Triton: what docs/capacity.md grows from.

    python -m benchmarks.capacity [--calls 12] [--items 8 32] [--side 512]

Time on the clock depends on what else runs on the machine, CPU time hardly: so this counts CPU. The pocket profile, one
reward at a time, raw pictures through the SDK, one call after another. `items per core and second` is what a core of a
replica could do that never waits.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import time
from pathlib import Path

from benchmarks.harness import Report, tree_cpu_s
from sync_r1.services.local import up
from sync_r1.trainer_client import ClientSettings, Limits, RewardClient, Score
from sync_r1.trainer_client.sdk.speed import samples


async def cpu_ms(running: up.Up, reward: str, items: int, side: int, calls: int) -> tuple[float, float, float]:
    """CPU milliseconds of an item: front, Triton, this process. Raises RuntimeError when an item has no score."""
    settings = ClientSettings(limits=Limits(max_items_per_request=items))
    async with RewardClient(running.endpoints[reward], settings) as client:
        work = samples(items, side)
        await client.score(work, timeout_s=120)
        assert running.triton_pid is not None  # the embedded one is part of `up`
        pids = (running.pids[reward], running.triton_pid)
        before, own_s = [tree_cpu_s(pid) for pid in pids], time.process_time()
        for _ in range(calls):
            batch = await client.score(work, timeout_s=120)
            if not all(isinstance(outcome, Score) for outcome in batch.outcomes):
                raise RuntimeError(f"{reward}: an item has no score")
        spent = [tree_cpu_s(pid) - start for pid, start in zip(pids, before)] + [time.process_time() - own_s]
    front, triton, client_ms = (seconds * 1e3 / (items * calls) for seconds in spent)
    return front, triton, client_ms


def main() -> None:
    """Entry point of the module."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--calls", type=int, default=12, help="calls in a measurement")
    parser.add_argument("--items", type=int, nargs="+", default=[8, 32], help="items in a call")
    parser.add_argument("--side", type=int, default=512, help="pixels of the pictures' sides")
    arguments = parser.parse_args()
    columns = (
        "reward", "items in a call", "front, CPU ms/item", "Triton, CPU ms/item", "client, CPU ms/item",
        "items per core and second",
    )  # fmt: skip
    report = Report("capacity", "What an item costs, in CPU", columns)
    with up.start("pocket", triton=up.TritonOptions(threads=len(os.sched_getaffinity(0)))) as running:
        for reward in running.endpoints:
            for items in arguments.items:
                front, triton, client = asyncio.run(cpu_ms(running, reward, items, arguments.side, arguments.calls))
                cells = (f"{front:.2f}", f"{triton:.2f}", f"{client:.2f}", f"{1e3 / (front + triton):.0f}")
                report.rows.append((reward, str(items), *cells))
    report.notes.append(f"raw pictures of {arguments.side}x{arguments.side}; {arguments.calls} calls in each row")
    print(f"\nwritten: {report.finish().relative_to(Path.cwd())}")


if __name__ == "__main__":
    main()
