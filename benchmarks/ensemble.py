"""Four rewards at once: what does asking them together cost, against asking them one by one?

    python -m benchmarks.ensemble [--rounds 20] [--items 16] [--sleep-ms 200] [--part sleeping|real|both]

`sleeping`: the four real services of the pocket profile, one process each, with their graphs replaced by a fixed sleep
(the same for every reward). Whatever is then lost between the slowest reward alone and all four together is lost by the
client and the fronts; the promise is a ratio of at most 1.05. `real`: the same services on the embedded Triton with
their real graphs; the four share the cores, so the comparison is with the sum of the four, in wall time and CPU
seconds.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import os
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np

from benchmarks.harness import Report, Stopwatch, ratio
from benchmarks.harness import figure as figure_of
from sync_r1.reward_models.graphs.spec import GraphSpec
from sync_r1.reward_models.profiles import load_profile
from sync_r1.reward_models.runner import RunContext, RunResult, Tensors
from sync_r1.trainer_client import Concept, RewardEnsemble, Sample, picture

REWARDS = ("concept-consistency", "text-faithfulness", "understanding-correctness", "aesthetic")
ALL = "all four at once"
_TIMEOUT_S = 60.0


class SleepingRunner:
    """Gives constant outputs of the right shape after a fixed time."""

    def __init__(self, graphs: Mapping[str, GraphSpec], sleep_s: float) -> None:
        self._graphs = graphs
        self._sleep_s = sleep_s

    async def run(self, context: RunContext, graph: str, inputs: Tensors) -> RunResult:
        """See `GraphRunner`."""
        await asyncio.sleep(self._sleep_s)
        spec, items = self._graphs[graph], len(next(iter(inputs.values())))
        outputs = {output.name: np.full((items, *output.shape), 0.1, output.dtype) for output in spec.outputs}
        return RunResult(outputs, spec.version, int(self._sleep_s * 1e9))


async def serve_sleeping(reward: str, sleep_s: float, announce: Path) -> None:
    """One service with a sleeping runner, until this process is ended."""
    from sync_r1.services.server import RewardServer

    profile = load_profile("pocket")
    served = profile.rewards[reward]
    # Divided, so that a reward of two graphs is no slower than the others: four equal ones are the hardest case.
    graph_sleep_s = sleep_s / len(served.variants[served.default_variant].graphs)
    server = RewardServer(served, SleepingRunner(profile.graphs, graph_sleep_s))
    port = await server.start()
    draft = announce.with_suffix(".draft")
    draft.write_text(f"127.0.0.1:{port}")
    draft.rename(announce)
    await asyncio.Event().wait()


@contextlib.contextmanager
def sleeping_services(sleep_s: float) -> Iterator[dict[str, str]]:
    """Endpoints of four services with sleeping graphs, a process each."""
    from sync_r1.services.local import processes

    with tempfile.TemporaryDirectory() as folder, contextlib.ExitStack() as stack:
        files = {reward: Path(folder) / reward for reward in REWARDS}
        children = {}
        for reward, file in files.items():
            command = [sys.executable, "-m", "benchmarks.ensemble", "--serve", reward, str(sleep_s), str(file)]
            children[reward] = processes.spawn(command, log=file.with_suffix(".log"), environment=os.environ)
            stack.callback(processes.stop, children[reward], grace_s=5)
        deadline_s = time.monotonic() + _TIMEOUT_S
        while not all(file.exists() for file in files.values()):
            for reward, child in children.items():
                if time.monotonic() > deadline_s or child.poll() is not None:
                    log = processes.tail(files[reward].with_suffix(".log"))
                    raise RuntimeError(f"{reward} did not start. The end of its log:\n{log}")
            time.sleep(0.05)
        yield {reward: file.read_text() for reward, file in files.items()}


def samples(items: int, seed: int) -> list[Sample]:
    """A GRPO group: `items` different 64x64 pictures and answers for one concept with four reference pictures."""
    rng = np.random.default_rng(seed)

    def noise() -> np.ndarray:
        return rng.integers(0, 256, (64, 64, 3), dtype=np.uint8)

    concept = Concept("<bo>", "dog", tuple(picture(noise()) for _ in range(4)))
    return [
        Sample(
            id=f"{seed}/{i}",
            group=str(seed),
            image=picture(noise()),
            prompt="a red dog with a hat, left of a blue ball",
            concept=concept,
            question="What does <bo> wear?",
            answer=f"<bo> wears {i} red hats.",
            reference_answers=("<bo> wears a red hat.",),
        )
        for i in range(items)
    ]


async def measure(
    endpoints: Mapping[str, str], rounds: int, items: int
) -> tuple[dict[str, list[float]], dict[str, list[float]]]:
    """Wall and CPU seconds for each reward alone and for all at once, round by round in turns."""
    ensembles = {
        reward: RewardEnsemble.from_endpoints(endpoints, weights={reward: 1.0}, policy="required") for reward in REWARDS
    }
    ensembles[ALL] = RewardEnsemble.from_endpoints(endpoints, weights=dict.fromkeys(REWARDS, 0.25), policy="required")
    wall: dict[str, list[float]] = {name: [] for name in ensembles}
    cpu: dict[str, list[float]] = {name: [] for name in ensembles}
    for ensemble in ensembles.values():
        await ensemble.wait_ready(_TIMEOUT_S)
        await ensemble.score(samples(items, seed=0), timeout_s=_TIMEOUT_S)  # connections, descriptions, warm graphs
    for round_number in range(1, rounds + 1):
        batch = samples(items, seed=round_number)
        for name, ensemble in ensembles.items():
            with Stopwatch() as watch:
                result = await ensemble.score(batch, timeout_s=_TIMEOUT_S)
            if not result.valid_N.all():
                raise RuntimeError(f"{name}: {(~result.valid_N).sum()} of {items} items have no score")
            wall[name].append(watch.wall_s)
            cpu[name].append(watch.cpu_s)
    for ensemble in ensembles.values():
        await ensemble.close()
    return wall, cpu


def _sums(by_name: Mapping[str, Sequence[float]]) -> list[float]:
    return [sum(values) for values in zip(*(by_name[reward] for reward in REWARDS))]


def run_sleeping(report: Report, rounds: int, items: int, sleep_s: float) -> None:
    """Part (a): rows of the four alone, all at once, and the ratio to the slowest."""
    with sleeping_services(sleep_s) as endpoints:
        wall, _ = asyncio.run(measure(endpoints, rounds, items))
    slowest = max(REWARDS, key=lambda reward: figure_of(wall[reward]).median)
    for name, values in wall.items():
        report.rows.append((f"graphs asleep, {sleep_s * 1000:g} ms: {name}, wall s", figure_of(values)))
    report.rows.append((f"graphs asleep: all four at once ÷ {slowest} alone (≤ 1.05)", ratio(wall[ALL], wall[slowest])))


def run_real(report: Report, rounds: int, items: int) -> None:
    """Part (b): wall and CPU seconds of the real graphs, all at once against the sum of the four."""
    from sync_r1.services.local import up

    with up.start("pocket") as running:
        wall, cpu = asyncio.run(measure(running.endpoints, rounds, items))
    for name, values in wall.items():
        report.rows.append((f"real graphs: {name}, wall s", figure_of(values)))
    report.rows.append(("real graphs: all four at once ÷ sum of the four, wall", ratio(wall[ALL], _sums(wall))))
    # CPU time is counted in ticks of 10 ms: only its sum over all rounds means anything.
    for name, values in cpu.items():
        report.rows.append((f"real graphs: {name}, CPU s, mean of all rounds", f"{sum(values) / rounds:.4g}"))
    of_all, of_each = sum(cpu[ALL]), sum(_sums(cpu))
    report.rows.append(("real graphs: all four at once ÷ sum of the four, CPU", f"{of_all / of_each:.4g}"))


def main() -> None:
    """Entry point of the module."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=20, help="measurements of each kind")
    parser.add_argument("--items", type=int, default=16, help="samples in a batch")
    parser.add_argument("--sleep-ms", type=float, default=200.0, help="how long the graphs of a reward sleep")
    parser.add_argument("--part", choices=("sleeping", "real", "both"), default="both")
    parser.add_argument("--serve", nargs=3, metavar=("REWARD", "SLEEP_S", "FILE"), help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.serve:
        reward, sleep_s, file = arguments.serve
        asyncio.run(serve_sleeping(reward, float(sleep_s), Path(file)))
        return
    report = Report("ensemble", "Four rewards at once", ("measurement", "median [95 % interval]"))
    report.notes.append(
        f"{arguments.items} items of 64x64 pixels, {arguments.rounds} rounds, on {os.cpu_count()} cores"
    )
    if arguments.part in ("sleeping", "both"):
        run_sleeping(report, arguments.rounds, arguments.items, arguments.sleep_ms / 1000)
    if arguments.part in ("real", "both"):
        run_real(report, arguments.rounds, arguments.items)
    print(f"\nwritten: {report.finish().relative_to(Path.cwd())}")


if __name__ == "__main__":
    main()
