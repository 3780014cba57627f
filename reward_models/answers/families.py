"""Generated answers of kinds that string comparison gets wrong: right ones written otherwise, and near misses.

`num2words` and `babel` (development dependencies) write the numbers, dates, units and money, so that what reads them is
not tested on its own tables. Half of each family, by the hash of family and reference, is held out: rules and lists
were made on the other half only.
"""

from __future__ import annotations

import datetime
import hashlib
import unicodedata
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from fractions import Fraction

import numpy as np
from babel.dates import format_date, format_time
from babel.numbers import format_compact_decimal, format_currency, format_decimal, format_percent
from babel.units import format_unit
from num2words import num2words

PER_FAMILY = 400
"""Pairs at least, held-out ones included."""


@dataclass(frozen=True)
class FamilyPair:
    """An answer to a question with its reference, and whether it is right."""

    question: str
    reference: str
    answer: str
    right: bool


Made = Iterator[tuple[str, str, list[str], list[str]]]
"""Question, reference, right answers, wrong answers."""

_COUNTED = (
    ("How many people are there?", "There are {} people.", ("{} people.", "I can see {} people.", "{}")),
    ("How old is he?", "He is {} years old.", ("He is {} years old.", "{} years.", "He's {}.")),
    ("", "She counted {} stars.", ("She counted {} stars.", "{} stars were counted by her.")),
    ("What number is on the door?", "The number is {}.", ("It is {}.", "{}.", "The door has the number {}.")),
)


def _fill(template: str, value: str) -> str:
    """The template with the value; a capital at its start where the template begins with it."""
    return template.format(value[:1].upper() + value[1:] if template.startswith("{}") else value)


def _counted(rng: np.random.Generator, right: list[str], wrong: list[str]) -> tuple[str, str, list[str], list[str]]:
    """One of the contexts; `right[0]` goes into the reference."""
    question, reference, answers = _COUNTED[int(rng.integers(len(_COUNTED)))]

    def said(values: list[str]) -> list[str]:
        return [_fill(answers[int(rng.integers(len(answers)))], value) for value in values]

    return question, _fill(reference, right[0]), said(right[1:]), said(wrong)


def _number(rng: np.random.Generator, largest_digits: int = 7) -> int:
    digits = int(rng.integers(1, largest_digits + 1))
    number = int(rng.integers(10 ** (digits - 1), 10**digits))
    return number if rng.random() < 0.6 else max(2, round(number, 1 - digits))


def _near(rng: np.random.Generator, number: int) -> list[int]:
    """Numbers that look or sound like it: ten times, one more, two digits swapped."""
    text = str(number)
    swapped = int(text[:-2] + text[-1] + text[-2]) if len(text) > 1 else number + 2
    found = [number * 10, number + 1, swapped, number + 10 ** (len(text) - 1)]
    if 13 <= number <= 19:
        found.append(10 * (number % 10))
    if number in range(30, 100, 10):
        found.append(number // 10 + 10)
    return [other for other in dict.fromkeys(found) if other != number and other > 1][:3]


def number_words(rng: np.random.Generator) -> Made:
    """Thirty, 30; one thousand and five, 1,005."""
    while True:
        number = _number(rng)
        words, digits = num2words(number), str(number)
        forms = [digits, words, format_decimal(number, locale="en"), words.replace(",", "").replace(" and ", " ")]
        rng.shuffle(forms)
        wrong = [num2words(n) if rng.random() < 0.5 else format_decimal(n, locale="en") for n in _near(rng, number)]
        yield _counted(rng, forms, wrong)


def number_formats(rng: np.random.Generator) -> Made:
    """1,000; 1 000; 1'000; 12,34,567; 2.5 million."""
    while True:
        number = _number(rng, 8) * (1000 if rng.random() < 0.3 else 1)
        forms = [str(number), *(format_decimal(number, locale=where) for where in ("en", "fr", "de_CH", "en_IN"))]
        forms += [f"{number:_}"]
        if number >= 10**6 and number % 10**5 == 0:
            forms.append(format_compact_decimal(number, format_type="long", locale="en", fraction_digits=1))
        rng.shuffle(forms)
        yield _counted(rng, forms, [format_decimal(n, locale="en") for n in _near(rng, number)])


def decimals(rng: np.random.Generator) -> Made:
    """2.5, two point five, 2.50."""
    while True:
        number = Fraction(int(rng.integers(1, 10_000)), 10 ** int(rng.integers(1, 3)))
        if number.denominator == 1:
            continue
        text = str(float(number))
        forms = [text, num2words(float(number)), f"{text}0"]
        rng.shuffle(forms)
        others = [float(number) * 10, float(number) + 1, float(number) + 0.1]
        question, answers = "What is the value?", ("It is {}.", "{}", "The value is {}.")
        choose = lambda: answers[int(rng.integers(len(answers)))]  # noqa: E731 - a draw for each
        yield (
            question, f"The value is {forms[0]}.", [_fill(choose(), form) for form in forms[1:]],
            [_fill(choose(), f"{round(other, 4):g}") for other in others],
        )  # fmt: skip


def ordinals(rng: np.random.Generator) -> Made:
    """Twenty-first, 21st."""
    while True:
        number = int(rng.integers(2, 200))
        words, short = num2words(number, to="ordinal"), num2words(number, to="ordinal_num")
        one, other = (words, short) if rng.random() < 0.5 else (short, words)
        reference, answers = (
            ("She lives on the {} floor.", ("On the {} floor.", "She lives on the {} floor.", "The {} floor.")),
            ("He came in on the {} place.", ("He was in the {} place.", "In the {} place.")),
        )[int(rng.integers(2))]
        near = [num2words(n, to=str(rng.choice(["ordinal", "ordinal_num"]))) for n in (number + 1, number * 10, number + 10)]
        yield "", reference.format(one), [a.format(other) for a in answers], [
            answers[int(rng.integers(len(answers)))].format(text) for text in near
        ]


def _date_forms(day: datetime.date) -> list[str]:
    day_words, year_words = num2words(day.day, to="ordinal"), num2words(day.year, to="year")
    month = format_date(day, "MMMM", locale="en")
    return [
        *(format_date(day, style, locale=where) for style in ("medium", "long", "full") for where in ("en_GB", "en_US")),
        day.isoformat(), format_date(day, "dd/MM/yyyy", locale="en_GB"), format_date(day, "d.M.yyyy", locale="de"),
        f"the {num2words(day.day, to='ordinal_num')} of {month} {day.year}", f"{month} {day_words}, {year_words}",
        f"the {day_words} of {month}, {day.year}",
    ]  # fmt: skip


def dates(rng: np.random.Generator) -> Made:
    """2024-03-05, 5 March 2024, March fifth, twenty twenty-four."""
    questions = (("When was it built?", "It was built on {}."), ("When is the party?", "The party is on {}."))
    while True:
        day = datetime.date(1900, 1, 1) + datetime.timedelta(days=int(rng.integers(0, 48_000)))
        if day.day == day.month:
            continue
        question, sentence = questions[int(rng.integers(2))]
        forms = _date_forms(day)
        rng.shuffle(forms)
        near = [day + datetime.timedelta(days=1), day + datetime.timedelta(days=31), day + datetime.timedelta(days=3653)]
        wrong = [str(rng.choice([f for f in _date_forms(other) if "/" not in f])) for other in near]
        said = [str(rng.choice([sentence, "On {}.", "{}"])) for _ in range(7)]
        yield (
            question, sentence.format(forms[0]), [_fill(s, f) for s, f in zip(said, forms[1:5])],
            [_fill(s, f) for s, f in zip(said[4:], wrong)],
        )  # fmt: skip


def _time_forms(at: datetime.time) -> list[str]:
    hour, minute = at.hour, at.minute
    half = "pm" if hour >= 12 else "am"
    forms = [
        format_time(at, "HH:mm", locale="en_GB"), format_time(at, "short", locale="en_US"),
        f"{hour % 12 or 12}:{minute:02d} {half[0]}.m.", f"{hour % 12 or 12}.{minute:02d} {half}",
    ]  # fmt: skip
    name, following = num2words(hour % 12 or 12), num2words((hour + 1) % 12 or 12)
    part = {"am": "in the morning", "pm": "in the afternoon" if hour < 18 else "in the evening"}[half]
    spoken = {0: f"{name} o'clock", 15: f"quarter past {name}", 30: f"half past {name}", 45: f"quarter to {following}"}
    if minute in spoken and hour not in (0, 11, 12, 23):
        forms += [f"{spoken[minute]} {part}", f"{spoken[minute]}"]
    elif minute in (5, 10, 20) and hour not in (0, 11, 12, 23):
        forms.append(f"{num2words(minute)} past {name} {part}")
    return forms


def times(rng: np.random.Generator) -> Made:
    """15:30, 3:30 PM, half past three in the afternoon."""
    while True:
        at = datetime.time(int(rng.integers(1, 24)), int(rng.choice([0, 5, 10, 15, 20, 30, 45, 37])))
        forms = _time_forms(at)
        rng.shuffle(forms)
        near = [datetime.time((at.hour + 1) % 24, at.minute), datetime.time(at.hour, (at.minute + 10) % 60)]
        near.append(datetime.time((at.hour + 5) % 24, at.minute))
        wrong = [str(rng.choice(_time_forms(other))) for other in near]
        said = ["The train leaves at {}.", "At {}.", "It leaves at {}."]
        yield (
            "When does the train leave?", said[0].format(forms[0]), [said[n % 3].format(f) for n, f in enumerate(forms[1:])],
            [said[n % 3].format(f) for n, f in enumerate(wrong)],
        )  # fmt: skip


_MEASURES = (
    ("length-kilometer", "length-meter", 1000, "length-mile"), ("length-meter", "length-centimeter", 100, "length-foot"),
    ("length-centimeter", "length-millimeter", 10, "length-inch"), ("mass-kilogram", "mass-gram", 1000, "mass-pound"),
    ("volume-liter", "volume-milliliter", 1000, "volume-gallon"), ("duration-hour", "duration-minute", 60, "duration-day"),
    ("duration-minute", "duration-second", 60, "duration-hour"), ("duration-year", "duration-month", 12, "duration-week"),
    ("duration-week", "duration-day", 7, "duration-month"), ("speed-kilometer-per-hour", "", 0, "speed-mile-per-hour"),
    ("temperature-celsius", "", 0, "temperature-fahrenheit"), ("digital-gigabyte", "digital-megabyte", 1000, "digital-terabyte"),
    ("area-square-meter", "", 0, "area-square-kilometer"),
)  # fmt: skip


def units(rng: np.random.Generator) -> Made:
    """5 km, 5 kilometres, five kilometers, 5000 m."""
    while True:
        unit, small, factor, other = _MEASURES[int(rng.integers(len(_MEASURES)))]
        number = int(rng.integers(2, 60))
        forms = [format_unit(number, unit, length, locale=where) for length in ("long", "short") for where in ("en_US", "en_GB")]
        forms.append(forms[0].replace(str(number), num2words(number), 1))
        if small:
            forms.append(format_unit(number * factor, small, "long", locale="en_GB"))
        forms = list(dict.fromkeys(forms))
        rng.shuffle(forms)
        wrong = [format_unit(number, other, "long", locale="en_US"), format_unit(number + 1, unit, "short", locale="en_GB")]
        wrong.append(format_unit(number * 10, unit, "long", locale="en_US"))
        said = ["The answer is {}.", "It is {}.", "{}"]
        yield (
            "What does the label say?", f"The label says {forms[0]}.", [_fill(said[n % 3], f) for n, f in enumerate(forms[1:])],
            [_fill(said[n % 3], f) for n, f in enumerate(wrong)],
        )  # fmt: skip


def money(rng: np.random.Generator) -> Made:
    """$1,200.50; 1200.50 dollars; twelve euros."""
    names = {"USD": ("dollar", "cents"), "EUR": ("euro", "cents"), "GBP": ("pound", "pence")}
    while True:
        code, (name, cents) = list(names.items())[int(rng.integers(3))]
        whole, part = int(rng.integers(2, 5000)), int(rng.choice([0, 0, 50, 25]))
        amount = whole + part / 100
        forms = [format_currency(amount, code, locale="en_US"), f"{amount:g} {name}s"]
        forms.append(f"{num2words(whole)} {name}s" + (f" and {num2words(part)} {cents}" if part else ""))
        rng.shuffle(forms)
        others = [format_currency(amount * 10, code, locale="en_US"), format_currency(amount + 1, code, locale="en_US")]
        others.append(format_currency(amount, "JPY" if code == "EUR" else "EUR" if code == "USD" else "USD", locale="en_US"))
        yield (
            "What does the ticket cost?", f"The ticket costs {forms[0]}.", [f"It costs {f}." for f in forms[1:]],
            [f"It costs {other}." for other in others],
        )  # fmt: skip


_FRACTION_WORDS = {
    2: ("half", "halves"), 3: ("third", "thirds"), 4: ("quarter", "quarters"), 5: ("fifth", "fifths"),
    8: ("eighth", "eighths"), 10: ("tenth", "tenths"),
}  # fmt: skip


def fractions(rng: np.random.Generator) -> Made:
    """1/2, ½, one half, 50%, 0.5; one and three quarters."""
    vulgar = {Fraction(unicodedata.numeric(c)).limit_denominator(10): c for c in "½⅓⅔¼¾⅕⅖⅗⅘⅛⅜⅝⅞"}
    while True:
        lower = int(rng.choice(list(_FRACTION_WORDS)))
        upper = int(rng.integers(1, lower))
        value = Fraction(upper, lower)
        if value.denominator != lower:
            continue
        word = f"{num2words(upper)} {_FRACTION_WORDS[lower][upper > 1]}"
        forms = [f"{upper}/{lower}", word, word.replace(" ", "-")]
        forms += [vulgar[value]] if value in vulgar else []
        whole = int(rng.integers(0, 4))
        if whole:
            forms = [f"{whole} {upper}/{lower}", f"{num2words(whole)} and {word}"]
            forms += [f"{whole}{vulgar[value]}"] if value in vulgar else []
        if lower in (2, 4, 5, 8, 10):
            forms.append(f"{float(whole + value):g}")
            if not whole:
                forms.append(format_percent(float(value), "#,##0.#%", locale="en"))
                forms.append(f"{float(value * 100):g} percent")
        rng.shuffle(forms)
        changed = upper + 1 if upper + 1 < lower else max(1, upper - 1)
        wrong = [f"{whole + 1} {upper}/{lower}", f"{upper}/{lower + 1}", f"{float(value * 10):g}"]
        wrong += [f"{changed}/{lower}"] if changed != upper else []
        said = ["The recipe needs {} of it.", "{}", "It needs {}."]
        yield (
            "How much does the recipe need?", f"The recipe needs {forms[0]}.", [_fill(said[n % 3], f) for n, f in enumerate(forms[1:])],
            [_fill(said[n % 3], f) for n, f in enumerate(wrong)],
        )  # fmt: skip


_COLOURS = ("red", "green", "blue", "yellow", "orange", "purple", "pink", "brown", "black", "white")
_OBJECTS = ("hat", "scarf", "coat", "ball", "box", "car", "door", "bag", "chair", "cup", "shirt", "boat")


def negations(rng: np.random.Generator) -> Made:
    """Not blue but red; it has no hat, it does not have a hat, it lacks a hat."""
    while True:
        thing, other_thing = (str(t) for t in rng.choice(_OBJECTS, 2, replace=False))
        colour, other = (str(c) for c in rng.choice(_COLOURS, 2, replace=False))
        yield (
            (
                f"What colour is the {thing}?", f"The {thing} is {colour}.",
                [f"The {thing} is not {other} but {colour}.", f"It is {colour}, not {other}.",
                 f"It isn't {other}, it's {colour}.", f"The {thing} is {colour} rather than {other}.",
                 f"Not {other}. It is {colour}."],
                [f"The {thing} is not {colour}.", f"It is {other}, not {colour}.", f"It is not {colour} but {other}.",
                 f"It isn't {colour}, it's {other}."],
            ),
            (
                f"What is with the {other_thing}?", f"There is no {thing}.",
                [f"There isn't a {thing}.", f"There is not any {thing}.", f"No {thing}.", f"It has no {thing}."],
                [f"There is a {thing}.", f"There is no {other_thing}.", f"It has a {thing}."],
            ),
            (
                "What does the dog wear?", f"The dog wears a {thing}.",
                [f"The dog wears a {thing}, not a {other_thing}.", f"A {thing}, but no {other_thing}.",
                 f"No doubt it wears a {thing}.", f"It doesn't wear a {other_thing}, it wears a {thing}."],
                [f"The dog wears no {thing}.", f"It does not wear a {thing}.", f"A {other_thing}, but no {thing}.",
                 f"The dog never wears a {thing}.", f"It goes without a {thing}."],
            ),
            (
                f"How many {thing}s are there?", f"There are no {thing}s.",
                ["None.", f"There are zero {thing}s.", f"0 {thing}s.", f"There aren't any {thing}s."],
                [f"There are two {thing}s.", f"There are {thing}s.", "Three."],
            ),
        )[int(rng.integers(4))]  # fmt: skip


def replies(rng: np.random.Generator) -> Made:
    """Is the hat blue? No, it is red."""
    while True:
        thing, other_thing = (str(t) for t in rng.choice(_OBJECTS, 2, replace=False))
        colour, other, third = (str(c) for c in rng.choice(_COLOURS, 3, replace=False))
        count, miscount = (int(n) for n in rng.choice(np.arange(2, 13), 2, replace=False))
        yield (
            (
                f"Is the {thing} {other}?", f"The {thing} is {colour}.",
                [f"No, the {thing} is {colour}.", f"No, it is {colour}.", f"No. It's {colour}.", "No.",
                 f"Nope, the {thing} is {colour}."],
                [f"Yes, the {thing} is {other}.", f"No, the {thing} is {third}.", "Yes.", f"It is {other}.",
                 f"No, the {thing} is not {colour}."],
            ),
            (
                f"Is the {thing} {colour}?", f"Yes, the {thing} is {colour}.",
                ["Yes.", f"Yes, it is {colour}.", f"The {thing} is {colour}.", "Yeah, it is."],
                ["No.", f"No, it is {other}.", f"The {thing} is {other}.", f"It is not {colour}."],
            ),
            (
                f"Does the dog wear a {thing}?", f"No, it wears a {other_thing}.",
                ["No.", f"No, the dog wears a {other_thing}.", f"It wears a {other_thing}.", "No, it doesn't.",
                 f"No, it does not wear a {thing}."],
                ["Yes.", f"Yes, it wears a {thing}.", "Yes, it does.", f"The dog wears a {thing}."],
            ),
            (
                f"Are there {num2words(miscount)} {thing}s?", f"There are {count} {thing}s.",
                [f"No, there are {num2words(count)}.", f"No, there are {count} {thing}s.", "No."],
                [f"Yes, there are {miscount}.", "Yes.", f"There are {miscount} {thing}s."],
            ),
        )[int(rng.integers(4))]  # fmt: skip


_SPELLINGS = """colour color|neighbour neighbor|harbour harbor|flavour flavor|behaviour behavior|armour armor|theatre theater
centre center|fibre fiber|litre liter|tyre tire|aeroplane airplane|moustache mustache|pyjamas pajamas|plough plow
doughnut donut|jewellery jewelry|traveller traveler|jeweller jeweler|catalogue catalog|grey-haired gray-haired|kerb curb
organisation organization|realised realized|organised organized|recognises recognizes|travelling traveling
labelled labeled|modelling modeling|cancelled canceled|sceptical skeptical|analysed analyzed|favourite favorite
colourful colorful|honourable honorable|paralysed paralyzed|marvellous marvelous|woollen woolen|mould mold|cosy cozy
yoghurt yogurt|chequered checkered|programme program|defence defense|licence license|storey story|axe ax|café cafe
crêpe crepe|façade facade|naïve naive|metre-long meter-long|rumour rumor|vapour vapor|parlour parlor|odour odor
apologised apologized|memorised memorized|decorated colour decorated color|fuelled fueled|signalling signaling
practise practice|enrolment enrollment|skilful skillful|fulfil fulfill|omelette omelet|liquorice licorice"""
_OTHER_WORDS = "dog table mountain engine river guitar teacher blanket candle forest kitchen pencil bridge carpet".split()


def spellings(rng: np.random.Generator) -> Made:
    """Colour, color; tyre, tire; café, cafe."""
    pairs = [pair.rsplit(" ", 1) for line in _SPELLINGS.splitlines() for pair in line.split("|")]
    pairs = [pair for pair in pairs if " " not in pair[0]]
    number = 0
    while True:
        british, us = pairs[number % len(pairs)]
        others = [str(word) for word in rng.choice(_OTHER_WORDS, 2, replace=False)]
        near = pairs[int(rng.integers(len(pairs)))][0]
        wrong = [*others, *([near] if near != british else [])]
        number += 1
        one, other = (british, us) if rng.random() < 0.5 else (us, british)
        frame = ("The word is {}.", "It says {}.", "{}", "He wrote {} on the wall.")[number // len(pairs) % 4]
        yield (
            "What word is on the sign?", f"The sign says {one}.", [_fill(frame, other), f"The sign says {other}."],
            [_fill(frame, word) for word in wrong],
        )  # fmt: skip


_SYSTEMS = ("arab", "arabext", "beng", "deva", "fullwide", "gujr", "guru", "khmr", "knda", "laoo", "mlym", "mymr", "orya",
            "tamldec", "telu", "thai", "tibt")  # fmt: skip
_ZEROS = {"arab": "٠", "arabext": "۰", "beng": "০", "deva": "०", "fullwide": "０", "gujr": "૦", "guru": "੦", "khmr": "០",
          "knda": "೦", "laoo": "໐", "mlym": "൦", "mymr": "၀", "orya": "୦", "tamldec": "௦", "telu": "౦", "thai": "๐",
          "tibt": "༠"}  # fmt: skip


def _in_script(number: int, system: str) -> str:
    return "".join(chr(ord(_ZEROS[system]) + int(digit)) for digit in str(number))


def _ethiopic(number: int) -> str:
    """1 to 99, as ten and one signs."""
    ten, one = divmod(number, 10)
    return (chr(0x1371 + ten) if ten else "") + (chr(0x1368 + one) if one else "")


def scripts(rng: np.random.Generator) -> Made:
    """Digits of other scripts: ٢١, २१, ፳፩, 二十一, ２１, Ⅻ."""
    while True:
        number = int(rng.integers(2, 99)) if rng.random() < 0.5 else _number(rng, 5)
        forms = [_in_script(number, str(s)) for s in rng.choice(_SYSTEMS, 3, replace=False)]
        forms.append(format_decimal(number, locale="ar_EG", numbering_system="arab"))
        if number < 100:
            forms += [_ethiopic(number)]
            ten, one = divmod(number, 10)
            forms.append(("〇一二三四五六七八九"[ten] if ten > 1 else "") + ("十" if ten else "") + ("〇一二三四五六七八九"[one] if one else ""))
        if number <= 12:
            forms.append(chr(0x215F + number))
        wrong = [_in_script(n, str(rng.choice(_SYSTEMS))) for n in _near(rng, number)]
        yield _counted(rng, [str(number), *forms], wrong)


def unicode_forms(rng: np.random.Generator) -> Made:
    """The same words decomposed, full-width, with soft hyphens, curly quotes and other blanks."""
    changes: tuple[Callable[[str], str], ...] = (
        lambda text: unicodedata.normalize("NFD", text),
        lambda text: "".join(chr(ord(c) + 0xFEE0) if "!" <= c <= "~" else c for c in text),
        lambda text: text.replace(" ", "\u00a0"),
        lambda text: "\u200e" + text + "\u200b",
        lambda text: text.replace("ca", "c\u00ada").replace("re", "r\u00ade"),
        lambda text: text.replace("'", "’").replace("-", "\u2011"),
        str.upper,
    )
    while True:
        thing, other_thing = (str(t) for t in rng.choice(_OBJECTS, 2, replace=False))
        colour, other = (str(c) for c in rng.choice(_COLOURS, 2, replace=False))
        count = int(rng.integers(2, 99))
        number = num2words(count)
        right = f"At the café, Zoë's {thing} has {number} {colour} stripes."
        wrong = [right.replace(colour, other), right.replace(number, num2words(count + 1)), right.replace(thing, other_thing)]
        picked = [changes[int(n)] for n in rng.choice(len(changes), 4, replace=False)]
        yield f"What does the {thing} have?", right, [change(right) for change in picked[:3]], [
            picked[3](text) for text in wrong
        ]


FAMILIES: dict[str, Callable[[np.random.Generator], Made]] = {
    "number_words": number_words,
    "number_formats": number_formats,
    "decimals": decimals,
    "ordinals": ordinals,
    "dates": dates,
    "times": times,
    "units": units,
    "money": money,
    "fractions": fractions,
    "negations": negations,
    "replies": replies,
    "spellings": spellings,
    "scripts": scripts,
    "unicode_forms": unicode_forms,
}


def family(name: str, *, held_out: bool, count: int = PER_FAMILY) -> list[FamilyPair]:
    """The half of a family of at least `count` pairs that was held out, or the other half. Pairs are distinct."""
    rng = np.random.default_rng(int.from_bytes(hashlib.sha256(name.encode()).digest()[:4], "big"))
    made: dict[FamilyPair, None] = {}
    for question, reference, right, wrong in FAMILIES[name](rng):
        for answers, label in ((right, True), (wrong, False)):
            made |= dict.fromkeys(FamilyPair(question, reference, answer, label) for answer in answers)
        if len(made) >= count:
            break
    return [pair for pair in made if _is_held_out(name, pair.reference) == held_out]


def _is_held_out(name: str, reference: str) -> bool:
    return hashlib.sha256(f"{name}\n{reference}".encode()).digest()[0] % 2 == 1
