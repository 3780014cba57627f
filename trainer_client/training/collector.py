"""A batch from prompts to scores, with sampling and scoring at the same time.

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
from dataclasses import dataclass, replace
from functools import partial

import numpy as np

from sync_r1.reward_models.types import Pixels, Sample
from sync_r1.trainer_client.rollouts.answer_tree import draw_tree, first_rows, nodes_of, tree_scores
from sync_r1.trainer_client.rollouts.interleave import Suspended, interleave
from sync_r1.trainer_client.rollouts.outage import PatientScorer, joined
from sync_r1.trainer_client.rollouts.phase_timer import Phases
from sync_r1.trainer_client.rollouts.sampler import Sampler, Trajectory
from sync_r1.trainer_client.rollouts.scorer import Scorers
from sync_r1.trainer_client.rollouts.selection import Selected
from sync_r1.trainer_client.sdk.combination import Floats
from sync_r1.trainer_client.sdk.ensemble import EnsembleResult
from sync_r1.trainer_client.tasks.tasks import Task, sample
from sync_r1.trainer_client.training.batch import Batch, joined_selection
from sync_r1.trainer_client.training.checkpoint import RunState
from sync_r1.trainer_client.training.run import Run
from sync_r1.trainer_client.training.score_log import ScoreLog

_AT_ONCE = 3
"""Chunks that are begun and not finished: enough to sample while one waits, and a bound on what is kept unfinished."""


class Collector:
    """Samples and scores this process's share of each batch. Raises ScoreLogError when the run's scores cannot be
    read.
    """

    def __init__(self, run: Run, state: RunState, scorers: Scorers[PatientScorer]) -> None:
        self.config, self.state, self.scorers = run.config, state, scorers
        name = "journal.jsonl" if run.ranks.main else f"journal-{run.ranks.rank}.jsonl"
        self.score_log = ScoreLog(run.out / name)
        self.sampler = Sampler(
            run.policy,
            temperature=run.config.sampling.temperature,
            rows_max=run.config.sampling.rollout_rows_max,
            generator=state.generator,
        )

    async def collect(self, tasks: list[Task], phases: Phases) -> Batch:
        """This process's share of a batch for `tasks`. Raises what the scorers and the score log raise."""
        for scorer in self.scorers.all:
            scorer.reset()
        learner = self.state.learner
        requests = _Requests(self, asyncio.get_running_loop())
        rollouts = _Rollouts(self, tasks, requests, phases)
        try:
            await asyncio.to_thread(rollouts.draw)
            sampled_s = time.monotonic()
            selected = joined_selection(rollouts.parts)
            # The reference does not depend on rewards, so its forward passes fill the time in which the services work.
            steps = learner.draw_steps(self.state.rng)
            with phases("reference"):
                recorded = await asyncio.to_thread(learner.reference_log_probs, selected.trajectories, steps)
            with phases("score_wait"):
                scores = joined([await part.result() for part in rollouts.scoring])
        finally:
            requests.give_up()
        tail_s = max(0.0, requests.last_final_s - sampled_s)
        return Batch(tasks, selected, rollouts.pictures, rollouts.samples, scores, steps, recorded, tail_s)


class _Requests:
    """The rounds of requests of one batch, asked from the sampling thread; clients belong to the event loop."""

    def __init__(self, collector: Collector, loop: asyncio.AbstractEventLoop) -> None:
        self._collector, self._loop = collector, loop
        self._step = collector.state.step
        self._asked: list[Future[EnsembleResult]] = []
        self._rounds = itertools.count()
        self._given_up = threading.Event()
        self._came_s: list[float] = []

    def ask(self, key: str, samples: Sequence[Sample], by: PatientScorer) -> Future[EnsembleResult]:
        """One round; `key` names it within the step."""
        if self._given_up.is_set():
            raise CancelledError(f"step {self._step + 1} was given up")
        call = partial(by.score, samples, timeout_s=self._collector.config.score_timeout_s)
        scored = self._collector.score_log.scored(f"{self._step}/{key}", samples, call)
        self._asked.append(asyncio.run_coroutine_threadsafe(scored, self._loop))
        return self._asked[-1]

    def ask_final(self, key: str, samples: Sequence[Sample], by: PatientScorer) -> Future[EnsembleResult]:
        """The same for scores that are learnt from."""
        future = self.ask(key, samples, by)
        future.add_done_callback(lambda _: self._came_s.append(time.monotonic()))
        return future

    async def gate(self, samples: Sequence[Sample]) -> Floats:
        """The gate's scores of previews."""
        asked = self.ask(f"gate-{next(self._rounds)}", samples, self._collector.scorers.gate)
        return (await Suspended(asked)).total_N

    @property
    def last_final_s(self) -> float:
        """When the last of the final scores came."""
        return max(self._came_s)

    def give_up(self) -> None:
        """Cancel what is under way; nothing more is asked."""
        self._given_up.set()
        for future in self._asked:
            future.cancel()


class _Rollouts:
    """Draws one batch, chunk by chunk, and sends each as soon as it is finished. Runs on the sampling thread."""

    def __init__(self, collector: Collector, tasks: list[Task], requests: _Requests, phases: Phases) -> None:
        self._collector, self._tasks, self._requests, self._phases = collector, tasks, requests, phases
        self._plan = collector.config.at(collector.state.step)
        own_groups = collector.state.learner.ranks.share(range(len(tasks)))
        self._chunks = np.array_split(own_groups, min(collector.config.sampling.chunks, len(own_groups)))
        self.parts: list[Selected] = []
        self.pictures: list[Pixels | None] = []
        self.samples: list[Sample] = []
        self.scoring: list[_Asked] = []

    def draw(self) -> None:
        """All chunks; what comes of them is in the lists."""
        rollouts = (self._rollout([self._tasks[group] for group in chunk]) for chunk in self._chunks)
        for number, part in interleave(rollouts, _AT_ONCE, self._phases):
            with self._phases("sample"):
                drawn = self._collector.sampler.pictures(part.trajectories)
            chunk = self._chunks[number]
            own = [replace(trajectory, group=int(chunk[trajectory.group])) for trajectory in part.trajectories]
            sent = self._samples_of(own, drawn)
            self.scoring.append(self._send(number, own, sent))
            self.parts.append(replace(part, trajectories=own))
            self.pictures.extend(drawn)
            self.samples.extend(sent)

    async def _rollout(self, tasks: list[Task]) -> Selected:
        sampler = self._collector.sampler.with_fresh_counter()
        if self._plan.tree:
            return draw_tree(sampler, tasks, self._plan)
        return await self._collector.state.selector.rollout(sampler, tasks, self._requests.gate)

    def _samples_of(self, own: Sequence[Trajectory], drawn: Sequence[Pixels | None]) -> list[Sample]:
        step = self._collector.state.step
        return [
            sample(
                self._tasks[trajectory.group],
                identifier=f"{step}-{index}",
                group=f"{step}-{trajectory.group}",
                pixels=pixels,
                answer=trajectory.text,
            )
            for index, (trajectory, pixels) in enumerate(zip(own, drawn), start=len(self.samples))
        ]

    def _send(self, number: int, own: list[Trajectory], sent: list[Sample]) -> _Asked:
        scorers, ask_final = self._collector.scorers, self._requests.ask_final
        if not self._plan.tree:
            return _Asked(own, ask_final(f"scores-{number}", sent, scorers.total))
        answers = pictures = None
        if scorers.answers is not None and self._plan.learn != "pictures":
            rows = first_rows(nodes_of(own))
            answers = ask_final(f"answers-{number}", [replace(sent[row], image=None) for row in rows], scorers.answers)
        if scorers.pictures is not None and self._plan.learn != "answers":
            drawn = [one for one in sent if one.image is not None]
            pictures = ask_final(f"pictures-{number}", drawn, scorers.pictures)
        return _Asked(own, None, answers, pictures)


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
