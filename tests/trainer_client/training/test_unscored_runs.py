"""A run or a measurement without a score never ends as a normal one, and a full disk costs no earlier checkpoint."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from toy_trainer import ToyPolicy, ToyScorer, toy_config

from sync_r1.reward_models.types import Failure, FailureCode
from sync_r1.trainer_client.evaluation.held_out import NothingScored
from sync_r1.trainer_client.evaluation.unifybench_metrics import Metric, UnifyBenchMetrics
from sync_r1.trainer_client.rollouts.scorer import Scorers
from sync_r1.trainer_client.tasks.pocketbench import write_pocketbench
from sync_r1.trainer_client.tasks.unifybench import UnifyBench, load_unifybench
from sync_r1.trainer_client.training import checkpoint
from sync_r1.trainer_client.training.loop import train
from sync_r1.trainer_client.training.run import Run

SHORT: dict[str, Any] = {
    "steps": 2, "checkpoint_every": 1, "checkpoints_kept": 2, "evaluation": {"pictures_per_condition": 1, "shown": 1},
}  # fmt: skip


@pytest.fixture(scope="module")
def bench(tmp_path_factory: pytest.TempPathFactory) -> UnifyBench:
    folder = tmp_path_factory.mktemp("pocketbench")
    write_pocketbench(folder)
    return load_unifybench(folder)


async def run(out: Path, bench: UnifyBench, scorer: Any) -> None:
    await train(
        Run(
            toy_config(**SHORT), out, policy=ToyPolicy(), reference=ToyPolicy(), bench=bench,
            scorers=Scorers(scorer, ToyScorer()),
        )
    )  # fmt: skip


class _Failing(ToyScorer):
    """Every item of every reward fails."""

    async def score(self, samples: Any, *, timeout_s: float | None = None) -> Any:
        from dataclasses import replace

        result = await super().score(samples, timeout_s=timeout_s)
        nothing = np.full(len(samples), np.nan)
        failure = Failure(FailureCode.INTERNAL, "the graph is broken")
        rewards = {
            name: replace(reward, scores_N=nothing, failures=dict.fromkeys(range(len(samples)), failure))
            for name, reward in result.rewards.items()
        }
        return replace(result, rewards=rewards, total_N=nothing)


async def test_a_run_whose_rewards_all_fail_ends_as_an_error_that_says_why(tmp_path: Path, bench: UnifyBench) -> None:
    with pytest.raises(NothingScored, match="the graph is broken"):
        await run(tmp_path, bench, _Failing())
    assert not (tmp_path / "evaluation" / "start.json").exists()


async def test_a_benchmark_of_which_no_item_has_a_score_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    from sync_r1.trainer_client.config import UnifyBenchConfig

    failed = Metric("clip_i", "CLIP-I", failures=3, reward="concept-consistency", unavailable="3 items failed")

    async def one(self: UnifyBenchMetrics, *_: Any) -> Metric:
        return failed

    async def several(self: UnifyBenchMetrics, *_: Any) -> list[Metric]:
        return [failed]

    monkeypatch.setattr(UnifyBenchMetrics, "_plain", one)
    monkeypatch.setattr(UnifyBenchMetrics, "_recognition", several)
    monkeypatch.setattr(UnifyBenchMetrics, "_faces", several)
    metrics = UnifyBenchMetrics({}, None, UnifyBenchConfig(knowledge="clip_t"), timeout_s=1.0)
    with pytest.raises(NothingScored, match="items failed and none has a score"):
        await metrics.measure([], {})


async def test_a_full_disk_at_a_checkpoint_is_one_sentence_and_keeps_the_one_before(
    tmp_path: Path, bench: UnifyBench, monkeypatch: pytest.MonkeyPatch
) -> None:
    saved, real = [0], checkpoint.torch.save

    def save(tensors: Any, file: Path) -> None:
        saved[0] += file.name == "trainer.pt"
        if saved[0] == 2:  # of two checkpoints the second
            file.write_bytes(b"half of it")
            raise RuntimeError("[enforce fail at inline_container.cc:626] . unexpected pos 26112 vs 26004")
        real(tensors, file)

    monkeypatch.setattr(checkpoint.torch, "save", save)
    with pytest.raises(checkpoint.CheckpointError, match=r"could not be written, where \d+ MB are free.*--resume"):
        await run(tmp_path, bench, ToyScorer())
    folder = tmp_path / "checkpoints"
    assert [path.name for path in folder.iterdir()] == ["step-000001"]
    assert checkpoint.latest_checkpoint(folder) == folder / "step-000001"
