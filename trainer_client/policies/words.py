"""Text tokens of the pocket policy: whole words from a closed vocabulary, checked in as a `tokenizers` WordLevel file.

Where you are: `pocket.py` uses `Words`; `cold_start.py` makes the file once from the texts of the cold start. Each
concept has its name as one word and a few soft tokens: words without a spelling of their own that follow the name in
prompts for pictures and carry the concept's look, as in personalisation by learned tokens.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path

from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import WhitespaceSplit

END = "<|endoftext|>"
UNKNOWN = "<unk>"
SOFT_TOKENS = 2
"""Soft tokens per concept."""

_NAME = re.compile(r"<[a-z]+>")


class Words:
    """Texts to ids and back."""

    def __init__(self, path: Path) -> None:
        """Read the vocabulary file.

        Raises:
            FileNotFoundError: no file at `path`. ValueError: a vocabulary without the end token.
        """
        if not path.exists():
            raise FileNotFoundError(f"no vocabulary at {path}; it is part of the checked-in policy artefacts")
        self._tokenizer = Tokenizer.from_file(str(path))
        end = self._tokenizer.token_to_id(END)
        if end is None:
            raise ValueError(f"{path} has no end token {END}; write it with write_vocabulary")
        self.end_id = int(end)

    def __len__(self) -> int:
        return int(self._tokenizer.get_vocab_size())

    def encode(self, text: str, *, soft_tokens: bool = False) -> list[int]:
        """Ids of the words; with `soft_tokens` the first concept name is followed by its soft tokens. Unknown words
        share one id.
        """
        if soft_tokens and (found := _NAME.search(text)):
            soft = " ".join(soft_token(found.group(), i) for i in range(SOFT_TOKENS))
            text = f"{text[: found.end()]} {soft} {text[found.end() :]}"
        return list(self._tokenizer.encode(text).ids)

    def decode(self, ids: Iterable[int]) -> str:
        """The words before the end token, separated by spaces."""
        words: list[str] = []
        for token in ids:
            if token == self.end_id:
                break
            words.append(self._tokenizer.id_to_token(token) or UNKNOWN)
        return " ".join(words)


def soft_token(name: str, index: int) -> str:
    """The soft token number `index` of the concept named `<name>`."""
    return f"{name[:-1]}_{index}>"


def write_vocabulary(path: Path, texts: Iterable[str], names: Iterable[str]) -> None:
    """Write a vocabulary of all words in `texts`, the concepts' names and their soft tokens, in a fixed order."""
    names = list(names)
    words = sorted({word for text in texts for word in text.split()} - set(names))
    soft = [soft_token(name, i) for name in names for i in range(SOFT_TOKENS)]
    vocabulary = {word: i for i, word in enumerate([END, UNKNOWN, *words, *names, *soft])}
    tokenizer = Tokenizer(WordLevel(vocabulary, unk_token=UNKNOWN))
    tokenizer.pre_tokenizer = WhitespaceSplit()
    tokenizer.save(str(path))
