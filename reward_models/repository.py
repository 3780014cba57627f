"""The Triton model repository of a profile: explicit `config.pbtxt` files, written from dataclasses.

    sync-r1 repository --profile pocket --out DIR

The same graphs serve everywhere. With `backend="onnxruntime"` (NVIDIA's image) Triton runs the ONNX file itself; with
`backend="python"` (the embedded Triton, whose wheel has no other backend) `triton_model.py` does.
"""

from __future__ import annotations

import contextlib
import os
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

from sync_r1.reward_models.graphs import DynamicBatching, GraphSpec, TensorSpec
from sync_r1.reward_models.profiles import Profile

Backend = Literal["python", "onnxruntime"]
_TRITON_TYPES = {"uint8": "TYPE_UINT8", "int64": "TYPE_INT64", "float32": "TYPE_FP32"}


def write_repository(
    profile: Profile,
    directory: Path,
    *,
    backend: Backend,
    graphs: Sequence[str] | None = None,
    threads: int | None = None,
) -> None:
    """Write a model repository of `graphs` (all of the profile by default) into `directory`, made if absent.

    `threads` is ONNX Runtime's intra-op thread count per instance (1 by default). Raises GraphFileMissing when a
    weights file is absent or changed, KeyError for a graph the profile lacks.
    """
    for name in graphs if graphs is not None else profile.graphs:
        graph = profile.graphs[name]
        _ = graph.sha256
        version = directory / name / str(graph.version)
        version.mkdir(parents=True, exist_ok=True)
        _place(graph, version / "model.onnx")
        if backend == "python":
            shutil.copyfile(Path(__file__).with_name("triton_model.py"), version / "model.py")
        (directory / name / "config.pbtxt").write_text(model_config(graph, backend=backend, threads=threads or 1))


def model_config(graph: GraphSpec, *, backend: Backend, threads: int) -> str:
    """The text of one `config.pbtxt`; nothing is left to Triton's auto-completion."""
    batching = graph.batching
    # A queue policy makes Triton's batcher sleep through a request that arrives while the only instance is busy, for up
    # to 500 ms (it stops prefetching and then is not woken). Measured on the embedded Triton with two callers of one
    # graph: 14 of 99 rounds stalled, none without a policy. There the fronts, its only callers, bound the queue: by
    # admission, and by cancelling what is past its deadline, which takes it out of the queue.
    policy = "" if backend == "python" else _queue_policy(batching)
    parameter = "threads" if backend == "python" else "intra_op_thread_count"
    warmup_inputs = "\n".join(_warmup_input(tensor, graph.warmup_length) for tensor in graph.inputs)
    return f"""\
name: "{graph.name}"
backend: "{backend}"
max_batch_size: {graph.max_batch_size}
version_policy {{ specific {{ versions: [ {graph.version} ] }} }}
input [
{_tensors(graph.inputs)}
]
output [
{_tensors(graph.outputs)}
]
instance_group [ {{ kind: KIND_CPU count: {graph.instances} }} ]
dynamic_batching {{
  max_queue_delay_microseconds: {batching.max_queue_delay_us}
{policy}}}
parameters {{ key: "{parameter}" value {{ string_value: "{threads}" }} }}
model_warmup [
  {{
    name: "zeros"
    batch_size: 1
{warmup_inputs}
  }}
]
"""


def _queue_policy(batching: DynamicBatching) -> str:
    return f"""\
  default_queue_policy {{
    timeout_action: REJECT
    default_timeout_microseconds: {batching.default_timeout_us}
    allow_timeout_override: {str(batching.allow_timeout_override).lower()}
    max_queue_size: {batching.max_queue_size}
  }}
"""


def _tensors(tensors: Sequence[TensorSpec]) -> str:
    return ",\n".join(
        f'  {{ name: "{tensor.name}" data_type: {_TRITON_TYPES[tensor.dtype]} dims: {list(tensor.shape)} }}'
        for tensor in tensors
    )


def _warmup_input(tensor: TensorSpec, length: int) -> str:
    dims = [length if dim < 0 else dim for dim in tensor.shape]
    data_type = _TRITON_TYPES[tensor.dtype]
    return f'    inputs {{ key: "{tensor.name}" value {{ data_type: {data_type} dims: {dims} zero_data: true }} }}'


def _place(graph: GraphSpec, target: Path) -> None:
    """Put the weights at `target`, replacing what is there at once.

    Files of the graph store are only ever renamed into place, so a hard link is safe and free. Checked-in files may be
    rewritten where they lie (by a training run), which must not reach a running Triton: they are copied.
    """
    if target.exists() and target.samefile(graph.file):
        return
    draft = target.with_suffix(".draft")
    draft.unlink(missing_ok=True)
    linked = False
    if graph.package:
        with contextlib.suppress(OSError):  # another file system
            os.link(graph.file, draft)
            linked = True
    if not linked:
        shutil.copyfile(graph.file, draft)
    draft.replace(target)
