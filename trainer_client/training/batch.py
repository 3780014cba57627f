"""One batch from prompts to scores, with sampling and scoring at the same time.

    chunk 0:  preview ─▶ gate ······▶ finish ─▶ score ──────────▶
    chunk 1:             preview ─▶ gate ······▶ finish ─▶ score ──────────▶
    all:                                                  reference forward ─▶ wait for what is left ─▶ Batch

A batch is sampled in `sampling.chunks` parts of whole groups, which take turns (`rollouts/interleave.py`): while one
waits for its gate, the next one's previews are sampled, and a part is sent to the services as soon as it is finished.
The policy does not change in between, so all of it stays on-policy, and nothing that is drawn depends on when a score
comes: the result is the same however long the services take. Sampling runs in a thread of its own, because the event
loop has the services to talk to.
"""

from __future__ import annotations

import asyncio
import itertools
import threading
import time
from collections.abc import Sequence
from concurrent.futures import CancelledError, Future
from dataclasses import dataclass, fields, replace
from functools import partial

import numpy as np

from sync_r1.reward_models.types import Sample
from sync_r1.trainer_client.config import TrainConfig
from sync_r1.trainer_client.rollouts.answer_tree import draw_tree, first_rows, nodes_of, tree_scores
from sync_r1.trainer_client.rollouts.interleave import Turn, in_turns
from sync_r1.trainer_client.rollouts.outage import PatientScorer, joined
from sync_r1.trainer_client.rollouts.phase_timer import Phases
from sync_r1.trainer_client.rollouts.sampler import Pixels, Sampler, Trajectory
from sync_r1.trainer_client.rollouts.scorer import Scorer
from sync_r1.trainer_client.rollouts.selectors import Floats, Selected, SelectionCost
from sync_r1.trainer_client.sdk.ensemble import EnsembleResult
from sync_r1.trainer_client.tasks.tasks import Task, sample
from sync_r1.trainer_client.training.checkpoint import RunState
from sync_r1.trainer_client.training.journal import Journal, result_from_json, result_to_json
from sync_r1.trainer_client.training.learner import RecordedLogProbs

_AT_ONCE = 3
"""Chunks that are begun and not finished: enough to sample while one waits, and a bound on what is kept unfinished."""


@dataclass(frozen=True)
class Batch:
    """N finished and scored trajectories, and what the update needs besides."""

    tasks: list[Task]
    selected: Selected
    pictures: list[Pixels | None]
    """None where none was drawn."""
    samples: list[Sample]
    scores: EnsembleResult
    steps: list[int]
    """Decoding steps whose tokens enter the loss."""
    recorded: RecordedLogProbs | None
    """Log-probs under the frozen reference."""
    tail_s: float
    """From the end of sampling until the last score came, whatever else was done meanwhile."""


@dataclass(frozen=True)
class Scorers:
    """What a batch is scored by."""

    total: PatientScorer
    """Every reward, of an answer and its picture."""
    gate: PatientScorer
    answers: PatientScorer | None = None
    """The rewards of answers alone, and of pictures alone: for groups that are trees (`answer_tree.py`)."""
    pictures: PatientScorer | None = None

    @property
    def all(self) -> list[PatientScorer]:
        """Those that there are."""
        return [one for one in (self.total, self.gate, self.answers, self.pictures) if one is not None]

    def reset(self) -> None:
        """Forget what was counted."""
        for scorer in self.all:
            scorer.reset()


async def collect(
    config: TrainConfig,
    state: RunState,
    sampler: Sampler,
    tasks: list[Task],
    *,
    journal: Journal,
    scorers: Scorers,
    phases: Phases,
) -> Batch:
    """Sample and score this process's share of a batch for `tasks`. Raises what the scorers and the journal raise."""
    loop, rounds = asyncio.get_running_loop(), itertools.count()
    own_groups = state.learner.ranks.share(range(len(tasks)))
    chunks = np.array_split(own_groups, min(config.sampling.chunks, len(own_groups)))
    plan = config.at(state.step)
    parts: list[Selected] = []
    pictures: list[Pixels | None] = []
    samples: list[Sample] = []
    asked: list[Future[EnsembleResult]] = []
    scoring: list[_Asked] = []
    came_s: list[float] = []
    given_up = threading.Event()

    def ask(key: str, items: Sequence[Sample], by: Scorer) -> Future[EnsembleResult]:
        # Called on the sampling thread; clients belong to the event loop.
        if given_up.is_set():
            raise CancelledError(f"step {state.step + 1} was given up")
        call = partial(by.score, items, timeout_s=config.score_timeout_s)
        asked.append(asyncio.run_coroutine_threadsafe(journal.scored(f"{state.step}/{key}", items, call), loop))
        return asked[-1]

    async def gate(items: Sequence[Sample]) -> Floats:
        return (await Turn(ask(f"gate-{next(rounds)}", items, scorers.gate))).total_N

    def ask_final(key: str, items: Sequence[Sample], by: Scorer) -> Future[EnsembleResult]:
        future = ask(key, items, by)
        future.add_done_callback(lambda _: came_s.append(time.monotonic()))
        return future

    def send(number: int, own: list[Trajectory], sent: list[Sample]) -> _Asked:
        if not plan.tree:
            return _Asked(own, ask_final(f"scores-{number}", sent, scorers.total))
        answers = pictures = None
        if scorers.answers is not None and plan.learn != "pictures":
            rows = first_rows(nodes_of(own))
            answers = ask_final(f"answers-{number}", [replace(sent[row], image=None) for row in rows], scorers.answers)
        if scorers.pictures is not None and plan.learn != "answers":
            drawn = [one for one in sent if one.image is not None]
            pictures = ask_final(f"pictures-{number}", drawn, scorers.pictures)
        return _Asked(own, None, answers, pictures)

    async def rollout(own_sampler: Sampler, own_tasks: list[Task]) -> Selected:
        if plan.tree:
            return draw_tree(own_sampler, own_tasks, plan)
        return await state.selector.rollout(own_sampler, own_tasks, gate)

    def draw() -> None:
        rollouts = (rollout(sampler.counting_anew(), [tasks[group] for group in chunk]) for chunk in chunks)
        for number, part in in_turns(rollouts, _AT_ONCE, phases):
            with phases("sample"):
                drawn = sampler.pictures(part.trajectories)
            own = [replace(trajectory, group=int(chunks[number][trajectory.group])) for trajectory in part.trajectories]
            sent = [
                sample(
                    tasks[trajectory.group],
                    identifier=f"{state.step}-{index}",
                    group=f"{state.step}-{trajectory.group}",
                    pixels=pixels,
                    answer=trajectory.text,
                )
                for index, (trajectory, pixels) in enumerate(zip(own, drawn), start=len(samples))
            ]
            scoring.append(send(number, own, sent))
            parts.append(replace(part, trajectories=own))
            pictures.extend(drawn)
            samples.extend(sent)

    try:
        await asyncio.to_thread(draw)
        sampled_s = time.monotonic()
        selected = joined_selection(parts)
        # The reference does not depend on rewards, so its forward passes fill the time in which the services work.
        steps = state.learner.draw_steps(state.rng)
        with phases("reference"):
            recorded = await asyncio.to_thread(state.learner.reference_log_probs, selected.trajectories, steps)
        with phases("score_wait"):
            scores = joined([await part.result() for part in scoring])
    finally:
        given_up.set()
        for future in asked:
            future.cancel()
    tail_s = max(0.0, max(came_s) - sampled_s)
    return Batch(tasks, selected, pictures, samples, scores, steps, recorded, tail_s)


@dataclass(frozen=True)
class _Asked:
    """One part's rows and the scores that are under way: of whole rows, or of answers and pictures apart."""

    rows: list[Trajectory]
    total: Future[EnsembleResult] | None
    answers: Future[EnsembleResult] | None = None
    pictures: Future[EnsembleResult] | None = None

    async def result(self) -> EnsembleResult:
        if self.total is not None:
            return await asyncio.wrap_future(self.total)
        return tree_scores(self.rows, await _came(self.answers), await _came(self.pictures))


async def _came(future: Future[EnsembleResult] | None) -> EnsembleResult | None:
    if future is None:
        return None
    wrapped: asyncio.Future[EnsembleResult] = asyncio.wrap_future(future)
    return await wrapped


@dataclass(frozen=True)
class Whole:
    """What all processes sampled and scored, the same in each of them; `own` are this process's rows."""

    selected: Selected
    scores: EnsembleResult
    own: slice


def gather(batch: Batch, state: RunState) -> Whole:
    """The batches of all processes as one, in the order of their ranks; selectors learn what all rollouts saw."""
    ranks = state.learner.ranks
    if ranks.size == 1:
        return Whole(batch.selected, batch.scores, slice(None))
    gathered = ranks.gather((batch.selected, result_to_json(batch.scores), state.selector.rollout_state()))
    state.selector.merge([learnt for _, _, learnt in gathered])
    first = sum(len(selected.trajectories) for selected, _, _ in gathered[: ranks.rank])
    return Whole(
        joined_selection([selected for selected, _, _ in gathered]),
        joined([result_from_json(scores) for _, scores, _ in gathered]),
        slice(first, first + len(batch.samples)),
    )


def joined_selection(parts: Sequence[Selected]) -> Selected:
    """Several parts of one batch as one; costs add up."""
    if len(parts) == 1:
        return parts[0]
    totals = {field.name: sum(getattr(part.cost, field.name) for part in parts) for field in fields(SelectionCost)}
    return replace(
        parts[0],
        trajectories=[trajectory for part in parts for trajectory in part.trajectories],
        gate_N=np.concatenate([part.gate_N for part in parts]),
        cost=SelectionCost(**totals),
        thresholds={key: theta for part in parts for key, theta in part.thresholds.items()},
    )
