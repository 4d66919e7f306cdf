"""The command line as its users meet it: outcomes, exit codes, one clear line for every mistake."""

from __future__ import annotations

import io
import json
import os
import pty
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import pytest
from support.scripts import script

from autogpt.cli.parser import main
from autogpt.llm.registry import default_model

CSV = "supplier,days,status\nNordfracht,5,late\nEilbote,0,on time\nNordfracht,2,late\nBlitz,1,late\n"
QUERY = {
    "table": "deliveries",
    "select": ["supplier", "count(*)"],
    "where": [["status", "=", "late"]],
    "group_by": "supplier",
    "order_by": "count(*) desc",
    "limit": 1,
}
PLAN = {"name": "plan", "arguments": {"steps": [{"tool": "tables.query", "for": "late deliveries"}]}}
CALL = {"name": "tables.query", "arguments": QUERY}
FINISH = {"name": "finish", "arguments": {"answer": "Nordfracht"}}
GOAL = "Which supplier had the most late deliveries?"


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with a table and the script of a model that answers about it."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "deliveries.csv").write_text(CSV)
    script(tmp_path / "s.yaml", PLAN, CALL, FINISH)
    return tmp_path


def last_run(capsys: pytest.CaptureFixture[str]) -> dict[str, object]:
    capsys.readouterr()
    assert main(["runs", "list", "--json", "--limit", "1"]) == 0
    found: dict[str, object] = json.loads(capsys.readouterr().out)
    return found


def test_a_text_goal_shows_plan_calls_and_answer(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["run", GOAL, "deliveries.csv", "--model", "scripted:s.yaml"]) == 0
    out = capsys.readouterr().out
    kinds = [line.split()[0] for line in out.splitlines()]
    assert kinds == ["run", "goal", "input", "plan", "call", "answer", "answered,"]
    assert "\nanswered, not checked (" in out
    assert "Nordfracht, 2" in out


def test_json_is_one_object_with_every_field(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["run", GOAL, "deliveries.csv", "--model", "scripted:s.yaml", "--json"]) == 0
    result = json.loads(capsys.readouterr().out)
    want = {"id", "run", "status", "answer", "reward", "checks", "steps", "tool_calls", "invalid_calls"}
    want |= {"tokens", "seconds", "model", "journal"}
    assert want <= result.keys()
    assert (result["status"], result["answer"], result["tool_calls"]) == ("answered", "Nordfracht", 1)
    assert result["checked"] is False


@pytest.mark.parametrize(("answer", "code"), [("Nordfracht", 0), ("Blitz", 3)])
def test_checks_decide_the_exit_code(here: Path, answer: str, code: int) -> None:
    goal = {"goal": GOAL, "inputs": ["deliveries.csv"], "check": [{"answer": {"equals": answer}}]}
    (here / "goal.json").write_text(json.dumps(goal))
    assert main(["run", "goal.json", "--model", "scripted:s.yaml"]) == code


def test_a_limit_is_exit_code_4(here: Path) -> None:
    goal = {"goal": GOAL, "inputs": ["deliveries.csv"], "limits": {"steps": 2}}
    (here / "goal.json").write_text(json.dumps(goal))
    assert main(["run", "goal.json", "--model", "scripted:s.yaml"]) == 4


def test_a_question_unattended_is_exit_code_5(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    model = script(here / "ask.json", {"name": "ask", "arguments": {"question": "Which month?"}})
    assert main(["run", GOAL, "--model", model]) == 5
    assert "Which month?" in capsys.readouterr().out


def test_several_goals_give_a_table_and_the_largest_code(
    here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = here / "goals"
    folder.mkdir()
    for name, answer in (("a", "Nordfracht"), ("b", "Blitz")):
        goal = {
            "goal": GOAL,
            "id": name,
            "inputs": ["../deliveries.csv"],
            "check": [{"answer": {"equals": answer}}],
        }
        (folder / f"{name}.yaml").write_text(json.dumps(goal))
    assert main(["run", "goals", "--parallel", "2", "--model", "scripted:s.yaml"]) == 3
    out = capsys.readouterr().out
    assert "1 of 2 achieved" in out
    assert [line.split("\t")[0] for line in out.splitlines() if "\t" in line] == [
        "outcome",
        "achieved",
        "not met",
    ]


def test_write_delivers_a_file_here(here: Path) -> None:
    model = script(
        here / "w.json",
        {"name": "plan", "arguments": {"steps": [{"tool": "files.write", "for": "the note"}]}},
        {"name": "files.write", "arguments": {"path": "late.txt", "content": "Nordfracht"}},
        {"name": "finish", "arguments": {"answer": "done"}},
    )
    assert main(["run", "note it", "--write", "late.txt", "--model", model]) == 0
    assert (here / "late.txt").read_text() == "Nordfracht"
    (here / "late.txt").unlink()
    assert main(["run", "note it", "--model", model]) == 0
    assert not (here / "late.txt").exists(), "without a grant the file stays in the run's workspace"


def test_a_file_that_was_to_be_written_and_is_not_is_exit_code_3(
    here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model = script(here / "w.json", {"name": "finish", "arguments": {"answer": "Wrote late.txt"}})
    assert main(["run", "note it", "--write", "late.txt", "--model", model]) == 3
    assert "\nnot met: late.txt was not written (" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("argv", "says"),
    [
        (["run", ""], "the goal is empty"),
        (["run", "goal.yaml"], "no such file"),
        (["run", "hi", "missing.csv"], "missing.csv"),
        (["run", "missing.csv"], "no such file"),
        (["run", "goals/"], "no such file"),
        (["run", "hi", "--write", "../x"], "write"),
        (["run", "hi", "--write", "/etc/x"], "write"),
        (["run", "hi", "--workspace", "nowhere"], "nowhere"),
        (["run", "hi", "--model", "scripted:nowhere.yaml"], "nowhere.yaml"),
        (["run", "hi", "--model", "smal"], "did you mean small"),
        (["run", "hi"], "autogpt model fetch"),
        (["run", "hi", "--model", "/nowhere"], "/nowhere"),
        (["run", "hi", "--parallel", "0"], "parallel"),
        (["resume"], "no interrupted run"),
        (["resume", "abc"], "no runs yet"),
        (["runs", "show"], "no runs yet"),
        (["validate", "missing.yaml"], "missing.yaml"),
        (["model", "use", "nonesuch"], "nonesuch"),
        (["train", "missing.yaml"], "missing.yaml"),
        (["eval", "missing.jsonl"], "missing.jsonl"),
        (["chat", "missing.csv", "--model", "scripted:s.yaml"], "missing.csv"),
    ],
)
def test_mistakes_are_one_line_and_exit_code_2(
    argv: list[str], says: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(argv) == 2
    captured = capsys.readouterr()
    assert says in captured.err
    assert len(captured.err.splitlines()) == 1
    assert "Traceback" not in captured.err


def test_debug_shows_the_traceback(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AUTOGPT_DEBUG", "1")
    with pytest.raises(Exception, match="the goal is empty"):
        main(["run", ""])


def test_validate_names_file_line_and_nearest_name(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (here / "bad.yaml").write_text("goal: count\ninputs: [deliveries.csv]\ntools: [table]\nchek: []\n")
    assert main(["validate", "bad.yaml"]) == 2
    err = capsys.readouterr().err
    assert "bad.yaml:4" in err
    assert "check" in err
    (here / "good.yaml").write_text("goal: count\ninputs: [deliveries.csv]\ntools: [tables]\n")
    assert main(["validate", "good.yaml"]) == 0


def test_runs_show_replay_and_export_read_the_record(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    main(["run", GOAL, "deliveries.csv", "--model", "scripted:s.yaml"])
    live = capsys.readouterr().out
    assert main(["runs", "show"]) == 0
    assert capsys.readouterr().out == live, "a recorded run looks as it did live"
    assert main(["runs", "replay"]) == 0
    assert "all the same" in capsys.readouterr().out
    assert main(["runs", "export", "--out", "run.jsonl"]) == 0
    events = [json.loads(line) for line in (here / "run.jsonl").read_text().splitlines()]
    assert [events[0]["type"], events[-1]["type"]] == ["run.started", "run.ended"]


def test_a_parked_run_waits_for_approval_and_goes_on(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    model = script(
        here / "w.json",
        {"name": "plan", "arguments": {"steps": [{"tool": "files.write", "for": "the note"}]}},
        {"name": "files.write", "arguments": {"path": "other.txt", "content": "x"}},
        {"name": "finish", "arguments": {"answer": "done"}},
    )
    goal = {"goal": "note it", "on_approval": "park", "grants": {"read": ["."], "write": ["late.txt"]}}
    (here / "goal.json").write_text(json.dumps(goal))
    assert main(["run", "goal.json", "--model", model]) == 5
    run = str(last_run(capsys)["run"])
    # A script starts from its beginning in a new process; this one continues where the run stopped.
    later = script(here / "later.json", {"name": "finish", "arguments": {"answer": "done"}})
    assert main(["approve", run, "perhaps", "--model", later]) == 2
    assert main(["approve", run, "--model", later]) == 3
    assert last_run(capsys)["status"] == "not_met", "late.txt was asked for, other.txt was written"
    assert main(["approve", run, "perhaps", "--model", later]) == 2
    assert f"run {run} has ended and waits for no answer" in capsys.readouterr().err


def test_bytes_that_are_no_text_do_not_end_a_piped_conversation(
    here: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    model = script(here / "hi.json", {"name": "finish", "arguments": {"answer": "hi"}})
    monkeypatch.setattr(sys, "stdin", io.StringIO("hello \udcff\n"))
    assert main(["chat", "--model", model]) == 0
    assert "said    hello ?" in capsys.readouterr().out


def test_a_conversation_can_be_piped_in_and_resumed(
    here: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    count = {"table": "deliveries", "select": ["count(*)"]}
    turns = [
        PLAN,
        {"name": "tables.query", "arguments": count},
        {"name": "finish", "arguments": {"answer": "$2"}},
    ]
    model = script(here / "c.json", *turns)
    monkeypatch.setattr(
        sys, "stdin", io.StringIO("How many deliveries?\n/good\n/plan\n/nonsense\n/exit\nnever\n")
    )
    assert main(["chat", "deliveries.csv", "--model", model]) == 0
    captured = capsys.readouterr()
    assert "answer  4" in captured.out
    assert "late deliveries (done)" in captured.out
    assert "no command /nonsense" in captured.out
    assert "never" not in captured.out
    run = captured.err.split()[-1]
    model = script(here / "d.json", {"name": "finish", "arguments": {"answer": "You are welcome!"}})
    monkeypatch.setattr(sys, "stdin", io.StringIO("thanks\n"))
    assert main(["resume", run, "--model", model]) == 0
    assert "answer  You are welcome!" in capsys.readouterr().out
    main(["runs", "export", run])
    ratings = [json.loads(line) for line in capsys.readouterr().out.splitlines() if '"rating"' in line]
    assert [rating["value"] for rating in ratings] == [1.0]


def test_eval_reports_and_writes_every_row(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    goals = [
        {
            "goal": f"{GOAL} {n}",
            "inputs": ["deliveries.csv"],
            "category": kind,
            "check": [{"answer": {"equals": a}}],
        }
        for n, kind, a in ((1, "easy", "Nordfracht"), (2, "hard", "Blitz"), (3, "hard", "Blitz"))
    ]
    (here / "suite.jsonl").write_text("".join(json.dumps(goal) + "\n" for goal in goals))
    argv = ["eval", "suite.jsonl", "--limit", "2", "--model", "scripted:s.yaml", "--json", "out.json"]
    assert main(argv) == 0
    report = json.loads((here / "out.json").read_text())
    assert (report["n"], report["passed"], report["pass_rate"]) == (2, 1, 0.5)
    assert [row["status"] for row in report["rows"]] == ["achieved", "not_met"]
    assert report["by_category"]["hard"]["pass_rate"] == 0.0
    assert "all\t2\t50.0%" in capsys.readouterr().out


def test_eval_holds_conversations(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    turns = [{"say": "hello", "check": [{"answer": {"equals": "Hi!"}}]}, {"say": "bye", "check": []}]
    session = {"id": "s1", "files": {"a.txt": "x"}, "turns": turns}
    (here / "sessions.jsonl").write_text(json.dumps(session))
    model = script(
        here / "c.json", *({"name": "finish", "arguments": {"answer": text}} for text in ("Hi!", "Bye!"))
    )
    assert main(["eval", "sessions.jsonl", "--model", model]) == 0
    out = capsys.readouterr().out
    assert "turn 1\t1\t100.0%" in out
    assert "turn 2\t1\t0.0%" in out and "1 answered, not checked" in out, "a message without checks"


def test_tools_and_models_are_listed(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["tools", "list", "--json"]) == 0
    names = [json.loads(line)["name"] for line in capsys.readouterr().out.splitlines()]
    assert {"tables.query", "files.write", "calculator"} <= set(names)
    assert main(["model", "list", "--json"]) == 0
    models = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [model["reference"] for model in models if model["in_use"]] == [default_model().name]


def test_prompts_show_renders_the_goal(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["prompts", "show", GOAL, "deliveries.csv"]) == 0
    out = capsys.readouterr().out
    assert f"Goal: {GOAL}" in out
    assert "--- call plan" in out


def test_doctor_says_what_is_missing(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["doctor", "--json"]) == 1
    findings = {finding["what"]: finding for finding in json.loads(capsys.readouterr().out)}
    assert not findings["model"]["fine"]
    assert "autogpt model fetch" in findings["model"]["detail"]
    assert findings["database"]["fine"]


def test_doctor_describes_the_gpu_that_would_be_used(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    import torch

    about = SimpleNamespace(name="Some GPU", total_memory=80e9, major=9, minor=0)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation: True)
    monkeypatch.setattr(torch.cuda, "get_device_properties", {"cuda": about}.__getitem__)
    main(["doctor", "--json"])
    found = {finding["what"]: finding for finding in json.loads(capsys.readouterr().out)}["device"]
    assert found["detail"].startswith("cuda in bfloat16, ")
    assert found["detail"].endswith("; Some GPU, 80 GB, compute capability 9.0")


def test_help_names_every_command(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stop:
        main(["--help"])
    assert stop.value.code == 0
    out = capsys.readouterr().out
    first = ["run", "chat", "resume", "approve", "runs", "model", "train", "eval", "tools", "validate"]
    commands = [*first, "doctor", "prompts", "version"]
    assert all(f"\n    {command} " in out for command in commands)


def test_a_terminal_of_40_columns_shows_the_tree_and_nothing_breaks(here: Path) -> None:
    """On a real pseudo-terminal: every line fits, the plan step is ticked off, the answer stands."""
    leader, follower = pty.openpty()
    command = [sys.executable, "-m", "autogpt", "run", GOAL, "deliveries.csv", "--model", "scripted:s.yaml"]
    env = {**os.environ, "COLUMNS": "40", "LINES": "20", "TERM": "xterm", "NO_COLOR": "1"}
    process = subprocess.Popen(command, stdin=follower, stdout=follower, stderr=follower, env=env, cwd=here)
    os.close(follower)
    seen = b""
    while True:
        try:
            piece = os.read(leader, 65536)
        except OSError:
            break
        if not piece:
            break
        seen += piece
    os.close(leader)
    assert process.wait(30) == 0
    final = seen.decode().rpartition("Which supplier")[2]
    assert "✓ late deliveries" in final
    assert "Nordfracht" in final
    assert "answered" in final
    assert "\x1b[3" not in final, "NO_COLOR is honoured"
    assert all(len(line) <= 40 for line in final.replace("\r", "").splitlines()[1:] if "\x1b" not in line)


def test_ctrl_c_leaves_a_run_that_resumes(here: Path) -> None:
    """A real process, interrupted while the model is being asked, says how to resume, and it works."""
    code = (
        "import signal, sys, time\n"
        # A suite that runs in the background inherits an ignored SIGINT.
        "signal.signal(signal.SIGINT, signal.default_int_handler)\n"
        "from autogpt.llm.models.scripted import ScriptedModel\n"
        "from autogpt.cli import run as commands\n"
        "from autogpt.cli import main\n"
        "from autogpt.llm.message import ToolCall\n"
        "def slow(prompt):\n"
        "    print('thinking', flush=True)\n"
        "    time.sleep(30)\n"
        "    return ToolCall('finish', {'answer': 'no'})\n"
        "commands.open_model = lambda settings: ScriptedModel([slow])\n"
        f"sys.exit(main(['run', {GOAL!r}, 'deliveries.csv', '--model', 'scripted:s.yaml']))\n"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=here
    )
    assert process.stdout is not None
    for line in process.stdout:
        if "thinking" in line:
            break
    time.sleep(0.1)
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=30)
    assert process.returncode == 130
    assert "autogpt resume " in err
    assert "Traceback" not in err
    run = err.split("autogpt resume ")[1].split()[0]
    assert main(["resume", run, "--model", "scripted:s.yaml"]) == 0


def test_ctrl_c_once_more_while_threads_end_shows_no_traceback() -> None:
    code = (
        "import signal, sys, threading, time\n"
        "signal.signal(signal.SIGINT, signal.default_int_handler)\n"
        "from autogpt.cli import main\n"
        "threading.Thread(target=time.sleep, args=(20,)).start()\n"
        "sys.argv = ['autogpt', '--version']\n"
        "code = main()\n"
        "print('done', flush=True)\n"
        "sys.exit(code)\n"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    while "done" not in process.stdout.readline():
        assert process.poll() is None
    time.sleep(0.3)
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=10)
    assert process.returncode == -signal.SIGINT and "Traceback" not in err
