"""The Triton model repository of a profile: explicit `config.pbtxt` files, written from dataclasses.

    sync-r1 repository --profile pocket --out DIR

The same graphs serve everywhere. With `backend="onnxruntime"` (NVIDIA's image) Triton runs the ONNX file itself; with
`backend="python"` (the embedded Triton, whose wheel has no other backend) `triton_model.py` does. Library graphs and
graphs of the torch engine run in the Python backend on either, which then needs sync-r1[scorers] or sync-r1[export];
judges and own functions run on none and are left out.
"""

from __future__ import annotations

import contextlib
import os
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Literal

from sync_r1.reward_models.errors import UserError
from sync_r1.reward_models.graphs.spec import DynamicBatching, GraphSpec, TensorSpec, data_path
from sync_r1.reward_models.profiles import Profile
from sync_r1.reward_models.types import ProfileError

Backend = Literal["python", "onnxruntime"]
Device = Literal["cpu", "gpu"]
_TRITON_TYPES = {"uint8": "TYPE_UINT8", "int64": "TYPE_INT64", "float32": "TYPE_FP32"}


def write_repository(
    profile: Profile,
    directory: Path,
    *,
    backend: Backend,
    graphs: Sequence[str] | None = None,
    threads: int | None = None,
    also: Sequence[Profile] = (),
    device: Device = "cpu",
) -> None:
    """Write a model repository of `graphs` (all of the profile by default) into `directory`, made if absent.

    `also`: profiles whose versions of these graphs, and whose further graphs, are loaded side by side. `threads` is
    the intra-op thread count per instance (1 by default). `device`: where an instance of each graph runs; on "gpu"
    there is one on every GPU that Triton sees. Raises GraphFileMissing when a weights file is absent or changed,
    KeyError for a graph no profile has, ProfileError when two versions of a graph do not fit, ValueError for "gpu" with
    the Python backend, whose ONNX graphs run on the CPU.
    """
    if device == "gpu" and backend == "python":
        raise UserError("the Python backend runs graphs on the CPU only; a GPU needs --backend onnxruntime")
    versions = _versions((profile, *also))
    directory.mkdir(parents=True, exist_ok=True)
    for name in graphs if graphs is not None else versions:
        if not versions[name][0].on_triton:
            continue
        for graph in versions[name]:
            version = directory / name / str(graph.pin.triton_version)
            version.mkdir(parents=True, exist_ok=True)
            _place(graph, version)
            graph.check_unchanged()  # what was placed is what the version's number says
            if backend == "python" or _in_python(graph):
                shutil.copyfile(Path(__file__).with_name("triton_model.py"), version / "model.py")
        config = model_config(*versions[name], backend=backend, threads=threads or 1, device=device)
        (directory / name / "config.pbtxt").write_text(config)


def _versions(profiles: Sequence[Profile]) -> dict[str, list[GraphSpec]]:
    """Graph name -> its versions. One name has one `config.pbtxt`, hence one shape; a version has one file."""
    found: dict[str, list[GraphSpec]] = {}
    for graph in (graph for profile in profiles for graph in profile.graphs.values()):
        versions = found.setdefault(graph.name, [])
        same = next((other for other in versions if other.version == graph.version), None)
        if same is None:
            versions.append(graph)
        if any(getattr(versions[0], part) != getattr(graph, part) for part in ("inputs", "outputs", "engine")):
            raise ProfileError(
                f"graph {graph.name!r}: its versions differ in inputs, outputs or engine; give it another name"
            )
        if same is not None and same.on_triton and same.sha256 != graph.sha256:
            raise ProfileError(
                f"graph {graph.name!r} version {graph.version} is {same.file} in one profile and {graph.file} in "
                "another; give the newer one a higher `version`"
            )
    return found


def _in_python(graph: GraphSpec) -> bool:
    """Whether only the Python backend can run it."""
    return bool(graph.library) or graph.engine == "torch"


def model_config(graph: GraphSpec, *others: GraphSpec, backend: Backend, threads: int, device: Device = "cpu") -> str:
    """The text of one `config.pbtxt`; nothing is left to Triton's auto-completion. `others`: further versions."""
    # Two versions of the profiles may have equal weights; Triton knows them by these.
    weights = dict(sorted((one.pin.triton_version, one.sha256) for one in (graph, *others)))
    versions = ", ".join(map(str, weights))
    batching = graph.batching
    # A queue policy makes Triton's batcher sleep through a request that arrives while the only instance is busy, for up
    # to 500 ms (it stops prefetching and then is not woken). Measured on the embedded Triton with two callers of one
    # graph: 14 of 99 rounds stalled, none without a policy. There the fronts, its only callers, bound the queue: by
    # admission, and by cancelling what is past its deadline, which takes it out of the queue.
    policy = "" if backend == "python" else _queue_policy(batching)
    # With a second instance no call was slept through (`python -m benchmarks.queue_policy`): one is idle when the other
    # says that it has finished.
    instances = max(2, graph.instances) if policy else graph.instances
    runs_in: Backend = "python" if _in_python(graph) else backend
    parameters = {"threads" if runs_in == "python" else "intra_op_thread_count": str(threads)}
    if graph.engine == "torch":
        parameters["engine"] = "torch"
    if graph.library:
        parameters["library"] = graph.library
    # Which weights each version is, for the message of a front that expected others (`services/runners/triton.py`).
    parameters |= {sha256_parameter(version): sha256 for version, sha256 in weights.items()}
    # On a CPU, ONNX Runtime's last level of optimisation crashes on some graphs (see `disabled_optimizers`).
    careful = device == "cpu" and not _in_python(graph) and any(one.disabled_optimizers for one in (graph, *others))
    optimisation = "optimization { graph { level: 1 } }\n" if careful else ""
    warmup_inputs = "\n".join(_warmup_input(tensor, graph.warmup_length) for tensor in graph.inputs)
    return f"""\
name: "{graph.name}"
backend: "{runs_in}"
max_batch_size: {graph.max_batch_size}
version_policy {{ specific {{ versions: [ {versions} ] }} }}
input [
{_tensors(graph.inputs)}
]
output [
{_tensors(graph.outputs)}
]
instance_group [ {{ kind: KIND_{"CPU" if graph.library else device.upper()} count: {instances} }} ]
dynamic_batching {{
  max_queue_delay_microseconds: {batching.max_queue_delay_us}
{policy}}}
{optimisation}{_parameters(parameters)}
model_warmup [
  {{
    name: "zeros"
    batch_size: 1
{warmup_inputs}
  }}
]
"""


def sha256_parameter(version: int) -> str:
    """The parameter of a graph's configuration that holds the sha256 of one version's weights."""
    return f"sha256.{version}"


def _parameters(parameters: Mapping[str, str]) -> str:
    return "\n".join(
        f'parameters {{ key: "{key}" value {{ string_value: "{value}" }} }}' for key, value in parameters.items()
    )


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


def _place(graph: GraphSpec, folder: Path) -> None:
    """Put the weights into `folder` as `model` with their suffix, and what the file names beside it under that name."""
    for file, name in (
        (data_path(graph.file), data_path(graph.file).name),
        (graph.file, f"model{graph.file.suffix}"),
    ):
        if file.is_file():
            _place_file(file, folder / name, stored=graph.exported)


def _place_file(file: Path, target: Path, *, stored: bool) -> None:
    """Put a file at `target`, replacing what is there at once.

    Files of the graph store are only ever renamed into place, so a hard link is safe and free. Checked-in files may be
    rewritten where they lie (by a training run), which must not reach a running Triton: they are copied.
    """
    if target.exists() and target.samefile(file):
        return
    draft = target.with_name(target.name + ".draft")
    draft.unlink(missing_ok=True)
    linked = False
    if stored:
        with contextlib.suppress(OSError):  # another file system
            os.link(file, draft)
            linked = True
    if not linked:
        shutil.copyfile(file, draft)
    draft.replace(target)
