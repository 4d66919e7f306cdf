"""What an office worker asks of small ordinary files, in a person's words; right values worked out apart.

The files lie in ``benchmarks/suites/office/``. The suite has what the tools of 2026-11-30 can reach: tables
that are read as they stand, text files, a calculation. Left out, because no tool reads or does it yet:
amounts with a decimal comma or a currency sign, dates that are not ISO, totals and titles inside a sheet,
lists inside a JSON file, replacing text in a file, writing JSON.
"""

from __future__ import annotations

from .common import Record, answer, file

LATE = "ship,line,due,state,late_days,cargo\nS2,Alba,2026-02-19,late,3,80\nS3,Cora,2026-03-01,late,9,200\n" \
    "S5,Dove,2026-03-09,late,1,75\n"  # fmt: skip
TODO = r"\A[^\n]*TODO: Ruth books the hall by Friday\n[^\n]*TODO: Sven asks the organist\s*\Z"
REFUSED = r"(?s)\A([^\n]*connection refused\n?){6}\Z"


def said(*words: str) -> Record:
    """Return a check that the answer has all ``words``, in any order."""
    return answer(matches="".join(rf"(?=[\s\S]*(?<!\w){word}(?!\w))" for word in words))


Case = tuple[str, str, list[str], list[Record]]
"""Category, question, files, checks."""

CASES: list[Case] = [
    ("table", "How many bills are not paid?", ["bills.csv"], [answer(number=3)]),
    ("table", "How many bills were issued in March 2026?", ["bills.csv"], [answer(number=2)]),
    ("table", "Which customer has bill B-4?", ["bills.csv"], [said("Hof Adler")]),
    ("table", "What is Mina's mail address?", ["harvest.xlsx"], [said("mina@example.org")]),
    ("database", "Which readers have never borrowed anything?", ["library.db"], [said("Quinn")]),
    ("database", "Which kind of book brings the highest sum of prices over all loans?", ["library.db"],
     [said("science")]),
    ("database", "Who borrowed most often?", ["library.db"], [said("Olaf")]),
    ("database", "How many loans are still out?", ["library.db"], [answer(number=2)]),
    ("two tables", "Which part is in the spring list but not in the autumn list?",
     ["spring.csv", "autumn.csv"], [said("lamp")]),
    ("two tables", "Which parts have fewer pieces in autumn than in spring?", ["spring.csv", "autumn.csv"],
     [said("hose", "rope")]),
    ("table to file", "Which parts are below their least count? Write them to order.txt", ["autumn.csv"],
     [file("order.txt", matches=r"(?i)\A(?![\s\S]*(hose|valve|glove))[\s\S]*rope")]),
    ("table", "What share of the ships was late, in percent?", ["ships.csv"],
     [answer(number=60, tolerance=0.1)]),
    ("table", "How long were the late ships late on average?", ["ships.csv"],
     [answer(number=4.3333, tolerance=0.01)]),
    ("table", "How many ships does each line have?", ["ships.csv"],
     [answer(matches=r"(?i)(?=[\s\S]*Alba\W+2)(?=[\s\S]*Cora\W+2)(?=[\s\S]*Dove\W+1)")]),
    ("table", "List all lines", ["ships.csv"], [answer(items=["Alba", "Cora", "Dove"])]),
    ("table to file", "Make late.csv with only the late ships", ["ships.csv"],
     [file("late.csv", equals=LATE)]),
    ("table to file", "Add a column fine = late_days * 40 and save as fines.csv", ["ships.csv"],
     [file("fines.csv", matches=r"(?m)\A[^\n]*\bfine\b[^\n]*\n.*\b0\n.*\b120\n.*\b360\n.*\b0\n.*\b40\s*\Z")]),
    ("table to file", "Sort by cargo, largest first, save as sorted.csv", ["ships.csv"],
     [file("sorted.csv", matches=r"(?m)\A[^\n]*cargo[^\n]*\nS3.*\nS1.*\nS2.*\nS5.*\nS4.*\s*\Z")]),
    ("text", "Copy all TODO lines into todo.txt", ["minutes.txt"],
     [file("todo.txt", matches=TODO)]),
    ("text", "Who has to do what? A short list.", ["minutes.txt"],
     [said("Ruth", "hall", "Sven", "organist")]),
    ("text", "How many ERROR lines are there?", ["door.log"], [answer(number=6)]),
    ("text", "Write all lines with 'connection refused' to refused.txt", ["door.log"],
     [file("refused.txt", matches=REFUSED)]),
    ("calculation", "A desk costs 240 euros, we get 12 % off and need 3. What do we pay?", [],
     [answer(matches=r"(?<![\d.,])633[.,]60?(?!\d)")]),
    ("calculation", "What is 7% VAT on 2,400.50?", [], [answer(matches=r"(?<![\d.])168[.,]0(35|4)(?!\d)")]),
    ("table", "What is the sum of n in Oslo and Bergen?", ["a.csv"], [answer(number=7)]),
    ("table", "Who has the highest score?", ["h.csv"], [said("bo")]),
    ("table", "What is the sum of q217?", ["wide.csv"], [answer(number=42)]),
    ("table", "What is the sum of the column Jun 2021?", ["months.csv"], [answer(number=423)]),
    ("table", "What is the sum of ms for user Ann?", ["users.csv"], [answer(number=20)]),
    ("table", "What is the sum of b?", ["q.csv"], [answer(number=6)]),
    ("table", "What is the sum of n?", ["n.csv"], [answer(number=10)]),
    ("table", "How many rows have done true?", ["b.csv"], [answer(number=3)]),
    ("table", "What is the sum of Qty #?", ["s.csv"], [answer(number=10)]),
    ("table", "What is the highest d?", ["p.csv"], [answer(number=12)]),
    ("table", "What is the sum of Hours?", ["export.csv"], [answer(number=12)]),
    ("table", "How many rows have UniqueCarrier AA?", ["flights.csv"], [answer(number=2)]),
    ("table", "Which is the highest mpg?", ["cars.csv"], [answer(number=22.8)]),
]  # fmt: skip


def office() -> list[Record]:
    """Return the cases as goals over the files beside the suite."""
    return [
        {
            "id": f"office-{number:04d}",
            "category": category,
            "goal": text,
            **({"inputs": [f"office/{name}" for name in names]} if names else {}),
            "check": checks,
        }
        for number, (category, text, names, checks) in enumerate(CASES, start=1)
    ]
