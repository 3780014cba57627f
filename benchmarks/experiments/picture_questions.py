"""Does training pictures cost what the policy sees? Questions about fresh pictures, before and after a run.

    python -m benchmarks.experiments.picture_questions RUN...

The evaluation of a run asks 56 questions about 8 pictures, too few to tell a loss of .02 from none. Here each concept
of the run's benchmark is seen in 16 rendered scenes, alone and with each fact in turn, and 7 questions are asked about
each. The answers are greedy. `benchmarks.experiments.learning` puts the figures into its table.
"""

from __future__ import annotations

import argparse
from itertools import cycle, islice
from pathlib import Path

import numpy as np

from sync_r1.reward_models.pocket.world.drawing import render
from sync_r1.trainer_client.evaluation.held_out import answers_right
from sync_r1.trainer_client.policies.base import Question
from sync_r1.trainer_client.policies.pocket.policy import PocketPolicy
from sync_r1.trainer_client.tasks.pocketbench import ROLES, load_concepts, visual_questions

SCENES, _SEED, _AT_ONCE = 16, 0x5EE, 128


def questions(benchmark: Path) -> list[tuple[Question, str]]:
    """Every question about every scene, with its right answer; the same at each call."""
    rng, asked = np.random.default_rng(_SEED), []
    for concept in load_concepts(benchmark):
        for role in islice(cycle((None, *ROLES)), SCENES):
            scene = concept.scene(role, rng)
            pixels = render(scene, None)
            asked += [(Question(text, pixels), answer) for text, answer in visual_questions(concept, scene)]
    return asked


def accuracy(policy: PocketPolicy, asked: list[tuple[Question, str]]) -> float:
    """Share of right answers."""
    right = 0
    for start in range(0, len(asked), _AT_ONCE):
        part = asked[start : start + _AT_ONCE]
        answers = policy.answer([question for question, _ in part], temperature=0.0, generator=None)
        right += sum(answers_right(text, answer) for text, (_, answer) in zip(answers.texts, part))
    return right / len(asked)


def before_and_after(run: Path) -> tuple[float, float]:
    """Of the cold start and of the policy that a finished run has saved."""
    (benchmark,) = (run / "benchmark").iterdir()
    asked = questions(benchmark)
    return accuracy(PocketPolicy.load(), asked), accuracy(PocketPolicy.load(run / "policy"), asked)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("runs", type=Path, nargs="+", metavar="RUN")
    for run in parser.parse_args().runs:
        before, after = before_and_after(run)
        print(f"{run.name}: {before:.4f} -> {after:.4f} ({after - before:+.4f})")


if __name__ == "__main__":
    main()
