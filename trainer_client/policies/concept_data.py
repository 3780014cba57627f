"""What a concept is learned from: a folder of pictures and an `info.json`, as UnifyBench has them for each concept.

You are at the edge where files become data; `learn_concept.py` learns from what is read here.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageOps

from sync_r1.trainer_client.evaluation.unifybench_files import Info, UnifyBenchError, read_json, read_questions
from sync_r1.trainer_client.policies.text import NAME

_PICTURES = (".png", ".jpg", ".jpeg")


@dataclass(frozen=True)
class ConceptData:
    """What a concept is learned from: M pictures (H, W, 3) and questions, each about one picture or about none."""

    name: str
    class_noun: str
    pictures: tuple[npt.NDArray[np.uint8], ...]
    others: tuple[npt.NDArray[np.uint8], ...]
    """Pictures of something else; questions about them come after those about `pictures`."""
    questions: tuple[tuple[int | None, str, str], ...]
    """(index of the picture in `pictures` followed by `others`, question, answer)."""


def read_concept(images: Path, info: Path, size: int) -> ConceptData:
    """Read a folder of pictures and an `info.json`, as UnifyBench has them for each concept.

    Used where present, beside the pictures: `conversations.json`, and `positive_recognitions.json` with
    `random_recognitions.json` and `negative_example/`. Without the first the questions are made from `info` [ours].
    Pictures are scaled and cropped to the middle square of `size` pixels.

    Raises:
        UnifyBenchError: there are no pictures, `info` has no name, or a JSON file is missing or malformed.
    """
    about = read_json(info, Info)
    found = NAME.search(about.info)
    if found is None:
        raise UnifyBenchError(f"{info}: key 'info' must name the concept as in '<bo> is a cat.', got {about.info!r}")
    name = found.group()
    files = _pictures(images)
    if not files:
        raise UnifyBenchError(f"{images}: no pictures; expected files ending in {', '.join(_PICTURES)}")
    index = {file.name: number for number, file in enumerate(files)}
    talks = images / "conversations.json"
    asked: list[tuple[int | None, str, str]] = []
    if talks.exists():
        asked += [
            (index.get(turn.image or ""), turn.question, turn.answer)
            for turn in read_questions(talks)
            if turn.image in (None, "text_only") or turn.image in index
        ]
    if not asked:
        asked += [(number, f"what is {name} ?", about.info) for number in range(len(files))]
    others = _pictures(images / "negative_example")
    for file, numbers in (
        ("positive_recognitions.json", range(len(files))),
        ("random_recognitions.json", range(len(files), len(files) + len(others))),
    ):
        if (images / file).exists() and others:
            turns = read_questions(images / file)
            asked += [(number, turns[i % len(turns)].question, turns[i % len(turns)].answer)
                      for i, number in enumerate(numbers)]  # fmt: skip
    pictures = [_square(file, size) for file in (*files, *others)]
    return ConceptData(
        name, about.class_noun, tuple(pictures[: len(files)]), tuple(pictures[len(files) :]), tuple(asked)
    )


def _pictures(folder: Path) -> list[Path]:
    files = sorted(folder.iterdir()) if folder.is_dir() else []
    # UnifyBench keeps masks beside cropped pictures.
    return [file for file in files if file.suffix.lower() in _PICTURES and "mask" not in file.name]


def _square(file: Path, size: int) -> npt.NDArray[np.uint8]:
    with Image.open(file) as image:
        return np.asarray(ImageOps.fit(image.convert("RGB"), (size, size), Image.Resampling.BICUBIC))
