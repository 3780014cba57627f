"""Variants that ask a judge, a language model behind an endpoint (`judges.py`): answers are checked, never guessed at.

An answer that does not fit is that item's failure JUDGE_UNPARSABLE, for a picture's group all of the group's; the raw
text goes to the service's log and nowhere else.
"""

from __future__ import annotations

import asyncio
import json
import logging
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError

from sync_r1.reward_models.cards import Card
from sync_r1.reward_models.graphs import GraphSpec
from sync_r1.reward_models.judges import FirstToken, files, png, texts
from sync_r1.reward_models.rewards.fields import finite_score, missing_field
from sync_r1.reward_models.runner import GraphRunner, RunContext
from sync_r1.reward_models.types import Failure, FailureCode, Outcome, Picture, Sample, Score

logger = logging.getLogger(__name__)

FORMULA_VERSION = "1"
ANSWER_FIELDS = ("question", "answer", "reference_answers")
PICTURE_FIELDS = ("image", "concept.references")
VQASCORE_FIELDS = ("image", "prompt")
_ROUNDING = 1e-3
"""Engines compute in half precision: a sure token may have a log-probability just above 0."""
LONGEST_RAW = 4000
"""Characters of an answer that are logged."""


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True)


def _one_of_three(score: float) -> float:
    if score not in (0, 0.5, 1):
        raise ValueError("expected 0, 0.5 or 1")
    return score


class _Verdict(_Strict):
    reason: Annotated[str, Field(max_length=2000)]
    score: Annotated[float, AfterValidator(_one_of_three)]


_Mark = Annotated[int, Field(ge=1, le=100)]


class _PictureMarks(_Strict):
    picture: int
    structure: _Mark
    identity: _Mark


class _Marks(_Strict):
    marks: list[_PictureMarks]


@dataclass(frozen=True)
class JudgedAnswer:
    """value = the judge's mark, 0, 0.5 or 1, with its reason; an empty answer is 0 and is not sent."""

    card: Card
    judge: GraphSpec

    @property
    def graphs(self) -> tuple[str, ...]:
        """The judge."""
        return (self.judge.name,)

    async def score(self, samples: Sequence[Sample], runner: GraphRunner, context: RunContext) -> list[Outcome]:
        """See `Reward.score`. Equal questions with equal answers are asked once."""
        early = [missing_field(sample, ANSWER_FIELDS) or _wrong_when_empty(sample) for sample in samples]
        questions = [_question(sample) if done is None else "" for sample, done in zip(samples, early)]
        distinct = [question for question in dict.fromkeys(questions) if question]
        if not distinct:
            return [done for done in early if done is not None]
        inputs = {"text": texts(distinct), "pictures": files([[] for _ in distinct])}
        result = await runner.run(context, self.judge.name, inputs)
        verdicts = {
            question: self._verdict(result.outputs, row, context) for row, question in enumerate(distinct)
        }
        return [done or verdicts[question] for done, question in zip(early, questions)]

    def _verdict(self, outputs: Any, row: int, context: RunContext) -> Outcome:
        answer = _answer(outputs, row)
        if isinstance(answer, Failure):
            return answer
        try:
            verdict = _Verdict.model_validate_json(answer)
        except ValidationError as error:
            return unparsable(self.judge.name, context, error, answer)
        return Score(verdict.score, reason=verdict.reason)


@dataclass(frozen=True)
class JudgedPictures:
    """Groupwise: a reference and all pictures of a group in one question; value = `structure` or `identity`, in 0.01…1.

    Components: both. The reference is the group's first one; a sample without a group is a group of its own. Pictures
    go in the order of their digests, so the order of the samples changes nothing.
    """

    card: Card
    judge: GraphSpec
    value: Literal["structure", "identity"]
    max_group: int

    @property
    def graphs(self) -> tuple[str, ...]:
        """The judge."""
        return (self.judge.name,)

    async def score(self, samples: Sequence[Sample], runner: GraphRunner, context: RunContext) -> list[Outcome]:
        """See `Reward.score`. One question per group; pictures that a group holds twice are sent once."""
        outcomes: dict[int, Outcome] = {}
        groups: dict[tuple[str, int], list[int]] = {}
        for number, sample in enumerate(samples):
            failure = missing_field(sample, PICTURE_FIELDS)
            if failure is not None:
                outcomes[number] = failure
            else:
                groups.setdefault((sample.group, -1 if sample.group else number), []).append(number)
        tasks = [
            asyncio.ensure_future(self._score_group([samples[number] for number in members], runner, context))
            for members in groups.values()
        ]
        try:
            scored = await asyncio.gather(*tasks)
        finally:
            for task in tasks:
                task.cancel()
        for members, found in zip(groups.values(), scored):
            outcomes |= dict(zip(members, found))
        return [outcomes[number] for number in range(len(samples))]

    async def _score_group(
        self, samples: Sequence[Sample], runner: GraphRunner, context: RunContext
    ) -> Sequence[Outcome]:
        refused = self._refused(samples)
        if refused is not None:
            return [refused] * len(samples)
        pictures = {sample.image.sha256: sample.image for sample in samples if sample.image is not None}
        order = sorted(pictures)
        shown: list[Picture] = [samples[0].concept.references[0], *(pictures[digest] for digest in order)]
        encoded = await asyncio.to_thread(lambda: [png(picture.pixels) for picture in shown])
        text = f"Rate the {len(order)} pictures after the reference."
        result = await runner.run(context, self.judge.name, {"text": texts([text]), "pictures": files([encoded])})
        marks = self._marks(result.outputs, len(order), context)
        if isinstance(marks, Failure):
            return [marks] * len(samples)
        by_digest = {digest: marks[number] for number, digest in enumerate(order, start=1)}
        return [self._score(by_digest[sample.image.sha256]) for sample in samples if sample.image is not None]

    def _refused(self, samples: Sequence[Sample]) -> Failure | None:
        if len(samples) > self.max_group:
            message = (
                f"group {samples[0].group!r} has {len(samples)} pictures, and this judge compares at most "
                f"{self.max_group} at once (max_group); use smaller groups"
            )
            return Failure(FailureCode.BAD_TEXT, message, "group")
        references = {sample.concept.references[0].sha256 for sample in samples}
        if len(references) > 1:
            message = (
                f"group {samples[0].group!r} has {len(references)} different first references; "
                "pictures are compared with one, so a group must be of one concept"
            )
            return Failure(FailureCode.BAD_REFERENCE, message, "concept.references[0]")
        return None

    def _marks(self, outputs: Any, count: int, context: RunContext) -> dict[int, _PictureMarks] | Failure:
        answer = _answer(outputs, 0)
        if isinstance(answer, Failure):
            return answer
        try:
            marks = _Marks.model_validate_json(answer).marks
            numbers = sorted(mark.picture for mark in marks)
            if numbers != list(range(1, count + 1)):
                raise ValueError(f"expected marks of pictures 1 to {count}, got those of {numbers}")
        except ValueError as error:
            return unparsable(self.judge.name, context, error, answer)
        return {mark.picture: mark for mark in marks}

    def _score(self, marks: _PictureMarks) -> Outcome:
        components = {"structure": marks.structure / 100, "identity": marks.identity / 100}
        return finite_score(components[self.value], components, self.graphs)


@dataclass(frozen=True)
class VqaScore:
    """value = P("Yes") as the first token of the answer to "Does this figure show '…'?" (VQAScore, arXiv 2404.01291).

    Summed over spellings (case, a leading space). Component `p_no`, likewise. A model whose likeliest first tokens are
    neither yes nor no has not answered: that is a failure.
    """

    card: Card
    judge: GraphSpec

    @property
    def graphs(self) -> tuple[str, ...]:
        """The judge."""
        return (self.judge.name,)

    async def score(self, samples: Sequence[Sample], runner: GraphRunner, context: RunContext) -> list[Outcome]:
        """See `Reward.score`. Each distinct pair of picture and prompt is asked once."""
        failures = [missing_field(sample, VQASCORE_FIELDS) for sample in samples]
        pairs = {
            (sample.image.sha256, sample.prompt): sample.image
            for sample, failure in zip(samples, failures)
            if failure is None and sample.image is not None
        }
        if not pairs:
            return [failure for failure in failures if failure is not None]
        pictures = {picture.sha256: picture for picture in pairs.values()}
        encoded = await asyncio.to_thread(lambda: {key: png(picture.pixels) for key, picture in pictures.items()})
        inputs = {
            "text": texts([vqascore_question(prompt) for _, prompt in pairs]),
            "pictures": files([[encoded[digest]] for digest, _ in pairs]),
        }
        result = await runner.run(context, self.judge.name, inputs)
        scores = {pair: self._score(result.outputs, row, context) for row, pair in enumerate(pairs)}
        return [
            failure or scores[sample.image.sha256 if sample.image is not None else "", sample.prompt]
            for sample, failure in zip(samples, failures)
        ]

    def _score(self, outputs: Any, row: int, context: RunContext) -> Outcome:
        answer = _answer(outputs, row)
        if isinstance(answer, Failure):
            return answer
        tokens: FirstToken = outputs["first_token"][row]
        if not tokens:
            message = (
                "the judge's endpoint gives no log-probabilities (`logprobs`, `top_logprobs`), which this variant is "
                "made of; serve the model with an engine that does (vLLM, SGLang), or use another variant"
            )
            return Failure(FailureCode.JUDGE_UNPARSABLE, message)
        if not all(logprob <= _ROUNDING for _, logprob in tokens):  # NaN too
            error = ValueError(f"expected log-probabilities of at most 0, got {tokens[:3]}")
            return unparsable(self.judge.name, context, error, answer)
        p_yes, p_no = _probability(tokens, "yes"), _probability(tokens, "no")
        if p_yes + p_no == 0:
            return unparsable(self.judge.name, context, ValueError("expected yes or no as the first token"), answer)
        return finite_score(p_yes, {"p_no": p_no}, self.graphs)


def vqascore_question(prompt: str) -> str:
    """VQAScore's template."""
    return f"Does this figure show '{prompt}'? Please answer yes or no."


def unparsable(judge: str, context: RunContext, error: ValueError, answer: str) -> Failure:
    """The failure of an answer that does not fit; the answer itself is logged, because it may hold anybody's data."""
    reason = str(error)
    if isinstance(error, ValidationError):
        first = error.errors(include_input=False, include_url=False)[0]
        reason = f"{'.'.join(map(str, first['loc'])) or 'the answer'}: {first['msg']}"
    raw = answer[:LONGEST_RAW]
    logger.warning("request %r: answer of judge %s: %s; raw: %r", context.request_id, judge, reason, raw)
    return Failure(FailureCode.JUDGE_UNPARSABLE, "the judge's answer does not fit its schema; the service's log has it")


def _answer(outputs: Any, row: int) -> str | Failure:
    problem: str = outputs["problem"][row]
    if problem:
        return Failure(FailureCode.JUDGE_UNPARSABLE, problem)
    answer: str = outputs["answer"][row]
    return answer


def _question(sample: Sample) -> str:
    references = [text for text in sample.reference_answers if text.strip()]
    item = {"question": sample.question, "right_answers": references, "given_answer": sample.answer}
    return json.dumps(item, ensure_ascii=False)


def _wrong_when_empty(sample: Sample) -> Outcome | None:
    return None if (sample.answer or "").strip() else Score(0.0)


def _probability(tokens: FirstToken, word: str) -> float:
    return min(1.0, math.fsum(math.exp(logprob) for token, logprob in tokens if token.strip().lower() == word))
