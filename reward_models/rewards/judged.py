"""Variants that put one question per item to a judge, a language model behind an endpoint.

Answers are checked, never guessed at: one that does not fit is that item's failure JUDGE_UNPARSABLE; the raw text goes
to the service's log and nowhere else. Variants that judge a whole group at once: `judged_groups.py`.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Sequence
from dataclasses import dataclass

from pydantic import ValidationError

from sync_r1.reward_models.cards import Card
from sync_r1.reward_models.graphs.judges import AS_PNG, FirstToken, files, texts
from sync_r1.reward_models.graphs.spec import GraphSpec
from sync_r1.reward_models.inputs.preparation import Preparation
from sync_r1.reward_models.rewards.base import ItemReward
from sync_r1.reward_models.rewards.fields import finite_score, missing_field
from sync_r1.reward_models.rewards.judge_forms import JudgeForm
from sync_r1.reward_models.runner import GraphRunner, RunContext, Tensors
from sync_r1.reward_models.threads import in_thread, in_time
from sync_r1.reward_models.types import Failure, FailureCode, Outcome, Picture, Sample, Score

logger = logging.getLogger(__name__)

FORMULA_VERSION = "1"
_ROUNDING = 1e-3
"""Engines compute in half precision: a sure token may have a log-probability just above 0."""
LONGEST_RAW = 4000
"""Characters of an answer that are logged."""


@dataclass(frozen=True)
class Question:
    """What a judge is asked about one item, pictures first."""

    text: str
    pictures: tuple[Picture, ...] = ()

    @property
    def key(self) -> tuple[str, ...]:
        """Equal where the answer is the same."""
        return self.text, *(picture.sha256 for picture in self.pictures)


@dataclass(frozen=True)
class JudgedItem(ItemReward):
    """One question per item, as its form says; equal questions are asked once.

    Without fields, value = P("Yes") as the first token of the answer (VQAScore, arXiv 2404.01291), summed over
    spellings (case, a leading space), and the component `p_no` likewise. A model whose likeliest first tokens are
    neither yes nor no has not answered: that is a failure.
    """

    card: Card
    judge: GraphSpec
    form: JudgeForm

    @property
    def graphs(self) -> tuple[str, ...]:
        """The judge."""
        return (self.judge.name,)

    @property
    def preparations(self) -> tuple[Preparation, ...]:
        """Judges see files."""
        return (AS_PNG,)

    async def score_batch(self, samples: Sequence[Sample], runner: GraphRunner, context: RunContext) -> list[Outcome]:
        """See `Reward.score`."""
        in_turn = in_time(samples, context.deadline_s)
        asked = await in_thread(context.deadline_s, lambda: [self._question(sample) for sample in in_turn])
        distinct = {question.key: question for question in asked if isinstance(question, Question)}
        outcomes: dict[tuple[str, ...], Outcome] = {}
        if distinct:
            pictures = {shown.sha256: shown for question in distinct.values() for shown in question.pictures}
            items = in_time(pictures.items(), context.deadline_s)
            encoded = await in_thread(context.deadline_s, lambda: {key: shown.prepared(AS_PNG) for key, shown in items})
            inputs = {
                "text": texts([question.text for question in distinct.values()]),
                "pictures": files([[encoded[shown.sha256] for shown in question.pictures]
                                   for question in distinct.values()]),
            }  # fmt: skip
            result = await runner.run(context, self.judge.name, inputs)
            outcomes = {key: self._outcome(result.outputs, row, context) for row, key in enumerate(distinct)}
        return [outcomes[item.key] if isinstance(item, Question) else item for item in asked]

    def _outcome(self, outputs: Tensors, row: int, context: RunContext) -> Outcome:
        answer = answer_of(outputs, row)
        if isinstance(answer, Failure):
            return answer
        try:
            return self._read(answer, outputs["first_token"][row])
        except ValueError as error:
            return unparsable(self.judge.name, context, error, answer)

    def _question(self, sample: Sample) -> Question | Outcome:
        """What to ask about a sample, or its outcome where there is nothing to ask."""
        if failure := missing_field(sample, self.form.required):
            return failure
        if self.form.blank_answer is not None and not (sample.answer or "").strip():
            return Score(self.form.blank_answer)
        return Question(self.form.text(sample), self.form.pictures(sample))

    def _read(self, answer: str, first_token: FirstToken) -> Outcome:
        """What an answer is worth. Raises ValueError when it has not the form that was asked for."""
        if self.form.fields:
            return self.form.worth(self.form.read(answer))
        if not first_token:
            message = (
                "the judge's endpoint gives no log-probabilities (`logprobs`, `top_logprobs`), which this variant is "
                "made of; serve the model with an engine that does (vLLM, SGLang), or use another variant"
            )
            return Failure(FailureCode.JUDGE_UNPARSABLE, message)
        if not all(logprob <= _ROUNDING for _, logprob in first_token):  # NaN too
            raise ValueError(f"expected log-probabilities of at most 0, got {first_token[:3]}")
        p_yes, p_no = _probability(first_token, "yes"), _probability(first_token, "no")
        if p_yes + p_no == 0:
            raise ValueError("expected yes or no as the first token")
        return finite_score(p_yes, {"p_no": p_no}, self.graphs)


def answer_of(outputs: Tensors, row: int) -> str | Failure:
    """The answer to one question, or why there is none."""
    problem: str = outputs["problem"][row]
    if problem:
        return Failure(FailureCode.JUDGE_UNPARSABLE, problem)
    answer: str = outputs["answer"][row]
    return answer


def unparsable(judge: str, context: RunContext, error: ValueError, answer: str) -> Failure:
    """The failure of an answer that does not fit; the answer itself is logged, because it may hold anybody's data."""
    reason = str(error)
    if isinstance(error, ValidationError):
        first = error.errors(include_input=False, include_url=False)[0]
        reason = f"{'.'.join(map(str, first['loc'])) or 'the answer'}: {first['msg']}"
    raw = answer[:LONGEST_RAW]
    logger.warning("request %r: answer of judge %s: %s; raw: %r", context.request_id, judge, reason, raw)
    return Failure(FailureCode.JUDGE_UNPARSABLE, "the judge's answer does not fit its schema; the service's log has it")


def _probability(tokens: FirstToken, word: str) -> float:
    return min(1.0, math.fsum(math.exp(logprob) for token, logprob in tokens if token.strip().lower() == word))
