"""What a policy can do on held-out conditions: total reward, each reward, the oracle's success rate, answer accuracy.

Pictures are made exactly as in training (question → answer → sentence → picture, same temperature), without a gate; on
demand others are drawn from the right sentence, which measures the picture half alone (`TRUE_SENTENCE` names its
figures).
Tasks, their order and the random numbers depend on the evaluation's own seed only, so two policies are measured on the
same draws. The oracle (PocketBench only) judges pictures and is never a reward.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image

from sync_r1.reward_models.types import Pixels
from sync_r1.trainer_client.atomic_write import write_text
from sync_r1.trainer_client.config import TrainConfig
from sync_r1.trainer_client.evaluation.oracle import SuccessOracle, Verdict
from sync_r1.trainer_client.policies.base import Policy, Question
from sync_r1.trainer_client.rollouts.outage import why_unscored
from sync_r1.trainer_client.rollouts.sampler import Sampler, Trajectory, parts_of
from sync_r1.trainer_client.rollouts.scorer import Scorer
from sync_r1.trainer_client.sdk.ensemble import EnsembleResult
from sync_r1.trainer_client.sdk.errors import RewardClientError
from sync_r1.trainer_client.tasks.tasks import (
    TRUE_SENTENCE,
    Task,
    extract_sentence,
    load_pixels,
    prompt_of,
    recall_task,
    reward_text,
    sample,
)
from sync_r1.trainer_client.tasks.unifybench import UnifyBench

_REQUEST_ITEMS = 128


class NothingScored(RewardClientError):
    """Not one item has a score, so nothing was measured."""


@dataclass(frozen=True)
class Shown:
    """One picture for the report, and the texts that led to it."""

    condition: str
    answer: str
    prompt: str
    wanted: str
    success: bool | None
    pixels: Pixels
    true_sentence: bool = False
    """Drawn from the right sentence; `answer` is that then."""


@dataclass(frozen=True)
class Evaluation:
    """Means over held-out trajectories; `se` are standard errors of the means of the same names."""

    pictures: int
    scored: int
    """Of these, with a total reward; failed scores are left out, never counted as 0."""
    means: dict[str, float]
    se: dict[str, float]
    releases: dict[str, str]
    """Reward -> digest of the release that scored."""
    shown: tuple[Shown, ...]
    values: dict[str, list[float | None]] = field(default_factory=dict)
    """What each mean is of, in the order of the draws (None: no score), so that two measurements can be paired."""

    def to_json(self) -> dict[str, Any]:
        """All but the pictures."""
        values = asdict(self)
        values["shown"] = [{key: value for key, value in shown.items() if key != "pixels"} for shown in values["shown"]]
        return values


def write_evaluation(folder: Path, name: str, evaluation: Evaluation) -> None:
    """`folder/NAME.json` and its pictures as `folder/NAME-00.png`, …"""
    folder.mkdir(parents=True, exist_ok=True)
    for index, shown in enumerate(evaluation.shown):
        Image.fromarray(shown.pixels).save(folder / f"{name}-{index:02d}.png")
    write_text(folder / f"{name}.json", json.dumps(evaluation.to_json(), indent=1) + "\n")


async def evaluate(
    config: TrainConfig,
    policy: Policy,
    bench: UnifyBench,
    *,
    scorer: Scorer,
    picture_scorer: Scorer | None,
    oracle: SuccessOracle | None,
) -> Evaluation:
    """Measure `policy` on every held-out condition of `bench`. `picture_scorer` scores pictures of the right sentence,
    if `config.evaluation` wants some.

    Raises what the scorers raise, NothingScored where no picture gets a score, and ValueError without conditions.
    """
    wanted, sampling = config.evaluation, config.sampling
    generator = torch.Generator().manual_seed(wanted.seed)
    sampler = Sampler(policy, temperature=sampling.temperature, rows_max=sampling.rollout_rows_max, generator=generator)
    rng = np.random.default_rng(wanted.seed)
    tasks = _tasks(bench, wanted.pictures_per_condition, rng)
    trajectories = sampler.advance(sampler.begin(tasks, range(len(tasks))), policy.steps)
    whole = await _measured(sampler, tasks, trajectories, scorer, oracle, config.score_timeout_s)
    columns, shown = dict(whole.columns), whole.shown(wanted.shown)
    columns["answer_accuracy"] = np.array(
        [float(answers_right(trajectory.text, task.reference_answer)) for task, trajectory in zip(tasks, trajectories)]
    )
    if wanted.true_sentence_pictures and picture_scorer is not None:
        given = _tasks(bench, wanted.true_sentence_pictures, rng)
        drawn = [Trajectory(row, None, None, given=task.reference_answer) for row, task in enumerate(given)]
        finished = sampler.draw(given, drawn)
        alone = await _measured(sampler, given, finished, picture_scorer, oracle, config.score_timeout_s)
        # Its total is one of pictures alone, on another scale than the whole one, so it is left out.
        columns |= {f"{TRUE_SENTENCE}{name}": values_N for name, values_N in alone.columns.items() if name != "total"}
        shown += alone.shown(wanted.shown)
    if (questions_right := _picture_questions(policy, bench)) is not None:
        columns["picture_question_accuracy"] = questions_right
    known = {name: values_N[~np.isnan(values_N)] for name, values_N in columns.items()}
    return Evaluation(
        pictures=len(tasks),
        scored=int(np.isfinite(columns["total"]).sum()),
        means={name: float(values.mean()) for name, values in known.items() if len(values)},
        se={name: float(values.std(ddof=1) / len(values) ** 0.5) for name, values in known.items() if len(values) > 1},
        releases=whole.releases,
        shown=shown,
        values={
            name: [None if np.isnan(value) else float(value) for value in values_N]
            for name, values_N in columns.items()
        },
    )


def _tasks(bench: UnifyBench, pictures: int, rng: np.random.Generator) -> list[Task]:
    """`pictures` tasks for each held-out condition, all conditions before the first comes again."""
    tasks = [
        recall_task(concept, condition, rng)
        for _ in range(pictures)
        for concept in bench.concepts
        for condition in concept.held_out_conditions
        if condition.fact is not None
    ]
    if not tasks:
        raise ValueError(
            f"{bench.root} has no held-out condition that refers to a fact, so there is nothing to evaluate"
        )
    return tasks


@dataclass(frozen=True)
class _Measured:
    """Pictures of one kind, with what rewards and oracle say of them."""

    tasks: list[Task]
    trajectories: list[Trajectory]
    pictures: list[Pixels]
    columns: dict[str, npt.NDArray[np.float64]]
    releases: dict[str, str]
    verdicts: list[Verdict] | None

    def shown(self, count: int) -> tuple[Shown, ...]:
        """The first `count`, for the report."""
        verdicts: Sequence[Verdict | None] = self.verdicts or [None] * len(self.tasks)
        return tuple(
            Shown(
                condition=task.condition.text,
                answer=trajectory.text,
                prompt=prompt_of(task, trajectory.text),
                wanted=reward_text(task),
                success=None if verdict is None else verdict.concept and verdict.fact,
                pixels=pixels,
                true_sentence=trajectory.answer is None,
            )
            for task, trajectory, pixels, verdict in [*zip(self.tasks, self.trajectories, self.pictures, verdicts)][
                :count
            ]
        )


async def _measured(
    sampler: Sampler,
    tasks: list[Task],
    trajectories: list[Trajectory],
    scorer: Scorer,
    oracle: SuccessOracle | None,
    timeout_s: float,
) -> _Measured:
    pictures = sampler.images(trajectories)
    samples = [
        sample(task, identifier=f"held-out-{index}", group=task.key, pixels=pixels, answer=trajectory.text)
        for index, (task, trajectory, pixels) in enumerate(zip(tasks, trajectories, pictures))
    ]
    results = [await scorer.score(part, timeout_s=timeout_s) for part in parts_of(samples, _REQUEST_ITEMS)]
    columns = _reward_columns(results)
    if not any(np.isfinite(values_N).any() for values_N in columns.values()):
        raise NothingScored(
            f"none of {len(samples)} held-out pictures has a score, so nothing was measured: {why_unscored(results[0])}"
        )
    verdicts = oracle.verdicts(tasks, pictures) if oracle is not None else None
    if verdicts is not None:
        columns["oracle_success"] = np.array([float(verdict.concept and verdict.fact) for verdict in verdicts])
        columns["oracle_concept"] = np.array([float(verdict.concept) for verdict in verdicts])
        columns["oracle_fact"] = np.array([float(verdict.fact) for verdict in verdicts])
    releases = {name: reward.release for name, reward in results[0].rewards.items()}
    return _Measured(tasks, trajectories, pictures, columns, releases, verdicts)


def answers_right(answer: str, reference: str) -> bool:
    """Whether the sentence kept from the answer is the reference, apart from case and white space."""
    return extract_sentence(answer).lower().split() == reference.lower().split()


def _reward_columns(results: Sequence[EnsembleResult]) -> dict[str, npt.NDArray[np.float64]]:
    """Total and each reward on the [0, 1] scale, NaN where there is no score."""
    columns = {"total": np.concatenate([result.total_N for result in results])}
    for name in results[0].rewards:
        columns[name] = np.concatenate([result.rewards[name].scores_N for result in results])
    return columns


def _picture_questions(policy: Policy, bench: UnifyBench) -> npt.NDArray[np.float64] | None:
    """Right (1) or wrong (0) for each question about a test picture, answered greedily; None if there are none."""
    asked = [
        (Question(turn.question, load_pixels(path)), turn.answer)
        for concept in bench.concepts
        for path in concept.test_images
        for turn in concept.test_vqa.get(path.name, ())
    ]
    if not asked:
        return None
    answers = policy.answer([question for question, _ in asked], temperature=0.0, generator=None)
    right = [answers_right(text, reference) for text, (_, reference) in zip(answers.texts, asked)]
    return np.array(right, dtype=np.float64)
