"""Words to token ids for pocket-clip: one id per word of the closed vocabulary (`scenes.WORDS`), numpy only.

Ids: 0 pads, 1 is any unknown word (such as a concept's name "<bo>"), then the words, and last the end-of-text mark,
which has to be the highest id because open_clip's text tower reads its output where the largest id stands.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from sync_r1.reward_models.pocket.world.captions import WORDS

CONTEXT_LENGTH = 64
PAD_ID, UNKNOWN_ID = 0, 1
_IDS = {word: number for number, word in enumerate(dict.fromkeys(WORDS), start=2)}
END_ID = len(_IDS) + 2
VOCABULARY_SIZE = END_ID + 1
_WORD = re.compile(r"<[^<>\s]+>|'s\b|[^\W_]+|[^\w\s]")


def split_words(text: str) -> list[str]:
    """Lower-case words; punctuation stands alone, but "'s" and names such as "<bo>" stay whole."""
    return _WORD.findall(text.lower().replace("\N{RIGHT SINGLE QUOTATION MARK}", "'"))


def encode(texts: Sequence[str]) -> npt.NDArray[np.int64]:
    """Token ids `(N, CONTEXT_LENGTH)`: the text's words, the end mark, padding.

    Raises `ValueError` naming the first text that has no word, no known word or more words than fit.
    """
    tokens_N_L = np.full((len(texts), CONTEXT_LENGTH), PAD_ID, dtype=np.int64)
    for number, text in enumerate(texts):
        words = split_words(text)
        if not words:
            raise ValueError(f"texts[{number}] has no words; expected 1 to {CONTEXT_LENGTH - 1}")
        if len(words) > CONTEXT_LENGTH - 1:
            raise ValueError(
                f"texts[{number}] has {len(words)} words; the limit of pocket-clip is {CONTEXT_LENGTH - 1}: "
                "shorten or split it"
            )
        ids = [_IDS.get(word, UNKNOWN_ID) for word in words]
        if set(ids) == {UNKNOWN_ID}:
            raise ValueError(f"texts[{number}] has no word of pocket-clip's vocabulary; use words of the pocket domain")
        tokens_N_L[number, : len(words)] = ids
        tokens_N_L[number, len(words)] = END_ID
    return tokens_N_L
