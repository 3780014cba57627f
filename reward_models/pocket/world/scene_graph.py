"""The pocket domain's scene graph: what a 64x64 picture of the pocket profile can contain, and how scenes are sampled.

Types, vocabularies and sampler. Callers import them from `scenes.py`, beside the renderer and the captions.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

KINDS = ("boy", "girl", "cat", "dog", "bird", "fish", "mug", "car")
COLOURS = ("red", "green", "blue", "yellow", "orange", "purple", "pink", "brown")
PATTERNS = ("plain", "striped", "spotted")
ACCESSORIES = ("hat", "scarf", "glasses", "umbrella")
BACKGROUNDS = ("beach", "forest", "snow", "night", "city", "room")
THINGS = ("ball", "star", "flower", "box")
RELATIONS = ("left of", "right of", "above", "below")
MAX_COUNT = 3
PICTURE_SIZE = 64

# One colour of each kind (one kind of each colour) is held aside: has a model learnt kind and colour apart?
UNSEEN_PAIRS = frozenset(
    {
        ("boy", "purple"),
        ("girl", "orange"),
        ("cat", "blue"),
        ("dog", "pink"),
        ("bird", "brown"),
        ("fish", "green"),
        ("mug", "red"),
        ("car", "yellow"),
    }
)

_OPPOSITE = {"left of": "right of", "right of": "left of", "above": "below", "below": "above"}


def opposite(relation: str) -> str:
    """The same relation read from the other argument: `opposite("left of") == "right of"`."""
    return _OPPOSITE[relation]


def _require(value: object, allowed: tuple[str, ...], field: str) -> None:
    if value not in allowed:
        raise ValueError(f"{field} must be one of {', '.join(allowed)}; got {value!r}")


@dataclass(frozen=True)
class Accessory:
    """Something the figure wears or holds: a hat, a scarf, glasses or an umbrella, in one colour."""

    kind: str
    colour: str

    def __post_init__(self) -> None:
        _require(self.kind, ACCESSORIES, "accessory.kind")
        _require(self.colour, COLOURS, "accessory.colour")


@dataclass(frozen=True)
class Things:
    """One to three equal companions and where they are ("left of": the things are left of the figure)."""

    kind: str
    colour: str
    count: int
    relation: str

    def __post_init__(self) -> None:
        _require(self.kind, THINGS, "things.kind")
        _require(self.colour, COLOURS, "things.colour")
        _require(self.relation, RELATIONS, "things.relation")
        if not 1 <= self.count <= MAX_COUNT:
            raise ValueError(f"things.count must be 1..{MAX_COUNT}; got {self.count}")


@dataclass(frozen=True)
class Scene:
    """One figure (kind, colour, pattern) before a background, perhaps with an accessory and companions."""

    kind: str
    colour: str
    pattern: str
    background: str
    accessory: Accessory | None = None
    things: Things | None = None

    def __post_init__(self) -> None:
        _require(self.kind, KINDS, "kind")
        _require(self.colour, COLOURS, "colour")
        _require(self.pattern, PATTERNS, "pattern")
        _require(self.background, BACKGROUNDS, "background")


_SEEN = tuple((kind, colour) for kind in KINDS for colour in COLOURS if (kind, colour) not in UNSEEN_PAIRS)
_UNSEEN = tuple((kind, colour) for kind in KINDS for colour in COLOURS if (kind, colour) in UNSEEN_PAIRS)


def pick(rng: np.random.Generator, options: tuple[str, ...]) -> str:
    """One of `options`, uniformly (`Generator.choice` would return numpy strings and is ten times slower)."""
    return options[int(rng.integers(len(options)))]


def sample_scene(rng: np.random.Generator, *, unseen: bool = False) -> Scene:
    """A random scene; `unseen=True` draws its (kind, colour) from `UNSEEN_PAIRS` only, `unseen=False` never does.

    Accessory and companions (present in 2 of 3 scenes each) never have the figure's own colour: a swap of the two
    colours must change the picture, and a blue hat on a blue cat is hard to see even for us.
    """
    pairs = _UNSEEN if unseen else _SEEN
    kind, colour = pairs[int(rng.integers(len(pairs)))]
    others = tuple(other for other in COLOURS if other != colour)
    accessory = Accessory(pick(rng, ACCESSORIES), pick(rng, others)) if rng.random() < 2 / 3 else None
    things = None
    if rng.random() < 2 / 3:
        # Single companions are what PocketBench asks for; two and three are the rewards' counting material.
        count = 1 if rng.random() < 0.5 else int(rng.integers(2, MAX_COUNT + 1))
        things = Things(pick(rng, THINGS), pick(rng, others), count, pick(rng, RELATIONS))
    return Scene(kind, colour, pick(rng, PATTERNS), pick(rng, BACKGROUNDS), accessory, things)
