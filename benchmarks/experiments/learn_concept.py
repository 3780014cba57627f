"""Is a policy that learned its concepts a cold start? `python -m benchmarks.experiments.learn_concept [--seeds 0 1 2]`

The checked-in policy learns the eight concepts of `pocket-unseen` as `sync-r1 learn-concept --data` does. The oracle
reads pictures drawn from the name alone, in which only the learned tokens tell the look, and from the loop's text
(condition, look and fact in words). "Before" has the new tokens in place but not trained. Then the main job starts from
the learned policy, and beside it, for the same seeds, from the checked-in one on the concepts that it was trained with.

What is finished in `--out` is not made again, so the job can be continued.
"""

from __future__ import annotations

import argparse
import itertools
import json
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks.experiments.learning import MEASURES, Run, interval, train
from benchmarks.harness import Report
from sync_r1.reward_models.pocket.oracle import Oracle
from sync_r1.trainer_client.config import PolicyConfig
from sync_r1.trainer_client.policies.concepts.data import benchmark_files
from sync_r1.trainer_client.policies.concepts.embeddings import POCKET_TRAINING, ConceptTraining
from sync_r1.trainer_client.policies.concepts.learn import learn_concepts
from sync_r1.trainer_client.policies.pocket.policy import ARTEFACTS, PocketPolicy
from sync_r1.trainer_client.tasks.named_benchmarks import UNSEEN_CONCEPTS, benchmark_folder
from sync_r1.trainer_client.tasks.pocketbench import CONCEPTS, Concept, generation_prompt

PICTURES = 96
"""Per concept and kind of prompt."""
_UNTRAINED = replace(POCKET_TRAINING, understanding_steps=0, generation_steps=0)
STARTS = {"learned concepts": "pocket-unseen", "trained concepts": "pocket"}
"""What a policy starts from -> the benchmark whose concepts it knows."""


def learn(out: Path, settings: ConceptTraining) -> None:
    """The policy in `out`, made now if need be, with the processor seconds that it took beside it."""
    if out.exists():
        return
    started = time.process_time()
    files = benchmark_files(benchmark_folder("pocket-unseen", out.parent))
    learn_concepts(files, out, policy=PolicyConfig(), settings=settings, progress=lambda message, *_: print(message))
    (out / "seconds.json").write_text(json.dumps(time.process_time() - started))


def verdicts(policy: PocketPolicy, concept: Concept) -> dict[str, float]:
    """Shares of pictures with the concept's look, by prompt; and of those drawn from the name alone, how many show
    something that belongs to a training condition though nobody asked.
    """
    roles = concept.training
    prompts = {
        "name": [concept.token],
        "loop": [generation_prompt(concept.condition(role), concept.info, concept.fact(role)) for role in roles],
    }
    shares = {}
    for kind, texts in prompts.items():
        generator = torch.Generator().manual_seed(0)
        drawn = (texts * (PICTURES // len(texts)))[:PICTURES]
        state = policy.advance(policy.start(drawn), policy.steps, generator=generator)
        scenes = [reading.scene for reading in Oracle.load().read(policy.decode(state))]
        shares[kind] = float(np.mean([concept.is_seen_in(scene) for scene in scenes]))
        if kind == "name":
            # Every picture has a background, so places and homes say nothing here.
            brought = [role for role in roles if role not in ("place", "home")]
            shares["unasked"] = float(np.mean([any(concept.shows(role, s) for role in brought) for s in scenes]))
    return shares


def all_verdicts(file: Path, policy: Path, concepts: Sequence[Concept]) -> list[dict[str, float]]:
    """What `file` holds, made now if need be: the verdicts on each concept drawn by the policy in that folder."""
    if not file.exists():
        loaded = PocketPolicy.load(policy)
        file.write_text(json.dumps([verdicts(loaded, concept) for concept in concepts], indent=1) + "\n")
    read: list[dict[str, float]] = json.loads(file.read_text())
    return read


def concepts_table(out: Path) -> None:
    """What was learned, concept by concept."""
    torch.set_num_threads(1)
    learn(out / "untrained", _UNTRAINED)
    learn(out / "learned", POCKET_TRAINING)
    before, after = (
        all_verdicts(out / f"{name}.json", out / name, UNSEEN_CONCEPTS) for name in ("untrained", "learned")
    )
    trained = all_verdicts(out / "trained.json", ARTEFACTS, CONCEPTS)
    report = Report(
        "learn_concept",
        "Concepts learned by their own tokens: losses, and the oracle's verdict",
        (
            "concept", "answers, nats per token", "pictures, nats per masked token", "right from the name alone",
            "right in the loop's text", "unasked facts from the name alone",
        ),
    )  # fmt: skip
    entries: list[dict[str, Any]] = json.loads((out / "learned" / "concept.json").read_text())["concepts"]
    for concept, entry, was, now in zip(UNSEEN_CONCEPTS, entries, before, after):
        report.rows.append((
            concept.info.removesuffix(" ."),
            *(f"{entry['before'][task]:.2f} → {entry['after'][task]:.2f}" for task in ("understanding", "generation")),
            *(f"{was[kind]:.0%} → {now[kind]:.0%}" for kind in ("name", "loop", "unasked")),
        ))  # fmt: skip
    means = [{kind: np.mean([one[kind] for one in ones]) for kind in ones[0]} for ones in (before, after, trained)]
    kinds = ("name", "loop", "unasked")
    report.rows += [
        ("all eight", "", "", *(f"{means[0][kind]:.0%} → {means[1][kind]:.0%}" for kind in kinds)),
        ("the eight of the checked-in cold start", "", "", *(f"{means[2][kind]:.0%}" for kind in kinds)),
    ]
    seconds = json.loads((out / "learned" / "seconds.json").read_text())
    report.notes += [
        f"{POCKET_TRAINING.understanding_steps + POCKET_TRAINING.generation_steps} steps per concept on ten pictures; "
        f"all eight took {seconds:.0f} s of one core; losses are those on the pictures learned from",
        f"right: kind, colour and pattern together, of {PICTURES} pictures each at temperature 1",
        "unasked: a hat, scarf, toy or charm that belongs to a training condition of the concept",
    ]
    report.finish()


def training_table(out: Path, seeds: list[int], jobs: int, overrides: list[str]) -> None:
    """The main job from both starts."""
    policies = {"learned concepts": str(out / "learned"), "trained concepts": "pocket"}

    def run(case: tuple[int, str]) -> Run:
        seed, start = case
        own = [f"policy={policies[start]}", f"benchmark={STARTS[start]}"]
        return train(out / f"{STARTS[start]}-{seed}", seed, "false", [*own, *overrides])

    # Both starts of a seed run at the same time, under the same load.
    cases = list(itertools.product(seeds, STARTS))
    with ThreadPoolExecutor(jobs) as pool:
        finished = dict(zip(cases, pool.map(run, cases)))
    runs = {start: [finished[seed, start] for seed in seeds] for start in STARTS}
    report = Report(
        "learn_concept_training",
        "The main job from learned concepts, beside the checked-in cold start (held-out conditions)",
        ("measure", *itertools.chain.from_iterable((f"before, {s}", f"gain, {s}", "per seed") for s in STARTS)),
    )
    for measure in MEASURES:
        cells = []
        for ones in runs.values():
            gains = [run.gain(measure) for run in ones]
            before = np.mean([run.before[measure] for run in ones])
            cells += [f"{before:.3f}", interval(gains), ", ".join(f"{gain:+.3f}" for gain in gains)]
        report.rows.append((measure, *cells))
    longest = max(run.seconds for ones in runs.values() for run in ones)
    report.notes += [
        "the two columns have other concepts, so their levels are of two tests; gains are after − before with 95 % "
        "intervals over seeds (Student's t)",
        f"{len(seeds)} seeds each; longest run up to its last step: {longest:.0f} s",
    ]
    report.finish()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, nargs="*", default=[0, 1, 2], help="none: only what was learned")
    parser.add_argument("--out", type=Path, default=Path("runs/learn_concept"))
    parser.add_argument("--jobs", type=int, default=1, help="runs at a time; give each a core with --set threads=1")
    parser.add_argument("--set", dest="overrides", action="append", default=[], help="key=value for both starts")
    arguments = parser.parse_args()
    concepts_table(arguments.out)
    if arguments.seeds:
        training_table(arguments.out, arguments.seeds, arguments.jobs, arguments.overrides)


if __name__ == "__main__":
    main()
