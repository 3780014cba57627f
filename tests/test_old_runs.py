"""Run folders of earlier versions: what they did next then, they do next now.

`fixtures/make_runs.py` says how the folders and `next.json` were made, and by which code.
"""

from __future__ import annotations

import json
import zipfile
from pathlib import Path
from typing import Any

import pytest
import torch
from recorded_runs import RUNS, go_on, recorded_names, unpack

from sync_r1.trainer_client.config import TrainConfig
from sync_r1.trainer_client.evaluation.pocketbench import write_pocketbench
from sync_r1.trainer_client.evaluation.unifybench import UnifyBench, load_unifybench
from sync_r1.trainer_client.reports.report import write_report

KINDS = {"none", "dgs", "dapo", "pods"}


@pytest.fixture(scope="module")
def bench(tmp_path_factory: pytest.TempPathFactory) -> UnifyBench:
    folder = tmp_path_factory.mktemp("pocketbench")
    write_pocketbench(folder)
    return load_unifybench(folder)


def recorded_config(run: Path) -> TrainConfig:
    return TrainConfig.model_validate_json((run / "config.json").read_text())


def numbers(steps: list[dict[str, Any]]) -> list[float]:
    """Everything that was measured in `steps`, in a fixed order."""
    rewards = [value for step in steps for _, value in sorted(step["rewards"].items()) if value is not None]
    return rewards + [step["grad_norm"] for step in steps]


@pytest.mark.parametrize("name", recorded_names())
async def test_an_old_run_resumes_with_the_same_draws_and_weights(tmp_path: Path, bench: UnifyBench, name: str) -> None:
    run = unpack(name, tmp_path / name)
    expected = json.loads((RUNS / name / "next.json").read_text())
    came = json.loads(json.dumps(await go_on(name, recorded_config(run), run, bench)))
    assert came["draws"] == expected["draws"]
    for key in ("step", "trajectories", "learned"):
        assert [step[key] for step in came["steps"]] == [step[key] for step in expected["steps"]]
    assert numbers(came["steps"]) == pytest.approx(numbers(expected["steps"]), rel=1e-3, abs=1e-5)
    assert len(came["weights"]) == len(expected["weights"])
    for now, then in zip(came["weights"], expected["weights"]):
        assert now["shape"] == then["shape"]
        assert now["norm"] == pytest.approx(then["norm"], rel=1e-4)
        torch.testing.assert_close(
            torch.tensor(now["numbers"]), torch.tensor(then["numbers"]), rtol=1e-3, atol=1e-4
        )  # fmt: skip


def test_there_is_an_old_run_of_every_selector() -> None:
    configs = [json.loads((RUNS / name / "run" / "config.json").read_text()) for name in recorded_names()]
    assert {config["selector"]["kind"] for config in configs} == KINDS


@pytest.mark.parametrize("name", recorded_names())
def test_the_report_of_an_old_run_can_be_written(tmp_path: Path, name: str) -> None:
    page = write_report(unpack(name, tmp_path / name)).read_text()
    assert "3 of 6 steps" in page or "2 of 4 steps" in page


@pytest.mark.parametrize("name", recorded_names())
def test_no_module_of_ours_is_named_in_a_checkpoint(name: str) -> None:
    """Else it could not be read once a module has moved."""
    for file in (RUNS / name / "run" / "checkpoints").rglob("*.pt"):
        with zipfile.ZipFile(file) as archive:
            for member in archive.namelist():
                assert b"sync_r1" not in archive.read(member), f"{file.name}: {member}"
        torch.load(file, weights_only=True)
