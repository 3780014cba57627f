"""`sync-r1 score` over a table: memory of a million rows with references, and its rate beside the ensemble's own.

    python -m benchmarks.tables [--rows 1000000] [--graphs free|real] [--items 20000]

`free`: two real services, a process each, whose graphs answer at once; the client is then all that costs. `real`: the
pocket profile on the embedded Triton. Every row has its own prompt, one of 64 pictures and four references. The rate of
the command is that of all of it, from start to the written table; the ensemble's own that of `--items` of the same
samples in memory, four calls of 64 under way. The targets: at most 300 MB, and at least 0.9 of the ensemble's rate.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import numpy as np
from PIL import Image

from benchmarks.ensemble import sleeping_services
from benchmarks.harness import Report
from sync_r1.trainer_client import Concept, RewardEnsemble, Sample, picture

REWARDS = ("concept-consistency", "aesthetic")
_PICTURES, _REFERENCES, _BATCH, _UNDER_WAY = 64, 4, 64, 4
_TIMEOUT_S = 60.0


def write_input(folder: Path, rows: int) -> Path:
    """A JSONL file of so many rows beside their pictures."""
    rng = np.random.default_rng(0)
    for number in range(_PICTURES + _REFERENCES):
        pixels = rng.integers(0, 256, (64, 64, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / f"{number}.png")
    concept = {"name": "<bo>", "class_noun": "dog", "references": [f"{_PICTURES + n}.png" for n in range(_REFERENCES)]}
    with (folder / "in.jsonl").open("w") as file:
        for number in range(rows):
            row = {"id": f"row {number}", "image": f"{number % _PICTURES}.png", "prompt": _prompt(number)}
            file.write(json.dumps(row | {"concept": concept}) + "\n")
    return folder / "in.jsonl"


def _prompt(number: int) -> str:
    return f"<bo> with {number} red hats"


def measure_command(endpoints: Mapping[str, str], source: Path, rows: int) -> tuple[float, float]:
    """(rows a second, peak memory in MB) of the command. Raises RuntimeError when it fails."""
    folder = source.parent
    (folder / "endpoints.json").write_text(json.dumps(dict(endpoints)))
    command = [sys.executable, "-m", "sync_r1.cli.main", "score", ",".join(REWARDS), str(source)]
    command += ["-o", str(folder / "out.parquet"), "--endpoints", str(folder / "endpoints.json")]
    started_s = time.perf_counter()
    process = subprocess.Popen(command)
    _, status, used = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise RuntimeError(f"the command ended with {process.returncode}")
    return rows / (time.perf_counter() - started_s), used.ru_maxrss / 1000


async def measure_ensemble(endpoints: Mapping[str, str], folder: Path, items: int) -> float:
    """Items a second of the ensemble alone."""
    pictures = [picture(folder / f"{number}.png") for number in range(_PICTURES + _REFERENCES)]
    concept = Concept("<bo>", "dog", tuple(pictures[_PICTURES:]))
    samples = [
        Sample(id=str(n), image=pictures[n % _PICTURES], prompt=_prompt(n), concept=concept) for n in range(items)
    ]
    ensemble = RewardEnsemble.from_endpoints(endpoints, weights=dict.fromkeys(REWARDS, 0.5), policy="required")
    await ensemble.wait_ready(_TIMEOUT_S)
    await ensemble.score(samples[:_BATCH], timeout_s=_TIMEOUT_S)  # connections, references
    starts = iter(range(0, items, _BATCH))

    async def one_after_the_other() -> None:
        for start in starts:
            await ensemble.score(samples[start : start + _BATCH], timeout_s=_TIMEOUT_S)

    started_s = time.perf_counter()
    await asyncio.gather(*(one_after_the_other() for _ in range(_UNDER_WAY)))
    elapsed_s = time.perf_counter() - started_s
    await ensemble.close()
    return items / elapsed_s


@contextmanager
def _services(graphs: str) -> Iterator[dict[str, str]]:
    if graphs == "free":
        with sleeping_services(0.0) as endpoints:
            yield {reward: endpoints[reward] for reward in REWARDS}
        return
    from sync_r1.services.local import up

    with up.start("pocket", rewards=REWARDS) as running:
        yield running.endpoints


def run(report: Report, graphs: str, rows: int, items: int) -> None:
    """Rows of the report."""
    with tempfile.TemporaryDirectory() as folder, _services(graphs) as endpoints:
        source = write_input(Path(folder), rows)
        alone = asyncio.run(measure_ensemble(endpoints, Path(folder), items))
        rate, memory_mb = measure_command(endpoints, source, rows)
    report.rows.append((f"{graphs} graphs: rows/s of the command, {rows:,} rows", f"{rate:.4g}"))
    report.rows.append((f"{graphs} graphs: items/s of the ensemble alone, {items:,} items", f"{alone:.4g}"))
    report.rows.append((f"{graphs} graphs: command ÷ ensemble (≥ 0.9)", f"{rate / alone:.3f}"))
    report.rows.append((f"{graphs} graphs: peak memory of the command, MB (≤ 300)", f"{memory_mb:.0f}"))


def main() -> None:
    """Entry point of the module."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=1_000_000, help="of the table")
    parser.add_argument("--items", type=int, default=20_000, help="samples for the ensemble alone")
    parser.add_argument("--graphs", choices=("free", "real"), default="free")
    arguments = parser.parse_args()
    report = Report("tables", "A table of many rows", ("measurement", "value"))
    run(report, arguments.graphs, arguments.rows, arguments.items)
    print(f"\nwritten: {report.finish().relative_to(Path.cwd())}")


if __name__ == "__main__":
    main()
