"""Units of measure and calendar dates for the calculator: exact tables, no clock, no locale.

``convert_text`` understands "5 km in miles", "3 hours 20 minutes in minutes", "98.6 F to C" and
"how many ounces in 2 pounds"; ``date_text`` understands "days between 2024-01-05 and 2024-03-01",
"2024-01-31 + 30 days", "2 weeks before 5 March 2024" and "weekday of 2024-02-29". Both return None
for text that is not of their form. Limits: a year is 365 days and a month a twelfth of it when
converted (calendar steps are exact); KB is 1000 bytes and KiB 1024; dates like 3/4/2024 are not
read, because nobody can know which number is the month.
"""

from __future__ import annotations

import calendar
import re
from collections.abc import Callable
from datetime import date, timedelta
from fractions import Fraction

from ...errors import ToolError

Evaluate = Callable[[str], Fraction]
"""Works out a plain expression; given by the calculator."""

_LENGTH = {
    "mm millimeter millimetre": "0.001", "cm centimeter centimetre": "0.01", "m meter metre": "1",
    "km kilometer kilometre": "1000", "in inch inches": "0.0254", "ft foot feet": "0.3048",
    "yd yard": "0.9144", "mi mile": "1609.344", "nmi nautical_mile": "1852",
}  # fmt: skip
_MASS = {
    "mg milligram": "0.001", "g gram gramme": "1", "kg kilogram kilo": "1000", "t ton tonne": "1000000",
    "oz ounce": "28.349523125", "lb lbs pound": "453.59237", "stone": "6350.29318",
}  # fmt: skip
_VOLUME = {
    "ml milliliter millilitre": "0.001", "cl centiliter centilitre": "0.01", "dl deciliter decilitre": "0.1",
    "l liter litre": "1", "m3 cubic_meter cubic_metre": "1000", "tsp teaspoon": "0.00492892159375",
    "tbsp tablespoon": "0.01478676478125", "cup": "0.2365882365", "pt pint": "0.473176473",
    "qt quart": "0.946352946", "gal gallon": "3.785411784", "fl_oz fluid_ounce": "0.0295735295625",
}  # fmt: skip
_TIME = {
    "ms millisecond": "0.001", "s sec second": "1", "min minute": "60", "h hr hour": "3600", "d day": "86400",
    "week": "604800", "month": "2628000", "year yr": "31536000", "decade": "315360000",
    "century centuries": "3153600000",
}  # fmt: skip
_DATA = {
    "bit": "0.125", "b byte": "1", "kb kilobyte": "1000", "mb megabyte": "1000000",
    "gb gigabyte": "1000000000", "tb terabyte": "1000000000000", "kib kibibyte": "1024",
    "mib mebibyte": "1048576", "gib gibibyte": "1073741824", "tib tebibyte": "1099511627776",
}  # fmt: skip
_AREA = {
    "cm2 square_centimeter square_centimetre": "0.0001", "m2 square_meter square_metre": "1",
    "km2 square_kilometer square_kilometre": "1000000", "ha hectare": "10000", "acre": "4046.8564224",
    "sqft ft2 square_foot square_feet": "0.09290304", "square_mile": "2589988.110336",
}  # fmt: skip
_SPEED = {
    "m/s": "1", "km/h kmh kph": "5/18", "mph mi/h": "0.44704", "knot kn": "463/900", "ft/s": "0.3048",
}  # fmt: skip
_KINDS = {
    "length": _LENGTH, "mass": _MASS, "volume": _VOLUME, "time": _TIME, "data": _DATA, "area": _AREA,
    "speed": _SPEED,
}  # fmt: skip
_SPOKEN = {
    "meters per second": "m/s", "metres per second": "m/s", "kilometers per hour": "km/h",
    "kilometres per hour": "km/h", "miles per hour": "mph", "feet per second": "ft/s",
}  # fmt: skip
_SHOWN = {"c": "C", "f": "F", "k": "K", "l": "L", "ml": "mL"} | {
    name: name.upper().replace("I", "i") for name in ("kb", "mb", "gb", "tb", "kib", "mib", "gib", "tib")
}
_TEMPERATURE = {"c": "c", "celsius": "c", "f": "f", "fahrenheit": "f", "k": "k", "kelvin": "k"}


def _table() -> dict[str, tuple[str, Fraction]]:
    table: dict[str, tuple[str, Fraction]] = {}
    for kind, units in _KINDS.items():
        for names, factor in units.items():
            for name in names.split():
                entry = (kind, Fraction(factor))
                table[name.replace("_", " ")] = entry
                if len(name) > 2 and not name.endswith("s") and name[-1].isalpha():
                    table[name.replace("_", " ") + "s"] = entry
    return table


_UNITS = _table()
_NAMES = sorted([*_UNITS, *_SPOKEN, *_TEMPERATURE], key=len, reverse=True)
_UNIT = "(?:" + "|".join(map(re.escape, _NAMES)) + ")"
_TAIL = re.compile(rf"(.*?[\d)\]%\s])\s*({_UNIT})")
_PAIR = re.compile(rf"\s*(?:,|\+|and\b)?\s*(\d[\d.,]*)\s*({_UNIT})(?![a-z0-9/])")
_IN = re.compile(rf"(?:convert\s+|what is\s+)?(.+?)\s+(?:in|to|into|as)\s+(?:degrees?\s+)?({_UNIT})")
_MANY = re.compile(rf"(?:how (?:many|much)\s+)?({_UNIT})\s+(?:are\s+)?in\s+(.+)")


def _tidy(text: str) -> str:
    text = re.sub(r"\s+", " ", text.strip().lower().replace("°", " ").replace("²", "2").replace("³", "3"))
    return re.sub(r"\bdegrees? (?=[cfk])", "", text)


def convert_text(text: str, evaluate: Evaluate) -> tuple[Fraction, str] | None:
    """Return (number, unit) for a conversion, or None; raise ``ToolError`` for unlike units."""
    text = _tidy(text)
    match = _IN.fullmatch(text)
    amount, unit = (match[1], match[2]) if match else ("", "")
    if not match or not _ends_in_unit(amount):
        match = _MANY.fullmatch(text)
        if not match or not _ends_in_unit(match[2]):
            return None
        amount, unit = match[2], match[1]
    return _convert(amount, unit, evaluate), _SHOWN.get(unit, unit)


def _ends_in_unit(text: str) -> bool:
    return _TAIL.fullmatch(text) is not None


def _convert(amount: str, unit: str, evaluate: Evaluate) -> Fraction:
    tail = _TAIL.fullmatch(amount)
    assert tail is not None
    if tail[2] in _TEMPERATURE or unit in _TEMPERATURE:
        if not (tail[2] in _TEMPERATURE and unit in _TEMPERATURE):
            raise ToolError(f"cannot convert {tail[2]} to {unit}")
        return _temperature(evaluate(tail[1]), _TEMPERATURE[tail[2]], _TEMPERATURE[unit])
    pairs = list(_PAIR.finditer(amount))
    parts = [(tail[1], tail[2])]
    if len(pairs) > 1 and "".join(pair[0] for pair in pairs) == amount:
        parts = [(pair[1], pair[2]) for pair in pairs]
    total = Fraction(0)
    kind, factor = _lookup(unit)
    for number, name in parts:
        other, scale = _lookup(name)
        if other != kind:
            raise ToolError(f"cannot convert {name} ({other}) to {unit} ({kind})")
        total += evaluate(number) * scale
    return total / factor


def _lookup(name: str) -> tuple[str, Fraction]:
    return _UNITS[_SPOKEN.get(name, name)]


def _temperature(value: Fraction, source: str, target: str) -> Fraction:
    zero = Fraction("273.15")
    kelvin = {"k": value, "c": value + zero, "f": (value - 32) * Fraction(5, 9) + zero}[source]
    if kelvin < 0:
        raise ToolError("that is below absolute zero")
    celsius = kelvin - zero
    return {"k": kelvin, "c": celsius, "f": celsius * Fraction(9, 5) + 32}[target]


_MONTHS = {name.lower(): number for number, name in enumerate(calendar.month_name) if name}
_MONTHS |= {name[:3]: number for name, number in _MONTHS.items()}
_MONTH = "(" + "|".join(sorted(_MONTHS, key=len, reverse=True)) + r")\.?"
_SAID = (
    re.compile(rf"\b(?P<d>\d{{1,2}})(?:st|nd|rd|th)?(?: of)? {_MONTH},? (?P<y>\d{{4}})\b"),
    re.compile(rf"\b{_MONTH} (?P<d>\d{{1,2}})(?:st|nd|rd|th)?,? (?P<y>\d{{4}})\b"),
)
_DATE = r"(\d{4}-\d{1,2}-\d{1,2})"
_SPAN = r"(day|week|month|year)s?"
_BETWEEN = re.compile(
    rf"(?:how many |number of )?{_SPAN} (between|from|since) {_DATE} (?:and|to|until|till) {_DATE}"
)
_MINUS = re.compile(rf"{_DATE} ?- ?{_DATE}(?: in {_SPAN})?")
_STEP = re.compile(rf" ?([+-]) ?(\d{{1,5}}) {_SPAN}")
_SHIFT = re.compile(rf"{_DATE}((?: ?[+-] ?\d{{1,5}} {_SPAN})+)")
_AFTER = re.compile(rf"(\d{{1,5}}) {_SPAN} (after|from|before) {_DATE}")
_WEEKDAY = re.compile(rf"(?:weekday|day of (?:the )?week|day) (?:of|on|for) {_DATE}")


def date_text(text: str) -> int | float | str | None:
    """Return a count, an ISO date or a weekday for a question about dates, or None."""
    text = _tidy(text)
    for said in _SAID:
        text = said.sub(_iso, text)
    if match := _BETWEEN.fullmatch(text):
        first, last = _date(match[3]), _date(match[4])
        if match[2] == "between" and first > last:
            first, last = last, first
        return _difference(first, last, match[1])
    if match := _MINUS.fullmatch(text):
        return _difference(_date(match[2]), _date(match[1]), match[3] or "day")
    if match := _SHIFT.fullmatch(text):
        day = _date(match[1])
        for step in _STEP.finditer(match[2]):
            day = _shift(day, int(step[1] + step[2]), step[3])
        return day.isoformat()
    if match := _AFTER.fullmatch(text):
        sign = -1 if match[3] == "before" else 1
        return _shift(_date(match[4]), sign * int(match[1]), match[2]).isoformat()
    if match := _WEEKDAY.fullmatch(text):
        return calendar.day_name[_date(match[1]).weekday()]
    if re.fullmatch(_DATE, text):
        return _date(text).isoformat()
    return None


def _iso(match: re.Match[str]) -> str:
    month = _MONTHS[match[2] if match.re is _SAID[0] else match[1]]
    return f"{int(match['y']):04d}-{month:02d}-{int(match['d']):02d}"


def _date(text: str) -> date:
    year, month, day = map(int, text.split("-"))
    try:
        return date(year, month, day)
    except ValueError:
        raise ToolError(f"there is no date {text}") from None


def _difference(first: date, last: date, unit: str) -> int | float:
    """Return days exactly, weeks as a fraction, and whole calendar months and years."""
    days = (last - first).days
    if unit == "day":
        return days
    if unit == "week":
        return days // 7 if days % 7 == 0 else round(days / 7, 6)
    if first > last:
        return -_difference(last, first, unit)
    months = (last.year - first.year) * 12 + last.month - first.month
    if _shift(first, months, "month") > last:
        months -= 1
    return months if unit == "month" else months // 12


def _shift(day: date, count: int, unit: str) -> date:
    """Step by calendar units; the 31st becomes the last day of a shorter month."""
    try:
        if unit in ("day", "week"):
            return day + timedelta(days=count * (7 if unit == "week" else 1))
        index = day.year * 12 + day.month - 1 + count * (12 if unit == "year" else 1)
        year, month = divmod(index, 12)
        return date(year, month + 1, min(day.day, calendar.monthrange(year, month + 1)[1]))
    except (OverflowError, ValueError):
        raise ToolError("that date is outside the years 1 to 9999") from None
