"""Dates of a text: 2024-03-05, 05/03/2024, 5 March 2024, March 5th, on Sundays, the 1990s."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from itertools import pairwise

from sync_r1.reward_models.answers.number_words import TENS, read_number
from sync_r1.reward_models.answers.tokens import Token

_MONTH_NAMES = [
    "january",
    "february",
    "march",
    "april",
    "may",
    "june",
    "july",
    "august",
    "september",
    "october",
    "november",
    "december",
]
_MONTHS = {name: number for number, name in enumerate(_MONTH_NAMES, start=1)}
_MONTHS |= {name[:3]: number for name, number in _MONTHS.items()} | {"sept": 9}
_AMBIGUOUS = frozenset({"may", "march", "mar", "dec", "jan", "jun", "sep", "oct", "nov", "apr", "aug", "feb", "jul"})
"""Months only beside a number or after "in", "since" …: they are other words or names too."""
_DAYS = {
    name: number
    for number, names in enumerate(
        ["monday mon", "tuesday tue tues", "wednesday", "thursday thu thur thurs", "friday fri", "saturday", "sunday"]
    )
    for name in names.split()
}
_DAYS |= {f"{name}s": number for name, number in _DAYS.items() if name.endswith("day")}
_BEFORE_MONTH = frozenset(
    ["in", "of", "since", "until", "till", "during", "by", "every", "last", "next", "early", "late", "mid", "this"]
)
_DECADES = {f"{word[:-1]}ies": value for word, value in TENS.items()}

Parts = tuple[int | None, int | None, int | None]
"""Year, month, day; None where not said."""


@dataclass(frozen=True)
class Date:
    """One mention: every way to read it ("05/03/2024" has two), or a day of the week, or a decade's first year."""

    readings: tuple[Parts, ...] = ()
    weekday: int | None = None
    decade: int | None = None


def likeness(a: Date, b: Date) -> float:
    """Share of the parts said by either that both say, by their best readings; 0 where a part differs."""
    if a.weekday is not None or b.weekday is not None:
        return float(a.weekday == b.weekday)
    if a.decade is not None or b.decade is not None:
        return float(a.decade is not None and b.decade is not None and (a.decade - b.decade) % 100 == 0
                     and (a.decade == b.decade or min(a.decade, b.decade) < 100))  # fmt: skip
    return max(_agreement(x, y) for x in a.readings for y in b.readings)


def _agreement(a: Parts, b: Parts) -> float:
    said = [(x, y) for x, y in zip(a, b) if x is not None or y is not None]
    if any(x != y for x, y in said if x is not None and y is not None):
        return 0.0
    return sum(x is not None and y is not None for x, y in said) / len(said)


def read_date(tokens: Sequence[Token], start: int) -> tuple[Date, int] | None:
    """The date that begins at tokens[start] and the index after it; None if none does."""
    token = tokens[start]
    if token.is_word:
        if token.text in _DAYS and (token.text.endswith(("day", "days")) or token.raw[0].isupper()):
            return Date(weekday=_DAYS[token.text]), start + 1
        if token.text in _DECADES and _text(tokens, start - 1) in ("the", "late", "early", "mid"):
            return Date(decade=_DECADES[token.text]), start + 1
        if token.text in _MONTHS:
            return _month_first(tokens, start)
    elif token.value is not None:
        numeric = _numeric(tokens, start) or _decade(tokens, start)
        if numeric is not None:
            return numeric
    return _day_first(tokens, start)


def _text(tokens: Sequence[Token], at: int) -> str:
    return tokens[at].text if 0 <= at < len(tokens) else ""


def _decade(tokens: Sequence[Token], start: int) -> tuple[Date, int] | None:
    at = start + 1 + (_text(tokens, start + 1) == "'")
    value = tokens[start].value
    if not isinstance(value, Fraction) or value % 10 != 0 or len(tokens[start].text) not in (2, 4):
        return None
    adjacent = _text(tokens, at) == "s" and tokens[at].start - tokens[start].end <= 1
    return (Date(decade=int(value)), at + 1) if adjacent else None


_SPLIT = re.compile(r"(\d{1,2})\.(\d{1,2})")


def _numeric(tokens: Sequence[Token], start: int) -> tuple[Date, int] | None:
    """2024-03-05 · 2024/3/5 · 05/03/2024 · 5.3.2024, without blanks in between."""
    run = tokens[start : start + 5]
    adjacent = all(a.end == b.start for a, b in pairwise(run))
    texts = [token.text for token in run]
    if (
        len(run) >= 3
        and _SPLIT.fullmatch(texts[0])
        and texts[1] == "."
        and run[0].end == run[1].start == run[2].start - 1
    ):
        day, month = texts[0].split(".")
        return _parts(texts[2], month, day, start + 3, either=False)  # 5.3 . 2024: the first dot reads as a decimal
    if len(run) < 5 or not adjacent or texts[1] != texts[3] or texts[1] not in ("-", "/", "."):
        return None
    if len(texts[0]) == 4:
        return _parts(texts[0], texts[2], texts[4], start + 5, either=False)
    return _parts(texts[4], texts[2], texts[0], start + 5, either=texts[1] != ".")


def _parts(year: str, month: str, day: str, end: int, *, either: bool) -> tuple[Date, int] | None:
    if not all(text.isdecimal() and len(text) <= 4 for text in (year, month, day)) or len(year) not in (2, 4):
        return None
    years = [int(year)] if len(year) == 4 else [2000 + int(year), 1900 + int(year)]
    orders = {(int(month), int(day))} | ({(int(day), int(month))} if either else set())
    readings = tuple((y, m, d) for y in years for m, d in sorted(orders) if 1 <= m <= 12 and 1 <= d <= 31)
    return (Date(readings), end) if readings else None


def _month_first(tokens: Sequence[Token], start: int) -> tuple[Date, int] | None:
    """March 5(th)(,) (2024) · March 2024 · in March."""
    month, at = _MONTHS[tokens[start].text], start + 1
    at += _text(tokens, at) == "." and len(tokens[start].text) <= 4
    at += _text(tokens, at) == "the"
    day = _day(tokens, at)
    if day is not None:
        year = _year(tokens, day[1])
        return Date(((year[0] if year else None, month, day[0]),)), year[1] if year else day[1]
    year = _year(tokens, at)
    if year is not None:
        return Date(((year[0], month, None),)), year[1]
    said = tokens[start].text not in _AMBIGUOUS or _text(tokens, start - 1) in _BEFORE_MONTH
    alone = tokens[start].raw[0].isupper() and (start == 0 or len(tokens) <= start + 2)
    return (Date(((None, month, None),)), start + 1) if said or (alone and len(tokens) <= 2) else None


def _day_first(tokens: Sequence[Token], start: int) -> tuple[Date, int] | None:
    """5 March (2024) · the 5th of March, 2024."""
    day = _day(tokens, start)
    if day is None:
        return None
    at = day[1]
    at += _text(tokens, at) in ("of", "-", "/", ".")
    month = _MONTHS.get(_text(tokens, at))
    if month is None:
        return None
    at += 1
    at += _text(tokens, at) == "." and len(_text(tokens, at - 1)) <= 4
    at += _text(tokens, at) in ("-", "/")
    year = _year(tokens, at)
    return Date(((year[0] if year else None, month, day[0]),)), year[1] if year else at


def _day(tokens: Sequence[Token], at: int) -> tuple[int, int] | None:
    if _text(tokens, at) == "second":
        return 2, at + 1
    found = read_number(tokens, at) if at < len(tokens) else None
    if found is None or isinstance(found.value, str) or found.value.denominator != 1 or not 1 <= found.value <= 31:
        return None
    return int(found.value), found.end


def _year(tokens: Sequence[Token], at: int) -> tuple[int, int] | None:
    at += _text(tokens, at) == ","
    at += _text(tokens, at) == "of"
    if _text(tokens, at) == "'":
        short = tokens[at + 1] if at + 1 < len(tokens) else None
        if short is not None and len(short.text) == 2 and isinstance(short.value, Fraction):
            return int(short.value) + (2000 if short.value < 50 else 1900), at + 2
    found = read_number(tokens, at) if at < len(tokens) else None
    if found is None or isinstance(found.value, str) or found.ordinal or not 1000 <= found.value < 3000:
        return None
    return (int(found.value), found.end) if found.value.denominator == 1 else None


def as_year(value: Fraction | str) -> Date | None:
    """The date that a bare number may be: a year of four digits."""
    whole = isinstance(value, Fraction) and value.denominator == 1 and 1000 <= value < 3000
    return Date(((int(value), None, None),)) if whole else None
