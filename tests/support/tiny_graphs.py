"""A profile of tiny ONNX graphs made on the spot: the shapes of the pocket profile's, without its training.

The image graphs return numbers that are not finite for a black picture (0/0 and log 0): a broken graph on demand.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import yaml
from onnx import TensorProto, helper, numpy_helper

from sync_r1.reward_models.profiles import Profile, load_profile
from sync_r1.reward_models.types import Picture

SIDE, DIM, LENGTH = 8, 6, 64
BUILT_IN = Path(__file__).parents[2] / "reward_models" / "profiles" / "pocket.yaml"


def picture(seed: int, side: int = SIDE) -> Picture:
    """A picture of noise."""
    pixels = np.random.default_rng(seed).integers(1, 256, (side, side, 3), dtype=np.uint8)
    return Picture(pixels, f"{seed:064x}")


def black_picture() -> Picture:
    """The picture for which the image graphs return no finite number."""
    return Picture(np.zeros((SIDE, SIDE, 3), np.uint8), "b" * 64)


def write_tiny_profile(folder: Path) -> Profile:
    """The built-in profile with its trained graphs replaced by tiny ones in `folder`."""
    rng = np.random.default_rng(0)
    _image_graph(folder / "image.onnx", rng, score=False)
    _image_graph(folder / "aesthetic.onnx", rng, score=True)
    _text_graph(folder / "text.onnx", rng)
    file = yaml.safe_load(BUILT_IN.read_text())
    pixels = {"pixels": {"dtype": "uint8", "shape": [SIDE, SIDE, 3]}}
    embedding = {"embedding": {"dtype": "float32", "shape": [DIM]}}
    for name, graph, inputs, outputs in (
        ("pocket_clip_image", "image", pixels, embedding),
        ("efficientnet_lite2", "image", pixels, embedding),
        ("pocket_clip_text", "text", {"tokens": {"dtype": "int64", "shape": [LENGTH]}}, embedding),
        ("pocket_aesthetic", "aesthetic", pixels, {"score": {"dtype": "float32", "shape": [1]}} | embedding),
    ):
        file["graphs"][name] |= {"inputs": inputs, "outputs": outputs, "max_batch_size": 4}
        file["graphs"][name]["checked_in"] = str(folder / f"{graph}.onnx")
        file["graphs"][name].pop("package", None)
    path = folder / "tiny.yaml"
    path.write_text(yaml.safe_dump(file))
    return load_profile(str(path))


def _image_graph(path: Path, rng: np.random.Generator, *, score: bool) -> None:
    """embedding = (x / mean x) W; score = log mean x."""
    weights = {
        "W": rng.normal(size=(SIDE * SIDE * 3, DIM)).astype(np.float32),
        "flat": np.array([0, SIDE * SIDE * 3], np.int64),
    }
    nodes = [
        helper.make_node("Cast", ["pixels"], ["float"], to=TensorProto.FLOAT),
        helper.make_node("Reshape", ["float", "flat"], ["x"]),
        helper.make_node("ReduceMean", ["x"], ["mean"], axes=[1], keepdims=1),
        helper.make_node("Div", ["x", "mean"], ["relative"]),
        helper.make_node("MatMul", ["relative", "W"], ["embedding"]),
    ]
    outputs = [helper.make_tensor_value_info("embedding", TensorProto.FLOAT, ["N", DIM])]
    if score:
        nodes.append(helper.make_node("Log", ["mean"], ["score"]))
        outputs.append(helper.make_tensor_value_info("score", TensorProto.FLOAT, ["N", 1]))
    pixels = helper.make_tensor_value_info("pixels", TensorProto.UINT8, ["N", SIDE, SIDE, 3])
    _save(path, nodes, [pixels], outputs, weights)


def _text_graph(path: Path, rng: np.random.Generator) -> None:
    nodes = [
        helper.make_node("Cast", ["tokens"], ["float"], to=TensorProto.FLOAT),
        helper.make_node("MatMul", ["float", "W"], ["embedding"]),
    ]
    tokens = helper.make_tensor_value_info("tokens", TensorProto.INT64, ["N", LENGTH])
    embedding = helper.make_tensor_value_info("embedding", TensorProto.FLOAT, ["N", DIM])
    _save(path, nodes, [tokens], [embedding], {"W": rng.normal(size=(LENGTH, DIM)).astype(np.float32)})


def _save(path: Path, nodes: list, inputs: list, outputs: list, weights: dict[str, np.ndarray]) -> None:
    graph = helper.make_graph(
        nodes, "tiny", inputs, outputs, [numpy_helper.from_array(array, name) for name, array in weights.items()]
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    onnx.checker.check_model(model)
    onnx.save(model, path)
