"""Where the embedded Triton keeps its files: any TMPDIR will do, and a store that cannot be written is one sentence."""

from __future__ import annotations

import tempfile
from pathlib import Path

import pytest
import toys

from sync_r1.reward_models.backends.graph_store import ensure_graphs
from sync_r1.reward_models.graphs.spec import GraphFileMissing, graph_store
from sync_r1.reward_models.profiles import load_profile
from sync_r1.services.local.embedded import EmbeddedTriton, TritonStartError, plain_directory


@pytest.mark.parametrize("name", ["t mp", "o'brien"])
def test_triton_starts_whatever_tmpdir_and_its_repository_are_called(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    odd = tmp_path / name
    odd.mkdir()
    monkeypatch.setenv("TMPDIR", str(odd))
    monkeypatch.setattr(tempfile, "tempdir", None)
    with EmbeddedTriton(toys.write_toy_repository(odd / "models")) as triton:
        assert triton.running


def test_without_any_usable_place_triton_says_which_variable_to_set(monkeypatch: pytest.MonkeyPatch) -> None:
    def full(prefix: str, dir: str) -> str:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(tempfile, "mkdtemp", full)
    with pytest.raises(TritonStartError, match="set TMPDIR to another directory"):
        plain_directory("sync-r1-")


def test_an_unwritable_home_is_one_sentence_with_the_cure(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("SYNC_R1_GRAPHS", raising=False)
    monkeypatch.setenv("HOME", "/proc/nohome")
    assert graph_store() == Path("/proc/nohome/.cache/sync-r1/graphs")
    with pytest.raises(GraphFileMissing, match=r"cannot be written .*; set SYNC_R1_GRAPHS to a folder that can"):
        ensure_graphs(load_profile("pocket"))
