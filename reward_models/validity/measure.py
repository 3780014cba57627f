"""Do the rewards measure what their names say? Figures for the cards, scored as a service would score them.

    python -m sync_r1.reward_models.validity [--photos DIR] [--variant NAME …]

`dino` on photographs: DIR holds subjects in the UnifyBench layout (`concept/{train,test}/NAME/*.png`, the class in
`info.json`). `semantic` on labelled answers: written ones, the facts of the pocket domain, and DIR's own questions (see
`semantic_pairs.py`). The pocket variants: see `pocket_rewards.py`. Without DIR the figures on photographs stay as they
are recorded; with `--variant` every other row does. Merged into `validity.json`, which the cards show.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import combinations
from pathlib import Path

import numpy as np
import numpy.typing as npt

from sync_r1.reward_models.backends.graph_store import ensure_graphs
from sync_r1.reward_models.backends.local import LocalRunner
from sync_r1.reward_models.errors import UserError, exit_on_error
from sync_r1.reward_models.images import decode
from sync_r1.reward_models.profiles import Profile, ServedReward, load_profile
from sync_r1.reward_models.runner import RunContext
from sync_r1.reward_models.types import Concept, Picture, Sample, Score
from sync_r1.reward_models.validity.pocket_rewards import measure_concept, measure_text
from sync_r1.reward_models.validity.recorded import Row, merge, wanted
from sync_r1.reward_models.validity.semantic_pairs import (
    LabelledAnswer,
    choice_pairs,
    photo_pairs,
    pocket_pairs,
    selection_pairs,
    written_pairs,
    yes_no_pairs,
)

TIMEOUT_S = 600.0
ZERO = 0.01
"""A right answer up to here counts as scored nothing."""


def auc(high_N: npt.NDArray[np.float64], low_M: npt.NDArray[np.float64]) -> float:
    """Probability that one of `high_N` is above one of `low_M`; ties count half."""
    return float(((high_N[:, None] > low_M) + 0.5 * (high_N[:, None] == low_M)).mean())


@dataclass(frozen=True)
class Photos:
    """Pictures, the subject of each, and every subject's class."""

    pictures: list[Picture]
    subjects: list[str]
    classes: dict[str, str]

    def shares_class(self, number: int) -> bool:
        """Whether another subject is of the class of picture `number`."""
        return list(self.classes.values()).count(self.classes[self.subjects[number]]) > 1


def read_photos(folder: Path) -> Photos:
    """Every distinct picture below `folder`. Exits with a message when there is none."""
    photos, seen = Photos([], [], {}), set()
    for info in sorted((folder / "concept" / "train").glob("*/info.json")):
        name = info.parent.name
        photos.classes[name] = json.loads(info.read_text())["class"]
        for file in sorted([*info.parent.glob("*.png"), *(folder / "concept" / "test" / name).glob("*.png")]):
            picture = decode(file.read_bytes())
            if picture.sha256 not in seen:
                seen.add(picture.sha256)
                photos.pictures.append(picture)
                photos.subjects.append(name)
    if not photos.pictures:
        raise UserError(f"{folder / 'concept' / 'train'} has no NAME/info.json with NAME/*.png beside it")
    return photos


def in_ellipse(picture: Picture) -> Picture:
    """The picture with everything outside the centred ellipse of 0.8 of each side made white.

    The background's automatic mask: subjects of the benchmark are centred. (A mask by the border's colours removed the
    subjects as well.) What is left of the background lies inside the ellipse.
    """
    height, width = picture.pixels.shape[:2]
    y, x = np.ogrid[:height, :width]
    inside = ((x - (width - 1) / 2) / (0.4 * width)) ** 2 + ((y - (height - 1) / 2) / (0.4 * height)) ** 2 <= 1
    return Picture(np.where(inside[..., None], picture.pixels, 255).astype(np.uint8), picture.sha256 + "-in-ellipse")


async def measure_dino(profile: Profile, photos: Photos) -> dict[str, float]:
    """AUC of `dino` between same and other subject: over all pairs of pictures, and against whole reference sets.

    A picture is never its own reference. `within_class`: only subjects that share their class with another one.
    """
    count = len(photos.pictures)
    pairs = [(a, (b,)) for a, b in combinations(range(count), 2)]
    sets = [
        (a, tuple(b for b in range(count) if photos.subjects[b] == subject and b != a))
        for a in range(count)
        for subject in photos.classes
    ]
    figures = {"pictures": float(count), "subjects": float(len(photos.classes))}
    for name, comparisons in (("one_reference", pairs), ("all_references", sets)):
        samples = [
            Sample(image=photos.pictures[a], concept=Concept(references=tuple(photos.pictures[b] for b in references)))
            for a, references in comparisons
        ]
        values_P = await score_all(profile.rewards["concept-consistency"], "dino", samples, profile)
        same_P = np.array([photos.subjects[a] == photos.subjects[bs[0]] for a, bs in comparisons])
        alike_P = np.array(
            [photos.classes[photos.subjects[a]] == photos.classes[photos.subjects[bs[0]]] for a, bs in comparisons]
        )
        shared_P = np.array([photos.shares_class(a) for a, _ in comparisons])
        figures |= {
            f"{name}/same_vs_other_subject_auc": auc(values_P[same_P], values_P[~same_P]),
            f"{name}/within_class_auc": auc(values_P[same_P & shared_P], values_P[~same_P & alike_P]),
            f"{name}/mean_same_subject": float(values_P[same_P].mean()),
            f"{name}/mean_other_subject": float(values_P[~same_P].mean()),
        }
    return figures


async def measure_answers(profile: Profile, answers: Sequence[LabelledAnswer], variant: str) -> dict[str, float]:
    """AUC of right against wrong answers, and the share of each that scores above 0.5."""
    samples = [
        Sample(
            question=a.question,
            answer=a.answer,
            reference_answers=(a.reference,),
            choices=a.choices,
            target=a.choices.index(a.reference) if a.choices else None,
        )
        for a in answers
    ]
    values_N = await score_all(profile.rewards["understanding-correctness"], variant, samples, profile)
    right_N = np.array([a.right for a in answers])
    return {
        "right_vs_wrong_auc": auc(values_N[right_N], values_N[~right_N]),
        "right_above_half": float((values_N[right_N] > 0.5).mean()),
        "wrong_above_half": float((values_N[~right_N] > 0.5).mean()),
        "right_answers": float(right_N.sum()),
        "wrong_answers": float((~right_N).sum()),
    }


async def measure_families(profile: Profile) -> dict[str, dict[str, float]]:
    """`semantic` on the held-out half of each generated family: AUC, and right answers that score (nearly) nothing."""
    # num2words and babel are development dependencies; only this measurement needs them.
    from sync_r1.reward_models.answers.families import FAMILIES, family

    figures = {}
    for name in FAMILIES:
        pairs = family(name, held_out=True)
        samples = [Sample(question=p.question, answer=p.answer, reference_answers=(p.reference,)) for p in pairs]
        values_N = await score_all(profile.rewards["understanding-correctness"], "semantic", samples, profile)
        right_N = np.array([pair.right for pair in pairs])
        figures[name] = {
            "held_out_auc": auc(values_N[right_N], values_N[~right_N]),
            "right_at_zero": float((values_N[right_N] <= ZERO).sum()),
            "pairs": float(len(pairs)),
        }
    return figures


async def score_all(
    served: ServedReward, variant: str, samples: Sequence[Sample], profile: Profile
) -> npt.NDArray[np.float64]:
    """Values (N,) by the reward itself, through a LocalRunner. Raises RuntimeError if any item has no score."""
    with LocalRunner(profile) as runner:
        context = RunContext(served.release(variant), time.monotonic() + TIMEOUT_S)
        outcomes = await served.variants[variant].score(samples, runner, context)
    values = []
    for outcome in outcomes:
        if not isinstance(outcome, Score):
            raise RuntimeError(f"{served.name} {variant}: every item should have a score, got {outcome}")
        values.append(outcome.value)
    return np.array(values)


def rows(profile: Profile, photos_folder: Path | None) -> dict[str, Callable[[], Awaitable[Row]]]:
    """How each row of `validity.json` is measured, by name; without photographs those on them are left out."""
    answers: dict[str, Callable[[], Sequence[LabelledAnswer]]] = {"written": written_pairs, "pocket": pocket_pairs}
    if photos_folder is not None:
        answers["photos"] = partial(photo_pairs, photos_folder)
    options = {
        "selection": selection_pairs,
        "selection_released": selection_pairs,
        "yes_no": yes_no_pairs,
        "choice": choice_pairs,
    }

    async def scores(reward: str, variant: str, samples: Sequence[Sample]) -> npt.NDArray[np.float64]:
        return await score_all(profile.rewards[reward], variant, samples, profile)

    async def dino(folder: Path) -> Row:
        photos = read_photos(folder)
        masked = Photos([in_ellipse(picture) for picture in photos.pictures], photos.subjects, photos.classes)
        figures = _rounded(await measure_dino(profile, photos))
        return {**figures, "in_ellipse": _rounded(await measure_dino(profile, masked))}

    async def concept(variant: str) -> Row:
        return _rounded(await measure_concept(variant, scores, auc))

    async def text(variant: str) -> Row:
        return _rounded(await measure_text(variant, scores, auc))

    async def answered(variant: str) -> Row:
        return {name: _rounded(await measure_answers(profile, of(), variant)) for name, of in answers.items()}

    async def families() -> Row:
        return {name: _rounded(figures) for name, figures in (await measure_families(profile)).items()}

    async def chosen(variant: str) -> Row:
        return _rounded(await measure_answers(profile, options[variant](), variant))

    return {
        **({"dino": partial(dino, photos_folder)} if photos_folder is not None else {}),
        **{variant: partial(concept, variant) for variant in ("clip_i", "clip_i_mean")},
        **{variant: partial(text, variant) for variant in ("clip_t", "clauses")},
        **{variant: partial(answered, variant) for variant in ("semantic", "bleu", "exact")},
        "semantic_families": families,
        **{variant: partial(chosen, variant) for variant in options},
    }


async def measure(variants: Sequence[str], photos_folder: Path | None) -> dict[str, Row]:
    """The rows named by `variants` (all where none is named), rounded to four places. Raises UserError."""
    if photos_folder is None and "dino" in variants:
        raise UserError("dino is measured on photographs; name their folder with --photos")
    profile = load_profile("pocket")
    known = rows(profile, photos_folder)
    names = wanted(variants, list(known))
    ensure_graphs(profile, graphs=("efficientnet_lite2", "minilm"))
    return {name: await known[name]() for name in names}


def _rounded(figures: dict[str, float]) -> dict[str, float]:
    return {name: round(value, 4) for name, value in figures.items()}


def main() -> None:
    """Measure, merge into `validity.json` and print it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--photos", type=Path, help="folder of photographs in the UnifyBench layout")
    parser.add_argument("--variant", action="append", default=[], help="measure this row only; may be given repeatedly")
    parser.add_argument("--out", type=Path, default=Path(__file__).with_name("validity.json"))
    options = parser.parse_args()
    with exit_on_error(options.out, *([options.photos] if options.photos else [])):
        if options.photos and not options.photos.is_dir():
            raise UserError(f"--photos {options.photos}: there is no such folder; without it its rows are kept")
        measured = asyncio.run(measure(options.variant, options.photos))
        keep = () if options.photos else ("photos",)
        print(merge(options.out, "python -m sync_r1.reward_models.validity --photos DIR", measured, keep))


if __name__ == "__main__":
    main()
