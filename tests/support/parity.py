"""What the parity tests share: encoded pictures of odd sizes, tiny models of the original classes, and mutants.

A tiny model is the original's class in a small configuration with the random weights of `--weights random`; it runs
through the same export as the published one. Sizes differ, code does not.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnxruntime
import torch
from filelock import FileLock
from torchvision.transforms import functional as F

from benchmarks.originals import encoded
from sync_r1.reward_models.graphs.spec import GraphSpec, TensorSpec, disabled_optimizers
from sync_r1.reward_models.images import Preprocessing, decode
from sync_r1.reward_models.published import convert
from sync_r1.reward_models.published.catalogue import MODELS, PublishedModel

Array = npt.NDArray[Any]
TOLERANCE, HALF_TOLERANCE = 1e-4, 5e-3

SIZE = 112
_VISION = {"image_size": SIZE, "layers": 2, "width": 64, "head_width": 32, "patch_size": 14}
_TEXT = {"context_length": 77, "vocab_size": 49408, "width": 64, "heads": 2, "layers": 2}
_CLIP = {"architecture": {"embed_dim": 32, "vision_cfg": _VISION, "text_cfg": _TEXT}}
_SIGLIP = {
    "embed_dim": 32,
    "init_logit_bias": -10,
    "custom_text": True,
    "vision_cfg": {
        "image_size": 160, "timm_model_name": "test_vit", "timm_model_pretrained": False, "timm_pool": "avg",
        "timm_proj": "linear",
    },
    "text_cfg": {
        "context_length": 64, "vocab_size": 32000, "width": 64, "heads": 2, "layers": 2, "no_causal_mask": True,
        "proj_bias": True, "pool_type": "last", "norm_kwargs": {"eps": 1e-6},
    },
}  # fmt: skip
_LAYERS = {"hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2}
_NARROW = {**_LAYERS, "intermediate_size": 96}
TINY: dict[str, dict[str, Any]] = {
    "clip_vit_b_32": _CLIP,
    "clip_vit_h_14": _CLIP,
    "hps_v2_1": _CLIP,
    "siglip_vit_b_16": {"architecture": _SIGLIP},
    "laion_v2": _CLIP,
    "dino_vit_s_16": {"settings": {**_NARROW, "patch_size": 16, "image_size": 224}},
    "dinov2_vit_b_14": {"settings": {**_LAYERS, "patch_size": 14, "image_size": 518}},
    "pickscore": {
        "settings": {
            "projection_dim": 32,
            "vision_config": {**_NARROW, "patch_size": 14, "image_size": SIZE, "hidden_act": "gelu"},
            "text_config": {**_NARROW, "hidden_act": "gelu"},
        }
    },
    "image_reward": {
        "vision": {**_LAYERS, "intermediate_size": 256, "patch_size": 16, "image_size": SIZE, "layer_norm_eps": 1e-6},
        "text": {
            **_NARROW, "encoder_hidden_size": 64, "vocab_size": 30524, "max_position_embeddings": 64,
            "layer_norm_eps": 1e-12, "is_decoder": True,
        },
    },
    "git_vqa": {"settings": {**_NARROW, "vision_config": {**_NARROW, "patch_size": 14, "image_size": SIZE}}},
}  # fmt: skip
"""Model -> what its tiny sister changes."""


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


class TinyModels:
    """Exports of tiny models with random weights, each made when it is first asked for, once for all test processes."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._made: dict[tuple[str, str], Exported] = {}

    def __call__(self, name: str, precision: str = "fp32") -> Exported:
        if (name, precision) not in self._made:
            folder = self._folder / f"{name}-{precision}"
            with FileLock(folder.with_name(f"{folder.name}.lock")):  # random weights are the same in every process
                self._made[name, precision] = export(tiny(name, **TINY[name]), folder, precision)
        return self._made[name, precision]


def export(model: PublishedModel, folder: Path, precision: str = "fp32") -> Exported:
    """Export with random weights, unless `folder` has it; the original has the same ones in float32."""
    done = folder.with_name(f"{folder.name}.done")
    if not done.exists():
        convert.export_model(model, [convert.RANDOM], folder, precision=precision)
        done.touch()
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
