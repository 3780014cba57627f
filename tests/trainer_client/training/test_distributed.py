"""Several processes train what one process would: same gradients, same weights, one run folder, resumable.

The processes are real (torchrun or accelerate, gloo on the processor); what they do is in `ranks_job.py`.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import torch
from toy_trainer import ToyPolicy

from sync_r1.trainer_client.config import ConfigError
from sync_r1.trainer_client.training.distributed import SINGLE_PROCESS, Ranks, join

if TYPE_CHECKING:
    from sync_r1.services.local.up import Up

SCRIPT = Path(__file__).parents[2] / "support" / "ranks_job.py"
TORCHRUN = ("torch.distributed.run", "--standalone", "--nproc-per-node", "2")
_ACCELERATE = ("accelerate.commands.launch", "--num_processes", "2", "--num_machines", "1", "--main_process_port", "0")
ACCELERATE = (*_ACCELERATE, "--multi_gpu")
ACCELERATE_CPU = (*_ACCELERATE, "--cpu")


def together(*arguments: str, timeout_s: float = 280, **variables: str) -> subprocess.CompletedProcess[str]:
    """A launcher and the job that it starts in two processes, with one thread each."""
    return subprocess.run(
        [sys.executable, "-m", *arguments], capture_output=True, text=True, timeout=timeout_s,
        env=os.environ | {"OMP_NUM_THREADS": "1"} | variables,
    )  # fmt: skip


def job(
    name: str, folder: Path, launcher: tuple[str, ...] = TORCHRUN, **variables: str
) -> subprocess.CompletedProcess[str]:
    return together(*launcher, str(SCRIPT), name, str(folder), **variables)


@pytest.mark.parametrize(
    "launcher", [TORCHRUN, pytest.param(ACCELERATE, marks=pytest.mark.slow)], ids=["torchrun", "accelerate"]
)
def test_two_processes_have_the_gradients_of_one(tmp_path: Path, launcher: tuple[str, ...]) -> None:
    """Replicated (ddp) and divided (fsdp2), with micro-batches of unequal number; so are weights after two updates of
    two epochs with a clipped gradient, and what a checkpoint of a divided learner gives back.
    """
    done = job("gradients", tmp_path, launcher)
    assert done.returncode == 0, done.stderr[-3000:]
    found = json.loads(done.stdout.splitlines()[-1])
    for parallel in ("ddp", "fsdp2"):
        assert found[f"{parallel} gradient"] < 1e-5
        assert found[f"{parallel} weights"] < 1e-3 * found["moved"]
        assert found[f"{parallel} figures"] < 1e-5
    assert found["moved"] > 1e-3
    assert found["divided"] > 10
    assert found["resumed"] == 0


@pytest.mark.parametrize("name", ["tree", "chosen"])
def test_two_processes_train_trees_and_random_choices_alike(tmp_path: Path, name: str) -> None:
    """Same weights, and the same rows chosen, in both; the run's folder has the rows of both."""
    done = job(name, tmp_path / "run")
    assert done.returncode == 0, done.stderr[-3000:]
    lines = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    assert [line["trajectories"] for line in lines] == {"tree": [16, 12, 32], "chosen": [24] * 3}[name]


@pytest.mark.slow
def test_a_killed_run_of_two_processes_ends_in_the_same_weights(tmp_path: Path) -> None:
    whole = job("train", tmp_path / "whole")
    assert whole.returncode == 0, whole.stderr[-3000:]
    # The second process dies in the fourth step; the launcher ends the first one.
    assert job("train", tmp_path / "cut", SYNC_R1_DIE_AT="28").returncode != 0
    assert not (tmp_path / "cut" / "policy").exists()
    again = job("train", tmp_path / "cut")
    assert again.returncode == 0, again.stderr[-3000:]
    one, other = (ToyPolicy.load(tmp_path / name / "policy") for name in ("whole", "cut"))
    for first, second in zip(one.parameters(), other.parameters()):
        assert torch.equal(first, second)
    lines = [json.loads(line) for line in (tmp_path / "cut" / "metrics.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines] == [1, 2, 3, 4, 5]
    assert [line["trajectories"] for line in lines] == [16] * 5  # of both processes
    keys = [
        [json.loads(line)["key"] for line in (tmp_path / "whole" / file).read_text().splitlines()]
        for file in ("journal.jsonl", "journal-1.jsonl")
    ]
    assert all("4/scores-1" in journalled for journalled in keys)


@pytest.mark.slow
@pytest.mark.parametrize("parallel", ["ddp", "fsdp2"])
@pytest.mark.parametrize("launcher", [TORCHRUN, ACCELERATE], ids=["torchrun", "accelerate"])
def test_the_command_trains_in_two_processes(
    tmp_path: Path, services: Up, launcher: tuple[str, ...], parallel: str
) -> None:
    endpoints = tmp_path / "endpoints.json"
    endpoints.write_text(json.dumps(services.endpoints))
    settings = ["steps=2", f"parallel={parallel}", "sampling.prompts=2", "sampling.group_size=2", "threads=1",
                "evaluation.pictures_per_condition=1", "evaluation.true_sentence_pictures=1",
                "budget_s=3600"]  # fmt: skip
    command = ["-m", "sync_r1.cli.main", "train", "--out", str(tmp_path / "run"), "--endpoints", str(endpoints)]
    done = together(*launcher, *command, *[part for setting in settings for part in ("--set", setting)])
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-3000:]
    assert done.stdout.count("step 2:") == 1
    (first, second) = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    assert first["step"] == 1
    assert second["grad_norm"] > 0
    assert (tmp_path / "run" / "report.html").exists()


def test_a_launcher_that_gives_no_ranks_is_refused_instead_of_training_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MASTER_ADDR", "127.0.0.1")
    monkeypatch.delenv("WORLD_SIZE", raising=False)
    with pytest.raises(ConfigError, match="accelerate launch --multi_gpu"):
        join(1.0)
    monkeypatch.delenv("MASTER_ADDR")
    assert join(1.0) == SINGLE_PROCESS


@pytest.mark.slow
def test_accelerate_for_processors_needs_mpi_so_it_is_refused(tmp_path: Path) -> None:
    done = job("train", tmp_path / "run", ACCELERATE_CPU)
    assert done.returncode != 0
    assert "would train alone" in done.stderr
    assert not (tmp_path / "run").exists()


def test_alone_nothing_is_sent() -> None:
    assert SINGLE_PROCESS.main
    assert SINGLE_PROCESS.gather("x") == ["x"]
    assert SINGLE_PROCESS.share([1, 2, 3]) == [1, 2, 3]


def test_shares_are_disjoint_and_complete() -> None:
    shares = [Ranks(rank, 3).share(range(8)) for rank in range(3)]
    assert sorted(item for share in shares for item in share) == list(range(8))
    assert [len(share) for share in shares] == [3, 3, 2]
