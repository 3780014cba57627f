"""What processes hold and use: memory, descriptors, threads, cores; from /proc."""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from benchmarks.harness import tree_cpu_s


@dataclass(frozen=True)
class Inside:
    """What a process holds."""

    rss_mb: float
    fds: int
    threads: int


def inside(pid: int) -> Inside:
    """Of a process, now."""
    fields = dict(line.split(":", 1) for line in Path(f"/proc/{pid}/status").read_text().splitlines())
    fds = len(os.listdir(f"/proc/{pid}/fd"))
    return Inside(int(fields["VmRSS"].split()[0]) / 1024, fds, int(fields["Threads"]))


def cpu_s(pid: int) -> float:
    """CPU seconds of its living threads, to the nanosecond (`harness.tree_cpu_s` counts in ticks of 10 ms)."""
    total_ns = 0
    for thread in Path(f"/proc/{pid}/task").iterdir():
        with contextlib.suppress(OSError):
            total_ns += int((thread / "schedstat").read_text().split()[0])
    return total_ns / 1e9


class Cores:
    """How many cores processes (each with its children), this one and all others have used since this was made."""

    def __init__(self, pids: Mapping[str, int], this: str = "load generator") -> None:
        self._pids, self._this = pids, this
        self._before, self._busy_s, self._started_s = self._seconds(), _busy_s(), time.monotonic()

    def used(self) -> dict[str, float]:
        """CPU seconds per second, by name; `this` names this process."""
        took_s, busy_s = time.monotonic() - self._started_s, _busy_s() - self._busy_s
        cores = {name: (seconds - self._before[name]) / took_s for name, seconds in self._seconds().items()}
        return cores | {"everything else": max(0.0, busy_s / took_s - sum(cores.values()))}

    def _seconds(self) -> dict[str, float]:
        return {name: tree_cpu_s(pid) for name, pid in self._pids.items()} | {self._this: sum(os.times()[:2])}


def _busy_s() -> float:
    """CPU seconds of the whole machine since it started, its kernel's included."""
    user, nice, system, _, _, irq, softirq = map(int, Path("/proc/stat").read_text().split()[1:8])
    return (user + nice + system + irq + softirq) / os.sysconf("SC_CLK_TCK")


def shown(cores: Mapping[str, float]) -> str:
    """For a note, with the sum and what the machine has."""
    parts = ", ".join(f"{name} {used:.2f}" for name, used in cores.items())
    return f"cores used: {parts}, together {sum(cores.values()):.2f} of {os.cpu_count()}"


def forget_peak(pid: int) -> None:
    """Let the peak of a process start again from what it holds now."""
    Path(f"/proc/{pid}/clear_refs").write_text("5")


def peak_mb(pid: int) -> float:
    """The most a process has held since then."""
    return int(Path(f"/proc/{pid}/status").read_text().split("VmHWM:")[1].split()[0]) / 1024


def family(pid: int) -> list[int]:
    """A process and its children (Triton's Python stubs)."""
    children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    found = [pid, *map(int, children)]
    for thread in Path(f"/proc/{pid}/task").iterdir():
        with contextlib.suppress(OSError):
            found += map(int, (thread / "children").read_text().split())
    return sorted(set(found))
