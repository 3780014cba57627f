"""What PocketBench's pictures look like, from its factors: texts and nouns to score against, and which facts they show.

`unifybench.py` asks for this where a concept has a `pocket.json`; other benchmarks have it from `sync-r1 densify`.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace

import numpy as np

from sync_r1.reward_models.pocket.world.scenes import noun_phrases, plan_caption, write_caption
from sync_r1.trainer_client.tasks.pocketbench import ROLES, Concept
from sync_r1.trainer_client.tasks.unifybench_schema import Pocket


@dataclass(frozen=True)
class Looks:
    """`descriptions` and `nouns` are index-aligned with the concept's facts; `shown_facts` is by training picture."""

    descriptions: tuple[str, ...] = ()
    nouns: tuple[tuple[str, ...], ...] = ()
    shown_facts: dict[str, tuple[int, ...]] = field(default_factory=dict)


def pocket_looks(concept: Concept, pocket: Pocket) -> Looks:
    """What a picture of each fact looks like, and which facts the training pictures show."""
    descriptions, nouns = [], []
    for role in ROLES:
        rng = np.random.default_rng(0)
        scene = concept.scene(role, rng)
        # The caption names figure and fact only; what the fact leaves open in the scene is not mentioned.
        plan = replace(
            plan_caption(scene, rng), pattern=True, accessory=True, background=role in ("place", "home"), things=True,
            relation=False, verb=0.0,
        )  # fmt: skip
        descriptions.append(write_caption(scene, plan))
        nouns.append(noun_phrases(scene, plan))
    shown = {
        file: tuple(fact for fact, role in enumerate(ROLES) if concept.shows(role, scene))
        for file, scene in pocket.train_pictures.items()
    }
    return Looks(tuple(descriptions), tuple(nouns), shown)
