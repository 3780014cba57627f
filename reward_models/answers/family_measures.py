"""Families of dates, times, measures and money."""

from __future__ import annotations

import datetime

import numpy as np
from babel.dates import format_date, format_time
from babel.numbers import format_currency
from babel.units import format_unit
from num2words import num2words

from sync_r1.reward_models.answers.family_numbers import Made, fill


def _date_forms(day: datetime.date) -> list[str]:
    day_words, year_words = num2words(day.day, to="ordinal"), num2words(day.year, to="year")
    month = format_date(day, "MMMM", locale="en")
    return [
        *(format_date(day, style, locale=w) for style in ("medium", "long", "full") for w in ("en_GB", "en_US")),
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
        near = [
            day + datetime.timedelta(days=1),
            day + datetime.timedelta(days=31),
            day + datetime.timedelta(days=3653),
        ]
        wrong = [str(rng.choice([f for f in _date_forms(other) if "/" not in f])) for other in near]
        said = [str(rng.choice([sentence, "On {}.", "{}"])) for _ in range(7)]
        yield (
            question, sentence.format(forms[0]), [fill(s, f) for s, f in zip(said, forms[1:5])],
            [fill(s, f) for s, f in zip(said[4:], wrong)],
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
            "When does the train leave?", said[0].format(forms[0]),
            [said[n % 3].format(f) for n, f in enumerate(forms[1:])],
            [said[n % 3].format(f) for n, f in enumerate(wrong)],
        )  # fmt: skip


_MEASURES = (
    ("length-kilometer", "length-meter", 1000, "length-mile"),
    ("length-meter", "length-centimeter", 100, "length-foot"),
    ("length-centimeter", "length-millimeter", 10, "length-inch"), ("mass-kilogram", "mass-gram", 1000, "mass-pound"),
    ("volume-liter", "volume-milliliter", 1000, "volume-gallon"),
    ("duration-hour", "duration-minute", 60, "duration-day"),
    ("duration-minute", "duration-second", 60, "duration-hour"),
    ("duration-year", "duration-month", 12, "duration-week"),
    ("duration-week", "duration-day", 7, "duration-month"), ("speed-kilometer-per-hour", "", 0, "speed-mile-per-hour"),
    ("temperature-celsius", "", 0, "temperature-fahrenheit"),
    ("digital-gigabyte", "digital-megabyte", 1000, "digital-terabyte"),
    ("area-square-meter", "", 0, "area-square-kilometer"),
)  # fmt: skip


def units(rng: np.random.Generator) -> Made:
    """5 km, 5 kilometres, five kilometers, 5000 m."""
    while True:
        unit, small, factor, other = _MEASURES[int(rng.integers(len(_MEASURES)))]
        number = int(rng.integers(2, 60))
        forms = [
            format_unit(number, unit, length, locale=where)
            for length in ("long", "short")
            for where in ("en_US", "en_GB")
        ]
        forms.append(forms[0].replace(str(number), num2words(number), 1))
        if small:
            forms.append(format_unit(number * factor, small, "long", locale="en_GB"))
        forms = list(dict.fromkeys(forms))
        rng.shuffle(forms)
        wrong = [
            format_unit(number, other, "long", locale="en_US"),
            format_unit(number + 1, unit, "short", locale="en_GB"),
        ]
        wrong.append(format_unit(number * 10, unit, "long", locale="en_US"))
        said = ["The answer is {}.", "It is {}.", "{}"]
        yield (
            "What does the label say?", f"The label says {forms[0]}.",
            [fill(said[n % 3], f) for n, f in enumerate(forms[1:])],
            [fill(said[n % 3], f) for n, f in enumerate(wrong)],
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
        others.append(
            format_currency(amount, "JPY" if code == "EUR" else "EUR" if code == "USD" else "USD", locale="en_US")
        )
        yield (
            "What does the ticket cost?", f"The ticket costs {forms[0]}.", [f"It costs {f}." for f in forms[1:]],
            [f"It costs {other}." for other in others],
        )  # fmt: skip
