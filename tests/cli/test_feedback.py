"""A rating and a wish to be forgotten have the same effects however they are said."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from support.scripts import script

from autogpt import AutoGPT, ScriptedModel
from autogpt.agent.learn.collect import collect
from autogpt.agent.open import open_memory, open_store
from autogpt.agent.record.events import Consent, Rating
from autogpt.agent.record.store import RunStore
from autogpt.agent.run.chat import ChatSession
from autogpt.agent.run.feedback import rate_run
from autogpt.agent.run.runner import Runner
from autogpt.cli.chat import Repl
from autogpt.cli.parser import main
from autogpt.cli.report import Report
from autogpt.errors import UsageError
from autogpt.llm.message import ToolCall
from autogpt.memory.entry import Draft, Kind
from autogpt.memory.experience import Experience
from autogpt.settings import load
from autogpt.tools.registry import builtins

ANSWER = ToolCall("finish", {"answer": "Mia"})


class Talk:
    """A conversation in which a remembered cat helped to answer."""

    def __init__(self) -> None:
        settings = load()
        self.store = open_store(settings)
        self.memory = open_memory(settings, self.store)
        assert self.memory is not None
        self.memory.background = False
        self.memory.write(Draft(Kind.FACT, "My cat is called Mia."))
        model = ScriptedModel([ANSWER])
        self.runner = Runner(self.store, model, builtins(), memory=self.memory)
        self.session = ChatSession(self.runner)
        self.session.say("What is my cat called?")
        self.run = self.session.run

    def leave(self) -> None:
        self.session.close(end=False)

    @property
    def uses(self) -> tuple[int, int]:
        assert self.memory is not None
        (entry,) = self.memory.store.get([1])
        return entry.uses, entry.successes


def by_repl(talk: Talk, folder: Path) -> None:
    Repl(talk.session, talk.runner, Report()).handle("/good well done")
    talk.leave()


def by_session(talk: Talk, folder: Path) -> None:
    talk.session.rate(1.0, "well done", "me")
    talk.leave()


def by_command(talk: Talk, folder: Path) -> None:
    talk.leave()
    assert main(["rate", talk.run, "good", "--why", "well done", "--model", "scripted:none"]) == 0


def by_api(talk: Talk, folder: Path) -> None:
    talk.leave()
    assert AutoGPT(ScriptedModel([])).rate(talk.run, 1.0, "well done") == "rated 1"


def by_judge(talk: Talk, folder: Path) -> None:
    talk.leave()
    judge = script(folder / "judge.json", {"name": "grade", "arguments": {"score": 10}})
    assert main(["rate", talk.run, "judge", "--model", judge]) == 0


@pytest.mark.parametrize("way", [by_repl, by_session, by_command, by_api, by_judge])
def test_a_rating_is_one_event_and_credits_what_helped(
    way: Callable[[Talk, Path], None], tmp_path: Path, isolated: Path
) -> None:
    talk = Talk()
    assert talk.uses == (0, 0)
    way(talk, tmp_path)
    (rating,) = [event for event in talk.store.load(talk.run) if isinstance(event, Rating)]
    assert rating.value == 1.0 and rating.by
    assert rating.text == ("" if way is by_judge else "well done")
    assert talk.uses == (1, 1)


def test_the_same_opinion_said_again_credits_nothing_more(isolated: Path) -> None:
    talk = Talk()
    talk.leave()
    told = [
        rate_run(talk.store, talk.run, Rating(value=value, by="ann"), talk.memory) for value in (1, 0.8, 0)
    ]
    assert told == ["rated 1", "rated 0.8; it was 1 before, the last one counts",
                    "rated 0; it was 0.8 before, the last one counts"]  # fmt: skip
    assert talk.uses == (2, 1), "what was good and is now bad counts as one use of each kind"


def test_there_must_be_an_answer_and_a_value_that_means_something(isolated: Path) -> None:
    talk = Talk()
    with pytest.raises(UsageError, match="from 0 to 1"):
        talk.session.rate(2.0)
    talk.leave()
    empty = ChatSession(talk.runner)
    with pytest.raises(UsageError, match="no answer to rate"):
        empty.rate(1.0)
    empty.close()


def forget_by_repl(talk: Talk) -> None:
    Repl(talk.session, talk.runner, Report()).handle("/private")
    talk.leave()


def forget_by_command(talk: Talk) -> None:
    talk.leave()
    assert main(["experience", "forget", talk.run]) == 0


@pytest.mark.parametrize("way", [forget_by_repl, forget_by_command])
def test_forgetting_takes_the_same_steps(
    way: Callable[[Talk], None], store: RunStore, isolated: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    talk = Talk()
    talk.session.rate(1.0, "", "ann")
    experience = Experience(store.database)
    experience.record_training("small@9", [talk.run])
    way(talk)
    said = capsys.readouterr().out
    assert "no model learns from" in said and f"model small@9 was trained on {talk.run}" in said
    (consent,) = [event for event in store.load(talk.run) if isinstance(event, Consent)]
    assert not consent.learn and consent.by
    # experience knows at once, without reading the journals again
    assert experience.stats().reasons == {"private": 1}
    assert collect(store, load()).stats().learnable == 0
    assert main(["experience", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["learnable"] == 0


def test_a_conversation_goes_on_after_it_was_made_private(isolated: Path) -> None:
    talk = Talk()
    repl = Repl(talk.session, talk.runner, Report())
    repl.handle("/private")
    repl.handle("/bad")
    repl.handle("/recall cat")
    talk.leave()
    kinds = [type(event).__name__ for event in talk.store.load(talk.run)]
    assert kinds[-3:] == ["Consent", "Rating", "RunInterrupted"]
