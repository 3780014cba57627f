"""The generic model of Triton's Python backend: runs the weights file beside it.

`repository.py` copies this file as `model.py` into a model repository, where Triton's stub process loads it. For an
ONNX file it needs numpy and onnxruntime only, for a library graph (`library/catalogue.py`) sync-r1 and that library,
for a graph of the torch engine sync-r1 with its `export` extra.
All requests of one call are run as one batch, so Triton's dynamic batching pays.

Tensors pass through DLPack in both directions: the stub of Triton 2.51 was compiled against numpy 1 and misreads the
element size of numpy 2 arrays, and `Tensor(name, array)` would send empty outputs and `as_numpy()` give wrong inputs.
"""

from __future__ import annotations

import ctypes
import hashlib
import json
import os
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import triton_python_backend_utils as pb_utils

_rename_capsule = ctypes.pythonapi.PyCapsule_SetName
_rename_capsule.argtypes = [ctypes.py_object, ctypes.c_char_p]
Request = tuple[int, dict[str, npt.NDArray[Any]]]
"""Its place in the call, and its arrays by name."""
Run = Callable[[dict[str, npt.NDArray[Any]]], list[npt.NDArray[Any]]]
"""Inputs by name to outputs in the order of the configuration."""
_CONSUMED = b"used_dltensor"  # the capsule keeps a pointer to these bytes


class TritonPythonModel:
    """One instance of one graph."""

    def initialize(self, args: dict[str, str]) -> None:
        """Load this version's weights.

        Parameters: `threads` (intra-op), and for what is no ONNX file `library`, which library graph it is, or
        `engine`, "torch".
        """
        config = json.loads(args["model_config"])
        folder = os.path.join(args["model_repository"], args["model_version"])
        parameters = {name: entry["string_value"] for name, entry in config["parameters"].items()}
        _check_weights(folder, parameters.get(f"sha256.{args['model_version']}", ""))
        self.inputs = [entry["name"] for entry in config["input"]]
        self.outputs = [entry["name"] for entry in config["output"]]
        threads = int(parameters["threads"])
        gpu = int(args["model_instance_device_id"]) if args["model_instance_kind"] == "GPU" else None
        if "library" in parameters:
            self.run = _library(parameters["library"], os.path.join(folder, "model.zip"), threads)
        elif parameters.get("engine") == "torch":
            self.run = _torch(os.path.join(folder, "model.safetensors"), threads, gpu, config["max_batch_size"])
        else:
            careful = config.get("optimization", {}).get("graph", {}).get("level") == 1
            self.run = _onnx(os.path.join(folder, "model.onnx"), self.outputs, threads, gpu, careful)

    def execute(self, requests: list[Any]) -> list[Any]:
        """One response per request, in order; a request that fails does not fail its neighbours."""
        responses: list[Any] = [None] * len(requests)
        batch: list[Request] = []
        for index, request in enumerate(requests):
            if request.is_cancelled():
                responses[index] = _error("the request was cancelled", pb_utils.TritonError.CANCELLED)
                continue
            try:
                arrays = {
                    name: np.from_dlpack(pb_utils.get_input_tensor_by_name(request, name)) for name in self.inputs
                }
                batch.append((index, arrays))
            except Exception as error:
                responses[index] = _error(f"inputs could not be read: {error}", pb_utils.TritonError.INVALID_ARG)
        for together in _same_shapes(batch):
            for index, response in self._run(together):
                responses[index] = response
        return responses

    def _run(self, batch: list[Request]) -> list[tuple[int, Any]]:
        """Responses, with their places, of requests whose arrays can be concatenated."""
        joined = {name: np.concatenate([arrays[name] for _, arrays in batch]) for name in self.inputs}
        try:
            outputs = self.run(joined)
        except Exception as error:
            if len(batch) > 1:  # find out whose fault it was
                return [answer for one in batch for answer in self._run([one])]
            return [(batch[0][0], _error(f"the graph failed: {error}", pb_utils.TritonError.INTERNAL))]
        answers, start = [], 0
        for index, arrays in batch:
            stop = start + len(arrays[self.inputs[0]])
            tensors = [_tensor(name, array[start:stop]) for name, array in zip(self.outputs, outputs)]
            answers.append((index, pb_utils.InferenceResponse(output_tensors=tensors)))
            start = stop
        return answers


def _check_weights(folder: str, expected: str) -> None:
    """Raise RuntimeError unless the weights are those that the configuration says, as `spec.graph_sha256` counts."""
    digests = []
    files = [file for file in Path(folder).glob("model.*") if file.suffix not in (".py", ".data")]
    for file in (*files, *Path(folder).glob("*.onnx.data")):
        with file.open("rb") as opened:
            digest = hashlib.sha256()
            while chunk := opened.read(1 << 20):
                digest.update(chunk)
        digests.append(digest.hexdigest())
    found = digests[0] if len(digests) == 1 else hashlib.sha256("".join(digests).encode()).hexdigest()
    if found != expected:
        raise RuntimeError(
            f"other weights than this version's lie in its folder: sha256 {found[:12]}…, expected {expected[:12]}…"
        )


def _onnx(file: str, outputs: list[str], threads: int, gpu: int | None, careful: bool) -> Run:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    if careful:  # as Triton's own onnxruntime backend reads `optimization { graph { level: 1 } }`
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_EXTENDED
        # Half precision on a CPU: every run casts all weights to float32, and the arena would keep them between runs
        # (CLIP ViT-B/32's image tower: 705 MB instead of 236).
        options.enable_cpu_mem_arena = False
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    # Idle threads that spin would take the cores from the other graphs of this machine.
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    providers: list[Any] = ["CPUExecutionProvider"]
    if gpu is not None:
        providers.insert(0, ("CUDAExecutionProvider", {"device_id": gpu}))
    session = onnxruntime.InferenceSession(file, options, providers=providers)
    # ONNX Runtime goes on with the CPU, and only logs it, where the GPU cannot be used.
    if gpu is not None and session.get_providers()[0] != "CUDAExecutionProvider":
        raise RuntimeError(
            f"GPU {gpu} was asked for, but ONNX Runtime has only {', '.join(session.get_providers())}; "
            "write the repository for the CPU, or install onnxruntime-gpu and the driver it needs"
        )
    return lambda inputs: session.run(outputs, inputs)


def _torch(file: str, threads: int, gpu: int | None, max_batch: int) -> Run:
    from sync_r1.reward_models.published.torch_engine import load

    return load(Path(file), threads=threads, gpu=gpu, max_batch=max_batch)


def _library(name: str, file: str, threads: int) -> Run:
    from sync_r1.reward_models.library.catalogue import load

    return load(name, Path(file), threads)


def _tensor(name: str, array: npt.NDArray[Any]) -> Any:
    capsule = array.__dlpack__()
    tensor = pb_utils.Tensor.from_dlpack(name, capsule)
    # The stub now owns the memory, but marks the capsule with a name of its own, at which numpy prints an error.
    _rename_capsule(capsule, _CONSUMED)
    return tensor


def _error(message: str, code: Any) -> Any:
    return pb_utils.InferenceResponse(error=pb_utils.TritonError(message, code))


def _same_shapes(batch: list[Request]) -> Iterable[list[Request]]:
    """Group requests by all their shapes but the batch axis."""
    groups: dict[Any, list[Request]] = {}
    for index, arrays in batch:
        key = tuple(array.shape[1:] for array in arrays.values())
        groups.setdefault(key, []).append((index, arrays))
    return groups.values()
