"""Learn a concept from a few pictures: new tokens for its name and for what it is, nothing else in the policy changes.

You are before the loop: `learn.py` calls this once per concept and saves the policy, in which texts with the
concept's name use its tokens (`policies/text.py` says where they stand). The first two stages of UniCTokens (An et al.,
arXiv 2505.14671), with the settings of its public code unless marked [ours]:

1. understanding warm-up: questions about the pictures train the name and the understanding tokens; the name starts as
   the class noun, the soft tokens as the centres of the pictures' token embeddings;
2. generation: "a photo of" the concept trains all its tokens, 0.8 of the loss; questions keep 0.2.

Only the new rows of the embedding, and those of the head that let answers say the name, are parameters: the rest is
frozen [its code trains whole matrices and puts the other rows back after every step].
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from sync_r1.trainer_client.policies.cold_start.losses import answer_loss, drawing_loss, random_masks
from sync_r1.trainer_client.policies.concepts.data import ConceptData
from sync_r1.trainer_client.policies.showo.policy import ShowoPolicy
from sync_r1.trainer_client.policies.text import ConceptIds

Progress = Callable[[str, int, int], None]
"""Is told (message, steps done, steps in all)."""
_NEVER = -1e4
"""Bias of the soft tokens in the head: answers cannot say them."""


@dataclass(frozen=True)
class ConceptTraining:
    """Settings; the defaults are those of the public code for Show-o 512 with about ten pictures."""

    understanding_steps: int = 300
    generation_steps: int = 300
    rows: int = 4
    """Questions, or drawings, per step."""
    learning_rate: float = 1e-3
    drawing_share: float = 0.8
    """Of the second stage's loss."""
    seed: int = 0


POCKET_TRAINING = ConceptTraining(understanding_steps=100, generation_steps=200, rows=8, learning_rate=2e-2)
"""[ours] The pocket policy's embeddings are larger, its steps cheap."""


@dataclass(frozen=True)
class Losses:
    """Nats per answer token and per masked image token, over all questions and pictures with the same masks."""

    understanding: float
    generation: float


def learn_concept(
    policy: ShowoPolicy,
    data: ConceptData,
    settings: ConceptTraining,
    progress: Progress = lambda message, done, steps: None,
) -> tuple[Losses, Losses]:
    """Teach `policy` the concept in place; returns the losses before and after.

    Raises:
        ValueError: the policy already knows the name.
    """
    learner = ConceptLearner(policy, data, settings)
    before = learner.measure()
    total = settings.understanding_steps + settings.generation_steps
    for step in range(total):
        loss = learner.step(drawing=step >= settings.understanding_steps)
        if step % 50 == 0 or step == total - 1:
            stage = "understanding" if step < settings.understanding_steps else "generation"
            progress(f"step {step}: {stage} loss {loss:.3f}", step, total)
    after = learner.measure()
    learner.finish()
    return before, after


class ConceptLearner:
    """The new rows as the only parameters of a policy that is otherwise frozen."""

    def __init__(self, policy: ShowoPolicy, data: ConceptData, settings: ConceptTraining) -> None:
        self._settings, self._policy = settings, policy
        self._rng = np.random.default_rng(settings.seed)
        words = policy.words.learning(data.name)
        self.ids: ConceptIds = words.concept_ids(data.name)
        codes = policy.tokenizer.encode([*data.pictures, *data.others]).cpu()
        _append_tokens(policy, self.ids, policy.words.ids(data.class_noun), codes[: len(data.pictures)], self._rng)
        policy.words = words
        self._image_ids_M_I = codes + policy.model.config.first_code_id
        self._drawn = len(data.pictures)
        self._prompt = words.prompt(words.photo_of(data.name))
        black = np.zeros_like(data.pictures[0])
        nothing = policy.tokenizer.encode([black]).cpu()[0] + policy.model.config.first_code_id
        self._questions = [
            (
                words.question(question),
                words.answer(answer),
                self._image_ids_M_I[number] if number is not None else nothing if policy.needs_picture else None,
            )
            for number, question, answer in data.questions
        ]
        policy.model.requires_grad_(False)
        network = policy.model.showo
        self.embeddings = _NewRows(network.model.embed_tokens.weight, self.ids.all)
        self.head = _NewRows(network.lm_head.weight, [self.ids.name])
        self.bias = _NewRows(network.lm_head.bias, [self.ids.name])
        self._parametrized = (
            (network.model.embed_tokens, "weight", self.embeddings),
            (network.lm_head, "weight", self.head),
            (network.lm_head, "bias", self.bias),
        )
        for module, name, rows in self._parametrized:
            parametrize.register_parametrization(module, name, rows)
        parameters = [rows.rows for _, _, rows in self._parametrized]
        self._optimiser = torch.optim.AdamW(parameters, lr=settings.learning_rate, weight_decay=0.0)

    def step(self, *, drawing: bool) -> float:
        """One update on random rows; returns its loss. `drawing` is the second stage."""
        share = self._settings.drawing_share if drawing else 0.0
        rows = self._settings.rows
        # Every row of the vocabulary is put together once per step, not once per use.
        with parametrize.cached():
            loss = (1 - share) * self._understanding(self._rng.integers(len(self._questions), size=rows).tolist())
            if drawing:
                masks = random_masks(rows, self._image_ids_M_I.shape[1], self._rng)
                loss = loss + share * self._generation(self._rng.integers(self._drawn, size=rows).tolist(), masks)
            self._optimiser.zero_grad()
            loss.backward()
        self._optimiser.step()
        return float(loss.detach())

    @torch.no_grad()
    def measure(self) -> Losses:
        """Over all questions and, with four fixed masks each, all pictures of the concept."""
        masks = random_masks(4 * self._drawn, self._image_ids_M_I.shape[1], np.random.default_rng(0))
        drawn = list(range(self._drawn)) * 4
        parts = [slice(start, start + self._settings.rows) for start in range(0, len(drawn), self._settings.rows)]
        generation = [float(self._generation(drawn[part], masks[part])) * int(masks[part].sum()) for part in parts]
        every = list(range(len(self._questions)))
        tokens = [len(answer) for _, answer, _ in self._questions]
        parts = [slice(start, start + self._settings.rows) for start in range(0, len(every), self._settings.rows)]
        understanding = [float(self._understanding(every[part])) * sum(tokens[part]) for part in parts]
        return Losses(sum(understanding) / sum(tokens), sum(generation) / int(masks.sum()))

    def finish(self) -> None:
        """Put the learned rows into the policy's weights and let all of them train again."""
        for module, name, _ in self._parametrized:
            parametrize.remove_parametrizations(module, name, leave_parametrized=True)
        self._policy.model.requires_grad_(True)

    def _understanding(self, chosen: list[int]) -> Tensor:
        questions, answers, images = zip(*(self._questions[i] for i in chosen))
        return answer_loss(self._policy.model, list(questions), list(answers), list(images))

    def _generation(self, chosen: list[int], masks: Tensor) -> Tensor:
        return drawing_loss(self._policy.model, [self._prompt] * len(chosen), self._image_ids_M_I[chosen], masks)


class _NewRows(nn.Module):
    """A matrix whose rows `ids` are a parameter of their own."""

    index: Tensor

    def __init__(self, matrix: Tensor, ids: list[int]) -> None:
        super().__init__()
        self.register_buffer("index", torch.tensor(ids, device=matrix.device), persistent=False)
        self.rows = nn.Parameter(matrix.detach()[self.index].clone())

    def forward(self, matrix: Tensor) -> Tensor:
        return matrix.index_copy(0, self.index, self.rows)


def _append_tokens(
    policy: ShowoPolicy, ids: ConceptIds, class_ids: list[int], codes_M_I: Tensor, rng: np.random.Generator
) -> None:
    model = policy.model
    embeddings, head = model.showo.model.embed_tokens.weight.detach(), model.showo.lm_head
    noun = embeddings[class_ids].mean(0)
    seen = embeddings[(codes_M_I.flatten() + model.config.first_code_id).to(model.device)]
    spread = embeddings[: model.config.text_vocab].std()
    noise = torch.from_numpy(rng.standard_normal((len(ids.generation), len(noun)))).to(noun)
    # [ours] The public code leaves tokens of generation at random values (or, for humans, a face embedding).
    generation = noun + 0.5 * spread * noise
    rows = torch.cat([noun[None], _centres(seen, len(ids.understanding), rng), generation])
    weight, bias = torch.zeros_like(rows), torch.full((len(rows),), _NEVER).to(rows)
    weight[0], bias[0] = head.weight.detach()[class_ids].mean(0), head.bias.detach()[class_ids].mean()
    model.append_text_tokens(rows, weight, bias)


def _centres(values_M_H: Tensor, count: int, rng: np.random.Generator, rounds: int = 10) -> Tensor:
    """Centres of `count` clusters (k-means, Lloyd's algorithm), with repeats where there are fewer distinct values."""
    if count == 0:
        return values_M_H[:0]
    distinct = values_M_H.unique(dim=0)
    centres = distinct[torch.from_numpy(rng.permutation(len(distinct))).repeat(-(-count // len(distinct)))[:count]]
    for _ in range(rounds):
        nearest = torch.cdist(values_M_H.float(), centres.float()).argmin(1)
        for cluster in nearest.unique().tolist():
            centres[cluster] = values_M_H[nearest == cluster].mean(0)
    return centres
