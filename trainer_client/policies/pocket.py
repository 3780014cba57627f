"""The pocket policy: a small Show-o-style model that answers questions and draws 64×64 pictures, on two CPU cores.

Where you are: this implements `base.Policy` with `showo.py` (network), `magvit.py` (pictures ↔ tokens), `words.py`
(text ↔ tokens) and `masked_decoding.py` (the schedule). Text before an image never sees the image, so a prompt is
read once and its keys and values serve all decoding steps; heads are computed only for the rows and the part of the
vocabulary that is needed.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from sync_r1.trainer_client.policies.base import Answers, ImageState, Question
from sync_r1.trainer_client.policies.magvit import Magvit
from sync_r1.trainer_client.policies.masked_decoding import (
    guided_log_probs,
    gumbel,
    masked_again,
    masked_counts,
    noise_temperatures,
)
from sync_r1.trainer_client.policies.sampling import draw
from sync_r1.trainer_client.policies.showo import Prefix, Showo, ShowoConfig, attention_allowed, repeat_prefix
from sync_r1.trainer_client.policies.words import Words

ARTEFACTS = Path(__file__).parent / "artefacts"
MASKED = -1
"""In `ImageState.tokens_N_I`: not decided yet."""
MAX_ANSWER_TOKENS = 16
MAX_PROMPT_TOKENS = 96


class PocketPolicy:
    """See `base.Policy` for the methods' contracts. The tokenizer is frozen; `parameters()` are the network's.

    `guidance`: classifier-free guidance g; logits are (1+g)·conditional − g·unconditional. `noise`: the initial scale
    τ of the Gumbel noise on the confidence by which tokens are masked again.
    """

    def __init__(
        self,
        model: Showo,
        tokenizer: Magvit,
        words: Words,
        *,
        steps: int = 8,
        guidance: float = 0.0,
        noise: float = 1.0,
    ) -> None:
        self.model = model.eval()
        self.tokenizer = tokenizer.eval().requires_grad_(False)
        self.words = words
        self.steps = steps
        self.guidance = guidance
        self.noise = noise

    # --- answers
    # -------------------------------------------------------------------------------------------------------------

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
        pad = config.special("<|pad|>")
        hidden, cache = self.model.hidden(prompt_ids, attention_allowed(prompt_ids, config, image_first=True))
        seen = prompt_ids != pad
        running = torch.ones(len(prompt_ids), dtype=torch.bool)
        tokens: list[Tensor] = []
        masks: list[Tensor] = []
        last = hidden[:, -1]
        while running.any() and len(tokens) < MAX_ANSWER_TOKENS:
            sampled = draw(self.model.text_logits(last), temperature, generator)
            sampled = torch.where(running, sampled, self.words.end_id)
            tokens.append(sampled)
            masks.append(running)
            running = running & (sampled != self.words.end_id)
            if running.any() and len(tokens) < MAX_ANSWER_TOKENS:
                seen = torch.cat([seen, torch.ones(len(seen), 1, dtype=torch.bool)], 1)
                step_hidden, cache = self.model.hidden(sampled[:, None], seen[:, None, None], cache)
                last = step_hidden[:, 0]
        tokens_N_L = torch.stack(tokens, 1)
        texts = [self.words.decode(row) for row in tokens_N_L.tolist()]
        return Answers(prompt_ids, tokens_N_L, torch.stack(masks, 1), texts, codes, temperature)

    def answer_log_probs(self, answers: Answers) -> Tensor:
        """Log-probabilities (N, L) with gradient, over the text vocabulary, at the temperature of sampling (greedy:
        at 1).
        """
        config = self.model.config
        length = answers.tokens_N_L.shape[1]
        ids = torch.cat([answers.prompt_ids_N_P, answers.tokens_N_L[:, :-1]], 1)
        hidden, _ = self.model.hidden(ids, attention_allowed(ids, config, image_first=True))
        logits = self.model.text_logits(hidden[:, -length:]).float() / (answers.temperature or 1.0)
        picked = torch.log_softmax(logits, -1).gather(2, answers.tokens_N_L[..., None])[..., 0]
        return torch.where(answers.mask_N_L, picked, 0.0)

    def _question_ids(self, questions: Sequence[Question]) -> tuple[Tensor, Tensor | None]:
        config = self.model.config
        images = [question.image for question in questions if question.image is not None]
        codes = self.tokenizer.encode(images) if images else None
        rows, seen = [], 0
        for question in questions:
            row = [config.special("<|mmu|>")]
            if question.image is not None and codes is not None:
                image_ids = (codes[seen] + config.first_code_id).tolist()
                row += [config.special("<|soi|>"), *image_ids, config.special("<|eoi|>")]
                seen += 1
            rows.append(row + self._text_ids(question.text, soft_tokens=False))
        return self._pad_left(rows), codes

    def _text_ids(self, text: str, *, soft_tokens: bool) -> list[int]:
        ids = self.words.encode(text, soft_tokens=soft_tokens)
        if not 1 <= len(ids) <= MAX_PROMPT_TOKENS:
            raise ValueError(
                f"a text needs 1 to {MAX_PROMPT_TOKENS} words, got {len(ids)}: {text[:80]!r}; shorten or fill it"
            )
        return ids

    def _pad_left(self, rows: list[list[int]]) -> Tensor:
        if not rows:
            raise ValueError("expected at least one text, got none")
        pad = self.model.config.special("<|pad|>")
        longest = max(len(row) for row in rows)
        return torch.tensor([[pad] * (longest - len(row)) + row for row in rows])

    # --- pictures
    # ------------------------------------------------------------------------------------------------------------

    def start(self, prompts: Sequence[str]) -> ImageState:
        """All-masked pictures.

        Raises:
            ValueError: no prompts, or a prompt without words or longer than the limit.
        """
        config = self.model.config
        ids = self._pad_left(
            [[config.special("<|t2i|>"), *self._text_ids(prompt, soft_tokens=True)] for prompt in prompts]
        )
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
        tokens, decided_at = state.tokens_N_I.clone(), state.decided_at_N_I.clone()
        counts = masked_counts(config.image_tokens, self.steps)
        taus = noise_temperatures(self.noise, self.steps)
        prefixes = self._read_prompts(state.prompt_ids_N_P)
        for step in range(state.step, until_step):
            masked = tokens == MASKED
            log_probs = self._code_log_probs(tokens, prefixes, masked, temperature)
            sampled = draw(log_probs, 1.0 if temperature > 0 else 0.0, generator)
            picked = torch.full(tokens.shape, torch.inf)
            picked[masked] = log_probs.gather(1, sampled[:, None])[:, 0].exp()
            again = torch.zeros_like(masked)
            if counts[step]:
                lengths = torch.full((len(tokens), 1), counts[step])
                again = masked_again(
                    picked, gumbel(tokens.shape, generator), lengths, taus[step] if temperature > 0 else 0.0
                )
            filled = tokens.masked_scatter(masked, sampled)
            decided = masked & ~again
            tokens = torch.where(decided, filled, tokens)
            decided_at = torch.where(decided, step, decided_at)
        return ImageState(state.prompt_ids_N_P, tokens, decided_at, until_step, state.pad_id, temperature)

    @torch.no_grad()
    def preview(self, state: ImageState) -> npt.NDArray[np.uint8]:
        """The pictures with every masked token filled by its most probable code; `state` stays as it is."""
        masked = state.tokens_N_I == MASKED
        if not masked.any():
            return self.decode(state)
        log_probs = self._code_log_probs(state.tokens_N_I, self._read_prompts(state.prompt_ids_N_P), masked, 1.0)
        return self.tokenizer.decode(state.tokens_N_I.masked_scatter(masked, log_probs.argmax(-1)))

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
        log_probs = self._code_log_probs(tokens, prefixes, scored, state.temperature or 1.0)
        codes = state.tokens_N_I[:, None].expand(rows, times, -1).reshape(rows * times, -1)[scored]
        values = log_probs.gather(1, codes[:, None])[:, 0]
        full = torch.zeros(scored.shape, dtype=values.dtype).masked_scatter(scored, values)
        return full.view(rows, times, -1).sum(1)

    def _read_prompts(self, prompt_ids: Tensor, times: int = 1) -> list[tuple[Prefix, Tensor]]:
        """Keys, values and real positions of the prompts, each `times` times; with guidance also of the empty
        prompt.
        """
        config = self.model.config
        _, conditional = self.model.hidden(prompt_ids, attention_allowed(prompt_ids, config, image_first=False))
        real = prompt_ids != config.special("<|pad|>")
        prefixes = [(repeat_prefix(conditional, times), real.repeat_interleave(times, 0))]
        if self.guidance > 0:
            empty = torch.full((1, 1), config.special("<|t2i|>"))
            _, prefix = self.model.hidden(empty, torch.ones(1, 1, 1, 1, dtype=torch.bool))
            rows = len(prompt_ids) * times
            prefixes.append((repeat_prefix(prefix, rows), torch.ones(rows, 1, dtype=torch.bool)))
        return prefixes

    def _code_log_probs(
        self, tokens: Tensor, prefixes: list[tuple[Prefix, Tensor]], scored: Tensor, temperature: float
    ) -> Tensor:
        """Guided log-probabilities (number of True in `scored`, codes) at the scored positions of masked pictures
        (rows, I).
        """
        config = self.model.config
        ids = torch.where(tokens == MASKED, config.mask_id, tokens + config.first_code_id)
        ends = [torch.full((len(ids), 1), config.special(name)) for name in ("<|soi|>", "<|eoi|>")]
        block = torch.cat([ends[0], ids, ends[1]], 1)
        logits = []
        for prefix, real in prefixes:
            allowed = torch.cat([real, torch.ones(block.shape, dtype=torch.bool)], 1)[:, None, None]
            hidden, _ = self.model.hidden(block, allowed, prefix)
            logits.append(self.model.code_logits(hidden[:, 1:-1][scored]).float())
        scale = temperature if temperature > 0 else 1.0
        return guided_log_probs(logits[0] / scale, logits[1] / scale if len(logits) > 1 else None, self.guidance)

    # --- weights
    # -------------------------------------------------------------------------------------------------------------

    def parameters(self) -> Iterator[nn.Parameter]:
        """The network's parameters."""
        return self.model.parameters()

    def save(self, folder: Path) -> None:
        """Write the network's weights in their own precision and the sizes; tokenizer and vocabulary stay where they
        are.
        """
        folder.mkdir(parents=True, exist_ok=True)
        save_file(
            {name: value.contiguous() for name, value in self.model.state_dict().items()},
            str(folder / "policy.safetensors"),
        )
        settings = {
            "steps": self.steps,
            "guidance": self.guidance,
            "noise": self.noise,
            "model": json.loads(self.model.config.to_json()),
        }
        (folder / "config.json").write_text(json.dumps(settings, indent=1) + "\n")

    @classmethod
    def load(cls, folder: Path = ARTEFACTS, *, shared: Path = ARTEFACTS) -> PocketPolicy:
        """Read what `save` wrote, in float32; the tokenizer and the vocabulary come from `shared`.

        Raises:
            FileNotFoundError: a file is missing. RuntimeError: weights and sizes do not fit.
        """
        raw = json.loads((folder / "config.json").read_text())
        words = Words(shared / "words.json")
        model = Showo(ShowoConfig(**raw["model"]))
        weights = {name: value.float() for name, value in load_file(str(folder / "policy.safetensors")).items()}
        model.load_state_dict(weights)
        tokenizer = Magvit.load(shared / "tokenizer.safetensors")
        return cls(model, tokenizer, words, steps=raw["steps"], guidance=raw["guidance"], noise=raw["noise"])
