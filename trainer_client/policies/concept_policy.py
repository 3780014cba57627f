"""A policy that knows new concepts: what `sync-r1 learn-concept` does for one concept or for a whole benchmark.

    files of each concept (`concept_data.py`) ─▶ learn_concept, one after the other ─▶ policy folder with concept.json

A concept changes nothing that was learned before it (`learn_concept.py`), so their order matters only for their ids.
The folder appears when all are learned, whole or not at all; a run that was cut off starts again.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from sync_r1.trainer_client.config import ConfigError, PolicyConfig
from sync_r1.trainer_client.policies.concept_data import ConceptFiles, read_concept
from sync_r1.trainer_client.policies.learn_concept import (
    POCKET_TRAINING,
    ConceptTraining,
    Losses,
    Progress,
    learn_concept,
)
from sync_r1.trainer_client.policies.loading import load_policy
from sync_r1.trainer_client.policies.pocket import PocketPolicy
from sync_r1.trainer_client.policies.showo_policy import ShowoPolicy


@dataclass(frozen=True)
class Learned:
    """One concept: what it was learned from, and the losses before and after."""

    name: str
    pictures: int
    questions: int
    before: Losses
    after: Losses


def learn_concepts(
    concepts: Sequence[ConceptFiles],
    out: Path,
    *,
    policy: PolicyConfig,
    seed: int = 0,
    settings: ConceptTraining | None = None,
    progress: Progress = lambda message, done, steps: None,
) -> list[Learned]:
    """Teach a policy all `concepts` that it does not know yet, and write it and `concept.json` (a list of `Learned`) to
    `out`.

    `settings` None: those of the policy's kind. `progress` is told which names are skipped.

    Raises:
        ConfigError: the policy cannot be loaded or learn, knows every name, or `out` already holds something.
        UnifyBenchError: see `concept_data.read_concept`.
    """
    if out.exists() and not (out.is_dir() and not any(out.iterdir())):
        raise ConfigError(f"{out} already holds something; give another --out, or an empty folder")
    # Gradients of a few rows are small beside what they are summed from, so products keep full precision.
    learning = load_policy(policy, "fp32")
    if not isinstance(learning, ShowoPolicy):
        raise ConfigError(f"policy: {policy.weights!r} is a {policy.kind} policy; learn-concept knows pocket and showo")
    new = [files for files in concepts if not learning.words.knows(files.name)]
    if not new:
        names = ", ".join(files.name for files in concepts)
        raise ConfigError(f"the policy already knows {names}: nothing is left to learn; give a concept another name")
    # Everything is read before the first one is learned: a malformed file of the last one costs no hour.
    data = [read_concept(files, learning.tokenizer.config.image_size) for files in new]
    chosen = replace(
        settings or (POCKET_TRAINING if isinstance(learning, PocketPolicy) else ConceptTraining()), seed=seed
    )
    steps = chosen.understanding_steps + chosen.generation_steps
    for files in concepts:
        if files not in new:
            progress(f"{files.name}: the policy knows it already, left as it is", 0, len(new) * steps)
    learned = []
    for number, (files, concept) in enumerate(zip(new, data)):

        def report(message: str, done: int, _: int, name: str = files.name, before: int = number * steps) -> None:
            progress(f"{name}: {message}", before + done, len(new) * steps)

        try:
            losses = learn_concept(learning, concept, chosen, report)
        except ValueError as error:
            raise ConfigError(f"{files.folder}: {error}") from None
        learned.append(Learned(files.name, len(concept.pictures), len(concept.questions), *losses))
    _write(out, learning, learned)
    return learned


def _write(out: Path, policy: ShowoPolicy, learned: Sequence[Learned]) -> None:
    partial = out.with_name(f".{out.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    policy.save(partial)
    (partial / "concept.json").write_text(json.dumps([asdict(concept) for concept in learned], indent=1) + "\n")
    partial.replace(out)
