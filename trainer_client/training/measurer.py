"""The measurement on held-out conditions before, during and after training (`evaluation/held_out.py`)."""

from __future__ import annotations

import time

from sync_r1.trainer_client.evaluation.held_out import Evaluation, evaluate
from sync_r1.trainer_client.rollouts.outage import PatientScorer
from sync_r1.trainer_client.rollouts.scorer import Scorers
from sync_r1.trainer_client.training.learner import Learner
from sync_r1.trainer_client.training.run import Run
from sync_r1.trainer_client.training.run_log import RunLog

_SHARE_OF_BUDGET = 0.1
"""What a measurement is taken to need as long as none has been made."""


class HeldOutMeasurer:
    """Measures the run's policy. The first process does it and tells the others, so all of them must call."""

    def __init__(self, run: Run, learner: Learner, scorers: Scorers[PatientScorer], run_log: RunLog) -> None:
        self._run, self._learner, self._scorers, self._log = run, learner, scorers, run_log
        self.needed_s = run.config.budget_s * _SHARE_OF_BUDGET
        """Seconds that the measurement before training took."""

    async def before(self) -> Evaluation | None:
        """The measurement before training; None when a resumed run made it before."""
        began_s = time.monotonic()
        if self._run.ranks.broadcast((self._run.out / "evaluation" / "start.json").exists()):
            return None
        evaluation = await self.measure("start")
        self.needed_s = time.monotonic() - began_s
        return evaluation

    async def measure(self, name: str) -> Evaluation:
        """Measure now, and write it as `evaluation/NAME.json`. Raises what the scorers raise."""
        run, own = self._run, list[Evaluation]()
        with self._learner.shards.whole():
            if run.ranks.main:
                evaluation = await evaluate(
                    run.config,
                    run.policy,
                    run.bench,
                    scorer=self._scorers.total,
                    picture_scorer=self._scorers.pictures,
                    oracle=run.oracle,
                )
                own.append(evaluation)
            (evaluation,) = run.ranks.broadcast(own)
        self._log.measured(name, evaluation)
        return evaluation
