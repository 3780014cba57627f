"""Text to tokens: digits of every script as ASCII, numbers with their separators as one token, words and punctuation.

One pass, time linear in the length of the text: every repetition in the pattern is bounded or consumes what it reads.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterator
from dataclasses import dataclass
from fractions import Fraction

_SAME = str.maketrans(
    {"’": "'", "‘": "'", "ʼ": "'", "′": "'", "″": '"', "“": '"', "”": '"', "−": "-", "–": "-", "—": "-"}
    | {"‐": "-", "‑": "-"}
    | {"٫": ".", "٬": ",", "،": ",", "、": ",", "。": ".", "؛": ";", "؟": "?", "٪": "%", "⁄": "/", "·": ".", "−": "-"}
)  # fmt: skip
_LONGEST_DIGITS = 40
"""More digits than this are compared as written: no number that anybody counts is longer."""
_TOKEN = re.compile(
    r"""
    (?P<grouped>(?<![\d,])\d{1,3}(?:,\d{2,3}){0,12},\d{3}(?![\d,]\d)(?!\d)(?:\.\d{1,20})?
        |\d{1,3}(?:'\d{3}){1,12}(?!\d)(?:\.\d{1,20})?|\d{1,3}(?:_\d{3}){1,12}(?!\d)
        |(?<!\d\ )\d{1,3}(?:\ \d{3}){1,12}(?![\d])(?:\.\d{1,20})?)
    |(?P<dotted>\d{1,3}(?:\.\d{3}){1,12},\d{1,20}|\d{1,3}(?:\.\d{3}){2,12}(?![\d.]))
    |(?P<comma>(?<![\d,])(?<!\d,)\d{1,12},\d{1,2}(?![\d,]))
    |(?P<plain>\d+(?:\.\d{1,40})?(?:[eE][+-]?\d{1,2}(?![^\W_]))?|(?<![\w.])\.\d{1,40})
    |(?P<possessive>(?<=[\s>])'s\b)
    |(?P<word>[^\W\d_]+(?:'[^\W\d_]+)?)
    |(?P<mark>[^\w\s])
    """,
    re.VERBOSE,
)


@dataclass(frozen=True)
class Token:
    """A number (`value` is set), a word (lower case) or one mark; `start` and `end` are places in the plain text."""

    text: str
    raw: str
    start: int
    end: int
    value: Fraction | str | None = None
    is_word: bool = False


def plain(text: str) -> str:
    """NFKC, quotes, dashes and separators as ASCII, digits and numerals of every script as ASCII numbers."""
    if not text.isascii():
        text = "".join(_numerals(text)).translate(_SAME)
        text = unicodedata.normalize("NFKC", text).translate(_SAME)
        text = "".join(character for character in text if unicodedata.category(character) not in ("Cf", "Cs"))
    return text


def tokens(text: str) -> list[Token]:
    """The tokens of a text; "'s" is dropped as `words` does, "<bo>" gives marks and a word."""
    found = []
    for match in _TOKEN.finditer(plain(text)):
        raw, kind = match.group(), match.lastgroup
        if kind == "possessive":
            continue
        if kind == "word":
            lower = raw.lower().removesuffix("'s")
            found.append(Token(lower, raw, match.start(), match.end(), is_word=True))
        elif kind == "mark":
            found.append(Token(raw, raw, match.start(), match.end()))
        else:
            found.append(Token(raw, raw, match.start(), match.end(), _value(raw, str(kind))))
    return found


def _value(raw: str, kind: str) -> Fraction | str:
    if kind == "grouped":
        raw = re.sub(r"[,'_ ]", "", raw)
    elif kind == "dotted":
        raw = raw.replace(".", "").replace(",", ".")
    elif kind == "comma":
        raw = raw.replace(",", ".")
    if len(raw) > _LONGEST_DIGITS:
        return raw.lstrip("0")
    return Fraction(raw)


_ROMAN = {1: 1, 5: 5, 10: 10, 50: 50, 100: 100, 500: 500, 1000: 1000}


def _numerals(text: str) -> Iterator[str]:
    """The text in pieces, each run of numerals that are no decimal digits as the number it means."""
    run: list[int] = []
    kind = ""
    for character in text:
        found = _numeral_kind(character)
        if run and found != kind:
            yield f" {_run_value(run, kind)} "
            run = []
        kind = found
        if found == "":
            digit = unicodedata.decimal(character, None)
            yield character if digit is None else str(digit)
        elif found == "vulgar":
            value = Fraction(unicodedata.numeric(character)).limit_denominator(1000)
            yield f" {value.numerator}/{value.denominator} "
        elif found == "power":
            yield f"^{int(unicodedata.numeric(character))}"
        else:
            run.append(int(unicodedata.numeric(character)))
    if run:
        yield f" {_run_value(run, kind)} "


def _numeral_kind(character: str) -> str:
    """How a run of such characters is read; "" for anything that is no numeral or is a decimal digit."""
    if character.isascii() or unicodedata.decimal(character, None) is not None:
        return ""
    number = unicodedata.numeric(character, None)
    if number is None or number < 0:
        return ""
    if number != int(number):
        return "vulgar"
    name = unicodedata.name(character, "")
    if name.startswith("SUPERSCRIPT"):
        return "power"
    if name.startswith(("ETHIOPIC", "CJK", "IDEOGRAPHIC")):
        return "multiplied"
    return "roman" if name.startswith(("ROMAN", "SMALL ROMAN")) else "single" if name.startswith("CIRCLED") else "added"


def _run_value(run: list[int], kind: str) -> int | str:
    """The number that a run of numerals means. A multiplier (100, 1000, 10000 …) takes what stands before it."""
    if len(run) > 24:
        return " ".join(str(number) for number in run)
    if kind == "multiplied" and len(run) > 1 and all(number < 10 for number in run):
        return int("".join(str(number) for number in run))
    if kind == "roman":
        return sum(-low if low < high else low for low, high in zip(run, [*run[1:], 0]))
    if kind != "multiplied":
        return sum(run) if kind == "added" else " ".join(str(number) for number in run)
    total = section = digits = 0
    for number in run:
        if number >= 10_000:
            total = (total + section + digits or 1) * number
            section = digits = 0
        elif number >= 100 or (number == 10 and digits):
            section += (digits or 1) * number
            digits = 0
        else:
            digits += number
    return total + section + digits
