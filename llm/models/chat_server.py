"""A client for servers that speak OpenAI's chat protocol: one request, one answer, streamed.

Ollama, llama.cpp's server, vLLM, LM Studio and OpenAI itself differ in details; here is what is common: the
address, the key, waiting, retrying, and reading an answer whether it comes in pieces or whole. What a server
refuses is an exception that says so (:class:`Refused`), and whoever asked may ask otherwise.

Limits: redirects are not followed, since the key would go along to a host that nobody named; a proxy of the
environment is used for all hosts but this machine.
"""

from __future__ import annotations

import http.client
import json
import re
import socket
import ssl
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import unquote, urlsplit
from urllib.request import getproxies, proxy_bypass

from ...errors import AutoGPTError, UsageError
from .remote import PASSING, RemoteModelError, error_line, retrying
from .token_budget import ContextOverflow

SILENCE = 300.0
"""Seconds without a byte after which a server is given up; a slow one reads a long prompt meanwhile."""
LONGEST = 1800.0
"""Seconds that an answer may take in all."""
CONNECTING = 20.0
"""Seconds until a connection must stand."""
MOST_BYTES = 16_000_000
"""Bytes of an answer that are read."""
NO_CONNECTION = f"no connection within {CONNECTING:g} s"
LOOPBACK = ("localhost", "127.0.0.1", "::1")
OnNew = Callable[[str], bool]
"""Called with text as it appears; True: this is enough."""
_TOO_LONG = re.compile(
    r"context.{0,12}(length|size|window|limit)|exceeds? .{0,30}context|prompt is too long|too many tokens",
    re.IGNORECASE,
)
_REQUEST = re.compile(r"tool|template|jinja|schema|grammar|format|stream|system role", re.IGNORECASE)
_KEYS = "AUTOGPT_OPENAI_KEY or OPENAI_API_KEY"


class Refused(AutoGPTError):
    """The server answered a request with an error: its HTTP status and what it said, as one line."""

    def __init__(self, status: int, said: str, retry_after: float = 0.0) -> None:
        super().__init__(f"HTTP {status}: {said}")
        self.status, self.said, self.retry_after = status, said, retry_after

    @property
    def too_long(self) -> bool:
        """Whether the conversation does not fit the model."""
        return self.status in (400, 413, 422, 500) and bool(_TOO_LONG.search(self.said))


class Broken(ConnectionError):
    """An answer ended before it was complete."""


class Foreign(AutoGPTError):
    """What came back is not of this protocol: a web page, other JSON."""


@dataclass
class Answer:
    """What a model said, put together from the pieces."""

    text: str = ""
    thought: str = ""
    """What came apart from the text, as reasoning."""
    calls: list[tuple[str, str]] = field(default_factory=list)
    """Names and arguments (JSON as text) of the calls that came apart from the text."""
    cut: bool = False
    """It ended at the token limit."""
    prompt_tokens: int = 0
    cached_tokens: int = 0

    def add(self, choice: Mapping[str, Any]) -> str:
        """Add a whole message or a piece of one; return what is new of the text or of the first call."""
        said = choice.get("delta") or choice.get("message") or {}
        self.cut = self.cut or choice.get("finish_reason") == "length"
        self.thought += str(said.get("reasoning_content") or said.get("reasoning") or "")
        new = _text(said.get("content"))
        self.text += new
        for place, call in enumerate(said.get("tool_calls") or ()):
            at = call.get("index", place)
            while len(self.calls) <= at < 64:
                self.calls.append(("", ""))
            function = call.get("function") or {}
            known, before = self.calls[at]
            name, more = known or str(function.get("name") or ""), function.get("arguments") or ""
            more = more if isinstance(more, str) else json.dumps(more, ensure_ascii=False)
            self.calls[at] = (name, before + more)
            if at == 0:
                new += more if known else f'<tool_call>{{"name":{json.dumps(name)},"arguments":{more}'
        return new

    def count(self, usage: Any) -> None:
        """Take the numbers of tokens, where the server counts them."""
        if isinstance(usage, dict):
            self.prompt_tokens = int(usage.get("prompt_tokens") or 0)
            self.cached_tokens = int((usage.get("prompt_tokens_details") or {}).get("cached_tokens") or 0)


class ChatServer:
    """A server at an address such as ``http://127.0.0.1:11434/v1``; safe to use from several threads."""

    def __init__(self, url: str, key: str = "", silence: float = SILENCE, wait: float = 1.0) -> None:
        """Speak to ``url`` with ``key``, if it is not empty; nothing is sent yet.

        ``silence``: seconds without a byte that are borne; ``wait``: before a second attempt, then doubling.
        Raises UsageError for an address that is none, or that holds a secret.
        """
        if "@" in url or "?" in url:
            raise UsageError(
                "openai: a name, password or query in the address would be recorded with every run; "
                f"put the key into {_KEYS}"
            )
        try:
            parts = urlsplit(url)
            self._port = parts.port
        except ValueError as error:
            raise UsageError(f"openai:{url}: {error}; write openai:http://HOST:PORT/v1#MODEL") from None
        if parts.scheme not in ("http", "https") or not parts.hostname or not url.isascii():
            raise UsageError(f"openai:{url}: write the address as in openai:http://127.0.0.1:11434/v1#qwen3")
        self._scheme, self._host = parts.scheme, parts.hostname
        self._path = parts.path.rstrip("/")
        self._key, self._silence, self._wait = key.strip(), silence, wait
        if not self._key.isascii() or not self._key.isprintable():
            raise UsageError(f"the key in {_KEYS} holds characters that no key has")
        self._open: set[socket.socket] = set()

    @property
    def url(self) -> str:
        """The address in use."""
        host = f"[{self._host}]" if ":" in self._host else self._host
        return f"{self._scheme}://{host}{f':{self._port}' if self._port else ''}{self._path}"

    def models(self) -> list[str] | None:
        """Return the names of the models that the server has; None where it does not say.

        An address without ``/v1`` is completed if the server answers there. Raises RemoteModelError.
        """
        again = retrying(self._wait, _may_pass, threading.Event())
        given = self._path
        try:
            return list(again(self._models))
        except (Refused, Foreign) as error:
            missing = isinstance(error, Foreign) or error.status in (404, 405)
            if missing and not given.endswith("/v1"):
                self._path = f"{given}/v1"
                with suppress(Refused, Foreign, OSError):
                    return self._models()
                self._path = given
            if missing and isinstance(error, Refused):
                return None
            raise RemoteModelError(self.told(error)) from None
        except OSError as error:
            raise RemoteModelError(self.told(error)) from error

    def _models(self) -> list[str]:
        with self._answer("GET", "/models") as response:
            listed = self._json(self._all(response))
        found = listed.get("data") if isinstance(listed, dict) else None
        if not isinstance(found, list):
            raise Foreign(f"its list of models is not of OpenAI's form: {_start(json.dumps(listed))}")
        return [str(entry["id"]) for entry in found if isinstance(entry, dict) and "id" in entry]

    def ask(
        self,
        body: Mapping[str, Any],
        on_new: OnNew | None = None,
        stop: threading.Event | None = None,
    ) -> Answer:
        """Return the answer to a chat completion; ``on_new`` gets text and the first call as they appear.

        What may pass is tried again until ``stop`` is set, and ``on_new`` then hears the answer from its
        start; where it returns True the rest is not waited for. Raises :class:`Refused`,
        :class:`~.token_budget.ContextOverflow` or RemoteModelError.
        """
        try:
            found: Answer = retrying(self._wait, _may_pass_later, stop or threading.Event())(
                self._ask, body, on_new
            )
        except Refused as error:
            if error.too_long:
                raise ContextOverflow(f"{self.url} cannot take the conversation: {error.said}") from None
            if error.status in (401, 403) or error.status in PASSING - {500}:
                raise RemoteModelError(self.told(error)) from None
            raise
        except Foreign as error:
            raise RemoteModelError(self.told(error)) from None
        except OSError as error:  # connections, timeouts, certificates
            raise RemoteModelError(self.told(error)) from error
        return found

    def abort(self) -> None:
        """End all requests under way, which then fail."""
        for open_socket in list(self._open):
            with suppress(OSError):
                open_socket.shutdown(socket.SHUT_RDWR)

    def told(self, error: Exception) -> str:
        """Return the line that a person reads about a failure of this server; never with the key in it."""
        if isinstance(error, Refused):
            line = self._refusal(error)
        elif isinstance(error, Foreign):
            line = f"does not speak OpenAI's protocol there ({error}): is the path right? Most end in /v1"
        elif isinstance(error, Broken):
            line = f"broke off its answer ({error})"
        elif isinstance(error, ssl.SSLCertVerificationError):
            line = (
                f"shows a certificate that is not trusted ({error.verify_message}): set SSL_CERT_FILE to the "
                "file with its certificate if it is yours"
            )
        elif isinstance(error, ssl.SSLError):
            line = f"does not speak https there ({error.reason or error}): is it http://?"
        elif isinstance(error, socket.gaierror):
            line = f"is not to be found: there is no host {self._host} ({error.strerror})"
        elif isinstance(error, TimeoutError):
            line = f"said nothing for {self._silence:g} s: is it loading, or too slow for this prompt?"
            line = f"is away ({error})" if str(error) == NO_CONNECTION else line
        elif isinstance(error, ConnectionRefusedError):
            line = "is away (nothing listens there): start the server, or name another address"
        else:
            line = f"cannot be reached ({error_line(error)})"
        said = f"{self.url} {line}"
        return said.replace(self._key, "***") if len(self._key) > 3 else said

    def _refusal(self, error: Refused) -> str:
        if 300 <= error.status < 400:
            return f"sends its callers elsewhere ({error.said}): name that address if you trust it"
        if error.status in (401, 403):
            what = "refuses the key of" if self._key else "wants a key: set"
            return f"{what} {_KEYS} ({error})"
        return f"did not answer: {error}"

    def _ask(self, body: Mapping[str, Any], on_new: OnNew | None) -> Answer:
        """Make one attempt."""
        answer = Answer()
        with self._answer("POST", "/chat/completions", body) as response:
            if "event-stream" in response.getheader("content-type", ""):
                if not self._stream(response, answer, on_new):
                    said = len(answer.text) + sum(len(arguments) for _, arguments in answer.calls)
                    raise Broken(f"after {said} characters")
                return answer
            found = self._json(self._all(response))
        new = self._add(answer, found)
        if on_new is not None and new:
            on_new(new)
        return answer

    def _stream(self, response: http.client.HTTPResponse, answer: Answer, on_new: OnNew | None) -> bool:
        """Read an answer in pieces; return whether its end came."""
        until, ended = time.monotonic() + LONGEST, False
        while line := response.readline(MOST_BYTES):
            if time.monotonic() > until:
                raise TimeoutError
            if not line.startswith(b"data:"):
                continue
            data = line[5:].strip()
            if data == b"[DONE]":
                return True
            found = self._json(data)
            new = self._add(answer, found)
            choices = found.get("choices")
            ended = ended or bool(choices and choices[0].get("finish_reason"))
            if on_new is not None and new and on_new(new):
                return True
        return ended

    def _add(self, answer: Answer, found: Any) -> str:
        """Add one JSON document of an answer; return the new text."""
        if not isinstance(found, dict):
            raise Foreign(f"it answers {_start(json.dumps(found))}")
        if found.get("error"):
            raise _refused(500, json.dumps(found).encode(), 0.0)
        answer.count(found.get("usage"))
        choices = found.get("choices")
        if not isinstance(choices, list):
            raise Foreign(f"its answer has no `choices` but {', '.join(map(str, found)) or 'nothing'}"[:200])
        return answer.add(choices[0]) if choices and isinstance(choices[0], dict) else ""

    @contextmanager
    def _answer(
        self, method: str, path: str, body: Mapping[str, Any] | None = None
    ) -> Iterator[http.client.HTTPResponse]:
        """Send a request and yield the response, if its status is good; raises Refused otherwise."""
        connection = self._connection()
        headers = {"Accept": "application/json, text/event-stream", "Content-Type": "application/json"}
        if self._key:
            headers["Authorization"] = f"Bearer {self._key}"
        try:
            try:
                connection.connect()
            except TimeoutError:
                raise TimeoutError(NO_CONNECTION) from None
            used = connection.sock  # the response takes it from the connection
            self._open.add(used)
            used.settimeout(self._silence)
            try:
                data = None if body is None else json.dumps(body).encode()
                connection.request(method, self._path + path, data, headers)
                with closing(connection.getresponse()) as response:
                    _check_status(response)
                    yield response
            finally:
                self._open.discard(used)
        except http.client.HTTPException as error:
            if isinstance(error, http.client.BadStatusLine) and not isinstance(error, ConnectionError):
                raise Foreign(f"it answers {str(error)[:60]!r}, which is no HTTP") from error
            raise Broken(error_line(error)) from error
        finally:
            connection.close()

    def _connection(self) -> http.client.HTTPConnection:
        """Return a connection that is not open yet, through the environment's proxy if there is one."""
        secure = self._scheme == "https"
        port = self._port or (443 if secure else 80)
        proxy = getproxies().get(self._scheme) if self._host not in LOOPBACK else None
        if proxy is None or proxy_bypass(self._host):
            return _connection(secure, self._host, port)
        by = urlsplit(proxy if "//" in proxy else f"//{proxy}")
        headers = {}
        if by.username:
            import base64

            secret = f"{unquote(by.username)}:{unquote(by.password or '')}"
            headers["Proxy-Authorization"] = f"Basic {base64.b64encode(secret.encode()).decode()}"
        connection = _connection(secure, by.hostname or "", by.port or 80)
        connection.set_tunnel(self._host, port, headers)
        return connection

    def _all(self, response: http.client.HTTPResponse) -> bytes:
        data = response.read(MOST_BYTES)
        if response.length:
            raise Broken(f"{response.length} bytes are missing")
        return data

    def _json(self, data: bytes) -> Any:
        try:
            return json.loads(data)
        except (ValueError, RecursionError):
            raise Foreign(f"it answers {_start(data.decode(errors='replace')) or 'nothing'}") from None


def _connection(secure: bool, host: str, port: int) -> http.client.HTTPConnection:
    if secure:
        trust = ssl.create_default_context()
        return http.client.HTTPSConnection(host, port, timeout=CONNECTING, context=trust)
    return http.client.HTTPConnection(host, port, timeout=CONNECTING)


def _check_status(response: http.client.HTTPResponse) -> None:
    """Raise Refused unless the request was accepted."""
    if 300 <= response.status < 400:
        raise Refused(response.status, f"redirect to {_start(response.getheader('location', '?'))}")
    if response.status >= 400:
        later = response.getheader("retry-after", "")
        raise _refused(response.status, response.read(MOST_BYTES), float(later) if later.isdigit() else 0.0)


def _refused(status: int, data: bytes, after: float) -> Refused:
    """Return the error that a body reports, in whichever form the server has."""
    text = data.decode(errors="replace")
    try:
        found: Any = json.loads(text)
    except (ValueError, RecursionError):
        return Refused(status, _start(text) or "no reason", after)
    code = None
    for key in ("error", "detail", "message"):
        if isinstance(found, dict) and found.get(key):
            code = code if found.get("code") is None else found["code"]
            found = found[key]
    if isinstance(code, int) and 400 <= code < 600:
        status, code = code, None
    said = _start(found if isinstance(found, str) else json.dumps(found, ensure_ascii=False))
    return Refused(status, said if code is None else f"{said} ({code})", after)


def _start(text: str) -> str:
    """Return the beginning of a text as one line."""
    line = " ".join(text.split())
    return line if len(line) <= 240 else line[:239] + "…"


def _may_pass(error: BaseException) -> bool:
    """Say whether another attempt may help: the connection, an overload; not a silence that took its time."""
    if isinstance(error, Refused):
        return error.status in PASSING and not error.too_long and not _about_request(error)
    return isinstance(error, ConnectionError) and not isinstance(error, ConnectionRefusedError)


def _may_pass_later(error: BaseException) -> bool:
    """Say the same of a server that was there before: it may be starting again."""
    return _may_pass(error) or isinstance(error, ConnectionRefusedError)


def _about_request(error: Refused) -> bool:
    """Say whether an error of the server (500) is about what was asked for, as some say it."""
    return error.status == 500 and bool(_REQUEST.search(error.said))


def _text(content: Any) -> str:
    """Return a message's content as text: it may be a text, a list of parts, or missing."""
    if isinstance(content, list):
        return "".join(str(part.get("text") or "") for part in content if isinstance(part, dict))
    return content if isinstance(content, str) else ""
