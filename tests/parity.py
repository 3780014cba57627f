"""What the parity tests share: encoded pictures of odd sizes, tiny models of the original classes, and mutants.

A tiny model is the original's class in a small configuration with the random weights of `--weights random`; it runs
through the same export as the published one. Sizes differ, code does not.
"""

from __future__ import annotations

import io
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnxruntime
import torch
from PIL import Image
from torchvision.transforms import functional as F

from sync_r1.reward_models.graphs import GraphSpec, TensorSpec, disabled_optimizers
from sync_r1.reward_models.images import Preprocessing, decode
from sync_r1.reward_models.published import convert
from sync_r1.reward_models.published.catalogue import MODELS, PublishedModel

Array = npt.NDArray[Any]
TOLERANCE, HALF_TOLERANCE = 1e-4, 5e-3
TEXTS = (
    "a red dog, left of 2 blue balls",
    "l’été: “naïve” café — 20,000 ＷＩＤＥ &amp; <b>bold</b>\n\tit's",
    "word " * 120,
    "x",
)
SIZES = ((97, 141), (301, 517), (224, 224), (64, 90), (777, 333), (513, 512))


def scenery(height: int, width: int) -> Array:
    """Smooth structure and fine texture, without any symmetry that would hide a mutant."""
    y, x = np.mgrid[:height, :width].astype(np.float64)
    noise = np.random.default_rng(height * width).normal(0, 40, (height, width, 3))
    waves = [128 + 70 * np.sin(x / (5 + 9 * c) + y / (21 - 4 * c)) for c in range(3)]
    return np.clip(np.stack(waves, axis=-1) + noise, 0, 255).astype(np.uint8)


@cache
def encoded() -> tuple[bytes, ...]:
    """PNG and JPEG files of `SIZES`."""
    files = []
    for number, size in enumerate(SIZES):
        stream = io.BytesIO()
        Image.fromarray(scenery(*size)).save(stream, "JPEG" if number % 2 else "PNG", quality=93)
        files.append(stream.getvalue())
    return tuple(files)


def opened(data: bytes) -> Image.Image:
    """The picture as an original opens it."""
    return Image.open(io.BytesIO(data)).convert("RGB")


def tiny(name: str, **changes: Any) -> PublishedModel:
    """A published model with parts of its configuration replaced by small ones."""
    return replace(MODELS[name], config={**MODELS[name].config, **changes})


@dataclass(frozen=True)
class Exported:
    """A tiny model in both forms: the original in torch and the files that were made of it."""

    model: PublishedModel
    original: Any
    folder: Path
    precision: str

    def graph(self, key: str) -> GraphSpec:
        """The graph as a profile would list it, at the tiny model's size."""
        published = self.model.graphs[key]
        session = self.session(key)
        inputs = tuple(
            TensorSpec(spec.name, spec.dtype, tuple(d if isinstance(d, int) else -1 for d in found.shape[1:]))
            for spec, found in zip(published.inputs, session.get_inputs())
        )
        return GraphSpec(
            published.name, 1, self.folder / f"{published.name}.onnx", inputs, published.outputs, 8,
            preprocessing=published.preprocessing, published=self.model.name,
        )  # fmt: skip

    def session(self, key: str) -> onnxruntime.InferenceSession:
        return onnxruntime.InferenceSession(
            str(self.folder / f"{self.model.graphs[key].name}.onnx"),
            providers=["CPUExecutionProvider"],
            disabled_optimizers=disabled_optimizers(self.precision),
        )

    def run(self, key: str, inputs: dict[str, Array]) -> dict[str, Array]:
        """Outputs by name."""
        session = self.session(key)
        names = [output.name for output in session.get_outputs()]
        return dict(zip(names, session.run(names, inputs)))

    def pixels(self, key: str) -> Array:
        """What the encoder sends for `encoded()`: decoded and prepared."""
        graph = self.graph(key)
        size = graph.inputs[0].shape[0]
        return np.stack([graph.preprocessing(decode(data).pixels, size) for data in encoded()])


def export(model: PublishedModel, folder: Path, precision: str = "fp32") -> Exported:
    """Export with random weights; the original has the same ones in float32."""
    convert.export_model(model, [convert.RANDOM], folder, precision=precision)
    return Exported(model, convert.load_model(model, [convert.RANDOM])[0], folder, precision)


def largest(a: Any, b: Any) -> float:
    """Largest absolute difference."""
    return float(np.abs(np.asarray(a, np.float64) - np.asarray(b, np.float64)).max())


MUTANTS = ("bilinear", "BGR", "no antialias", "wrong crop")


def mutant(name: str, pixels: Array, preprocessing: Preprocessing, size: int) -> Array:
    """What a plausible mistake makes of a picture: (size, size, 3), values 0..255."""
    shorter = preprocessing.shorter_side or size
    target: Any = shorter if preprocessing.resize == "crop_bicubic" else (size, size)
    if name == "BGR":
        return preprocessing(pixels, size)[..., ::-1]
    dtype = np.float32 if preprocessing.resize == "pad_bicubic" else np.uint8
    if name == "wrong crop":
        other = "squash_bicubic" if preprocessing.resize == "crop_bicubic" else "crop_bicubic"
        return Preprocessing(other)(pixels, size).astype(dtype)
    tensor = torch.from_numpy(pixels.copy()).permute(2, 0, 1)
    mode = F.InterpolationMode.BILINEAR if name == "bilinear" else F.InterpolationMode.BICUBIC
    if preprocessing.resize == "pad_bicubic":
        scale = size / max(pixels.shape[:2])
        target = [round(side * scale) for side in pixels.shape[:2]]
    resized = F.resize(tensor, target, mode, antialias=name == "bilinear")
    resized = F.center_crop(resized, [size, size])  # pads where the picture is smaller
    return resized.permute(1, 2, 0).numpy().astype(dtype)
