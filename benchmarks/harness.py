"""What every benchmark shares: the machine it ran on, medians with intervals, one table, one JSON file.

Ratios are always formed within one run, between measurements taken in turns: the machine's mood then hits both sides.
"""

from __future__ import annotations

import importlib.metadata
import json
import math
import os
import platform
import statistics
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from datetime import datetime, timezone
from pathlib import Path

RESULTS = Path(__file__).parent / "results"
_PACKAGES = ("sync-r1", "grpcio", "protobuf", "numpy", "onnxruntime", "tritonclient", "nvidia-pytriton")
_Z95 = 1.96


@dataclass(frozen=True)
class Figure:
    """A median with its 95 % interval, over `n` measurements."""

    median: float
    low: float
    high: float
    n: int

    def __str__(self) -> str:
        return f"{self.median:.4g} [{self.low:.4g}, {self.high:.4g}]"


def figure(values: Sequence[float]) -> Figure:
    """Median and its distribution-free 95 % interval, from the order statistics (binomial, normal approximation).

    With fewer than six measurements the interval is the range, which is then narrower than 95 %. Raises ValueError
    when there are none.
    """
    if not values:
        raise ValueError("expected at least one measurement")
    ordered, n = sorted(values), len(values)
    half_width = _Z95 * n**0.5 / 2
    low = max(0, math.floor(n / 2 - half_width) - 1)
    high = min(n - 1, math.ceil(n / 2 + half_width))
    return Figure(statistics.median(ordered), ordered[low], ordered[high], n)


def ratio(numerators: Sequence[float], denominators: Sequence[float]) -> Figure:
    """Median and interval of the ratios of measurements taken in the same round. Raises ValueError for lengths that
    differ."""
    if len(numerators) != len(denominators):
        raise ValueError(f"expected pairs, got {len(numerators)} and {len(denominators)} measurements")
    return figure([above / below for above, below in zip(numerators, denominators)])


def machine() -> dict[str, str]:
    """Processor, cores usable by this process, memory, system and the versions that matter."""
    versions = {}
    for package in _PACKAGES:
        try:
            versions[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            versions[package] = "not installed"
    return {
        "processor": _proc_field("/proc/cpuinfo", "model name") or platform.processor() or "unknown",
        "cores": str(len(os.sched_getaffinity(0))),
        "memory": _proc_field("/proc/meminfo", "MemTotal") or "unknown",
        "load before": f"{os.getloadavg()[0]:.2f}",
        "system": f"{platform.system()} {platform.release()}",
        "python": platform.python_version(),
        **versions,
    }


def _module(file: Path) -> str:
    """The dotted name of a file below this folder: what stands behind `python -m`."""
    parts = file.with_suffix("").parts
    start = max((place for place, part in enumerate(parts) if part == "benchmarks"), default=len(parts) - 1)
    return ".".join(parts[start:])


@dataclass
class Report:
    """One benchmark's result: rows of a table, printed as Markdown and written as JSON."""

    name: str
    title: str
    columns: tuple[str, ...]
    rows: list[tuple[str | Figure, ...]] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    machine: dict[str, str] = field(default_factory=machine)
    command: str = ""
    """What makes all of it again, where that is not the command that runs now."""

    def finish(self) -> Path:
        """Print the table, write `results/<name>.json`, and return its path."""
        running = " ".join(["python -m", _module(Path(sys.argv[0])), *sys.argv[1:]])
        command = self.command or running
        lines = [f"## {self.title}", "", f"`{command}`", ""]
        lines += ["| " + " | ".join(self.columns) + " |", "|" + "---|" * len(self.columns)]
        lines += ["| " + " | ".join(map(str, row)) + " |" for row in self.rows]
        lines += ["", *(f"* {note}" for note in self.notes), ""]
        lines.append(", ".join(f"{key}: {value}" for key, value in self.machine.items()))
        print("\n".join(lines))
        RESULTS.mkdir(exist_ok=True)
        path = RESULTS / f"{self.name}.json"
        cells = [[asdict(cell) if isinstance(cell, Figure) else cell for cell in row] for row in self.rows]
        content = {
            "name": self.name,
            "title": self.title,
            "command": command,
            "at": datetime.now(timezone.utc).isoformat(timespec="seconds"),
            "machine": self.machine,
            "columns": self.columns,
            "rows": cells,
            "notes": self.notes,
            "markdown": "\n".join(lines),
        }
        path.write_text(json.dumps(content, indent=2) + "\n")
        return path


def tree_cpu_s(root: int) -> float:
    """CPU seconds (user and system) used so far by process `root` and all its living descendants; Linux only."""
    fields = _tree(root).values()
    return sum((int(one[11]) + int(one[12])) / os.sysconf("SC_CLK_TCK") for one in fields)


def tree_memory_gb(root: int) -> float:
    """Memory of process `root` and all its living descendants, what they share counted once (PSS), GB; Linux only."""
    total_kb = 0
    for pid in _tree(root):
        field = _proc_field(f"/proc/{pid}/smaps_rollup", "Pss:")  # "1234 kB"; empty when it has ended meanwhile
        total_kb += int(field.split()[0]) if field else 0
    return total_kb * 1024 / 1e9


def _tree(root: int) -> dict[int, list[str]]:
    """Process `root` and its living descendants -> the fields of /proc/PID/stat behind the name."""
    found = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                found[int(entry.name)] = (entry / "stat").read_text().rpartition(")")[2].split()
            except OSError:  # it has ended meanwhile
                continue
    members, grown = {root}, True
    while grown:
        more = {pid for pid, fields in found.items() if int(fields[1]) in members} - members
        members, grown = members | more, bool(more)
    return {pid: found[pid] for pid in members if pid in found}


class Stopwatch:
    """Wall and CPU seconds of a block; CPU is that of this process and its descendants."""

    def __enter__(self) -> Stopwatch:
        self._cpu_s, self._started_s = tree_cpu_s(os.getpid()), time.perf_counter()
        return self

    def __exit__(self, *_: object) -> None:
        self.wall_s = time.perf_counter() - self._started_s
        self.cpu_s = tree_cpu_s(os.getpid()) - self._cpu_s


def _proc_field(path: str, name: str) -> str:
    try:
        lines = Path(path).read_text().splitlines()
    except OSError:
        return ""
    return next((line.partition(":")[2].strip() for line in lines if line.startswith(name)), "")
