"""What do live scores cost a training step? `python -m benchmarks.overlap [--steps 6] [--chunks 1 3] [--delays 0.5 1]`.

Per selector and number of chunks the same steps of the pocket job are taken several times: with live scores (the four
services work on the trainer's own cores), and with the scores that this run logged, given back after a delay. No
delay is what a step costs without scoring; a delay stands for services on other cores, which answer late but take no
time from the trainer. All of these runs see the same scores, so they end in the same weights, which is checked. The
true cost of scoring is the difference in step time; `waiting` is the share of the step in which the trainer had nothing
else to do (`reward_wait_share`, the gate's waits included). Runs are repeated in turns, and of each step the fastest
repeat counts: whatever else the machine does can only make it slower.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from benchmarks.harness import Figure, Report, figure
from sync_r1.reward_models.types import Sample
from sync_r1.trainer_client.config import TrainConfig, load_config
from sync_r1.trainer_client.jobs.local_services import live_services
from sync_r1.trainer_client.jobs.train import load_benchmark
from sync_r1.trainer_client.policies.loading import load_policy
from sync_r1.trainer_client.rollouts.scorer import Scorer, Scorers
from sync_r1.trainer_client.sdk.client import RewardClient
from sync_r1.trainer_client.sdk.ensemble import EnsembleResult, RewardEnsemble, RewardUse
from sync_r1.trainer_client.training.loop import train
from sync_r1.trainer_client.training.run import Run as TrainingRun
from sync_r1.trainer_client.training.score_log import result_from_json, samples_digest

CONFIG = Path(__file__).parents[1] / "trainer_client" / "configs" / "pocket_dgs.yaml"


@dataclass(frozen=True)
class Late:
    """Gives logged scores back after `delay_s`; what the log does not have (evaluation) is asked live."""

    logged: Mapping[str, EnsembleResult]
    live: Scorer
    delay_s: float

    async def score(self, samples: Sequence[Sample], *, timeout_s: float | None = None) -> EnsembleResult:
        known = self.logged.get(samples_digest(samples))
        if known is None:
            return await self.live.score(samples, timeout_s=timeout_s)
        await asyncio.sleep(self.delay_s)
        return known


@dataclass(frozen=True)
class Run:
    """One training run: a record per step, the first left out (it warms up), and the weights it ended with."""

    records: list[dict[str, float]]
    weights: bytes

    def median(self, key: str) -> Figure:
        return figure([record[key] for record in self.records])


def fastest(repeats: Sequence[Run]) -> Run:
    """Each step as its fastest repeat took it."""
    records = [min(steps, key=lambda step: step["step_s"]) for steps in zip(*(one.records for one in repeats))]
    return Run(records, repeats[0].weights)


async def run(config: TrainConfig, folder: Path, scorer: Scorer, gate_scorer: Scorer) -> Run:
    await asyncio.to_thread(folder.mkdir)
    policy = load_policy(config.policy, config.precision)
    await train(
        TrainingRun(
            config, folder, policy=policy, reference=load_policy(config.policy, config.precision),
            bench=load_benchmark("pocket", folder.parent), scorers=Scorers(scorer, gate_scorer),
        )
    )  # fmt: skip
    records = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    weights = b"".join(parameter.detach().numpy().tobytes() for parameter in policy.parameters())
    return Run(records[1:], weights)


async def compare(
    config: TrainConfig, folder: Path, endpoints: Mapping[str, str], delays: Sequence[float], repeats: int
) -> dict[str, Run]:
    """Runs by name: "live", and "0.5 s" for each delay. Raises RuntimeError when they end in different weights."""
    clients = {name: RewardClient(target) for name, target in endpoints.items()}
    uses = {name: RewardUse(reward.weight, reward.variant) for name, reward in config.rewards.items()}
    scorer = RewardEnsemble({name: (clients[name], use) for name, use in uses.items()})
    weights = config.selector.gate_weights
    gate = RewardEnsemble({name: (clients[name], RewardUse(w)) for name, w in weights.items()}) if weights else scorer
    try:
        await scorer.wait_ready(60.0)
        runs = {"live": [await run(config, folder / "live", scorer, gate)]}
        entries = [json.loads(line) for line in (folder / "live" / "journal.jsonl").read_text().splitlines()]
        logged = {entry["samples"]: result_from_json(entry["result"]) for entry in entries}
        for repeat in range(repeats):
            if repeat:
                runs["live"].append(await run(config, folder / f"live-{repeat}", scorer, gate))
            for delay_s in delays:
                late, late_gate = Late(logged, scorer, delay_s), Late(logged, gate, delay_s)
                one = await run(config, folder / f"{delay_s:g}-{repeat}", late, late_gate)
                runs.setdefault(f"{delay_s:g} s", []).append(one)
    finally:
        await scorer.close()
    if len({one.weights for repeated in runs.values() for one in repeated}) != 1:
        raise RuntimeError("runs with the same scores ended in different weights")
    return {name: fastest(repeated) for name, repeated in runs.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--steps", type=int, default=6)
    parser.add_argument("--chunks", type=int, nargs="+", default=[1, 3])
    parser.add_argument("--delays", type=float, nargs="+", default=[0.5, 1.0], help="seconds; 0 is always among them")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--selectors", nargs="+", default=["none", "dgs"])
    parser.add_argument("--threads", type=int, default=2)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    report = Report(
        "overlap",
        "What live scores cost a training step (pocket job)",
        ("selector", "chunks", "scores", "step, s", "cost beyond replayed scores", "waiting, share of step", "tail, s",
         "in flight, items"),
    )  # fmt: skip
    with tempfile.TemporaryDirectory() as name, live_services("pocket", Path(name)) as endpoints:
        for selector in arguments.selectors:
            for chunks in arguments.chunks:
                overrides = [
                    f"steps={arguments.steps + 1}", f"selector.kind={selector}", f"sampling.chunks={chunks}",
                    "evaluation.pictures_per_condition=1", "budget_s=3600", f"threads={arguments.threads}",
                ]  # fmt: skip
                folder = Path(name) / f"{selector}-{chunks}"
                folder.mkdir()
                delays = sorted({0.0, *arguments.delays})
                config = load_config(CONFIG, overrides)
                runs = asyncio.run(compare(config, folder, endpoints, delays, arguments.repeats))
                base_s = [record["step_s"] for record in runs["0 s"].records]
                for scores, one in runs.items():
                    # The same step of both runs draws the same trajectories.
                    added = [(record["step_s"] - base) / base for record, base in zip(one.records, base_s)]
                    report.rows.append((
                        selector, str(chunks), "replayed" if scores == "0 s" else scores, one.median("step_s"),
                        figure(added), one.median("reward_wait_share"), one.median("tail_time_s"),
                        one.median("inflight_max"),
                    ))  # fmt: skip
    report.notes.append(
        f"median over {arguments.steps} steps with its 95 % interval, each the fastest of {arguments.repeats} repeats; "
        "a delay applies to every round of requests, the gate's too: with one chunk nothing is left to sample meanwhile"
    )
    report.notes.append("all runs of one selector and number of chunks ended in the same weights, bit for bit")
    report.finish()


if __name__ == "__main__":
    main()
