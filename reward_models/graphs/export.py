"""A torch module becomes a graph file: ONNX, or safetensors with a recipe; each with its pin.

Every ONNX file is compared with torch before it is kept. Needs the `export` extra.
"""

from __future__ import annotations

import json
import shutil
import tempfile
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from sync_r1.reward_models.errors import SyncR1Error
from sync_r1.reward_models.graphs.spec import data_path, disabled_optimizers, graph_sha256, pin_path
from sync_r1.reward_models.releases import file_sha256

if TYPE_CHECKING:
    import torch

PARITY_TOLERANCE = 1e-4
OPSET = 17
ONE_FILE_BYTES = 1_900_000_000
"""An ONNX file may have at most 2 GB; above this the tensors go to a file of their own."""


class ExportError(SyncR1Error, RuntimeError):
    """A graph cannot be made of these weights, or does not compute what torch does; nothing is kept of it."""


@dataclass(frozen=True)
class Exportable:
    """A torch module ready for export: example inputs (by name, batch of 2), its outputs' names, files beside it."""

    module: torch.nn.Module
    example: dict[str, torch.Tensor]
    dynamic_axes: dict[str, dict[int, str]]
    outputs: tuple[str, ...]
    weights_sha256: str
    source: str
    beside: dict[str, Path]
    """Files the graph cannot be used without (a tokenizer): suffix -> original."""
    tolerance: float = PARITY_TOLERANCE
    """Largest difference from torch that is accepted, relative to outputs above 1."""
    precision: str = "fp32"


def write_onnx(made: Exportable, file: Path) -> dict[str, Any]:
    """Write `file`, what belongs beside it and its pin; return the pin.

    Everything is written to a temporary folder first and renamed into place, the pin last. Raises ExportError when
    ONNX Runtime and torch differ by more than the tolerance.
    """
    import onnx
    import onnxruntime
    import torch

    file.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=file.parent, prefix=".export-") as folder:
        draft = Path(folder) / file.name
        made.module.eval()  # the exporter gives every part back the mode of the whole, dropout included
        # The fused attention of nn.MultiheadAttention has no ONNX form; the plain one computes the same.
        torch.backends.mha.set_fastpath_enabled(False)
        try:
            with warnings.catch_warnings(), torch.no_grad():
                # The TorchScript exporter is deprecated but gives equal bytes on every run.
                warnings.simplefilter("ignore")
                torch.onnx.export(
                    made.module,
                    tuple(made.example.values()),
                    str(draft),
                    input_names=list(made.example),
                    output_names=list(made.outputs),
                    dynamic_axes=made.dynamic_axes,
                    opset_version=OPSET,
                    dynamo=False,
                )
                expected = _outputs(made)
        finally:
            torch.backends.mha.set_fastpath_enabled(True)
        if sum(part.stat().st_size for part in Path(folder).iterdir()) > ONE_FILE_BYTES:
            model = onnx.load(str(draft))  # with the tensors that the exporter put beside it, one file each
            shutil.rmtree(folder)
            Path(folder).mkdir()
            onnx.save_model(model, str(draft), save_as_external_data=True, location=data_path(file).name)
            del model
        session = onnxruntime.InferenceSession(
            str(draft),
            providers=["CPUExecutionProvider"],
            disabled_optimizers=disabled_optimizers(made.precision),
        )
        got = session.run(list(made.outputs), {name: array.numpy() for name, array in made.example.items()})
        difference = _difference(got, expected)
        if not difference <= made.tolerance:
            raise ExportError(
                f"{file.name}: ONNX Runtime differs from torch by {difference:.2e}, expected at most {made.tolerance}; "
                "the graph is not kept. Check the versions of torch, onnx and onnxruntime against requirements.lock"
            )
        del session
        return _place(made, draft, file, {"opset": OPSET, "largest_difference_from_torch": difference})


def write_safetensors(made: Exportable, file: Path, recipe: dict[str, Any]) -> dict[str, Any]:
    """Write the weights of a graph and, as the file's metadata, the recipe to build its module; return the pin."""
    from safetensors.torch import save_file

    file.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=file.parent, prefix=".export-") as folder:
        draft = Path(folder) / file.name
        state = {name: tensor.clone().contiguous() for name, tensor in made.module.state_dict().items()}
        save_file(state, draft, metadata={"recipe": json.dumps(recipe, sort_keys=True)})
        draft.chmod(0o644)  # it is made readable for its owner only, but services run as somebody else
        return _place(made, draft, file, {"largest_difference_from_torch": 0.0})


def _outputs(made: Exportable) -> list[npt.NDArray[Any]]:
    found = made.module(*made.example.values())
    return [tensor.numpy() for tensor in (found if isinstance(found, tuple) else (found,))]


def _difference(got: Sequence[npt.NDArray[Any]], expected: Sequence[npt.NDArray[Any]]) -> float:
    return max(float((np.abs(g - e) / np.maximum(1.0, np.abs(e))).max()) for g, e in zip(got, expected))


def _place(made: Exportable, draft: Path, file: Path, facts: dict[str, Any]) -> dict[str, Any]:
    """Rename a written graph and what belongs beside it into place, its pin last."""
    import torch

    pin: dict[str, Any] = {
        "sha256": graph_sha256(draft),
        "source": made.source,
        "source_weights_sha256": made.weights_sha256,
        "torch": torch.__version__,
        "precision": made.precision,
        **facts,
    }
    for suffix, original in made.beside.items():
        copy = draft.with_name(file.stem + suffix)
        shutil.copyfile(original, copy)
        pin[f"sha256{suffix}"] = file_sha256(copy)
        copy.replace(file.with_name(copy.name))
    draft_pin = draft.with_name("pin.json")
    draft_pin.write_text(json.dumps(pin, indent=1, sort_keys=True) + "\n")
    if data_path(draft).is_file():
        data_path(draft).replace(data_path(file))
    else:
        data_path(file).unlink(missing_ok=True)
    draft.replace(file)
    draft_pin.replace(pin_path(file))
    return pin
