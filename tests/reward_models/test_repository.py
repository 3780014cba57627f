"""The Triton repository: its configuration is explicit, complete and exactly what the golden text says."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path

import pytest
from tiny_graphs import write_tiny_profile

from sync_r1.reward_models.backends.graph_store import ensure_graphs
from sync_r1.reward_models.backends.repository import model_config, write_repository
from sync_r1.reward_models.graphs.spec import DynamicBatching, GraphFileMissing, GraphSpec
from sync_r1.reward_models.profiles import load_profile

QUEUE_POLICY = """\
  default_queue_policy {
    timeout_action: REJECT
    default_timeout_microseconds: 30000000
    allow_timeout_override: true
    max_queue_size: 256
  }
"""
GOLDEN = """\
name: "minilm"
backend: "python"
max_batch_size: 64
version_policy { specific { versions: [ %(version)d ] } }
input [
  { name: "input_ids" data_type: TYPE_INT64 dims: [-1] },
  { name: "attention_mask" data_type: TYPE_INT64 dims: [-1] }
]
output [
  { name: "embedding" data_type: TYPE_FP32 dims: [384] }
]
instance_group [ { kind: KIND_CPU count: 1 } ]
dynamic_batching {
  max_queue_delay_microseconds: 500
}
parameters { key: "threads" value { string_value: "2" } }
parameters { key: "sha256.%(version)d" value { string_value: "%(sha256)s" } }
model_warmup [
  {
    name: "zeros"
    batch_size: 1
    inputs { key: "input_ids" value { data_type: TYPE_INT64 dims: [16] zero_data: true } }
    inputs { key: "attention_mask" value { data_type: TYPE_INT64 dims: [16] zero_data: true } }
  }
]
"""


@pytest.fixture(scope="module")
def minilm() -> GraphSpec:
    profile = load_profile("pocket")
    ensure_graphs(profile, graphs=["minilm"])
    return profile.graphs["minilm"]


def golden(graph: GraphSpec) -> str:
    return GOLDEN % {"version": graph.pin.triton_version, "sha256": graph.sha256}


def test_config_is_the_golden_text(minilm: GraphSpec) -> None:
    assert model_config(minilm, backend="python", threads=2) == golden(minilm)


def test_a_gpu_runs_every_graph_and_is_refused_where_the_model_runs_on_the_cpu(
    tmp_path: Path, minilm: GraphSpec
) -> None:
    on_gpu = model_config(minilm, backend="onnxruntime", threads=1, device="gpu")
    assert on_gpu == model_config(minilm, backend="onnxruntime", threads=1).replace("KIND_CPU", "KIND_GPU")
    with pytest.raises(ValueError, match="--backend onnxruntime"):
        write_repository(load_profile("pocket"), tmp_path, backend="python", device="gpu")


def test_production_differs_only_in_backend_thread_parameter_and_queue_policy(minilm: GraphSpec) -> None:
    expected = golden(minilm).replace('"python"', '"onnxruntime"').replace('"threads"', '"intra_op_thread_count"')
    expected = expected.replace("microseconds: 500\n", "microseconds: 500\n" + QUEUE_POLICY)
    expected = expected.replace("count: 1", "count: 2")  # a policy makes the batcher of one sleep
    assert model_config(minilm, backend="onnxruntime", threads=2) == expected


def test_values_reach_the_config(minilm: GraphSpec) -> None:
    batching = DynamicBatching(
        max_queue_size=7, default_timeout_us=11, allow_timeout_override=False, max_queue_delay_us=13
    )
    graph = replace(minilm, instances=2, batching=batching)
    text = model_config(graph, backend="onnxruntime", threads=1)
    for line in (
        f"versions: [ {graph.pin.triton_version} ]",
        "count: 2",
        "max_queue_size: 7",
        "default_timeout_microseconds: 11",
        "allow_timeout_override: false",
        "max_queue_delay_microseconds: 13",
    ):
        assert line in text


@pytest.mark.parametrize("graph", sorted(load_profile("pocket").graphs))
def test_no_queue_of_a_shared_triton_is_unbounded_and_every_graph_is_warmed_up(graph: str) -> None:
    ensure_graphs(load_profile("pocket"), graphs=[graph])
    text = model_config(load_profile("pocket").graphs[graph], backend="onnxruntime", threads=1)
    assert int(re.search(r"max_queue_size: (\d+)", text).group(1)) > 0
    assert int(re.search(r"default_timeout_microseconds: (\d+)", text).group(1)) > 0
    assert "model_warmup" in text
    assert "dims: [-1]" not in text.split("model_warmup")[1]


def test_repository_has_config_weights_and_for_the_python_backend_a_model(tmp_path: Path) -> None:
    profile = write_tiny_profile(tmp_path)
    names = ["pocket_clip_image", "pocket_clip_text"]
    for backend, files in (("python", {"model.onnx", "model.py"}), ("onnxruntime", {"model.onnx"})):
        folder = tmp_path / backend
        for _ in range(2):  # writing again over an old one is allowed
            write_repository(profile, folder, backend=backend, graphs=names, threads=1)
        assert {path.name for path in folder.iterdir()} == set(names)
        for name in names:
            version = str(profile.graphs[name].pin.triton_version)
            assert {path.name for path in (folder / name).iterdir()} == {"config.pbtxt", version}
            assert {path.name for path in (folder / name / version).iterdir()} == files
            assert (folder / name / version / "model.onnx").read_bytes() == profile.graphs[name].file.read_bytes()


def test_missing_weights_are_an_error_that_names_the_cure(tmp_path: Path) -> None:
    profile = write_tiny_profile(tmp_path)
    (tmp_path / "text.onnx").unlink()
    with pytest.raises(GraphFileMissing, match=r"text\.onnx.*git status"):
        write_repository(profile, tmp_path / "repo", backend="python", graphs=["pocket_clip_text"])


def test_changed_weights_are_refused(tmp_path: Path) -> None:
    profile = write_tiny_profile(tmp_path)
    (tmp_path / "text.onnx.json").write_text('{"sha256": "%s"}' % ("0" * 64))
    with pytest.raises(GraphFileMissing, match="pins 000000000000"):
        write_repository(profile, tmp_path / "repo", backend="python", graphs=["pocket_clip_text"])
