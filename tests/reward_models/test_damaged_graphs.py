"""A graph store that is damaged stops the start, in one line that names file and cure, before anything is served."""

from __future__ import annotations

import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest

from sync_r1.reward_models.backends.graph_store import ensure_graphs
from sync_r1.reward_models.graphs.spec import GraphFileMissing, graph_store
from sync_r1.reward_models.library import archive
from sync_r1.reward_models.library.catalogue import LIBRARY_GRAPHS, pack
from sync_r1.reward_models.profiles import load_profile
from sync_r1.services.local import up


@pytest.fixture
def store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A store of its own with MiniLM, whose files may be damaged, and BRISQUE."""
    ensure_graphs(load_profile("pocket"), graphs=["minilm"])
    for file in graph_store().glob("minilm.*"):
        (tmp_path / file.name).write_bytes(file.read_bytes())
    pack("brisque", tmp_path / "brisque.zip")
    monkeypatch.setenv("SYNC_R1_GRAPHS", str(tmp_path))
    return tmp_path


def cut_off(name: str) -> Callable[[Path], object]:
    return lambda store: (store / name).write_bytes((store / name).read_bytes()[:100])


def of_another_version(store: Path) -> None:
    file, packages = store / "brisque.zip", LIBRARY_GRAPHS["brisque"].packages
    with zipfile.ZipFile(file) as made:
        files = {name: made.read(name) for name in made.namelist()}
    versions = files.pop("versions.json").replace(b'"brisque": "', b'"brisque": "9.')
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(archive, "_versions", lambda _: archive.json.loads(versions))
        archive.write_archive(file, files, packages)


@pytest.mark.parametrize(
    ("damage", "profile", "reward", "message"),
    [
        (cut_off("minilm.onnx"), "pocket", "understanding-correctness", r"minilm\.onnx has sha256 .* delete both and"),
        (cut_off("minilm.onnx.json"), "pocket", "understanding-correctness", r"minilm\.onnx\.json is cut off .*again"),
        (
            cut_off("minilm.tokenizer.json"), "pocket", "understanding-correctness",
            r"minilm\.tokenizer\.json is absent or not the one .*delete minilm\.onnx and export again",
        ),
        (
            lambda store: (store / "minilm.tokenizer.json").unlink(), "pocket", "understanding-correctness",
            r"minilm\.tokenizer\.json is absent or not",
        ),
        (cut_off("brisque.zip"), "scorers", "aesthetic", r"brisque\.zip has sha256 .*delete both and export again"),
        (
            of_another_version, "scorers", "aesthetic",
            r"brisque\.zip was made for brisque 9\.0.*installed is brisque 0.*install those versions, or delete the",
        ),
    ],
)  # fmt: skip
def test_what_is_damaged_is_named_with_its_cure_before_triton_starts(
    store: Path, damage: Callable[[Path], object], profile: str, reward: str, message: str
) -> None:
    damage(store)
    steps: list[str] = []
    starting = up.start(profile, rewards=[reward], on_step=steps.append)
    with pytest.raises(GraphFileMissing, match=message) as caught, starting:
        pass
    assert "\n" not in str(caught.value)
    assert str(store) in str(caught.value)
    assert "Triton" not in steps
