"""Figures measured again are merged by variant; what was not measured stays as recorded."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

from sync_r1.reward_models.profiles.card_texts import _flat
from sync_r1.reward_models.validity import library, measure
from sync_r1.reward_models.validity.recorded import machine, merge

PHOTOS = {"right_vs_wrong_auc": 1.0}


def test_a_measured_row_replaces_the_recorded_one_and_names_its_machine(tmp_path: Path) -> None:
    file = tmp_path / "validity.json"
    recorded = {"dino": {"pictures": 41.0}, "semantic": {"written": {"old": 0.1}, "photos": PHOTOS}}
    file.write_text(json.dumps({"command": "c", **recorded}))
    merge(file, "c", {"semantic": {"written": {"auc": 0.9}}, "new": {"auc": 0.5}}, keep=("photos",))
    merged = json.loads(file.read_text())
    assert merged == {
        "command": "c",
        "dino": recorded["dino"],
        "semantic": {"written": {"machine": machine(), "auc": 0.9}, "photos": PHOTOS},
        "new": {"machine": machine(), "auc": 0.5},
    }
    shown = _flat(merged["semantic"])
    assert shown == {"written/auc": 0.9, "photos/right_vs_wrong_auc": 1.0}, "cards show figures only"


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--variant", "dino"], "name their folder with --photos"),
        (["--photos", "nowhere"], "--photos nowhere: there is no such folder"),
        (["--variant", "unheard_of"], "no figures are measured for unheard_of"),
    ],
)
def test_what_cannot_be_measured_is_one_sentence(
    arguments: list[str], said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "argv", ["validity", *arguments, "--out", str(tmp_path / "validity.json")])
    with pytest.raises(SystemExit, match=f"error: .*{said}"):
        measure.main()
    assert not (tmp_path / "validity.json").exists()


def test_the_library_command_names_what_it_can_measure(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", ["library", "--variant", "dino"])
    with pytest.raises(SystemExit, match="--variant is one of dlib_face, ocr, technical"):
        library.main()
