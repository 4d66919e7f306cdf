"""Goals: what loads, what is refused, and whether every mistake is named with file, line and field."""

from __future__ import annotations

import gzip
import io
import json
from pathlib import Path

import pytest
import zstandard
from pydantic import ValidationError

from autogpt.agent.goals.load import Goal, Grants, load_conversations, load_goals, validate
from autogpt.errors import UsageError


def write(folder: Path, name: str, text: str) -> Path:
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")
    return path


def problems(path: Path, tools: list[str] | None = None) -> list[tuple[int, str, str, str]]:
    return [(p.line, p.field, p.message, p.suggestion) for p in validate(path, tools)]


def test_full_goal_file_loads_with_everything(tmp_path: Path) -> None:
    write(tmp_path, "data/d.csv", "a,b\n1,2\n")
    path = write(
        tmp_path,
        "g.yaml",
        """
goal: "Which {{ what }} had most? Write it to late.txt."
id: late
inputs: [data/d.csv]
files: {notes.txt: "hello"}
tools: [tables, ping]
params: {what: supplier}
grants: {read: [.], write: [late.txt]}
limits: {steps: 5}
stubs: [{name: ping, description: d, parameters: {type: object}, returns: NO}]
on_approval: park
check:
  - answer: {number: 3.5, tolerance: 0.1}
  - calls: [{name: ping, arguments: {x: [1, null]}}]
  - file: {path: late.txt, json: [1, 2]}
  - sql: {path: out.db, query: select 1, equals: [[1]]}
  - text: {reference: [abc], metric: f1, at_least: 0.2}
  - shell: {command: ls -l}
""",
    )
    (goal,) = load_goals(path, ["tables", "files"])
    assert goal.text() == "Which supplier had most? Write it to late.txt."
    assert goal.limits.steps == 5 and goal.limits.tokens == 20_000 and goal.on_approval == "park"
    assert goal.stubs[0].returns == "NO"  # not YAML's false
    assert goal.base == tmp_path and goal.origin.startswith(str(path))
    dumped = json.loads(json.dumps(goal.model_dump(mode="json")))
    assert Goal.model_validate(dumped).model_dump(mode="json") == dumped
    workspace = tmp_path / "w"
    workspace.mkdir()
    goal.fill_workspace(workspace)
    assert (workspace / "d.csv").read_text() == "a,b\n1,2\n"
    assert (workspace / "notes.txt").read_text() == "hello"


def test_every_mistake_is_named_with_line_field_and_nearest_name(tmp_path: Path) -> None:
    path = write(
        tmp_path,
        "bad.yaml",
        """goal: "  "
limit: {steps: 3}
limits:
  step: 3
  tokens: many
grants:
  write:
    - ok.txt
    - ../x
    - /etc/passwd
check:
  - anwser: {equals: 3}
  - answer: {equal: 3}
  - answer: {equals: 3, number: 4}
  - file: {path: a.txt}
  - file: {path: a.txt, matches: "("}
  - nothing
  - answer: {value: 3}
  - file: {path: a.txt, exists: 2.5}
  - calls: [{name: a, args: {}}, {nom: b}]
""",
    )
    found = {(line, field): (message, near) for line, field, message, near in problems(path)}
    assert found[(1, "goal")][0].startswith("the goal is empty")
    assert found[(2, "limit")] == ("unknown field `limit`", "limits")
    assert found[(4, "limits.step")] == ("unknown field `step`", "steps")
    assert "integer" in found[(5, "limits.tokens")][0]
    assert "`..`" in found[(9, "grants.write[1]")][0]
    assert "absolute" in found[(10, "grants.write[2]")][0]
    assert found[(12, "check[0].anwser")] == ("unknown check `anwser`", "answer")
    assert found[(13, "check[1].answer.equal")] == ("unknown field `equal`", "equals")
    assert "exactly one of" in found[(14, "check[2].answer")][0]
    assert "at least one of" in found[(15, "check[3].file")][0]
    assert "regular expression" in found[(16, "check[4].file.matches")][0]
    assert "one `kind: ...` pair" in found[(17, "check[5]")][0]
    unknown, fields = found[(18, "check[6].answer.value")]
    assert unknown.startswith("unknown field `value` (there are equals, number, one_of, ") and not fields
    assert "valid boolean" in found[(19, "check[7].file.exists")][0]
    assert found[(20, "check[8].calls[0].args")] == ("unknown field `args`", "arguments")
    assert found[(20, "check[8].calls[1].name")][0] == "is missing"
    with pytest.raises(UsageError, match=r"bad\.yaml:\d+: .*more: `autogpt validate`"):
        load_goals(path)


@pytest.mark.parametrize(
    ("pattern", "covered"), [("*", True), ("**", True), ("*.json", True), ("*.txt", False)]
)
def test_a_goal_may_not_be_granted_to_write_its_own_checks(
    pattern: str, covered: bool, tmp_path: Path
) -> None:
    record = {
        "goal": "Write.",
        "grants": {"write": [pattern]},
        "check": [{"file": {"path": "a", "exists": True}}],
    }
    found = problems(write(tmp_path, "g.json", json.dumps(record)))
    assert [(field, "the goal file itself" in message) for _, field, message, _ in found] == (
        [("grants.write[0]", True)] if covered else []
    )
    assert problems(write(tmp_path, "h.json", json.dumps({**record, "check": []}))) == []


def test_mistakes_that_need_the_disk_or_the_tools(tmp_path: Path) -> None:
    write(tmp_path, "deliveries.csv", "a\n")
    (tmp_path / "way_out").symlink_to(tmp_path.parent)
    path = write(
        tmp_path,
        "g.json",
        json.dumps(
            {
                "goal": "What is {{ x }}?",
                "inputs": ["delivery.csv"],
                "tools": ["tabels", "mine"],
                "stubs": [{"name": "mine"}],
                "grants": {"write": ["way_out/x.txt"]},
                "check": [{"command": {"run": "ls"}}],
            },
            indent=1,
        ),
    )
    found = {
        field: (line, message, near) for line, field, message, near in problems(path, ["tables", "files"])
    }
    assert found["goal"][1] == "uses {{ x }} but `params` is empty"
    assert found["inputs[0]"][0] == 4 and found["inputs[0]"][2] == "deliveries.csv"
    assert found["tools[0]"][1:] == ("unknown tool `tabels`", "tables")
    assert "tools[1]" not in found
    assert "symbolic link" in found["grants.write[0]"][1]
    assert "needs the sandbox" in found["check[0].command"][1]
    assert len(found) == 5


@pytest.mark.parametrize(
    ("text", "line", "part"),
    [
        ('goal: "What\ninputs: [a\n', 3, "malformed YAML"),
        ("goal: a\n  b: c\n", 2, "malformed YAML"),
        ("goal: a\ngoal: b\n", 2, "is given twice"),
        ("- 3\n", 1, "must be a mapping"),
        ("- goal: a\n  id: x\n- goal: b\n  id: x\n", 4, "also names line 1"),
        ("goal: 'a {{ y }}'\nparams: {z: 1}\n", 1, "'y' is undefined"),
        ("goal: a\ninputs: &x [*x]\n", 2, "recursive"),
        ("", 0, "holds no goal"),
    ],
)
def test_malformed_files_name_the_line(tmp_path: Path, text: str, line: int, part: str) -> None:
    (problem,) = validate(write(tmp_path, "g.yaml", text))
    assert problem.line == line and part in problem.message
    with pytest.raises(UsageError):
        load_goals(tmp_path / "g.yaml")


def test_binary_and_broken_files_are_one_clear_line(tmp_path: Path) -> None:
    (tmp_path / "g.yaml").write_bytes(b"\xff\x00\x81")
    (tmp_path / "s.jsonl.gz").write_bytes(b"no gzip")
    (tmp_path / "s.jsonl.zst").write_bytes(b"no zstd")
    (tmp_path / "table.csv").write_text("a,b\n")
    for name, part in (("g.yaml", "not UTF-8 text"), ("s.jsonl.gz", ".gz"), ("s.jsonl.zst", ".zst")):
        with pytest.raises(UsageError, match=part):
            load_goals(tmp_path / name)
    with pytest.raises(UsageError, match="is it an input"):
        load_goals(tmp_path / "table.csv")
    with pytest.raises(UsageError, match="no such goal file"):
        load_goals("nowhere/at-all.yaml")


def test_suites_load_plain_packed_and_by_their_plain_name(tmp_path: Path) -> None:
    lines = "".join(json.dumps({"goal": f"goal {i}", "id": f"g{i}"}) + "\n" for i in range(3)).encode()
    (tmp_path / "a.jsonl").write_bytes(lines)
    (tmp_path / "b.jsonl.gz").write_bytes(gzip.compress(lines))
    packed = io.BytesIO()
    with zstandard.ZstdCompressor().stream_writer(packed, closefd=False) as stream:
        stream.write(lines)
    (tmp_path / "c.jsonl.zst").write_bytes(packed.getvalue())
    for name in ("a.jsonl", "b.jsonl.gz", "c.jsonl.zst", "b.jsonl", "c.jsonl"):
        assert [goal.id for goal in load_goals(tmp_path / name)] == ["g0", "g1", "g2"], name
    (tmp_path / "d.jsonl").write_bytes(lines + b'{"goal": "x", "chek": []}\n{"goal"\n')
    assert [(line, near) for line, _, _, near in problems(tmp_path / "d.jsonl")] == [(4, "check"), (5, "")]


def test_a_json_file_that_a_goal_of_the_folder_reads_is_not_a_goal(tmp_path: Path) -> None:
    write(tmp_path, "rooms.json", '[{"room": "Elbe", "seats": 8}]')
    write(tmp_path, "seats.yaml", "goal: How many seats has Elbe?\ninputs: [rooms.json]\n")
    assert [goal.goal for goal in load_goals(tmp_path)] == ["How many seats has Elbe?"]
    write(tmp_path, "more.json", '[{"room": "Oder", "seats": 4}]')
    with pytest.raises(UsageError, match=r"more.json:1: goal: is missing"):
        load_goals(tmp_path)


def test_folders_text_and_stdin(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(tmp_path, "b.yaml", "goal: second\n")
    write(tmp_path, "a.json", '{"goal": "first"}')
    write(tmp_path, "data/x.yaml", "goal: not this\n")
    assert [goal.goal for goal in load_goals(tmp_path)] == ["first", "second"]
    (goal,) = load_goals("Who has 12:30 in {{ braces }}?")
    assert goal.text() == "Who has 12:30 in {{ braces }}?" and goal.id.startswith("who-has-12-30")
    monkeypatch.setattr("sys.stdin", io.StringIO("Just words: how many?\n"))
    assert load_goals("-")[0].goal == "Just words: how many?"
    monkeypatch.setattr("sys.stdin", io.StringIO("goal: from yaml\nlimits: {steps: 2}\n"))
    assert load_goals("-")[0].limits.steps == 2
    assert load_goals("What is in data/a.json")[0].goal.endswith("a.json")
    for empty in ("", "  \n"):
        with pytest.raises(UsageError, match="empty"):
            load_goals(empty)


def test_two_inputs_with_one_name_and_missing_inputs(tmp_path: Path) -> None:
    for folder in ("a", "b", "w"):
        (tmp_path / folder).mkdir()
    for folder in ("a", "b"):
        write(tmp_path, f"{folder}/x.csv", "1\n")
    goal = Goal(goal="g", inputs=[str(tmp_path / "a/x.csv"), str(tmp_path / "b/x.csv")])
    with pytest.raises(UsageError, match=r"two inputs are named x\.csv"):
        goal.fill_workspace(tmp_path / "w")
    with pytest.raises(UsageError, match=r"no such file: nope\.csv"):
        Goal(goal="g", inputs=["nope.csv"]).input_paths()


def test_ids_stay_what_they_were(tmp_path: Path) -> None:
    """Ids name goals in databases and in learned splits, so a change of a model must not move them."""
    checks: list[dict[str, object]] = [
        {"answer": {"number": 3.5, "tolerance": 0.1}},
        {"calls": [{"name": "ping", "arguments": {"x": [1, None]}}]},
        {"file": {"path": "late.txt", "json": [1, 2]}},
        {"sql": {"path": "out.db", "query": "select 1", "equals": [[1]]}},
        {"command": {"run": "ls"}},
        {"text": {"reference": ["abc"]}},
        {"shell": {"command": "ls -l"}},
    ]
    others = [
        {"answer": {"items": ["a", 1, True]}},
        {"file": {"path": "a", "contains": ["x"], "exists": True}},
        {"answer": {"one_of": ["a", 2]}},
        {"answer": {"matches": "x"}},
        {"calls": []},
    ]
    grants = {"read": ["."], "write": ["late.txt"]}
    rows = [
        {"goal": "Same"},
        {"goal": "Which {{ what }}?", "params": {"what": "supplier"}, "inputs": ["d.csv"]}
        | {"grants": grants, "limits": {"steps": 5}},
        {"goal": "All", "check": checks},
        {"goal": "Mem", "remembered": ["a"], "earlier": ["b"], "limits": {"chance": 0.2}}
        | {"stubs": [{"name": "ping"}], "files": {"a.txt": "x"}},
        {"goal": "Items", "check": others},
    ]
    assert [Goal.model_validate(row).id for row in rows] == [
        "same-962daa",
        "which-supplier-447876",
        "all-1a5137",
        "mem-3497fb",
        "items-3c0309",
    ]


@pytest.mark.parametrize(
    ("text", "field", "said"),
    [
        ("goal: What is issue #5 about?\n", "goal", "`#5 about?`"),
        ("goal: a\nid: late #x\n", "id", "`#x`"),
        ("goal: a\ncheck:\n  - answer: {equals: No #1\n  }\n", "check[0].answer.equals", "`#1`"),
        ("goal: 'issue #5'  # quoted\nlimits: {steps: 5} #five\nid: a#b # said\n", "", ""),
        ("goal: |\n  issue #5\n", "", ""),
    ],
)
def test_a_text_that_yaml_cuts_at_a_number_sign_is_a_mistake(
    tmp_path: Path, text: str, field: str, said: str
) -> None:
    found = validate(write(tmp_path, "g.yaml", text))
    assert [problem.field for problem in found] == ([field] if field else [])
    line = text[: text.index(said.strip("`"))].count("\n") + 1
    for problem in found:
        assert said in problem.message and "quote the text" in problem.message and problem.line == line


def test_a_comment_after_a_goal_is_a_warning_that_names_the_line(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = write(tmp_path, "g.yaml", "id: x\ngoal: Which page ranks # 1 today?\n")
    assert load_goals(path)[0].goal == "Which page ranks"
    assert f"{path}:2: goal: YAML leaves out `# 1 today?`" in caplog.text


def test_a_linked_input_keeps_the_name_that_it_was_given(tmp_path: Path) -> None:
    write(tmp_path, "sales-2024.csv", "a\n1\n")
    (tmp_path / "latest.csv").symlink_to("sales-2024.csv")
    (tmp_path / "gone.csv").symlink_to("nowhere.csv")
    (tmp_path / "w").mkdir()
    Goal(goal="g", inputs=["latest.csv"]).at(tmp_path).fill_workspace(tmp_path / "w")
    assert (tmp_path / "w/latest.csv").read_text() == "a\n1\n"
    assert not (tmp_path / "w/latest.csv").is_symlink()
    with pytest.raises(UsageError, match=r"gone\.csv is a link to nothing \(to nowhere\.csv\)"):
        Goal(goal="g", inputs=["gone.csv"]).at(tmp_path).input_paths()


def test_an_input_folder_is_copied_once_however_its_links_run(tmp_path: Path) -> None:
    write(tmp_path, "data/real/a.csv", "a\n")
    write(tmp_path, "elsewhere/b.csv", "b\n")
    data = tmp_path / "data"
    (data / "all").symlink_to("../data")
    (data / "aaa").symlink_to("real")
    (data / "self").symlink_to(".")
    (data / "more").symlink_to("../elsewhere")
    (tmp_path / "elsewhere/back").symlink_to("../data/real")
    (data / "one.csv").symlink_to("real/a.csv")
    (tmp_path / "w").mkdir()
    Goal(goal="g", inputs=["data"]).at(tmp_path).fill_workspace(tmp_path / "w")
    copied = sorted(path.relative_to(tmp_path / "w").as_posix() for path in (tmp_path / "w").rglob("*.csv"))
    assert copied == ["data/more/b.csv", "data/one.csv", "data/real/a.csv"]


def test_what_cannot_be_copied_of_a_folder_is_said_before_a_run_is_opened(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    goal = Goal(goal="g", inputs=["data"]).at(tmp_path)
    write(tmp_path, "data/sub/a.csv", "a\n")
    write(tmp_path, "data/sub/b.csv", "a\n")
    goal.input_paths()
    monkeypatch.setattr("autogpt.agent.goals.inputs.MAX_FILES", 1)
    with pytest.raises(UsageError, match=r"data: more than 1 files or 10 GB to copy; name the files"):
        goal.input_paths()
    (tmp_path / "data/sub/a.csv").unlink()
    (tmp_path / "data/sub/a.csv").symlink_to("a.csv")
    with pytest.raises(UsageError, match=r"sub/a\.csv: a link to nothing; remove it"):
        goal.input_paths()


def test_ids_differ_by_content_and_paths_stay_inside() -> None:
    assert Goal(goal="Same").id == Goal(goal="Same").id != Goal(goal="Same", inputs=["a"]).id
    for path in ("../x", "/etc/passwd", "a/../../b", "~/x", "C:\\x", ""):
        with pytest.raises(ValidationError):
            Grants(write=[path])
        with pytest.raises(ValidationError):
            Goal(goal="g", files={path: "text"})


def test_conversations(tmp_path: Path) -> None:
    good = {
        "id": "c1",
        "files": {"a.txt": "x"},
        "turns": [{"say": "hi", "check": [{"answer": {"matches": "x"}}]}],
    }
    path = write(tmp_path, "c.jsonl", json.dumps(good) + "\n")
    (session,) = load_conversations(path)
    assert session.turns[0].say == "hi" and len(session.turns[0].check) == 1
    write(tmp_path, "c.jsonl", json.dumps({"id": "c2", "turns": [{"says": "hi"}]}))
    with pytest.raises(UsageError, match=r"c\.jsonl:1: turns\[0\]\.say"):
        load_conversations(path)
