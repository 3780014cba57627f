"""Judges: graphs that are questions to a language model behind an OpenAI-compatible endpoint.

What is asked, in which form the answer must come, and of which model: that is a judge's "weights", and its sha256
stands in the release; `profiles/judge_files.py` reads it from YAML. Where the endpoint is, only the operator says
(`services/runners/judges.py` makes the call).

    inputs    text (N,) of str; pictures (N, K) of bytes, PNG files that come before the text
    outputs   answer (N,) of str; problem (N,) of str: why there is no answer, or empty;
              first_token (N,) of FirstToken: the likeliest first tokens, or none where they were not asked for

All four are arrays of objects, because texts and files have no shape.
"""

from __future__ import annotations

import hashlib
import io
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image

from sync_r1.reward_models.types import Pixels

FirstToken = tuple[tuple[str, float], ...]
"""Tokens and their log-probabilities."""
PICTURE_SIDE = 768
"""Longest side of a picture that a judge sees, pixels; larger ones are reduced to it (bicubic, antialiased)."""


@dataclass(frozen=True)
class JudgePrompt:
    """What a judge is asked, apart from the item itself. Whatever changes here makes a new release."""

    name: str
    version: int
    system: str
    max_tokens: int
    schema: dict[str, Any] = field(default_factory=dict)
    """JSON schema of the answer (strict); empty where it is free text."""
    top_logprobs: int = 0
    """How many alternatives of the first token are asked for; 0 = none."""


@dataclass(frozen=True)
class Judge:
    """A prompt and the model it is put to."""

    prompt: JudgePrompt
    model: str
    """As the endpoint calls it, e.g. "Qwen/Qwen2.5-VL-7B-Instruct"."""
    form: str = ""
    """How an own judge's questions are made and its answers read (`rewards/judge_forms.py`), which has no version."""

    @property
    def sha256(self) -> str:
        """Over prompt, model and form; independent of where the endpoint is. 64 hex digits."""
        facts = asdict(self)
        if not self.form:
            del facts["form"]
        return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()


def texts(items: Sequence[str]) -> npt.NDArray[Any]:
    """An array (N,) of str objects."""
    array = np.empty(len(items), object)
    array[:] = items
    return array


def files(rows: Sequence[Sequence[bytes]]) -> npt.NDArray[Any]:
    """An array (N, K) of bytes objects from rows of equal length K, which may be 0."""
    array = np.empty((len(rows), len(rows[0]) if rows else 0), object)
    for row, items in enumerate(rows):
        array[row] = items
    return array


def png(pixels: Pixels) -> bytes:
    """The picture (H, W, 3) as a judge gets it: a PNG file whose longer side is at most PICTURE_SIDE."""
    image = Image.fromarray(pixels)
    scale = PICTURE_SIDE / max(image.size)
    if scale < 1:
        size = max(1, round(image.width * scale)), max(1, round(image.height * scale))
        image = image.resize(size, Image.Resampling.BICUBIC)
    file = io.BytesIO()
    image.save(file, "PNG")
    return file.getvalue()


@dataclass(frozen=True)
class AsPng:
    """`png`, as a `preparation.Preparation`."""

    def __call__(self, pixels: Pixels) -> bytes:
        """See `png`."""
        return png(pixels)

    def size_bytes(self, height: int, width: int) -> int:
        """Noise does not shrink: its pixels, and a little for each row and the file."""
        scale = min(1.0, PICTURE_SIDE / max(height, width))
        tall, wide = max(1, round(height * scale)), max(1, round(width * scale))
        return tall * (wide * 3 + 16) + 1024


AS_PNG = AsPng()
