"""String metrics between an answer and what it should have been: no graph, no dependency.

`understanding.py` uses them as variants and as components of `semantic`; the trainer may use them directly. All take
plain strings and give a number in [0, 1], or None where the metric does not apply to the reference.
"""

from __future__ import annotations

import math
import re
import unicodedata
from collections import Counter
from collections.abc import Sequence

import numpy as np

BLEU_WEIGHTS = (0.7, 0.3)
_SMOOTHING_EPSILON = 0.1
_ARTICLES = frozenset({"a", "an", "the"})


def char_bleu(reference: str, answer: str) -> float:
    """Sentence BLEU over characters, weights (0.7, 0.3) for 1- and 2-grams, smoothing method 1 (Chen & Cherry 2014).

    Equal to nltk's `sentence_bleu([list(reference)], list(answer), (0.7, 0.3), SmoothingFunction().method1)`, which the
    released Sync-R1 uses for task u. 0 when the texts share no character or the answer is empty.
    """
    return _bleu(reference, _Counted(answer))


class _Counted:
    """An answer with its n-grams counted once, however many texts it is compared with."""

    def __init__(self, answer: str) -> None:
        self.length = len(answer)
        self.ngrams = [_ngrams(answer, order) for order in range(1, len(BLEU_WEIGHTS) + 1)]


def _bleu(reference: str, answer: _Counted) -> float:
    """`char_bleu`; time linear in the reference alone."""
    log_precision = 0.0
    for order, weight in enumerate(BLEU_WEIGHTS, start=1):
        answer_counts = answer.ngrams[order - 1]
        matches = sum(min(count, answer_counts[gram]) for gram, count in _ngrams(reference, order).items())
        if order == 1 and matches == 0:
            return 0.0
        possible = max(1, answer.length - order + 1)
        log_precision += weight * math.log((matches or _SMOOTHING_EPSILON) / possible)
    brevity = 1.0 if answer.length > len(reference) else math.exp(1 - len(reference) / answer.length)
    return brevity * math.exp(log_precision)


def best_bleu(references: Sequence[str], answer: str) -> float:
    """The largest `char_bleu` to any of the right answers (at least one)."""
    counted = _Counted(answer)
    return max(_bleu(reference, counted) for reference in references)


def selection(choices: Sequence[str], answer: str, target: int) -> float:
    """Task r: s_k = BLEU(choices[k], answer); s_target if no other item is closer to the answer, else 0.

    The exact item scores 1, whatever the number of items.
    """
    counted = _Counted(answer)
    scores_K = [_bleu(choice, counted) for choice in choices]
    return scores_K[target] if scores_K[target] >= max(scores_K) else 0.0


def selection_released(choices: Sequence[str], answer: str, target: int) -> float:
    """Task r as the release has it: p = s / Σs (0 if Σs = 0), score = max(0, 1 − ‖onehot(target) − p‖²).

    For comparison only: a perfect answer scores 0.56–0.71 with 3 items and 0.14 with 20.
    """
    counted = _Counted(answer)
    scores_K = np.array([_bleu(choice, counted) for choice in choices])
    total = scores_K.sum()
    p_K = scores_K / total if total > 0 else scores_K
    onehot_K = np.eye(len(choices))[target]
    return max(0.0, float(1 - np.square(onehot_K - p_K).sum()))


def words(text: str) -> list[str]:
    """Lower-case words of a text, NFKC-normalised; "don't" is one word, "<bo>'s" gives "bo" and "'s" is dropped."""
    folded = unicodedata.normalize("NFKC", text).lower().replace("’", "'")
    folded = re.sub(r"'s\b", " ", folded)
    return re.findall(r"\d+(?:\.\d+)?|[^\W\d_]+(?:'[^\W\d_]+)?", folded)


def exact(references: Sequence[str], answer: str) -> float:
    """1 if the answer equals a reference after lower-casing and dropping punctuation and articles, else 0."""
    return float(_normal(answer) in {_normal(reference) for reference in references})


def yes_no(references: Sequence[str], answer: str) -> float | None:
    """Recognition: 1 if the answer's first "yes" or "no" is that of the first reference, else 0.

    None when the reference says neither: then the question was no yes/no question.
    """
    wanted = _first_yes_no(references[0])
    return None if wanted is None else float(_first_yes_no(answer) == wanted)


def choice(references: Sequence[str], answer: str) -> float | None:
    """Multiple choice: 1 if the first stand-alone letter A–H of the answer is the reference's, else 0.

    None when the first reference is not a single such letter (brackets, a full stop or a colon may surround it).
    """
    if not re.fullmatch(r"\W*[A-Ha-h]\W*", references[0]):
        return None
    wanted = re.sub(r"\W", "", references[0]).upper()
    # A lower-case letter counts only when it stands alone as the whole answer: "a" is an article.
    alone = re.fullmatch(r"\W*([A-Ha-h])\W*", answer)
    found = alone or re.search(r"(?<![\w'])([B-H]|A(?=[\W]*$|[).:]))(?![\w'])", answer)
    return float(found is not None and found.group(1).upper() == wanted)


def _ngrams(text: str, order: int) -> Counter[str]:
    return Counter(text[i : i + order] for i in range(len(text) - order + 1))


def _normal(text: str) -> tuple[str, ...]:
    return tuple(word for word in words(text) if word not in _ARTICLES)


def _first_yes_no(text: str) -> str | None:
    return next((word for word in words(text) if word in {"yes", "no"}), None)
