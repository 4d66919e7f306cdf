"""Errands: workflows as a person has them every week, to practise on; their checks are all that is known.

The kinds are those of the workflows suite (two or more steps that depend on each other), told in other
words, over other tables, notes and names: what one learns here must carry over. Like ``benchmarks/makers``
each maker draws a folder, a wording and the checks, and numbers come out with few decimals.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

from makers.common import Record, answer, csv_text, file, goal, read, says
from makers.public import table_file, with_tables

from autogpt.agent.goals.load import Goal

Errand = tuple[str, dict[str, str], list[Record]]

PLANTS = (
    "fern", "ivy", "maple", "birch", "tulip", "cactus", "orchid",
    "lilac", "poppy", "thyme", "basil", "heather", "jasmine", "aster",
)  # fmt: skip
PEOPLE = (
    "Olga", "Pavel", "Quentin", "Rosa", "Sven", "Tilda", "Umar", "Vera", "Wanda", "Xaver", "Yara", "Zeno",
)  # fmt: skip
ROOMS = ("attic", "cellar", "studio", "library", "workshop", "kitchen")
CLUBS = ("chess", "rowing", "choir", "theatre", "judo")
LAKES = (
    "Amber Lake", "Blue Mere", "Crane Water", "Dun Loch", "Elk Pond", "Fox Tarn", "Gull Basin", "Heron Pool",
)  # fmt: skip


def _plants(rng: random.Random, count: int) -> list[list[Any]]:
    """Return rows of (plant, height, pots)."""
    return [[plant, rng.randint(5, 80), rng.randint(1, 40)] for plant in rng.sample(PLANTS, count)]


PLANT_HEADER = ["plant", "height", "pots"]


def mean_and_more(rng: random.Random) -> Errand:
    """A mean, some percent more, written."""
    count = rng.choice((4, 5, 8))
    rents = [rng.randint(30, 900) for _ in range(count)]
    rents[-1] += count - sum(rents) % count
    mean, rate = sum(rents) // count, rng.choice((4, 6, 8, 10, 15, 20, 30))
    rows = [[f"R{10 + i}", rng.choice(ROOMS), rent] for i, rent in enumerate(rents)]
    source = rng.choice(("rooms.csv", "rents.csv", "lets.csv"))
    target = rng.choice(("new_rent.txt", "figure.txt", "raised.txt"))
    text = rng.choice(
        (
            f"What is the rent in {source} on average? Increase that by {rate} percent; "
            f"{target} gets the figure.",
            f"{target} should hold the mean rent of {source} with {rate} % on top.",
            f"Rents go up {rate} %. Store the raised average of {source} as {target}.",
            f"Take the mean of the rents in {source}, add {rate} percent to it and store that in {target}.",
        )
    )
    result = round(mean * (100 + rate) / 100, 4)
    return text, {source: csv_text(["id", "room", "rent"], rows)}, [file(target, equals=f"{result:g}")]


def commonest(rng: random.Random) -> Errand:
    """The value that most rows have, written and told."""
    clubs = rng.sample(CLUBS, 4)
    counts = sorted(rng.sample(range(1, 7), 4))
    cells = [club for club, count in zip(clubs, counts, strict=True) for _ in range(count)]
    rng.shuffle(cells)
    rows = [[40 + i, club, rng.randint(8, 70)] for i, club in enumerate(cells)]
    target = rng.choice(("club.txt", "winner.txt", "most.txt"))
    text = rng.choice(
        (
            f"members.csv lists who is in which club. Tell me the biggest club and note it in {target}.",
            f"What club do most members belong to? Note it in {target} as well.",
            f"Name the club that appears most often in members.csv; {target} should say so too.",
        )
    )
    checks = [file(target, equals=clubs[-1]), says(clubs[-1])]
    return text, {"members.csv": csv_text(["member", "club", "age"], rows)}, checks


def gap(rng: random.Random) -> Errand:
    """Two sums and what lies between them."""
    one, two, other = rng.sample(ROOMS, 3)
    rows = [[f"T{i}", rng.choice((one, two, other)), rng.randint(2, 60)] for i in range(10)]
    rows += [["T10", one, rng.randint(300, 500)], ["T11", two, rng.randint(2, 30)]]
    rng.shuffle(rows)
    one_sum, two_sum = (sum(row[2] for row in rows if row[1] == room) for room in (one, two))
    text = rng.choice(
        (
            f"How many more minutes did the {one} take than the {two}, all tasks of tasks.csv together?",
            f"Add up the minutes of the {one} in tasks.csv, then those of the {two}. How far apart are they?",
            f"tasks.csv: minutes of the {one} in total less minutes of the {two} in total?",
            f"What is left of the {one} minutes in tasks.csv without the {two} minutes (both summed)?",
        )
    )
    checks = [answer(number=one_sum - two_sum)]
    return text, {"tasks.csv": csv_text(["task", "room", "minutes"], rows)}, checks


def across(rng: random.Random) -> Errand:
    """A sum over two tables that share a column, written."""
    people, clubs = rng.sample(PEOPLE, 5), rng.sample(CLUBS, 3)
    members = [[f"M{i + 1}", person, clubs[i % 3]] for i, person in enumerate(people)]
    fees = [[900 + i, f"M{rng.randint(1, 5)}", rng.randint(5, 95)] for i in range(8)]
    home = {member[0]: member[2] for member in members}
    club = home[rng.choice(fees)[1]]
    total = sum(fee[2] for fee in fees if home[fee[1]] == club)
    target = rng.choice(("fees.txt", "club_total.txt", "paid.txt"))
    text = rng.choice(
        (
            f"How much have members of the {club} club paid altogether? Keep the number in {target}.",
            f"{target} shall hold the total fees paid by people in the {club} club.",
            f"Sum the fees of everybody in {club}; put that into {target}.",
        )
    )
    folder = {
        "fees.csv": csv_text(["receipt", "member", "fee"], fees),
        "members.csv": csv_text(["member", "name", "club"], members),
    }
    return text, folder, [file(target, equals=str(total))]


def named_in_note(rng: random.Random) -> Errand:
    """A memo names a plant; the table knows its height; written."""
    rows = _plants(rng, 7)
    plant, height, _ = rng.choice(rows)
    memo = rng.choice(
        (
            "Somebody wants to know about the {0}.",
            "Could you measure the {0} today?",
            "The label says {0}.",
            "It is the {0} that grows by the door.",
        )
    )
    source = rng.choice(("memo.txt", "label.txt", "message.txt"))
    target = rng.choice(("height.txt", "size.txt", "tall.txt"))
    text = rng.choice(
        (
            f"{source} mentions a plant. How high is it according to garden.csv? Note that in {target}.",
            f"See in {source} which plant is meant, get its height from garden.csv, put it into {target}.",
            f"Store the height (garden.csv) of the plant that {source} is about as {target}.",
            f"Which plant does {source} talk about? Keep its height from garden.csv in {target}.",
        )
    )
    folder = {source: memo.format(plant) + "\n", "garden.csv": csv_text(PLANT_HEADER, rows)}
    return text, folder, [file(target, equals=str(height))]


def factor_in_note(rng: random.Random) -> Errand:
    """A factor from a memo, a height from a table, their product."""
    rows = _plants(rng, 6)
    plant, height, _ = rng.choice(rows)
    factor = rng.choice((1.2, 1.5, 0.5, 3, 2.5, 1.75))
    text = rng.choice(
        (
            f"The {plant} grows by the factor in factor.txt. How high will it be, starting from garden.csv?",
            f"Take the height of the {plant} from garden.csv and scale it with what factor.txt says.",
            f"factor.txt times the height of the {plant} (see garden.csv): what is that?",
        )
    )
    folder = {"factor.txt": f"{factor}\n", "garden.csv": csv_text(PLANT_HEADER, rows)}
    return text, folder, [answer(number=round(height * factor, 6))]


def part(rng: random.Random) -> Errand:
    """Count some, count all, percent."""
    count = rng.choice((8, 10, 5))
    some = rng.randint(1, count - 1)
    room, *others = rng.sample(ROOMS, 4)
    cells = [room] * some + [rng.choice(others) for _ in range(count - some)]
    rng.shuffle(cells)
    rows = [[f"B{i}", cell, rng.randint(1, 9)] for i, cell in enumerate(cells)]
    text = rng.choice(
        (
            f"How large, in percent, is the part of boxes.csv that stands in the {room}?",
            f"Which percentage of all boxes in boxes.csv is kept in the {room}?",
            f"boxes.csv: what percent are in the {room}?",
        )
    )
    either = rf"^\D{{0,40}}{100 * some / count:g}(\.0+)?\s*(%|percent|per cent)?\W{{0,2}}$"
    return text, {"boxes.csv": csv_text(["box", "room", "weight"], rows)}, [answer(matches=either)]


def find_and_keep(rng: random.Random) -> Errand:
    """Search, read, write."""
    plants = rng.sample(PLANTS, 4)
    names = rng.sample(("cellar.txt", "balcony.txt", "july.txt", "anna.txt", "list.txt"), 4)
    folder = {
        name: f"{rng.choice(PEOPLE)} waters the {plant}.\nTwice a week.\n"
        for name, plant in zip(names, plants, strict=True)
    }
    name, plant = rng.choice(list(zip(names, plants, strict=True)))
    target = rng.choice(("found.txt", f"{plant}_care.txt", "copy.txt"))
    text = rng.choice(
        (
            f"One of the notes speaks of the {plant}. Make a copy of that note named {target}.",
            f"Search the notes for {plant} and save a copy of the one you find as {target}.",
            f"I need the note with the word {plant} again, under the name {target}.",
            f"Look for the {plant} in my notes; whatever that note says should stand in {target} too.",
        )
    )
    return text, folder, [file(target, equals=folder[name])]


def lake(rng: random.Random) -> Errand:
    """Another column of the row that is largest or smallest, or two cells added; written."""
    names, depths, towns = LAKES, rng.sample(range(4, 200), 8), rng.sample(PEOPLE, 8)
    sizes = rng.sample(range(1000, 99999), 8)
    rows = [list(row) for row in zip(names, towns, depths, sizes, strict=True)]
    rng.shuffle(rows)
    folder = {"lakes.csv": csv_text(["lake", "keeper", "depth_m", "visitors"], rows)}
    if rng.random() < 0.5:
        one, two = rng.sample(rows, 2)
        target = rng.choice(("sum.txt", "visits.txt"))
        text = rng.choice(
            (
                f"{one[0]} and {two[0]}: how many visitors had they in all? Put it into {target}.",
                f"Sum up the visitors of {one[0]} and of {two[0]}; {target} takes the result.",
            )
        )
        return text, folder, [file(target, equals=str(one[3] + two[3]))]
    index, most = rng.choice(((2, "deepest"), (3, "most visited")))
    top = max(rows, key=lambda row: row[index])
    target = rng.choice(("keeper.txt", "who.txt"))
    text = rng.choice(
        (
            f"Who keeps the {most} lake of lakes.csv? Put the name into {target}.",
            f"Store the keeper of the {most} lake (lakes.csv) as {target}.",
        )
    )
    return text, folder, [file(target, equals=top[1])]


MAKERS: tuple[Callable[[random.Random], Errand], ...] = (
    mean_and_more, commonest, gap, across, named_in_note, factor_in_note, part, find_and_keep, lake,
)  # fmt: skip


def _question(rng: random.Random, item: Record, table: Record) -> Errand:
    """A question over a table of the training split whose answer must also stand in a file."""
    name, content = table_file(table)
    target = rng.choice(("reply.txt", "found.txt", "note.txt"))
    text = f"{item['question']} " + rng.choice(
        (f"Note it in {target} too.", f"{target} should say so too.", f"Keep that in {target}.")
    )
    return text, {name: content}, [file(target, equals=str(item["answer"][0])), answer(items=item["answer"])]


def errands(data: Path, count: int, seed: int) -> list[Goal]:
    """Return ``count`` errands, the kinds in turn, a question of the training split among them."""
    rng = random.Random(seed)
    single = [item for item in read(data, "wikisql_train") if len(item["answer"]) == 1]
    questions = with_tables(data, rng.sample(single, count // (len(MAKERS) + 1) + 1))
    found = []
    for number in range(1, count + 1):
        turn = number % (len(MAKERS) + 1)
        if turn < len(MAKERS):
            kind, (text, folder, checks) = MAKERS[turn].__name__, MAKERS[turn](rng)
        else:
            kind, (text, folder, checks) = "asked", _question(rng, *questions.pop())
        found.append(Goal.model_validate(goal("errand", number, kind, text, folder, *checks)))
    return found
