"""What the trainer asks of a policy: answer questions, draw pictures in steps, and give log-probabilities of both.

Where you are: `pocket/`, `showo/` and `janus/` (each in its `policy.py`) implement this; rollout, gate and loss use
only what is here. Shapes: N rows, L answer tokens, I image tokens, T decoding steps. A decoding step decides some image
tokens (masked decoding: the most confident ones; autoregressive: the next row of the grid); `ImageState` records when
each was decided, which is enough to rebuild every state on the way: at step t exactly the tokens with `decided_at < t`
are visible.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn


@dataclass(frozen=True)
class Question:
    """A question to the policy; `image` is RGB uint8 (H, W, 3), None where there is none to look at."""

    text: str
    image: npt.NDArray[np.uint8] | None = None


@dataclass(frozen=True)
class Answers:
    """Sampled answers with all that their log-probabilities need.

    `prompt_ids_N_P` holds the questions' ids in the answering layout, padded on the left; `tokens_N_L` the answers,
    padded on the right; `mask_N_L` is True for real answer tokens including the end token; `images_codes_N_I` what the
    policy read of the pictures looked at (their codes, or for a vision encoder pixels, one row each), None without any.
    `temperature` is the one they were sampled at, `pad_id` what questions are padded with.
    """

    prompt_ids_N_P: Tensor
    tokens_N_L: Tensor
    mask_N_L: Tensor
    texts: list[str]
    images_codes_N_I: Tensor | None = None
    temperature: float = 1.0
    pad_id: int = 0

    def select(self, indices: Sequence[int]) -> Answers:
        """The rows `indices`, in that order."""
        rows = torch.as_tensor(list(indices), dtype=torch.long)
        codes = None if self.images_codes_N_I is None else self.images_codes_N_I[rows]
        texts = [self.texts[i] for i in rows.tolist()]
        return Answers(
            self.prompt_ids_N_P[rows],
            self.tokens_N_L[rows],
            self.mask_N_L[rows],
            texts,
            codes,
            self.temperature,
            self.pad_id,
        )


@dataclass(frozen=True)
class ImageState:
    """Pictures in the making.

    `prompt_ids_N_P`: the prompts' ids in the drawing layout, padded on the left. `tokens_N_I`: image codes 0…codes−1,
    −1 where masked. `decided_at_N_I`: the step at which each token was decided, T where it is not yet. `step`: steps
    taken so far, 0…T.
    """

    prompt_ids_N_P: Tensor
    tokens_N_I: Tensor
    decided_at_N_I: Tensor
    step: int
    pad_id: int
    temperature: float = 1.0

    def __len__(self) -> int:
        return int(self.tokens_N_I.shape[0])

    def select(self, indices: Sequence[int]) -> ImageState:
        """The rows `indices`, in that order (repeats allowed)."""
        rows = torch.as_tensor(list(indices), dtype=torch.long)
        return ImageState(
            self.prompt_ids_N_P[rows],
            self.tokens_N_I[rows],
            self.decided_at_N_I[rows],
            self.step,
            self.pad_id,
            self.temperature,
        )

    @staticmethod
    def concatenate(states: Sequence[ImageState]) -> ImageState:
        """The rows of all `states`, which must be at the same step.

        Raises:
            ValueError: no states, or states at different steps or temperatures.
        """
        if len({(state.step, state.temperature) for state in states}) != 1:
            found = sorted({(state.step, state.temperature) for state in states})
            raise ValueError(
                f"states must be at one step and temperature, got (step, temperature) {found}; "
                "advance them to the same step"
            )
        longest = max(state.prompt_ids_N_P.shape[1] for state in states)
        prompts = [
            nn.functional.pad(state.prompt_ids_N_P, (longest - state.prompt_ids_N_P.shape[1], 0), value=state.pad_id)
            for state in states
        ]
        return ImageState(
            torch.cat(prompts),
            torch.cat([state.tokens_N_I for state in states]),
            torch.cat([state.decided_at_N_I for state in states]),
            states[0].step,
            states[0].pad_id,
            states[0].temperature,
        )


class Policy(Protocol):
    """A unified model that answers and draws.

    Its network may live on a graphics card; what goes in and out, log-probabilities with their gradient included, is on
    the CPU, and so are the generators: the trainer needs no device, and a seed means the same draws everywhere.
    """

    steps: int
    """T, the decoding steps of a picture."""

    guidance: float
    """Classifier-free guidance of sampling and of `image_log_probs`, counted as the model's own code does (see
    `config.PolicyConfig`); none needs half the computation.
    """

    def answer(
        self, questions: Sequence[Question], *, temperature: float, generator: torch.Generator | None
    ) -> Answers:
        """Sample an answer to each question, untruncated; temperature 0 is greedy."""

    def answer_log_probs(self, answers: Answers) -> Tensor:
        """Log-probability (N, L) of each answer token, with gradient; 0 where `mask_N_L` is False."""

    def start(self, prompts: Sequence[str]) -> ImageState:
        """All-masked pictures for the prompts."""

    def advance(
        self, state: ImageState, until_step: int, *, temperature: float, generator: torch.Generator | None
    ) -> ImageState:
        """Decode up to `until_step` (T finishes the pictures)."""

    def preview(self, state: ImageState) -> npt.NDArray[np.uint8]:
        """What is known of the pictures so far, for a gate to look at; `state` stays as it is. uint8 (N, H', W, 3).

        A masked model fills every masked token greedily; an autoregressive one shows the rows it has drawn.
        """

    def decode(self, state: ImageState) -> npt.NDArray[np.uint8]:
        """Finished pictures, uint8 (N, H, W, 3)."""

    def image_log_probs(self, state: ImageState, steps: Sequence[int] | None = None) -> Tensor:
        """Log-probability (N, I) of each token at the step that decided it, with gradient; 0 for other steps' tokens.

        `steps` None means all; summing over disjoint sets of steps gives the same, so callers may micro-batch over
        steps.
        """

    def parameters(self) -> Iterator[nn.Parameter]:
        """What reinforcement learning trains."""

    def save(self, folder: Path) -> None:
        """Write weights (safetensors) and `config.json`."""
