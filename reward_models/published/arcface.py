"""ArcFace's network of insightface's packs (`glintr100.onnx` of antelopev2): an ONNX file of yours becomes a graph.

The file is for non-commercial research only, so it is never shipped and never fetched: give its folder or the file. In
front of it goes what insightface does before it runs it: RGB, (x - 127.5) / 127.5, channels first; the faces come
aligned from `library/mtcnn.py` (output `face112`).
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import onnxruntime
from onnx import TensorProto, helper, numpy_helper

from sync_r1.reward_models.graphs.export import ExportError
from sync_r1.reward_models.graphs.spec import pin_path
from sync_r1.reward_models.published.weights import WeightsError
from sync_r1.reward_models.releases import file_sha256

SIDE, WIDTH = 112, 512
TOLERANCE = 1e-4


def find(where: str, preferred: tuple[str, ...]) -> Path:
    """The ONNX file at `where`, a file or a folder. Raises WeightsError."""
    path = Path(where).expanduser()
    if path.is_dir():
        found = [path / name for name in preferred if (path / name).is_file()] or sorted(path.glob("*.onnx"))
        if len(found) != 1:
            names = ", ".join(file.name for file in found) or "none"
            raise WeightsError(f"folder {path} should hold {preferred[0]}, its ONNX files are: {names}; name the file")
        return found[0]
    if not path.is_file():
        raise WeightsError(
            f"there is no file {path}: ArcFace's network is for non-commercial use and not fetched for you; "
            f"give the folder that holds {preferred[0]}"
        )
    return path


def read(file: Path) -> Any:
    """The model, checked to be a face network. Raises WeightsError."""
    try:
        model = onnx.load(str(file))
        onnx.checker.check_model(model)
    except Exception as error:  # protobuf and onnx have many
        raise WeightsError(f"{file} is no ONNX model, or is cut off ({str(error)[:200]}); fetch it again") from None
    weights = {tensor.name for tensor in model.graph.initializer}
    inputs = [value for value in model.graph.input if value.name not in weights]
    found = f"{_said(inputs)} -> {_said(model.graph.output)}"
    shapes = [_shape(value) for value in (*inputs, *model.graph.output)]
    if [shape[1:] for shape in shapes] != [(3, SIDE, SIDE), (WIDTH,)] or len(inputs) != 1:
        raise WeightsError(
            f"{file} is no network of aligned faces: expected float (N, 3, {SIDE}, {SIDE}) -> float (N, {WIDTH}), "
            f"it has {found}; give the recognition model of the pack, not a detector"
        )
    return model


def write(file: Path, source: Path, described: str, digest: str) -> dict[str, Any]:
    """Write the graph of `source` and its pin; `digest` is the source's, "" if random. Raises WeightsError."""
    model = read(source)
    expected, pixels = _original(source), _example()
    graph = model.graph
    weights = {tensor.name for tensor in graph.initializer}
    face = next(value for value in graph.input if value.name not in weights)
    output = graph.output[0]
    half = numpy_helper.from_array(np.array(127.5, np.float32), "sync_r1_half")
    before = [
        helper.make_node("Cast", ["pixels"], ["sync_r1_float"], to=TensorProto.FLOAT),
        helper.make_node("Sub", ["sync_r1_float", half.name], ["sync_r1_centred"]),
        helper.make_node("Div", ["sync_r1_centred", half.name], ["sync_r1_scaled"]),
        helper.make_node("Transpose", ["sync_r1_scaled"], [face.name], perm=[0, 3, 1, 2]),
    ]
    after = helper.make_node("Identity", [output.name], ["embedding"])
    nodes = [*before, *graph.node, after]
    wrapped = helper.make_model(
        helper.make_graph(
            nodes, "arcface",
            [helper.make_tensor_value_info("pixels", TensorProto.UINT8, ["N", SIDE, SIDE, 3])],
            [helper.make_tensor_value_info("embedding", TensorProto.FLOAT, ["N", WIDTH])],
            [*graph.initializer, half],
        ),
        opset_imports=model.opset_import, ir_version=model.ir_version,
    )  # fmt: skip
    file.parent.mkdir(parents=True, exist_ok=True)
    draft = file.with_suffix(".draft")
    onnx.save_model(wrapped, str(draft))
    got = _session(draft).run(["embedding"], {"pixels": pixels})[0]
    difference = float((np.abs(got - expected) / np.maximum(1.0, np.abs(expected))).max())
    if not difference <= TOLERANCE:
        raise ExportError(
            f"{file.name}: the graph differs from {source} by {difference:.2e}, expected at most {TOLERANCE}; check "
            "the version of onnxruntime against requirements.lock"
        )
    pin = {
        "sha256": file_sha256(draft), "source": described, "source_weights_sha256": digest,
        "precision": "fp32", "largest_difference_from_torch": difference,
    }  # fmt: skip
    draft_pin = file.with_suffix(".pin")
    draft_pin.write_text(json.dumps(pin, indent=1, sort_keys=True) + "\n")
    draft.replace(file)
    draft_pin.replace(pin_path(file))
    return pin


def random_network(file: Path) -> None:
    """A small network of the same interface with random weights: for tests, and to try a profile out."""
    rng = np.random.default_rng(0)
    kernel = numpy_helper.from_array(rng.normal(0, 0.2, (8, 3, 16, 16)).astype(np.float32), "kernel")
    linear = numpy_helper.from_array(rng.normal(0, 0.2, (WIDTH, 8 * 7 * 7)).astype(np.float32), "linear")
    nodes = [
        helper.make_node("Conv", ["input.1", "kernel"], ["maps"], strides=[16, 16]),
        helper.make_node("Relu", ["maps"], ["positive"]),
        helper.make_node("Flatten", ["positive"], ["flat"]),
        helper.make_node("Gemm", ["flat", "linear"], ["683"], transB=1),
    ]
    graph = helper.make_graph(
        nodes, "random",
        [helper.make_tensor_value_info("input.1", TensorProto.FLOAT, ["None", 3, SIDE, SIDE])],
        [helper.make_tensor_value_info("683", TensorProto.FLOAT, [1, WIDTH])],  # as insightface's files have it
        [kernel, linear],
    )  # fmt: skip
    onnx.save_model(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 11)], ir_version=6), str(file))


def _example() -> npt.NDArray[np.uint8]:
    return np.random.default_rng(0).integers(0, 256, (2, SIDE, SIDE, 3), dtype=np.uint8)


def _original(file: Path) -> npt.NDArray[np.float32]:
    session = _session(file)
    faces = ((_example().astype(np.float32) - 127.5) / 127.5).transpose(0, 3, 1, 2)
    embedding: npt.NDArray[np.float32] = session.run(None, {session.get_inputs()[0].name: faces})[0]
    return embedding


def _session(file: Path) -> Any:
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3  # insightface's files state a batch of 1 for outputs of any batch
    return onnxruntime.InferenceSession(str(file), options, providers=["CPUExecutionProvider"])


def _shape(value: Any) -> tuple[int | str, ...]:
    tensor = value.type.tensor_type
    if tensor.elem_type != TensorProto.FLOAT:
        return ("not float",)
    return tuple(dim.dim_value or dim.dim_param for dim in tensor.shape.dim)


def _said(values: Any) -> str:
    return ", ".join(f"{value.name} {_shape(value)}" for value in values) or "nothing"
