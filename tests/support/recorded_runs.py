"""Run folders that were interrupted, and what came next: the start of `fixtures/make_runs.py` and the test that resumes
them.

A recorded run is `fixtures/runs/NAME/`: `run/` is the folder as the interrupted process left it, `next.json` what the
continued process drew from its policy and the weights it ended with. Policies are small enough for git: the sixteen
numbers of `toy_trainer.py`, and once the real pocket policy with a network of a few thousand weights.
"""

from __future__ import annotations

import gzip
import hashlib
import json
import math
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from toy_trainer import ToyPolicy, ToyScorer, bright_and_yes

from sync_r1.reward_models.types import Sample
from sync_r1.trainer_client.config import TrainConfig
from sync_r1.trainer_client.policies.base import Answers, ImageState, Question
from sync_r1.trainer_client.policies.pocket.policy import PocketPolicy
from sync_r1.trainer_client.policies.showo.network import Showo, ShowoConfig
from sync_r1.trainer_client.rollouts.scorer import Scorers
from sync_r1.trainer_client.tasks.unifybench import UnifyBench
from sync_r1.trainer_client.training.checkpoint import latest_checkpoint
from sync_r1.trainer_client.training.loop import train
from sync_r1.trainer_client.training.run import Run

RUNS = Path(__file__).parents[1] / "fixtures" / "runs"
TinyPolicy = ToyPolicy | PocketPolicy
Judge = Callable[[Sample], dict[str, float | None]]


def recorded_names() -> list[str]:
    return sorted(folder.name for folder in RUNS.iterdir() if (folder / "next.json").exists())


def unpack(name: str, target: Path) -> Path:
    """A copy of the interrupted run that may be written to. Its journal and metrics are kept compressed."""
    shutil.copytree(RUNS / name / "run", target)
    for packed in sorted(target.rglob("*.gz")):
        packed.with_suffix("").write_bytes(gzip.decompress(packed.read_bytes()))
        packed.unlink()
    return target


def pack(run: Path, name: str) -> None:
    """Keep the interrupted `run` under `name`; the inverse of `unpack`."""
    shutil.copytree(run, RUNS / name / "run")
    for file in sorted((RUNS / name / "run").rglob("*.jsonl")):
        file.with_name(f"{file.name}.gz").write_bytes(gzip.compress(file.read_bytes(), mtime=0))
        file.unlink()


def start_policy(name: str) -> TinyPolicy:
    """What the run `name` started from."""
    return _tiny_pocket() if name == "pocket" else ToyPolicy()


def _tiny_pocket() -> PocketPolicy:
    """The pocket policy's tokenizer and words, with a network of four channels whose weights are sines, so that no
    release of torch draws others.
    """
    published = PocketPolicy.load()
    sizes = ShowoConfig(
        len(published.words), image_codes=2048, image_tokens=64, hidden_size=4, intermediate_size=8, layers=1, heads=1,
        max_positions=256,
    )  # fmt: skip
    model, first = Showo(sizes), 0
    with torch.no_grad():
        for parameter in model.parameters():
            numbers = [math.sin(1.7 * index) for index in range(first, first + parameter.numel())]
            parameter.copy_(torch.tensor(numbers, dtype=torch.float64).view_as(parameter))
            first += parameter.numel()
    return PocketPolicy(model, published.tokenizer, published.words, steps=4)


def newest_policy(name: str, run: Path) -> TinyPolicy:
    """With the weights of the newest checkpoint in `run`; the start's where there is none."""
    checkpoint = latest_checkpoint(run / "checkpoints")
    if checkpoint is None:
        return start_policy(name)
    return (PocketPolicy if name == "pocket" else ToyPolicy).load(checkpoint / "policy")


class Draws:
    """What a policy is asked and draws, call by call, in JSON values; `of_training` leaves out what the measurement at
    the end draws.
    """

    def __init__(self, policy: TinyPolicy) -> None:
        """Listens to `policy` from now on."""
        self._calls: list[dict[str, Any]] = []
        self._saved = 0
        answer, start, decode, save = policy.answer, policy.start, policy.decode, policy.save

        def answered(questions: Sequence[Question], **options: Any) -> Answers:
            answers = answer(questions, **options)
            asked = [[question.text, _digest(question.image)] for question in questions]
            self._calls.append({"questions": asked, "tokens": answers.tokens_N_L.tolist()})
            return answers

        def started(prompts: Sequence[str]) -> ImageState:
            self._calls.append({"prompts": list(prompts)})
            return start(prompts)

        def decoded(state: ImageState) -> Any:
            self._calls.append({"image_tokens": state.tokens_N_I.tolist()})
            return decode(state)

        def saved(folder: Path) -> None:
            self._saved = len(self._calls)
            save(folder)

        vars(policy).update(answer=answered, start=started, decode=decoded, save=saved)

    def of_training(self) -> list[dict[str, Any]]:
        """All calls before the weights were last saved: a run saves them before it measures the end."""
        return self._calls[: self._saved]


def _some_of(values: torch.Tensor) -> dict[str, Any]:
    """A tensor's shape and norm with at most 64 of its numbers, evenly spread."""
    flat = values.flatten().double()
    return {
        "shape": list(values.shape),
        "norm": float(flat.norm()),
        "numbers": flat[:: math.ceil(len(flat) / 64)].tolist(),
    }


def _digest(pixels: Any) -> str | None:
    return None if pixels is None else hashlib.sha256(pixels.tobytes()).hexdigest()[:16]


async def go_on(name: str, config: TrainConfig, run: Path, bench: UnifyBench, judge: Judge = bright_and_yes) -> Any:
    """Start the run, or resume it from its newest checkpoint, until its end; returns what it drew and learnt, as it
    stands in `next.json`.
    """
    torch.set_num_threads(1)
    policy = newest_policy(name, run)
    draws = Draws(policy)
    await train(
        Run(
            config,
            run,
            policy=policy,
            reference=start_policy(name),
            bench=bench,
            scorers=Scorers(
                ToyScorer(judge), ToyScorer(weights={"concept-consistency": 0.65, "text-faithfulness": 0.35})
            ),
        )
    )
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    return {
        "draws": draws.of_training(),
        "steps": [
            {key: line[key] for key in ("step", "rewards", "trajectories", "learned", "grad_norm")} for line in lines
        ],
        "weights": [_some_of(values.detach()) for values in policy.parameters()],
    }
