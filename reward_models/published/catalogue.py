"""What there is to export: every published model, its graphs, and exactly how its original prepares pictures and texts.

Nothing here needs torch: profiles read shapes and preprocessing from it. Sizes follow the publishers' configurations.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

from sync_r1.reward_models.graphs import TensorSpec
from sync_r1.reward_models.images import CROPPED, Preprocessing

SQUASHED, PADDED = Preprocessing("squash_bicubic"), Preprocessing("pad_bicubic")
CLIP_MEAN, CLIP_STD = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)
IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
HALF = (0.5, 0.5, 0.5)

Tokenizer = Literal["", "clip", "siglip", "bert"]


@dataclass(frozen=True)
class PublishedGraph:
    """One graph of a published model, as a profile and Triton see it."""

    model: str
    name: str
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    preprocessing: Preprocessing = CROPPED
    tokenizer: Tokenizer = ""
    """Which encoder of `encoders.py` makes its token inputs."""


@dataclass(frozen=True)
class PublishedModel:
    """One published model. `config` is what its family's module builds it from."""

    name: str
    family: str
    """Module of this package."""
    config: dict[str, Any]
    source: str
    """Where the publisher has it."""
    licence: str
    graphs: dict[str, PublishedGraph]
    """By the name its family gives them."""
    parts: dict[str, tuple[str, ...]]
    """Weights it is made of -> the file names its publisher uses, best first; `--weights` once for each, in order."""


def _pixels(size: int, dtype: Literal["uint8", "float32"] = "uint8") -> TensorSpec:
    return TensorSpec("pixels", dtype, (size, size, 3))


def _embedding(width: int) -> TensorSpec:
    return TensorSpec("embedding", "float32", (width,))


_OPEN_CLIP_FILES = ("open_clip_model.safetensors", "open_clip_pytorch_model.safetensors", "open_clip_pytorch_model.bin")


def _open_clip(
    name: str,
    architecture: str,
    width: int,
    source: str,
    licence: str,
    *,
    files: tuple[str, ...] = _OPEN_CLIP_FILES,
    quick_gelu: bool = False,
    preprocessing: Preprocessing = CROPPED,
    siglip: bool = False,
) -> PublishedModel:
    """A model with an image and a text tower; `width` is that of the embedding."""
    mean, std = (HALF, HALF) if siglip else (CLIP_MEAN, CLIP_STD)
    padded = preprocessing.resize == "pad_bicubic"
    config = {"architecture": architecture, "quick_gelu": quick_gelu, "mean": mean, "std": std, "float_pixels": padded}
    tokens = TensorSpec("tokens", "int64", (64 if siglip else 77,))
    pixels = _pixels(224, "float32" if padded else "uint8")
    graphs = {
        "image": PublishedGraph(name, f"{name}_image", (pixels,), (_embedding(width),), preprocessing),
        "text": PublishedGraph(
            name, f"{name}_text", (tokens,), (_embedding(width),), tokenizer="siglip" if siglip else "clip"
        ),
    }
    return PublishedModel(name, "openclip", config, source, licence, graphs, {"clip": files})


_MODELS = (
    _open_clip("clip_vit_b_32", "ViT-B-32", 512, "timm/vit_base_patch32_clip_224.openai", "MIT", quick_gelu=True),
    _open_clip("clip_vit_l_14", "ViT-L-14", 768, "timm/vit_large_patch14_clip_224.openai", "MIT", quick_gelu=True),
    _open_clip("clip_vit_h_14", "ViT-H-14", 1024, "laion/CLIP-ViT-H-14-laion2B-s32B-b79K", "MIT"),
    _open_clip(
        "siglip_vit_b_16", "ViT-B-16-SigLIP", 768, "timm/ViT-B-16-SigLIP", "Apache-2.0",
        preprocessing=SQUASHED, siglip=True,
    ),
    _open_clip(
        "hps_v2_1", "ViT-H-14", 1024, "xswu/HPSv2", "Apache-2.0",
        files=("HPS_v2.1_compressed.pt",), preprocessing=PADDED,
    ),
    PublishedModel(
        "laion_v2", "openclip",
        {"architecture": "ViT-L-14", "quick_gelu": True, "mean": CLIP_MEAN, "std": CLIP_STD, "head": True},
        "timm/vit_large_patch14_clip_224.openai and sac+logos+ava1-l14-linearMSE.pth of improved-aesthetic-predictor",
        "MIT (encoder), Apache-2.0 (head)",
        {
            "score": PublishedGraph(
                "laion_v2", "laion_v2", (_pixels(224),), (TensorSpec("score", "float32", (1,)), _embedding(768))
            )
        },
        {"clip": _OPEN_CLIP_FILES, "head": ("sac+logos+ava1-l14-linearMSE.pth",)},
    ),
)  # fmt: skip

MODELS = {model.name: model for model in _MODELS}
GRAPHS = {graph.name: graph for model in _MODELS for graph in model.graphs.values()}
