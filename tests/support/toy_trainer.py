"""A policy of sixteen numbers and a scorer that looks at its pixels: the trainer's promises can be checked in
milliseconds.

`ToyPolicy` implements `policies.base.Policy` with independent tokens: an answer is one of four sentences, a picture is
four grey quadrants, one decided at each of four steps. `ToyScorer` stands where a `RewardEnsemble` does and returns
the same type.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from sync_r1.reward_models.types import Failure, FailureCode, Sample
from sync_r1.trainer_client.config import TrainConfig
from sync_r1.trainer_client.policies.base import Answers, ImageState, Question
from sync_r1.trainer_client.sdk import combination
from sync_r1.trainer_client.sdk.ensemble import EnsembleResult, RewardResult
from sync_r1.trainer_client.tasks.tasks import Task, make_task, prompts
from sync_r1.trainer_client.tasks.unifybench import UnifyBench

SENTENCES = ("yes .", "no .", "<bo> is blue .", "<bo> lives in the forest .")
LEVELS = 3
TOKENS = 4
END = len(SENTENCES)
REWARDS = ("concept-consistency", "text-faithfulness", "aesthetic", "understanding-correctness")
Judge = Callable[[Sample], dict[str, float | None]]


def sample_task(bench: UnifyBench, kind: Literal["u", "r"], rng: np.random.Generator) -> Task:
    """A training task for a prompt drawn uniformly; in training `Curriculum` draws."""
    choices = prompts(bench, kind)
    concept, condition = choices[int(rng.integers(len(choices)))]
    return make_task(concept, condition, kind, rng)


class ToyPolicy:
    """Starts indifferent between all sentences and grey levels."""

    steps = TOKENS
    guidance = 0.0

    def __init__(self) -> None:
        self.sentence_logits = nn.Parameter(torch.zeros(len(SENTENCES)))
        self.grey_logits = nn.Parameter(torch.zeros(TOKENS, LEVELS))

    def answer(
        self, questions: Sequence[Question], *, temperature: float, generator: torch.Generator | None
    ) -> Answers:
        rows = len(questions)
        logits = self.sentence_logits.detach().expand(rows, -1)
        chosen = logits.argmax(-1, keepdim=True) if temperature == 0 else _draw(logits, generator)
        codes = torch.zeros(rows, 1) if questions[0].image is not None else None
        return Answers(
            prompt_ids_N_P=torch.zeros(rows, 2 + len(questions[0].text) % 3, dtype=torch.long),
            tokens_N_L=torch.cat([chosen, torch.full((rows, 1), END)], 1),
            mask_N_L=torch.tensor([[True, False]]).expand(rows, -1),
            texts=[SENTENCES[index] for index in chosen[:, 0].tolist()],
            images_codes_N_I=codes,
            temperature=temperature,
        )

    def answer_log_probs(self, answers: Answers) -> Tensor:
        picked = torch.log_softmax(self.sentence_logits, -1)[answers.tokens_N_L.clamp(max=END - 1)]
        return torch.where(answers.mask_N_L, picked, 0.0)

    def start(self, prompts: Sequence[str]) -> ImageState:
        rows = len(prompts)
        return ImageState(
            torch.zeros(rows, 3, dtype=torch.long),
            torch.full((rows, TOKENS), -1),
            torch.full((rows, TOKENS), self.steps),
            0,
            0,
        )

    def advance(
        self, state: ImageState, until_step: int, *, temperature: float, generator: torch.Generator | None
    ) -> ImageState:
        tokens, decided = state.tokens_N_I.clone(), state.decided_at_N_I.clone()
        for step in range(state.step, until_step):
            tokens[:, step] = _draw(self.grey_logits[step].detach().expand(len(state), -1), generator)[:, 0]
            decided[:, step] = step
        return ImageState(state.prompt_ids_N_P, tokens, decided, until_step, state.pad_id, temperature)

    def preview(self, state: ImageState) -> npt.NDArray[np.uint8]:
        filled = torch.where(state.tokens_N_I < 0, self.grey_logits.argmax(-1), state.tokens_N_I)
        return _paint(filled)

    def decode(self, state: ImageState) -> npt.NDArray[np.uint8]:
        assert (state.tokens_N_I >= 0).all()
        return _paint(state.tokens_N_I)

    def image_log_probs(self, state: ImageState, steps: Sequence[int] | None = None) -> Tensor:
        log_probs = torch.log_softmax(self.grey_logits, -1).expand(len(state), -1, -1)
        picked = log_probs.gather(2, state.tokens_N_I.clamp(min=0)[..., None])[..., 0]
        wanted = torch.isin(state.decided_at_N_I, torch.tensor(range(self.steps) if steps is None else list(steps)))
        return torch.where(wanted, picked, 0.0)

    def parameters(self) -> Iterator[nn.Parameter]:
        yield self.sentence_logits
        yield self.grey_logits

    def save(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        torch.save([parameter.detach() for parameter in self.parameters()], folder / "toy.pt")

    @classmethod
    def load(cls, folder: Path) -> ToyPolicy:
        policy = cls()
        for parameter, values in zip(policy.parameters(), torch.load(folder / "toy.pt")):
            parameter.data.copy_(values)
        return policy


def _draw(logits: Tensor, generator: torch.Generator | None) -> Tensor:
    return torch.multinomial(torch.softmax(logits, -1), 1, generator=generator)


def _paint(tokens: Tensor) -> npt.NDArray[np.uint8]:
    grey = (tokens.view(-1, 2, 2) * (255 // (LEVELS - 1))).numpy().astype(np.uint8)
    return np.repeat(grey.repeat(32, axis=1).repeat(32, axis=2)[..., None], 3, axis=3)


def brightness(sample: Sample) -> float:
    """Mean pixel in [0, 1]."""
    assert sample.image is not None
    return float(sample.image.pixels.mean() / 255)


def bright_and_yes(sample: Sample) -> dict[str, float | None]:
    """Bright pictures and the answer "yes ." are what is wanted; None would be a failed score."""
    bright = brightness(sample)
    right = float(sample.answer == "yes .")
    return dict.fromkeys(REWARDS[:3], bright) | {"understanding-correctness": right}


@dataclass
class ToyScorer:
    """Scores with a plain function; remembers what it was sent."""

    judge: Judge = bright_and_yes
    weights: dict[str, float] = field(default_factory=lambda: dict(zip(REWARDS, (0.26, 0.26, 0.13, 0.35))))
    requests: list[list[Sample]] = field(default_factory=list)

    async def score(self, samples: Sequence[Sample], *, timeout_s: float | None = None) -> EnsembleResult:
        self.requests.append(list(samples))
        judged = [self.judge(sample) for sample in samples]
        rewards = {name: self._reward(name, [scores[name] for scores in judged]) for name in self.weights}
        groups_N = combination.group_numbers([sample.group for sample in samples])
        failed_R_N = np.stack([reward.failed_N for reward in rewards.values()])
        kept_N = combination.kept_items(failed_R_N, ["drop_item"] * len(rewards), groups_N)
        parts_R_N = combination.weighted_sum(
            np.stack([reward.scores_N for reward in rewards.values()]),
            np.stack([reward.valid_N for reward in rewards.values()]) & kept_N,
            np.array(list(self.weights.values())),
        )
        total_N = parts_R_N.sum(0)
        return EnsembleResult(rewards, dict(zip(rewards, parts_R_N)), total_N, np.isfinite(total_N), groups_N, 0.0)

    def _reward(self, name: str, values: Sequence[float | None]) -> RewardResult:
        scores_N = np.array([np.nan if value is None else value for value in values], dtype=np.float64)
        failures = {
            index: Failure(FailureCode.INTERNAL, "the toy failed on purpose")
            for index, value in enumerate(values)
            if value is None
        }
        return RewardResult(
            reward=name, variant="toy", release="0" * 64,
            raw_N=scores_N, scores_N=scores_N, valid_N=~np.isnan(scores_N),
            components={"grey": scores_N}, not_applicable={}, failures=failures, error=None, timings=(), elapsed_s=0.0,
        )  # fmt: skip


class Toys:
    """Toy scorers of everything, of answers and of pictures: what a tree needs."""

    def __init__(self, judge: Judge = bright_and_yes) -> None:
        self.total, self.answers = ToyScorer(judge), ToyScorer(judge, {REWARDS[3]: 0.4})
        self.pictures = ToyScorer(judge, dict.fromkeys(REWARDS[:3], 0.2))
        for scorer in (self.answers, self.pictures):
            scorer.judge = lambda sample, judge=judge: _judged(sample, judge)

    def sent(self, scorer: ToyScorer) -> list[list[Sample]]:
        """Requests of steps, without those of measurements."""
        return [request for request in scorer.requests if not request[0].id.startswith("held-out")]


def _judged(sample: Sample, judge: Judge) -> dict[str, float | None]:
    """An answer is scored without a picture."""
    if sample.image is None:
        return {REWARDS[3]: float(sample.answer == "yes .")}
    return judge(sample)


def toy_config(**changes: object) -> TrainConfig:
    """A run of a few fast steps; `changes` replace whole sections or values."""
    values: dict[str, object] = {
        "steps": 12,
        "checkpoint_every": 4,
        "rewards": {name: {"weight": weight} for name, weight in zip(REWARDS, (0.26, 0.26, 0.13, 0.35))},
        "sampling": {"prompts": 3, "group_size": 6},
        "selector": {"kind": "none"},
        "objective": {"answer_tokens": 1, "beta": 0.0},
        "optimiser": {"learning_rate": 0.3, "warmup_steps": 0},
        "evaluation": {"pictures_per_condition": 4, "shown": 4},
    }
    return TrainConfig.model_validate(values | changes)
