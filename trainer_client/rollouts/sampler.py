"""Trajectories: an answer and the picture drawn from it, sampled step by step so that a gate can look in between.

You are between policy and selector: `Sampler` runs the policy (and counts what that costs), `dgs.py` decides which
trajectories are finished, `training/learner.py` turns them into gradients. A trajectory is kept as one-row pieces of
the policy's own batches, because selection picks rows at will; `collate_answers` and `ImageState.concatenate` put rows
back together.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import TypeVar

import torch
from torch import Tensor
from torch.nn.functional import pad

from sync_r1.reward_models.types import Pixels
from sync_r1.trainer_client.policies.base import Answers, ImageState, Policy, Question
from sync_r1.trainer_client.tasks.tasks import Task, load_pixels, prompt_of

T = TypeVar("T")


@dataclass(frozen=True)
class Trajectory:
    """One member of a group: its answer and its picture so far, each a batch of one row. Several members can share an
    answer (`node`), have no picture, or a picture of a sentence that the policy did not give.
    """

    group: int
    """Index of the group's task in the batch."""
    answer: Answers | None
    """None where the sentence was given."""
    state: ImageState | None
    """None where no picture is drawn."""
    node: int | None = None
    """In a tree (`answer_tree.py`) the index of the answer in its group, which pictures of one sentence share; None:
    the answer is this row's alone.
    """
    given: str = ""
    """The sentence, where it was given."""

    @property
    def text(self) -> str:
        """The whole answer, or the sentence that stands in for it."""
        return self.given if self.answer is None else self.answer.texts[0]

    @property
    def picture(self) -> ImageState:
        """The picture so far. Raises ValueError where none is drawn."""
        if self.state is None:
            raise ValueError("this trajectory has no picture")
        return self.state


class Sampler:
    """Draws trajectories from a policy, at most `rows_max` rows at once; `policy_steps` counts (row, decoding step)
    pairs, the step that fills a preview among them.
    """

    def __init__(self, policy: Policy, *, temperature: float, rows_max: int, generator: torch.Generator) -> None:
        self.policy, self.generator = policy, generator
        self._temperature, self._rows_max = temperature, rows_max
        self.policy_steps = 0

    def with_fresh_counter(self) -> Sampler:
        """The same policy and random numbers, with a count of its own: for one of several rollouts in turns."""
        return Sampler(self.policy, temperature=self._temperature, rows_max=self._rows_max, generator=self.generator)

    @torch.no_grad()
    def begin(self, tasks: Sequence[Task], groups: Sequence[int]) -> list[Trajectory]:
        """Answer the question of `tasks[g]` once for each g in `groups` and start a picture from it; ordered by
        group.
        """
        trajectories: list[Trajectory] = []
        for part, answers in self._answered(tasks, groups):
            states = self.policy.start([prompt_of(tasks[group], text) for group, text in zip(part, answers.texts)])
            trajectories += [
                Trajectory(group, answers.select([row]), states.select([row])) for row, group in enumerate(part)
            ]
        return sorted(trajectories, key=lambda trajectory: trajectory.group)

    @torch.no_grad()
    def answer(self, tasks: Sequence[Task], groups: Sequence[int]) -> list[Trajectory]:
        """Answer the question of `tasks[g]` once for each g in `groups`, without a picture; ordered by group."""
        trajectories = [
            Trajectory(group, answers.select([row]), None)
            for part, answers in self._answered(tasks, groups)
            for row, group in enumerate(part)
        ]
        return sorted(trajectories, key=lambda trajectory: trajectory.group)

    @torch.no_grad()
    def draw(self, tasks: Sequence[Task], trajectories: Sequence[Trajectory]) -> list[Trajectory]:
        """A finished picture for each of `trajectories`, from its sentence."""
        drawn: list[Trajectory] = []
        for part in parts_of(trajectories, self._rows_max):
            states = self.policy.start([prompt_of(tasks[one.group], one.text) for one in part])
            drawn += [replace(one, state=states.select([row])) for row, one in enumerate(part)]
        return self.advance(drawn, self.policy.steps)

    def _answered(self, tasks: Sequence[Task], groups: Sequence[int]) -> Iterator[tuple[Sequence[int], Answers]]:
        # Questions with and without a picture have different layouts, so they are answered in separate batches.
        for kind in ("u", "r"):
            for part in parts_of([group for group in groups if tasks[group].kind == kind], self._rows_max):
                questions = [_question(tasks[group]) for group in part]
                yield part, self.policy.answer(questions, temperature=self._temperature, generator=self.generator)

    @torch.no_grad()
    def advance(self, trajectories: Sequence[Trajectory], until_step: int) -> list[Trajectory]:
        """Decode the pictures up to `until_step`; all must be at the same step."""
        advanced: list[Trajectory] = []
        for part in parts_of(trajectories, self._rows_max):
            before = ImageState.concatenate([trajectory.picture for trajectory in part])
            after = self.policy.advance(before, until_step, temperature=self._temperature, generator=self.generator)
            self.policy_steps += len(part) * (after.step - before.step)
            advanced += [replace(trajectory, state=after.select([row])) for row, trajectory in enumerate(part)]
        return advanced

    def previews(self, trajectories: Sequence[Trajectory]) -> list[Pixels]:
        """What the unfinished pictures look like; the trajectories keep their masked state."""
        return self._pixels(trajectories, self.policy.preview)

    def pictures(self, trajectories: Sequence[Trajectory]) -> list[Pixels | None]:
        """The finished pictures, uint8 (H, W, 3); of truncated trajectories the preview, None where none was drawn."""
        drawn = iter(self.images([one for one in trajectories if one.state is not None]))
        return [None if one.state is None else next(drawn) for one in trajectories]

    def images(self, trajectories: Sequence[Trajectory]) -> list[Pixels]:
        """The same for trajectories that all have a picture. Raises ValueError for one that has none."""
        if any(_masked(trajectory.picture).any() for trajectory in trajectories):
            return self._pixels(trajectories, self.policy.preview)
        return self._pixels(trajectories, self.policy.decode)

    @torch.no_grad()
    def _pixels(self, trajectories: Sequence[Trajectory], draw: Callable[[ImageState], Pixels]) -> list[Pixels]:
        pictures: list[Pixels] = []
        for part in parts_of(trajectories, self._rows_max):
            state = ImageState.concatenate([trajectory.picture for trajectory in part])
            # What is masked is filled by a forward pass, as in a decoding step.
            self.policy_steps += int(_masked(state).sum())
            pictures += list(draw(state))
        return pictures


def _masked(state: ImageState) -> Tensor:
    """Which pictures (N,) have tokens that are not decided."""
    return (state.tokens_N_I < 0).any(1)


def _question(task: Task) -> Question:
    return Question(task.question, load_pixels(task.picture) if task.picture is not None else None)


def parts_of(rows: Sequence[T], size: int) -> list[Sequence[T]]:
    """`rows` in parts of at most `size`."""
    return [rows[start : start + size] for start in range(0, len(rows), size)]


def collate_answers(trajectories: Sequence[Trajectory]) -> Answers:
    """The answers of several trajectories as one batch: prompts padded on the left, answers on the right.

    Raises ValueError if one has no answer of the policy's, or if some were asked about a picture and some were not:
    their layouts differ.
    """
    rows = [trajectory.answer for trajectory in trajectories if trajectory.answer is not None]
    if len(rows) < len(trajectories):
        raise ValueError("a trajectory whose sentence was given has no answer to collate")
    codes = [row.images_codes_N_I for row in rows if row.images_codes_N_I is not None]
    if codes and len(codes) != len(rows):
        raise ValueError("answers with and without a picture cannot share a batch; collate them separately")
    prompts = max(row.prompt_ids_N_P.shape[1] for row in rows)
    tokens = max(row.tokens_N_L.shape[1] for row in rows)

    def right(values: Tensor) -> Tensor:
        return pad(values, (0, tokens - values.shape[1]))

    return Answers(
        prompt_ids_N_P=torch.cat(
            [pad(row.prompt_ids_N_P, (prompts - row.prompt_ids_N_P.shape[1], 0), value=row.pad_id) for row in rows]
        ),
        tokens_N_L=torch.cat([right(row.tokens_N_L) for row in rows]),
        mask_N_L=torch.cat([right(row.mask_N_L) for row in rows]),
        texts=[row.texts[0] for row in rows],
        images_codes_N_I=torch.cat(codes) if codes else None,
        temperature=rows[0].temperature,
        pad_id=rows[0].pad_id,
    )
