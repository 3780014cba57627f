"""Janus-Pro as a policy: it looks at pictures through a vision encoder and draws them token by token, row by row.

Where you are: this implements `base.Policy` with transformers' `JanusForConditionalGeneration`; `text.py` makes
ids of texts, `weights.py` a policy from files. Unlike a masked model, an autoregressive one decides token i after
all tokens before it, so a decoding step is one row of the picture's grid (24 rows of 24 tokens for the published
sizes), a prompt and the rows so far are read at once, and the log-probs of all tokens need a single pass.

Guidance is Janus's: logits = unconditional + w·(conditional − unconditional); the unconditional prompt has the padding
token in place of every token but the first and the one that begins a picture. What goes in and out lives on the CPU,
the network wherever its weights are.
"""

from __future__ import annotations

import copy
import json
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import cast

import torch
from peft import PeftModel
from torch import Tensor, nn
from transformers import DynamicCache, JanusForConditionalGeneration, JanusProcessor

from sync_r1.reward_models.types import Pixels
from sync_r1.trainer_client.policies.base import Answers, ImageState, Question
from sync_r1.trainer_client.policies.janus.frozen import train_language_model
from sync_r1.trainer_client.policies.janus.text import JanusText
from sync_r1.trainer_client.policies.sampling import draw
from sync_r1.trainer_client.policies.showo.masked_decoding import guided_log_probs

UNDECIDED = -1
"""In `ImageState.tokens_N_I`: not drawn yet."""


class JanusPolicy:
    """See `base.Policy` for the methods' contracts.

    `guidance` is w (1 = none), `answer_tokens` the longest answer. With `adapters` (peft's wrapper around `model`)
    only those train; without, the language model and its head, as in T2I-R1: vision encoder, picture tokenizer and the
    small networks around them are frozen. `base` names the folder below the adapters.
    """

    def __init__(
        self,
        model: JanusForConditionalGeneration,
        processor: JanusProcessor,
        *,
        adapters: PeftModel | None = None,
        steps: int | None = None,
        guidance: float = 5.0,
        answer_tokens: int = 100,
        base: str = "",
    ) -> None:
        """Raises ValueError when `steps` does not divide the picture into whole rows."""
        self.model, self.text, self.adapters, self.base = model.eval(), JanusText(processor), adapters, base
        self.grid = int(model.config.vq_config.num_patches)
        self.steps = steps or self.grid
        if self.grid % self.steps:
            raise ValueError(f"steps must divide the picture's {self.grid} rows of tokens, got {self.steps}")
        self.guidance, self.answer_tokens = guidance, answer_tokens
        self.precision = torch.float32
        """Of the matrix products (autocast), where the weights are float32."""
        self._adapters_on = True
        # Switching adapters off is a state of the shared network, so passes with and without them take turns.
        self._turn = threading.RLock()
        if adapters is None:
            train_language_model(model)

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return torch.device(self.model.lm_head.weight.device)

    def reference(self) -> JanusPolicy:
        """The weights below the adapters as a frozen policy that shares them: it costs no memory.

        Raises ValueError without adapters.
        """
        if self.adapters is None:
            raise ValueError("only a policy with adapters has its start below them; load the start a second time")
        view = copy.copy(self)
        view._adapters_on = False
        return view

    @contextmanager
    def _network(self) -> Iterator[None]:
        """Around every pass through the network: its turn, its precision, and adapters on or off."""
        weights = self.model.lm_head.weight.dtype
        plain = self.precision == torch.float32 or weights != torch.float32
        with (
            self._turn,
            nullcontext() if plain else torch.autocast(self.device.type, self.precision),
            nullcontext() if self._adapters_on or self.adapters is None else self.adapters.disable_adapter(),
        ):
            yield

    @torch.no_grad()
    def answer(
        self, questions: Sequence[Question], *, temperature: float = 1.0, generator: torch.Generator | None = None
    ) -> Answers:
        """Sample an answer to each question; questions with and without a picture may be mixed.

        Raises ValueError for no questions, or one that is empty or too long.
        """
        prompt_ids, pixels = self.text.questions(questions)
        seen, cache = prompt_ids != self.text.pad_id, DynamicCache()
        running = torch.ones(len(prompt_ids), dtype=torch.bool)
        tokens: list[Tensor] = []
        masks: list[Tensor] = []
        with self._network():
            hidden = self._hidden(self._embed_questions(prompt_ids, pixels), seen, cache)
            while True:
                sampled = draw(self.model.lm_head(hidden[:, -1]).float().cpu(), temperature, generator)
                sampled = torch.where(running, sampled, self.text.end_id)
                tokens.append(sampled)
                masks.append(running)
                running = running & (sampled != self.text.end_id)
                if not running.any() or len(tokens) == self.answer_tokens:
                    break
                seen = torch.cat([seen, torch.ones(len(seen), 1, dtype=torch.bool)], 1)
                hidden = self._hidden(self._embed(sampled[:, None]), seen, cache)
        tokens_N_L = torch.stack(tokens, 1)
        return Answers(
            prompt_ids,
            tokens_N_L,
            torch.stack(masks, 1),
            self.text.decode(tokens_N_L),
            pixels,
            temperature,
            self.text.pad_id,
        )

    def answer_log_probs(self, answers: Answers) -> Tensor:
        """Log-probabilities (N, L) with gradient, at the temperature of sampling (greedy: at 1)."""
        prompt_ids, tokens = answers.prompt_ids_N_P, answers.tokens_N_L
        # Tokens after an answer's end are read by nothing that counts, so they need no mask.
        seen = torch.cat([prompt_ids != self.text.pad_id, torch.ones_like(tokens[:, 1:], dtype=torch.bool)], 1)
        with self._network():
            prompt = self._embed_questions(prompt_ids, answers.images_codes_N_I)
            embedded = torch.cat([prompt, self._embed(tokens[:, :-1])], 1)
            hidden = self._hidden(embedded, seen)[:, -tokens.shape[1] :]
            logits = self.model.lm_head(hidden).float() / (answers.temperature or 1.0)
        picked = torch.log_softmax(logits, -1).gather(2, tokens[..., None].to(self.device))[..., 0]
        return torch.where(answers.mask_N_L, picked.cpu(), 0.0)

    def _embed_questions(self, prompt_ids: Tensor, pixels: Tensor | None) -> Tensor:
        embedded = self._embed(prompt_ids)
        if pixels is None:
            return embedded
        pixels = pixels.to(self.device, self.model.lm_head.weight.dtype)
        seen: Tensor = self.model.model.get_image_features(pixels).pooler_output
        places = (prompt_ids == self.model.config.image_token_id)[..., None].to(self.device)
        return embedded.masked_scatter(places, seen.reshape(-1, seen.shape[-1]).to(embedded.dtype))

    def start(self, prompts: Sequence[str]) -> ImageState:
        """Empty pictures. Raises ValueError for no prompts, or one that is empty or too long."""
        ids, shape = self.text.prompts(prompts), (len(prompts), self.grid**2)
        return ImageState(ids, torch.full(shape, UNDECIDED), torch.full(shape, self.steps), 0, self.text.pad_id)

    @torch.no_grad()
    def advance(
        self, state: ImageState, until_step: int, *, temperature: float = 1.0, generator: torch.Generator | None = None
    ) -> ImageState:
        """Draw the rows from `state.step` up to `until_step`. Raises ValueError for a step that is not ahead."""
        if not state.step < until_step <= self.steps:
            raise ValueError(f"until_step must be in {state.step + 1}…{self.steps}, got {until_step}")
        block = self.grid**2 // self.steps
        first, last = state.step * block, until_step * block
        tokens, decided_at = state.tokens_N_I.clone(), state.decided_at_N_I.clone()
        decided_at[:, first:last] = torch.arange(first, last) // block
        cache = DynamicCache()
        with self._network():
            embedded, seen = self._embed_pictures(state.prompt_ids_N_P, tokens[:, :first])
            for position in range(first, last):
                hidden = self._hidden(embedded, seen, cache)
                log_probs = self._code_log_probs(hidden[:, -1], temperature or 1.0).cpu()
                tokens[:, position] = draw(log_probs, 1.0 if temperature > 0 else 0.0, generator)
                embedded = self._embed_codes(tokens[:, position : position + 1])
                seen = torch.cat([seen, torch.ones(len(seen), 1, dtype=torch.bool)], 1)
        return ImageState(state.prompt_ids_N_P, tokens, decided_at, until_step, state.pad_id, temperature)

    @torch.no_grad()
    def preview(self, state: ImageState) -> Pixels:
        """The upper part of the pictures, as far as it is drawn: uint8 (N, H · step / T, W, 3).

        A masked model has an opinion of the whole picture at every step; this one has none of the rows to come. To
        complete them greedily costs as much as to draw the picture, and then a gate saves nothing. So a gate sees
        what is decided, without invented pixels, and should look late (`preview_at` 0.5 or more). In a batch of
        pictures at different rows the shorter ones are filled with their mirror image. Raises ValueError before the
        first step.
        """
        drawn_N_1 = (state.tokens_N_I != UNDECIDED).sum(1, keepdim=True) // self.grid
        if not drawn_N_1.all():
            raise ValueError("nothing is drawn before the first step, so there is no preview; advance the pictures")
        # The decoder wants a whole picture: mirrored rows below keep its statistics, and are cut off again.
        place_N_G = torch.arange(self.grid) % (2 * drawn_N_1)
        row_N_G = torch.where(place_N_G < drawn_N_1, place_N_G, 2 * drawn_N_1 - 1 - place_N_G)
        rows = state.tokens_N_I.view(-1, self.grid, self.grid)
        mirrored = rows.gather(1, row_N_G[..., None].expand(-1, -1, self.grid))
        pictures = self._pixels(mirrored.reshape(len(rows), -1))
        return pictures[:, : pictures.shape[1] * int(drawn_N_1.max()) // self.grid]

    @torch.no_grad()
    def decode(self, state: ImageState) -> Pixels:
        """Finished pictures. Raises ValueError if some rows are missing."""
        if (state.tokens_N_I == UNDECIDED).any():
            raise ValueError(f"the pictures are at step {state.step} of {self.steps}; advance them, or use preview")
        return self._pixels(state.tokens_N_I)

    def image_log_probs(self, state: ImageState, steps: Sequence[int] | None = None) -> Tensor:
        """Log-probabilities (N, I) with gradient; 0 for tokens not decided at one of `steps` (None: all steps taken).

        One pass up to the last of `steps`, whatever their number: give all steps at once (`micro_steps`).
        """
        block = self.grid**2 // self.steps
        wanted = torch.tensor(sorted(range(state.step) if steps is None else steps))
        positions = (wanted[:, None] * block + torch.arange(block)).flatten()
        last = int(positions[-1]) + 1
        prompt = state.prompt_ids_N_P.shape[1]
        with self._network():
            embedded, seen = self._embed_pictures(state.prompt_ids_N_P, state.tokens_N_I[:, : last - 1])
            # A token is predicted where its predecessor is read.
            hidden = self._hidden(embedded, seen)[:, (positions + prompt - 1).to(self.device)]
            log_probs = self._code_log_probs(hidden, state.temperature or 1.0)
        codes = state.tokens_N_I[:, positions]
        picked = log_probs.gather(2, codes.clamp(min=0)[..., None].to(self.device))[..., 0].cpu()
        # A truncated picture has rows that no step decided.
        picked = torch.where(codes == UNDECIDED, 0.0, picked)
        return torch.zeros(state.tokens_N_I.shape).index_copy(1, positions, picked)

    def _embed_pictures(self, prompt_ids: Tensor, codes: Tensor) -> tuple[Tensor, Tensor]:
        """Prompts and the codes after them, embedded, and which positions are real; with guidance the unconditional
        rows come below the conditional ones.
        """
        real = prompt_ids != self.text.pad_id
        if self.guidance != 1:
            prompt_ids = torch.cat([prompt_ids, self.text.unconditional(prompt_ids)])
            real = torch.cat([real, real])
        drawn = torch.ones(len(real), codes.shape[1], dtype=torch.bool)
        embedded = self._embed(prompt_ids)
        if codes.shape[1]:
            embedded = torch.cat([embedded, self._embed_codes(codes)], 1)
        return embedded, torch.cat([real, drawn], 1)

    def _embed_codes(self, codes: Tensor) -> Tensor:
        twice = 2 if self.guidance != 1 else 1
        read = codes.clamp(min=0).repeat(twice, 1).to(self.device)
        return cast(Tensor, self.model.prepare_embeddings_for_image_generation(read))

    def _code_log_probs(self, hidden: Tensor, temperature: float) -> Tensor:
        """Guided log-probabilities over the picture's codes for hidden states (rows, …, H)."""
        logits = self.model.model.generation_head(hidden).float() / temperature
        if self.guidance == 1:
            return torch.log_softmax(logits, -1)
        conditional, unconditional = logits.chunk(2)
        return guided_log_probs(conditional, unconditional, self.guidance - 1)

    def _pixels(self, codes: Tensor) -> Pixels:
        with self._network():
            values = self.model.decode_image_tokens(codes.to(self.device)).float()
        return cast("Pixels", ((values.clamp(-1, 1) + 1) * 127.5).round().to(torch.uint8).cpu().numpy())

    def _embed(self, ids: Tensor) -> Tensor:
        return cast(Tensor, self.model.get_input_embeddings()(ids.to(self.device)))

    def _hidden(self, embedded: Tensor, seen: Tensor, cache: DynamicCache | None = None) -> Tensor:
        """Last hidden states (N, L, H) of what is newly read; `cache` holds what was read before and grows."""
        out = self.model.model.language_model(
            inputs_embeds=embedded, attention_mask=seen.to(self.device), past_key_values=cache,
            use_cache=cache is not None,
        )  # fmt: skip
        return cast(Tensor, out.last_hidden_state)

    def parameters(self) -> Iterator[nn.Parameter]:
        """The adapters', or the language model's; none of a reference."""
        return (parameter for parameter in self.model.parameters() if parameter.requires_grad and self._adapters_on)

    def save(self, folder: Path) -> None:
        """Write the adapters, or without any the whole model, and how it is used; `weights.load` reads it."""
        folder.mkdir(parents=True, exist_ok=True)
        if self.adapters is not None:
            self.adapters.save_pretrained(str(folder / "adapter"), save_embedding_layers=False)
        else:
            self.model.save_pretrained(folder / "model")
            self.text.processor.save_pretrained(folder / "model")
        settings = {
            "kind": "janus",
            "base": self.base,
            "dtype": str(self.model.lm_head.weight.dtype).removeprefix("torch."),
            "steps": self.steps,
            "guidance": self.guidance,
            "answer_tokens": self.answer_tokens,
        }
        (folder / "config.json").write_text(json.dumps(settings, indent=1) + "\n")
