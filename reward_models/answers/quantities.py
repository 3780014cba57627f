"""Quantities of a text (numbers with their units, ranks, times of day) and whether two of them are the same."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction

from sync_r1.reward_models.answers.number_words import Number, read_number, read_part
from sync_r1.reward_models.answers.spelling import american
from sync_r1.reward_models.answers.tokens import Token
from sync_r1.reward_models.answers.units import AFTER_ARTICLE, LONGEST_NAME, UNITS, Unit

Value = Fraction | str
_ROUNDING = Fraction(2, 100)
"""How far apart metric and imperial values of one thing may be: people round when they convert."""
_CURRENCIES = frozenset("$€£¥₹")


@dataclass(frozen=True)
class Quantity:
    """One mention. `readings` are (dimension, value in its base unit), what it may mean; `value`: the number alone."""

    readings: frozenset[tuple[str, Value]]
    value: Value
    units: tuple[Unit, ...] = ()
    implied: bool = False
    """"a kilometer": may go unsaid, like "one"."""

    @property
    def optional(self) -> bool:
        """Whether nothing is missing where it is not said ("a ball", "one ball", "first of all")."""
        return self.implied or self.value == 1

    @property
    def has_unit(self) -> bool:
        """Whether it says more than a number."""
        return any(dimension for dimension, _ in self.readings)


@dataclass(frozen=True)
class Read:
    """A quantity and the index of the token after it."""

    quantity: Quantity
    end: int


def same(a: Quantity, b: Quantity) -> bool:
    """Whether both may mean one thing: a number without a unit is that of any unit, converted values may be rounded."""
    if a.readings & b.readings:
        return True
    if not (a.has_unit and b.has_unit):
        ranked = any(dimension == "ordinal" for q in (a, b) for dimension, _ in q.readings)
        return a.value == b.value and not ranked
    measured, compared = dict(a.readings), dict(b.readings)
    return any(
        one.dimension == other.dimension
        and one.imperial != other.imperial
        and _near(measured[one.dimension], compared[other.dimension])
        for one in a.units
        for other in b.units
        if one.dimension in measured and other.dimension in compared
    )


def _near(a: Value, b: Value) -> bool:
    if isinstance(a, str) or isinstance(b, str):
        return a == b
    return abs(a - b) <= _ROUNDING * max(abs(a), abs(b))


def read_quantity(tokens: Sequence[Token], start: int) -> Read | None:
    """The quantity that begins at tokens[start], with its sign, its unit and smaller units after it, or None."""
    clock = read_clock(tokens, start)
    if clock is not None:
        return clock
    found = _one_quantity(tokens, start)
    while found is not None:
        after = found.end
        if after < len(tokens) and tokens[after].text in ("and", ","):
            after += 1
        smaller = _one_quantity(tokens, after) if after < len(tokens) and found.quantity.units else None
        joined = _joined(found.quantity, smaller.quantity) if smaller is not None else None
        if smaller is None or joined is None:
            return found
        found = Read(joined, smaller.end)
    return None


def _joined(large: Quantity, small: Quantity) -> Quantity | None:
    """5 feet 10 inches, 2 hours and 30 minutes: the sum, where the second is less than one of the first."""
    values = dict(small.readings)
    sums: set[tuple[str, Value]] = set()
    for unit in large.units:
        whole, part = dict(large.readings).get(unit.dimension), values.get(unit.dimension)
        below = any(u.dimension == unit.dimension and u.size < unit.size for u in small.units)
        if isinstance(whole, Fraction) and isinstance(part, Fraction) and below and 0 <= part < unit.size:
            sums.add((unit.dimension, whole + part))
    if not sums:
        return None
    kept = tuple(u for u in small.units if any(u.dimension == dimension for dimension, _ in sums))
    return Quantity(frozenset(sums), large.value, kept)


def _one_quantity(tokens: Sequence[Token], start: int) -> Read | None:
    at, negative = start, False
    units: tuple[Unit, ...] = ()
    token = tokens[at]
    if token.text in ("minus", "negative") or (token.text == "-" and _is_sign(tokens, at)):
        negative, at = True, at + 1
    if at < len(tokens) and tokens[at].text in _CURRENCIES:
        units, at = UNITS[tokens[at].text], at + 1
    if at >= len(tokens):
        return None
    number = read_number(tokens, at)
    if number is None:
        return None if negative or units else _article_unit(tokens, start)
    end = number.end
    if not units and not number.ordinal:
        units, end = _unit_at(tokens, number)
        if not units and number.value in (Fraction(1, 2), Fraction(1, 4)):  # half an hour, a quarter of an hour
            units, end = _unit_after_article(tokens, number.end, end)
    return Read(_quantity(number, units, negative), end)


def _is_sign(tokens: Sequence[Token], at: int) -> bool:
    """Whether a dash is a minus: a number follows at once and nothing stands directly before it."""
    follows = at + 1 < len(tokens) and tokens[at + 1].start == tokens[at].end and tokens[at + 1].value is not None
    return follows and (at == 0 or tokens[at - 1].end < tokens[at].start)


def _quantity(number: Number, units: tuple[Unit, ...], negative: bool) -> Quantity:
    value = number.value
    if negative:
        value = f"-{value}" if isinstance(value, str) else -value
    if number.ordinal:
        readings: set[tuple[str, Value]] = {("ordinal", value)}
        if number.part is not None:
            readings.add(("", number.part))
        return Quantity(frozenset(readings), value)
    if not units:
        return Quantity(frozenset({("", value)}), value)
    if isinstance(value, str):
        return Quantity(frozenset((unit.dimension, value) for unit in units), value, units)
    readings = {(unit.dimension, value * unit.size + unit.shift) for unit in units}
    if any(unit.dimension == "share" for unit in units):  # 50% is a half
        return Quantity(frozenset({("", value / 100), ("share", value / 100)}), value, units)
    return Quantity(frozenset(readings), value, units)


def _unit_at(tokens: Sequence[Token], number: Number) -> tuple[tuple[Unit, ...], int]:
    """The unit right after a number (a dash may stand between), and the index after it."""
    at = number.end
    if at < len(tokens) and tokens[at].text == "-":
        at += 1
    for length in range(LONGEST_NAME, 0, -1):
        words = [
            american(token.text.rstrip("'") if token.is_word else token.text.lower())
            for token in tokens[at : at + length]
        ]
        if len(words) < length:
            continue
        for name in (" ".join(words), "".join(words)):
            if name in UNITS and not (len(name) == 1 and tokens[at].raw == "C"):
                return UNITS[name], at + length
    return (), number.end


def _unit_after_article(tokens: Sequence[Token], at: int, end: int) -> tuple[tuple[Unit, ...], int]:
    if at < len(tokens) and tokens[at].text == "of":
        at += 1
    if at + 1 < len(tokens) and tokens[at].text in ("a", "an") and american(tokens[at + 1].text) in UNITS:
        return UNITS[american(tokens[at + 1].text)], at + 2
    return (), end


def _article_unit(tokens: Sequence[Token], start: int) -> Read | None:
    """An hour · a mile and a half."""
    if tokens[start].text not in ("a", "an") or start + 1 >= len(tokens):
        return None
    name = american(tokens[start + 1].text)
    if name not in AFTER_ARTICLE:
        return None
    if start + 2 < len(tokens) and tokens[start + 2].text == "and":
        part = read_part(tokens, start + 3)
        if part is not None and not isinstance(part.value, str):
            return Read(_quantity(Number(1 + part.value, part.end), UNITS[name], False), part.end)
    made = _quantity(Number(Fraction(1), start + 2), UNITS[name], False)
    return Read(Quantity(made.readings, made.value, made.units, implied=True), start + 2)


_HALF_DAY = 12 * 60


def read_clock(tokens: Sequence[Token], start: int) -> Read | None:
    """15:30 · 3.30 pm · 3 pm · three o'clock · half past three · ten to four · noon: minutes after midnight."""
    word = tokens[start].text
    if word in ("noon", "midday", "midnight"):
        return _clock(0 if word == "midnight" else _HALF_DAY, start + 1, both=False)
    texts = [token.text for token in tokens[start : start + 8]]
    relative = _past_or_to(tokens, start)
    if relative is not None:
        minutes, at = relative
        return _with_half(tokens, minutes, at)
    hour = _hour(tokens[start])
    if hour is None:
        return None
    if len(texts) > 2 and texts[1] in (":", ".") and tokens[start].end == tokens[start + 1].start:
        minute = tokens[start + 2].value
        if texts[1] == ":" and isinstance(minute, Fraction) and minute < 60 and len(texts[2]) == 2:
            at = start + 3
            if len(texts) > 4 and texts[3] == ":" and tokens[start + 4].value is not None:
                at += 2
            return _with_half(tokens, 60 * hour + int(minute), at)
    if len(texts) > 1 and texts[1] == "o'clock":
        return _with_half(tokens, 60 * hour, start + 2)
    if _half_of_day(tokens, start + 1)[0] is not None:
        return _with_half(tokens, _decimal_minutes(tokens[start], hour), start + 1)
    return None


def _decimal_minutes(token: Token, hour: int) -> int:
    """3.30 pm is half past three."""
    _, _, minutes = token.text.partition(".")
    return 60 * hour + (int(minutes) if len(minutes) == 2 and int(minutes) < 60 else 0)


def _hour(token: Token) -> int | None:
    if isinstance(token.value, Fraction) and 0 <= token.value < 25 and len(token.text.partition(".")[0]) <= 2:
        return int(token.value)
    found = read_number([token], 0) if token.is_word else None
    if found is None or found.ordinal or isinstance(found.value, str) or not 1 <= found.value <= 12:
        return None
    return int(found.value)


def _past_or_to(tokens: Sequence[Token], start: int) -> tuple[int, int] | None:
    at = start + (tokens[start].text in ("a", "an"))
    word = tokens[at].text if at < len(tokens) else ""
    shift: int | None = {"half": 30, "quarter": 15}.get(word)
    end = at + 1
    if shift is None:
        found = read_number(tokens, at) if at < len(tokens) else None
        if found is None or found.ordinal or isinstance(found.value, str) or not 0 < found.value < 60:
            return None
        shift, end = int(found.value), found.end
        if end < len(tokens) and tokens[end].text in ("minute", "minutes"):
            end += 1
    if end + 1 >= len(tokens) or tokens[end].text not in ("past", "to", "after"):
        return None
    if tokens[end].text != "past" and word not in ("quarter",) and shift % 5:
        return None
    hour = _hour(tokens[end + 1])
    if hour is None or (tokens[end].text == "to" and tokens[end + 1].value is not None and word != "quarter"):
        return None
    end_at = end + 2 + (end + 2 < len(tokens) and tokens[end + 2].text == "o'clock")
    return 60 * hour + (shift if tokens[end].text != "to" else -shift), end_at


def _half_of_day(tokens: Sequence[Token], at: int) -> tuple[bool | None, int]:
    """Whether am (False) or pm (True) stands at `at`, and the index after it; None if neither."""
    texts = [token.text for token in tokens[at : at + 4]]
    if texts[:1] in (["am"], ["pm"]):
        return texts[0] == "pm", at + 1
    if len(texts) > 2 and texts[0] in ("a", "p") and texts[1:3] == [".", "m"]:
        return texts[0] == "p", at + 3 + (texts[3:4] == ["."])
    return None, at


def _with_half(tokens: Sequence[Token], minutes: int, at: int) -> Read:
    afternoon, end = _half_of_day(tokens, at)
    if afternoon is None:
        phrase = " ".join(token.text for token in tokens[at : at + 3])
        if phrase.startswith(("in the afternoon", "in the evening", "in the morning")):
            afternoon, end = not phrase.endswith("morning"), at + 3
        elif phrase.startswith("at night"):
            afternoon, end = True, at + 2
    if afternoon is None:
        return _clock(minutes, end, both=minutes < 13 * 60)
    return _clock(minutes % _HALF_DAY + (_HALF_DAY if afternoon else 0), end, both=False)


def _clock(minutes: int, end: int, *, both: bool) -> Read:
    day = 2 * _HALF_DAY
    values = {minutes % day, (minutes + _HALF_DAY) % day} if both else {minutes % day}
    return Read(Quantity(frozenset(("clock", Fraction(v)) for v in values), f"clock {minutes % day}"), end)
