"""Which prompts a step trains on: those whose groups still differ in reward.

A group whose rewards are all alike has no advantage and teaches nothing, and a policy from a good cold start has many
of them. So a share of the groups is drawn in proportion to the variance of the reward that the prompt's last groups
had ("sampling for learnability", arXiv 2502.12272 uses p(1-p), the variance of a 0/1 reward); the rest is drawn
uniformly, so that every prompt is looked at again. Only training conditions are ever drawn.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from sync_r1.trainer_client.tasks.tasks import Task, make_task, prompts
from sync_r1.trainer_client.tasks.unifybench import UnifyBench

Kind = Literal["u", "r"]
_UNKNOWN_VARIANCE = 0.01
"""Of a prompt not visited yet: a standard deviation of 0.1 on the [0, 1] scale, so that it is visited early."""
_MEMORY = 0.5
"""Weight of the past when a prompt's variance is measured again."""


class Curriculum:
    """Draws tasks and remembers how much their rewards varied."""

    def __init__(self, bench: UnifyBench, *, recall_share: float, learnability: float) -> None:
        """`recall_share` is of draws that say no other."""
        self._recall_share, self._learnability = recall_share, learnability
        self._prompts = {kind: prompts(bench, kind) for kind in ("u", "r")}
        self._variance: dict[str, float] = {}

    def draw(
        self, count: int, rng: np.random.Generator, *, recall_share: float | None = None, of: str = ""
    ) -> list[Task]:
        """`count` tasks; no prompt twice within one kind as long as there are enough of them.

        `of` names whose rewards' variance counts, as `observe` was told.
        """
        recall_share = self._recall_share if recall_share is None else recall_share
        kinds: list[Kind] = ["r" if rng.random() < recall_share else "u" for _ in range(count)]
        tasks: list[Task] = []
        for kind in ("u", "r"):
            wanted, choices = kinds.count(kind), self._prompts[kind]
            if not wanted:
                continue
            variance_K = np.array(
                [
                    self._variance.get(f"{of}{kind}/{c.name}/{condition.text}", _UNKNOWN_VARIANCE)
                    for c, condition in choices
                ]
            )
            uniform_K = np.full(len(choices), 1 / len(choices))
            total = variance_K.sum()
            learnable_K = variance_K / total if total > 0 else uniform_K
            share_K = self._learnability * learnable_K + (1 - self._learnability) * uniform_K
            enough = int((share_K > 0).sum()) >= wanted
            for index in rng.choice(len(choices), size=wanted, replace=not enough, p=share_K):
                concept, condition = choices[index]
                tasks.append(make_task(concept, condition, kind, rng))
        return tasks

    def observe(
        self,
        tasks: Sequence[Task],
        groups_N: npt.NDArray[np.int64],
        rewards_N: npt.NDArray[np.float64],
        valid_N: npt.NDArray[np.bool_],
        *,
        of: str = "",
    ) -> None:
        """Remember the variance within each group that has at least two valid rewards.

        `of` keeps what differs for different reasons apart: "pictures/" where only the pictures of a sentence do.
        """
        for group, task in enumerate(tasks):
            rewards = rewards_N[(groups_N == group) & valid_N]
            if len(rewards) < 2:
                continue
            key, variance = f"{of}{task.kind}/{task.key}", float(rewards.var())
            before = self._variance.get(key, variance)
            self._variance[key] = _MEMORY * before + (1 - _MEMORY) * variance

    def state_dict(self) -> dict[str, Any]:
        """All that a resumed run needs, as JSON values."""
        return {"variance": self._variance}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """The inverse of `state_dict`."""
        self._variance = {key: float(value) for key, value in state["variance"].items()}
