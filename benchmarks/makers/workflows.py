"""Workflows: three or more steps that depend on each other, over two or more tools.

Each maker draws small tables or notes, a wording, and the checks. Numbers are drawn so that the
results have few decimals: rounding is never part of the task. Two kinds use real tables: country
facts (CIA World Factbook, CC0) and WikiSQL questions whose answer must also be written down.
"""

from __future__ import annotations

import random
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

from .common import Record, answer, csv_text, file, goal, read, says
from .public import table_file

GOODS = (
    "lantern", "rope", "tent", "stove", "paddle", "compass",
    "blanket", "kettle", "axe", "tarp", "mug", "cooler",
)  # fmt: skip
TOWNS = ("Bergen", "Leipzig", "Graz", "Lyon", "Turin", "Ghent", "Malmo", "Krakow", "Split", "Bilbao")
STAFF = (
    "Ada", "Bruno", "Celia", "Dario", "Elif", "Fergus",
    "Gita", "Hugo", "Ines", "Jonas", "Kira", "Leon", "Mara",
)  # fmt: skip
TEAMS = ("support", "design", "finance", "logistics", "sales")

Folder = dict[str, str]
Task = tuple[str, Folder, list[Record]]


def _goods(rng: random.Random, count: int) -> list[list[Any]]:
    """Return rows of (item, price, stock)."""
    return [[item, rng.randint(4, 90), rng.randint(1, 60)] for item in rng.sample(GOODS, count)]


def average_and_tax(rng: random.Random) -> Task:
    """Average, add a percentage, write."""
    while True:
        rows = _goods(rng, rng.choice((4, 5, 8)))
        total = sum(row[1] for row in rows)
        if total % len(rows) == 0:
            break
    mean, rate = total // len(rows), rng.choice((5, 7, 10, 19, 20, 25))
    name, target = rng.choice(("goods.csv", "shop.csv", "catalog.csv")), rng.choice(("total.txt", "mean.txt"))
    text = rng.choice(
        (
            f"Find the average price in {name}, add {rate} % and write the result to {target}.",
            f"What is the average price in {name} plus {rate} % tax? Write the number to {target}.",
            f"Take the mean price of {name}, raise it by {rate} % and save it in {target}.",
        )
    )
    result = round(mean * (100 + rate) / 100, 4)
    return text, {name: csv_text(["item", "price", "stock"], rows)}, [file(target, equals=f"{result:g}")]


def most_and_write(rng: random.Random) -> Task:
    """The group with the most rows, written and told."""
    towns = rng.sample(TOWNS, 4)
    counts = sorted(rng.sample(range(1, 7), 4))
    cells = [town for town, count in zip(towns, counts, strict=True) for _ in range(count)]
    rng.shuffle(cells)
    rows = [[f"S{100 + i}", town, rng.randint(40, 400)] for i, town in enumerate(cells)]
    target = rng.choice(("answer.txt", "top.txt", "town.txt"))
    text = rng.choice(
        (
            f"Which town has the most stores in stores.csv? Write its name to {target} and tell me.",
            f"Find the town with the most stores in stores.csv, save its name in {target} and tell me.",
        )
    )
    folder = {"stores.csv": csv_text(["store", "town", "area"], rows)}
    return text, folder, [file(target, equals=towns[-1]), says(towns[-1])]


def difference(rng: random.Random) -> Task:
    """Two sums and their difference."""
    one, two, other = rng.sample(("north", "south", "east", "west"), 3)
    rows = [[i + 1, rng.choice((one, two, other)), rng.randint(3, 70)] for i in range(12)]
    rows += [[13, one, rng.randint(100, 140)], [14, two, rng.randint(3, 40)]]
    sums = {side: sum(row[2] for row in rows if row[1] == side) for side in (one, two)}
    text = rng.choice(
        (
            f"How much larger is the total quantity of {one} than that of {two} in sales.csv?",
            f"Sum the quantity for {one} and for {two} in sales.csv. What is the difference?",
            f"In sales.csv, by how much do the quantities of {one} and {two} differ in total?",
        )
    )
    gap = sums[one] - sums[two]
    if gap < 0:
        return difference(rng)
    return text, {"sales.csv": csv_text(["id", "region", "quantity"], rows)}, [answer(number=gap)]


def join_and_write(rng: random.Random) -> Task:
    """Sum over two joined tables, written."""
    people = rng.sample(STAFF, 5)
    towns = rng.sample(TOWNS, 3)
    clients = [[f"C{i + 1}", person, towns[i % 3]] for i, person in enumerate(people)]
    orders = [[500 + i, f"C{rng.randint(1, 5)}", rng.randint(10, 300)] for i in range(9)]
    home = {client[0]: client[2] for client in clients}
    town = home[rng.choice(orders)[1]]
    total = sum(order[2] for order in orders if home[order[1]] == town)
    target = rng.choice(("sum.txt", "report.txt", "amount.txt"))
    text = rng.choice(
        (
            f"What is the total amount of all orders by clients from {town}? Write it to {target}.",
            f"Add up the order amounts of the clients who live in {town} and write the sum to {target}.",
        )
    )
    folder = {
        "orders.csv": csv_text(["order", "client", "amount"], orders),
        "clients.csv": csv_text(["client", "name", "town"], clients),
    }
    return text, folder, [file(target, equals=str(total))]


def note_then_table(rng: random.Random) -> Task:
    """A note names the item; the table has its price; write it."""
    rows = _goods(rng, 7)
    item, price, _ = rng.choice(rows)
    note = rng.choice(
        ("Please order one {0} for the trip.", "We still need a {0}.", "The customer asked for a {0}.")
    )
    target = rng.choice(("price.txt", "cost.txt"))
    text = rng.choice(
        (
            f"note.txt names an item. Look up its price in prices.csv and write it to {target}.",
            f"Read note.txt, find the item it mentions in prices.csv and save its price in {target}.",
        )
    )
    folder = {"note.txt": note.format(item) + "\n", "prices.csv": csv_text(["item", "price", "stock"], rows)}
    return text, folder, [file(target, equals=str(price))]


def rate_from_note(rng: random.Random) -> Task:
    """A rate from a note, a price from a table, their product."""
    rows = _goods(rng, 6)
    item, price, _ = rng.choice(rows)
    rate = rng.choice((1.1, 1.25, 1.5, 0.8, 2, 4))
    text = rng.choice(
        (
            f"rate.txt holds a rate. What is the price of the {item} in prices.csv times that rate?",
            f"Multiply the price of the {item} in prices.csv by the rate in rate.txt.",
        )
    )
    folder = {"rate.txt": f"{rate}\n", "prices.csv": csv_text(["item", "price", "stock"], rows)}
    return text, folder, [answer(number=round(price * rate, 6))]


def share(rng: random.Random) -> Task:
    """Count some, count all, percentage."""
    count = rng.choice((8, 10, 5))
    part = rng.randint(1, count - 1)
    team, *others = rng.sample(TEAMS, 4)
    cells = [team] * part + [rng.choice(others) for _ in range(count - part)]
    rng.shuffle(cells)
    rows = [
        [name, cell, rng.randint(20, 40)] for name, cell in zip(rng.sample(STAFF, count), cells, strict=True)
    ]
    text = rng.choice(
        (
            f"What percentage of the people in staff.csv work in {team}?",
            f"How many percent of the staff in staff.csv belong to the {team} team?",
        )
    )
    folder = {"staff.csv": csv_text(["name", "team", "hours"], rows)}
    number = 100 * part / count
    either = rf"^\D{{0,40}}{number:g}(\.0+)?\s*(%|percent|per cent)?\W{{0,2}}$"
    return text, folder, [answer(matches=either)]


def find_and_copy(rng: random.Random) -> Task:
    """Search, read, write."""
    goods = rng.sample(GOODS, 4)
    names = rng.sample(("monday.txt", "tuesday.txt", "ideas.txt", "trip.txt", "garage.txt"), 4)
    folder = {
        n: f"Pack the {g}.\nAsk {rng.choice(STAFF)} first.\n" for n, g in zip(names, goods, strict=True)
    }
    name, item = rng.choice(list(zip(names, goods, strict=True)))
    target = f"{item}.txt"
    text = rng.choice(
        (
            f"Find the file that mentions the {item} and copy it to {target}.",
            f"One of these files is about the {item}. Put its content into {target}.",
        )
    )
    return text, folder, [file(target, equals=folder[name])]


MAKERS: tuple[Callable[[random.Random], Task], ...] = (
    average_and_tax, most_and_write, difference, join_and_write,
    note_then_table, rate_from_note, share, find_and_copy,
)  # fmt: skip


def _number(text: str) -> float | None:
    match = re.match(r"([\d,]+(?:\.\d+)?)( million)?", text)
    return float(match[1].replace(",", "")) * (1_000_000 if match[2] else 1) if match else None


def countries(data: Path) -> list[list[Any]]:
    """Return rows of (country, capital, area, population, airports) with whole numbers, all known."""
    facts: dict[str, dict[str, str]] = {}
    wanted = ("Capital - name", "Area - total ", "Population - total", "Airports")
    for item in read(data, "factbook_facts"):
        if item["field"] in wanted:
            facts.setdefault(item["country"], {}).setdefault(item["field"], item["value"])
    rows = []
    for country, fields in facts.items():
        numbers = [_number(fields.get(name, "")) for name in wanted[1:]]
        capital = fields.get("Capital - name", "")
        plain = re.fullmatch(r"[A-Z][a-z]+(?: [A-Z][a-z]+)?", country) and re.fullmatch(
            r"[A-Za-z ]+", capital
        )
        if plain and all(number and number >= 1 for number in numbers):
            rows.append([country, capital, *(round(number) for number in numbers if number)])
    return rows


COUNTRY_HEADER = ["country", "capital", "area_km2", "population", "airports"]


def country_task(rng: random.Random, facts: list[list[Any]]) -> Task:
    """Real country facts: look up, compute, write."""
    rows = rng.sample(facts, 8)
    folder = {"countries.csv": csv_text(COUNTRY_HEADER, rows)}
    if rng.random() < 0.5:
        one, two = rng.sample(rows, 2)
        target = rng.choice(("both.txt", "people.txt"))
        text = rng.choice(
            (
                f"Add the populations of {one[0]} and {two[0]} and write the sum to {target}.",
                f"How many people live in {one[0]} and {two[0]} together? Write it to {target}.",
            )
        )
        return text, folder, [file(target, equals=str(one[3] + two[3]))]
    column, word, index = rng.choice((("area", "largest", 2), ("population", "largest", 3)))
    top = max(rows, key=lambda row: row[index])
    target = rng.choice(("capital.txt", "city.txt"))
    text = rng.choice(
        (
            f"Which country in countries.csv has the {word} {column}? Write its capital to {target}.",
            f"Find the country with the {word} {column} in countries.csv and save its capital in {target}.",
        )
    )
    return text, folder, [file(target, equals=top[1])]


def question_task(rng: random.Random, item: Record, table: Record) -> Task:
    """A WikiSQL question whose answer must also stand in a file."""
    name, content = table_file(table)
    target = rng.choice(("answer.txt", "result.txt", "out.txt"))
    text = f"{item['question']} " + rng.choice(
        (f"Write the answer to {target}.", f"Save the answer in {target}.", f"Put the result into {target}.")
    )
    value = item["answer"][0]
    return text, {name: content}, [file(target, equals=str(value)), answer(items=item["answer"])]


def workflows(data: Path, count: int = 100, seed: int = 15) -> list[Record]:
    """Make ``count`` workflows, the kinds in turn."""
    rng = random.Random(seed)
    facts = countries(data)
    by_id = {table["id"]: table for table in read(data, "wikisql_valid_tables")}
    single = [item for item in read(data, "wikisql_valid") if len(item["answer"]) == 1]
    questions = iter(rng.sample(single, count))
    records: list[Record] = []
    for number in range(1, count + 1):
        turn = number % (len(MAKERS) + 2)
        if turn == len(MAKERS):
            category, task = "countries", country_task(rng, facts)
        elif turn == len(MAKERS) + 1:
            item = next(questions)
            category, task = "question", question_task(rng, item, by_id[item["table_id"]])
        else:
            category, task = MAKERS[turn].__name__, MAKERS[turn](rng)
        text, folder, checks = task
        records.append(goal("workflows", number, category, text, folder, *checks))
    return records
