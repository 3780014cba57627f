"""Decompression bombs: refused from their headers

Runs `tests/support/bombs.py`, which decodes each file in a process of its own and measures time and peak memory,
several times; a file's time is the median of its runs.
"""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
from collections import defaultdict
from pathlib import Path

from benchmarks.reliability.record import Result

RUNS, SHORT_RUNS = 7, 1
_PROGRAM = Path(__file__).parents[2] / "tests" / "support" / "bombs.py"


def run(short: bool) -> Result:
    """See the module."""
    took_ms: dict[str, list[float]] = defaultdict(list)
    peak_mb: dict[str, float] = defaultdict(float)
    said: dict[str, str] = {}
    for _ in range(SHORT_RUNS if short else RUNS):
        done = subprocess.run([sys.executable, str(_PROGRAM)], check=True, capture_output=True, text=True, timeout=240)
        for figures in map(json.loads, done.stdout.splitlines()):
            took_ms[figures["name"]].append(figures["milliseconds"])
            peak_mb[figures["name"]] = max(peak_mb[figures["name"]], figures["peak_mb"])
            said[figures["name"]] = figures["said"]
    result = Result()
    for name, values in took_ms.items():
        median_ms = statistics.median(values)
        result.add(
            f"bomb: {name}",
            f"refused in {median_ms:.1f} ms (longest run {max(values):.1f}), +{peak_mb[name]:.1f} MB",
            "< 10 ms, < 50 MB", said[name] != "decoded" and median_ms < 10 and peak_mb[name] < 50,
            "python tests/support/bombs.py",
        )  # fmt: skip
    result.notes.append(f"{SHORT_RUNS if short else RUNS} runs; one decoder on one core, which is the limit.")
    return result
