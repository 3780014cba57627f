"""Does a queue policy make Triton's batcher sleep while requests wait, and with which settings does it not?

    python -m benchmarks.queue_policy [--seconds 6] [--callers 2 4 16]

Bounds of Triton's queue (`default_queue_policy`) switch its prefetching off: the batcher then forms a batch only while
an instance is idle, and waits up to 500 ms for word of one. An instance that finishes says so *before* it is idle
again, so the word can come too early, and the next one is another request's end or arrival (Triton's
`dynamic_batch_scheduler.cc`, `rate_limiter.cc`). Here one embedded Triton serves the same graph under each setting;
callers ask one after another, each waiting for its answer. A call whose answer takes longer than all callers' batches
and half of those 500 ms has been slept through.
"""

from __future__ import annotations

import argparse
import asyncio
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np

from benchmarks.harness import Report
from benchmarks.reliability import coded
from sync_r1.reward_models.backends.repository import model_config
from sync_r1.reward_models.graphs.spec import GraphSpec
from sync_r1.reward_models.releases import GraphPin, Release
from sync_r1.reward_models.runner import RunContext
from sync_r1.services.local.embedded import EmbeddedTriton
from sync_r1.services.runners.triton import TritonRunner

WORK_S = 0.01
SLEPT_S = 0.25


@dataclass(frozen=True)
class Setting:
    """One model of the repository."""

    name: str
    instances: int
    policy: str
    """Lines of `default_queue_policy`; empty = none."""
    max_queue_delay_us: int = 500

    @property
    def graph(self) -> str:
        """Its name in Triton."""
        return self.name.replace(" ", "_").replace(",", "")


_TIMEOUT = "timeout_action: REJECT default_timeout_microseconds: 30000000"
_OVERRIDE = "allow_timeout_override: true"
_SIZE = "max_queue_size: 256"
ALL = f"{_TIMEOUT} {_OVERRIDE} {_SIZE}"
SETTINGS = (
    Setting("no policy, 1 instance", 1, ""),
    Setting("size only, 1 instance", 1, _SIZE),
    Setting("override only, 1 instance", 1, _OVERRIDE),
    Setting("timeout only, 1 instance", 1, _TIMEOUT),
    Setting("all, 1 instance", 1, ALL),
    Setting("all, no delay, 1 instance", 1, ALL, 0),
    *(Setting(f"all, {count} instances", count, ALL) for count in (2, 3, 4)),
)


def write_models(folder: Path, settings: Sequence[Setting]) -> tuple[Path, str]:
    """A repository with the coded graph once for each setting, and its sha256; a batch takes `WORK_S`."""
    file, written = coded.write_models(folder, WORK_S)
    spec: GraphSpec = coded.profile_of(file).graphs[coded.GRAPH]
    number = str(spec.pin.triton_version)
    version = written / coded.GRAPH / number
    repository = folder / "settings"
    for setting in settings:
        target = repository / setting.graph / number
        target.mkdir(parents=True)
        for part in version.iterdir():
            (target / part.name).symlink_to(part)
        delay = replace(spec.batching, max_queue_delay_us=setting.max_queue_delay_us)
        graph = replace(spec, name=setting.graph, instances=setting.instances, batching=delay)
        text = model_config(graph, backend="python", threads=1)
        policy = f"  default_queue_policy {{ {setting.policy} }}\n" if setting.policy else ""
        line = f"  max_queue_delay_microseconds: {setting.max_queue_delay_us}\n"
        assert line in text
        (target.parent / "config.pbtxt").write_text(text.replace(line, line + policy))
    return repository, spec.sha256


async def latencies_s(runner: TritonRunner, pin: GraphPin, callers: int, seconds: float) -> list[float]:
    """Of every call that `callers` made, one after another each, within so many seconds."""
    release = Release("coded", "number", "1", (pin,))
    pixels = coded.pixels(1)[None].copy()
    over_s = time.monotonic() + seconds
    took_s: list[float] = []

    async def caller() -> None:
        while time.monotonic() < over_s:
            started_s = time.monotonic()
            result = await runner.run(RunContext(release, started_s + 30, "q"), pin.name, {"pixels": pixels})
            took_s.append(time.monotonic() - started_s)
            assert result.outputs["value"][0, 0] == 1

    await asyncio.gather(*(caller() for _ in range(callers)))
    return took_s


async def measure(
    url: str, sha256: str, settings: Sequence[Setting], callers: Sequence[int], seconds: float
) -> dict[tuple[str, int], list[float]]:
    """(setting, callers) -> the calls' seconds."""
    runner = TritonRunner(url)
    found = {}
    try:
        for setting in settings:
            pin = GraphPin(setting.graph, 1, sha256)
            await latencies_s(runner, pin, setting.instances, 0.2)  # warm
            for count in callers:
                found[setting.name, count] = await latencies_s(runner, pin, count, seconds)
    finally:
        await runner.close()
    return found


def slept(took_s: Sequence[float]) -> int:
    """Calls through which the batcher slept."""
    return sum(one > SLEPT_S for one in took_s)


def main() -> None:
    """Entry point of the module."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=6.0, help="of each measurement")
    parser.add_argument("--callers", type=int, nargs="+", default=[2, 4, 16])
    arguments = parser.parse_args()
    with TemporaryDirectory(prefix="sync-r1-queue-") as folder:
        repository, sha256 = write_models(Path(folder), SETTINGS)
        with EmbeddedTriton(repository) as triton:
            found = asyncio.run(measure(triton.url, sha256, SETTINGS, arguments.callers, arguments.seconds))
    columns = ("queue policy", "callers", "calls", "calls/s", "p50, ms", "p99, ms", "longest, ms", "slept through")
    report = Report("queue_policy", "Triton's queue policy and its batcher's sleep", columns)
    for (name, callers), took_s in found.items():
        p50, p99, longest = np.quantile(took_s, (0.5, 0.99, 1.0)) * 1e3
        count = len(took_s)
        report.rows.append(
            (name, str(callers), f"{count:,}", f"{count / arguments.seconds:.0f}", f"{p50:.1f}", f"{p99:.1f}",
             f"{longest:.0f}", f"{slept(took_s)} ({slept(took_s) / count:.2%})")
        )  # fmt: skip
    report.notes.append(
        f"embedded Triton 2.51; a batch takes {WORK_S * 1e3:g} ms on any instance (asleep: cores are not the limit); "
        f"each row {arguments.seconds:g} s; slept through = longer than {SLEPT_S * 1e3:g} ms"
    )
    print(f"\nwritten: {report.finish().relative_to(Path.cwd())}")


if __name__ == "__main__":
    main()
