"""Do `dlib_face`, `ocr` and `technical` measure what their names say? Figures for their cards.

    python -m sync_r1.reward_models.validity_library [--variant NAME …]

On pictures that ship inside scikit-image: 100 faces of 25 x 25 grey pixels and 100 patches without one (LFW), five
photographs. Nobody says which of the faces are of one person, so *same* is a face against itself, altered, and *other*
is two faces of the set: less than two photographs of one person would prove. Every pair is scored by the
reward itself. Merged by variant into `validity_library.json`.
"""

from __future__ import annotations

import argparse
import asyncio
import importlib.util
import io
import time
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw, ImageFilter, ImageFont

from sync_r1.reward_models.backends.graph_store import ensure_graphs
from sync_r1.reward_models.backends.local import LocalRunner
from sync_r1.reward_models.errors import UserError, exit_on_error
from sync_r1.reward_models.images import from_raw
from sync_r1.reward_models.profiles import Profile, load_profile
from sync_r1.reward_models.runner import RunContext
from sync_r1.reward_models.types import Concept, Outcome, Picture, Pixels, Sample, Score
from sync_r1.reward_models.validity.measure import auc
from sync_r1.reward_models.validity.recorded import Row, merge, wanted

SEED = 41_000_003
PHOTOS = ("astronaut.png", "coffee.png", "chelsea.png", "rocket.jpg", "motorcycle_left.png")
CROPS, CROP = 4, 256
_WORDS = (
    "open closed bakery market garden station library harbour museum theatre coffee summer winter forest river bridge "
    "castle planet rocket guitar pepper lemon cherry walnut butter candle mirror window carpet ladder hammer basket"
)
SIGNS = 40

Alter = Callable[[Image.Image, np.random.Generator], Image.Image]


def _noise(image: Image.Image, rng: np.random.Generator) -> Image.Image:
    pixels = np.asarray(image).astype(np.float64)
    return Image.fromarray(np.clip(pixels + rng.normal(0, 25, pixels.shape), 0, 255).astype(np.uint8))


def _jpeg(image: Image.Image, rng: np.random.Generator) -> Image.Image:
    file = io.BytesIO()
    image.save(file, "JPEG", quality=10)
    return Image.open(file).convert("RGB")


def _enlarged(image: Image.Image, rng: np.random.Generator) -> Image.Image:
    return image.resize((image.width // 4, image.height // 4), Image.Resampling.BOX).resize(image.size)


DEGRADATIONS: dict[str, Alter] = {
    "noise": _noise,
    "blur": lambda image, rng: image.filter(ImageFilter.GaussianBlur(2)),
    "jpeg": _jpeg,
    "enlarged": _enlarged,
}
FACE_CHANGES: dict[str, Alter] = {
    "mirrored": lambda image, rng: image.transpose(Image.Transpose.FLIP_LEFT_RIGHT),
    "turned": lambda image, rng: image.rotate(8, Image.Resampling.BICUBIC, fillcolor=(110, 110, 110)),
    "light": lambda image, rng: Image.fromarray(np.clip(np.asarray(image) * 1.3 + 15, 0, 255).astype(np.uint8)),
    "noise": _noise,
}


def _data() -> Path:
    spec = importlib.util.find_spec("skimage")
    if spec is None or spec.origin is None:
        raise UserError("scikit-image, whose pictures are measured on, is not installed; install the `scorers` extra")
    return Path(spec.origin).parent / "data"


def _picture(image: Image.Image) -> Picture:
    pixels: Pixels = np.asarray(image.convert("RGB"))
    return from_raw(pixels.tobytes(), *pixels.shape[:2])


def _patch(grey_25_25: npt.NDArray[np.float64]) -> Image.Image:
    """A patch of LFW enlarged to 150 pixels in the middle of a grey picture of 300: detectors need size and room."""
    patch = Image.fromarray((grey_25_25 * 255).astype(np.uint8)).resize((150, 150), Image.Resampling.BICUBIC)
    image = Image.new("RGB", (300, 300), (110, 110, 110))
    image.paste(patch.convert("RGB"), (75, 75))
    return image


class Measured:
    """Scores through a LocalRunner; keeps its sessions."""

    def __init__(self, profile: Profile, runner: LocalRunner) -> None:
        self._profile, self._runner = profile, runner

    async def outcomes(self, reward: str, variant: str, samples: Sequence[Sample]) -> list[Outcome]:
        """One for each sample."""
        served = self._profile.rewards[reward]
        context = RunContext(served.release(variant), time.monotonic() + 600)
        return await served.variants[variant].score(samples, self._runner, context)

    async def values(self, reward: str, variant: str, samples: Sequence[Sample]) -> npt.NDArray[np.float64]:
        """Values (N,). Raises RuntimeError if any item has no score."""
        values = []
        for outcome in await self.outcomes(reward, variant, samples):
            if not isinstance(outcome, Score):
                raise RuntimeError(f"{reward} {variant}: every item should have a score, got {outcome}")
            values.append(outcome.value)
        return np.array(values)


async def measure_faces(measured: Measured) -> dict[str, float]:
    """How many faces are found; AUC of a face altered against another face, over pairs with a face on both sides."""
    rng = np.random.default_rng(SEED)
    patches = np.load(_data() / "lfw_subset.npy")
    faces = [_patch(grey) for grey in patches[:100]]
    others = [_picture(_patch(grey)) for grey in patches[100:]]

    def sample(image: Picture, reference: Picture) -> Sample:
        return Sample(image=image, concept=Concept("<bo>", "person", (reference,), conversation_type="person"))

    async def found(samples: Sequence[Sample]) -> list[Score | None]:
        """The scores of pairs with a face on both sides."""
        outcomes = await measured.outcomes("concept-consistency", "dlib_face", samples)
        return [o if isinstance(o, Score) and o.components["face_found"] else None for o in outcomes]

    astronaut = _picture(Image.open(_data() / PHOTOS[0]))
    own = await found([sample(_picture(face), _picture(face)) for face in faces])
    none = [
        o.components["face_found"]
        for o in await measured.outcomes("concept-consistency", "dlib_face", [sample(o, astronaut) for o in others])
        if isinstance(o, Score)
    ]
    seen = [face for face, score in zip(faces, own) if score is not None]
    figures = {"faces_found": len(seen) / len(faces), "found_where_none_is": float(np.mean(none))}
    originals = [_picture(face) for face in seen]
    strangers = await found([sample(originals[i], originals[j]) for i in range(len(seen)) for j in range(i)])
    other_N = np.array([score.value for score in strangers if score is not None])
    every, changes = list[npt.NDArray[np.float64]](), dict[str, float]()
    for name, alter in FACE_CHANGES.items():
        same = await found([sample(_picture(alter(face, rng)), own) for face, own in zip(seen, originals)])
        same_N = np.array([score.value for score in same if score is not None])
        changes[f"{name}_vs_other_face_auc"] = auc(same_N, other_N)
        every.append(same_N)
    return {
        "same_vs_other_face_auc": auc(np.concatenate(every), other_N),
        "mean_same_face": float(np.concatenate(every).mean()),
        "mean_other_face": float(other_N.mean()),
        **figures,
        **changes,
    }


def _sign(text: str, number: int, rng: np.random.Generator) -> Image.Image:
    """`text` on a plain ground or, every other time, on a photograph; dark on light or light on dark."""
    dark, light = (int(v) for v in (rng.integers(0, 60), rng.integers(200, 256)))
    ground, ink = ((light,) * 3, (dark,) * 3) if number % 4 < 2 else ((dark,) * 3, (light,) * 3)
    image = Image.new("RGB", (512, 512), ground)
    if number % 2:
        photo = Image.open(_data() / PHOTOS[number % len(PHOTOS)]).convert("RGB").resize((512, 512))
        image = Image.blend(photo, image, 0.5)
    font = ImageFont.load_default(int(rng.integers(28, 56)))
    ImageDraw.Draw(image).text((int(rng.integers(20, 80)), int(rng.integers(40, 400))), text, fill=ink, font=font)
    return image


async def measure_ocr(measured: Measured) -> dict[str, float]:
    """AUC of the text that is written against another one, and against the same with one letter changed."""
    rng = np.random.default_rng(SEED + 1)
    written = [" ".join(rng.choice(_WORDS.split(), 2, replace=False)) for _ in range(SIGNS)]
    pictures = [_picture(_sign(text, number, rng)) for number, text in enumerate(written)]
    letters = "abcdefghijklmnopqrstuvwxyz"

    def misspelt(text: str) -> str:
        place = int(rng.choice([i for i, letter in enumerate(text) if letter != " "]))
        return text[:place] + str(rng.choice([c for c in letters if c != text[place]])) + text[place + 1 :]

    wanted = [*written, *written[1:], written[0], *(misspelt(text) for text in written)]
    samples = [Sample(image=p, prompt=f'a sign that says "{text}"') for p, text in zip(pictures * 3, wanted)]
    right_N, other_N, near_N = np.split(await measured.values("text-faithfulness", "ocr", samples), 3)
    return {
        "right_vs_other_text_auc": auc(right_N, other_N),
        "right_vs_one_letter_changed_auc": auc(right_N, near_N),
        "right_read_exactly": float((right_N == 1).mean()),
        "mean_right": float(right_N.mean()),
        "mean_other": float(other_N.mean()),
        "mean_one_letter_changed": float(near_N.mean()),
    }


async def measure_distortion(measured: Measured) -> dict[str, float]:
    """AUC of clean crops of photographs against the same crops degraded, and how often a crop beats its own ruin."""
    rng = np.random.default_rng(SEED + 2)
    crops = []
    for name in PHOTOS:
        photo = Image.open(_data() / name).convert("RGB")
        for _ in range(CROPS):
            left, top = (int(rng.integers(0, side - CROP + 1)) for side in photo.size)
            crops.append(photo.crop((left, top, left + CROP, top + CROP)))

    async def values(images: Sequence[Image.Image]) -> npt.NDArray[np.float64]:
        return await measured.values("aesthetic", "technical", [Sample(image=_picture(image)) for image in images])

    clean_N = await values(crops)
    figures, ruined = {}, []
    for name, degrade in DEGRADATIONS.items():
        ruined_N = await values([degrade(crop, rng) for crop in crops])
        figures[f"clean_vs_{name}_auc"] = auc(clean_N, ruined_N)
        figures[f"clean_preferred_to_its_{name}"] = float((clean_N > ruined_N).mean())
        ruined.append(ruined_N)
    return {
        "clean_vs_degraded_auc": auc(clean_N, np.concatenate(ruined)),
        "mean_clean": float(clean_N.mean()),
        "mean_degraded": float(np.concatenate(ruined).mean()),
        **figures,
    }


ROWS: dict[str, Callable[[Measured], Awaitable[dict[str, float]]]] = {
    "dlib_face": measure_faces,
    "ocr": measure_ocr,
    "technical": measure_distortion,
}


async def measure(variants: Sequence[str]) -> dict[str, Row]:
    """The rows named by `variants` (all where none is named), rounded to four places. Raises UserError."""
    names = wanted(variants, list(ROWS))
    profile = load_profile("scorers")
    ensure_graphs(profile, graphs=("dlib_face", "rapidocr", "brisque"))
    with LocalRunner(profile) as runner:
        figures = {name: await ROWS[name](Measured(profile, runner)) for name in names}
    return {name: {key: round(value, 4) for key, value in group.items()} for name, group in figures.items()}


def main() -> None:
    """Measure, merge into `validity_library.json` and print it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--variant", action="append", default=[], help="measure this row only; may be given repeatedly")
    options = parser.parse_args()
    file = Path(__file__).with_name("validity_library.json")
    with exit_on_error(file):
        measured = asyncio.run(measure(options.variant))
        print(merge(file, "python -m sync_r1.reward_models.validity_library", measured))


if __name__ == "__main__":
    main()
