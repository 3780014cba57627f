"""Runs a toy training job in processes of its own, kills them with SIGKILL at given points and resumes them.

`python killed_runs.py FOLDER [POINT …]` prints a JSON line for the run that nobody kills and one per point. A point is
`fsync:N` (right after the N-th fsync: lines of journal and metrics, files of checkpoints), `torn:N` (only part of the
N-th line reached the disk), `rename:N` (before the N-th renaming: a checkpoint that is complete but
has no name yet), or `after:S` (S seconds after the first line of the journal was written). Everything is imported once;
processes are forked from there before any tensor is made.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import os
import signal
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import torch
import torch._dynamo  # the optimiser imports it on its first step: seconds for each process that is forked before
from toy_trainer import ToyPolicy, ToyScorer, bright_and_yes, toy_config

from sync_r1.reward_models.types import Sample
from sync_r1.trainer_client.rollouts.scorer import Scorers
from sync_r1.trainer_client.tasks.pocketbench import write_pocketbench
from sync_r1.trainer_client.tasks.unifybench import UnifyBench, load_unifybench
from sync_r1.trainer_client.training.checkpoint import latest_checkpoint
from sync_r1.trainer_client.training.loop import train
from sync_r1.trainer_client.training.run import Run

CONFIG = toy_config(
    steps=6,
    checkpoint_every=2,
    sampling={"prompts": 4, "group_size": 4, "chunks": 2},
    selector={"kind": "dgs", "preview_at": 0.5},
    objective={"answer_tokens": 1, "beta": 0.01, "epochs": 2},
    evaluation={"pictures_per_condition": 1, "shown": 1},
)


def run(out: Path, bench: UnifyBench, asked: Path) -> None:
    """One process of the job: starts it, or goes on from the newest checkpoint. `asked` gets a line per live call."""

    def noted(sample: Sample) -> dict[str, float | None]:
        with asked.open("a") as file:
            file.write(f"{sample.id}\n")
        return bright_and_yes(sample)

    checkpoint = latest_checkpoint(out / "checkpoints")
    policy = ToyPolicy.load(checkpoint / "policy") if checkpoint else ToyPolicy()
    gate = ToyScorer(weights={"concept-consistency": 0.65, "text-faithfulness": 0.35})
    job = train(
        Run(
            CONFIG, out, policy=policy, reference=ToyPolicy(), bench=bench, scorers=Scorers(ToyScorer(noted), gate),
        )
    )  # fmt: skip
    asyncio.run(job)


def arm(point: str) -> None:
    """Make this process kill itself at `point`."""
    kind, number = point.split(":")
    left = int(number)

    def counted(call: Callable[..., None], before: bool) -> Callable[..., None]:
        def counting(*arguments: int) -> None:
            nonlocal left
            if kind != "torn" or os.readlink(f"/proc/self/fd/{arguments[0]}").endswith(".jsonl"):
                left -= 1
            if left == 0 and before:
                os.kill(os.getpid(), signal.SIGKILL)
            call(*arguments)
            if left == 0:
                if kind == "torn":
                    os.ftruncate(arguments[0], os.fstat(arguments[0]).st_size - 20)
                os.kill(os.getpid(), signal.SIGKILL)

        return counting

    if kind == "rename":
        os.replace = counted(os.replace, before=True)  # type: ignore[assignment]
    else:
        os.fsync = counted(os.fsync, before=False)  # type: ignore[assignment]


def forked(work: Callable[[], None]) -> int:
    """Start `work` in a process of its own; returns its id."""
    if process := os.fork():
        return process
    try:
        work()
    except BaseException:
        import traceback

        traceback.print_exc()
        os._exit(1)
    os._exit(0)


def ended_by(process: int) -> int:
    """The signal that ended it, 0 if it ended by itself. Raises RuntimeError when it failed."""
    _, status = os.waitpid(process, 0)
    if os.WIFSIGNALED(status):
        return os.WTERMSIG(status)
    if os.WEXITSTATUS(status):
        raise RuntimeError("a run failed instead of being killed")
    return 0


def result(out: Path, asked: Path) -> dict[str, object]:
    """Digests of what a run ends with, and what it asked live."""
    digest = hashlib.sha256()
    for tensor in torch.load(out / "policy" / "toy.pt"):
        digest.update(tensor.numpy().tobytes())
    trainer = torch.load(out / "checkpoints" / "step-000006" / "trainer.pt")
    for moments in trainer["optimiser"]["state"].values():
        digest.update(moments["exp_avg"].numpy().tobytes() + moments["exp_avg_sq"].numpy().tobytes())
    digest.update(trainer["generators"][0].numpy().tobytes())
    digest.update((out / "checkpoints" / "step-000006" / "state.json").read_bytes())
    lines = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    same = [{key: line[key] for key in ("step", "rewards", "trajectories", "grad_norm")} for line in lines]
    ids = [line for line in asked.read_text().splitlines() if not line.startswith("held-out")]
    return {"digest": digest.hexdigest(), "metrics": same, "asked": len(ids), "asked_once": len(set(ids)) == len(ids)}


def killed(job: Callable[[], None], point: str, journal: Path) -> int:
    """Start `job` in a process that dies at `point`; returns its id."""

    def armed() -> None:
        arm(point)
        job()

    if not point.startswith("after:"):
        return forked(armed)
    process, deadline_s = forked(job), time.monotonic() + 60
    while not journal.exists() and time.monotonic() < deadline_s:
        time.sleep(0.005)
    time.sleep(float(point.removeprefix("after:")))
    os.kill(process, signal.SIGKILL)
    return process


def main(folder: Path, points: list[str]) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    write_pocketbench(folder / "benchmark")
    bench = load_unifybench(folder / "benchmark")
    for number, point in enumerate(["never", *points]):
        out, asked = folder / str(number), folder / f"{number}.asked"
        out.mkdir()
        job = partial(run, out, bench, asked)
        signals = [] if point == "never" else [ended_by(killed(job, point, out / "journal.jsonl"))]
        signals.append(ended_by(forked(job)))
        print(json.dumps({"point": point, "signals": signals} | result(out, asked)), flush=True)


if __name__ == "__main__":
    torch.set_num_threads(1)
    main(Path(sys.argv[1]), sys.argv[2:])
