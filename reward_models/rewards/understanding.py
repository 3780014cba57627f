"""Understanding correctness: is the answer right? Compared with the right answers, not with the picture.

`semantic` (default) compares meaning with a sentence encoder and key facts by name, because the cosine alone rates
"the car is blue" as close to "the car is red" as a paraphrase. The string metrics of `text_metrics.py` are its
components, and variants of their own that run no graph.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from sync_r1.reward_models.answers import facts, text_metrics
from sync_r1.reward_models.cards import Card
from sync_r1.reward_models.inputs.encoders import MINILM_MAX_TOKENS, Outputs, TextEncoder, cosine
from sync_r1.reward_models.rewards.base import ItemReward
from sync_r1.reward_models.rewards.fields import finite_score, missing_field
from sync_r1.reward_models.runner import GraphRunner, RunContext
from sync_r1.reward_models.types import Failure, FailureCode, NotApplicable, Outcome, Sample

NAME = "understanding-correctness"
FORMULA_VERSION = "1"

# Weights and ramp were chosen on semantic_pairs.json; the card's other two sets of answers had no part in it.
COSINE_WEIGHT = 0.3
WORD_MATCH_LOW, WORD_MATCH_HIGH = 0.4, 0.9
"""Word cosines up to LOW count as different words, from HIGH on as the same."""
WORST_WORD_WEIGHT = 0.3
_FUNCTION_WORDS = (
    "a an the is are was were be it its this that these those of in on at to with by for from and or as his her their "
    "he she they we i you has have had does do did there can see what which who where when how why"
)
_NO_CONTENT = frozenset(_FUNCTION_WORDS.split())
_LONGEST_WORD = 64
"""Characters; anything longer is noise that no word can match."""


@dataclass(frozen=True)
class StringMetric:
    """What a metric needs, and its value in [0, 1], or None where it does not apply: (sample, answer) -> value."""

    required_fields: tuple[str, ...]
    measure: Callable[[Sample, str], float | None]


_WITH_REFERENCES = ("answer", "reference_answers")
_WITH_CHOICES = ("answer", "choices", "target")
STRING_METRICS = {
    "bleu": StringMetric(_WITH_REFERENCES, lambda s, answer: text_metrics.best_bleu(_references(s), answer)),
    "exact": StringMetric(_WITH_REFERENCES, lambda s, answer: text_metrics.exact(_references(s), answer)),
    "yes_no": StringMetric(_WITH_REFERENCES, lambda s, answer: text_metrics.yes_no(_references(s), answer)),
    "choice": StringMetric(_WITH_REFERENCES, lambda s, answer: text_metrics.choice(_references(s), answer)),
    "selection": StringMetric(
        _WITH_CHOICES, lambda s, answer: text_metrics.selection(s.choices, answer, s.target or 0)
    ),
    "selection_released": StringMetric(
        _WITH_CHOICES, lambda s, answer: text_metrics.selection_released(s.choices, answer, s.target or 0)
    ),
}
"""Variant -> metric."""

SEMANTIC_REQUIRED_FIELDS = ("answer", "reference_answers")

_NOT_APPLICABLE = {
    "yes_no": "the right answer says neither yes nor no",
    "choice": "the right answer is no single letter A to H",
}


@dataclass(frozen=True)
class StringCorrectness(ItemReward):
    """A string metric as a variant of its own; runs no graph."""

    card: Card

    @property
    def graphs(self) -> tuple[str, ...]:
        """None."""
        return ()

    async def score_batch(self, samples: Sequence[Sample], runner: GraphRunner, context: RunContext) -> list[Outcome]:
        """See `Reward.score`."""
        return [self._score(sample) for sample in samples]

    def _score(self, sample: Sample) -> Outcome:
        metric = STRING_METRICS[self.card.variant]
        failure = missing_field(sample, metric.required_fields)
        if failure is not None:
            return failure
        value = metric.measure(sample, sample.answer or "")
        if value is None:
            return NotApplicable(_NOT_APPLICABLE[self.card.variant])
        return finite_score(value, {}, ())


@dataclass(frozen=True)
class SemanticCorrectness(ItemReward):
    """value = facts · (0.3 · cosine + 0.7 · word match), the best over the right answers; an empty answer is 0.

    `facts` is the product of three agreements (numbers, colours, negation); `word match` is the F1 of soft matches
    between content words, as BERTScore (arXiv 1904.09675) but with whole-word embeddings. The answer need not repeat
    the question's words and loses nothing if it does (those of `choices` excepted); where the question asks for a
    colour or a number and the reference has one, that fact is the answer. Components: cosine (clipped to [0, 1]),
    word_match, numbers, colours, negation, bleu, exact, and where they apply yes_no, choice and selection.
    """

    card: Card
    encoder: TextEncoder

    @property
    def graphs(self) -> tuple[str, ...]:
        """The sentence encoder."""
        return (self.encoder.graph.name,)

    async def score_batch(self, samples: Sequence[Sample], runner: GraphRunner, context: RunContext) -> list[Outcome]:
        """See `Reward.score`. Each distinct sentence and each distinct content word is embedded once."""
        failures = [missing_field(sample, SEMANTIC_REQUIRED_FIELDS) or self._refused(sample) for sample in samples]
        texts: list[str] = []
        for sample, failure in zip(samples, failures):
            if failure is None and sample.answer:
                sentences = (sample.answer, *_references(sample))
                texts += sentences
                texts += [word for text in (*sentences, sample.question) for word in content_words(text)]
        embeddings = await self.encoder.run(texts, runner, context)
        return [failure or self._score(sample, embeddings) for sample, failure in zip(samples, failures)]

    def _refused(self, sample: Sample) -> Failure | None:
        fields = [("answer", sample.answer or "")]
        fields += [(f"reference_answers[{i}]", text) for i, text in enumerate(sample.reference_answers)]
        for field, text in fields:
            refusal = self.encoder.refusal(text)
            if refusal:
                return Failure(FailureCode.BAD_TEXT, f"`{field}` cannot be scored: {refusal}", field)
        # The question's words are read one by one. MiniLM's reader takes characters apart, each into four at most.
        for word in content_words(sample.question):
            if 4 * len(word) > MINILM_MAX_TOKENS - 2 and (refusal := self.encoder.unreadable(word)):
                return Failure(FailureCode.BAD_TEXT, f"`question` cannot be read: {refusal}", "question")
        return None

    def _score(self, sample: Sample, embeddings: dict[str, Outputs]) -> Outcome:
        answer = sample.answer or ""
        strings = _string_components(sample, answer)
        if not answer.strip():
            return finite_score(0.0, strings, self.graphs)
        value, best = max(
            (_compare(sample, reference, answer, embeddings) for reference in _references(sample)),
            # A NaN must win, or a broken graph would go unnoticed.
            key=lambda scored: math.inf if math.isnan(scored[0]) else scored[0],
        )
        return finite_score(value, best | strings, self.graphs)


def content_words(text: str) -> list[str]:
    """The distinct words of a text that carry its meaning: no function words, no facts checked by name, no `<name>`.

    A concept's name stands in every sentence about it, so matching it would hide what the sentences do not share.
    """
    return [
        word
        for word in dict.fromkeys(text_metrics.words(re.sub(r"<[^<>\s]+>", " ", text)))
        if word not in _NO_CONTENT and not facts.is_fact_word(word) and len(word) <= _LONGEST_WORD
    ]


def _compare(
    sample: Sample, reference: str, answer: str, embeddings: dict[str, Outputs]
) -> tuple[float, dict[str, float]]:
    """Value and components of one answer against one right answer."""
    wanted, given = content_words(reference), content_words(answer)
    # A question of task r lists every item; what tells items apart must not pass as repeating the question.
    items = [set(content_words(item)) for item in sample.choices]
    offered = items[0].union(*items) - items[0].intersection(*items) if items else set[str]()
    asked = [word for word in content_words(sample.question) if word not in offered]
    similarity = float(np.maximum(0.0, cosine(embeddings[reference]["embedding"], embeddings[answer]["embedding"])))
    precision = _coverage(given, [*wanted, *asked], embeddings)
    if _asks_for_fact(sample.question, reference):
        # "What colour is the hat?" - "Green." says all of "The hat is green.", however far apart the sentences are.
        recall, closeness = 1.0, precision
    else:
        new = [word for word in wanted if word not in asked]
        recall, closeness = _coverage(new or wanted, given, embeddings), similarity
    word_match = 2 * precision * recall / (precision + recall) if precision + recall != 0 else 0.0
    agreements = {
        "numbers": facts.numbers_agree(reference, answer),
        "colours": facts.colours_agree(reference, answer),
        "negation": facts.negation_agrees(reference, answer),
    }
    value = math.prod(agreements.values()) * (COSINE_WEIGHT * closeness + (1 - COSINE_WEIGHT) * word_match)
    return value, {"cosine": similarity, "word_match": word_match, **agreements}


def _coverage(wanted: Sequence[str], given: Sequence[str], embeddings: dict[str, Outputs]) -> float:
    """How well the words of `wanted` are matched by the closest of `given`, in [0, 1]: 0.7 mean + 0.3 minimum.

    1 if nothing is wanted. The minimum makes one wrong word among many right ones count.
    """
    if not wanted:
        return 1.0
    if not given:
        return 0.0
    closest_W = (_vectors(wanted, embeddings) @ _vectors(given, embeddings).T).max(axis=1)
    match_W = np.clip((closest_W - WORD_MATCH_LOW) / (WORD_MATCH_HIGH - WORD_MATCH_LOW), 0, 1)
    return float((1 - WORST_WORD_WEIGHT) * np.mean(match_W) + WORST_WORD_WEIGHT * np.min(match_W))


def _vectors(words: Sequence[str], embeddings: dict[str, Outputs]) -> npt.NDArray[np.float64]:
    return np.stack([embeddings[word]["embedding"].astype(np.float64) for word in words])


def _asks_for_fact(question: str, reference: str) -> bool:
    asked, known = set(text_metrics.words(question)), facts.facts(reference)
    return bool(
        (known.colours and asked & {"colour", "colours", "color", "colors"})
        or (known.numbers and {"how", "many"} <= asked)
    )


def _references(sample: Sample) -> list[str]:
    return [text for text in sample.reference_answers if text.strip()]


def _string_components(sample: Sample, answer: str) -> dict[str, float]:
    """Every string metric that applies to the sample."""
    found = {}
    for name, metric in STRING_METRICS.items():
        if name != "selection_released" and missing_field(sample, metric.required_fields) is None:
            value = metric.measure(sample, answer)
            if value is not None:
                found[name] = value
    return found
