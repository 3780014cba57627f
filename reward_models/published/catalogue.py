"""What there is to export: every published model, its graphs, and exactly how its original prepares pictures and texts.

Nothing here needs torch: profiles read shapes and preprocessing from it. Sizes follow the publishers' configurations.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

from sync_r1.reward_models.graphs.spec import TensorSpec
from sync_r1.reward_models.images import CROPPED, CropRounding, Preprocessing

CROPPED_DOWN = Preprocessing(crop_rounding="down")
SQUASHED, PADDED = Preprocessing("squash_bicubic"), Preprocessing("pad_bicubic")
CLIP_MEAN, CLIP_STD = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)
IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
HALF = (0.5, 0.5, 0.5)

Tokenizer = Literal["", "clip", "siglip", "image_reward", "git_vqa"]


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


@dataclass(frozen=True)
class _OpenClipForm:
    """How a model of open_clip differs from the plain one of LAION."""

    files: tuple[str, ...] = _OPEN_CLIP_FILES
    quick_gelu: bool = False
    """GELU as OpenAI approximated it."""
    preprocessing: Preprocessing = CROPPED
    siglip: bool = False
    """SigLIP's tokenizer, and its mean and deviation of pixels."""


_OPENAI = _OpenClipForm(quick_gelu=True)


def _open_clip(
    name: str,
    architecture: str,
    width: int,
    source: str,
    licence: str,
    form: _OpenClipForm = _OpenClipForm(),
) -> PublishedModel:
    """A model with an image and a text tower; `width` is that of the embedding."""
    siglip, preprocessing = form.siglip, form.preprocessing
    mean, std = (HALF, HALF) if siglip else (CLIP_MEAN, CLIP_STD)
    config = {
        "architecture": architecture,
        "quick_gelu": form.quick_gelu,
        "mean": mean,
        "std": std,
        "float_pixels": (padded := preprocessing.resize == "pad_bicubic"),
    }
    tokens = TensorSpec("tokens", "int64", (64 if siglip else 77,))
    pixels = _pixels(224, "float32" if padded else "uint8")
    graphs = {
        "image": PublishedGraph(name, f"{name}_image", (pixels,), (_embedding(width),), preprocessing),
        "text": PublishedGraph(
            name, f"{name}_text", (tokens,), (_embedding(width),), tokenizer="siglip" if siglip else "clip"
        ),
    }
    return PublishedModel(name, "openclip", config, source, licence, graphs, {"clip": form.files})


def _vision(
    name: str,
    kind: str,
    width: int,
    source: str,
    licence: str,
    settings: dict[str, Any],
    *,
    crop_rounding: CropRounding = "half_even",
) -> PublishedModel:
    """A vision transformer whose class token is the embedding, for the 224 pixels in the middle of 256."""
    config = {"kind": kind, "settings": settings, "size": 224, "mean": IMAGENET_MEAN, "std": IMAGENET_STD}
    preprocessing = Preprocessing(shorter_side=256, crop_rounding=crop_rounding)
    graph = PublishedGraph(name, f"{name}_image", (_pixels(224),), (_embedding(width),), preprocessing)
    files = ("model.safetensors", "pytorch_model.bin")
    return PublishedModel(name, "vision", config, source, licence, {"image": graph}, {"vision": files})


_MODELS = (
    _open_clip("clip_vit_b_32", "ViT-B-32", 512, "timm/vit_base_patch32_clip_224.openai", "MIT", _OPENAI),
    _open_clip("clip_vit_l_14", "ViT-L-14", 768, "timm/vit_large_patch14_clip_224.openai", "MIT", _OPENAI),
    _open_clip("clip_vit_h_14", "ViT-H-14", 1024, "laion/CLIP-ViT-H-14-laion2B-s32B-b79K", "MIT"),
    _open_clip(
        "siglip_vit_b_16", "ViT-B-16-SigLIP", 768, "timm/ViT-B-16-SigLIP", "Apache-2.0",
        _OpenClipForm(preprocessing=SQUASHED, siglip=True),
    ),
    _open_clip(
        "hps_v2_1", "ViT-H-14", 1024, "xswu/HPSv2", "Apache-2.0",
        _OpenClipForm(files=("HPS_v2.1_compressed.pt",), preprocessing=PADDED),
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
    _vision(
        "dino_vit_s_16", "vit", 384, "facebook/dino-vits16", "Apache-2.0",
        {"hidden_size": 384, "num_hidden_layers": 12, "num_attention_heads": 6, "intermediate_size": 1536,
         "patch_size": 16, "image_size": 224},
    ),
    _vision(
        "dinov2_vit_b_14", "dinov2", 768, "facebook/dinov2-base", "Apache-2.0",
        {"hidden_size": 768, "num_hidden_layers": 12, "num_attention_heads": 12, "patch_size": 14, "image_size": 518},
        crop_rounding="down",
    ),
    PublishedModel(
        "pickscore", "pickscore",
        {
            "settings": {
                "projection_dim": 1024,
                "vision_config": {
                    "hidden_size": 1280, "intermediate_size": 5120, "num_hidden_layers": 32, "num_attention_heads": 16,
                    "patch_size": 14, "image_size": 224, "hidden_act": "gelu", "projection_dim": 1024,
                },
                "text_config": {
                    "hidden_size": 1024, "intermediate_size": 4096, "num_hidden_layers": 24, "num_attention_heads": 16,
                    "hidden_act": "gelu", "projection_dim": 1024,
                },
            },
            "mean": CLIP_MEAN, "std": CLIP_STD,
        },
        "yuvalkirstain/PickScore_v1", "MIT",
        {
            "image": PublishedGraph(
                "pickscore", "pickscore_image", (_pixels(224),), (_embedding(1024),), CROPPED_DOWN,
            ),
            "text": PublishedGraph(
                "pickscore", "pickscore_text", (TensorSpec("tokens", "int64", (77,)),), (_embedding(1024),),
                tokenizer="clip",
            ),
        },
        {"clip": ("model.safetensors", "pytorch_model.bin")},
    ),
    PublishedModel(
        "image_reward", "blip",
        {
            "vision": {"hidden_size": 1024, "intermediate_size": 4096, "num_hidden_layers": 24,
                       "num_attention_heads": 16, "patch_size": 16, "image_size": 224, "layer_norm_eps": 1e-6},
            "text": {"hidden_size": 768, "encoder_hidden_size": 1024, "intermediate_size": 3072,
                     "num_hidden_layers": 12, "num_attention_heads": 12, "vocab_size": 30524,
                     "max_position_embeddings": 512, "layer_norm_eps": 1e-12, "is_decoder": True},
            "length": 35, "mean": CLIP_MEAN, "std": CLIP_STD,
        },
        "THUDM/ImageReward", "Apache-2.0",
        {
            "score": PublishedGraph(
                "image_reward", "image_reward",
                (_pixels(224), TensorSpec("input_ids", "int64", (35,)), TensorSpec("attention_mask", "int64", (35,))),
                (TensorSpec("score", "float32", (1,)),), tokenizer="image_reward",
            )
        },
        {"reward": ("ImageReward.pt",)},
    ),
    PublishedModel(
        "git_vqa", "git_vqa",
        {
            "settings": {
                "num_hidden_layers": 6,
                "vision_config": {"hidden_size": 1024, "intermediate_size": 4096, "num_hidden_layers": 24,
                                  "num_attention_heads": 16, "patch_size": 14, "image_size": 420},
            },
            "mean": CLIP_MEAN, "std": CLIP_STD,
        },
        "microsoft/git-large-vqav2", "MIT",
        {
            "answers": PublishedGraph(
                "git_vqa", "git_vqa",
                (_pixels(420), TensorSpec("input_ids", "int64", (-1,)), TensorSpec("length", "int64", (1,)),
                 TensorSpec("answers", "int64", (2,))),
                (TensorSpec("logits", "float32", (2,)),), CROPPED_DOWN, tokenizer="git_vqa",
            )
        },
        {"git": ("model.safetensors", "pytorch_model.bin")},
    ),
    PublishedModel(
        "facenet", "facenet", {}, "py-feat/facenet (facenet-pytorch's 20180402-114759-vggface2)",
        "MIT; trained on VGGFace2, whose pictures are for research",
        {"face": PublishedGraph("facenet", "facenet", (_pixels(160),), (_embedding(512),))},
        {"facenet": ("facenet_20180402_114759_vggface2.pth", "20180402-114759-vggface2.pt")},
    ),
    PublishedModel(
        "arcface", "arcface", {}, "glintr100.onnx of insightface's pack antelopev2",
        "non-commercial research only",
        {"face": PublishedGraph("arcface", "arcface", (_pixels(112),), (_embedding(512),))},
        {"arcface": ("glintr100.onnx",)},
    ),
)  # fmt: skip

MODELS = {model.name: model for model in _MODELS}
GRAPHS = {graph.name: graph for model in _MODELS for graph in model.graphs.values()}
