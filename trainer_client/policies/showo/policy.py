"""A Show-o-style policy: answers questions and draws pictures by masked decoding, whatever its size.

Where you are: this implements `base.Policy` with `network.py` (network), `image_tokenizer.py` (pictures ↔ tokens), a
`TextTokenizer` (text ↔ tokens) and `masked_decoding.py` (the schedule). `from_pretrained` makes one of Show-o's
published weights; `policies/pocket/policy.py` is the small one that is checked in. Text before an image never sees the
image, so a prompt is read once and its keys and values serve all decoding steps; heads are computed only for the rows
and the part of the vocabulary that is needed. What goes in and out is on the CPU, the network wherever its weights are.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from sync_r1.trainer_client.policies.base import Answers, ImageState, Question
from sync_r1.trainer_client.policies.sampling import draw
from sync_r1.trainer_client.policies.showo import weights as published
from sync_r1.trainer_client.policies.showo.image_tokenizer import Magvit, prepared
from sync_r1.trainer_client.policies.showo.masked_decoding import (
    guided_log_probs,
    gumbel,
    masked_again,
    masked_counts,
    noise_temperatures,
)
from sync_r1.trainer_client.policies.showo.network import Prefix, Showo, attention_allowed, repeat_prefix
from sync_r1.trainer_client.policies.text import TextTokenizer

MASKED = -1
"""In `ImageState.tokens_N_I`: not decided yet."""


class ShowoPolicy:
    """See `base.Policy` for the methods' contracts. The tokenizer is frozen; `parameters()` are the network's.

    `guidance`: classifier-free guidance g; logits are (1+g)·conditional − g·unconditional. `noise`: the initial scale
    τ of the Gumbel noise on the confidence by which tokens are masked again. The defaults are the public release's.
    """

    max_answer_tokens = 100
    needs_picture = True
    """A question without a picture is asked about a black one: the published weights never saw a question alone."""

    def __init__(
        self,
        model: Showo,
        tokenizer: Magvit,
        words: TextTokenizer,
        *,
        steps: int = 50,
        guidance: float = 5.0,
        noise: float = 1.0,
    ) -> None:
        self.model = model.eval()
        self.tokenizer = tokenizer.eval().requires_grad_(False)
        self.words = words
        self.steps = steps
        self.guidance = guidance
        self.noise = noise
        self.folders: published.Folders | None = None
        """Where the tokenizers came from, for `save`."""

    def answer(
        self, questions: Sequence[Question], *, temperature: float = 1.0, generator: torch.Generator | None = None
    ) -> Answers:
        """Sample an answer to each question; questions with and without a picture may be mixed.

        Raises:
            ValueError: no questions, a question without words or longer than the limit, or a picture of another size.
        """
        prompt_ids, codes = self._question_ids(questions)
        return self._sample_answers(prompt_ids, codes, temperature, generator)

    @torch.no_grad()
    def _sample_answers(
        self, prompt_ids: Tensor, codes: Tensor | None, temperature: float, generator: torch.Generator | None
    ) -> Answers:
        config = self.model.config
        ids = prompt_ids.to(self.model.device)
        hidden, cache = self.model.hidden(ids, attention_allowed(ids, config, image_first=True))
        seen = ids != config.special("<|pad|>")
        running = torch.ones_like(seen[:, 0])
        tokens: list[Tensor] = []
        masks: list[Tensor] = []
        last = hidden[:, -1]
        while running.any() and len(tokens) < self.max_answer_tokens:
            sampled = draw(self.model.text_logits(last), temperature, generator)
            sampled = torch.where(running, sampled, self.words.end_id)
            tokens.append(sampled)
            masks.append(running)
            running = running & (sampled != self.words.end_id)
            if running.any() and len(tokens) < self.max_answer_tokens:
                seen = torch.cat([seen, torch.ones_like(seen[:, :1])], 1)
                step_hidden, cache = self.model.hidden(sampled[:, None], seen[:, None, None], cache)
                last = step_hidden[:, 0]
        tokens_N_L = torch.stack(tokens, 1).cpu()
        texts = [self.words.decode(row) for row in tokens_N_L.tolist()]
        pad_id = config.special("<|pad|>")
        return Answers(prompt_ids, tokens_N_L, torch.stack(masks, 1).cpu(), texts, codes, temperature, pad_id)

    def answer_log_probs(self, answers: Answers) -> Tensor:
        """Log-probabilities (N, L) with gradient, over the text vocabulary, at the temperature of sampling (greedy:
        at 1).
        """
        config = self.model.config
        length = answers.tokens_N_L.shape[1]
        ids = torch.cat([answers.prompt_ids_N_P, answers.tokens_N_L[:, :-1]], 1).to(self.model.device)
        hidden, _ = self.model.hidden(ids, attention_allowed(ids, config, image_first=True))
        logits = self.model.text_logits(hidden[:, -length:]).float() / (answers.temperature or 1.0)
        picked = torch.log_softmax(logits, -1).gather(2, answers.tokens_N_L[..., None].to(ids.device))[..., 0]
        return torch.where(answers.mask_N_L, picked.cpu(), 0.0)

    def _question_ids(self, questions: Sequence[Question]) -> tuple[Tensor, Tensor | None]:
        config = self.model.config
        size = self.tokenizer.config.image_size
        black = np.zeros((size, size, 3), np.uint8) if self.needs_picture else None
        pictures = [prepared(question.image, size) if question.image is not None else black for question in questions]
        shown = [picture for picture in pictures if picture is not None]
        codes = self.tokenizer.encode(shown).cpu() if shown else None
        rows, seen = [], 0
        for question, picture in zip(questions, pictures):
            row = [config.special("<|mmu|>")]
            if picture is not None and codes is not None:
                image_ids = (codes[seen] + config.first_code_id).tolist()
                row += [config.special("<|soi|>"), *image_ids, config.special("<|eoi|>")]
                seen += 1
            rows.append(row + self.words.question(question.text))
        return self._pad_left(rows), codes

    def _pad_left(self, rows: list[list[int]]) -> Tensor:
        if not rows:
            raise ValueError("expected at least one text, got none")
        pad = self.model.config.special("<|pad|>")
        longest = max(len(row) for row in rows)
        return torch.tensor([[pad] * (longest - len(row)) + row for row in rows])

    def start(self, prompts: Sequence[str]) -> ImageState:
        """All-masked pictures.

        Raises:
            ValueError: no prompts, or a prompt without words or longer than the limit.
        """
        config = self.model.config
        ids = self._pad_left([[config.special("<|t2i|>"), *self.words.prompt(prompt)] for prompt in prompts])
        shape = (len(prompts), config.image_tokens)
        return ImageState(ids, torch.full(shape, MASKED), torch.full(shape, self.steps), 0, config.special("<|pad|>"))

    @torch.no_grad()
    def advance(
        self, state: ImageState, until_step: int, *, temperature: float = 1.0, generator: torch.Generator | None = None
    ) -> ImageState:
        """Decode from `state.step` up to `until_step`.

        Raises:
            ValueError: `until_step` is not after `state.step`, or beyond the last step.
        """
        if not state.step < until_step <= self.steps:
            raise ValueError(f"until_step must be in {state.step + 1}…{self.steps}, got {until_step}")
        config = self.model.config
        tokens, decided_at = state.tokens_N_I.to(self.model.device), state.decided_at_N_I.to(self.model.device)
        counts = masked_counts(config.image_tokens, self.steps)
        taus = noise_temperatures(self.noise, self.steps)
        prefixes = self._read_prompts(state.prompt_ids_N_P)
        for step in range(state.step, until_step):
            masked = tokens == MASKED
            log_probs = self._code_log_probs(tokens, prefixes, masked, temperature)
            sampled = draw(log_probs, 1.0 if temperature > 0 else 0.0, generator)
            picked = torch.full(tokens.shape, torch.inf, device=tokens.device)
            picked[masked] = log_probs.gather(1, sampled[:, None])[:, 0].exp()
            again = torch.zeros_like(masked)
            if counts[step]:
                lengths = torch.full((len(tokens), 1), counts[step], device=tokens.device)
                tau = taus[step] if temperature > 0 else 0.0
                again = masked_again(picked, gumbel(tokens.shape, generator).to(tokens.device), lengths, tau)
            filled = tokens.masked_scatter(masked, sampled)
            decided = masked & ~again
            tokens = torch.where(decided, filled, tokens)
            decided_at = torch.where(decided, step, decided_at)
        prompt_ids, pad_id = state.prompt_ids_N_P, state.pad_id
        return ImageState(prompt_ids, tokens.cpu(), decided_at.cpu(), until_step, pad_id, temperature)

    @torch.no_grad()
    def preview(self, state: ImageState) -> npt.NDArray[np.uint8]:
        """The pictures with every masked token filled by its most probable code; `state` stays as it is."""
        tokens = state.tokens_N_I.to(self.model.device)
        masked = tokens == MASKED
        if not masked.any():
            return self.decode(state)
        log_probs = self._code_log_probs(tokens, self._read_prompts(state.prompt_ids_N_P), masked, 1.0)
        return self.tokenizer.decode(tokens.masked_scatter(masked, log_probs.argmax(-1)))

    def decode(self, state: ImageState) -> npt.NDArray[np.uint8]:
        """Finished pictures.

        Raises:
            ValueError: some tokens are still masked.
        """
        if (state.tokens_N_I == MASKED).any():
            raise ValueError(
                f"the pictures are at step {state.step} of {self.steps}; advance them to the end, or use preview"
            )
        return self.tokenizer.decode(state.tokens_N_I)

    def image_log_probs(self, state: ImageState, steps: Sequence[int] | None = None) -> Tensor:
        """Log-probabilities (N, I) with gradient; 0 for tokens not decided at one of `steps` (None: all steps
        taken).
        """
        wanted = list(range(state.step)) if steps is None else list(steps)
        rows, times = len(state), len(wanted)
        prefixes = self._read_prompts(state.prompt_ids_N_P, times)
        at = torch.tensor(wanted)[None, :, None]
        decided_at = state.decided_at_N_I[:, None]
        # One row per (picture, step): what was visible then; a token is scored in the one row whose step decided it.
        tokens = torch.where(decided_at < at, state.tokens_N_I[:, None], MASKED).reshape(rows * times, -1)
        scored = (decided_at == at).reshape(rows * times, -1)
        device = self.model.device
        log_probs = self._code_log_probs(tokens.to(device), prefixes, scored.to(device), state.temperature or 1.0)
        codes = state.tokens_N_I[:, None].expand(rows, times, -1).reshape(rows * times, -1)[scored]
        values = log_probs.gather(1, codes[:, None].to(device))[:, 0].cpu()
        full = torch.zeros(scored.shape, dtype=values.dtype).masked_scatter(scored, values)
        return full.view(rows, times, -1).sum(1)

    def _read_prompts(self, prompt_ids: Tensor, times: int = 1) -> list[tuple[Prefix, Tensor]]:
        """Keys, values and real positions of the prompts, each `times` times; with guidance also of the empty
        prompt.
        """
        config = self.model.config
        ids = prompt_ids.to(self.model.device)
        _, conditional = self.model.hidden(ids, attention_allowed(ids, config, image_first=False))
        real = ids != config.special("<|pad|>")
        prefixes = [(repeat_prefix(conditional, times), real.repeat_interleave(times, 0))]
        if self.guidance > 0:
            empty = torch.tensor([[config.special("<|t2i|>"), *self.words.empty_prompt]], device=ids.device)
            _, prefix = self.model.hidden(empty, attention_allowed(empty, config, image_first=False))
            rows = len(ids) * times
            prefixes.append((repeat_prefix(prefix, rows), torch.ones_like(empty, dtype=torch.bool).expand(rows, -1)))
        return prefixes

    def _code_log_probs(
        self, tokens: Tensor, prefixes: list[tuple[Prefix, Tensor]], scored: Tensor, temperature: float
    ) -> Tensor:
        """Guided log-probabilities (number of True in `scored`, codes) at the scored positions of masked pictures
        (rows, I).
        """
        config = self.model.config
        ids = torch.where(tokens == MASKED, config.mask_id, tokens + config.first_code_id)
        ends = [torch.full_like(ids[:, :1], config.special(name)) for name in ("<|soi|>", "<|eoi|>")]
        block = torch.cat([ends[0], ids, ends[1]], 1)
        logits = []
        for prefix, real in prefixes:
            allowed = torch.cat([real, torch.ones_like(block, dtype=torch.bool)], 1)[:, None, None]
            hidden, _ = self.model.hidden(block, allowed, prefix)
            logits.append(self.model.code_logits(hidden[:, 1:-1][scored]).float())
        scale = temperature if temperature > 0 else 1.0
        return guided_log_probs(logits[0] / scale, logits[1] / scale if len(logits) > 1 else None, self.guidance)

    def parameters(self) -> Iterator[nn.Parameter]:
        """The network's parameters."""
        return self.model.parameters()

    def save(self, folder: Path) -> None:
        """Write the network in the published layout, and where the tokenizers' folders are.

        Raises:
            ValueError: the policy was not made by `from_pretrained`.
        """
        sampling = {"steps": self.steps, "guidance": self.guidance, "noise": self.noise}
        published.write_showo(folder, self.model, self.folders, self.words.learned, sampling)

    @classmethod
    def from_pretrained(
        cls, *, showo: Path, magvit: Path | None = None, phi: Path | None = None, dtype: torch.dtype = torch.float32
    ) -> ShowoPolicy:
        """Load the published folders show-o-512x512, magvitv2 and phi-1.5.

        `showo` may be a folder that `save` wrote; it knows where the other two are, so they may be left out with it.

        Raises:
            published.WeightsError: a file is missing, or a key or size is not what it should be.
        """
        settings = published.read_settings(showo, magvit, phi)
        words = published.read_text(settings)
        model = published.read_showo(settings, dtype)
        policy = cls(model, published.read_magvit(settings), words, **settings.sampling)
        policy.folders = settings.folders
        return policy
