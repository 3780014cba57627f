"""PocketBench: eight rendered concepts on disk in the UnifyBench++ layout, small enough to learn in minutes.

Where you are: the trainer and the evaluation read the folder that `write_pocketbench` writes; the cold start of the
pocket policy takes its concepts and wording from here. A concept is a figure with a name, a fixed look and six facts,
one per role. Four roles per concept are training conditions, two are held out: neither the cold start nor
reinforcement learning ever shows or tells the concept with a held-out fact's picture, so that they measure whether
the policy reads the fact. Each test folder has a `pocket.json` for the oracle beside the public files.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from sync_r1.reward_models.pocket.world.captions import PLACE_PHRASES
from sync_r1.reward_models.pocket.world.scenes import BACKGROUNDS, Accessory, Scene, Things, pick, render, sample_scene

ROLES = ("hat", "scarf", "place", "home", "toy", "charm")
"""The roles of a concept's facts, in the order of `extra_info` and of the conditions."""

_CONDITIONS = {
    "hat": "wearing its hat",
    "scarf": "in its scarf",
    "place": "at its favourite place",
    "home": "where it lives",
    "toy": "with its toy",
    "charm": "with its charm",
}
_CLASSES = {"boy": "human", "girl": "human", "mug": "object", "car": "object"}


@dataclass(frozen=True)
class Concept:
    """A named figure; `toy` and `charm` are (colour, thing). Colours of facts differ from the figure's own."""

    name: str
    kind: str
    colour: str
    pattern: str
    hat: str
    scarf: str
    place: str
    home: str
    toy: tuple[str, str]
    charm: tuple[str, str]
    held_out: tuple[str, str]

    @property
    def token(self) -> str:
        """How texts name the concept: `<bo>`."""
        return f"<{self.name}>"

    @property
    def info(self) -> str:
        """The sentence about class and look."""
        return f"{self.token} is {_a(f'{self.colour} {self.pattern} {self.kind}')} ."

    @property
    def training(self) -> tuple[str, ...]:
        """Roles whose conditions may be trained on."""
        return tuple(role for role in ROLES if role not in self.held_out)

    @property
    def extra_info(self) -> list[str]:
        """The six facts in the order of `ROLES`."""
        return [self.fact(role) for role in ROLES]

    def condition(self, role: str) -> str:
        """The text-to-image condition that refers to the fact of `role` without telling it."""
        return f"{self.token} {_CONDITIONS[role]}"

    def fact(self, role: str) -> str:
        """The sentence that tells the fact of `role`."""
        if role in ("hat", "scarf"):
            return f"{self.token} 's {role} is {self.hat if role == 'hat' else self.scarf} ."
        if role == "place":
            return f"{self.token} 's favourite place is {PLACE_PHRASES[self.place].split(' ', 1)[1]} ."
        if role == "home":
            return f"{self.token} lives {PLACE_PHRASES[self.home]} ."
        return f"{self.token} 's {role} is {_a(' '.join(self.toy if role == 'toy' else self.charm))} ."

    @property
    def open_backgrounds(self) -> tuple[str, ...]:
        """Backgrounds that give no held-out fact away."""
        hidden = {getattr(self, role) for role in self.held_out if role in ("place", "home")}
        return tuple(background for background in BACKGROUNDS if background not in hidden)

    def scene(self, role: str | None, rng: np.random.Generator) -> Scene:
        """A scene that shows the fact of `role`, or the concept alone; what the fact leaves open is random."""
        alone = Scene(self.kind, self.colour, self.pattern, pick(rng, self.open_backgrounds))
        if role is None:
            return alone
        if role in ("hat", "scarf"):
            return replace(alone, accessory=Accessory(role, self.hat if role == "hat" else self.scarf))
        if role in ("place", "home"):
            return replace(alone, background=self.place if role == "place" else self.home)
        colour, thing = self.toy if role == "toy" else self.charm
        return replace(alone, things=Things(thing, colour, 1, "left of" if role == "toy" else "right of"))

    def shows(self, role: str, scene: Scene) -> bool:
        """Whether the fact of `role` is visible in `scene` (the figure itself is not looked at)."""
        if role in ("hat", "scarf"):
            return scene.accessory == Accessory(role, self.hat if role == "hat" else self.scarf)
        if role in ("place", "home"):
            return scene.background == (self.place if role == "place" else self.home)
        colour, thing = self.toy if role == "toy" else self.charm
        return scene.things is not None and (scene.things.colour, scene.things.kind) == (colour, thing)

    def is_seen_in(self, scene: Scene) -> bool:
        """Whether `scene`'s figure has this concept's look."""
        return (scene.kind, scene.colour, scene.pattern) == (self.kind, self.colour, self.pattern)


def _a(words: str) -> str:
    return f"{'an' if words[0] in 'aeiou' else 'a'} {words}"


CONCEPTS = (
    Concept("bo", "boy", "blue", "striped", "green", "red", "beach", "forest",
            ("yellow", "ball"), ("purple", "star"), ("hat", "home")),
    Concept("mia", "girl", "red", "spotted", "yellow", "blue", "city", "snow",
            ("green", "box"), ("orange", "flower"), ("scarf", "toy")),
    Concept("kit", "cat", "orange", "striped", "purple", "green", "snow", "room",
            ("red", "star"), ("blue", "ball"), ("place", "charm")),
    Concept("rex", "dog", "brown", "spotted", "blue", "yellow", "forest", "beach",
            ("pink", "flower"), ("red", "box"), ("hat", "home")),
    Concept("kiki", "bird", "yellow", "plain", "red", "purple", "room", "city",
            ("blue", "star"), ("pink", "ball"), ("scarf", "toy")),
    Concept("finn", "fish", "purple", "striped", "orange", "pink", "beach", "snow",
            ("yellow", "flower"), ("green", "star"), ("place", "charm")),
    Concept("cup", "mug", "green", "spotted", "pink", "orange", "forest", "city",
            ("purple", "box"), ("yellow", "ball"), ("hat", "toy")),
    Concept("zoom", "car", "pink", "plain", "brown", "blue", "snow", "room",
            ("orange", "ball"), ("purple", "flower"), ("home", "charm")),
)  # fmt: skip
"""Two human-like figures, four animals, two objects. Every role is held out by some concepts and trained by others."""


def reasoning_question(facts: Sequence[str], condition: str) -> str:
    """Task r: all facts in the given order, then the condition; the answer is the one fact that the condition refers
    to.
    """
    return " ".join([*facts, condition, "?"])


def generation_prompt(condition: str, info: str, sentence: str) -> str:
    """The text the picture is drawn from: condition, look, and the sentence extracted from the policy's answer."""
    return f"{condition} . {info} {sentence}".strip()


def visual_questions(concept: Concept, scene: Scene) -> list[tuple[str, str]]:
    """Task u: questions about a picture of `concept` and their answers."""
    name = concept.token
    worn = scene.accessory.kind if scene.accessory else None
    companion = _a(f"{scene.things.colour} {scene.things.kind}") if scene.things else None
    return [
        (f"what colour is {name} ?", f"{name} is {concept.colour} ."),
        (f"what is {name} ?", concept.info),
        (f"where is {name} ?", f"{name} is {PLACE_PHRASES[scene.background]} ."),
        (f"is {name} wearing a hat ?", "yes ." if worn == "hat" else "no ."),
        (f"is {name} wearing a scarf ?", "yes ." if worn == "scarf" else "no ."),
        (f"what is with {name} ?", f"{name} is with {companion} ." if companion else f"{name} is alone ."),
        (f"is {name} in the picture ?", "yes ." if concept.is_seen_in(scene) else "no ."),
    ]


def _pairs(questions: Sequence[tuple[str, str]]) -> list[dict[str, str]]:
    return [{"query": query, "answer": answer} for query, answer in questions]


def _json(path: Path, value: object) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(value, indent=1) + "\n")


def _picture(path: Path, scene: Scene) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(render(scene, None)).save(path)


def _stranger(concepts: Sequence[Concept], rng: np.random.Generator, kind: str | None = None) -> Scene:
    """Somebody, of `kind` if one is given, whose look is none of the concepts'."""
    while True:
        scene = sample_scene(rng)
        scene = scene if kind is None else replace(scene, kind=kind)
        if not any(concept.is_seen_in(scene) for concept in concepts):
            return scene


def _write_concept(folder: Path, concept: Concept, rng: np.random.Generator, concepts: Sequence[Concept]) -> None:
    train, test = folder / "concept/train" / concept.name, folder / "concept/test" / concept.name
    # Six pictures of the concept alone, then one per training condition.
    scenes = [concept.scene(role, rng) for role in (None, None, None, None, None, None, *concept.training)]
    for i, scene in enumerate(scenes):
        _picture(train / f"{i}.png", scene)
    for i in range(4):
        _picture(train / "negative_example" / f"{i}.png", _stranger(concepts, rng, concept.kind))
    look = [
        ("what colour is " + concept.token + " ?", f"{concept.token} is {concept.colour} ."),
        (f"what is {concept.token} ?", concept.info),
    ]
    conversations = {f"{i}.png": _pairs(visual_questions(concept, scene)) for i, scene in enumerate(scenes)}
    _json(train / "conversations.json", {**conversations, "text_only": _pairs(look)})
    asked = f"is {concept.token} in the picture ?"
    _json(train / "positive_recognitions.json", _pairs([(asked, "yes .")]))
    _json(train / "random_recognitions.json", _pairs([(asked, "no .")]))
    kind = _CLASSES.get(concept.kind, "animal")
    info = {"class": concept.kind, "info": concept.info, "extra_info": concept.extra_info, "conversation_type": kind}
    _json(train / "info.json", info)
    shown = concept.scene(None, rng)
    _picture(test / "0.png", shown)
    _json(test / "vqa.json", {"0.png": _pairs(visual_questions(concept, shown))})
    _json(test / "text_only.json", _pairs(look))
    _json(test / "t2i_conditions.json", {"personalized_driven_generation": [concept.condition(role) for role in ROLES]})
    conditions = [
        {
            "role": role,
            "condition": concept.condition(role),
            "fact": concept.fact(role),
            "split": "held_out" if role in concept.held_out else "training",
        }
        for role in ROLES
    ]
    pictures = {f"{i}.png": asdict(scene) for i, scene in enumerate(scenes)}
    _json(
        test / "pocket.json",
        {
            **asdict(concept),
            "conditions": conditions,
            "train_pictures": pictures,
            "test_pictures": {"0.png": asdict(shown)},
        },
    )


def write_pocketbench(folder: Path, seed: int = 0, concepts: Sequence[Concept] = CONCEPTS) -> None:
    """Write the benchmark into `folder` (made if needed); the same seed gives the same bytes."""
    for i, concept in enumerate(concepts):
        _write_concept(folder, concept, np.random.default_rng([seed, i]), concepts)
    _json(folder / "concepts_list.json", [concept.name for concept in concepts])
    names = [f"{i}.png" for i in range(10)]
    _json(folder / "concept/train/train_images.json", {concept.name: names for concept in concepts})
    rng = np.random.default_rng([seed, len(concepts)])
    for i in range(20):
        _picture(folder / "random_images" / f"{i}.png", _stranger(concepts, rng))
    Image.new("RGB", (512, 512)).save(folder / "black_512x512.png")


def load_concepts(folder: Path) -> list[Concept]:
    """Read the concepts back from their `pocket.json` files, in the order of `concepts_list.json`.

    Raises:
        FileNotFoundError: `folder` is not a PocketBench (written by `write_pocketbench`).
    """
    concepts = []
    for name in json.loads((folder / "concepts_list.json").read_text()):
        raw = json.loads((folder / "concept/test" / name / "pocket.json").read_text())
        fields: dict[str, Any] = {key: tuple(value) if isinstance(value, list) else value for key, value in raw.items()}
        concepts.append(Concept(**{key: fields[key] for key in Concept.__dataclass_fields__}))
    return concepts
