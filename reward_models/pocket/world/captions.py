"""Words for scenes: short and dense captions from a closed vocabulary.

A caption is written from a `CaptionPlan` (which facts, in which order and phrasing), so that a scene and its negative
(`negatives.py`) can be put into the same words apart from the one factor that differs: otherwise the text alone would
give the answer away.
Relations come in both argument orders ("a ball left of a cat", "a cat right of a ball") for the same reason.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from sync_r1.reward_models.pocket.world.scene_graph import (
    ACCESSORIES,
    COLOURS,
    KINDS,
    PATTERNS,
    Accessory,
    Scene,
    Things,
    opposite,
    pick,
)

PLACE_PHRASES = {
    "beach": "at the beach",
    "forest": "in the forest",
    "snow": "in the snow",
    "night": "at night",
    "city": "in the city",
    "room": "in the room",
}
PLURALS = {"ball": "balls", "star": "stars", "flower": "flowers", "box": "boxes"}
NUMBERS = ("one", "two", "three")
_VERBS = {
    "hat": ("with", "wearing", "in"),
    "scarf": ("with", "wearing", "in"),
    "glasses": ("with", "wearing"),
    "umbrella": ("with", "holding"),
}
# Everything captions can say, and PocketBench's sentences about the same facts; other words are unknown to pocket-clip.
_GLUE = (
    "a an the of to in at on and with wearing holding is are has it its 's this that there . , ? left right above "
    "below favourite place lives home toy charm where what colour who no not picture shows"
)
WORDS = (
    *KINDS,
    *COLOURS,
    *PATTERNS,
    *ACCESSORIES,
    *PLACE_PHRASES,
    *PLURALS,
    *PLURALS.values(),
    *NUMBERS,
    *_GLUE.split(),
)


@dataclass(frozen=True)
class CaptionPlan:
    """How a caption is put: which facts it mentions and the choices of phrasing, all independent of the scene's values.

    `style`: "short" one phrase; "dense" sentences; "facts" the way PocketBench states facts, one sentence per fact;
    "clause" a single sentence of these that is not about the figure's look.
    `verb` is a uniform number that picks among the accessory's verbs; `things_first` orders the relation's arguments.
    """

    style: str
    pattern: bool
    accessory: bool
    background: bool
    things: bool
    relation: bool
    things_first: bool
    place_first: bool
    named: bool
    verb: float


def plan_caption(
    scene: Scene, rng: np.random.Generator, style: str = "short", must_mention: tuple[str, ...] = ()
) -> CaptionPlan:
    """A random plan for `scene`: short captions mention the figure and mostly one or two more facts, the others all.

    `must_mention` names factors ("pattern", "accessory", "background", "things", "relation") that have to be said.
    """
    optional = [fact for fact in ("accessory", "background", "things") if fact == "background" or getattr(scene, fact)]
    if style == "short" or (style == "facts" and rng.random() < 0.5):
        how_many = min(len(optional), int(rng.choice(4, p=(0.1, 0.5, 0.25, 0.15))))
        mentioned = {optional[index] for index in rng.permutation(len(optional))[:how_many]} | set(must_mention)
    elif style == "clause":
        mentioned = {*(must_mention or (pick(rng, tuple(optional)),))}
    else:
        mentioned = {*optional, *must_mention}
    # "plain" goes unsaid half the time, the other patterns rarely: conditions name the figure by them.
    says_pattern = rng.random() < (0.5 if scene.pattern == "plain" else 0.9)
    relation = style in ("dense", "clause") or rng.random() < 0.4
    return CaptionPlan(
        style=style,
        pattern=bool(says_pattern or "pattern" in mentioned),
        accessory="accessory" in mentioned,
        background="background" in mentioned,
        things="things" in mentioned or "relation" in mentioned,
        relation=bool(relation or "relation" in mentioned),
        things_first=bool(rng.random() < 0.5),
        place_first=bool(rng.random() < 0.5),
        named=bool(rng.random() < 0.7),
        verb=float(rng.random()),
    )


def _article(words: str) -> str:
    return f"an {words}" if words[0] in "aeiou" else f"a {words}"


def _accessory(accessory: Accessory, plan: CaptionPlan) -> str:
    verbs = _VERBS[accessory.kind]
    named = f"{accessory.colour} {accessory.kind}"
    return f"{verbs[int(plan.verb * len(verbs))]} {named if accessory.kind == 'glasses' else _article(named)}"


def _things(things: Things) -> str:
    return _article(_counted(things)) if things.count == 1 else _counted(things)


def _counted(things: Things) -> str:
    if things.count == 1:
        return f"{things.colour} {things.kind}"
    return f"{NUMBERS[things.count - 1]} {things.colour} {PLURALS[things.kind]}"


def _figure(scene: Scene, plan: CaptionPlan) -> str:
    return _article(_look(scene, plan))


def _look(scene: Scene, plan: CaptionPlan) -> str:
    return " ".join([scene.colour] + [scene.pattern] * plan.pattern + [scene.kind])


def write_caption(scene: Scene, plan: CaptionPlan) -> str:
    """`scene` in the words of `plan`; facts that the plan mentions and the scene lacks are left out."""
    if plan.style == "facts":
        return _facts(scene, plan)
    if plan.style == "dense":
        return _dense(scene, plan)
    if plan.style == "clause":
        sentences = _relation(scene, plan) or [fact for _, fact in _told(scene, plan)]
        return sentences[0] if sentences else ""
    figure = _figure(scene, plan)
    wearing = f" {_accessory(scene.accessory, plan)}" if plan.accessory and scene.accessory else ""
    place = f" {PLACE_PHRASES[scene.background]}" if plan.background else ""
    if not (plan.things and scene.things):
        return f"{figure}{wearing}{place}"
    things = _things(scene.things)
    if not plan.relation:
        joint = " and" if wearing.startswith(" with") else " with"
        return (
            f"{figure}{wearing}{place} with {things}"
            if plan.place_first
            else f"{figure}{wearing}{joint} {things}{place}"
        )
    if plan.things_first:
        return f"{things} {scene.things.relation} {figure}{wearing}{place}"
    return f"{figure}{wearing}{place} {opposite(scene.things.relation)} {things}"


def noun_phrases(scene: Scene, plan: CaptionPlan) -> tuple[str, ...]:
    """Everything that a caption of `plan` says is to be seen, each with its attributes: "blue striped boy", "beach"."""
    phrases = [_look(scene, plan)]
    if plan.accessory and scene.accessory:
        phrases.append(f"{scene.accessory.colour} {scene.accessory.kind}")
    if plan.background:
        phrases.append(scene.background)
    if plan.things and scene.things:
        phrases.append(_counted(scene.things))
    return tuple(phrases)


def _dense(scene: Scene, plan: CaptionPlan) -> str:
    parts = [_figure(scene, plan)]
    if plan.accessory and scene.accessory:
        parts.append(_accessory(scene.accessory, plan))
    if plan.background:
        parts.append(PLACE_PHRASES[scene.background])
    return " ".join(f"{sentence} ." for sentence in [" ".join(parts), *_relation(scene, plan)])


def _relation(scene: Scene, plan: CaptionPlan) -> list[str]:
    """The sentence about the companions, if there is one to say."""
    if not (plan.things and scene.things):
        return []
    things, relation = _things(scene.things), scene.things.relation
    if plan.things_first:
        return [f"{things} {'is' if scene.things.count == 1 else 'are'} {relation} the {scene.kind}"]
    return [f"the {scene.kind} is {opposite(relation)} {things}"]


def _told(scene: Scene, plan: CaptionPlan) -> list[tuple[str, str]]:
    """PocketBench's (condition, fact) pairs, the figure's name an unknown word ("<name>") or its kind."""
    name = "<name>" if plan.named else f"the {scene.kind}"
    told: list[tuple[str, str]] = []
    if plan.accessory and scene.accessory:
        kind = scene.accessory.kind
        verb = _VERBS[kind][int(plan.verb * len(_VERBS[kind]))]
        told.append(
            (f"{verb} its {kind}", f"'s {kind} {'are' if kind == 'glasses' else 'is'} {scene.accessory.colour}")
        )
    if plan.background:
        phrase = PLACE_PHRASES[scene.background]
        if plan.verb < 0.5:
            told.append(("where it lives", f"lives {phrase}"))
        else:
            told.append(("at its favourite place", f"'s favourite place is {phrase.split(' ', 1)[1]}"))
    if plan.things and scene.things:
        owned = "toy" if plan.verb < 0.5 else "charm"
        told.append((f"with its {owned}", f"'s {owned} is {_things(scene.things)}"))
    if plan.things_first:
        told.reverse()
    return [(f"{name} {condition}", f"{name} {fact}") for condition, fact in told]


def _facts(scene: Scene, plan: CaptionPlan) -> str:
    """PocketBench's sentences: the look, then facts, perhaps all after a condition on the first of them."""
    told = _told(scene, plan)
    name = "<name>" if plan.named else f"the {scene.kind}"
    sentences = [f"{name} is {_figure(scene, plan)}", *(fact for _, fact in told)]
    if plan.place_first and told:
        sentences.insert(0, told[0][0])
    return " ".join(f"{sentence} ." for sentence in sentences)


def short_caption(scene: Scene, rng: np.random.Generator) -> str:
    """A phrase such as "a red striped cat with a green hat": the figure and usually one or two of its facts."""
    return write_caption(scene, plan_caption(scene, rng))


def dense_caption(scene: Scene, rng: np.random.Generator) -> str:
    """Sentences with every fact: "a red cat with a green hat at the beach . two blue balls are left of the cat ."."""
    return write_caption(scene, plan_caption(scene, rng, "dense"))
