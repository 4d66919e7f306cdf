"""A server on loopback that plays an OpenAI-compatible one, in whichever dialect a test gives it."""

from __future__ import annotations

import json
import ssl
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

Json = dict[str, Any]


@dataclass(frozen=True)
class Played:
    """One answer: ``body`` as it is, or JSON, or one server-sent event for each of a list."""

    body: Any
    status: int = 200
    headers: Mapping[str, str] = field(default_factory=dict)
    wait: float = 0.0
    """Seconds before the answer, and before each event."""
    promised: int = 0
    """Bytes that the header promises beyond those that come."""


@dataclass(frozen=True)
class Asked:
    """One request that a server saw."""

    method: str
    path: str
    body: Json
    key: str


Player = Callable[[Asked], Played]


class Loopback:
    """A running server; ``seen`` holds the requests to complete a chat."""

    def __init__(self, player: Player, models: Sequence[str] | None, prefix: str) -> None:
        self.player, self.models, self.prefix = player, models, prefix
        self.seen: list[Asked] = []
        self.url = ""

    def play(self, asked: Asked) -> Played:
        """Return the answer to a request."""
        if asked.path == f"{self.prefix}/models" and self.models is not None:
            return Played({"object": "list", "data": [{"id": name} for name in self.models]})
        if asked.path == f"{self.prefix}/chat/completions":
            self.seen.append(asked)
            return self.player(asked)
        return Played({"error": {"message": f"no route {asked.path}"}}, 404)


@contextmanager
def serving(
    player: Player,
    models: Sequence[str] | None = ("toy",),
    prefix: str = "/v1",
    certificate: str = "",
) -> Iterator[Loopback]:
    """Run a server while the block runs; with ``certificate`` (a PEM file) it speaks https."""
    server = Loopback(player, models, prefix)

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            self.answer({})

        def do_POST(self) -> None:
            self.answer(json.loads(self.rfile.read(int(self.headers["content-length"]))))

        def answer(self, body: Json) -> None:
            key = self.headers.get("authorization", "").removeprefix("Bearer ")
            played = server.play(Asked(self.command, self.path, body, key))
            time.sleep(played.wait)
            events = isinstance(played.body, list)
            kind = "text/event-stream" if events else "application/json"
            self.close_connection = True
            self.send_response(played.status)
            for name, value in {"content-type": kind, "connection": "close", **played.headers}.items():
                self.send_header(name, value)
            if events:
                self.end_headers()
                for event in played.body:
                    data = event if isinstance(event, str) else json.dumps(event, ensure_ascii=False)
                    self.wfile.write(f"data: {data}\n\n".encode())
                    self.wfile.flush()
                    time.sleep(played.wait)
                return
            text = played.body if isinstance(played.body, str) else json.dumps(played.body)
            self.send_header("content-length", str(len(text.encode()) + played.promised))
            self.end_headers()
            self.wfile.write(text.encode())

        def log_message(self, *_: object) -> None:
            """Say nothing."""

    httpd = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    httpd.daemon_threads = True
    httpd.handle_error = lambda *_: None  # type: ignore[method-assign]
    if certificate:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(certificate)
        httpd.socket = context.wrap_socket(httpd.socket, server_side=True)
    server.url = f"{'https' if certificate else 'http'}://127.0.0.1:{httpd.server_port}{prefix}"
    thread = threading.Thread(target=httpd.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
    thread.start()
    try:
        yield server
    finally:
        httpd.shutdown()
        httpd.server_close()


def whole(message: Json, finish: str = "stop", tokens: int = 7) -> Json:
    """Return an answer that comes at once."""
    usage = {"prompt_tokens": tokens, "completion_tokens": 3, "prompt_tokens_details": {"cached_tokens": 2}}
    choice = {"index": 0, "message": {"role": "assistant", **message}, "finish_reason": finish}
    return {"object": "chat.completion", "choices": [choice], "usage": usage}


def piece(finish: str | None = None, **delta: Any) -> Json:
    """Return a piece of a streamed answer."""
    choice = {"index": 0, "delta": delta, "finish_reason": finish}
    return {"object": "chat.completion.chunk", "choices": [choice]}


def tool_call(name: str, arguments: Json | str, index: int = 0) -> Json:
    """Return a call as servers tell it apart from the text."""
    text = arguments if isinstance(arguments, str) else json.dumps(arguments)
    return {
        "index": index,
        "id": f"c{index}",
        "type": "function",
        "function": {"name": name, "arguments": text},
    }
