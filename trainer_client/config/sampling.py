"""`sampling` and `schedule`: how trajectories are drawn, and what each step draws and learns."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from pydantic import Field

from sync_r1.trainer_client.config.section import Section


class SamplingConfig(Section):
    """How trajectories are drawn from the policy."""

    prompts: int = Field(default=6, ge=1)
    """Groups per step; a group shares one question and one condition."""
    group_size: int = Field(default=8, ge=2)
    """Trajectories per group (G): answers to one prompt (K), each with a picture unless the next keys say otherwise."""
    pictures_per_answer: int = Field(default=1, ge=1)
    """Pictures drawn from one answer's sentence (M). From 2 on a picture is credited against the other pictures of the
    *same* sentence (`sync_grpo.tree_credit`); with 1 against its group.
    """
    pictured_answers: int | None = Field(default=None, ge=1)
    """How many of a group's answers (m of K), drawn at random, get pictures; all of them are scored and learnt from.
    None = all.
    """
    sentence: Literal["own", "true"] = "own"
    """What pictures are drawn from: the sentence of the policy's own answer, or the right one (only in a phase of
    `schedule` that learns pictures).
    """
    recall_share: float = Field(default=0.5, ge=0, le=1)
    """Share of groups with task r (recall a fact from text); the others are task u (a question about a picture)."""
    learnability: float = Field(default=0.8, ge=0, le=1)
    """Share of groups drawn in proportion to how much their prompt's rewards varied; 0 = all uniformly
    (`curriculum.py`).
    """
    temperature: float = Field(default=1.0, gt=0)
    """Of the tokens. 1 keeps samples on-policy: the loss uses the policy's own probabilities."""
    chunks: int = Field(default=1, ge=1)
    """Parts (of whole groups) in which a batch is sampled; each is scored, and its gate asked, while others are
    sampled, so a run with a gate waits for it only with one part. The draws differ from those of another number, not
    their distribution.
    """
    rollout_rows_max: int = Field(default=64, ge=1)
    """Most trajectories that the policy draws at once; bounds memory."""


class PhaseConfig(Section):
    """So many updates that learn one thing; what is None is as in `sampling`."""

    updates: int = Field(ge=1)
    learn: Literal["both", "answers", "pictures"] = "both"
    """"answers": no picture is drawn, answers learn from the answers' reward. "pictures": one sentence per prompt, and
    `pictures_per_answer` pictures of it that learn from the pictures' rewards.
    """
    prompts: int | None = Field(default=None, ge=1)
    group_size: int | None = Field(default=None, ge=2)
    pictures_per_answer: int | None = Field(default=None, ge=1)
    pictured_answers: int | None = Field(default=None, ge=1)
    sentence: Literal["own", "true"] | None = None
    recall_share: float | None = Field(default=None, ge=0, le=1)


@dataclass(frozen=True)
class StepSampling:
    """What one step draws and learns: `sampling`, as the phase that the step belongs to changes it."""

    learn: Literal["both", "answers", "pictures"]
    prompts: int
    answers: int
    """Per prompt (K)."""
    pictured: int
    """Of these, with pictures (m)."""
    pictures: int
    """Per pictured answer (M)."""
    sentence: Literal["own", "true"]
    recall_share: float

    @property
    def tree(self) -> bool:
        """Whether it is other than plain groups: one answer, one picture each."""
        return self.learn != "both" or self.pictures > 1 or self.pictured < self.answers
