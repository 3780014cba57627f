"""Own ONNX files as a team brings them, with scores that are known exactly, and the profile that names one.

The graphs take pixels of SIDE, token ids or both. `score` is the mean of the pixels plus the number of known tokens;
it is not a number for a black picture (0/0). `red` is the mean of the red channel.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import yaml
from onnx import TensorProto, helper, numpy_helper

SIDE = 8
CARD = {"summary": "s", "source": "s", "licence": "l", "raw_max": 400, "one_at": 400}
PIXELS = {"pixels": {"dtype": "uint8", "shape": [SIDE, SIDE, 3]}}
TOKENS = {"tokens": {"dtype": "int64", "shape": [64]}}
SCORE = {"score": {"dtype": "float32", "shape": [1]}}
RED = {"red": {"dtype": "float32", "shape": [1]}}


def write_graph(
    file: Path, *, pictures: bool = True, tokens: int | str | None = None, batch: int | str = "N", **value_info: Any
) -> Path:
    """The file. `tokens`: length of its token input, if it has one. `value_info`: type of `pixels` (default uint8)."""
    nodes, inputs, parts = [], [], []
    weights = {
        "sides": np.array([1, 2, 3], np.int64),
        "one": np.array([1], np.int64),
        "red_only": np.array([0], np.int64),
    }
    if pictures:
        inputs.append(
            helper.make_tensor_value_info("pixels", value_info.get("pixels", TensorProto.UINT8), [batch, SIDE, SIDE, 3])
        )
        weights["cuts"] = np.array([0, SIDE * SIDE * 3], np.int64)
        nodes += [
            helper.make_node("Cast", ["pixels"], ["float"], to=TensorProto.FLOAT),
            helper.make_node("Reshape", ["float", "cuts"], ["unbiased"]),
            helper.make_node("Add", ["unbiased", "bias"], ["flat"]),
            helper.make_node("ReduceMean", ["flat"], ["mean"], axes=[1], keepdims=1),
            helper.make_node("Div", ["mean", "mean"], ["unity"]),
            helper.make_node("Mul", ["mean", "unity"], ["brightness"]),
            helper.make_node("Gather", ["float", "red_only"], ["reds"], axis=3),
            helper.make_node("ReduceMean", ["reds"], ["red_4"], axes=[1, 2], keepdims=1),
            helper.make_node("Reshape", ["red_4", "column"], ["red"]),
        ]
        weights["bias"] = np.zeros(SIDE * SIDE * 3, np.float32)
        weights["column"] = np.array([0, 1], np.int64)
        parts.append("brightness")
    if tokens is not None:
        inputs.append(helper.make_tensor_value_info("tokens", TensorProto.INT64, [batch, tokens]))
        weights["unknown"] = np.array(1, np.int64)
        nodes += [
            helper.make_node("Greater", ["tokens", "unknown"], ["is_known"]),
            helper.make_node("Cast", ["is_known"], ["known"], to=TensorProto.FLOAT),
            helper.make_node("ReduceSum", ["known", "one"], ["count"], keepdims=1),
        ]
        parts.append("count")
    nodes.append(helper.make_node("Sum", parts, ["score"]))
    outputs = [helper.make_tensor_value_info("score", TensorProto.FLOAT, [batch, 1])]
    if pictures:
        outputs.append(helper.make_tensor_value_info("red", TensorProto.FLOAT, [batch, 1]))
    graph = helper.make_graph(
        nodes, "own", inputs, outputs, [numpy_helper.from_array(array, name) for name, array in weights.items()]
    )
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9), str(file))
    return file


def profile_of(graph: dict[str, Any], variant: dict[str, Any] | None = None, judges: str = "picture") -> dict[str, Any]:
    """A profile that adds one reward, `own`, with one variant, `net`, over one graph, `own_net`."""
    stated = {"inputs": PIXELS, "outputs": SCORE, "max_batch_size": 4, "resize": "box"} | graph
    return {
        "name": "own",
        "extends": "pocket",
        "graphs": {"own_net": stated},
        "rewards": {
            "own": {
                "judges": judges,
                "default": "net",
                "variants": {"net": {"kind": "graph", "graph": "own_net", "card": CARD} | (variant or {})},
            }
        },
    }


def write_profile(file: Path, profile: dict[str, Any]) -> str:
    file.write_text(yaml.safe_dump(profile))
    return str(file)
