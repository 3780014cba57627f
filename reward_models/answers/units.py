"""Units of measure by their English names and symbols: dimension, size in the dimension's base unit, system."""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction


@dataclass(frozen=True)
class Unit:
    """value · size + shift is the value in the base unit of the dimension."""

    dimension: str
    size: Fraction
    imperial: bool = False
    shift: Fraction = Fraction(0)


def _unit(dimension: str, size: str, *, imperial: bool = False, shift: str = "0") -> Unit:
    return Unit(dimension, Fraction(size), imperial, Fraction(shift))


# Names as their words joined by blanks, American spelling; a plural in "s" is added, other plurals are listed.
_NAMED: tuple[tuple[str, Unit], ...] = (
    ("mm|millimeter", _unit("length", "1/1000")), ("cm|centimeter", _unit("length", "1/100")),
    ("m|meter", _unit("length", "1")), ("km|kilometer", _unit("length", "1000")),
    ("inch|inches", _unit("length", "0.0254", imperial=True)),
    ("ft|foot|feet", _unit("length", "0.3048", imperial=True)),
    ("yd|yard", _unit("length", "0.9144", imperial=True)), ("mi|mile", _unit("length", "1609.344", imperial=True)),
    ("mg|milligram", _unit("mass", "1/1000000")), ("g|gram", _unit("mass", "1/1000")),
    ("kg|kgs|kilo|kilogram", _unit("mass", "1")), ("t|ton|metric ton", _unit("mass", "1000")),
    ("oz|ounce", _unit("mass", "0.028349523125", imperial=True)),
    ("lb|lbs", _unit("mass", "0.45359237", imperial=True)),
    ("ml|milliliter", _unit("volume", "1/1000")), ("cl|centiliter", _unit("volume", "1/100")),
    ("dl|deciliter", _unit("volume", "1/10")), ("l|liter", _unit("volume", "1")),
    ("gal|gallon", _unit("volume", "3.785411784", imperial=True)),
    ("pint", _unit("volume", "0.473176473", imperial=True)),
    ("ms|millisecond", _unit("time", "1/1000")), ("s|sec|secs|second", _unit("time", "1")),
    ("min|mins|minute", _unit("time", "60")), ("h|hr|hrs|hour", _unit("time", "3600")),
    ("day", _unit("time", "86400")), ("week|wk|wks", _unit("time", "604800")), ("fortnight", _unit("time", "1209600")),
    ("month", _unit("months", "1")), ("year|yr|yrs", _unit("months", "12")), ("decade", _unit("months", "120")),
    ("century|centuries", _unit("months", "1200")),
    ("km/h|kmh|kph|km per hour|kilometer per hour|kilometers per hour|kilometers an hour", _unit("speed", "5/18")),
    ("mph|mile per hour|miles per hour|miles an hour", _unit("speed", "0.44704", imperial=True)),
    ("m/s|meter per second|meters per second", _unit("speed", "1")),
    ("m^2|m2|sqm|sq m|square meter", _unit("area", "1")), ("km^2|km2|sq km|square kilometer", _unit("area", "1000000")),
    ("cm^2|cm2|sq cm|square centimeter", _unit("area", "1/10000")), ("ha|hectare", _unit("area", "10000")),
    ("acre", _unit("area", "4046.8564224", imperial=True)),
    ("sq ft|square foot|square feet", _unit("area", "0.09290304", imperial=True)),
    ("°c|° c|degree celsius|degrees celsius|celsius|degrees centigrade|centigrade", _unit("temperature", "1")),
    ("°f|° f|degree fahrenheit|degrees fahrenheit|fahrenheit",
     Unit("temperature", Fraction(5, 9), True, Fraction(-160, 9))),
    ("k|kelvin", _unit("temperature", "1", shift="-273.15")),
    ("%|percent|per cent|percentage point", _unit("share", "1/100")),
    ("$|dollar|usd|buck", _unit("usd", "1")), ("€|euro|eur", _unit("eur", "1")), ("£|quid|gbp", _unit("gbp", "1")),
    ("¥|yen|jpy", _unit("jpy", "1")), ("rupee|₹", _unit("inr", "1")),
    ("b|byte", _unit("data", "1")), ("kb|kilobyte", _unit("data", "1000")), ("mb|megabyte", _unit("data", "1000000")),
    ("gb|gigabyte", _unit("data", "1000000000")), ("tb|terabyte", _unit("data", "1000000000000")),
    ("hz|hertz", _unit("frequency", "1")), ("khz|kilohertz", _unit("frequency", "1000")),
    ("mhz|megahertz", _unit("frequency", "1000000")), ("ghz|gigahertz", _unit("frequency", "1000000000")),
    ("w|watt", _unit("power", "1")), ("kw|kilowatt", _unit("power", "1000")),
    ("v|volt", _unit("voltage", "1")), ("kwh|kilowatt hour", _unit("energy", "1")),
)  # fmt: skip
_SEVERAL: tuple[tuple[str, tuple[Unit, ...]], ...] = (
    ("pound", (_unit("mass", "0.45359237", imperial=True), _unit("gbp", "1"))),
    ("cent", (_unit("usd", "1/100"), _unit("eur", "1/100"))),
    ("pence", (_unit("gbp", "1/100"),)),
    ("°|degree|deg", (_unit("angle", "1"), *(u for n, u in _NAMED if n.startswith(("°c", "°f"))))),
)


def _table() -> dict[str, tuple[Unit, ...]]:
    entries = [*((names, (unit,)) for names, unit in _NAMED), *_SEVERAL]
    found = {name: units for names, units in entries for name in names.split("|")}
    plurals = {f"{name}s": units for name, units in found.items() if len(name) > 2 and name[-1].isalpha()}
    return plurals | found


UNITS = _table()
"""Name or symbol -> what it may mean (a pound is a mass or money)."""
LONGEST_NAME = 3
"""Words in the longest name."""
AFTER_ARTICLE = frozenset(
    [
        "kilometer",
        "meter",
        "centimeter",
        "mile",
        "inch",
        "kilogram",
        "kilo",
        "gram",
        "liter",
        "gallon",
        "hour",
        "minute",
        "week",
        "month",
        "year",
        "decade",
        "century",
        "fortnight",
        "dollar",
        "euro",
        "hectare",
        "acre",
    ]
)
"""Units of which "a" or "an" may mean one ("an hour" is 60 minutes)."""
