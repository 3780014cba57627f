"""Text for Janus: questions and prompts as token ids, in the layouts the model was trained on.

Where you are: `policy.py` asks for ids; transformers' `JanusProcessor` knows the template, the tokenizer and how
pictures are resized. A question is `<bos> system prompt, <|User|>: picture, question <|Assistant|>:`, a picture's
prompt `<bos> <|User|>: prompt <|Assistant|>: <begin_of_image>`, both padded on the left.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from transformers import JanusProcessor

from sync_r1.trainer_client.policies.base import Question

MAX_TOKENS = 512
"""T2I-R1's limit of a prompt (`--max_prompt_length`)."""


class JanusText:
    """Ids of texts, and texts of ids, by `processor`."""

    def __init__(self, processor: JanusProcessor) -> None:
        tokenizer = processor.tokenizer
        self.processor = processor
        self.pad_id = int(tokenizer.pad_token_id)
        self.end_id = int(tokenizer.eos_token_id)
        self._kept = torch.tensor([tokenizer.bos_token_id, tokenizer.convert_tokens_to_ids(tokenizer.boi_token)])

    def questions(self, questions: Sequence[Question]) -> tuple[Tensor, Tensor | None]:
        """Ids (N, P), and the pixels (pictures, 3, H, W) of those with a picture as the vision encoder wants them.

        Raises ValueError for no questions, or one that is empty or too long.
        """
        texts = [self._chat(question.text, picture=question.image is not None) for question in questions]
        images = [np.array(question.image) for question in questions if question.image is not None]
        return self._ids([question.text for question in questions], texts, images, "text")

    def prompts(self, prompts: Sequence[str]) -> Tensor:
        """Ids (N, P) up to the token that begins a picture. Raises ValueError as `questions` does."""
        return self._ids(prompts, [self._chat(prompt, picture=False) for prompt in prompts], [], "image")[0]

    def unconditional(self, prompt_ids: Tensor) -> Tensor:
        """Prompts without their words: padding in the place of every token but the first and the one that begins the
        picture. It is read like any token: the model was trained so.
        """
        return torch.where(torch.isin(prompt_ids, self._kept), prompt_ids, self.pad_id)

    def decode(self, tokens_N_L: Tensor) -> list[str]:
        """Answers as texts, without special tokens."""
        return [text.strip() for text in self.processor.tokenizer.batch_decode(tokens_N_L, skip_special_tokens=True)]

    def _chat(self, text: str, *, picture: bool) -> str:
        content = [{"type": "text", "text": text}]
        message = {"role": "user", "content": [{"type": "image"}, *content] if picture else content}
        filled: str = self.processor.apply_chat_template([message], add_generation_prompt=True, tokenize=False)
        return filled

    def _ids(
        self, asked: Sequence[str], texts: list[str], images: list[npt.NDArray[np.uint8]], mode: str
    ) -> tuple[Tensor, Tensor | None]:
        if not texts:
            raise ValueError("expected at least one text, got none")
        longest = max(len(self.processor.tokenizer(text).input_ids) for text in asked)
        if longest > MAX_TOKENS or not all(text.strip() for text in asked):
            raise ValueError(f"a text needs 1 to {MAX_TOKENS} tokens, got up to {longest}; shorten or fill it")
        inputs = self.processor(
            text=texts, images=images or None, generation_mode=mode, padding=True, return_tensors="pt",
            input_data_format="channels_last",  # it would guess, from a side of three pixels too
        )  # fmt: skip
        return inputs["input_ids"], inputs.get("pixel_values")
