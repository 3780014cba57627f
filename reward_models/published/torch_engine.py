"""The torch engine: a published graph run by torch itself, from safetensors and the recipe in their metadata.

    run = load(Path("clip_vit_b_32_image.safetensors"), threads=1)
    run({"pixels": pixels})   # outputs in order, as ONNX Runtime gives them

For bf16, which ONNX Runtime lacks operators for, and for graphs too large to export. On a GPU the module is compiled
into CUDA graphs, one for each batch size that is a power of two; on a CPU it runs as it is.
"""

from __future__ import annotations

import importlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import torch

from sync_r1.reward_models.published.parts import TorchGraph
from sync_r1.reward_models.published.weights import WeightsError, load_into

Precision = Literal["fp32", "fp16", "bf16"]
DTYPES = {"fp32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}
Run = Callable[[dict[str, npt.NDArray[Any]]], list[npt.NDArray[Any]]]
"""Inputs by name to outputs in the order of the graph's."""
_COMPILED_SHAPES = 64


def load(file: Path, *, threads: int = 1, gpu: int | None = None, max_batch: int = 1024) -> Run:
    """The graph in `file`, ready to run: on the GPU of that number, or on the CPU with `threads` threads.

    Raises WeightsError for a file without a recipe or with other tensors than its recipe has, and for a GPU that is not
    there: it never runs on the CPU instead.
    """
    from safetensors.torch import load_file

    if gpu is not None and gpu >= (found := torch.cuda.device_count() if torch.cuda.is_available() else 0):
        raise WeightsError(f"{file.name} was to run on GPU {gpu}, but torch finds {found} GPUs here")
    recipe = read_recipe(file)
    graph = build_graph(recipe)
    module = graph.module.to(DTYPES[recipe["precision"]]).eval().requires_grad_(False)
    load_into(module, load_file(file), str(file))
    names = list(graph.example)
    if gpu is None:
        torch.set_num_threads(threads)  # of the process: Triton gives every instance one
        return lambda inputs: _run(module, [torch.from_numpy(np.ascontiguousarray(inputs[name])) for name in names])
    device = torch.device("cuda", gpu)
    module.to(device)
    torch._dynamo.config.recompile_limit = max(_COMPILED_SHAPES, torch._dynamo.config.recompile_limit)
    compiled = torch.compile(module, mode="reduce-overhead", dynamic=False)

    def run(inputs: dict[str, npt.NDArray[Any]]) -> list[npt.NDArray[Any]]:
        count = len(inputs[names[0]])
        padded = min(max_batch, 1 << (count - 1).bit_length())
        tensors = [torch.from_numpy(np.ascontiguousarray(_pad(inputs[name], padded))).to(device) for name in names]
        torch.compiler.cudagraph_mark_step_begin()  # outputs of the step before have been copied
        return [output[:count] for output in _run(compiled, tensors)]

    return run


def read_recipe(file: Path) -> dict[str, Any]:
    """How to build the module of a file that `write_safetensors` wrote. Raises WeightsError."""
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(file, "pt") as opened:
            return dict(json.loads((opened.metadata() or {})["recipe"]))
    except (KeyError, SafetensorError) as error:
        raise WeightsError(
            f"{file} is cut off, or was not made by `sync-r1 export --engine torch` ({error}); export it again"
        ) from None


def build_graph(recipe: dict[str, Any]) -> TorchGraph:
    """A graph with random weights by its recipe."""
    family = family_of(recipe["family"])
    graph: TorchGraph = family.graphs(family.build(recipe["config"]), recipe["config"])[recipe["graph"]]
    return graph


def family_of(name: str) -> Any:
    """The module of a family. Raises WeightsError when a library it needs is not installed."""
    try:
        return importlib.import_module(f"sync_r1.reward_models.published.{name}")
    except ModuleNotFoundError as error:
        raise WeightsError(f"family {name!r} needs {error.name!r}; install the `export` extra") from error


@torch.inference_mode()
def _run(module: Callable[..., Any], tensors: list[torch.Tensor]) -> list[npt.NDArray[Any]]:
    outputs = module(*tensors)
    return [output.cpu().numpy() for output in (outputs if isinstance(outputs, tuple) else (outputs,))]


def _pad(array: npt.NDArray[Any], count: int) -> npt.NDArray[Any]:
    """The array with its first row repeated up to `count` rows: what is repeated is always valid."""
    if len(array) == count:
        return array
    return np.concatenate([array, np.repeat(array[:1], count - len(array), axis=0)])
