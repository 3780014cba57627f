"""A scene as class labels: what the oracle reads from pictures and pocket-clip's training heads read from pictures
and captions."""

from __future__ import annotations

from typing import Final

from sync_r1.reward_models.pocket.world.captions import CaptionPlan
from sync_r1.reward_models.pocket.world.scene_graph import (
    ACCESSORIES,
    BACKGROUNDS,
    COLOURS,
    KINDS,
    MAX_COUNT,
    PATTERNS,
    RELATIONS,
    THINGS,
    Accessory,
    Scene,
    Things,
)

UNTOLD: Final = -100  # what cross_entropy ignores
_NOTHING = ("nothing",)
# Attribute to its classes; class 0 of accessory and companion attributes means that there is none.
ATTRIBUTES: dict[str, tuple[str, ...]] = {
    "kind": KINDS,
    "colour": COLOURS,
    "pattern": PATTERNS,
    "background": BACKGROUNDS,
    "accessory_kind": _NOTHING + ACCESSORIES,
    "accessory_colour": _NOTHING + COLOURS,
    "thing_kind": _NOTHING + THINGS,
    "thing_colour": _NOTHING + COLOURS,
    "count": _NOTHING + tuple(str(count + 1) for count in range(MAX_COUNT)),
    "relation": _NOTHING + RELATIONS,
}


def labels(scene: Scene) -> list[int]:
    """The class of each of `ATTRIBUTES` in `scene`."""
    accessory, things = scene.accessory, scene.things
    return [
        KINDS.index(scene.kind),
        COLOURS.index(scene.colour),
        PATTERNS.index(scene.pattern),
        BACKGROUNDS.index(scene.background),
        1 + ACCESSORIES.index(accessory.kind) if accessory else 0,
        1 + COLOURS.index(accessory.colour) if accessory else 0,
        1 + THINGS.index(things.kind) if things else 0,
        1 + COLOURS.index(things.colour) if things else 0,
        things.count if things else 0,
        1 + RELATIONS.index(things.relation) if things else 0,
    ]


def told_labels(scene: Scene, plan: CaptionPlan) -> list[int]:
    """Like `labels` for the caption `write_caption(scene, plan)`: `UNTOLD` where it does not say."""
    told = labels(scene)
    if plan.style == "clause":
        if plan.named and not plan.things:
            told[0] = UNTOLD
        told[1:3] = [UNTOLD] * 2
    if not plan.pattern:
        told[2] = UNTOLD
    if not plan.background:
        told[3] = UNTOLD
    if not (plan.accessory and scene.accessory):
        told[4:6] = [UNTOLD] * 2
    if not (plan.things and scene.things):
        told[6:10] = [UNTOLD] * 4
    elif plan.style == "facts" or (plan.style == "short" and not plan.relation):
        told[9] = UNTOLD
    return told


def scene_from(classes: list[int]) -> Scene:
    """The scene with these classes: `labels` backwards. Colour, count and relation of what is absent are not looked
    at."""
    value = {name: options[number] for (name, options), number in zip(ATTRIBUTES.items(), classes)}
    accessory = things = None
    if classes[4]:
        accessory = Accessory(value["accessory_kind"], value["accessory_colour"])
    if classes[6]:
        things = Things(value["thing_kind"], value["thing_colour"], int(value["count"]), value["relation"])
    return Scene(value["kind"], value["colour"], value["pattern"], value["background"], accessory, things)
