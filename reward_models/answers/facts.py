"""Key facts of a text that sentence embeddings blur: numbers, dates, colours, what is affirmed and what denied.

MiniLM rates "the car is red" against "the car is blue" about as high as against a paraphrase, so the `semantic` variant
of understanding correctness compares these by value. English only; rules, not a model, so that a failure can be read.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass
from typing import Literal, TypeVar

from sync_r1.reward_models.answers.dates import Date, as_year, likeness
from sync_r1.reward_models.answers.quantities import Quantity, same
from sync_r1.reward_models.answers.statements import Clause, Statement, read
from sync_r1.reward_models.answers.vocabulary import AUXILIARIES

_PAIRWISE_AT_MOST = 64
"""Facts of one kind that no equal one was found for and that are compared each with each."""
_UNKNOWN = 0.5
"""Agreement of a bare yes or no with a reference that does not tell which of them is right."""
_CONTRADICTED_BY_IMPLICATION = 0.5
_LONGEST_SENTENCE = 1000
_MEASURES = frozenset(
    [
        "many",
        "much",
        "old",
        "long",
        "tall",
        "far",
        "heavy",
        "big",
        "high",
        "wide",
        "deep",
        "fast",
        "large",
        "often",
        "hot",
        "cold",
    ]
)
_VALUES = frozenset(
    [
        "number",
        "year",
        "day",
        "date",
        "month",
        "time",
        "temperature",
        "price",
        "weight",
        "height",
        "length",
        "age",
        "speed",
        "percentage",
        "fraction",
        "size",
        "distance",
    ]
)
Reply = Literal["yes", "no"]
Fact = TypeVar("Fact", bound=Hashable)


@dataclass(frozen=True)
class Agreement:
    """How far an answer's facts are the reference's, each in [0, 1]. `settled`: yes or no was all that was asked."""

    numbers: float = 1.0
    dates: float = 1.0
    colours: float = 1.0
    negation: float = 1.0
    settled: bool = False


@dataclass(frozen=True)
class Question:
    """A question as the comparison needs it."""

    statement: Statement
    yes_no: bool
    """Whether it asks for yes or no, and for nothing else."""
    offers: bool
    """Whether it names what to choose from, so that repeating it is no answer."""
    words: frozenset[str]
    """The words of its last sentence."""

    def asks_for_fact(self, reference: Statement) -> bool:
        """Whether a colour, a number, a date or a time is the answer, and the reference has one ("none" is one)."""
        said, words = reference.main, self.words
        if "how" in words and words & _MEASURES and (said.quantities or reference.only_denies):
            return True
        timed = said.dates or any(dimension == "clock" for q in said.quantities for dimension, _ in q.readings)
        return bool(
            (said.colours and words & {"colour", "colours", "color", "colors"})
            or ((said.quantities or said.dates) and "what" in words and words & _VALUES)
            or (timed and "when" in words)
        )


def read_question(text: str, statement: Statement, *, choices: bool = False) -> Question:
    """A question whose `statement` is at hand; `choices`: the sample has items to select from."""
    sentence = _last_sentence(text)
    words = re.findall(r"[^\W\d_]+(?:'[^\W\d_]+)?", sentence.lower())
    begins = words[:1] + re.findall(r",\s{0,3}([^\W\d_]+)", sentence.lower())[-1:]
    asks = sentence.rstrip().endswith("?") or text.rstrip().endswith("?")
    yes_no = asks and "or" not in words and any(word.removesuffix("n't") in AUXILIARIES for word in begins)
    return Question(statement, yes_no, choices or "or" in words, frozenset(words))


def _last_sentence(text: str) -> str:
    text = text.rstrip(" ?.!\n")[-_LONGEST_SENTENCE:]
    return text[max(text.rfind(mark) for mark in (". ", "? ", "! ", "\n")) + 1 :].lstrip() + "?"


def compare(reference: Statement, answer: Statement, question: Question) -> Agreement:
    """The agreement of an answer with one right answer."""
    if question.yes_no:
        return _compare_replies(reference, answer, question)
    if reference.reply is not None and not reference.main.says_something:  # "Yes." to a question that is not at hand
        return Agreement(negation=_negation(reference, answer))
    known = None if question.offers else question.statement.main
    return _compare_facts(reference, answer, known, _negation(reference, answer))


def _compare_replies(reference: Statement, answer: Statement, question: Question) -> Agreement:
    wanted, given = _implied(reference, question.statement), _implied(answer, question.statement)
    reference_bare, answer_bare = _is_bare(reference, question), _is_bare(answer, question)
    if reference_bare or answer_bare:
        if given is None and reference_bare:
            given = "yes"
        agrees = _UNKNOWN if wanted is None or given is None else float(wanted == given)
        return Agreement(negation=agrees, settled=answer_bare)
    negation = _negation(reference, answer)
    if wanted is not None and given is not None and wanted != given:
        negation *= _CONTRADICTED_BY_IMPLICATION
    return _compare_facts(reference, answer, None, negation)


def _is_bare(statement: Statement, question: Question) -> bool:
    """Whether a text says yes or no to the question and nothing new."""
    said = statement.main
    if not said.says_something:
        return statement.reply is not None or statement.negates
    return said.named <= question.statement.main.named


def _implied(statement: Statement, question: Statement) -> Reply | None:
    """Yes or no as a text says or implies it; None where it cannot be told."""
    if statement.reply is not None:
        return "yes" if statement.reply == "yes" else "no"
    if statement.only_denies:
        return "no"
    asked, said = question.main, statement.affirmed
    if not said.says_something:
        return None
    for want, got in ((asked.colours, said.colours), (_numbers(asked), _numbers(said)), (asked.dates, said.dates)):
        if want and got and not frozenset(want) <= frozenset(got):
            return "no"
    return "yes" if asked.named <= said.named or said.named <= asked.named else None


def _numbers(clause: Clause) -> list[object]:
    return [quantity.value for quantity in clause.quantities]


def _negation(reference: Statement, answer: Statement) -> float:
    """0 where one denies what the other affirms, else 1."""
    if reference.reply and answer.reply and reference.reply != answer.reply:
        return 0.0
    if _denies(reference):
        return float(answer.negates or answer.reply == "no")
    if _denies(answer):
        return 0.0
    for denied, affirmed in ((answer.denied, reference.affirmed), (reference.denied, answer.affirmed)):
        if any(clause.named <= affirmed.named for clause in denied):
            return 0.0
    return 1.0


def _denies(statement: Statement) -> bool:
    return statement.only_denies or (statement.reply == "no" and not statement.affirmed.says_something)


def _compare_facts(reference: Statement, answer: Statement, known: Clause | None, negation: float) -> Agreement:
    if reference.only_denies and answer.denied:
        wanted, given = reference.main, _all_of(answer.denied)
    else:
        wanted, given = reference.main, answer.main
    want_dates, got_dates = _dates(wanted, given), _dates(given, wanted)
    as_dates = {quantity for _, quantity in (*want_dates, *got_dates) if quantity is not None}
    return Agreement(
        _numbers_agree(wanted.quantities, given.quantities, known.quantities if known else (), as_dates),
        _dates_agree([date for date, _ in want_dates], [date for date, _ in got_dates], known.dates if known else ()),
        _overlap(set(wanted.colours), set(given.colours), set(known.colours) if known else set()),
        negation,
    )


def _all_of(clauses: Sequence[Clause]) -> Clause:
    whole = Clause()
    for clause in clauses:
        whole.quantities += clause.quantities
        whole.dates += clause.dates
        whole.colours += clause.colours
    return whole


def _dates(clause: Clause, other: Clause) -> list[tuple[Date, Quantity | None]]:
    """The dates of a clause; a bare number that is the year or the day of the other's date counts as one."""
    found: list[tuple[Date, Quantity | None]] = [(date, None) for date in dict.fromkeys(clause.dates)]
    parts = {part for date in other.dates for reading in date.readings for part in (reading[0], reading[2]) if part}
    if clause.dates or not parts:
        return _without_idle_weekdays(found, other)
    for quantity in dict.fromkeys(clause.quantities):
        if quantity.value in parts and not quantity.units:
            assert not isinstance(quantity.value, str)
            found.append((as_year(quantity.value) or Date(((None, None, int(quantity.value)),)), quantity))
    return found


def _without_idle_weekdays(
    found: list[tuple[Date, Quantity | None]], other: Clause
) -> list[tuple[Date, Quantity | None]]:
    """Without days of the week that stand beside a full date, where the other text names none."""
    full = any(reading[2] for date, _ in found for reading in date.readings)
    if full and not any(date.weekday is not None for date in other.dates):
        return [(date, quantity) for date, quantity in found if date.weekday is None]
    return found


def _dates_agree(want: Sequence[Date], got: Sequence[Date], known: Sequence[Date]) -> float:
    """Mean likeness of each date with its best counterpart; dates that the question names may be left out."""
    left, total, count = list(got)[:_PAIRWISE_AT_MOST], 0.0, 0
    for date in list(want)[:_PAIRWISE_AT_MOST]:
        best = max(left, key=lambda other: likeness(date, other), default=None)
        value = likeness(date, best) if best is not None else 0.0
        if best is not None and value > 0:
            left.remove(best)
        if value > 0 or date not in known:
            total, count = total + value, count + 1
    count += sum(date not in known for date in left)
    return total / count if count else 1.0


def _numbers_agree(
    want: Sequence[Quantity], got: Sequence[Quantity], known: Sequence[Quantity], skipped: set[Quantity]
) -> float:
    """Jaccard overlap by value. "One" may go unsaid ("a ball", "one ball"), and so may what the question says."""
    want_left = [quantity for quantity in dict.fromkeys(want) if quantity not in skipped]
    got_left = [quantity for quantity in dict.fromkeys(got) if quantity not in skipped]
    matched = 0
    for pairs in (_equal, same):
        want_left, got_left, found = _match(want_left, got_left, pairs)
        matched += found
    asked = {reading for quantity in known for reading in quantity.readings}
    union = matched + sum(not q.optional and not q.readings & asked for q in (*want_left, *got_left))
    return matched / union if union else 1.0


def _equal(a: Quantity, b: Quantity) -> bool:
    return a.readings == b.readings


def _match(
    want: list[Quantity], got: list[Quantity], equal: Callable[[Quantity, Quantity], bool]
) -> tuple[list[Quantity], list[Quantity], int]:
    """What is left of both, and how many pairs were found."""
    if equal is _equal:
        shared = {q.readings for q in want} & {q.readings for q in got}
        return [q for q in want if q.readings not in shared], [q for q in got if q.readings not in shared], len(shared)
    left, missing, found = got[:_PAIRWISE_AT_MOST], [], 0
    for quantity in want[:_PAIRWISE_AT_MOST]:
        partner = next((other for other in left if equal(quantity, other)), None)
        if partner is None:
            missing.append(quantity)
        else:
            left.remove(partner)
            found += 1
    return missing + want[_PAIRWISE_AT_MOST:], left + got[_PAIRWISE_AT_MOST:], found


def _overlap(want: set[Fact], got: set[Fact], known: set[Fact]) -> float:
    union = (want & got) | ((want ^ got) - known)
    return len(want & got) / len(union) if union else 1.0


def agreement(reference: str, answer: str, question: str = "") -> Agreement:
    """`compare` of plain texts."""
    return compare(read(reference), read(answer), read_question(question, read(question)))
