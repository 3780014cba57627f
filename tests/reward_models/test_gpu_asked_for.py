"""A GPU that was asked for and is not there is an error; nothing is scored on the CPU instead. So is a missing pin."""

from __future__ import annotations

import importlib
import json
import sys
import types
from collections.abc import Callable
from pathlib import Path

import onnxruntime
import pytest
import torch

from benchmarks.reliability import coded
from sync_r1.reward_models.backends.bundles import write_bundle
from sync_r1.reward_models.backends.local import LocalRunner
from sync_r1.reward_models.backends.repository import write_repository
from sync_r1.reward_models.graphs.spec import GraphFileMissing, GraphSpec, TensorSpec, graph_sha256, pin_path
from sync_r1.reward_models.profiles import Profile
from sync_r1.reward_models.published import torch_engine
from sync_r1.reward_models.published.weights import WeightsError
from sync_r1.trainer_client.config import ConfigError, PolicyConfig
from sync_r1.trainer_client.policies.loading import load_policy, policy_device

without_cuda = pytest.mark.skipif(torch.cuda.is_available(), reason="needs a machine without a graphics card")


@pytest.mark.skipif("CUDAExecutionProvider" in onnxruntime.get_available_providers(), reason="it can")
def test_the_python_backend_never_falls_back_to_the_cpu(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # Triton's stub brings this module; what is tested here does not use it.
    monkeypatch.setitem(sys.modules, "triton_python_backend_utils", types.ModuleType("triton_python_backend_utils"))
    model = importlib.import_module("sync_r1.reward_models.backends.triton_model")
    coded.write_graph(tmp_path / "model.onnx")
    file = str(tmp_path / "model.onnx")
    with pytest.raises(RuntimeError, match="GPU 0 was asked for, but ONNX Runtime has only CPUExecutionProvider"):
        model._onnx(file, ["value"], 1, 0, False)
    assert model._onnx(file, ["value"], 1, None, False)


def test_the_torch_engine_runs_on_the_gpu_it_was_told_or_not_at_all(tmp_path: Path) -> None:
    with pytest.raises(WeightsError, match="was to run on GPU 99, but torch finds"):
        torch_engine.load(tmp_path / "graph.safetensors", gpu=99)


@pytest.mark.parametrize("device", ["cuda:99", pytest.param("cuda", marks=without_cuda), "gpu", "mps", "cuda:x"])
def test_a_policy_lives_on_the_device_it_was_told_or_says_what_there_is(device: str) -> None:
    with pytest.raises(ConfigError, match=f"policy.device: .*{device}") as caught:
        policy_device(PolicyConfig(device=device))
    assert "\n" not in str(caught.value)


def test_a_pocket_policy_is_never_silently_on_the_processor() -> None:
    with pytest.raises(ConfigError, match=r"policy\.device"):
        load_policy(PolicyConfig(device="cuda"), "fp32")
    assert policy_device(PolicyConfig(device="cpu")).type == "cpu"


def stored(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Profile:
    """A profile whose one graph was exported to the store."""
    monkeypatch.setenv("SYNC_R1_GRAPHS", str(tmp_path))
    file = tmp_path / "graph.onnx"
    coded.write_graph(file)
    pixels, value = TensorSpec("pixels", "uint8", (-1, -1, 3)), TensorSpec("value", "float32", (1,))
    graph = GraphSpec("graph", 1, file, (pixels,), (value,), 4, published="clip_vit_b_32")
    return Profile("stored", {"graph": graph}, {})


USES: dict[str, Callable[[Profile, Path], object]] = {
    "release": lambda profile, folder: profile.graphs["graph"].pin,
    "repository": lambda profile, folder: write_repository(profile, folder / "models", backend="onnxruntime"),
    "bundle": lambda profile, folder: write_bundle([profile], folder / "bundle"),
    "this process": lambda profile, folder: LocalRunner(profile)._engine(profile.graphs["graph"]),
}


@pytest.mark.parametrize("use", USES)
@pytest.mark.parametrize("pin", [None, "{}", '{"source": "somewhere"}'])
def test_a_graph_in_the_store_without_its_pin_is_refused_wherever_it_is_read(
    use: str, pin: str | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    profile = stored(tmp_path, monkeypatch)
    file = profile.graphs["graph"].file
    if pin is not None:
        pin_path(file).write_text(pin)
    with pytest.raises(GraphFileMissing, match=r"graph\.onnx has no pin.*sync-r1 export clip_vit_b_32") as caught:
        USES[use](profile, tmp_path)
    assert "\n" not in str(caught.value)
    pin_path(file).write_text(json.dumps({"sha256": graph_sha256(file)}))
    USES[use](stored(tmp_path, monkeypatch), tmp_path)
