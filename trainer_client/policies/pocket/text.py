"""Text tokens of the pocket policy: whole words from a closed vocabulary, checked in as a `tokenizers` WordLevel file.

Where you are: `policy.py` uses `Words`; `policies/cold_start/main.py` makes the file once from the texts of the cold
start. Each concept has its name as one word and a few soft tokens: words without a spelling of their own that follow
the name in prompts for pictures and carry the concept's look, as in personalisation by learned tokens. Concepts learned
later are appended (`text.py`).
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path

from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import WhitespaceSplit

from sync_r1.trainer_client.policies.text import NAME, ConceptIds, check_new_name, concept_tokens, soft_token

END = "<|endoftext|>"
UNKNOWN = "<unk>"
SOFT_TOKENS = 2
"""Soft tokens per concept; all of them belong to drawings."""
MAX_PROMPT_TOKENS = 96


class Words:
    """Texts to ids and back: a `TextTokenizer`, whose layouts add nothing to the words."""

    empty_prompt: tuple[int, ...] = ()

    def __init__(self, path: Path, learned: Sequence[str] = ()) -> None:
        """Read the vocabulary file and append the concepts `learned`.

        Raises:
            FileNotFoundError: no file at `path`. ValueError: a vocabulary without the end token.
        """
        if not path.exists():
            raise FileNotFoundError(f"no vocabulary at {path}; it is part of the checked-in policy artefacts")
        self._path = path
        self._tokenizer = Tokenizer.from_file(str(path))
        end = self._tokenizer.token_to_id(END)
        if end is None:
            raise ValueError(f"{path} has no end token {END}; write it with write_vocabulary")
        self.end_id = int(end)
        self.learned = tuple(learned)
        for name in learned:
            self._tokenizer.add_tokens(concept_tokens(name, (0, SOFT_TOKENS)))

    def __len__(self) -> int:
        return int(self._tokenizer.get_vocab_size())

    def encode(self, text: str, *, soft_tokens: bool = False) -> list[int]:
        """Ids of the words; with `soft_tokens` the first concept name is followed by its soft tokens. Unknown words
        share one id.
        """
        if soft_tokens and (found := NAME.search(text)):
            soft = " ".join(soft_token(found.group(), i) for i in range(SOFT_TOKENS))
            text = f"{text[: found.end()]} {soft} {text[found.end() :]}"
        return list(self._tokenizer.encode(text).ids)

    def ids(self, text: str) -> list[int]:
        """The words as they stand."""
        return self.encode(text)

    def prompt(self, text: str) -> list[int]:
        """The words, the first name with its soft tokens. Raises ValueError if there are none, or too many."""
        return _checked(self.encode(text, soft_tokens=True), text)

    def question(self, text: str) -> list[int]:
        """The words. Raises ValueError if there are none, or too many."""
        return _checked(self.encode(text), text)

    def answer(self, text: str) -> list[int]:
        """The words and the end token."""
        return [*self.encode(text), self.end_id]

    def decode(self, ids: Iterable[int]) -> str:
        """The words before the end token, separated by spaces."""
        words: list[str] = []
        for token in ids:
            if token == self.end_id:
                break
            words.append(self._tokenizer.id_to_token(token) or UNKNOWN)
        return " ".join(words)

    def photo_of(self, name: str) -> str:
        """The name alone: the cold start knows no photos."""
        return name

    def concept_ids(self, name: str) -> ConceptIds:
        """The tokens of a learned concept. Raises KeyError for another name."""
        if name not in self.learned:
            raise KeyError(name)
        return ConceptIds(self.ids(name)[0], (0, SOFT_TOKENS))

    def knows(self, name: str) -> bool:
        """Whether the name is a token of its own, learned or from the start."""
        return self._tokenizer.token_to_id(name) is not None

    def learning(self, name: str) -> Words:
        """With one more concept. Raises ValueError if its name is taken or none."""
        check_new_name(name, taken=self.knows(name))
        return Words(self._path, [*self.learned, name])


def _checked(ids: list[int], text: str) -> list[int]:
    if not 1 <= len(ids) <= MAX_PROMPT_TOKENS:
        raise ValueError(
            f"a text needs 1 to {MAX_PROMPT_TOKENS} words, got {len(ids)}: {text[:80]!r}; shorten or fill it"
        )
    return ids


def write_vocabulary(path: Path, texts: Iterable[str], names: Iterable[str]) -> None:
    """Write a vocabulary of all words in `texts`, the concepts' names and their soft tokens, in a fixed order."""
    names = list(names)
    words = sorted({word for text in texts for word in text.split()} - set(names))
    soft = [soft_token(name, i) for name in names for i in range(SOFT_TOKENS)]
    vocabulary = {word: i for i, word in enumerate([END, UNKNOWN, *words, *names, *soft])}
    tokenizer = Tokenizer(WordLevel(vocabulary, unk_token=UNKNOWN))
    tokenizer.pre_tokenizer = WhitespaceSplit()
    tokenizer.save(str(path))
