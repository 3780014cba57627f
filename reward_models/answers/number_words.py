"""English number words to numbers: cardinals, ordinals, fractions, years as they are spoken."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction

from sync_r1.reward_models.answers.tokens import Token

_SMALL_WORDS = (
    "zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen sixteen seventeen "
    "eighteen nineteen"
)
SMALL = {word: value for value, word in enumerate(_SMALL_WORDS.split())}
TENS = {
    word: 10 * value
    for value, word in enumerate(
        ["twenty", "thirty", "forty", "fifty", "sixty", "seventy", "eighty", "ninety"], start=2
    )
} | {"fourty": 40}
SCALES = {"thousand": 10**3, "million": 10**6, "billion": 10**9, "trillion": 10**12, "lakh": 10**5, "crore": 10**7}
_LETTER_SCALES = {"k": 10**3, "M": 10**6, "mn": 10**6, "B": 10**9, "bn": 10**9}
COUNTS = {"single": 1, "once": 1, "both": 2, "pair": 2, "couple": 2, "twice": 2, "thrice": 3, "dozen": 12, "score": 20}
_ALONE = {word: value for word, value in COUNTS.items() if word != "score"}

_ORDINAL_SMALL = dict(
    zip(
        [
            "first",
            "second",
            "third",
            "fourth",
            "fifth",
            "sixth",
            "seventh",
            "eighth",
            "ninth",
            "tenth",
            "eleventh",
            "twelfth",
            "thirteenth",
            "fourteenth",
            "fifteenth",
            "sixteenth",
            "seventeenth",
            "eighteenth",
            "nineteenth",
        ],
        range(1, 20),
    )
)
_ORDINAL_TENS = {f"{word[:-1]}ieth": value for word, value in TENS.items()}
ORDINALS = _ORDINAL_SMALL | _ORDINAL_TENS | {"hundredth": 100, "thousandth": 1000, "millionth": 10**6}
_PARTS = {word: value for word, value in ORDINALS.items() if word not in ("first", "second")}
DENOMINATORS = _PARTS | {f"{word}s": value for word, value in _PARTS.items()}
DENOMINATORS |= {"half": 2, "halves": 2, "quarter": 4, "quarters": 4}
NUMBER_WORDS = frozenset((*SMALL, *TENS, *SCALES, "hundred", *COUNTS, *ORDINALS, *DENOMINATORS)) - {"second", "score"}


@dataclass(frozen=True)
class Number:
    """A number in tokens[start:end]; `ordinal` where it ranks. `part`: "a third" may be 1/3 as well as a rank."""

    value: Fraction | str
    end: int
    ordinal: bool = False
    part: Fraction | None = None


def read_number(tokens: Sequence[Token], start: int) -> Number | None:
    """The number that begins at tokens[start], as long as it goes; None if none does."""
    token = tokens[start]
    if token.value is not None:
        return _digits(tokens, start)
    if not token.is_word:
        return None
    if token.text in ("a", "an", "one", "half"):
        found = _article(tokens, start)
        if found is not None:
            return found
    if token.text == "half":
        return Number(Fraction(1, 2), start + 1)
    found = _cardinal(tokens, start)
    if found is not None:
        return _tail(tokens, found)
    if token.text in ORDINALS and (token.text != "second" or _after_determiner(tokens, start)):
        return Number(Fraction(ORDINALS[token.text]), start + 1, ordinal=True)
    return Number(Fraction(_ALONE[token.text]), start + 1) if token.text in _ALONE else None


def _after_determiner(tokens: Sequence[Token], start: int) -> bool:
    return start > 0 and tokens[start - 1].text in ["the", "its", "his", "her", "their", "my", "our", "your", "every"]


def _word(tokens: Sequence[Token], at: int) -> str:
    return tokens[at].text if at < len(tokens) else ""


def _digits(tokens: Sequence[Token], start: int) -> Number:
    """1,000 · 3rd · 1/2 · 1 1/2 · 2.5 million · 3 dozen · 20 thousand."""
    value, end = tokens[start].value, start + 1
    assert value is not None
    if isinstance(value, str):
        return Number(value, end)
    if _word(tokens, end) in ("st", "nd", "rd", "th") and tokens[end].start == tokens[start].end:
        return Number(value, end + 1, ordinal=True)
    fraction = _slash(tokens, start)
    if fraction is not None:
        return fraction
    if end < len(tokens) and value.denominator == 1 and (mixed := _slash(tokens, end)) is not None:
        assert not isinstance(mixed.value, str)
        if mixed.value < 1:
            return Number(value + mixed.value, mixed.end)
    if end < len(tokens) and tokens[end].start == tokens[start].end:
        scale = _LETTER_SCALES.get(tokens[end].raw) or _LETTER_SCALES.get(tokens[end].raw.lower())
        if scale is not None:
            return Number(value * scale, end + 1)
    return _tail(tokens, _scaled(tokens, Number(value, end)))


def _slash(tokens: Sequence[Token], start: int) -> Number | None:
    if _word(tokens, start + 1) != "/" or start + 2 >= len(tokens):
        return None
    upper, lower = tokens[start].value, tokens[start + 2].value
    if (
        isinstance(upper, Fraction)
        and isinstance(lower, Fraction)
        and 0 < lower <= 1000
        and _word(tokens, start + 3) != "/"
    ):
        return Number(upper / lower, start + 3)
    return None


def _scaled(tokens: Sequence[Token], number: Number) -> Number:
    """The number times the scale words that follow it ("2.5 million", "three dozen")."""
    value, end = number.value, number.end
    while not isinstance(value, str) and (word := _word(tokens, end)) in SCALES | {"hundred": 100, "dozen": 12}:
        value, end = value * {**SCALES, "hundred": 100, "dozen": 12}[word], end + 1
        if value > 10**24:
            break
    return Number(value, end)


def _article(tokens: Sequence[Token], start: int) -> Number | None:
    """A hundred · a third of · a dozen · half a dozen · a couple · one half; None where the word is no number here."""
    at = start + 1
    if tokens[start].text == "half":
        if _word(tokens, at) in ("a", "an") and _word(tokens, at + 1) in ("dozen", "hundred", *SCALES):
            size = {"dozen": 12, "hundred": 100, **SCALES}[tokens[at + 1].text]
            return Number(Fraction(size, 2), at + 2)
        return None
    if _word(tokens, at) == "-" and tokens[start].text == "one":
        at += 1
    word = _word(tokens, at)
    if word in ("hundred", "dozen", "couple", "pair", *SCALES):
        begun = _cardinal(tokens, at, first=1) if word not in COUNTS else None
        return _tail(tokens, begun) if begun is not None else Number(Fraction(COUNTS[word]), at + 1)
    if word in DENOMINATORS and not word.endswith("s"):
        value = Fraction(1, DENOMINATORS[word])
        if word in ("half", "quarter") or tokens[start].text == "one" or _word(tokens, at + 1) == "of":
            return Number(value, at + 1)
        return Number(Fraction(ORDINALS[word]), at + 1, ordinal=True, part=value)
    return None


def _tail(tokens: Sequence[Token], number: Number) -> Number:
    """A cardinal with what may follow: thirds, "and a half", "point five", the second half of a year."""
    value, end = number.value, number.end
    if isinstance(value, str) or number.ordinal:
        return number
    at = end + (_word(tokens, end) == "-")
    word = _word(tokens, at)
    if word in DENOMINATORS and value.denominator == 1 and (word.endswith("s") or value == 1):
        return Number(value / DENOMINATORS[word], at + 1)
    if word == "and":
        part = read_part(tokens, end + 1)
        if part is not None:
            assert not isinstance(part.value, str)
            return Number(value + part.value, part.end)
    if word == "point":
        digits, at = "", end + 1
        while len(digits) < 20 and (_word(tokens, at) in SMALL or _word(tokens, at) == "oh"):
            digits, at = digits + str(SMALL.get(tokens[at].text, 0)), at + 1
        if digits:
            return _scaled(tokens, Number(value + Fraction(f"0.{digits}"), at))
    return number


def read_part(tokens: Sequence[Token], start: int) -> Number | None:
    """The part below one of a mixed number: "a half", "three quarters", "1/4"."""
    if start >= len(tokens) or _word(tokens, start) == "and":
        return None
    found = _slash(tokens, start) if tokens[start].value is not None else None
    if found is None and tokens[start].text in ("a", "an", "one"):
        found = _article(tokens, start)
    if found is None and tokens[start].text in SMALL:
        at = start + 1 + (_word(tokens, start + 1) == "-")
        if _word(tokens, at) in DENOMINATORS:
            found = Number(Fraction(SMALL[tokens[start].text], DENOMINATORS[tokens[at].text]), at + 1)
    return found if found is not None and not isinstance(found.value, str) and 0 < found.value < 1 else None


def _cardinal(tokens: Sequence[Token], start: int, first: int | None = None, *, years: bool = True) -> Number | None:
    """The longest cardinal, ordinal or spoken year in words; `first` stands for an article ("a hundred and two")."""
    total, current, end, limit = 0, first, start, 10**18
    last = "small" if first is not None else ""
    while end < len(tokens):
        at = end
        word = tokens[at].text
        if at > start and word in ("-", "and", ","):
            if (word == "and" and last not in ("hundred", "scale")) or (word == "," and not _goes_on(tokens, at, last)):
                break
            at += 1
            word = _word(tokens, at)
        ordinal = word in ORDINALS and last in ("tens", "hundred", "scale")
        value = SMALL.get(word, TENS.get(word, ORDINALS.get(word, -1) if ordinal else -1))
        if 0 <= value < 100:
            if not _fits(value, last):
                break
            current, end, last = (current or 0) + value, at + 1, "tens" if value >= 20 else "small"
        elif (word == "hundred" or (ordinal and word == "hundredth")) and current and current < 100 and at == end:
            current, end, last = current * 100, at + 1, "hundred"
        elif (word in SCALES or (ordinal and value in SCALES.values())) and current and at == end:
            size = SCALES.get(word, value)
            if size >= limit:
                break
            total, current, end, last, limit = total + current * size, None, at + 1, "scale", size
        else:
            break
        if ordinal:
            return Number(Fraction(total + (current or 0)), end, ordinal=True)
    if end == start:
        return None
    value = total + (current or 0)
    if years and total == 0 and first is None and 10 <= value < 100 and end - start <= 3:
        return _year(tokens, value, end)
    return Number(Fraction(value), end)


def _goes_on(tokens: Sequence[Token], comma: int, last: str) -> bool:
    """Whether a comma stands inside a number: after a scale, before hundreds ("one million, two hundred thousand")."""
    following = [token.text for token in tokens[comma + 1 : comma + 7]]
    begins = following[:1] and (following[0] in SMALL or following[0] in TENS)
    return last == "scale" and bool(begins) and ("hundred" in following or any(word in SCALES for word in following))


def _fits(value: int, last: str) -> bool:
    """Whether a number below 100 may follow: anything first or after hundreds, 1 to 9 after tens."""
    return last in ("", "hundred", "scale") or (last == "tens" and 0 < value < 10)


def _year(tokens: Sequence[Token], century: int, end: int) -> Number:
    """Nineteen ninety-nine · twenty twenty · nineteen oh five; else the number itself."""
    word = _word(tokens, end)
    at = end + (word == "-")  # nineteen-oh-five
    if _word(tokens, at) in ("oh", "o"):
        at += 1 + (_word(tokens, at + 1) == "-")
        if 0 < SMALL.get(_word(tokens, at), 0) < 10:
            return Number(Fraction(100 * century + SMALL[tokens[at].text]), at + 1)
    if century <= 20 and (word in TENS or SMALL.get(word, 0) >= 10):
        rest = _cardinal(tokens, end, years=False)
        if rest is not None and not rest.ordinal and not isinstance(rest.value, str) and 10 <= rest.value < 100:
            return Number(100 * century + rest.value, rest.end)
    return Number(Fraction(century), end)
