"""What several processes do together; run by `torchrun --nproc-per-node 2 ranks_job.py JOB FOLDER` from
`test_distributed.py`.

`gradients` compares gradients and updates of all processes, replicated and divided, with those of one process over the
whole batch, and saves and loads a divided learner; the first process prints a JSON object. `train` is a toy training
run; with SYNC_R1_DIE_AT=N the last process kills itself with SIGKILL at the N-th score. `tree` is one whose groups are
trees, in two phases; `chosen` one whose selector chooses at random what is learnt from.
"""

from __future__ import annotations

import asyncio
import copy
import json
import os
import signal
import sys
from pathlib import Path

import numpy as np
import torch
from tiny_policy import tiny_policy
from torch.distributed.tensor import DTensor
from toy_trainer import ToyPolicy, Toys, ToyScorer, bright_and_yes, toy_config

from sync_r1.reward_models.types import Sample
from sync_r1.trainer_client.config import ObjectiveConfig, OptimiserConfig, TrainConfig
from sync_r1.trainer_client.config.selectors import PlainConfig
from sync_r1.trainer_client.policies.base import Question
from sync_r1.trainer_client.policies.pocket.policy import PocketPolicy
from sync_r1.trainer_client.rollouts import selectors
from sync_r1.trainer_client.rollouts.plain_groups import NoSelection
from sync_r1.trainer_client.rollouts.sampler import Trajectory
from sync_r1.trainer_client.rollouts.scorer import Scorers
from sync_r1.trainer_client.sdk.combination import Bools, Floats, Ints
from sync_r1.trainer_client.tasks.curriculum import Curriculum
from sync_r1.trainer_client.tasks.pocketbench import write_pocketbench
from sync_r1.trainer_client.tasks.unifybench import load_unifybench
from sync_r1.trainer_client.training.checkpoint import RunState, latest_checkpoint, load_checkpoint, save_checkpoint
from sync_r1.trainer_client.training.distributed import SINGLE_PROCESS, Ranks, join, leave
from sync_r1.trainer_client.training.learner import Learner
from sync_r1.trainer_client.training.loop import train
from sync_r1.trainer_client.training.losses import LossBatch
from sync_r1.trainer_client.training.optimisers import TotalSteps
from sync_r1.trainer_client.training.run import Run
from sync_r1.trainer_client.training.sync_grpo import Credit, credit

GROUPS_N = np.array([0] * 5 + [1] * 3 + [2] * 4 + [3] * 2)


def learner(policy: PocketPolicy, reference: PocketPolicy, ranks: Ranks, divide: bool) -> Learner:
    objective = ObjectiveConfig(epochs=2, beta=0.05, answer_tokens=4)
    optimiser = OptimiserConfig(learning_rate=1e-2, grad_clip=0.1, warmup_steps=0, micro_batch=2, micro_steps=3)
    return Learner(
        copy.deepcopy(policy), reference, objective, optimiser, total_steps=TotalSteps(10), ranks=ranks, divide=divide
    )


def batch(policy: PocketPolicy) -> list[Trajectory]:
    generator = torch.Generator().manual_seed(5)
    pixels = np.zeros((32, 32, 3), np.uint8)
    trajectories = []
    for group in GROUPS_N:
        question = Question("what colour is it ?", pixels if group % 2 else None)
        answer = policy.answer([question], temperature=1.0, generator=generator)
        state = policy.advance(policy.start(["a red cat"]), policy.steps, temperature=1.0, generator=generator)
        trajectories.append(Trajectory(int(group), answer, state))
    return trajectories


def full(values: list[torch.Tensor | None]) -> torch.Tensor:
    """Everything as one vector, divided tensors gathered."""
    whole = [value.full_tensor() if isinstance(value, DTensor) else value for value in values]
    return torch.cat([value.detach().reshape(-1) for value in whole if value is not None])


def gradients(folder: Path, ranks: Ranks) -> dict[str, float]:
    policy = tiny_policy(folder / f"words-{ranks.rank}")
    trajectories = batch(policy)
    rewards_N = np.random.default_rng(0).random(len(GROUPS_N))
    # One group of the second process has no valid reward: it has fewer micro-batches than the first.
    shares = credit(rewards_N, rewards_N / 2, GROUPS_N, GROUPS_N != 3)
    own = np.flatnonzero(np.isin(GROUPS_N, ranks.share(range(4))))
    own_shares = shares.rows(own)
    reference, steps = copy.deepcopy(policy), [0, 1, 3]
    differences: dict[str, float] = {}

    def both(one: Learner, rows: np.ndarray, weights: Credit) -> tuple[torch.Tensor, torch.Tensor, dict[str, float]]:
        chosen = [trajectories[row] for row in rows]
        recorded = one.reference_log_probs(chosen, steps)
        one.add_gradients(LossBatch(chosen, weights, steps, None, recorded))
        one.ranks.all_reduce_gradients(one.parameters)
        names = [name for name, _ in sorted(one.policy.model.named_parameters())]
        parameters = dict(one.policy.model.named_parameters())
        gradient = full([parameters[name].grad for name in names])
        figures = one.update(chosen, weights, steps, recorded)
        one.update(chosen, weights, steps, recorded)
        return gradient, full([parameters[name] for name in names]), figures

    expected = both(learner(policy, reference, SINGLE_PROCESS, False), np.arange(len(GROUPS_N)), shares)
    for name in ("ddp", "fsdp2"):
        one = learner(policy, reference, ranks, name == "fsdp2")
        gradient, weights, figures = both(one, own, own_shares)
        differences[f"{name} gradient"] = float((gradient - expected[0]).abs().max() / expected[0].abs().max())
        # The mean: AdamW divides a gradient by its own size, so where it is 0 but for rounding, rounding decides.
        differences[f"{name} weights"] = float((weights - expected[1]).abs().mean())
        differences[f"{name} figures"] = max(
            abs(figures[key] - value) / max(abs(value), 1.0) for key, value in expected[2].items()
        )
    started = full([parameter for _, parameter in sorted(policy.model.named_parameters())])
    differences["moved"] = float((expected[1] - started).abs().mean())
    assert one.shards
    differences["divided"] = sum(isinstance(parameter, DTensor) for parameter in one.policy.parameters())
    differences["resumed"] = resumed(folder, policy, reference, one, ranks)
    return differences


def resumed(folder: Path, policy: PocketPolicy, reference: PocketPolicy, one: Learner, ranks: Ranks) -> float:
    """Largest difference of weights and moments between a divided learner and what its checkpoint gives back."""
    bench = load_unifybench(folder / "benchmark")

    def state(of: Learner) -> RunState:
        curriculum = Curriculum(bench, recall_share=0.5, learnability=0.0)
        generator = torch.Generator().manual_seed(ranks.rank)
        return RunState(3, of, NoSelection(2), curriculum, generator, np.random.default_rng(0))

    before = state(one)
    torch.rand(3, generator=before.generator)
    save_checkpoint(folder / "checkpoints", before)
    checkpoint = latest_checkpoint(folder / "checkpoints")
    assert checkpoint is not None
    loaded = PocketPolicy.load(checkpoint / "policy", shared=folder / f"words-{ranks.rank}")
    after = state(learner(loaded, reference, ranks, True))
    load_checkpoint(checkpoint, after)
    assert torch.equal(before.generator.get_state(), after.generator.get_state())
    pairs = [(full(list(one.policy.parameters())), full(list(after.learner.policy.parameters())))]
    for key in ("exp_avg", "exp_avg_sq"):
        pairs.append(tuple(  # type: ignore[arg-type]
            full([of.steppers[0].optimiser.state[p][key] for p in of.policy.parameters()])
            for of in (one, after.learner)
        ))  # fmt: skip
    return max(float((first - second).abs().max()) for first, second in pairs)


def toy_run(folder: Path, ranks: Ranks) -> None:
    config = toy_config(
        steps=5, checkpoint_every=2, sampling={"prompts": 4, "group_size": 4, "chunks": 2},
        selector={"kind": "dgs", "preview_at": 0.5, "min_correlation": -1.0},
        objective={"answer_tokens": 1, "beta": 0.01},
        evaluation={"pictures_per_condition": 1, "shown": 1},
    )  # fmt: skip
    left = int(os.environ.get("SYNC_R1_DIE_AT", "0"))

    def judge(sample: Sample) -> dict[str, float | None]:
        nonlocal left
        left -= 1
        if left == 0 and ranks.rank == ranks.size - 1:
            os.kill(os.getpid(), signal.SIGKILL)
        return bright_and_yes(sample)

    checkpoint = latest_checkpoint(folder / "checkpoints")
    policy = ToyPolicy.load(checkpoint / "policy") if checkpoint else ToyPolicy()
    bench = load_unifybench(folder.parent / "benchmark")
    gate = ToyScorer(weights={"concept-consistency": 0.65, "text-faithfulness": 0.35})
    asyncio.run(train(
        Run(
            config, folder, policy=policy, reference=ToyPolicy(), bench=bench,
            scorers=Scorers(ToyScorer(judge), gate), ranks=ranks,
        )
    ))  # fmt: skip
    assert_same(list(policy.parameters()), ranks)


def assert_same(values: list[torch.Tensor], ranks: Ranks) -> None:
    """All processes hold the same."""
    mine = torch.cat([value.detach().reshape(-1) for value in values])
    assert all(torch.equal(mine, other) for other in ranks.gather(mine))


async def train_toys(config: TrainConfig, folder: Path, ranks: Ranks) -> ToyPolicy:
    policy, toys = ToyPolicy(), Toys()
    scorers = Scorers(toys.total, toys.total, toys.answers, toys.pictures)
    bench = load_unifybench(folder.parent / "benchmark")
    run = Run(config, folder, policy=policy, reference=ToyPolicy(), bench=bench, scorers=scorers, ranks=ranks)
    await train(run)
    assert_same(list(policy.parameters()), ranks)
    return policy


def tree(folder: Path, ranks: Ranks) -> None:
    """Answers, then pictures of the right sentence, then both: three pictures for two of four answers."""
    config = toy_config(
        steps=3,
        sampling={"prompts": 4, "group_size": 4, "pictures_per_answer": 3, "pictured_answers": 2, "chunks": 2},
        schedule=[
            {"updates": 1, "learn": "answers"},
            {"updates": 1, "learn": "pictures", "sentence": "true", "recall_share": 1.0},
            {"updates": 1},
        ],
        evaluation={"pictures_per_condition": 1, "shown": 1},
    )
    policy = asyncio.run(train_toys(config, folder, ranks))
    assert policy.sentence_logits.any()
    assert policy.grey_logits.any()


def chosen(folder: Path, ranks: Ranks) -> None:
    """What a selector draws while it chooses among everybody's rows, every process draws alike."""
    masks: list[torch.Tensor] = []

    class Chance(NoSelection):
        def choose(self, groups_N: Ints, rewards_N: Floats, valid_N: Bools, rng: np.random.Generator) -> Bools:
            chosen_N = valid_N & (rng.random(len(groups_N)) < 0.6)
            masks.append(torch.from_numpy(chosen_N.astype(np.float32)))
            return chosen_N

    selectors._MAKERS[PlainConfig] = lambda config, group_size, *others: Chance(group_size)
    config = toy_config(
        steps=3, sampling={"prompts": 4, "group_size": 6}, evaluation={"pictures_per_condition": 1, "shown": 1}
    )
    asyncio.run(train_toys(config, folder, ranks))
    assert len(masks) == 3
    assert all(len(mask) == 24 for mask in masks)
    assert_same(masks, ranks)


if __name__ == "__main__":
    torch.set_num_threads(1)
    job, target = sys.argv[1], Path(sys.argv[2])
    here = join(120.0)
    if job == "gradients":
        if here.main:
            write_pocketbench(target / "benchmark")
        here.barrier()
        found = gradients(target, here)
        if here.main:
            print(json.dumps(found), flush=True)
    else:
        if here.main and not (target.parent / "benchmark").exists():
            write_pocketbench(target.parent / "benchmark")
        here.barrier()
        target.mkdir(parents=True, exist_ok=True)
        {"train": toy_run, "tree": tree, "chosen": chosen}[job](target, here)
    leave(here)
