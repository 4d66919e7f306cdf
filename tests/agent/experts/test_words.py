"""What a planned calculation is for: numbers with the words behind them, or a solution's lines."""

from __future__ import annotations

import pytest

from autogpt.agent.experts import words


@pytest.mark.parametrize(
    ("expression", "question", "wanted"),
    [
        ("9 + 12", "After 9 customers left he still had 12 customers.", "9 customers + 12 customers"),
        ("145.16 + 5.84", "A trumpet for $145.16, a book which was $5.84.", "145.16 dollars + 5.84 dollars"),
        ("(3 + 4) * 2.0", "There were 3 and 4 of them, twice.", "(3 + 4) * 2"),
    ],
)
def test_an_expression_has_the_words_of_its_numbers(expression: str, question: str, wanted: str) -> None:
    assert words.worded(expression, question) == wanted


def test_a_solution_gives_its_lines_without_results() -> None:
    first = "She earns 12/60 = $<<12/60=0.2>>0.2 a minute."
    solution = f"{first}\nSo 50 minutes give 0.2*50 = $<<0.2*50=10>>10.\n#### 10"
    assert words.reasons(solution) == ["She earns 12/60 a minute.", "So 50 minutes give 0.2*50."]


def test_a_long_reason_ends_at_a_word() -> None:
    assert words.cut("  one  two.") == "one two"
    assert words.cut("word " * 30) == ("word " * 16).strip()
