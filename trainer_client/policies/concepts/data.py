"""What a concept is learned from: its training folder in a benchmark, or any folder of pictures with an `info.json`.

You are at the edge where files become data: `concept_files` and `benchmark_files` say which files a concept has, and
`embeddings.py` learns from what `read_concept` reads of them. Nothing of `concept/test` is ever opened, and of
`info.json` only class and look are used: its `extra_info` holds the facts that are held out as well.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from sync_r1.trainer_client.policies.showo.image_tokenizer import prepared
from sync_r1.trainer_client.policies.text import NAME
from sync_r1.trainer_client.sdk.pictures import read_pixels
from sync_r1.trainer_client.tasks.unifybench_schema import (
    Info,
    UnifyBenchError,
    read_json,
    read_questions,
    read_training_pictures,
)

_PICTURES = (".png", ".jpg", ".jpeg")


@dataclass(frozen=True)
class ConceptFiles:
    """Where a concept is on disk; questions are looked for in `folder`, beside the pictures."""

    name: str
    """As texts write it: `<bo>`."""
    class_noun: str
    look: str
    """The sentence about class and look: `info` of `info.json`."""
    folder: Path
    pictures: tuple[Path, ...]


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


def concept_files(images: Path, info: Path) -> ConceptFiles:
    """One concept: all pictures of the folder `images`, and the name that `info` says.

    Raises:
        UnifyBenchError: there are no pictures, `info` has no name, or is missing or malformed.
    """
    return _files(images, info, tuple(_pictures(images)))


def benchmark_files(root: Path) -> list[ConceptFiles]:
    """Every concept of a benchmark folder in the order of `concepts_list.json`, with the pictures that
    `train_images.json` lists for it: a folder may hold others.

    Raises:
        UnifyBenchError: as `concept_files`, or a name is not that of the folder, which conditions are written with.
    """
    train, found = root / "concept" / "train", []
    for folder, pictures in read_training_pictures(root).items():
        info = train / folder / "info.json"
        found.append(_files(train / folder, info, pictures))
        if found[-1].name != f"<{folder}>":
            raise UnifyBenchError(f"{info}: key 'info' must name the concept of its folder, <{folder}>, "
                                  f"got {found[-1].name}: {found[-1].look!r}")  # fmt: skip
    return found


def read_concept(files: ConceptFiles, size: int) -> ConceptData:
    """Read pictures and questions.

    Used where present in the folder: `conversations.json`, and `positive_recognitions.json` with
    `random_recognitions.json` and `negative_example/`. Without the first the questions are made from the look [ours].
    Questions about other pictures than those of `files` are left out. Pictures are prepared as the policy
    prepares those it is asked about, to `size` pixels.

    Raises:
        UnifyBenchError: a JSON file is malformed. ImageError: a picture cannot be read, or is no plain picture.
    """
    shown, name = files.pictures, files.name
    index = {file.name: number for number, file in enumerate(shown)}
    talks = files.folder / "conversations.json"
    asked: list[tuple[int | None, str, str]] = []
    if talks.exists():
        asked += [
            (index.get(turn.image or ""), turn.question, turn.answer)
            for turn in read_questions(talks)
            if turn.image in (None, "text_only") or turn.image in index
        ]
    if not asked:
        asked += [(number, f"what is {name} ?", files.look) for number in range(len(shown))]
    others = _pictures(files.folder / "negative_example")
    for file, numbers in (
        ("positive_recognitions.json", range(len(shown))),
        ("random_recognitions.json", range(len(shown), len(shown) + len(others))),
    ):
        if (files.folder / file).exists() and others:
            turns = read_questions(files.folder / file)
            asked += [(number, turns[i % len(turns)].question, turns[i % len(turns)].answer)
                      for i, number in enumerate(numbers)]  # fmt: skip
    pictures = [prepared(read_pixels(file), size) for file in (*shown, *others)]
    return ConceptData(
        name, files.class_noun, tuple(pictures[: len(shown)]), tuple(pictures[len(shown) :]), tuple(asked)
    )


def _files(images: Path, info: Path, pictures: tuple[Path, ...]) -> ConceptFiles:
    about = read_json(info, Info)
    name = NAME.search(about.info)
    if name is None:
        raise UnifyBenchError(f"{info}: key 'info' must name the concept as in '<bo> is a cat.', got {about.info!r}")
    if not pictures:
        raise UnifyBenchError(f"{images}: no pictures; expected files ending in {', '.join(_PICTURES)}")
    return ConceptFiles(name.group(), about.class_noun, about.info, images, pictures)


def _pictures(folder: Path) -> list[Path]:
    files = sorted(folder.iterdir()) if folder.is_dir() else []
    # UnifyBench keeps masks beside cropped pictures.
    return [file for file in files if file.suffix.lower() in _PICTURES and "mask" not in file.name]
