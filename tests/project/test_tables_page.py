"""What docs/tables.md tells a reader to do works as it stands, against the real services."""

from __future__ import annotations

import json
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import yaml
from table_runs import pictures

from sync_r1.trainer_client.tables.columns import FAILED
from sync_r1.trainer_client.tables.output import read_table
from sync_r1.trainer_client.tables.table import Shard

if TYPE_CHECKING:
    from sync_r1.services.local.up import Up

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "tables.md").read_text()


def blocks(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", PAGE, re.DOTALL)


def test_a_mixed_folder_is_scored_by_one_command_and_looked_at_by_a_second(services: Up, tmp_path: Path) -> None:
    data = pictures(tmp_path / "pictures", 40)
    for name in data:
        (tmp_path / "pictures" / name).with_suffix(".txt").write_text("a red dog left of a blue ball")
    broken = list(data)[::10]
    for number, name in enumerate(broken):
        (tmp_path / "pictures" / name).write_bytes(data[name][:40] if number % 2 else b"<html>")
    (tmp_path / "endpoints.json").write_text(json.dumps(services.endpoints))
    environment = dict(os.environ, PATH=f"{Path(sys.executable).parent}:{os.environ['PATH']}", COLUMNS="250")
    score, view = blocks("sh")[1].splitlines()
    for command, expected in ((score, 3), (view, 0), (score, 3)):
        done = subprocess.run(
            shlex.split(command), cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=280
        )
        assert done.returncode == expected, done.stdout + done.stderr
    rows = list(read_table(tmp_path / "scores.csv"))
    assert [row["path"] for row in rows] == list(data)
    for reward in ("aesthetic", "text-faithfulness/clip_t"):
        assert [row["path"] for row in rows if row[f"{reward}.outcome"] == FAILED] == broken
        assert all(0 <= row[f"{reward}.score"] <= 1 for row in rows if row["path"] not in broken)
    assert {row["text-faithfulness/clip_t.variant"] for row in rows} == {"clip_t"}
    summary = json.loads((tmp_path / "summary.json").read_text())
    assert (summary["rows"], summary["failed_rows"]) == (40, len(broken))
    page = (tmp_path / "scores.html").read_text()
    assert page.count("<img") >= 4 * 20
    assert "BAD_IMAGE" in page


def test_the_job_of_the_page_has_a_shard_for_every_pod() -> None:
    (text,) = blocks("yaml")
    job = yaml.safe_load(text)
    (command,) = job["spec"]["template"]["spec"]["containers"][0]["args"]
    (parts,) = re.findall(r"--shard \$JOB_COMPLETION_INDEX/(\d+)", command)
    assert job["spec"]["completions"] == int(parts)
    assert Shard.parse(f"{job['spec']['completions'] - 1}/{parts}").index == int(parts) - 1


@pytest.mark.parametrize("name", re.findall(r"`(test_\w+)`", PAGE))
def test_every_test_that_the_page_names_is_there(name: str) -> None:
    files = (ROOT / "tests" / "trainer_client" / "tables").glob("test_*.py")
    assert any(f"def {name}(" in file.read_text() for file in files)
