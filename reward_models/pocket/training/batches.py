"""Training batches of the pocket models: fresh scenes, rendered and told on the fly, with near misses beside them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from sync_r1.reward_models.pocket.tokenizer import END_ID, encode
from sync_r1.reward_models.pocket.world.attributes import UNTOLD, labels, told_labels
from sync_r1.reward_models.pocket.world.captions import CaptionPlan, plan_caption, write_caption
from sync_r1.reward_models.pocket.world.distort import FAULTS, degrade, soften
from sync_r1.reward_models.pocket.world.drawing import render
from sync_r1.reward_models.pocket.world.negatives import must_mention, negatives, one_changed
from sync_r1.reward_models.pocket.world.scene_graph import Scene, sample_scene

Pictures = npt.NDArray[np.uint8]
Reconstruct = Callable[[Pictures], Pictures]
NEGATIVES_PER_PICTURE = 2


@dataclass(frozen=True)
class ClipBatch:
    """`pixels_N` and their captions; `tokens_3N_L` are N own captions, then two negatives per picture; labels as
    `pocket/world/attributes.py`.

    `spoilt_M`: degraded pictures, which only the quality head sees. `clause_N`: captions that tell one fact only, so
    that they are true of other pictures of the batch too.
    """

    pixels_N: Pictures
    tokens_3N_L: npt.NDArray[np.int64]
    picture_labels_N_A: npt.NDArray[np.int64]
    text_labels_3N_A: npt.NDArray[np.int64]
    spoilt_M: Pictures
    clause_N: npt.NDArray[np.bool_]


class ReconstructedPool:
    """Scenes with their pictures as an image tokenizer hands them back, made once: a round trip per batch would take
    too long."""

    def __init__(self, reconstruct: Reconstruct, size: int, rng: np.random.Generator) -> None:
        self.scenes = [sample_scene(rng) for _ in range(size)]
        originals_N = np.stack([render(scene, rng) for scene in self.scenes])
        self.pictures_N = np.concatenate([reconstruct(originals_N[start : start + 64]) for start in range(0, size, 64)])

    def draw(self, rng: np.random.Generator) -> tuple[Scene, Pictures]:
        number = int(rng.integers(len(self.scenes)))
        return self.scenes[number], self.pictures_N[number]


def one_picture(rng: np.random.Generator, pool: ReconstructedPool | None) -> tuple[Scene, Pictures]:
    """A scene and a picture of it: clean, softened, or (where there is a pool) as the image tokenizer returned it."""
    chance = rng.random()
    if pool is not None and chance < 0.45:
        return pool.draw(rng)
    scene = sample_scene(rng)
    return scene, picture_of(scene, rng)


def picture_of(scene: Scene, rng: np.random.Generator, softened: float = 0.4) -> Pictures:
    picture = render(scene, rng)
    return soften(picture, rng) if rng.random() < softened else picture


def any_style(rng: np.random.Generator) -> str:
    return ("short", "dense", "facts", "clause")[int(np.searchsorted((0.42, 0.74, 0.88), rng.random()))]


def _near_miss(scene: Scene, rng: np.random.Generator) -> tuple[str, Scene]:
    """One negative. Relations and counts are drawn more often: they are the hardest to learn."""
    if rng.random() < 0.5:
        found = negatives(scene, rng)
        names = [name for name in ("relation", "relation", "count", "accessory", "colour_swap") if name in found]
        if names:
            name = names[int(rng.integers(len(names)))]
            return name, found[name]
    return one_changed(scene, rng)


def _one_fact_tells(factor: str, neighbour: Scene) -> bool:
    """Whether a clause can say what sets `neighbour` apart."""
    if factor == "accessory":
        return neighbour.accessory is not None
    return factor in ("background", "things", "count", "relation")


def _wrong_captions(scene: Scene, plan: CaptionPlan, own: str, rng: np.random.Generator) -> list[tuple[str, Scene]]:
    found: dict[str, Scene] = {}
    while len(found) < NEGATIVES_PER_PICTURE:
        _, miss = _near_miss(scene, rng)
        text = write_caption(miss, plan)
        if text not in ("", own):
            found[text] = miss
    return list(found.items())


def trimmed(texts: Sequence[str]) -> npt.NDArray[np.int64]:
    """Token ids without the padding that all texts share."""
    tokens_N_L = encode(texts)
    return tokens_N_L[:, : int((tokens_N_L == END_ID).argmax(axis=1).max()) + 1]


def clip_batch(pairs: int, spoilt: int, rng: np.random.Generator, pool: ReconstructedPool | None) -> ClipBatch:
    """`2 * pairs` pictures: each scene beside a near miss of it, both with captions put in the same words."""
    pictures: list[Pictures] = []
    own: list[tuple[Scene, CaptionPlan, str]] = []
    for _ in range(pairs):
        scene, picture = one_picture(rng, pool)
        factor, neighbour = _near_miss(scene, rng)
        plan = plan_caption(scene, rng, any_style(rng), must_mention(scene, neighbour, factor))
        # PocketBench's sentences do not tell relations, and a clause tells neither looks nor what is absent.
        if (plan.style == "facts" and factor == "relation") or (
            plan.style == "clause" and not _one_fact_tells(factor, neighbour)
        ):
            plan = plan_caption(scene, rng, "dense", must_mention(scene, neighbour, factor))
        pictures += [picture, picture_of(neighbour, rng)]
        own += [(one, plan, write_caption(one, plan)) for one in (scene, neighbour)]
    wrong: list[tuple[str, Scene, CaptionPlan]] = []
    for scene, plan, text in own:
        wrong += [(false, miss, plan) for false, miss in _wrong_captions(scene, plan, text, rng)]
    told = [told_labels(scene, plan) for scene, plan, _ in own]
    told += [told_labels(miss, plan) for _, miss, plan in wrong]
    pixels_N = np.stack(pictures)
    spoilt_M = np.stack([spoil(pixels_N[number], rng)[0] for number in range(spoilt)])
    return ClipBatch(
        pixels_N,
        trimmed([text for *_, text in own] + [text for text, *_ in wrong]),
        np.array([labels(scene) for scene, *_ in own]),
        np.array(told),
        spoilt_M,
        np.array([plan.style == "clause" for _, plan, _ in own]),
    )


def spoil(picture: Pictures, rng: np.random.Generator) -> tuple[Pictures, float]:
    """`picture` with a random fault, and its severity in [0, 1]."""
    severity = float(rng.random())
    return degrade(picture, FAULTS[int(rng.integers(len(FAULTS)))], severity, rng), severity


def text_batch(size: int, rng: np.random.Generator) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """Captions with what they tell, `(size, L)` and `(size, A)`, for teaching the text tower before it sees a
    picture."""
    texts: list[str] = []
    told: list[list[int]] = []
    while len(texts) < size:
        scene = sample_scene(rng)
        plan = plan_caption(scene, rng, any_style(rng))
        labels_A = told_labels(scene, plan)
        if scene.things and labels_A[-1] == UNTOLD and rng.random() < 0.5:
            continue  # relations take longest, so they come more often
        texts.append(write_caption(scene, plan))
        told.append(labels_A)
    return trimmed(texts), np.array(told)
