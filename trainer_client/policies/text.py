"""Text of a Show-o-style policy: the two layouts it is written in, and the tokens of learned concepts.

Where you are: `pocket/text.py` and `showo/text.py` implement `TextTokenizer`; `showo/policy.py` uses it. A
learned concept adds its name and soft tokens, words without a spelling of their own that carry what the concept is, to
the end of the text vocabulary (An et al., UniCTokens, arXiv 2505.14671). Questions are told the first of them, drawings
all: 16 and 8 more for Show-o.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Protocol

NAME = re.compile(r"<[a-z][a-z0-9_-]*>")
"""A concept's name as texts write it."""


class TextTokenizer(Protocol):
    """Texts to ids and back."""

    end_id: int
    empty_prompt: tuple[int, ...]
    """Ids of a drawing's missing text: the unconditional branch of guidance."""
    learned: tuple[str, ...]
    """Names of the concepts that were added to the vocabulary, in that order."""

    def __len__(self) -> int:
        """Text tokens, those of learned concepts included."""
        ...

    def prompt(self, text: str) -> list[int]:
        """Ids of a text to draw, as they follow `<|t2i|>`. Raises ValueError if it is empty or too long."""
        ...

    def question(self, text: str) -> list[int]:
        """Ids of a question, as they follow `<|mmu|>` and the picture. Raises ValueError if it is empty or too long."""
        ...

    def answer(self, text: str) -> list[int]:
        """Ids of an answer, the end token included."""
        ...

    def decode(self, ids: Iterable[int]) -> str:
        """The text before the end token."""
        ...

    def photo_of(self, name: str) -> str:
        """The plainest text to draw a concept from."""
        ...

    def ids(self, text: str) -> list[int]:
        """The text as it stands, in no layout."""
        ...

    def concept_ids(self, name: str) -> ConceptIds:
        """The tokens of a learned concept. Raises KeyError for another name."""
        ...

    def knows(self, name: str) -> bool:
        """Whether the name is a token of its own, learned or from the start."""
        ...

    def learning(self, name: str) -> TextTokenizer:
        """A tokenizer that knows one more concept. Raises ValueError if the name is taken or none."""
        ...


class ConceptIds:
    """Ids of a learned concept's tokens: its name, the soft tokens of questions, the further ones of drawings."""

    def __init__(self, first: int, soft_tokens: tuple[int, int]) -> None:
        self.name = first
        self.understanding = list(range(first + 1, first + 1 + soft_tokens[0]))
        self.generation = list(range(first + 1 + soft_tokens[0], first + 1 + sum(soft_tokens)))

    @property
    def all(self) -> list[int]:
        """In the order of the vocabulary."""
        return [self.name, *self.understanding, *self.generation]


def soft_token(name: str, index: int) -> str:
    """The soft token number `index` of the concept named `<name>`."""
    return f"{name[:-1]}_{index}>"


def concept_tokens(name: str, soft_tokens: tuple[int, int]) -> list[str]:
    """All tokens of a learned concept, in the order of the vocabulary."""
    return [name, *(soft_token(name, index) for index in range(sum(soft_tokens)))]


def check_new_name(name: str, taken: bool) -> None:
    """Raises ValueError unless `name` can become a concept's name."""
    if not NAME.fullmatch(name):
        raise ValueError(f"a concept's name looks like <bo> (small letters, digits, _ and -), got {name!r}; rename it")
    if taken:
        raise ValueError(f"the policy already knows {name}; give the concept another name")
