"""Understanding correctness: is the answer right? Compared with the right answers, not with the picture.

`semantic` (default) compares meaning with a sentence encoder and key facts by name, because the cosine alone rates
"the car is blue" as close to "the car is red" as a paraphrase. The string metrics of `text_metrics.py` are its
components, and variants of their own that run no graph.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from sync_r1.reward_models.answers import facts, text_metrics
from sync_r1.reward_models.answers.spelling import stem
from sync_r1.reward_models.answers.statements import Statement, read
from sync_r1.reward_models.answers.tokens import plain
from sync_r1.reward_models.cards import Card
from sync_r1.reward_models.inputs.encoders import Outputs, TextEncoder, cosine
from sync_r1.reward_models.rewards.base import ItemReward
from sync_r1.reward_models.rewards.fields import finite_score, missing_field
from sync_r1.reward_models.runner import GraphRunner, RunContext
from sync_r1.reward_models.threads import IN_TURN, check, each_in_turn, in_thread
from sync_r1.reward_models.types import Failure, FailureCode, NotApplicable, Outcome, Sample

FORMULA_VERSION = "1"
"""Of the string metrics."""
SEMANTIC_FORMULA_VERSION = "2"
"""2: numbers, units, dates, negation and spelling compared by what they mean; a question's words are not embedded."""

# Weights and ramp were chosen on semantic_pairs.json; the card's other two sets of answers had no part in it.
COSINE_WEIGHT = 0.3
WORD_MATCH_LOW, WORD_MATCH_HIGH = 0.4, 0.9
"""Word cosines up to LOW count as different words, from HIGH on as the same."""
WORST_WORD_WEIGHT = 0.3


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
        deadline_s = context.deadline_s
        return await in_thread(deadline_s, lambda: each_in_turn(self._score, samples, deadline_s))

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

    `facts` is the product of four agreements (numbers with their units, dates, colours, negation); `word match` is the
    F1 of soft matches between content words, as BERTScore (arXiv 1904.09675) but with whole-word embeddings. The answer
    need not repeat the question's words and loses nothing if it does (those of `choices` excepted); where the question
    asks for a colour, a number or a date and the reference has one, that fact is the answer, and a bare yes or no
    answers a question that asks for nothing else. Components: cosine (clipped to [0, 1]), word_match, numbers, dates,
    colours, negation, bleu, exact, and where they apply yes_no, choice and selection.
    """

    card: Card
    encoder: TextEncoder

    @property
    def graphs(self) -> tuple[str, ...]:
        """The sentence encoder."""
        return (self.encoder.graph.name,)

    @property
    def optional_fields(self) -> tuple[str, ...]:
        """What the question asks for, and what it offers to select from."""
        return ("question", "choices")

    async def score_batch(self, samples: Sequence[Sample], runner: GraphRunner, context: RunContext) -> list[Outcome]:
        """See `Reward.score`. Each distinct sentence and each distinct content word is embedded once."""
        deadline_s = context.deadline_s
        early = await in_thread(deadline_s, lambda: each_in_turn(self._unfit, samples, deadline_s))
        readings = _Readings(deadline_s)
        sentences, words = await in_thread(deadline_s, lambda: _to_embed(samples, early, readings))
        # Apart, because every text of a run takes as many tokens as the longest of them.
        embeddings = await self.encoder.run(sentences, runner, context)
        embeddings |= await self.encoder.run((word for word in words if word not in embeddings), runner, context)

        def scored(pair: tuple[Sample, Failure | None]) -> Outcome:
            sample, unfit = pair
            return unfit or self._score(sample, embeddings, readings)

        return await in_thread(deadline_s, lambda: each_in_turn(scored, zip(samples, early), deadline_s))

    def _unfit(self, sample: Sample) -> Failure | None:
        if missing := missing_field(sample, SEMANTIC_REQUIRED_FIELDS):
            return missing
        fields = [("answer", sample.answer or "")]
        fields += [(f"reference_answers[{i}]", text) for i, text in enumerate(sample.reference_answers)]
        for field, text in fields:
            refusal = self.encoder.refusal(plain(text))
            if refusal:
                return Failure(FailureCode.BAD_TEXT, f"`{field}` cannot be scored: {refusal}", field)
        return None

    def _score(self, sample: Sample, embeddings: dict[str, Outputs], readings: _Readings) -> Outcome:
        answer = sample.answer or ""
        strings = _string_components(sample, answer)
        if not answer.strip():
            return finite_score(0.0, strings, self.graphs)
        asked = _asked(sample, readings)
        value, best = max(
            (_compare(asked, _Pair(reference, answer), embeddings, readings) for reference in _references(sample)),
            # A NaN must win, or a broken graph would go unnoticed.
            key=lambda scored: math.inf if math.isnan(scored[0]) else scored[0],
        )
        return finite_score(value, best | strings, self.graphs)


class _Readings(dict[str, Statement]):
    """Text -> what it states; each text of a call is read once (a group repeats its question and references)."""

    def __init__(self, deadline_s: float) -> None:
        super().__init__()
        self._deadline_s = deadline_s

    def __missing__(self, text: str) -> Statement:
        check(self._deadline_s)
        with IN_TURN:
            self[text] = read(text)
        return self[text]


@dataclass(frozen=True)
class _Pair:
    reference: str
    answer: str


@dataclass(frozen=True)
class _Asked:
    """What a sample asks; `stems` are those of the question's words that an answer may repeat freely."""

    question: facts.Question
    stems: frozenset[str]


def _to_embed(
    samples: Sequence[Sample], early: Sequence[Outcome | None], readings: _Readings
) -> tuple[list[str], list[str]]:
    """Sentences and content words of answers and references. A question's words are never embedded."""
    sentences = [
        text
        for sample, outcome in zip(samples, early)
        if outcome is None and (sample.answer or "").strip()
        for text in (sample.answer or "", *_references(sample))
    ]
    words = [word for text in dict.fromkeys(sentences) for word in readings[text].main.words]
    return list(map(plain, sentences)), words


def _asked(sample: Sample, readings: _Readings) -> _Asked:
    question = facts.read_question(sample.question, readings[sample.question], choices=bool(sample.choices))
    # A question of task r lists every item; what tells items apart must not pass as repeating the question.
    items = [set(readings[item].main.words) for item in sample.choices]
    offered = items[0].union(*items) - items[0].intersection(*items) if items else set[str]()
    return _Asked(question, frozenset(stem(word) for word in readings[sample.question].words if word not in offered))


def _compare(
    asked: _Asked, pair: _Pair, embeddings: dict[str, Outputs], readings: _Readings
) -> tuple[float, dict[str, float]]:
    """Value and components of one answer against one right answer."""
    reference, answer = readings[pair.reference], readings[pair.answer]
    wanted, given = reference.main.words, answer.main.words
    similarity = cosine(embeddings[plain(pair.reference)]["embedding"], embeddings[plain(pair.answer)]["embedding"])
    similarity = float(np.maximum(0.0, similarity))
    new = [word for word in wanted if stem(word) not in asked.stems]
    agreement = facts.compare(reference, answer, asked.question)
    precision = _coverage(given, wanted, embeddings, asked.stems)
    if agreement.settled:
        precision = recall = closeness = 1.0
    elif asked.question.asks_for_fact(reference) or (reference.main.has_facts and not new):
        # "What colour is the hat?" - "Green." says all of "The hat is green.", however far apart the sentences are.
        recall, closeness = 1.0, max(precision, similarity)
    else:
        recall, closeness = _coverage(new or wanted, given, embeddings), similarity
    word_match = 2 * precision * recall / (precision + recall) if precision + recall != 0 else 0.0
    agreements = {
        "numbers": agreement.numbers,
        "dates": agreement.dates,
        "colours": agreement.colours,
        "negation": agreement.negation,
    }
    value = math.prod(agreements.values()) * (COSINE_WEIGHT * closeness + (1 - COSINE_WEIGHT) * word_match)
    # A settled answer has no use for the sentences' closeness, but a graph that is broken must show.
    value = value if math.isfinite(similarity) else similarity
    return value, {"cosine": similarity, "word_match": word_match, **agreements}


def _coverage(
    wanted: Sequence[str], given: Sequence[str], embeddings: dict[str, Outputs], free: frozenset[str] = frozenset()
) -> float:
    """How well the words of `wanted` are matched by the closest of `given`, in [0, 1]: 0.7 mean + 0.3 minimum.

    1 if nothing is wanted; words whose stems are `free` count as matched. The minimum makes one wrong word among many
    right ones count.
    """
    compared = [word for word in wanted if stem(word) not in free]
    if not compared:
        return 1.0
    match_W = np.ones(len(wanted))
    if given:
        closest_W = (_vectors(compared, embeddings) @ _vectors(given, embeddings).T).max(axis=1)
        match_W[: len(compared)] = np.clip((closest_W - WORD_MATCH_LOW) / (WORD_MATCH_HIGH - WORD_MATCH_LOW), 0, 1)
    else:
        match_W[: len(compared)] = 0.0
    return float((1 - WORST_WORD_WEIGHT) * np.mean(match_W) + WORST_WORD_WEIGHT * np.min(match_W))


def _vectors(words: Sequence[str], embeddings: dict[str, Outputs]) -> npt.NDArray[np.float64]:
    return np.stack([embeddings[word]["embedding"].astype(np.float64) for word in words])


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
