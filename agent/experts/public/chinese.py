"""Goals in Chinese: talk, translations, words, and questions over tables and notes in both languages.

The answer is Chinese where it is a sentence; a value is given as it stands in the data. Tatoeba's pairs and
CC-CEDICT give translations, KdConv's sights a table and a note about each; the talk and the wordings of the
questions are our own.
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence

from ...goals.load import Goal
from ..data import is_train, read_records
from ..expert import Task, call, finish, handles_before, plan
from ..sheets import Query, Sheet, Work, sheet, sheet_files
from ..tables import simple_name, table_csv

_TALK: Sequence[tuple[Sequence[str], Sequence[str]]] = (
    (("你好", "您好！", "嗨", "早上好", "晚上好", "哈喽，在吗？"),
     ("你好！有什么我可以帮你的吗？", "您好！想让我做点什么？")),
    (("谢谢", "多谢你", "太感谢了！", "辛苦了"), ("不客气！", "不用谢，随时找我。")),
    (("再见", "拜拜", "下次见", "我先走了"), ("再见！", "好的，下次见！")),
    (("你是谁？", "你叫什么名字？", "介绍一下你自己", "你是什么程序？"),
     ("我是 AutoGPT，在你的电脑上用工具帮你完成任务的程序。", "我叫 AutoGPT，可以处理表格、文件和计算。")),
    (("你会做什么？", "你能帮我做哪些事？", "你有什么本事？"),
     ("我可以查询表格、读写文件、做计算，也可以回答问题和写短文。",
      "把表格或文件交给我，我可以回答其中的问题，也能把结果写进文件。")),
    (("我今天很累", "我心情不好", "工作压力好大", "我感冒了"),
     ("辛苦了，先好好休息一下吧。", "听起来不容易，希望你很快好起来。")),
    (("我考试通过了！", "我找到新工作了", "今天是我生日"), ("太好了，恭喜你！", "真为你高兴！")),
    (("你喜欢吃什么？", "你有女朋友吗？", "你多大了？", "你会累吗？"),
     ("我是一个程序，没有这些感受。你呢？", "我只是程序，不过很愿意听你说。")),
    (("现在外面下雨吗？", "明天会下雪吗？", "现在几点了？", "最新的新闻是什么？"),
     ("我没有联网的工具，查不到实时信息。", "抱歉，这需要实时数据，我这里没有相应的工具。")),
)  # fmt: skip
_TO_CHINESE = ("把这句话翻译成中文：{}", "“{}”用中文怎么说？", "请翻译成中文：{}", "翻译：{}")
_TO_ENGLISH = ("把这句话翻译成英文：{}", "“{}”用英语怎么说？", "请翻译成英文：{}", "译成英文：{}")
_MEANS = ("“{}”是什么意思？", "“{}”用英语怎么说？", "解释一下“{}”这个词")


def _task(text: str, answer: str) -> Task:
    return Task("Chinese", Goal.model_validate({"goal": text}), [finish(answer)])


def talk(rng: random.Random, number: int) -> Iterator[Task]:
    """Yield ``number`` exchanges: half small talk, half translations and words."""
    pairs = list(read_records("tatoeba_zh_en_train"))
    words = [r for r in read_records("cedict_zh_en") if 2 <= len(r["zh"]) <= 4 and r["en"][0][:1].islower()]
    for _ in range(number):
        draw = rng.random()
        if draw < 0.5:
            said, replies = rng.choice(_TALK)
            yield _task(rng.choice(said), rng.choice(replies))
        elif draw < 0.85:
            pair = rng.choice(pairs)
            forms, given, wanted = rng.choice(((_TO_CHINESE, "en", "zh"), (_TO_ENGLISH, "zh", "en")))
            yield _task(rng.choice(forms).format(pair[given]), pair[wanted])
        else:
            word = rng.choice(words)
            yield _task(rng.choice(_MEANS).format(word["zh"]), f"“{word['zh']}”的意思是 {word['en'][0]}。")


_NAMES = {"sum": ("总和", "合计"), "avg": ("平均值", "平均数"), "max": ("最大值", "最高值"),
          "min": ("最小值", "最低值")}  # fmt: skip


def tables(rng: random.Random, number: int) -> Iterator[Task]:
    """Yield ``number`` questions in Chinese: over made-up English tables, and over sights in Chinese."""
    sights = _sights()
    for _ in range(number):
        yield _over_sheet(sheet(rng), rng) if rng.random() < 0.6 else _over_sights(sights, rng)


def _over_sheet(item: Sheet, rng: random.Random) -> Task:
    n, rows = rng.choice(item.numbers), item.table["rows"]
    value = rng.choice([row[1] for row in rows])
    file = f"{item.name}.csv"
    kind = rng.choice(("top", "count", "sum", "avg", "max", "min"))
    query: Query
    if kind == "top":
        text = rng.choice(("哪个 {e} 的 {n} 最高？", "{n} 最高的 {e} 是哪一个？", "{f} 里谁的 {n} 最大？"))
        query = {"select": [item.entity], "order_by": f"{n} desc", "limit": 1}
    elif kind == "count":
        text = rng.choice(("{g} 是 {v} 的有多少行？", "{f} 里有几条 {v} 的记录？", "{v} 有多少条？"))
        query = {"select": ["count(*)"], "where": [[item.group, "=", value]]}
    else:
        name = rng.choice(_NAMES[kind])
        whole = rng.random() < 0.5
        text = (
            rng.choice((f"{{n}} 的{name}是多少？", f"{{f}} 里 {{n}} 的{name}是多少？"))
            if whole
            else rng.choice((f"{{v}} 的 {{n}} {name}是多少？", f"{{g}} 为 {{v}} 时，{{n}} 的{name}是多少？"))
        )
        query = {"select": [f"{kind}({n})"]}
        query |= {} if whole else {"where": [[item.group, "=", value]]}
    text = text.format(e=item.entity, n=n, g=item.group, v=value, f=file)
    run = Work(1)
    found = run.query(item, query)
    wanted = run.values[found]
    check = [{"answer": {"equals": wanted if len(wanted) > 1 else wanted[0]}}]
    goal = Goal.model_validate({"goal": text, "files": sheet_files(item), "check": check})
    steps = plan(("tables.query", str(query["select"][0])))
    return Task("Chinese", goal, [steps, *run.calls, finish(found)])


_FIELDS = ("门票", "开放时间", "电话", "地址", "建议游玩时间")


def _sights() -> list[dict[str, str]]:
    found = []
    for record in read_records("kdconv_travel_facts_zh"):
        facts = {key: value for key, value in record["facts"] if key in _FIELDS and len(value) < 60}
        if len(facts) >= 3 and is_train("kdconv", record["name"]):
            found.append({"名称": record["name"], **facts})
    return found


_FIELD_ASKED = {
    "门票": ("{n}的门票多少钱？", "去{n}要买票吗？门票是多少？", "{n}门票"),
    "开放时间": ("{n}几点开门？", "{n}的开放时间是什么？", "{n}什么时候开放？"),
    "电话": ("{n}的电话是多少？", "怎么打电话给{n}？", "{n}的联系电话"),
    "地址": ("{n}在哪里？", "{n}的地址是什么？", "{n}怎么找？地址是？"),
    "建议游玩时间": ("{n}一般要玩多久？", "{n}的建议游玩时间是多长？"),
}


def _over_sights(sights: Sequence[dict[str, str]], rng: random.Random) -> Task:
    chosen = rng.sample(sights, min(len(sights), rng.randint(4, 9)))
    one = chosen[0]
    wanted = rng.choice([key for key in one if key != "名称"])
    text = rng.choice(_FIELD_ASKED[wanted]).format(n=one["名称"])
    rng.shuffle(chosen)
    if rng.random() < 0.3:
        note = "\n".join(f"{key}：{value}" for key, value in one.items()) + "\n"
        name = rng.choice(("景点.txt", "sight.txt", "note.md"))
        data = {"goal": text, "files": {name: note}, "check": [{"answer": {"equals": one[wanted]}}]}
        calls = [plan(("files.read", wanted)), call("files.read", path=name)]
        return Task("Chinese", Goal.model_validate(data), [*calls, finish(one[wanted])])
    header = ["名称", *(key for key in _FIELDS if any(key in sight for sight in chosen))]
    rows = [[sight.get(key) for key in header] for sight in chosen]
    table = {"header": header, "types": ["text"] * len(header), "rows": rows}
    name = rng.choice(("sights", "travel", "places"))
    data = {"goal": text, "files": {f"{name}.csv": table_csv(table)},
            "check": [{"answer": {"equals": one[wanted]}}]}  # fmt: skip
    goal = Goal.model_validate(data)
    query = call("tables.query", table=simple_name(name), select=[wanted],
                 where=[["名称", "=", one["名称"]]])  # fmt: skip
    found = f"${handles_before(goal) + 1}"
    return Task("Chinese", goal, [plan(("tables.query", wanted)), query, finish(found)])
