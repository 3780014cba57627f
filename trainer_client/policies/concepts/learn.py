"""A policy that knows new concepts: what `sync-r1 learn-concept` does for one concept or for a whole benchmark.

    files of each concept (`data.py`) ─▶ learn_concept, one after the other ─▶ policy folder with concept.json

A concept changes nothing that was learned before it (`embeddings.py`), so their order matters only for their ids.
The folder appears when all are learned, whole or not at all. Until then what is learned is kept beside it, in
`.NAME.partial`: the same call after an interruption goes on with the next concept and comes to the same weights.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from sync_r1.trainer_client.config import ConfigError, PolicyConfig
from sync_r1.trainer_client.policies.concepts.data import ConceptFiles, read_concept
from sync_r1.trainer_client.policies.concepts.embeddings import (
    POCKET_TRAINING,
    ConceptTraining,
    Losses,
    Progress,
    learn_concept,
)
from sync_r1.trainer_client.policies.loading import load_policy, saved_kind
from sync_r1.trainer_client.policies.showo.policy import ShowoPolicy


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
    """Teach a policy all `concepts` that it does not know yet, and write it to `out` with `concept.json`: what it
    started from, and a `Learned` for each.

    `settings` None: those of the policy's kind. `progress` is told which names are skipped.

    Raises:
        ConfigError: the policy cannot be loaded or learn, knows every name, or `out` already holds something.
        UnifyBenchError: see `data.read_concept`.
    """
    if out.exists() and not (out.is_dir() and not any(out.iterdir())):
        raise ConfigError(f"{out} already holds something; give another --out, or an empty folder")
    pocket = (saved_kind(Path(policy.weights)) or policy.kind) == "pocket"
    chosen = replace(settings or (POCKET_TRAINING if pocket else ConceptTraining()), seed=seed)
    asked = [files.name for files in concepts]
    start = {"policy": policy.model_dump(mode="json"), "settings": asdict(chosen), "asked": asked}
    partial = out.with_name(f".{out.name}.partial")
    learned = _begun(partial, start)
    newest = {"weights": str(partial)} if learned else {}
    # Gradients of a few rows are small beside what they are summed from, so products keep full precision.
    learning = load_policy(policy.model_copy(update=newest), "fp32")
    if not isinstance(learning, ShowoPolicy):
        raise ConfigError(f"policy: {policy.weights!r} is a {policy.kind} policy; learn-concept knows pocket and showo")
    new = [files for files in concepts if not learning.words.knows(files.name)]
    if not new and not learned:
        raise ConfigError(
            f"the policy already knows {', '.join(asked)}: nothing is left to learn; give a concept another name"
        )
    # Everything is read before the first one is learned: a malformed file of the last one costs no hour.
    data = [read_concept(files, learning.tokenizer.config.image_size) for files in new]
    steps = chosen.understanding_steps + chosen.generation_steps
    for files in concepts:
        if files not in new:
            progress(f"{files.name}: the policy knows it already, left as it is", 0, len(new) * steps)
    for number, (files, concept) in enumerate(zip(new, data)):

        def report(message: str, done: int, _: int, name: str = files.name, before: int = number * steps) -> None:
            progress(f"{name}: {message}", before + done, len(new) * steps)

        try:
            losses = learn_concept(learning, concept, chosen, report)
        except ValueError as error:
            raise ConfigError(f"{files.folder}: {error}") from None
        learned.append(Learned(files.name, len(concept.pictures), len(concept.questions), *losses))
        _keep(partial, learning, {**start, "concepts": [asdict(concept) for concept in learned]})
    partial.replace(out)
    return learned


def _begun(partial: Path, start: dict[str, Any]) -> list[Learned]:
    """What an interrupted call that started from the same has learned; [] if there was none."""
    try:
        kept = json.loads((partial / "concept.json").read_text())
    except FileNotFoundError:
        return []
    if {key: kept[key] for key in start} != start:
        return []
    return [
        Learned(**{**entry, "before": Losses(**entry["before"]), "after": Losses(**entry["after"])})
        for entry in kept["concepts"]
    ]


def _keep(partial: Path, policy: ShowoPolicy, summary: dict[str, Any]) -> None:
    """Replace `partial` by a whole one: it is there as it was, or as it is, or for a moment not at all."""
    whole = partial.with_suffix(".next")
    shutil.rmtree(whole, ignore_errors=True)
    policy.save(whole)
    (whole / "concept.json").write_text(json.dumps(summary, indent=1) + "\n")
    shutil.rmtree(partial, ignore_errors=True)
    whole.replace(partial)
