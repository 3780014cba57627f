"""Do the pocket models measure what they say? Figures for the cards, taken on fresh scenes and on the files that
services load.

Run by `train.py` after training, or alone: `python -m sync_r1.reward_models.pocket.train --only validity`. Graphs are
asked through ONNX Runtime, so a fault of the export would show here too.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import numpy.typing as npt
import onnxruntime

from sync_r1.reward_models.pocket.clip import ARTEFACTS
from sync_r1.reward_models.pocket.oracle import Condition, Oracle, concept_right, success
from sync_r1.reward_models.pocket.tokenizer import encode
from sync_r1.reward_models.pocket.training.batches import Pictures, Reconstruct, spoil
from sync_r1.reward_models.pocket.world.captions import plan_caption, write_caption
from sync_r1.reward_models.pocket.world.distort import FAULTS, degrade
from sync_r1.reward_models.pocket.world.drawing import render
from sync_r1.reward_models.pocket.world.negatives import caption_pair, negatives
from sync_r1.reward_models.pocket.world.scene_graph import Scene, pick, sample_scene

FRESH_SEED = 20_000_003  # far from the training seeds
GROUP = 32  # captions to choose among
_BATCH = 128


class Graph:
    """One exported graph: `graph(array) -> first output`, in batches on one thread."""

    def __init__(self, path: Path) -> None:
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = 1
        self.session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
        self.input_name = self.session.get_inputs()[0].name

    def __call__(self, array_N: npt.NDArray[np.uint8] | npt.NDArray[np.int64]) -> npt.NDArray[np.float32]:
        starts = range(0, len(array_N), _BATCH)
        return np.concatenate(
            [self.session.run(None, {self.input_name: array_N[start : start + _BATCH]})[0] for start in starts]
        )


def scenes_and_pictures(count: int, seed: int, *, unseen: bool = False) -> tuple[list[Scene], Pictures]:
    rng = np.random.default_rng(seed)
    scenes = [sample_scene(rng, unseen=unseen) for _ in range(count)]
    return scenes, np.stack([render(scene, rng) for scene in scenes])


def area_under_curve(high_N: npt.NDArray[np.float32], low_M: npt.NDArray[np.float32]) -> float:
    """Probability that a member of `high_N` scores above one of `low_M` (ties count half)."""
    order = np.sort(low_M)
    below = np.searchsorted(order, high_N, "left") + np.searchsorted(order, high_N, "right")
    return float(below.mean() / (2 * len(order)))


def clip_validity(
    scenes: list[Scene], pictures_N: Pictures, seed: int, folder: Path = ARTEFACTS
) -> dict[str, dict[str, float]]:
    """For short and dense captions: top-1 of 32, and how often a picture prefers its caption to each kind of
    negative."""
    image, text = Graph(folder / "pocket_clip_image.onnx"), Graph(folder / "pocket_clip_text.onnx")
    seen_N_D = image(pictures_N)
    rng = np.random.default_rng(seed + 1)
    report: dict[str, dict[str, float]] = {}
    for style in ("short", "dense"):
        told_N_D = text(encode([write_caption(scene, plan_caption(scene, rng, style)) for scene in scenes]))
        whole = len(scenes) // GROUP * GROUP
        similar = np.einsum(
            "gid,gjd->gij", seen_N_D[:whole].reshape(-1, GROUP, 256), told_N_D[:whole].reshape(-1, GROUP, 256)
        )
        figures = {"top1_of_32": float((similar.argmax(-1) == np.arange(GROUP)).mean())}
        rows: dict[str, list[tuple[int, Pictures, str, str]]] = {}
        for number, scene in enumerate(scenes):
            for factor, negative in negatives(scene, rng).items():
                pair = caption_pair(scene, negative, factor, rng, style)
                rows.setdefault(factor, []).append((number, render(negative, rng), *pair))
        for factor, pairs in sorted(rows.items()):
            own_M_D = text(encode([own for _, _, own, _ in pairs]))
            other_M_D = text(encode([other for *_, other in pairs]))
            seen_M_D = seen_N_D[[row[0] for row in pairs]]
            figures[factor] = float((np.sum(seen_M_D * (own_M_D - other_M_D), axis=-1) > 0).mean())
            # The negative's own picture has to prefer the negative's caption, or the words alone decided.
            turned_M_D = image(np.stack([row[1] for row in pairs]))
            figures[f"{factor}_turned"] = float((np.sum(turned_M_D * (other_M_D - own_M_D), axis=-1) > 0).mean())
        report[style] = {name: round(figure, 4) for name, figure in figures.items()}
    return report


def aesthetic_validity(pictures_N: Pictures, seed: int, folder: Path = ARTEFACTS) -> dict[str, float]:
    """AUC of clean against spoilt pictures, over all faults at random severity and for each fault, and mean scores."""
    rate = Graph(folder / "pocket_aesthetic.onnx")
    rng = np.random.default_rng(seed + 2)
    clean_N = rate(pictures_N)[:, 0]
    spoilt_N = rate(np.stack([spoil(picture, rng)[0] for picture in pictures_N]))[:, 0]
    report = {
        "clean_vs_degraded_auc": area_under_curve(clean_N, spoilt_N),
        "mean_score_clean": float(clean_N.mean()),
        "mean_score_degraded": float(spoilt_N.mean()),
    }
    for fault in FAULTS:
        some = np.stack([degrade(picture, fault, float(rng.random()), rng) for picture in pictures_N[:512]])
        report[f"auc_{fault}"] = area_under_curve(clean_N, rate(some)[:, 0])
    return {name: round(figure, 4) for name, figure in report.items()}


def oracle_validity(scenes: list[Scene], pictures_N: Pictures, seed: int, oracle: Oracle) -> dict[str, float]:
    """Accuracy of concept, accessory (or its absence), background, companion, one random condition, and the whole
    success.

    `false_success`: how often a condition that the picture does not show is taken for fulfilled.
    """
    rng = np.random.default_rng(seed + 3)
    readings = oracle.read(pictures_N)
    counted: dict[str, list[bool]] = {}
    for scene, reading in zip(scenes, readings):
        seen = reading.scene
        shown: list[Condition] = [scene.background]
        counted.setdefault("concept", []).append(concept_right(reading, scene))
        counted.setdefault("accessory", []).append(seen.accessory == scene.accessory)
        counted.setdefault("background", []).append(seen.background == scene.background)
        absent = scene.things is None
        kinds_right = absent == (seen.things is None)
        if scene.things is not None and seen.things is not None:
            kinds_right = (seen.things.kind, seen.things.colour) == (scene.things.kind, scene.things.colour)
            counted.setdefault("count", []).append(seen.things.count == scene.things.count)
            counted.setdefault("relation", []).append(seen.things.relation == scene.things.relation)
        counted.setdefault("things", []).append(kinds_right)
        shown += [fact for fact in (scene.accessory, scene.things) if fact is not None]
        condition = shown[int(rng.integers(len(shown)))]
        counted.setdefault("success", []).append(success(reading, scene, condition))
        counted.setdefault("false_success", []).append(success(reading, scene, _other_condition(scene, rng)))
    return {name: round(float(np.mean(values)), 4) for name, values in counted.items()}


def _other_condition(scene: Scene, rng: np.random.Generator) -> Condition:
    """A condition of the same sort as one of another random scene, which `scene` does not fulfil."""
    while True:
        other = sample_scene(rng)
        sort = pick(rng, ("background", "accessory", "things"))
        if sort == "background" and other.background != scene.background:
            return other.background
        if sort == "accessory" and other.accessory is not None and other.accessory != scene.accessory:
            return other.accessory
        if sort == "things" and other.things is not None:
            mine = (scene.things.kind, scene.things.colour) if scene.things else None
            if mine != (other.things.kind, other.things.colour):
                return other.things


def measure(count: int = 2048, reconstruct: Reconstruct | None = None, folder: Path = ARTEFACTS) -> dict[str, object]:
    """All figures on `count` fresh scenes, on `count` with unseen (kind, colour) pairs, and, where given, on
    reconstructions."""
    oracle = Oracle.load(folder / "oracle.safetensors")
    report: dict[str, object] = {"scenes": count, "seed": FRESH_SEED}
    for name, unseen in (("seen_pairs", False), ("unseen_pairs", True)):
        scenes, pictures_N = scenes_and_pictures(count, FRESH_SEED + unseen, unseen=unseen)
        looks = {name: pictures_N}
        if reconstruct is not None:
            looks[f"{name}_reconstructed"] = np.concatenate(
                [reconstruct(pictures_N[start : start + 64]) for start in range(0, count, 64)]
            )
        for look, shown_N in looks.items():
            report[look] = {
                "pocket_clip": clip_validity(scenes, shown_N, FRESH_SEED, folder),
                "pocket_aesthetic": aesthetic_validity(shown_N, FRESH_SEED, folder),
                "oracle": oracle_validity(scenes, shown_N, FRESH_SEED, oracle),
            }
    return report
