"""Questions over tables that training has not seen: WikiTableQuestions and WikiSQL's own dev sample.

WikiTableQuestions (Pasupat and Liang, 2015): questions of its ``valid`` file whose table is held out
(``valid`` asks about tables of the training part, so ``autogpt/agent/experts/data.py`` splits by table).
The people who asked saw the table and were told to ask something hard. WikiSQL's dev sample has the letter
case of Wikipedia, which nothing in training has. Tables are written as the source has them.
"""

from __future__ import annotations

import random
from pathlib import Path

from autogpt.agent.experts.data import is_train

from .common import Record, answer, goal, read
from .public import table_file


def strange_tables(data: Path, seed: int = 32) -> list[Record]:
    """150 questions of WikiTableQuestions and 100 of WikiSQL's dev sample, mixed."""
    rng = random.Random(seed)
    tables = {table["id"]: table for table in read(data, "wtq_tables")}
    asked = [item for item in read(data, "wtq_valid") if not is_train("wtq", item["table_id"])]
    drawn = [("wikitables", item, tables[item["table_id"]]) for item in rng.sample(asked, 150)]
    tables = {table["id"]: table for table in read(data, "wikisql_official_dev_sample_tables")}
    asked = list(read(data, "wikisql_official_dev_sample"))
    drawn += [("wikisql dev", item, tables[item["table_id"]]) for item in rng.sample(asked, 100)]
    rng.shuffle(drawn)
    made = []
    for number, (category, item, table) in enumerate(drawn, start=1):
        name, text = table_file(table)
        made.append(
            goal("strange", number, category, item["question"], {name: text}, answer(items=item["answer"]))
        )
    return made
