"""An English text read as clauses, each affirmed or denied, with the facts and the content words it names.

"No, the hat is not blue but red." is the reply "no", a denied clause (hat, blue) and an affirmed one (red). Lists and
rules, not a model, so that a failure can be read; time linear in the length of the text.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from itertools import pairwise

from sync_r1.reward_models.answers.dates import Date, read_date
from sync_r1.reward_models.answers.quantities import Quantity, read_quantity
from sync_r1.reward_models.answers.spelling import american, stem
from sync_r1.reward_models.answers.tokens import Token, tokens
from sync_r1.reward_models.answers.vocabulary import (
    AUXILIARIES,
    BEFORE_REPLY,
    CLAUSE_WORDS,
    COLOURS,
    FUNCTION_WORDS,
    NEGATIONS,
    NO,
    NO_NEGATION,
    SUBJECTS,
    YES,
)

LONGEST_WORD = 64
"""Characters (decomposed, so that no encoder makes more tokens of them); anything longer is noise."""
_LONGEST_NAME = 16
_STOPS = frozenset(".,;:!?()")


@dataclass
class Clause:
    """What one clause names; `negated` if it denies it."""

    negated: bool = False
    quantities: list[Quantity] = field(default_factory=list)
    dates: list[Date] = field(default_factory=list)
    colours: list[str] = field(default_factory=list)
    words: list[str] = field(default_factory=list)
    """Content words, American spelling."""
    anew: bool = True
    """Whether it begins a statement of its own; an item of a list after a comma does not."""
    lists: bool = False
    """Whether it has "or" or "nor"."""

    @property
    def says_something(self) -> bool:
        """Whether it names anything at all."""
        return bool(self.words) or self.has_facts

    @property
    def has_facts(self) -> bool:
        """Whether it names anything that is compared by value."""
        return bool(self.colours or self.quantities or self.dates)

    @cached_property
    def named(self) -> frozenset[object]:
        """Everything it names, for asking whether another text names it too."""
        values = (q.value for q in self.quantities)
        return frozenset((*map(stem, self.words), *self.colours, *values, *self.dates))


@dataclass(frozen=True)
class Statement:
    """A text: its reply ("yes", "no" or None) and its clauses, without those that name nothing."""

    reply: str | None
    affirmed: Clause
    """All affirmed clauses as one."""
    denied: tuple[Clause, ...]
    negates: bool
    """Whether any clause is negated, one that names nothing included."""

    @property
    def words(self) -> list[str]:
        """All content words, affirmed or denied."""
        return list(dict.fromkeys([*self.affirmed.words, *(word for clause in self.denied for word in clause.words)]))

    @cached_property
    def main(self) -> Clause:
        """What the text is about: what it affirms, or if that is nothing, what it denies."""
        return self.affirmed if self.affirmed.says_something else _merged(self.denied)

    @property
    def only_denies(self) -> bool:
        """Whether nothing is affirmed and something denied ("There is no hat.", "It is not.")."""
        return self.negates and not self.affirmed.says_something


def _merged(clauses: Sequence[Clause]) -> Clause:
    whole = Clause(negated=bool(clauses))
    for clause in clauses:
        whole.quantities += clause.quantities
        whole.dates += clause.dates
        whole.colours += clause.colours
        whole.words += clause.words
    whole.words = list(dict.fromkeys(whole.words))
    return whole


def read(text: str) -> Statement:
    """The statement a text makes."""
    found = tokens(text)
    reply, start = _reply(found)
    clauses = _clauses(found, start)
    _extend_denials(clauses)
    said = [clause for clause in clauses if clause.says_something]
    affirmed = _merged([clause for clause in said if not clause.negated])
    denied = tuple(clause for clause in said if clause.negated)
    return Statement(reply, affirmed, denied, any(clause.negated for clause in clauses))


def is_content_word(word: str) -> bool:
    """Whether a word carries meaning and can be compared."""
    return word not in FUNCTION_WORDS and len(unicodedata.normalize("NFD", word)) <= LONGEST_WORD


def _reply(found: Sequence[Token]) -> tuple[str | None, int]:
    """The reply a text begins with, and where the rest begins: "No, it …", "I think no .", but not "No hat"."""
    at = 0
    while at < min(len(found), 8) and (found[at].text in BEFORE_REPLY or found[at].text in (",", "<", ">")):
        at += 1
    if at >= len(found) or found[at].text not in YES | NO:
        return None, 0
    after = found[at + 1].text if at + 1 < len(found) else ""
    numbered = after == "." and at + 2 < len(found) and found[at + 2].value is not None
    if numbered or not (after == "" or after in _STOPS or after in "-<" or after in SUBJECTS - {"only", "just"}):
        return None, 0
    return ("yes" if found[at].text in YES else "no"), at + 1 + (after in _STOPS)


def _clauses(found: Sequence[Token], start: int) -> list[Clause]:
    clauses = [Clause()]
    at = start
    while at < len(found):
        token = found[at]
        name = _name_end(found, at)
        skipped = _idiom_end(found, at)
        if name or skipped:
            at = name or skipped
            continue
        if _begins_clause(found, at, clauses[-1]):
            after = found[at + 1].text if at + 1 < len(found) else ""
            clauses.append(Clause(anew=token.text != "," or after in SUBJECTS | CLAUSE_WORDS))
            if token.text in _STOPS or token.text in CLAUSE_WORDS or token.text in ("and", "rather", "instead"):
                at += 2 if token.text in ("rather", "instead") else 1
                clauses[-1].negated = token.text in ("rather", "instead")
                continue
        date = read_date(found, at)
        if date is not None:
            clauses[-1].dates.append(date[0])
            at = date[1]
            continue
        quantity = read_quantity(found, at)
        if quantity is not None:
            at = quantity.end
            if quantity.quantity.value == 0 and not quantity.quantity.has_unit:
                clauses[-1].negated = True  # "zero cats" are no cats
            else:
                clauses[-1].quantities.append(quantity.quantity)
            continue
        if token.is_word:
            _add_word(clauses[-1], found, at)
        at += 1
    return clauses


def _add_word(clause: Clause, found: Sequence[Token], at: int) -> None:
    word = american(found[at].text)
    after = found[at + 1].text if at + 1 < len(found) else ""
    if word in COLOURS:
        clause.colours.append(COLOURS[word])
    elif found[at].text in NEGATIONS or found[at].text.endswith("n't"):
        numbered = word == "no" and after == "." and at + 2 < len(found) and found[at + 2].value is not None
        clause.negated = clause.negated or not numbered
    elif found[at].text in ("or", "nor"):
        clause.lists = True
    elif is_content_word(word):
        clause.words.append(word)


def _name_end(found: Sequence[Token], at: int) -> int:
    """Where a concept's name in angle brackets ends; 0 if none begins here."""
    if found[at].text != "<":
        return 0
    for end in range(at + 1, min(len(found), at + _LONGEST_NAME)):
        if found[end].start != found[end - 1].end:
            return 0
        if found[end].text == ">":
            return end + 1
    return 0


def _idiom_end(found: Sequence[Token], at: int) -> int:
    if found[at].text not in ("no", "not", "without", "nothing", "none", "never"):
        return 0
    texts = tuple(token.text for token in found[at : at + 3])
    return next((at + len(phrase) for phrase in NO_NEGATION if texts[: len(phrase)] == phrase), 0)


def _begins_clause(found: Sequence[Token], at: int, current: Clause) -> bool:
    word = found[at].text
    before = found[at - 1] if at else None
    after = found[at + 1].text if at + 1 < len(found) else ""
    if word in _STOPS or word in CLAUSE_WORDS:
        return True
    if word == "and":
        return after in NEGATIONS or after in SUBJECTS
    if (word, after) in (("rather", "than"), ("instead", "of"), ("with", "no")) or word == "without":
        return current.says_something
    if word == "not" and before is not None and before.is_word and not before.raw.endswith("'s"):
        return current.says_something and before.text not in AUXILIARIES | SUBJECTS and is_content_word(before.text)
    return False


def _extend_denials(clauses: list[Clause]) -> None:
    """ "Not a cat, a dog or a bird": the items of a list after a denied clause are denied with it."""
    for clause, following in reversed(list(pairwise(clauses))):
        clause.lists = clause.lists or (following.lists and not following.anew)
    for before, clause in pairwise(clauses):
        clause.negated = clause.negated or (before.negated and clause.lists and not clause.anew)
