"""Models behind OpenAI-compatible servers: the dialects of their servers, and all that goes wrong."""

from __future__ import annotations

import json
import subprocess
import threading
import time
from pathlib import Path
from typing import Any

import pytest
from support.calls import finish
from support.loopback import Asked, Loopback, Played, Player, piece, serving, tool_call, whole

from autogpt.agent.open import open_model
from autogpt.errors import ModelUnavailable, UsageError, UserError
from autogpt.llm.message import CallSpec, Message, Prompt, Sampling, ToolCall
from autogpt.llm.models.chat_server import ChatServer
from autogpt.llm.models.openai import OpenAIModel
from autogpt.llm.models.remote import ATTEMPTS, RemoteModelError
from autogpt.llm.models.token_budget import ContextOverflow
from autogpt.settings import Settings

KEY = "sk-very-secret"
READ = CallSpec(
    "files.read",
    {
        "type": "object",
        "properties": {"path": {"type": "string", "pattern": "^[a-z.]+$", "maxLength": 20}},
        "required": ["path"],
        "additionalProperties": False,
    },
    "Read a file.",
)
FINISH = CallSpec(
    "finish",
    {
        "type": "object",
        "properties": {"answer": {"type": "string"}},
        "required": ["answer"],
        "additionalProperties": False,
    },
)
SAID = '<tool_call>{"name":"finish","arguments":{"answer":"ok"}}</tool_call>'


def prompt(*messages: Message, session: str = "s") -> Prompt:
    return Prompt(session, messages or (Message("system", "sys"), Message("user", "go")), (READ, FINISH))


def model_of(server: Loopback, key: str = KEY) -> OpenAIModel:
    return OpenAIModel(ChatServer(server.url, key, silence=5, wait=0.001), "toy")


def playing(*answers: Any) -> Player:
    """Give these answers in turn, the last for ever."""
    left = list(answers)

    def play(_: Asked) -> Played:
        said = left.pop(0) if len(left) > 1 else left[0]
        return said if isinstance(said, Played) else Played(said)

    return play


def refusal(message: str, status: int = 400, **more: Any) -> Played:
    return Played({"error": {"message": message, **more}}, status)


# -- how a call is asked for, and read --


def test_a_server_with_tools_is_asked_for_one_and_its_call_comes_back_under_its_own_name() -> None:
    called = whole({"content": None, "tool_calls": [tool_call("files__read", {"path": "a.txt"})]})
    with serving(playing(called)) as server:
        turn = model_of(server).respond([prompt()])[0]
    assert (turn.call, turn.invalid) == (ToolCall("files.read", {"path": "a.txt"}), None)
    assert turn.call is not None and turn.text == turn.call.text()
    assert (turn.prompt_tokens, turn.cached_tokens, turn.ids) == (7, 2, ())
    body, key = server.seen[0].body, server.seen[0].key
    assert (body["model"], body["tool_choice"], body["temperature"], key) == ("toy", "required", 0.0, KEY)
    function = body["tools"][0]["function"]
    assert (function["name"], function["description"]) == ("files__read", "Read a file.")
    # bounds that a server's own grammar may not know stay here, where the answer is checked
    assert function["parameters"]["properties"] == {"path": {"type": "string", "maxLength": 20}}
    assert [message["role"] for message in body["messages"]] == ["system", "user"]


def test_calls_and_results_are_linked_by_ids() -> None:
    conversation = (
        Message("system", "sys"),
        Message("user", "go"),
        Message("assistant", ToolCall("files.read", {"path": "a.txt"}).text(), (3, 4, 2)),
        Message("tool", "$1 = hello"),
        Message("assistant", "nonsense"),
        Message("tool", "invalid call: no call"),
    )
    with serving(playing(whole({"tool_calls": [tool_call("finish", {"answer": "ok"})]}))) as server:
        model_of(server).respond([prompt(*conversation)])
    said = server.seen[0].body["messages"]
    assert [message["role"] for message in said] == [
        "system",
        "user",
        "assistant",
        "tool",
        "assistant",
        "user",
    ]
    assert said[2]["tool_calls"][0]["function"]["name"] == "files__read"
    assert said[3] == {
        "role": "tool",
        "tool_call_id": said[2]["tool_calls"][0]["id"],
        "content": "$1 = hello",
    }


def test_streamed_text_is_the_calls_own_text_as_it_appears() -> None:
    events = [
        piece(role="assistant", content=None),
        piece(tool_calls=[tool_call("finish", "")]),
        piece(tool_calls=[{"index": 0, "function": {"arguments": '{"answer":"今天'}}]),
        piece(tool_calls=[{"index": 0, "function": {"arguments": '晴"}'}}]),
        piece("tool_calls"),
        {"choices": [], "usage": {"prompt_tokens": 11}},
        "[DONE]",
    ]
    heard: list[str] = []
    with serving(playing(Played(events))) as server:
        turn = model_of(server).respond([prompt()], lambda _, text: heard.append(text))[0]
    assert turn.call == finish("今天晴") and turn.prompt_tokens == 11
    assert heard == ['<tool_call>{"name":"finish","arguments":', '{"answer":"今天', '晴"}']


def test_what_a_server_refuses_is_left_out_and_the_next_way_is_tried_and_kept() -> None:
    def play(asked: Asked) -> Played:
        body = asked.body
        if "stream_options" in body:
            return refusal("unknown field stream_options")
        if "tools" in body:
            return refusal("toy does not support tools")
        if "response_format" in body:
            return Played({"detail": [{"loc": ["body", "response_format"], "msg": "no such type"}]}, 422)
        return Played(whole({"content": SAID}))

    with serving(play) as server:
        model = model_of(server)
        assert model.respond([prompt()])[0].call == finish("ok")
        tried = len(server.seen)
        assert model.respond([prompt()])[0].call == finish("ok")
    assert tried == 4 and len(server.seen) == tried + 1
    last = server.seen[-1].body
    assert last["stop"] == ["</tool_call>"] and "stream_options" not in last and "tools" not in last
    told = last["messages"][-1]
    assert told["role"] == "user" and told["content"].startswith("go")
    assert "<tool_call>" in told["content"] and "files.read: {" in told["content"]


def test_a_server_that_takes_tools_but_lets_the_model_talk_is_asked_for_json_of_a_schema() -> None:
    def play(asked: Asked) -> Played:
        if "response_format" in asked.body:
            return Played(whole({"content": '{"name":"finish","arguments":{"answer":"ok"}}'}))
        return Played(whole({"content": "Sure, I will do that."}))

    with serving(play) as server:
        model = model_of(server)
        assert model.respond([prompt()])[0].call == finish("ok")
        assert model.respond([prompt()])[0].call == finish("ok")
    assert ["tools" in asked.body for asked in server.seen] == [True, False, False]
    form = server.seen[-1].body["response_format"]["json_schema"]["schema"]
    assert [branch["properties"]["name"]["const"] for branch in form["anyOf"]] == ["files.read", "finish"]


@pytest.mark.parametrize(
    ("message", "status"),
    [
        ("Unsupported parameter: 'max_tokens'. Use 'max_completion_tokens' instead.", 400),
        ("'temperature' does not support 0.0 with this model", 400),
        ("Cannot use tools with stream", 500),
        ("System role not supported", 400),
    ],
)
def test_a_field_that_a_model_does_not_take_is_learnt_once(message: str, status: int) -> None:
    field = next(
        name for name in ("max_tokens", "temperature", "stream", "system") if name in message.lower()
    )

    def play(asked: Asked) -> Played:
        roles = [said["role"] for said in asked.body["messages"]]
        if field in asked.body or (field == "system" and "system" in roles):
            return refusal(message, status)
        return Played(whole({"tool_calls": [tool_call("finish", {"answer": "ok"})]}))

    with serving(play) as server:
        model = model_of(server)
        assert [model.respond([prompt()])[0].call for _ in range(2)] == [finish("ok")] * 2
    assert len(server.seen) == 3
    body = server.seen[-1].body
    assert body.get("max_completion_tokens", body.get("max_tokens")) == Sampling().max_tokens
    assert "sys" in body["messages"][0]["content"]


@pytest.mark.parametrize(
    "said",
    [
        f"<think>finish or {{read}}?</think>\n{SAID}",
        f"Okay, so the user wants...\n</think>\n\n{SAID}",
        '```json\n{"name": "finish", "arguments": {"answer": "ok"}}\n```',
        '<tool_call>\n{"name": "finish", "arguments": {"answer": "ok"}}\n',
        '[{"name": "finish", "parameters": "{\\"answer\\": \\"ok\\"}"}]',
        '{"name":"drop","arguments":{}} {"function":{"name":"finish","arguments":{"answer":"ok"}}}',
    ],
)
def test_the_first_valid_call_is_found_wherever_it_stands(said: str) -> None:
    with serving(playing(whole({"content": said}))) as server:
        assert model_of(server).respond([prompt()])[0].call == finish("ok")
    assert len(server.seen) == 1


def test_of_several_calls_the_first_valid_one_is_taken() -> None:
    calls = [
        tool_call("drop", {}),
        tool_call("files__read", '{"path":', 1),
        tool_call("finish", {"answer": "ok"}, 2),
    ]
    with serving(playing(whole({"content": "", "tool_calls": calls}))) as server:
        assert model_of(server).respond([prompt()])[0].call == finish("ok")


def test_a_model_that_goes_on_after_its_call_is_stopped() -> None:
    def play(_: Asked) -> Played:
        return Played([piece(content=SAID), *[piece(content=" and") for _ in range(200)]], wait=0.02)

    with serving(play) as server:
        heard: list[str] = []
        turn = model_of(server).respond([prompt()], lambda _, text: heard.append(text))[0]
    assert turn.call == finish("ok") and len(heard) < 20 and len(server.seen) == 1


def test_an_invalid_call_is_corrected_once_with_the_reason() -> None:
    wrong = whole({"tool_calls": [tool_call("files__read", {"path": "A!"})]})
    right = whole({"tool_calls": [tool_call("files__read", {"path": "a.txt"})]})
    with serving(playing(wrong, right)) as server:
        assert model_of(server).respond([prompt()])[0].call == ToolCall("files.read", {"path": "a.txt"})
    said, told = server.seen[1].body["messages"][-2:]
    assert "A!" in said["content"] and "'A!' does not match" in told["content"]
    with serving(playing(wrong)) as server:
        turn = model_of(server).respond([prompt()])[0]
    assert turn.call is None and turn.invalid is not None and "'A!' does not match" in turn.invalid
    assert "A!" in turn.text and len(server.seen) == 2


def test_a_model_that_only_talks_has_answered_where_an_answer_is_allowed() -> None:
    with serving(playing(whole({"content": "<think>hm</think>Paris."}))) as server:
        assert model_of(server).respond([prompt()])[0].call == finish("Paris.")
        read_only = Prompt("s", (Message("user", "go"),), (READ,))
        turn = model_of(server).respond([read_only])[0]
    assert turn.call is None and turn.invalid == "there is no call in the answer"


def test_a_model_that_thinks_gets_room_for_it() -> None:
    def play(asked: Asked) -> Played:
        if asked.body["max_tokens"] <= Sampling().max_tokens:
            return Played(whole({"content": "", "reasoning_content": "Let me see..."}, "length"))
        return Played(whole({"tool_calls": [tool_call("finish", {"answer": "ok"})]}))

    with serving(play) as server:
        model = model_of(server)
        assert model.respond([prompt()])[0].call == finish("ok")
        assert model.respond([prompt()])[0].call == finish("ok")
    assert len(server.seen) == 3


def test_several_prompts_are_answered_in_order_and_at_once() -> None:
    together = threading.Barrier(4, timeout=5)

    def play(asked: Asked) -> Played:
        together.wait()
        said = asked.body["messages"][-1]["content"]
        return Played(whole({"tool_calls": [tool_call("finish", {"answer": said})]}))

    with serving(play) as server:
        many = [prompt(Message("user", str(i)), session=str(i)) for i in range(8)]
        heard: list[int] = []
        turns = model_of(server).respond(many, lambda i, _: heard.append(i))
    assert [turn.call for turn in turns] == [finish(str(i)) for i in range(8)]
    assert sorted(set(heard)) == list(range(8))


def test_free_text_is_streamed_without_its_thought() -> None:
    parts = ["<th", "ink>so", "</think>", "\n今天", "天气很好"]
    events = [*(piece(content=part) for part in parts), piece("stop"), "[DONE]"]
    heard: list[str] = []
    with serving(playing(Played(events))) as server:
        text = model_of(server).generate("今天天气如何？", system="brief", on_text=heard.append)
    assert text == "今天天气很好" == "".join(heard)
    body = server.seen[0].body
    assert body["max_tokens"] == 2000 and "tools" not in body and "stop" not in body
    assert [said["content"] for said in body["messages"]] == ["brief", "今天天气如何？"]


# -- opening --


def test_a_model_is_opened_by_name_and_the_key_of_the_environment_is_sent(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    with serving(playing(whole({"tool_calls": [tool_call("finish", {"answer": "ok"})]}))) as server:
        for variable, key in (("OPENAI_API_KEY", "k1"), ("AUTOGPT_OPENAI_KEY", "k2")):
            monkeypatch.setenv(variable, key)
            settings = Settings(home=tmp_path, model=f"openai:{server.url}")
            model = open_model(settings)
            assert model.name == f"openai:{server.url}"
            assert model.respond([prompt()])[0].call == finish("ok")
            assert server.seen[-1].key == key and key not in repr(settings)


def test_without_a_model_the_only_one_is_taken_and_several_are_named() -> None:
    play = playing(whole({"content": SAID}))
    with serving(play, models=["one"]) as server:
        assert OpenAIModel.load(server.url).model == "one"
    with (
        serving(play, models=["b", "a"]) as server,
        pytest.raises(UsageError, match="#MODEL with one of: b, a"),
    ):
        OpenAIModel.load(server.url)
    with serving(play, models=[]) as server, pytest.raises(UsageError, match="it has none"):
        OpenAIModel.load(server.url)
    with serving(play, models=None) as server:
        assert OpenAIModel.load(f"{server.url}#x").model == "x"
        with pytest.raises(UsageError, match="does not list its models"):
            OpenAIModel.load(server.url)


def test_a_model_that_is_not_there_is_answered_with_those_that_are() -> None:
    with serving(playing(""), models=["qwen3:latest", "phi"]) as server:
        with pytest.raises(ModelUnavailable, match=r"has no model toy; it has: qwen3:latest, phi$"):
            OpenAIModel.load(f"{server.url}#toy")
        assert OpenAIModel.load(f"{server.url}#qwen3").model == "qwen3"
    gone = refusal("model not found", 404)
    with (
        serving(playing(gone), models=["phi"]) as server,
        pytest.raises(RemoteModelError, match=r"has no model toy; it has: phi$"),
    ):
        model_of(server).respond([prompt()])


def test_an_address_without_v1_is_completed() -> None:
    with serving(playing(whole({"content": SAID}))) as server:
        model = OpenAIModel.load(f"{server.url.removesuffix('/v1')}#toy")
        assert model.respond([prompt()])[0].call == finish("ok")
    assert model.server.url == server.url


@pytest.mark.parametrize(
    ("address", "says"),
    [
        ("", "write the address as in openai:http://"),
        ("qwen3", "write the address as in openai:http://"),
        ("http://127.0.0.1:99999/v1", "write openai:http://HOST:PORT/v1#MODEL"),
        (f"http://me:{KEY}@127.0.0.1/v1", "put the key into AUTOGPT_OPENAI_KEY"),
        (f"http://127.0.0.1/v1?key={KEY}", "put the key into AUTOGPT_OPENAI_KEY"),
    ],
)
def test_an_address_that_is_none_or_holds_a_secret_is_refused(address: str, says: str) -> None:
    with pytest.raises(UsageError, match=says) as caught:
        OpenAIModel.load(address)
    assert KEY not in str(caught.value)


# -- what goes wrong --


def failing(player: Player, key: str = KEY) -> str:
    """Return the one line that a failing server leads to; the key is never in it."""
    with serving(player) as server, pytest.raises(RemoteModelError) as caught:
        model_of(server, key).respond([prompt()])
    line = str(caught.value)
    assert line.startswith(server.url) and "\n" not in line and KEY not in line
    return line.removeprefix(f"{server.url} ")


def test_a_server_that_is_away_is_said_at_once() -> None:
    with serving(playing("")) as server:
        pass
    with pytest.raises(ModelUnavailable, match=r"/v1 is away \(nothing listens there\): start the server"):
        OpenAIModel.load(f"{server.url}#toy")


def test_a_host_that_does_not_exist_is_said() -> None:
    with pytest.raises(ModelUnavailable, match=r"there is no host nowhere\.invalid"):
        OpenAIModel.load("http://nowhere.invalid/v1#toy")


def test_a_key_that_is_wrong_or_missing_is_said_without_it() -> None:
    wrong = refusal(f"Incorrect API key provided: {KEY}", 401, code="invalid_api_key")
    assert failing(playing(wrong)) == (
        "refuses the key of AUTOGPT_OPENAI_KEY or OPENAI_API_KEY (HTTP 401: Incorrect API key provided: *** "
        "(invalid_api_key))"
    )
    missing = failing(playing(refusal("no key", 401)), key="")
    assert missing.startswith("wants a key: set AUTOGPT_OPENAI_KEY or OPENAI_API_KEY")


@pytest.mark.parametrize(
    ("answer", "says"),
    [
        (
            Played("<!doctype html><title>Hi</title>", headers={"content-type": "text/html"}),
            "<!doctype html>",
        ),
        (
            Played({"model": "toy", "message": {"content": "hi"}, "done": True}),
            "no `choices` but model, message",
        ),
        (Played([1, 2]), "it answers 1"),
        (Played("[]"), "it answers \\[\\]"),
        (Played(""), "it answers nothing"),
    ],
)
def test_another_dialect_is_said(answer: Played, says: str) -> None:
    line = failing(playing(answer))
    assert line.startswith("does not speak OpenAI's protocol there")
    assert says.replace("\\", "") in line and "/v1" in line


def test_an_error_that_the_server_reports_is_passed_on() -> None:
    assert (
        failing(playing(refusal("the GPU is on fire", 501))) == "did not answer: HTTP 501: the GPU is on fire"
    )
    assert failing(playing(Played("nope", 418))) == "did not answer: HTTP 418: nope"
    late = [piece(content="x"), {"error": {"message": "out of memory", "code": 501}}]
    assert failing(playing(Played(late))) == "did not answer: HTTP 501: out of memory"


def test_a_redirect_is_not_followed() -> None:
    moved = Played("", 307, {"location": "https://elsewhere.invalid/v1/chat/completions"})
    line = failing(playing(moved))
    assert line.startswith("sends its callers elsewhere (redirect to https://elsewhere.invalid/v1")


def test_what_may_pass_is_tried_again_and_bounded() -> None:
    good = whole({"tool_calls": [tool_call("finish", {"answer": "ok"})]})
    busy = Played({"error": "busy"}, 429, {"retry-after": "0"})
    with serving(playing(busy, refusal("loading model", 503), good)) as server:
        assert model_of(server).respond([prompt()])[0].call == finish("ok")
    assert len(server.seen) == 3
    with (
        serving(playing(busy)) as server,
        pytest.raises(RemoteModelError, match="did not answer: HTTP 429: busy"),
    ):
        model_of(server).respond([prompt()])
    assert len(server.seen) == ATTEMPTS


def test_a_stream_that_breaks_is_asked_for_again_and_then_said() -> None:
    broken = Played([piece(content='<tool_call>{"name":"fin')])
    with serving(playing(broken, whole({"content": SAID}))) as server:
        assert model_of(server).respond([prompt()])[0].call == finish("ok")
    assert len(server.seen) == 2
    assert failing(playing(broken)) == "broke off its answer (after 23 characters)"
    short = Played(whole({"content": SAID}), promised=9)
    assert failing(playing(short)).startswith("broke off its answer")


def test_a_server_that_says_nothing_is_given_up() -> None:
    with serving(playing(Played(whole({"content": SAID}), wait=1.0))) as server:
        model = OpenAIModel(ChatServer(server.url, silence=0.1, wait=0.001), "toy")
        with pytest.raises(RemoteModelError, match=r"said nothing for 0\.1 s"):
            model.respond([prompt()])
    assert len(server.seen) == 1


@pytest.mark.parametrize(
    "refused",
    [
        refusal("This model's maximum context length is 2048 tokens", 400),
        refusal("the request exceeds the available context size", 400, type="exceed_context_size_error"),
        Played({"error": {"code": "context_length_exceeded", "message": "too long"}}, 400),
    ],
)
def test_a_conversation_too_long_is_told_apart(refused: Played) -> None:
    with (
        serving(playing(refused)) as server,
        pytest.raises(ContextOverflow, match="cannot take the conversation"),
    ):
        model_of(server).respond([prompt()])
    assert all("tools" in asked.body for asked in server.seen)


def test_where_only_the_room_for_the_answer_is_too_much_less_is_asked_for() -> None:
    def play(asked: Asked) -> Played:
        if asked.body["max_tokens"] > 400:
            return refusal("max_tokens is too large: this model's maximum context length is 2048 tokens")
        return Played(whole({"content": "ok"}))

    with serving(play) as server:
        assert model_of(server).generate("go") == "ok"


def test_a_certificate_that_nobody_signed_is_said(tmp_path: Path) -> None:
    request = "req -x509 -newkey rsa:2048 -nodes -days 1 -subj /CN=here -keyout key.pem -out cert.pem"
    if subprocess.run(["openssl", *request.split()], cwd=tmp_path, capture_output=True).returncode:
        pytest.skip("no openssl here to make a certificate with")
    both = tmp_path / "both.pem"
    both.write_bytes((tmp_path / "key.pem").read_bytes() + (tmp_path / "cert.pem").read_bytes())
    with (
        serving(playing(""), certificate=str(both)) as server,
        pytest.raises(ModelUnavailable, match=r"certificate that is not trusted \(.*\): set SSL_CERT_FILE"),
    ):
        OpenAIModel.load(f"{server.url}#toy")


def test_https_to_a_server_that_speaks_http_is_said() -> None:
    with (
        serving(playing("")) as server,
        pytest.raises(ModelUnavailable, match=r"does not speak https there \(.*\): is it http://"),
    ):
        OpenAIModel.load(f"{server.url.replace('http:', 'https:')}#toy")


def test_a_failure_of_one_ends_those_beside_it_at_once() -> None:
    begun = threading.Event()

    def play(asked: Asked) -> Played:
        if asked.body["messages"][-1]["content"].startswith("1"):
            begun.wait(5)
            return refusal("bad", 418)
        begun.set()
        return Played([piece(content="x")] * 100, wait=0.1)

    began = time.monotonic()
    with serving(play) as server, pytest.raises(UserError, match="418"):
        model_of(server).respond([prompt(Message("user", str(i)), session=str(i)) for i in (1, 2)])
    assert time.monotonic() - began < 5


def test_what_was_asked_is_json_that_any_server_reads() -> None:
    with serving(playing(whole({"content": SAID}))) as server:
        model_of(server).respond([prompt(Message("user", "你好 \U0001f600"))])
    assert "你好 \U0001f600" in json.dumps(server.seen[0].body, ensure_ascii=False)
