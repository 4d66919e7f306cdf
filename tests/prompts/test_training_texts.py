"""What the model reads is training data: not a byte of it may change unnoticed.

The digests below were computed before the rebuild of the rooms. A change here is a decision: the shipped
models were trained on the old texts, so they must be evaluated again (and perhaps trained again) first.
"""

from __future__ import annotations

import hashlib
import shutil
from pathlib import Path

from support.paths import ROOT

from autogpt import prompts
from autogpt.agent.goals.load import Goal
from autogpt.agent.run.rollout import Rollout
from autogpt.llm.message import ToolCall
from autogpt.llm.models.scripted import ScriptedModel
from autogpt.tools.registry import builtins

TEXTS = "3289038f951c8ccc"
CHAT_TEMPLATE = "99b47e1c9f8211ee"
CONVERSATIONS = "95c5ed00489bb1d0"

SCRIPT = [
    ToolCall("plan", {"steps": [
        {"tool": "tables.query", "for": "late deliveries by supplier"},
        {"tool": "calculator", "for": "share"},
        {"tool": "files.write", "for": "write"},
        {"tool": "files.read", "for": "read"},
        {"tool": "files.search", "for": "search"},
        {"tool": "files.move", "for": "rename"},
    ]}),
    ToolCall("tables.query", {"table": "deliveries", "select": ["supplier", "count(*)"],
                              "where": [["days_late", ">", 0]],
                              "group_by": "supplier", "order_by": "count(*) desc", "limit": 3}),
    ToolCall("tables.query", {"table": "orders", "select": ["client", "amount"], "limit": 2}),
    ToolCall("tables.query", {"table": "clients", "select": ["town"], "where": [["nothing", "=", 1]]}),
    ToolCall("calculator", {"expression": "12% of 250"}),
    ToolCall("calculator", {"expression": "1/3 + 1/6"}),
    ToolCall("files.write", {"path": "note.txt", "content": "$2"}),
    ToolCall("files.read", {"path": "note.txt"}),
    ToolCall("files.search", {"text": "boiler"}),
    ToolCall("files.list", {}),
    ToolCall("files.move", {"source": "note.txt", "target": "memo.txt"}),
    ToolCall("files.read", {"path": "gone.txt"}),
    ToolCall("finish", {"answer": "$2"}),
]  # fmt: skip


def digest(*texts: str) -> str:
    return hashlib.sha256("\0".join(texts).encode()).hexdigest()[:16]


def lines() -> list[prompts.ToolLine]:
    tools = builtins().select(None)
    return [prompts.ToolLine(name, tool.parameters, tool.description) for name, tool in tools.items()]


def test_templates_and_tool_lines_are_those_that_models_were_trained_on() -> None:
    assert prompts.texts_hash(lines()) == TEXTS
    assert digest((ROOT / "prompts" / "chat_template.jinja").read_text(encoding="utf-8")) == CHAT_TEMPLATE


def test_a_run_shows_the_model_what_it_showed_before(tmp_path: Path) -> None:
    """Inspection, previews, errors and transcript of one scripted run over ordinary files."""
    names = ["deliveries.csv", "orders.csv", "clients.csv", "monday.txt", "friday.txt"]
    for name in names:
        shutil.copy(ROOT / "examples" / "data" / name, tmp_path)
    model = ScriptedModel(SCRIPT, check=False)
    goal = Goal(goal="Which supplier is late most often? Write it down.", inputs=names).at(tmp_path)
    Rollout(model, builtins(), plan=True).run([goal])
    assert len(model.prompts) == len(SCRIPT)
    last = model.prompts[-1].messages
    assert digest(*(f"{message.role}:{message.content}" for message in last)) == CONVERSATIONS
