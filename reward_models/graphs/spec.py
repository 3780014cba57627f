"""Graphs: ONNX files with typed inputs and outputs, as a profile lists them and as Triton's configuration names them.

A graph takes `uint8` pixels or `int64` tokens; normalisation is inside the graph. Its weights file is the operator's
own, checked in, made once from a package by `backends/graph_store.py`, or made once from published weights by
`sync-r1 export`; beside an exported file lies `<file>.json` with the sha256 pinned then, and what no ONNX file can
hold (2 GB and more) in `<graph>.onnx.data`.
Three kinds have no ONNX file: library graphs, whose file is an archive (`library/`), and judges and own functions
(`python_code/`), which have none.
"""

from __future__ import annotations

import hashlib
import json
import os
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from sync_r1.reward_models.graphs.judges import Judge
from sync_r1.reward_models.images import CROPPED, Preprocessing
from sync_r1.reward_models.python_code.function import PythonFunction
from sync_r1.reward_models.releases import GraphPin, file_sha256
from sync_r1.reward_models.types import GraphError

DType = Literal["uint8", "int64", "float32"]
Engine = Literal["onnx", "torch"]
"""What runs a graph: ONNX Runtime on an ONNX file, or torch on safetensors and the original's class."""


class GraphFileMissing(GraphError):
    """The weights file of a graph is not there (or is not the one that was pinned); the message names the cure."""


@dataclass(frozen=True)
class TensorSpec:
    """One input or output: its name, its element type and its shape without the batch axis; -1 is any length."""

    name: str
    dtype: DType
    shape: tuple[int, ...]

    def check(self, array: npt.NDArray[Any], graph: str) -> None:
        """Raise GraphError unless `array` is a batch of this tensor."""
        dims_fit = array.ndim == len(self.shape) + 1 and all(
            want in (-1, got) for want, got in zip(self.shape, array.shape[1:])
        )
        if array.dtype != np.dtype(self.dtype) or not dims_fit:
            wanted = ", ".join(["N", *(str(d) if d >= 0 else "any" for d in self.shape)])
            raise GraphError(
                f"graph {graph!r}, tensor {self.name!r}: expected {self.dtype} ({wanted}), "
                f"got {array.dtype} {array.shape}"
            )


@dataclass(frozen=True)
class DynamicBatching:
    """Triton's queue in front of one graph. Its bounds are unlimited unless set, so a shared Triton always gets them
    (the embedded one must not: see `repository.model_config`)."""

    max_queue_size: int = 256
    """Requests (not items) that may wait; beyond it Triton refuses."""
    default_timeout_us: int = 30_000_000
    """Longest wait in the queue, microseconds."""
    allow_timeout_override: bool = True
    """A request may shorten its own wait: how the caller's deadline reaches the queue."""
    max_queue_delay_us: int = 500
    """How long a batch waits for company, microseconds."""


@dataclass(frozen=True)
class GraphSpec:
    """One graph at one version."""

    name: str
    version: int
    file: Path
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    max_batch_size: int
    preprocessing: Preprocessing = CROPPED
    """How a picture is brought to the size of the `pixels` input; unused by text graphs."""
    tokenizer: str = ""
    """Which reader of texts makes its token inputs; empty for graphs without texts."""
    own: bool = False
    """Whether its file is the operator's own, beside a profile: only the profile may pin it."""
    expected_sha256: str = ""
    """What the profile says that an own file's sha256 must be; empty where it does not say."""
    package: str = ""
    """Which exporter of `backends/graph_store.py` makes the file; empty when it does not."""
    published: str = ""
    """Which model of `published/catalogue.py` it is a graph of; empty for others."""
    library: str = ""
    """Which graph of `library/catalogue.py` it is, which is then what runs it; empty for others."""
    judge: Judge | None = None
    """What is asked of an endpoint; such a graph has no file and no tensors, and Triton does not run it."""
    python: PythonFunction | None = None
    """What workers of the service call; such a graph has no file and no tensors, and Triton does not run it."""
    engine: Engine = "onnx"
    warmup_length: int = 16
    """Stands in for axes of any length in the warm-up sample."""
    instances: int = 1
    batching: DynamicBatching = DynamicBatching()

    @property
    def on_triton(self) -> bool:
        """Whether it is a file that Triton runs."""
        return self.judge is None and self.python is None

    @property
    def takes_pictures(self) -> bool:
        """Whether its first input is `pixels` [size, size, 3]: uint8, or float32 where its preprocessing gives that."""
        if not self.inputs or self.library:
            return False
        pixels = self.inputs[0]
        dtype = "float32" if self.preprocessing.resize == "pad_bicubic" else "uint8"
        return pixels.dtype == dtype and len(pixels.shape) == 3 and pixels.shape[0] == pixels.shape[1]

    @property
    def exported(self) -> bool:
        """Whether its file was made here or by `sync-r1 export`, with a pin beside it, and is not checked in."""
        return bool(self.package or self.published or self.library)

    @property
    def picture_size(self) -> int:
        """Side of the pictures it takes, pixels."""
        return self.inputs[0].shape[0]

    @cached_property
    def sha256(self) -> str:
        """sha256 of the weights file, of what a judge is asked, or of an own function's sources; 64 hex digits.

        Raises GraphFileMissing when it, or a file that it needs beside it, is absent or not the one pinned at export,
        and when an exported file lacks its pin.
        """
        if self.judge is not None:
            return self.judge.sha256
        if self.python is not None:
            return self.python.sha256
        if not self.file.is_file():
            raise GraphFileMissing(f"graph {self.name!r}: there is no file {self.file}; {self._cure}")
        digest, facts = graph_sha256(self.file), self.facts
        if self.exported and "sha256" not in facts:
            raise GraphFileMissing(
                f"graph {self.name!r}: {self.file} has no pin, so nothing says that it is what was exported; delete it "
                f"and {self._cure}, or copy {pin_path(self.file).name} from where it was exported too"
            )
        if self.expected_sha256 not in ("", digest):
            raise GraphFileMissing(
                f"graph {self.name!r}: {self.file} has sha256 {digest}, but the profile (graphs.{self.name}.sha256) "
                f"expects {self.expected_sha256}; put that file back, or state the new sha256"
            )
        pinned = facts.get("sha256", digest)
        if pinned != digest:
            raise GraphFileMissing(
                f"graph {self.name!r}: {self.file} has sha256 {digest[:12]}…, but {pin_path(self.file).name} pins "
                f"{pinned[:12]}…; delete both and export again"
            )
        for key, pinned in facts.items():
            beside = self.file.with_name(self.file.stem + key.removeprefix("sha256"))
            if key.startswith("sha256.") and not (beside.is_file() and file_sha256(beside) == pinned):
                raise GraphFileMissing(
                    f"graph {self.name!r}: {beside} is absent or not the one that {pin_path(self.file).name} pins; "
                    f"delete {self.file.name} and export again"
                )
        return digest

    def check_unchanged(self) -> None:
        """Read the weights file again. Raises GraphFileMissing when it is not the one that `sha256` was taken of."""
        if self.on_triton and (now := graph_sha256(self.file) if self.file.is_file() else "") != self.sha256:
            raise GraphFileMissing(
                f"graph {self.name!r}: {self.file} was exchanged while it was being used: its sha256 was "
                f"{self.sha256[:12]}… and is {now[:12] or 'that of no file'}…; start again"
            )

    @property
    def facts(self) -> dict[str, Any]:
        """What was recorded at export: sha256, source, precision, …; empty for what has no file, is own or checked in.

        Raises GraphFileMissing when that record is damaged.
        """
        if not self.on_triton or self.own:
            return {}
        file = pin_path(self.file)
        try:
            return dict(json.loads(file.read_text())) if file.is_file() else {}
        except ValueError:
            raise GraphFileMissing(
                f"graph {self.name!r}: {file} is cut off or no pin; delete it and {self.file.name} and export again"
            ) from None

    @property
    def random_weights(self) -> bool:
        """Whether it was exported with `--weights random`, to try things out: its numbers mean nothing."""
        return self.facts.get("source_weights_sha256") == ""

    @property
    def absent(self) -> str:
        """Which of its files is not there, and the cure; empty where all are. Unlike `sha256` it reads none of them.

        Raises GraphFileMissing when the record of the export is damaged.
        """
        if not self.on_triton:
            return ""
        files = [self.file, *([pin_path(self.file)] if self.exported else [])]
        files += [
            self.file.with_name(self.file.stem + key.removeprefix("sha256"))
            for key in self.facts
            if key.startswith("sha256.")
        ]
        gone = next((file for file in files if not file.is_file()), None)
        return "" if gone is None else f"there is no file {gone}; {self._cure}"

    @property
    def disabled_optimizers(self) -> tuple[str, ...]:
        """What ONNX Runtime must leave out on a CPU."""
        return disabled_optimizers(self.facts.get("precision", "fp32"))

    @property
    def _cure(self) -> str:
        if self.published:
            engine = " --engine torch" if self.engine == "torch" else ""
            return f"run `sync-r1 export {self.published}{engine} --weights …`"
        if self.package or self.library:
            return "run `python -m sync_r1.reward_models.export`"
        if self.own:
            return "put it back, or change the profile"
        return "it should have come with the sources: run `git status`"

    @property
    def pin(self) -> GraphPin:
        """Name, version and digest, as a release lists them. Raises GraphFileMissing."""
        return GraphPin(self.name, self.version, self.sha256)


def disabled_optimizers(precision: str) -> tuple[str, ...]:
    """ONNX Runtime 1.32 crashes in its NCHWc transformer while it loads some half-precision graphs on a CPU."""
    return () if precision == "fp32" else ("NchwcTransformer",)


def data_path(file: Path) -> Path:
    """Where the tensors of an ONNX file lie that are too many for it. The file names it, so it cannot be renamed."""
    return file.with_name(file.name + ".data")


def graph_sha256(file: Path) -> str:
    """sha256 of a graph's file; of both digests, one after the other, when its tensors lie in a file of their own."""
    digest = file_sha256(file)
    if not data_path(file).is_file():
        return digest
    return hashlib.sha256(f"{digest}{file_sha256(data_path(file))}".encode()).hexdigest()


def pin_path(file: Path) -> Path:
    """The small JSON file beside `file` that pins its sha256."""
    return file.with_name(file.name + ".json")


def graph_store() -> Path:
    """The folder of exported graphs: env SYNC_R1_GRAPHS, or ~/.cache/sync-r1/graphs (a user without a home directory
    is no error here: nothing can be written there, and whoever tries says so)."""
    home = os.path.expanduser("~")
    return Path(os.environ.get("SYNC_R1_GRAPHS") or Path(home) / ".cache" / "sync-r1" / "graphs").absolute()
