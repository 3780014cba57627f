"""Families of numbers: in words and digits, by the separators of other places, ordinals, fractions, other scripts."""

from __future__ import annotations

import unicodedata
from collections.abc import Iterator
from fractions import Fraction

import numpy as np
from babel.numbers import format_compact_decimal, format_decimal, format_percent
from num2words import num2words

Made = Iterator[tuple[str, str, list[str], list[str]]]
"""Question, reference, right answers, wrong answers."""


def fill(template: str, value: str) -> str:
    """The template with the value; a capital at its start where the template begins with it."""
    return template.format(value[:1].upper() + value[1:] if template.startswith("{}") else value)


_COUNTED = (
    ("How many people are there?", "There are {} people.", ("{} people.", "I can see {} people.", "{}")),
    ("How old is he?", "He is {} years old.", ("He is {} years old.", "{} years.", "He's {}.")),
    ("", "She counted {} stars.", ("She counted {} stars.", "{} stars were counted by her.")),
    ("What number is on the door?", "The number is {}.", ("It is {}.", "{}.", "The door has the number {}.")),
)


def _counted(rng: np.random.Generator, right: list[str], wrong: list[str]) -> tuple[str, str, list[str], list[str]]:
    """One of the contexts; `right[0]` goes into the reference."""
    question, reference, answers = _COUNTED[int(rng.integers(len(_COUNTED)))]

    def said(values: list[str]) -> list[str]:
        return [fill(answers[int(rng.integers(len(answers)))], value) for value in values]

    return question, fill(reference, right[0]), said(right[1:]), said(wrong)


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


def _drawn(rng: np.random.Generator, templates: tuple[str, ...]) -> str:
    return templates[int(rng.integers(len(templates)))]


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
        yield (
            question, f"The value is {forms[0]}.", [fill(_drawn(rng, answers), form) for form in forms[1:]],
            [fill(_drawn(rng, answers), f"{round(other, 4):g}") for other in others],
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
        near = [
            num2words(n, to=str(rng.choice(["ordinal", "ordinal_num"]))) for n in (number + 1, number * 10, number + 10)
        ]
        yield (
            "",
            reference.format(one),
            [a.format(other) for a in answers],
            [answers[int(rng.integers(len(answers)))].format(text) for text in near],
        )


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
            "How much does the recipe need?", f"The recipe needs {forms[0]}.",
            [fill(said[n % 3], f) for n, f in enumerate(forms[1:])],
            [fill(said[n % 3], f) for n, f in enumerate(wrong)],
        )  # fmt: skip


_SYSTEMS = ("arab", "arabext", "beng", "deva", "fullwide", "gujr", "guru", "khmr", "knda", "laoo", "mlym", "mymr",
            "orya", "tamldec", "telu", "thai", "tibt")  # fmt: skip
_ZEROS = {"arab": "٠", "arabext": "۰", "beng": "০", "deva": "०", "fullwide": "０",
          "gujr": "૦", "guru": "੦", "khmr": "០",
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
            forms.append(
                ("〇一二三四五六七八九"[ten] if ten > 1 else "")
                + ("十" if ten else "")
                + ("〇一二三四五六七八九"[one] if one else "")
            )
        if number <= 12:
            forms.append(chr(0x215F + number))
        wrong = [_in_script(n, str(rng.choice(_SYSTEMS))) for n in _near(rng, number)]
        yield _counted(rng, [str(number), *forms], wrong)
