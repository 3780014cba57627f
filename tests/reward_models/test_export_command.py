"""`sync-r1 export`: published weights become graphs; unusable ones are one line that names file and cure."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import parity
import pytest
import torch
from safetensors.torch import save_file
from typer.testing import CliRunner

from sync_r1.cli.main import app
from sync_r1.reward_models.graphs.spec import pin_path
from sync_r1.reward_models.published import catalogue, convert
from sync_r1.reward_models.published.texts import write_tokenizer
from sync_r1.reward_models.published.weights import WeightsError
from sync_r1.reward_models.releases import file_sha256

DINO = {
    "hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 96, "patch_size": 16,
    "image_size": 224,
}  # fmt: skip


@pytest.fixture(autouse=True)
def small_dino(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(catalogue.MODELS, "dino_vit_s_16", parity.tiny("dino_vit_s_16", settings=DINO))


def export(*arguments: object, expect: int = 0) -> str:
    done = CliRunner().invoke(app, ["export", *map(str, arguments)], env={"COLUMNS": "300", "NO_COLOR": "1"})
    assert done.exit_code == expect, done.output
    return " ".join(done.output.split())


def published_file(folder: Path) -> Path:
    """A file of weights in the publisher's form."""
    torch.manual_seed(7)
    model = convert.family_of("vision").build(catalogue.MODELS["dino_vit_s_16"].config)
    save_file(model.state_dict(), folder / "model.safetensors")
    return folder / "model.safetensors"


@pytest.mark.parametrize("where", ["file", "folder"])
@pytest.mark.parametrize("name", ["dino_vit_s_16", "dino_vit_s_16_image"])
def test_a_model_or_one_of_its_graphs_is_exported_with_its_weights_digest_in_the_pin(
    tmp_path: Path, where: str, name: str
) -> None:
    file = published_file(tmp_path)
    given = file if where == "file" else tmp_path
    said = export(name, "--weights", given, "--sha256", file_sha256(file), "--out", tmp_path / "out")
    graph = tmp_path / "out" / "dino_vit_s_16_image.onnx"
    pin = json.loads(pin_path(graph).read_text())
    assert str(graph) in said
    assert pin["source_weights_sha256"] == file_sha256(file)
    assert "RANDOM" not in said


def test_random_weights_say_so_on_the_screen_and_in_the_pin(tmp_path: Path) -> None:
    assert "RANDOM WEIGHTS" in export("dino_vit_s_16", "--weights", "random", "--out", tmp_path)
    pin = json.loads((tmp_path / "dino_vit_s_16_image.onnx.json").read_text())
    assert pin["source"].startswith("random weights")


def test_the_torch_engine_gets_safetensors_in_the_precision_asked_for(tmp_path: Path) -> None:
    export("dino_vit_s_16", "--weights", "random", "--engine", "torch", "--dtype", "bf16", "--out", tmp_path)
    assert json.loads((tmp_path / "dino_vit_s_16_image.safetensors.json").read_text())["precision"] == "bf16"


def cut_off(folder: Path) -> Path:
    file = published_file(folder)
    file.write_bytes(file.read_bytes()[:-100])
    return file


def cut_off_torch(folder: Path) -> Path:
    torch.save({"a": torch.zeros(1000)}, folder / "model.bin")
    (folder / "model.bin").write_bytes((folder / "model.bin").read_bytes()[:-500])
    return folder / "model.bin"


def empty_torch(folder: Path) -> Path:
    (folder / "model.bin").touch()
    return folder / "model.bin"


def a_page(folder: Path) -> Path:
    (folder / "model.safetensors").write_text("<html>404: not found</html>" * 20)
    return folder / "model.safetensors"


def without_a_layer(folder: Path) -> Path:
    model = convert.family_of("vision").build(catalogue.MODELS["dino_vit_s_16"].config)
    kept = {name: tensor for name, tensor in model.state_dict().items() if "layernorm" not in name}
    save_file(kept, folder / "some.safetensors")
    return folder / "some.safetensors"


def other_keys(folder: Path) -> Path:
    save_file({"layer.weight": torch.zeros(3)}, folder / "other.safetensors")
    return folder / "other.safetensors"


def other_size(folder: Path) -> Path:
    wider = {**DINO, "hidden_size": 32}
    model = convert.family_of("vision").build({"kind": "vit", "settings": wider})
    save_file(model.state_dict(), folder / "wider.safetensors")
    return folder / "wider.safetensors"


def objects(folder: Path) -> Path:
    torch.save({"a": torch.zeros(1), "path": Path("x")}, folder / "objects.pt")
    return folder / "objects.pt"


def no_index(folder: Path) -> Path:
    (folder / "model.safetensors.index.json").write_text('{"weight_map": ')
    return folder


def two_files(folder: Path) -> Path:
    for name in ("a", "b"):
        save_file({"x": torch.zeros(1)}, folder / f"{name}.safetensors")
    return folder


@pytest.mark.parametrize(
    ("make", "names"),
    [
        (cut_off, ("model.safetensors", "cut off", "fetch it again")),
        (cut_off_torch, ("model.bin", "fetch it again")),
        (empty_torch, ("model.bin", "it ends too soon", "fetch it again")),
        (a_page, ("model.safetensors", "no safetensors file", "fetch it again")),
        (without_a_layer, ("some.safetensors lacks", "layernorm", "publisher's form")),
        (other_keys, ("other.safetensors lacks", "publisher's form")),
        (other_size, ("wider.safetensors", "another size")),
        (objects, ("objects.pt", "never loaded", "safetensors form")),
        (no_index, ("model.safetensors.index.json", "fetch it again")),
        (two_files, ("a.safetensors, b.safetensors", "name the file itself")),
        (lambda folder: folder, ("it holds: none", "fetch it from the publisher")),
        (lambda folder: folder / "nothing.safetensors", ("nothing.safetensors", "give a file, a folder")),
    ],
)
def test_weights_that_cannot_be_used_are_one_line_that_names_file_and_cure(
    tmp_path: Path, make: Any, names: tuple[str, ...]
) -> None:
    said = export("dino_vit_s_16", "--weights", make(tmp_path), "--out", tmp_path / "out", expect=1)
    assert said.startswith("error: ")
    for name in names:
        assert name in said
    assert not list((tmp_path / "out").glob("*")), "nothing half-made is left behind"


def test_a_file_with_another_digest_is_refused_and_named(tmp_path: Path) -> None:
    file = published_file(tmp_path)
    said = export("dino_vit_s_16", "--weights", file, "--sha256", "0" * 64, "--out", tmp_path / "out", expect=1)
    assert f"{file} has sha256 {file_sha256(file)}, expected {'0' * 64}" in said


def test_what_cannot_be_asked_for_is_answered_with_what_can(tmp_path: Path) -> None:
    assert "clip_vit_b_32" in export("resnet", "--weights", "random", expect=1)
    assert "'[x]'" in export("[x]", "--weights", "random", expect=1), "brackets are no markup"
    assert "--engine torch" in export("dino_vit_s_16", "--weights", "random", "--dtype", "bf16", expect=1)
    assert "2 weights (clip, head)" in export("laion_v2", "--weights", tmp_path, expect=1)
    assert "needs --weights" in export("dino_vit_s_16", expect=2)
    assert "go with a MODEL" in export("--weights", "random", expect=2)


def test_siglip_without_its_publishers_tokenizer_is_refused(tmp_path: Path) -> None:
    with pytest.raises(WeightsError, match=r"holds no tokenizer\.json"):
        write_tokenizer("siglip", tmp_path, tmp_path)
