"""Do the pocket profile's picture rewards measure what their names say, scored as a service would score them?

Part of `measure.py`. `pocket/training/validity.py` measures the models themselves (captions among 32, every kind of
negative); here the *rewards* are asked: reference sets, clauses and all, on rendered scenes that no training saw.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import replace

import numpy as np
import numpy.typing as npt

from sync_r1.reward_models.images import from_raw
from sync_r1.reward_models.pocket.world.scenes import (
    Scene,
    caption_pair,
    dense_caption,
    negatives,
    render,
    sample_scene,
)
from sync_r1.reward_models.types import Concept, Picture, Sample

SEED = 31_000_007
LOOKS, REFERENCES, TESTS = 48, 3, 2
SCENES = 256

ScoreAll = Callable[[str, str, Sequence[Sample]], Awaitable[npt.NDArray[np.float64]]]
"""(reward, variant, samples) -> values (N,)."""
Auc = Callable[[npt.NDArray[np.float64], npt.NDArray[np.float64]], float]


def _picture(scene: Scene, rng: np.random.Generator) -> Picture:
    pixels = render(scene, rng)
    return from_raw(pixels.tobytes(), *pixels.shape[:2])


async def measure_concept(variant: str, score_all: ScoreAll, auc: Auc) -> dict[str, float]:
    """AUC between the own look and another, over all pairs and among looks of the same kind; one look in four unseen.

    References show the figure alone before random backgrounds; scored pictures add accessories and companions.
    """
    rng = np.random.default_rng(SEED)
    looks: list[Scene] = []
    while len(looks) < LOOKS:
        scene = sample_scene(rng, unseen=len(looks) % 4 == 3)
        if all((scene.kind, scene.colour, scene.pattern) != (s.kind, s.colour, s.pattern) for s in looks):
            looks.append(scene)

    def wearing(look: Scene) -> Scene:
        return replace(sample_scene(rng), kind=look.kind, colour=look.colour, pattern=look.pattern)

    references = [
        tuple(_picture(replace(wearing(look), accessory=None, things=None), rng) for _ in range(REFERENCES))
        for look in looks
    ]
    shown = [(number, _picture(wearing(look), rng)) for number, look in enumerate(looks) for _ in range(TESTS)]
    pairs = [(own, picture, other) for own, picture in shown for other in range(LOOKS)]
    values_P = await score_all(
        "concept-consistency",
        variant,
        [Sample(image=picture, concept=Concept(references=references[other])) for _, picture, other in pairs],
    )
    same_P = np.array([own == other for own, _, other in pairs])
    kind_P = np.array([looks[own].kind == looks[other].kind for own, _, other in pairs])
    best = values_P.reshape(len(shown), LOOKS).argmax(axis=1)
    return {
        "same_vs_other_look_auc": auc(values_P[same_P], values_P[~same_P]),
        "within_kind_auc": auc(values_P[same_P], values_P[~same_P & kind_P]),
        "top1_of_48": float(np.mean(best == [own for own, _ in shown])),
        "mean_same_look": float(values_P[same_P].mean()),
        "mean_other_look": float(values_P[~same_P].mean()),
    }


async def measure_text(variant: str, score_all: ScoreAll, auc: Auc, count: int = SCENES) -> dict[str, float]:
    """AUC between the own dense caption and another picture's, and how often it beats its own with one fact changed."""
    rng = np.random.default_rng(SEED + 1)
    scenes = [sample_scene(rng) for _ in range(count)]
    pictures = [_picture(scene, rng) for scene in scenes]
    captions = [dense_caption(scene, rng) for scene in scenes]
    samples = [Sample(image=picture, prompt=caption) for picture, caption in zip(pictures, captions)]
    samples += [
        Sample(image=picture, prompt=caption) for picture, caption in zip(pictures, [*captions[1:], captions[0]])
    ]
    changed: list[str] = []
    for scene, picture in zip(scenes, pictures):
        for factor, negative in negatives(scene, rng).items():
            changed.append(factor)
            samples += [
                Sample(image=picture, prompt=text) for text in caption_pair(scene, negative, factor, rng, "dense")
            ]
    values = await score_all("text-faithfulness", variant, samples)
    own_N, other_N = values[:count], values[count : 2 * count]
    right_M, wrong_M = values[2 * count :: 2], values[2 * count + 1 :: 2]
    figures = {
        "own_vs_other_caption_auc": auc(own_N, other_N),
        "mean_own_caption": float(own_N.mean()),
        "mean_other_caption": float(other_N.mean()),
    }
    for factor in sorted(set(changed)):
        chosen = np.array([f == factor for f in changed])
        figures[f"preferred_to_{factor}"] = float((right_M > wrong_M)[chosen].mean())
    return figures
