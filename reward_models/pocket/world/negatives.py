"""Near misses: scenes that differ from a scene in one factor. Rewards must prefer the true caption, training learns
from both."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from sync_r1.reward_models.pocket.world.captions import plan_caption, write_caption
from sync_r1.reward_models.pocket.world.scene_graph import (
    ACCESSORIES,
    BACKGROUNDS,
    COLOURS,
    KINDS,
    MAX_COUNT,
    PATTERNS,
    THINGS,
    Scene,
    opposite,
    pick,
)


def negatives(scene: Scene, rng: np.random.Generator) -> dict[str, Scene]:
    """Scenes that differ from `scene` in exactly one factor, by the factor's name, for those that apply.

    "colour_swap": the figure and its accessory (or companions) exchange colours; "count": one companion more or fewer;
    "relation": on the opposite side; "accessory": taken off.
    """
    found: dict[str, Scene] = {}
    accessory, things = scene.accessory, scene.things
    swap_accessory = accessory is not None and (things is None or rng.random() < 0.5)
    if accessory is not None:
        found["accessory"] = replace(scene, accessory=None)
        if swap_accessory and accessory.colour != scene.colour:
            swapped = replace(accessory, colour=scene.colour)
            found["colour_swap"] = replace(scene, colour=accessory.colour, accessory=swapped)
    if things is not None:
        if not swap_accessory and things.colour != scene.colour:
            found["colour_swap"] = replace(scene, colour=things.colour, things=replace(things, colour=scene.colour))
        counts = [count for count in (things.count - 1, things.count + 1) if 1 <= count <= MAX_COUNT]
        found["count"] = replace(scene, things=replace(things, count=counts[int(rng.integers(len(counts)))]))
        found["relation"] = replace(scene, things=replace(things, relation=opposite(things.relation)))
    return found


def must_mention(scene: Scene, negative: Scene, factor: str) -> tuple[str, ...]:
    """What a caption has to say so that `negative`, which differs from `scene` in `factor`, gets another one."""
    if factor == "colour_swap":
        return ("accessory",) if scene.accessory != negative.accessory else ("things",)
    return {"count": ("things",), "kind": (), "colour": ()}.get(factor, (factor,))


def one_changed(scene: Scene, rng: np.random.Generator) -> tuple[str, Scene]:
    """A near miss for training: (the redrawn attribute's name as in `must_mention`, `scene` with it redrawn)."""

    def other(options: tuple[str, ...], value: str) -> str:
        return pick(rng, tuple(option for option in options if option != value))

    changes = {
        "kind": lambda: replace(scene, kind=other(KINDS, scene.kind)),
        "colour": lambda: replace(scene, colour=other(COLOURS, scene.colour)),
        "pattern": lambda: replace(scene, pattern=other(PATTERNS, scene.pattern)),
        "background": lambda: replace(scene, background=other(BACKGROUNDS, scene.background)),
    }
    if (accessory := scene.accessory) is not None:
        changes["accessory"] = lambda: replace(
            scene,
            accessory=replace(accessory, kind=other(ACCESSORIES, accessory.kind))
            if rng.random() < 0.5
            else replace(accessory, colour=other(COLOURS, accessory.colour)),
        )
    if (things := scene.things) is not None:
        changes["things"] = lambda: replace(
            scene,
            things=replace(things, kind=other(THINGS, things.kind))
            if rng.random() < 0.5
            else replace(things, colour=other(COLOURS, things.colour)),
        )
    name = pick(rng, tuple(changes))
    return name, changes[name]()


def caption_pair(
    scene: Scene, negative: Scene, factor: str, rng: np.random.Generator, style: str = "short"
) -> tuple[str, str]:
    """Captions of `scene` and its negative (`factor`: the key from `negatives`) in the same words but for that
    factor."""
    plan = plan_caption(scene, rng, style, must_mention(scene, negative, factor))
    return write_caption(scene, plan), write_caption(negative, plan)
