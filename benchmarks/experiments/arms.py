"""Training arms at equal policy forwards: `python -m benchmarks.experiments.arms [--seeds 0 …] [--out runs/arms]`.

Every arm makes the same number of updates, and an update costs every arm the same number of policy forwards ((row,
decoding step) pairs of sampling, rejected previews and the passes that fill them included). What a selector spends
on a group it saves in groups: 4 plain ones, 3 of 15 previews each, or 2 of 16 finished candidates each. Runs of one
seed start from the same policy and are measured on the same held-out draws, so differences are taken within seeds.

All runs share one set of services. Runs that are finished in `--out` are not made again, one that was cut off is
resumed, and `--gather` only makes the tables.
"""

from __future__ import annotations

import argparse
import itertools
import json
import subprocess
import sys
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from benchmarks.experiments.learning import interval
from benchmarks.harness import Report
from sync_r1.trainer_client.jobs.local_services import live_services

WEIGHTS = {
    "concept-consistency": 0.26, "text-faithfulness": 0.26, "aesthetic": 0.13, "understanding-correctness": 0.35,
}  # fmt: skip
"""Of the total that all arms are measured by, whatever they were trained on."""
_CONFIG = Path(__file__).parents[2] / "trainer_client" / "configs" / "pocket_dgs.yaml"
_COMMON = (
    "steps=20", "threads=1", "budget_s=900", "checkpoint_every=10", "sampling.group_size=8", "sampling.prompts=4",
    "sampling.chunks=1", "selector.kind=none", "optimiser.warmup_steps=2", "evaluation.pictures_per_condition=6",
    "evaluation.shown=1", "evaluation.every=5",
)  # fmt: skip
_GATE = ("selector.kind=dgs", "sampling.prompts=3", "selector.preview_at=0.125", "selector.target_acceptance=0.534",
         "selector.max_rounds=1", "selector.group=fixed", "selector.threshold=quantile")  # fmt: skip
SELECTORS = {
    "none": (),
    "dgs-spread": (*_GATE, "selector.keep=spread", f"selector.weights={json.dumps(WEIGHTS)}"),
    "pods": ("selector.kind=pods", "sampling.prompts=2", "selector.candidates=16"),
    "dgs-above": (
        *_GATE, "selector.keep=above",
        'selector.weights={"concept-consistency": 0.4, "text-faithfulness": 0.4, "aesthetic": 0.2}',
    ),
    "none, G = 4": ("sampling.group_size=4", "sampling.prompts=8"),
    "dgs-spread, G = 4": (
        *_GATE, "sampling.group_size=4", "sampling.prompts=6", "selector.target_acceptance=0.5",
        "selector.keep=spread", f"selector.weights={json.dumps(WEIGHTS)}",
    ),
    "pods, G = 4": ("selector.kind=pods", "sampling.group_size=4", "sampling.prompts=4", "selector.candidates=8"),
}  # fmt: skip
"""Arms that differ in the selector only; G = 8 trajectories per group enter the loss unless the name says 4."""
_NO_PICTURE_REWARD = ("concept-consistency", "text-faithfulness", "aesthetic")
ABLATIONS = {
    "permuted": ("objective.permute_rewards_within_group=true",),
    "best-of-n": ("objective.kind=best_of_n",),
    "understanding-only": (
        *(f"rewards.{name}.weight=0" for name in _NO_PICTURE_REWARD), "objective.image_weight=0",
    ),
    "generation-only": ("rewards.understanding-correctness.weight=0", "objective.text_loss=false"),
    "release-loss": ("objective.text_loss=false", "objective.credit=joint"),
}  # fmt: skip
"""Arms with plain groups that differ from `none` in what is learnt from. `release-loss`: answers are rewarded but get
no gradient, and image tokens are credited with the whole reward."""
_HELD_OUT = "rewards.concept-consistency.variant=dino"
"""A definition that nothing was trained on, by another encoder, which others trained on photographs."""
MEASURES = (*WEIGHTS, "oracle_success", "answer_accuracy")


@dataclass(frozen=True)
class Run:
    """One finished run; K measurements, the first before training and the last after it."""

    means_K: list[dict[str, float]]
    forwards_K: list[int]
    """Policy forwards spent until then."""
    seconds_K: list[float]
    """Seconds of training (evaluations not counted) until then."""
    held_out: dict[str, float]
    gate_off_at: int | None
    learned: int
    """Trajectories that entered the loss."""

    def totals(self) -> list[float]:
        """The common total at each measurement."""
        return [total(means) for means in self.means_K]

    def gain(self, measure: str) -> float:
        """after − before."""
        first, last = self.means_K[0], self.means_K[-1]
        return total(last) - total(first) if measure == "total" else last[measure] - first[measure]


def total(means: dict[str, float]) -> float:
    """R = 0.65 (0.4 concept + 0.4 text + 0.2 aesthetic) + 0.35 understanding."""
    return sum(weight * means[name] for name, weight in WEIGHTS.items())


def train(folder: Path, seed: int, arm: str, endpoints: Path, extra: list[str]) -> None:
    """Make the run in `folder` unless it is finished. Raises CalledProcessError when a command fails."""
    base = [sys.executable, "-m", "sync_r1.cli.main"]
    settings = [*_COMMON, *(SELECTORS | ABLATIONS)[arm], *extra]
    if not (folder / "report.html").exists():
        command = [*base, "train", "--config", str(_CONFIG), "--out", str(folder), "--seed", str(seed)]
        command += ["--endpoints", str(endpoints)]
        command += ["--resume"] if (folder / "config.json").exists() else []
        command += itertools.chain.from_iterable(("--set", setting) for setting in settings)
        subprocess.run(command, check=True, timeout=1800, stdout=subprocess.DEVNULL)
    if not (folder / "held-out" / "evaluation" / "policy.json").exists():
        held_out(folder / "policy", folder / "held-out", endpoints, extra)


def held_out(policy: Path | str, out: Path, endpoints: Path, extra: list[str]) -> None:
    """Measure a policy by the held-out definition, on the draws of all other measurements."""
    command = [sys.executable, "-m", "sync_r1.cli.main", "evaluate", "--policy", str(policy), "--out", str(out)]
    command += ["--config", str(_CONFIG), "--endpoints", str(endpoints)]
    for setting in (*_COMMON, _HELD_OUT, *extra):
        command += ["--set", setting]
    subprocess.run(command, check=True, timeout=600, stdout=subprocess.DEVNULL)


def read(folder: Path) -> Run:
    """A finished run. Raises OSError when something of it is missing."""
    steps = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    names = ["start", *sorted(path.stem for path in (folder / "evaluation").glob("step-*.json")), "end"]
    at_K = [0, *(int(name.removeprefix("step-")) for name in names[1:-1]), steps[-1]["step"]]
    forwards = np.cumsum([0, *(step["selection"]["policy_steps"] for step in steps)])
    seconds = np.cumsum([0.0, *(sum(step["phases_s"].values()) for step in steps)])
    off = [step["step"] for step in steps if step.get("gate_active") == 0.0]
    return Run(
        means_K=[_means(folder / "evaluation" / f"{name}.json") for name in names],
        forwards_K=[int(forwards[at]) for at in at_K],
        seconds_K=[float(seconds[at]) for at in at_K],
        held_out=_means(folder / "held-out" / "evaluation" / "policy.json"),
        gate_off_at=off[0] if off else None,
        learned=sum(step["learned"] for step in steps),
    )


def _means(file: Path) -> dict[str, float]:
    means: dict[str, float] = json.loads(file.read_text())["means"]
    return means


def reached_at(totals_K: list[float], spent_K: list[float], level: float) -> float | None:
    """What had been spent when the total first reached `level` (a straight line between measurements); None: never."""
    if totals_K[0] >= level:
        return spent_K[0]
    for k in range(1, len(totals_K)):
        if totals_K[k] >= level:
            share = (level - totals_K[k - 1]) / (totals_K[k] - totals_K[k - 1])
            return spent_K[k - 1] + share * (spent_K[k] - spent_K[k - 1])
    return None


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2, 3, 4])
    parser.add_argument("--out", type=Path, default=Path("runs/arms"))
    parser.add_argument("--endpoints", type=Path, help="of services that run already (`sync-r1 up --endpoints-file`)")
    parser.add_argument("--gather", action="store_true", help="only the tables, of the runs that are there")
    parser.add_argument("--set", dest="extra", action="append", default=[], help="key=value for all arms")
    arguments = parser.parse_args()
    if not arguments.gather:
        arguments.out.mkdir(parents=True, exist_ok=True)
        with ExitStack() as stack:
            if arguments.endpoints is None:
                stack.enter_context(live_services("pocket", arguments.out))
            _make(arguments, arguments.endpoints or arguments.out / "endpoints.json")
    runs = {arm: _finished(arguments.out, arm, arguments.seeds) for arm in (*SELECTORS, *ABLATIONS)}
    before = _means(arguments.out / "before" / "evaluation" / "policy.json")
    _selectors_table(runs)
    _learning_table(runs, before)


def _make(arguments: argparse.Namespace, endpoints: Path) -> None:
    """All runs that are not there yet, seeds outside, the selectors' first."""
    if not (arguments.out / "before" / "evaluation" / "policy.json").exists():
        held_out("pocket", arguments.out / "before", endpoints, arguments.extra)
    for arms in (SELECTORS, ABLATIONS):
        for seed, arm in itertools.product(arguments.seeds, arms):
            print(f"{arm}, seed {seed}", flush=True)
            train(_folder(arguments.out, arm, seed), seed, arm, endpoints, arguments.extra)


def _finished(out: Path, arm: str, seeds: list[int]) -> dict[int, Run]:
    folders = {seed: _folder(out, arm, seed) for seed in seeds}
    return {
        seed: read(folder)
        for seed, folder in folders.items()
        if (folder / "held-out" / "evaluation" / "policy.json").exists()
    }


def _folder(out: Path, arm: str, seed: int) -> Path:
    return out / f"{arm.replace(', G = ', '-g')}-{seed}"


def _selectors_table(runs: dict[str, dict[int, Run]]) -> None:
    report = Report(
        "arms_selectors",
        "Selectors in training, at equal policy forwards (held-out conditions)",
        (
            "arm", "seeds", "forwards", "training s", "learned from", "gain in total", "beyond none",
            "seeds reaching none's peak", "forwards to it ÷ none's", "time to it ÷ none's",
        ),
    )  # fmt: skip
    none = runs["none"]
    for arm in SELECTORS:
        own = {seed: run for seed, run in runs[arm].items() if seed in none}
        ratios: dict[str, list[float]] = {"forwards": [], "seconds": []}
        if not own:
            continue
        for seed, run in own.items():
            base = none[seed]
            peak = max(base.totals())
            for kind, spent in ratios.items():
                own_K, base_K = ([float(x) for x in getattr(one, f"{kind}_K")] for one in (run, base))
                at, base_at = reached_at(run.totals(), own_K, peak), reached_at(base.totals(), base_K, peak)
                if at is not None and base_at:
                    spent.append(at / base_at)
        last = list(own.values())
        beyond = [run.gain("total") - none[seed].gain("total") for seed, run in own.items()]
        report.rows.append((
            arm,
            str(len(own)),
            f"{np.mean([run.forwards_K[-1] for run in last]):.0f}",
            f"{np.mean([run.seconds_K[-1] for run in last]):.1f}",
            f"{np.mean([run.learned for run in last]):.0f}",
            interval([run.gain("total") for run in last]),
            interval(beyond) if arm != "none" else "",
            f"{len(ratios['forwards'])} of {len(own)}",
            *(", ".join(f"{ratio:.2f}" for ratio in values) if arm != "none" else "" for values in ratios.values()),
        ))  # fmt: skip
        report.notes.append(
            f"{arm}: mean total along the way "
            + " → ".join(f"{np.mean(values):.3f}" for values in zip(*(run.totals() for run in last)))
            + (
                f"; gate switched itself off in {sum(run.gate_off_at is not None for run in last)} of {len(last)} runs"
                if arm.startswith("dgs")
                else ""
            )
        )
    report.notes += [
        "gains are after − before with 95 % intervals over seeds (Student's t), differences within seeds",
        "peak: the largest held-out total of the plain arm of the same seed, measured every five updates; ratios are"
        " only of the seeds that reach it, so read them together with their number",
    ]
    report.finish()


def _learning_table(runs: dict[str, dict[int, Run]], before: dict[str, float]) -> None:
    report = Report(
        "arms_learning",
        "What is learnt from: joint, one task, the release's loss, and two controls (plain groups)",
        ("arm", "seeds", "gain in total", "beyond none", *(f"gain, {name}" for name in MEASURES),
         "gain, held-out concept"),
    )  # fmt: skip
    none = runs["none"]
    for arm in ("none", *ABLATIONS):
        own = {seed: run for seed, run in runs[arm].items() if seed in none}
        if not own:
            continue
        beyond = [run.gain("total") - none[seed].gain("total") for seed, run in own.items()]
        report.rows.append((
            "none (joint)" if arm == "none" else arm,
            str(len(own)),
            interval([run.gain("total") for run in own.values()]),
            interval(beyond) if arm != "none" else "",
            *(interval([run.gain(name) for run in own.values()]) for name in MEASURES),
            interval([run.held_out["concept-consistency"] - before["concept-consistency"] for run in own.values()]),
        ))  # fmt: skip
    report.notes += [
        "total is that of the joint arm for all; oracle_success is a share of pictures and never a reward",
        "held-out concept: by EfficientNet features (variant dino), a definition that no arm is trained on",
    ]
    report.finish()


if __name__ == "__main__":
    main()
