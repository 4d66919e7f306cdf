"""The calculator: exact, documented, bounded, and clear about what it cannot read."""

from __future__ import annotations

import random
import time
from fractions import Fraction
from pathlib import Path

import pytest

from autogpt.errors import ToolError
from autogpt.tools.base import ToolContext
from autogpt.tools.calculator.calculator import Calculator, calculate
from autogpt.tools.handles import resolve


@pytest.mark.parametrize(
    ("expression", "expected"),
    [
        ("2 + 3 * 4", 14),
        ("(2 + 3) * 4", 20),
        ("0.1 + 0.2", 0.3),
        ("1/3 + 1/3 + 1/3", 1),
        ("10 - 4 - 3", 3),
        ("2^3^2", 512),
        ("-2^2", -4),
        ("2^-2", 0.25),
        ("8^(1/3)", 2),
        ("7 // 2", 3),
        ("-7 // 2", -4),
        ("7 % 3", 1),
        ("7 mod 3", 1),
        ("1,200 * 2", 2400),
        ("1,234,567.5 + 0.5", 1234568),
        ("6 × 7 ÷ 2 − 1", 20),
        ("3 x 4", 12),
        ("$5.50 * 2", 11),
        ("what is 12 * 12?", 144),
        ("12 * 3 =", 36),
        ("2/3", 0.666666666667),
        ("2^100", 2**100),
    ],
)
def test_arithmetic_is_exact(expression: str, expected: float) -> None:
    value, unit = calculate(expression)
    assert value == expected
    assert isinstance(value, int) == isinstance(expected, int)
    assert unit == ""


@pytest.mark.parametrize(
    ("expression", "expected"),
    [
        ("15%", 0.15),
        ("15% of 80", 12),
        ("80 + 10%", 88),
        ("80 - 10%", 72),
        ("80 * 10%", 8),
        ("100 - 15% of 100", 85),
        ("200 + 10% + 10%", 242),
        ("50 + 20% * 10", 52),
        ("(10 + 5)% of 200", 30),
        ("percent(20, 80)", 25),
    ],
)
def test_percent_means_what_the_module_says(expression: str, expected: float) -> None:
    assert calculate(expression)[0] == expected


@pytest.mark.parametrize(
    ("expression", "expected"),
    [
        ("max(1,200)", 200),
        ("sum([1, 2, 3], 4)", 10),
        ("mean of [1, 2, 6]", 3),
        ("average(2, 4)", 3),
        ("median([5, 1, 3, 2])", 2.5),
        ("count([4, 4, 4])", 3),
        ("round(2.345, 2)", 2.35),
        ("round(-2.5)", -3),
        ("floor(-1.5) + ceil(1.2)", 0),
        ("abs(3 - 10)", 7),
        ("sqrt(16)", 4),
        ("sqrt(2)", 1.41421356237),
        ("min(3, 2) * [10]", 20),
    ],
)
def test_functions(expression: str, expected: float) -> None:
    assert calculate(expression)[0] == expected


@pytest.mark.parametrize(
    ("expression", "expected", "unit"),
    [
        ("5 km in miles", 3.10685596119, "miles"),
        ("5 in in cm", 12.7, "cm"),
        ("3 hours 20 minutes in minutes", 200, "minutes"),
        ("1 week and 2 days in days", 9, "days"),
        ("how many ounces in 2 pounds", 32, "ounces"),
        ("98.6 F to C", 37, "C"),
        ("0 celsius in kelvin", 273.15, "kelvin"),
        ("100 km/h in m/s", 27.7777777778, "m/s"),
        ("2 GB in MB", 2000, "MB"),
        ("1 GiB in MiB", 1024, "MiB"),
        ("(2 + 3) km in m", 5000, "m"),
        ("2 acres in m2", 8093.7128448, "m2"),
        ("1,500 g in kg", 1.5, "kg"),
    ],
)
def test_units(expression: str, expected: float, unit: str) -> None:
    assert calculate(expression) == (expected, unit)


@pytest.mark.parametrize(
    ("expression", "expected"),
    [
        ("days between 2024-01-05 and 2024-03-01", 56),
        ("days between 2024-03-01 and 2024-01-05", 56),
        ("days from 2024-03-01 to 2024-01-05", -56),
        ("2024-03-01 - 2024-01-05", 56),
        ("years between 1990-06-15 and 2024-06-14", 33),
        ("months between 2024-01-31 and 2024-02-29", 1),
        ("2024-01-31 + 30 days", "2024-03-01"),
        ("2024-01-31 + 1 month", "2024-02-29"),
        ("2024-03-31 - 1 month + 1 day", "2024-03-01"),
        ("2 weeks before 5 March 2024", "2024-02-20"),
        ("March 5, 2024 + 1 year", "2025-03-05"),
        ("weekday of 2024-02-29", "Thursday"),
    ],
)
def test_dates(expression: str, expected: int | str) -> None:
    assert calculate(expression)[0] == expected


@pytest.mark.parametrize(
    ("expression", "message"),
    [
        ("", "empty"),
        ("2 + + x", 'cannot read "2 + + x": unexpected x at position 7'),
        ("(1 + 2", "ends too early"),
        ("1 2", "unexpected 2 at position 3"),
        ("__import__('os')", "unexpected '"),
        ("__import__(1)", "unexpected __import__ at position 1"),
        ("import os", "unexpected import at position 1"),
        ("1,20", "unexpected ,"),
        ("1 / 0", "division by zero"),
        ("0 ^ -1", "division by zero"),
        ("5 % (1 - 1)", "division by zero"),
        ("sqrt(0 - 4)", "not real"),
        ("[1, 2] + 1", "use sum, mean, max"),
        ("mean([])", "at least one number"),
        ("3 kg in m", "cannot convert kg (mass) to m (length)"),
        ("20 C in km", "cannot convert c to km"),
        ("2024-02-30", "no date 2024-02-30"),
        ("2024-01-31 + 3", "2024-01-31 + 30 days"),
        ("9999-12-31 + 1 day", "years 1 to 9999"),
    ],
)
def test_what_it_cannot_read_it_says(expression: str, message: str) -> None:
    with pytest.raises(ToolError) as caught:
        calculate(expression)
    assert message in str(caught.value)


@pytest.mark.parametrize(
    "expression",
    ["10^10^10", "9^999^9", "(9^999)^999", "1e999999999", "2^0.5^-99999", "(" * 150 + "1", "-" * 199 + "1"],
)
def test_nothing_hangs(expression: str) -> None:
    begun = time.monotonic()
    with pytest.raises(ToolError):
        calculate(expression)
    assert time.monotonic() - begun < 1


def test_random_text_gives_a_value_or_a_tool_error() -> None:
    pieces = "1 2.5 0 1,000 $3 + - * / // % ^ ( ) [ ] , of in to km days 2024-02-29 sum round sqrt e . = ?"
    rng = random.Random(7)
    begun = time.monotonic()
    values = 0
    for _ in range(4000):
        text = rng.choice(["", " "]).join(rng.choices(pieces.split(), k=rng.randint(1, 12)))
        try:
            value, _ = calculate(text)
        except ToolError:
            continue
        values += 1
        assert isinstance(value, int | float | str)
    assert values > 100
    assert time.monotonic() - begun < 10


def test_random_sums_agree_with_fractions() -> None:
    rng = random.Random(3)
    for _ in range(300):
        numbers = [rng.randint(1, 99) for _ in range(4)]
        signs = rng.choices("+-*/", k=3)
        pairs = list(zip(numbers, [*signs, ""], strict=True))
        exact = eval("".join(f"Fraction({number}){sign}" for number, sign in pairs), {"Fraction": Fraction})
        value = calculate("".join(f"{number}{sign}" for number, sign in pairs))[0]
        assert value == pytest.approx(float(exact), rel=1e-11, abs=1e-12)


def test_the_tool_takes_handles_of_every_shape(tmp_path: Path) -> None:
    tool, ctx = Calculator(), ToolContext(tmp_path)
    values = {
        "$1": [[42]],
        "$2": [1, None, "2,000", -3.5],
        "$3": "2024-01-31",
        "$4": [["a", 1]] * 2,
        "$5": "Ada",
        "$6": {"total": 8},
        "$12": -2,
    }

    def work(expression: str) -> object:
        return tool.run(resolve({"expression": expression}, values, tool.expands), ctx).value

    assert work("$1 * 2") == 84
    assert work("$12^2") == 4, "a negative value is one operand"
    assert work("sum($2)") == 1997.5
    assert work("count($2)") == 3, "empty cells do not count"
    assert work("mean(sum($2), $1)") == 1019.75
    assert work("max($2)") == 2000
    assert work("$3 + 30 days") == "2024-03-01"
    assert work("$6 / 2") == 4
    assert work("$1") == 42
    for expression, message in [
        ("$4 + 1", "$4 has 2 columns"),
        ("$5 + 1", '$5 holds "Ada", which is not a number'),
        ("$9 + 1", "there is no $9; handles so far: $1, $2"),
    ]:
        with pytest.raises(ToolError) as caught:
            work(expression)
        assert message in str(caught.value)


def test_the_preview_names_value_and_unit(tmp_path: Path) -> None:
    tool, ctx = Calculator(), ToolContext(tmp_path)
    assert tool.run({"expression": "6*7"}, ctx).preview == "42"
    assert tool.run({"expression": "90 minutes in hours"}, ctx).preview == "1.5 hours"
    assert tool.run({"expression": 5.0}, ctx).value == 5, "a number is an expression too"
