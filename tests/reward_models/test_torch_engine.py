"""The torch engine runs what `sync-r1 export --engine torch` wrote, and says what is wrong with other files."""

from __future__ import annotations

import time
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest
import torch
from parity import TOLERANCE, largest
from safetensors import safe_open
from safetensors.torch import save_file

from sync_r1.reward_models.backends.local import LocalRunner
from sync_r1.reward_models.profiles import Profile
from sync_r1.reward_models.published import convert, torch_engine
from sync_r1.reward_models.published.weights import WeightsError
from sync_r1.reward_models.releases import Release
from sync_r1.reward_models.runner import RunContext

if TYPE_CHECKING:
    from parity import TinyModels


@pytest.mark.parametrize(("name", "key"), [("clip_vit_b_32", "text"), ("git_vqa", "answers")])
async def test_in_process_it_gives_what_onnx_runtime_gives(
    name: str, key: str, tiny: TinyModels, tmp_path: Path
) -> None:
    exported = tiny(name)
    convert.export_model(exported.model, [convert.RANDOM], tmp_path, engine="torch")
    graph = exported.graph(key)
    module = convert.family_of(exported.model.family).graphs(exported.original, exported.model.config)[key]
    inputs = {name: tensor.numpy() for name, tensor in module.example.items()}
    spec = replace(graph, engine="torch", file=tmp_path / f"{graph.name}.safetensors")
    context = RunContext(Release("a", "b", "1", (spec.pin,)), time.monotonic() + 60)
    with LocalRunner(Profile("torch", {spec.name: spec}, {})) as runner:
        got = (await runner.run(context, spec.name, inputs)).outputs
    for output, expected in exported.run(key, inputs).items():
        assert largest(got[output], expected) <= TOLERANCE


def test_a_text_graphs_file_holds_no_image_tower(tiny: TinyModels, tmp_path: Path) -> None:
    convert.export_model(tiny("clip_vit_b_32").model, [convert.RANDOM], tmp_path, engine="torch")
    with safe_open(tmp_path / "clip_vit_b_32_text.safetensors", "pt") as file:
        names = list(file.keys())
    assert names
    assert not [name for name in names if "visual" in name]


def test_other_files_are_refused_with_the_cure(tmp_path: Path) -> None:
    save_file({"x": torch.zeros(1)}, tmp_path / "foreign.safetensors")
    (tmp_path / "cut.safetensors").write_bytes(b"\x40\0\0\0\0\0\0\0{")
    for name in ("foreign", "cut"):
        with pytest.raises(WeightsError, match=rf"{name}\.safetensors.*export it again"):
            torch_engine.load(tmp_path / f"{name}.safetensors")


def test_batches_are_padded_with_valid_items_for_graphs_of_fixed_shapes() -> None:
    array = np.arange(6).reshape(3, 2)
    assert torch_engine._pad(array, 4).tolist() == [[0, 1], [2, 3], [4, 5], [0, 1]]
    assert torch_engine._pad(array, 3) is array
