"""In which order should answers and pictures learn, and from which picture rewards?

    python -m benchmarks.experiments.schedules [--seeds 0] [--out runs/schedules]

Arms of the main job (`pocket.yaml`) that cost the same: answers first and pictures then, one update of each in turns,
both in every update; and the first with the picture rewards' earlier weights. Each is measured on held-out conditions,
and on *training* conditions, where the choice is made: there the oracle says how many pictures of the right sentence,
and of the whole loop, show concept and fact. A run that is finished in `--out` is not run again.
"""

from __future__ import annotations

import argparse
import asyncio
import itertools
import json
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import numpy as np

from benchmarks.harness import Report
from sync_r1.reward_models.cards import BUILT_IN_REWARDS
from sync_r1.trainer_client.config import EvaluationConfig, TrainConfig, load_config
from sync_r1.trainer_client.evaluation.held_out import evaluate
from sync_r1.trainer_client.jobs.local_services import live_services, read_endpoints
from sync_r1.trainer_client.jobs.train import load_benchmark, load_oracle, part_of, reward_clients, reward_ensemble
from sync_r1.trainer_client.policies.loading import load_policy
from sync_r1.trainer_client.tasks.tasks import TRUE_SENTENCE

CONFIG = Path(__file__).parents[2] / "trainer_client" / "configs" / "pocket.yaml"
_TURNS = "schedule=[{updates: 1, learn: answers}, {updates: 1, learn: pictures, sentence: 'true', recall_share: 1.0}]"
_EARLIER_WEIGHTS = tuple(
    f"rewards.{name}.weight={weight}"
    for name, weight in (("concept-consistency", 0.26), ("text-faithfulness", 0.26), ("aesthetic", 0.13))
)
ARMS: dict[str, tuple[str, ...]] = {
    "answers first, then pictures": (),
    "in turns": (_TURNS,),
    "both at once": ("schedule=[{updates: 1, learn: both, pictured_answers: 1}]", "steps=24"),
    "answers first, earlier weights": _EARLIER_WEIGHTS,
}
"""By 24 updates of pictures (8 prompts × 8 each) and 20 to 24 of answers (8 prompts × 16)."""
MEASURES = ("oracle_success", f"{TRUE_SENTENCE}oracle_success", "text-faithfulness", "concept-consistency",
            "aesthetic", "answer_accuracy", "picture_question_accuracy")  # fmt: skip
_MEASURED = EvaluationConfig(pictures_per_condition=8, true_sentence_pictures=8, shown=1)
_LONGEST_RUN_S = 3 * 3600.0


def train(folder: Path, seed: int, arm: str, overrides: list[str]) -> None:
    """Make the run in `folder` unless it is finished. Raises CalledProcessError when the job fails."""
    if (folder / "report.html").exists():
        return
    command = [sys.executable, "-m", "sync_r1.cli.main", "train", "--out", str(folder), "--seed", str(seed)]
    command += ["--resume"] if (folder / "config.json").exists() else []
    for override in (*ARMS[arm], *overrides):
        command += ["--set", override]
    subprocess.run(command, check=True, timeout=_LONGEST_RUN_S, stdout=subprocess.DEVNULL)


def on_training_conditions(policy: Path, config: TrainConfig, endpoints: dict[str, str], out: Path) -> dict[str, float]:
    """Means on training conditions, from `out` if they were measured before."""
    if not out.exists():
        out.parent.mkdir(parents=True, exist_ok=True)
        out.write_text(json.dumps(asyncio.run(_measured(policy, config, endpoints, out.parent))))
    return dict(json.loads(out.read_text()))


async def _measured(policy: Path, config: TrainConfig, endpoints: dict[str, str], folder: Path) -> dict[str, float]:
    bench = load_benchmark("pocket", folder)
    swapped = [replace(one, held_out_conditions=one.train_conditions) for one in bench.concepts]
    ensemble = reward_ensemble(config, reward_clients(config, endpoints))
    try:
        evaluation = await evaluate(
            config.model_copy(update={"evaluation": _MEASURED}),
            load_policy(config.policy.model_copy(update={"weights": str(policy)}), config.precision),
            replace(bench, concepts=tuple(swapped)),
            scorer=ensemble,
            picture_scorer=part_of(ensemble, "picture", BUILT_IN_REWARDS),
            oracle=load_oracle(bench),
        )
    finally:
        await ensemble.close()
    return evaluation.means


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--out", type=Path, default=Path("runs/schedules"))
    parser.add_argument("--jobs", type=int, default=1, help="runs at a time; give each a core with --set threads=1")
    parser.add_argument("--set", dest="overrides", action="append", default=[], help="key=value for all arms")
    arguments = parser.parse_args()
    cases = list(itertools.product(arguments.seeds, ARMS))
    folders = {(seed, arm): arguments.out / f"{'-'.join(arm.replace(',', '').split())}-{seed}" for seed, arm in cases}
    with ThreadPoolExecutor(arguments.jobs) as pool:
        list(pool.map(lambda case: train(folders[case], *case, arguments.overrides), cases))
    report = Report(
        "schedules",
        "In which order answers and pictures learn, at equal cost",
        ("arm", "conditions", *MEASURES),
    )
    services = arguments.out / "services"
    services.mkdir(parents=True, exist_ok=True)
    with live_services("pocket", services):
        endpoints = read_endpoints(services / "endpoints.json")
        config = load_config(CONFIG, ["score_timeout_s=900"])
        for arm in ARMS:
            held_out, training = [], []
            for seed in arguments.seeds:
                folder = folders[seed, arm]
                held_out.append(json.loads((folder / "evaluation" / "end.json").read_text())["means"])
                measured = folder / "training-conditions" / "means.json"
                training.append(on_training_conditions(folder / "policy", config, endpoints, measured))
            for conditions, means in (("training", training), ("held out", held_out)):
                figures = [f"{np.mean([one[key] for one in means]):.3f}" for key in MEASURES]
                report.rows.append((arm, conditions, *figures))
    start = json.loads((folders[cases[0]] / "evaluation" / "start.json").read_text())["means"]
    report.rows.append(("before", "held out", *(f"{start[key]:.3f}" for key in MEASURES)))
    report.notes.append(f"seeds {arguments.seeds}; `true sentence`: pictures drawn from the right sentence")
    report.finish()


if __name__ == "__main__":
    main()
