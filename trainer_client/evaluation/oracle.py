"""Who tells success from a picture: no reward, only a measure (`held_out.py`, `unifybench_metrics.py`)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np

from sync_r1.reward_models.pocket.oracle import Oracle
from sync_r1.reward_models.types import Pixels
from sync_r1.trainer_client.tasks.pocketbench import ROLES, load_concepts
from sync_r1.trainer_client.tasks.tasks import Task


@dataclass(frozen=True)
class Verdict:
    """What the oracle saw in one picture."""

    concept: bool
    """Kind, colour and pattern are the concept's."""
    fact: bool
    """The condition's fact is visible."""


class SuccessOracle(Protocol):
    """Says whether pictures show what their tasks ask for."""

    def verdicts(self, tasks: Sequence[Task], pictures: Sequence[Pixels]) -> list[Verdict]:
        """One verdict per picture."""
        ...


class PocketOracle:
    """The trained oracle of the pocket domain, with the concepts' factors from their `pocket.json`."""

    def __init__(self, root: Path) -> None:
        """Raises FileNotFoundError when `root` is no PocketBench or the oracle has not been trained."""
        self._oracle = Oracle.load()
        self._concepts = {concept.name: concept for concept in load_concepts(root)}

    def verdicts(self, tasks: Sequence[Task], pictures: Sequence[Pixels]) -> list[Verdict]:
        found = []
        for task, reading in zip(tasks, self._oracle.read(np.stack(pictures))):
            concept, fact = self._concepts[task.concept.name], task.condition.fact
            shown = fact is not None and concept.shows(ROLES[fact], reading.scene)
            found.append(Verdict(concept.is_seen_in(reading.scene), shown))
        return found
