"""Converts a published model's weights once into what is served: ONNX files, or safetensors for the torch engine.

    sync-r1 export clip_vit_b_32 --weights OWNER/NAME|FOLDER|FILE|random

Beside every graph lies its pin: its sha256, and the source and sha256 of the weights it was made from.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from sync_r1.reward_models.graphs.export import Exportable, write_onnx, write_safetensors
from sync_r1.reward_models.graphs.spec import Engine
from sync_r1.reward_models.published.catalogue import GRAPHS, MODELS, PublishedModel
from sync_r1.reward_models.published.texts import write_tokenizer
from sync_r1.reward_models.published.torch_engine import DTYPES, Precision, family_of
from sync_r1.reward_models.published.weights import WeightsError, read_weights
from sync_r1.reward_models.releases import file_sha256

TOLERANCES = {"fp32": 1e-4, "fp16": 5e-3, "bf16": 5e-2}
"""Largest difference that a written graph may have from torch, relative to outputs above 1."""
RANDOM = "random"


@dataclass(frozen=True)
class Exported:
    """One graph that was written."""

    graph: str
    file: Path
    sha256: str
    difference: float
    """Largest difference from torch on the export's example."""
    weights_sha256: str
    """Empty for random weights."""


def find_model(name: str) -> PublishedModel:
    """The model of that name, or the model of the graph of that name. Raises WeightsError."""
    if name in GRAPHS:
        name = GRAPHS[name].model
    if name not in MODELS:
        raise WeightsError(f"there is no published model {name!r}; there are {', '.join(sorted(MODELS))}")
    return MODELS[name]


def export_model(
    model: PublishedModel,
    weights: Sequence[str],
    out: Path,
    *,
    precision: Precision = "fp32",
    engine: Engine = "onnx",
    sha256: Sequence[str] = (),
    on_step: Callable[[str], None] = lambda step: None,
) -> list[Exported]:
    """Write every graph of `model` into `out` and return them in order.

    `weights` has one entry for each part of the model, in its order (or the single word "random"); `sha256` likewise,
    or is empty. `on_step` is told what is being done, one line each. Raises WeightsError, and RuntimeError when a graph
    does not give what torch gives.
    """
    if precision == "bf16" and engine == "onnx":
        raise WeightsError("ONNX Runtime lacks bf16 operators that graphs need; use --engine torch or --dtype fp16")
    if model.family == "arcface":
        return [_import_arcface(model, weights, out, precision, engine, sha256)]
    on_step(f"{model.name}: reading weights")
    network, digest, source, folder = load_model(model, weights, sha256)
    network.to(DTYPES[precision])
    written = []
    for key, graph in family_of(model.family).graphs(network, model.config).items():
        name = model.graphs[key].name
        on_step(f"{name}: writing, and comparing with torch" if engine == "onnx" else f"{name}: writing")
        with tempfile.TemporaryDirectory() as scratch:
            tokenizer = write_tokenizer(model.graphs[key].tokenizer, Path(scratch), folder)
            made = Exportable(
                graph.module, graph.example, graph.dynamic_axes, graph.outputs, digest, source,
                {} if tokenizer is None else {".tokenizer.json": tokenizer}, TOLERANCES[precision], precision,
            )  # fmt: skip
            if engine == "onnx":
                file = out / f"{name}.onnx"
                pin = write_onnx(made, file)
            else:
                file = out / f"{name}.safetensors"
                recipe = {"family": model.family, "config": model.config, "graph": key, "precision": precision}
                pin = write_safetensors(made, file, recipe)
        written.append(Exported(name, file, pin["sha256"], pin["largest_difference_from_torch"], digest))
    return written


def _import_arcface(
    model: PublishedModel,
    weights: Sequence[str],
    out: Path,
    precision: Precision,
    engine: Engine,
    sha256: Sequence[str],
) -> Exported:
    """ArcFace comes as an ONNX file and stays one."""
    arcface = family_of("arcface")
    if precision != "fp32" or engine != "onnx" or len(weights) != 1 or len(sha256) > 1:
        raise WeightsError("arcface is one ONNX file in fp32: give one --weights, and neither --dtype nor --engine")
    with tempfile.TemporaryDirectory() as scratch:
        if weights[0] == RANDOM:
            source = Path(scratch) / "random.onnx"
            arcface.random_network(source)
        else:
            source = arcface.find(weights[0], model.parts["arcface"])
        digest = file_sha256(source)
        if sha256 and digest != sha256[0].lower():
            raise WeightsError(
                f"{source} has sha256 {digest}, expected {sha256[0].lower()}; "
                "fetch the file again, or drop --sha256 to accept it"
            )
        random = weights[0] == RANDOM
        described = f"random weights, seed 0 ({model.name})" if random else f"{weights[0]} ({model.licence})"
        digest = "" if random else digest
        file = out / "arcface.onnx"
        pin = arcface.write(file, source, described, digest)
    return Exported("arcface", file, pin["sha256"], pin["largest_difference_from_torch"], digest)


def load_model(
    model: PublishedModel, weights: Sequence[str], sha256: Sequence[str] = ()
) -> tuple[torch.nn.Module, str, str, Path | None]:
    """The original's class with its weights in float32; their sha256, where they are from, and the folder of them."""
    family = family_of(model.family)
    if list(weights) == [RANDOM]:
        torch.manual_seed(0)
        return family.build(model.config), "", f"random weights, seed 0 ({model.name})", None
    parts = list(model.parts)
    if len(weights) != len(parts) or (sha256 and len(sha256) != len(parts)):
        raise WeightsError(
            f"{model.name} is made of {len(parts)} weights ({', '.join(parts)}), got {len(weights)} and "
            f"{len(sha256)} digests; give --weights (and --sha256, if at all) once for each, in that order"
        )
    tensors: dict[str, dict[str, torch.Tensor]] = {}
    digests, files, folders = [], [], []
    for number, (part, where) in enumerate(zip(parts, weights)):
        found = read_weights(where, preferred=model.parts[part], sha256=sha256[number] if sha256 else "")
        tensors[part] = found.tensors
        digests.append(found.sha256)
        files.append(found.file)
        folders.append(found.folder)
    network = family.load(model.config, tensors, " and ".join(files))
    return network, "+".join(digests), f"{' and '.join(files)} of {model.source} ({model.licence})", folders[0]
