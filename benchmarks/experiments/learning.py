"""Does the main job learn, and from the rewards?

    python -m benchmarks.experiments.learning [--seeds 0 1 2] [--out runs/learning]

For every seed two runs of `sync-r1 train` that differ in one switch: the real rewards, and the control in which every
reward keeps its group but not its trajectory (`objective.permute_rewards_within_group`). Gains are after − before on
held-out conditions, measured on the same draws for all runs, of the whole loop and ("true sentence") of pictures drawn
from the right sentence. A run that is already finished in `--out` is not run
again, so the job can be continued.
"""

from __future__ import annotations

import argparse
import itertools
import json
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from benchmarks.experiments.picture_questions import before_and_after
from benchmarks.harness import Report
from sync_r1.trainer_client.tasks.tasks import TRUE_SENTENCE

QUESTIONS = "questions about fresh pictures"
ARMS = {"sync-grpo": "false", "permuted control": "true"}
MEASURES = (
    "total", "concept-consistency", "text-faithfulness", "aesthetic", "understanding-correctness",
    "oracle_success", "oracle_concept", "oracle_fact", "answer_accuracy", "picture_question_accuracy",
    QUESTIONS,
    *(f"{TRUE_SENTENCE}{name}" for name in ("concept-consistency", "text-faithfulness", "aesthetic",
                                            "oracle_success", "oracle_concept", "oracle_fact")),
)  # fmt: skip
_T95 = {1: 12.706, 2: 4.303, 3: 3.182, 4: 2.776}
"""Two-sided 95 % quantiles of Student's t by degrees of freedom."""
_LONGEST_RUN_S = 3 * 3600.0
"""Far more than a run takes (`budget_s` bounds it); a busy machine only makes it slower."""


@dataclass(frozen=True)
class Run:
    """Held-out means before and after one run."""

    before: dict[str, float]
    after: dict[str, float]
    seconds: float

    def gain(self, measure: str) -> float:
        """after − before."""
        return self.after[measure] - self.before[measure]


def train(folder: Path, seed: int, permuted: str, overrides: list[str]) -> Run:
    """The finished run in `folder`, made now if need be. Raises CalledProcessError when the job fails."""
    if not (folder / "report.html").exists():
        command = [sys.executable, "-m", "sync_r1.cli.main", "train", "--out", str(folder), "--seed", str(seed)]
        command += ["--resume"] if (folder / "config.json").exists() else []
        for override in (f"objective.permute_rewards_within_group={permuted}", *overrides):
            command += ["--set", override]
        subprocess.run(command, check=True, timeout=_LONGEST_RUN_S)
    before, after = (
        json.loads((folder / "evaluation" / f"{name}.json").read_text())["means"] for name in ("start", "end")
    )
    before[QUESTIONS], after[QUESTIONS] = before_and_after(folder)
    last = json.loads((folder / "metrics.jsonl").read_text().splitlines()[-1])
    return Run(before, after, last["elapsed_s"])


def interval(values: list[float]) -> str:
    """Mean and, from two values on, the half width of its 95 % interval (Student's t)."""
    mean = float(np.mean(values))
    if len(values) < 2:
        return f"{mean:+.3f}"
    half = _T95[len(values) - 1] * float(np.std(values, ddof=1)) / len(values) ** 0.5
    return f"{mean:+.3f} ± {half:.3f}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--control-seeds", type=int, nargs="+", help="of the control, if not all of --seeds")
    parser.add_argument("--out", type=Path, default=Path("runs/learning"))
    parser.add_argument("--jobs", type=int, default=1, help="runs at a time; give each a core with --set threads=1")
    parser.add_argument("--set", dest="overrides", action="append", default=[], help="key=value for both arms")
    arguments = parser.parse_args()

    def run(case: tuple[str, int]) -> Run:
        arm, seed = case
        return train(arguments.out / f"{arm.split()[0]}-{seed}", seed, ARMS[arm], arguments.overrides)

    # Seeds outside, arms inside: both arms of a seed run at the same time, under the same load.
    seeds = dict(zip(ARMS, (arguments.seeds, arguments.control_seeds or arguments.seeds)))
    cases = [(arm, seed) for seed, arm in itertools.product(arguments.seeds, ARMS) if seed in seeds[arm]]
    with ThreadPoolExecutor(arguments.jobs) as pool:
        finished = dict(zip(cases, pool.map(run, cases)))
    runs = {arm: {seed: finished[arm, seed] for seed in seeds[arm]} for arm in ARMS}
    report = Report(
        "learning",
        "The main job learns from its rewards (held-out conditions)",
        ("measure", "before", "after", *(f"gain, {arm}" for arm in ARMS), "gain beyond the control", "gain per seed"),
    )
    learned, control = runs.values()
    for measure in MEASURES:
        beyond = [learned[seed].gain(measure) - run.gain(measure) for seed, run in control.items()]
        report.rows.append((
            measure,
            f"{np.mean([run.before[measure] for run in learned.values()]):.3f}",
            f"{np.mean([run.after[measure] for run in learned.values()]):.3f}",
            interval([run.gain(measure) for run in learned.values()]),
            interval([run.gain(measure) for run in control.values()]),
            interval(beyond),
            ", ".join(f"{run.gain(measure):+.3f}" for run in learned.values()),
        ))  # fmt: skip
    longest = max(run.seconds for arm in runs.values() for run in arm.values())
    counts = " and ".join(f"{len(arm)} of {name}" for name, arm in runs.items())
    report.notes.append(f"seeds: {counts}; longest run up to its last step: {longest:.0f} s")
    report.notes.append(
        "gains are means over seeds with 95 % intervals; oracle_success is a share of pictures, never a reward"
    )
    report.finish()


if __name__ == "__main__":
    main()
