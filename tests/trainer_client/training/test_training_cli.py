"""The training commands refuse what cannot work with one line that says what to do, before anything is started."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from sync_r1.cli.main import app


def run(*arguments: str) -> tuple[int, str]:
    result = CliRunner().invoke(app, list(arguments))
    return result.exit_code, " ".join(result.output.split())


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("train", "--set", "objective.txt_loss=1"), "objective.txt_loss"),
        (("train", "--config", "missing.yaml"), "cannot read the configuration"),
        (("train", "--resume"), "there is no run to resume"),
        (("train", "--set", "policy=nowhere"), "neither 'pocket' nor a folder"),
        (("evaluate", "--data", "nowhere"), "concepts_list.json: the file is missing"),
        (("report", "nowhere"), "config.json is missing"),
        (("evaluate", "--outputs", "nowhere"), "outputs.jsonl: the file is missing"),
        (("densify", "--data", "nowhere", "--out", "dense"), "concepts_list.json: the file is missing"),
        (("densify", "--data", "nowhere", "--out", "dense", "--endpoint", "http://h"), "give --model"),
    ],
)
def test_errors_are_one_line_and_name_the_cure(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, arguments: tuple[str, ...], message: str
) -> None:
    monkeypatch.chdir(tmp_path)
    code, output = run(*arguments)
    assert code == 1
    assert message in output
    assert "Traceback" not in output


def test_a_folder_with_a_run_is_not_overwritten(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("{}")
    code, output = run("train", "--out", str(tmp_path))
    assert code == 1
    assert "already holds a run; continue it with --resume" in output
    assert (tmp_path / "config.json").read_text() == "{}"


def test_items_are_written_for_other_systems(tmp_path: Path) -> None:
    code, output = run("evaluate", "--items", str(tmp_path / "items.jsonl"), "--out", str(tmp_path / "out"))
    assert code == 0
    lines = [json.loads(line) for line in (tmp_path / "items.jsonl").read_text().splitlines()]
    assert f"{len(lines)} items" in output
    assert {line["pictures"] for line in lines if "draw" in line} == {4}
    assert sum(line["task"] == "dreambooth" for line in lines) == 8 * 25
