"""Text tokens of Show-o: Phi-1.5's byte-pair tokenizer in Show-o's two layouts, with the tokens of learned concepts.

Where you are: `weights.py` makes one from the published folder; `policy.py` uses it. Layouts as in Show-o's
public code, concept tokens as in that of UniCTokens and Sync-R1:

    drawing     <|endoftext|> a photo of <bo_0>…<bo_23> <bo> <|endoftext|>
    question    <|endoftext|> USER: <bo> is <bo_0>…<bo_15>.What is it? ASSISTANT:

The token that begins a text and the one that ends it are the same in Phi-1.5.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path

from tokenizers import Tokenizer

from sync_r1.trainer_client.policies.text import NAME, ConceptIds, check_new_name, concept_tokens, soft_token

END = "<|endoftext|>"
SOFT_TOKENS = (16, 8)
"""Per learned concept: 16 for understanding, 8 more for generation (the release's defaults)."""
MAX_PROMPT_TOKENS = 128
"""Longest text that Show-o was trained to draw, begin and end included; longer ones are cut as in its code."""
MAX_QUESTION_TOKENS = 896
"""What Phi-1.5's 2048 positions leave beside 1024 image tokens, four special ones and an answer of 100, rounded."""


class PhiText:
    """Texts to ids and back: a `TextTokenizer`."""

    def __init__(self, path: Path, learned: Sequence[str] = ()) -> None:
        """Read `tokenizer.json` and append the concepts `learned`.

        Raises:
            FileNotFoundError: no file at `path`. ValueError: it is no tokenizer, or has no end token.
        """
        if not path.exists():
            raise FileNotFoundError(f"{path}: the file is missing; it is part of the published phi-1.5 folder")
        try:
            self._tokenizer = Tokenizer.from_file(str(path))
        except Exception as error:  # the library raises nothing more specific
            raise ValueError(f"{path}: not a tokenizer file ({error}); take it from the phi-1.5 folder") from None
        end = self._tokenizer.token_to_id(END)
        if end is None:
            raise ValueError(f"{path}: has no token {END}; take the file from the phi-1.5 folder")
        self._path = path
        self.end_id = int(end)
        self.empty_prompt: tuple[int, ...] = (self.end_id, self.end_id)
        self.learned = tuple(learned)
        for name in learned:
            self._tokenizer.add_tokens(concept_tokens(name, SOFT_TOKENS))

    def __len__(self) -> int:
        return int(self._tokenizer.get_vocab_size())

    def ids(self, text: str) -> list[int]:
        """The text as it stands."""
        return list(self._tokenizer.encode(text, add_special_tokens=False).ids)

    def prompt(self, text: str) -> list[int]:
        """Begin, text, end; all soft tokens stand before the first learned name. Raises ValueError if it is empty."""
        text = _filled(text)
        if (name := self._known(text)) is not None:
            text = text.replace(name, f"{self._soft(name, sum(SOFT_TOKENS))} {name}", 1)
        ids = [self.end_id, *self.ids(text)]
        return [*ids[: MAX_PROMPT_TOKENS - 1], self.end_id]

    def question(self, text: str) -> list[int]:
        """Begin, then the text as the user's turn; a learned name in it is introduced with its first soft tokens.

        Raises:
            ValueError: it is empty, or longer than the positions that a picture leaves.
        """
        asked = _filled(text)
        if (name := self._known(asked)) is not None:
            asked = f"{name} is {self._soft(name, SOFT_TOKENS[0])}.{asked}"
        ids = [self.end_id, *self.ids(f"USER: {asked} ASSISTANT:")]
        if len(ids) > MAX_QUESTION_TOKENS:
            raise ValueError(
                f"a question needs at most {MAX_QUESTION_TOKENS} tokens, got {len(ids)}: {text[:80]!r}; shorten it"
            )
        return ids

    def answer(self, text: str) -> list[int]:
        """The text as the assistant's turn, and the end token."""
        return [*self.ids(f" {text}"), self.end_id]

    def decode(self, ids: Iterable[int]) -> str:
        """The text before the end token."""
        kept = list(ids)
        if self.end_id in kept:
            kept = kept[: kept.index(self.end_id)]
        return str(self._tokenizer.decode(kept)).strip()

    def photo_of(self, name: str) -> str:
        """The prompt that UniCTokens learns a concept's look with."""
        return f"A photo of {name}."

    def concept_ids(self, name: str) -> ConceptIds:
        """The tokens of a learned concept. Raises KeyError for another name."""
        if name not in self.learned:
            raise KeyError(name)
        return ConceptIds(self.ids(name)[0], SOFT_TOKENS)

    def knows(self, name: str) -> bool:
        """Whether the name is a token of its own, learned or from the start."""
        return self._tokenizer.token_to_id(name) is not None

    def learning(self, name: str) -> PhiText:
        """With one more concept. Raises ValueError if its name is taken or none."""
        check_new_name(name, taken=self.knows(name))
        return PhiText(self._path, [*self.learned, name])

    def _known(self, text: str) -> str | None:
        return next((name for name in NAME.findall(text) if name in self.learned), None)

    def _soft(self, name: str, count: int) -> str:
        return "".join(soft_token(name, index) for index in range(count))


def _filled(text: str) -> str:
    if not text.strip():
        raise ValueError("a text needs at least one word, got none; fill it")
    return text
