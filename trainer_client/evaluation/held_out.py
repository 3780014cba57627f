"""What a policy can do on held-out conditions: total reward, each reward, the oracle's success rate, answer accuracy.

Pictures are made exactly as in training (question → answer → sentence → picture, same temperature), without a gate; on
demand others are drawn from the right sentence, which measures the picture half alone (`TRUE_SENTENCE` names its
figures).
Tasks, their order and the random numbers depend on the evaluation's own seed only, so two policies are measured on the
same draws. The oracle (PocketBench only) judges pictures and is never a reward.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
import torch

from sync_r1.reward_models.pocket.oracle import Oracle
from sync_r1.trainer_client.config import EvaluationConfig
from sync_r1.trainer_client.policies.base import Policy, Question
from sync_r1.trainer_client.rollouts.outage import why_unscored
from sync_r1.trainer_client.rollouts.sampler import Sampler, Trajectory
from sync_r1.trainer_client.rollouts.scorer import Scorer
from sync_r1.trainer_client.sdk.ensemble import EnsembleResult
from sync_r1.trainer_client.sdk.errors import RewardClientError
from sync_r1.trainer_client.tasks.pocketbench import ROLES, load_concepts
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

Pixels = npt.NDArray[np.uint8]
_REQUEST_ITEMS = 128


@dataclass(frozen=True)
class Verdict:
    """What the judge saw in one picture."""

    concept: bool
    """Kind, colour and pattern are the concept's."""
    fact: bool
    """The condition's fact is visible."""


class NothingScored(RewardClientError):
    """Not one item has a score, so nothing was measured."""


class Judge(Protocol):
    """Says whether pictures show what their tasks ask for."""

    def judge(self, tasks: Sequence[Task], pictures: Sequence[Pixels]) -> list[Verdict]:
        """One verdict per picture."""
        ...


class PocketJudge:
    """The trained oracle of the pocket domain, with the concepts' factors from their `pocket.json`."""

    def __init__(self, root: Path) -> None:
        """Raises FileNotFoundError when `root` is no PocketBench or the oracle has not been trained."""
        self._oracle = Oracle.load()
        self._concepts = {concept.name: concept for concept in load_concepts(root)}

    def judge(self, tasks: Sequence[Task], pictures: Sequence[Pixels]) -> list[Verdict]:
        verdicts = []
        for task, reading in zip(tasks, self._oracle.read(np.stack(pictures))):
            concept, fact = self._concepts[task.concept.name], task.condition.fact
            shown = fact is not None and concept.shows(ROLES[fact], reading.scene)
            verdicts.append(Verdict(concept.is_seen_in(reading.scene), shown))
        return verdicts


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


async def evaluate(
    policy: Policy,
    bench: UnifyBench,
    ensemble: Scorer,
    judge: Judge | None,
    config: EvaluationConfig,
    *,
    picture_ensemble: Scorer | None = None,
    temperature: float,
    batch: int,
    timeout_s: float,
) -> Evaluation:
    """Measure `policy` on every held-out condition of `bench`. Raises what the ensembles raise, NothingScored where no
    picture gets a total reward, and ValueError without conditions.
    `picture_ensemble` scores pictures of the right sentence, if `config` wants some.
    """
    generator = torch.Generator().manual_seed(config.seed)
    sampler = Sampler(policy, temperature=temperature, batch=batch, generator=generator)
    rng = np.random.default_rng(config.seed)
    tasks = _tasks(bench, config.pictures_per_condition, rng)
    trajectories = sampler.advance(sampler.begin(tasks, range(len(tasks))), policy.steps)
    whole = await _measured(sampler, tasks, trajectories, ensemble, judge, timeout_s)
    columns, shown = dict(whole.columns), whole.shown(config.shown)
    columns["answer_accuracy"] = np.array(
        [float(answers_right(trajectory.text, task.reference_answer)) for task, trajectory in zip(tasks, trajectories)]
    )
    if config.true_sentence_pictures and picture_ensemble is not None:
        given = _tasks(bench, config.true_sentence_pictures, rng)
        drawn = [Trajectory(row, None, None, given=task.reference_answer) for row, task in enumerate(given)]
        alone = await _measured(sampler, given, sampler.draw(given, drawn), picture_ensemble, judge, timeout_s)
        # Its total is one of pictures alone, on another scale than the whole one, so it is left out.
        columns |= {f"{TRUE_SENTENCE}{name}": values_N for name, values_N in alone.columns.items() if name != "total"}
        shown += alone.shown(config.shown)
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
    """Pictures of one kind, with what rewards and judge say of them."""

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
            for task, trajectory, pixels, verdict in [
                *zip(self.tasks, self.trajectories, self.pictures, verdicts)
            ][:count]
        )


async def _measured(
    sampler: Sampler,
    tasks: list[Task],
    trajectories: list[Trajectory],
    ensemble: Scorer,
    judge: Judge | None,
    timeout_s: float,
) -> _Measured:
    pictures = sampler.images(trajectories)
    samples = [
        sample(task, identifier=f"held-out-{index}", group=task.key, pixels=pixels, answer=trajectory.text)
        for index, (task, trajectory, pixels) in enumerate(zip(tasks, trajectories, pictures))
    ]
    results = [
        await ensemble.score(samples[start : start + _REQUEST_ITEMS], timeout_s=timeout_s)
        for start in range(0, len(samples), _REQUEST_ITEMS)
    ]
    columns = _reward_columns(results)
    if not np.isfinite(columns["total"]).any():
        raise NothingScored(
            f"none of {len(samples)} held-out pictures has a score, so nothing was measured: {why_unscored(results[0])}"
        )
    verdicts = judge.judge(tasks, pictures) if judge is not None else None
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
