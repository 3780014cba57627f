"""pocket-clip and pocket-aesthetic as ONNX graphs, the form in which services run them: raw uint8 pictures and token
ids in.

| file | input | output |
|---|---|---|
| `pocket_clip_image.onnx` | `pixels` uint8 (N, 64, 64, 3) RGB | `embedding` float32 (N, 256), length 1 |
| `pocket_clip_text.onnx` | `tokens` int64 (N, 64), see `tokenizer.py` | `embedding` float32 (N, 256), length 1 |
| `pocket_aesthetic.onnx` | `pixels` uint8 (N, 64, 64, 3) RGB | `score` float32 (N, 1), about 1..10; `embedding` |

Every graph takes any number of items at once; pictures of another size are resized by the caller.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import torch
from onnx import helper, numpy_helper
from torch import Tensor, nn

from sync_r1.reward_models.pocket.clip import PocketClip, pixels_to_input
from sync_r1.reward_models.pocket.tokenizer import CONTEXT_LENGTH, encode
from sync_r1.reward_models.pocket.training.aesthetic import AestheticHead

_OPSET = 17


class ImageGraph(nn.Module):
    """Pixels to embedding."""

    def __init__(self, clip: PocketClip) -> None:
        super().__init__()
        self.clip = clip

    def forward(self, pixels: Tensor) -> Tensor:
        return self.clip.encode_image(pixels_to_input(pixels), normalize=True)


class TextGraph(nn.Module):
    """Tokens to embedding."""

    def __init__(self, clip: PocketClip) -> None:
        super().__init__()
        self.clip = clip

    def forward(self, tokens: Tensor) -> Tensor:
        return self.clip.encode_text(tokens, normalize=True)


class AestheticGraph(nn.Module):
    """Pixels to (rating, embedding)."""

    def __init__(self, clip: PocketClip, head: AestheticHead) -> None:
        super().__init__()
        self.clip, self.head = clip, head

    def forward(self, pixels: Tensor) -> tuple[Tensor, Tensor]:
        embedding = self.clip.encode_image(pixels_to_input(pixels), normalize=True)
        return self.head(embedding), embedding


def export_clip(clip: PocketClip, folder: Path) -> None:
    """Writes `pocket_clip_image.onnx` and `pocket_clip_text.onnx`."""
    _export(ImageGraph(clip), _some_pixels(), folder / "pocket_clip_image.onnx", "pixels", ["embedding"])
    tokens = torch.from_numpy(encode(["a red cat", "a blue striped boy wearing a green hat"]))
    assert tokens.shape[1] == CONTEXT_LENGTH
    _export(TextGraph(clip), tokens, folder / "pocket_clip_text.onnx", "tokens", ["embedding"])


def export_aesthetic(clip: PocketClip, head: AestheticHead, folder: Path) -> None:
    """Writes `pocket_aesthetic.onnx`, image tower included."""
    graph = AestheticGraph(clip, head)
    _export(graph, _some_pixels(), folder / "pocket_aesthetic.onnx", "pixels", ["score", "embedding"])


def _some_pixels() -> Tensor:
    return torch.zeros((2, 64, 64, 3), dtype=torch.uint8)


def _export(graph: nn.Module, example: Tensor, path: Path, entering: str, leaving: list[str]) -> None:
    # The fused attention of nn.MultiheadAttention has no ONNX form; the plain one computes the same.
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        torch.onnx.export(
            graph.eval(),
            (example,),
            str(path),
            input_names=[entering],
            output_names=leaving,
            dynamic_axes={name: {0: "N"} for name in (entering, *leaving)},
            opset_version=_OPSET,
            dynamo=False,
        )
    finally:
        torch.backends.mha.set_fastpath_enabled(True)
    _halve(path)


def _halve(path: Path) -> None:
    """Stores weights as float16 with a cast behind them, where that loses nothing (the weights file was rounded to
    float16).

    ONNX Runtime folds the casts when it loads the graph, so only the file is smaller.
    """
    model = onnx.load(path)
    casts = []
    for number, stored in enumerate(model.graph.initializer):
        if stored.data_type != onnx.TensorProto.FLOAT:
            continue
        full = numpy_helper.to_array(stored)
        half = full.astype(np.float16)
        if full.size < 1024 or not np.array_equal(half.astype(np.float32), full):
            continue
        name = stored.name
        model.graph.initializer[number].CopyFrom(numpy_helper.from_array(half, f"{name}_half"))
        casts.append(helper.make_node("Cast", [f"{name}_half"], [name], name=f"{name}_cast", to=onnx.TensorProto.FLOAT))
    nodes = [*casts, *model.graph.node]
    del model.graph.node[:]
    model.graph.node.extend(nodes)
    onnx.checker.check_model(model)
    onnx.save(model, path)
