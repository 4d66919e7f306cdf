"""The policy as a table: effect, targets and grants in, a verdict with its reason out."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from autogpt.agent.goals.load import Goal, Grants
from autogpt.agent.run.approvals import decide_for
from autogpt.tools import paths
from autogpt.tools.base import Effect, Tool, ToolContext, ToolResult
from autogpt.tools.files import FilesMove, FilesWrite
from autogpt.tools.policy import Verdict, decide_call


class Any_(Tool):
    """A tool of any effect; the policy must not run it."""

    name = "any.tool"
    description = "does something"
    parameters: Mapping[str, Any] = {"type": "object", "properties": {}}

    def __init__(self, effect: Effect) -> None:
        self.effect = effect

    def run(self, args: Mapping[str, Any], ctx: ToolContext) -> ToolResult:
        raise AssertionError("the policy ran a tool")


NONE = None
LATE = Grants(write=["late.txt"])
OUT = Grants(write=["out", "*.md", "logs/**/*.log"])
NET = Grants(net=["api.example.org", "*.shop.test"])
RUN = Grants(run=["git"])


@pytest.mark.parametrize(
    ("effect", "targets", "grants", "verdict"),
    [
        (Effect.READ, [], NONE, Verdict.ALLOW),
        (Effect.READ, [], Grants(), Verdict.ALLOW),
        (Effect.WRITE, ["a.txt"], NONE, Verdict.ALLOW),
        (Effect.WRITE, ["deep/er/a.txt"], NONE, Verdict.ALLOW),
        (Effect.WRITE, [], NONE, Verdict.ASK),
        (Effect.WRITE, ["a.txt"], Grants(), Verdict.ASK),
        (Effect.WRITE, ["late.txt"], LATE, Verdict.ALLOW),
        (Effect.WRITE, ["./late.txt"], LATE, Verdict.ALLOW),
        (Effect.WRITE, ["late.txt.bak"], LATE, Verdict.ASK),
        (Effect.WRITE, ["x/late.txt"], LATE, Verdict.ASK),
        (Effect.WRITE, ["late.txt", "other.txt"], LATE, Verdict.ASK),
        (Effect.WRITE, ["out/a/b.txt"], OUT, Verdict.ALLOW),
        (Effect.WRITE, ["outside.txt"], OUT, Verdict.ASK),
        (Effect.WRITE, ["a.md"], OUT, Verdict.ALLOW),
        (Effect.WRITE, ["sub/a.md"], OUT, Verdict.ASK),
        (Effect.WRITE, ["logs/a.log"], OUT, Verdict.ALLOW),
        (Effect.WRITE, ["logs/x/y/a.log"], OUT, Verdict.ALLOW),
        (Effect.WRITE, ["../a.txt"], NONE, Verdict.REFUSE),
        (Effect.WRITE, ["../late.txt"], LATE, Verdict.REFUSE),
        (Effect.WRITE, ["/etc/passwd"], Grants(write=["."]), Verdict.REFUSE),
        (Effect.WRITE, ["a/../../b"], NONE, Verdict.REFUSE),
        (Effect.WRITE, [""], NONE, Verdict.REFUSE),
        (Effect.WRITE, ["anything"], Grants(write=["."]), Verdict.ALLOW),
        (Effect.NET, ["api.example.org"], NONE, Verdict.ASK),
        (Effect.NET, ["API.example.org"], NET, Verdict.ALLOW),
        (Effect.NET, ["eu.shop.test"], NET, Verdict.ALLOW),
        (Effect.NET, ["shop.test.evil.org"], NET, Verdict.ASK),
        (Effect.NET, [], NET, Verdict.ASK),
        (Effect.NET, [], Grants(net=["*"]), Verdict.ALLOW),
        (Effect.RUN, ["git"], NONE, Verdict.ASK),
        (Effect.RUN, ["git"], RUN, Verdict.ALLOW),
        (Effect.RUN, ["rm"], RUN, Verdict.ASK),
    ],
)
def test_verdicts(effect: Effect, targets: list[str], grants: Grants | None, verdict: Verdict) -> None:
    decision = decide_call(Any_(effect), targets, grants)
    assert decision.verdict is verdict
    assert decision.allowed == (verdict is Verdict.ALLOW)
    assert bool(decision.reason) == (verdict is not Verdict.ALLOW)


def test_reasons_say_what_is_granted() -> None:
    assert decide_call(Any_(Effect.WRITE), ["a.txt"], LATE).reason == (
        "writing a.txt is not granted (granted: late.txt)"
    )
    assert decide_call(Any_(Effect.RUN), [], NONE).reason == (
        "any.tool needs any program, which is not granted (granted: nothing)"
    )


@pytest.mark.parametrize(
    ("source", "target", "workspace", "allowed"),
    [
        ("b.txt", "late.txt", None, True),  # only the run's own copy of b.txt is moved
        ("late.txt", "b.txt", None, False),
        ("b.txt", "late.txt", ".", False),  # in place, b.txt itself would be gone
        ("late.txt", "late.txt", ".", True),
        ("/etc/passwd", "late.txt", ".", False),
    ],
)
def test_a_move_needs_a_grant_for_the_new_name_and_in_place_for_the_old_one_too(
    source: str, target: str, workspace: str | None, allowed: bool
) -> None:
    goal = Goal(goal="g", workspace=workspace, grants=LATE)
    assert decide_for(goal, FilesMove(), {"source": source, "target": target}).allowed is allowed


def test_without_grants_copies_may_be_written_and_a_folder_in_place_may_not() -> None:
    args = {"path": "a.txt", "content": "x"}
    assert decide_for(Goal(goal="g"), FilesWrite(), args).allowed
    assert decide_for(Goal(goal="g", workspace="."), FilesWrite(), args).verdict is Verdict.ASK


@pytest.mark.parametrize("path", ["../x", "/x", "", ["a", "b"], 7])
def test_a_path_that_makes_no_sense_never_passes(path: Any) -> None:
    write = FilesWrite()
    decision = decide_call(write, write.targets({"path": path, "content": "x"}), LATE)
    assert not decision.allowed


@pytest.mark.parametrize("pattern", ["../x", "/etc", "~/x", "a/../../b", ""])
def test_a_grant_that_leaves_the_folder_names_its_field(pattern: str) -> None:
    with pytest.raises(ValueError, match=r"grants\.write") as caught:
        Goal.model_validate({"goal": "x", "grants": {"write": [pattern]}})
    assert "absolute" in str(caught.value) or "leaves" in str(caught.value) or "empty" in str(caught.value)


@pytest.mark.parametrize(
    ("pattern", "path", "covered"),
    [
        (".", "a/b.txt", True),
        ("./a.txt", "a.txt", True),
        ("a", "a/b/c.txt", True),
        ("a", "ab.txt", False),
        ("*", "a.txt", True),
        ("*.txt", "a.txt.exe", False),
        ("**", "a/b/c", True),
        ("**/c.txt", "c.txt", True),
        ("a/*/c.txt", "a/b/c.txt", True),
        ("a/*/c.txt", "a/b/b/c.txt", False),
        ("a?.txt", "ab.txt", True),
        ("a.txt", "abtxt", False),
        ("[ab].txt", "a.txt", False),
    ],
)
def test_patterns_are_strict(pattern: str, path: str, covered: bool) -> None:
    assert paths.covers(pattern, path) is covered


def test_matching_touches_no_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "late.txt").symlink_to("/etc/passwd")
    assert decide_call(Any_(Effect.WRITE), ["late.txt"], LATE).allowed
    with pytest.raises(Exception, match="link"):
        FilesWrite().run({"path": "late.txt", "content": "x"}, ToolContext(tmp_path))
