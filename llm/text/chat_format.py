"""A model's chat format: what stands around each message, read off its own chat template.

A template (Jinja, as Hugging Face defines it) is rendered a few times with marked messages, and what stands
between the marks is what frames them. It fits if the framing of a message does not depend on what follows, so
that the ids of n messages are a prefix of those of n+1; any other template, and one that does not render,
gives None.
Rendering happens here alone, in Jinja's sandbox: no text of a user, a file or a tool ever passes through a
template.

Limits: what a template says about tools is not used (our calls and results have one form for all models); a
default system message of the template is left out.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

_ROLES = ("system", "user", "assistant", "user", "assistant", "user")
_LONGEST = 1 << 17
"""Characters of a template that is rendered."""


@dataclass(frozen=True)
class ChatFormat:
    """The texts around messages; control tokens in them are single ids, and nowhere else."""

    begin: str
    """Before everything."""
    headers: Mapping[str, str]
    """Before the body of a message, by role."""
    ends: Mapping[str, str]
    """After it; that of ``assistant`` begins with the token that ends an answer."""
    first_user: str | None = None
    """The header of a user message right after the system message, where both are one turn."""
    lead: str = ""
    """What stands before an assistant's body but not in the prompt that asks for one (a space)."""


CHATML = ChatFormat(
    begin="",
    headers={role: f"<|im_start|>{role}\n" for role in ("system", "user", "assistant")},
    ends=dict.fromkeys(("system", "user", "assistant"), "<|im_end|>\n"),
)


def is_chatml(template: str) -> bool:
    """Say without rendering whether a template is ChatML and nothing else."""
    return "<|im_start|>" in template and "<|im_sep|>" not in template and "<think>" not in template


def template_in(folder: Path) -> str:
    """Return the chat template of a Hugging Face folder, "" if it has none."""
    file, settings = folder / "chat_template.jinja", folder / "tokenizer_config.json"
    if file.is_file():
        return file.read_text(encoding="utf-8")
    found = json.loads(settings.read_text(encoding="utf-8")) if settings.is_file() else {}
    template = found.get("chat_template", "")
    if isinstance(template, list):  # several, each with a name
        named = {item.get("name"): item.get("template") for item in template if isinstance(item, dict)}
        template = named.get("default", "")
    return template if isinstance(template, str) else ""


def read_template(template: str, bos: str, eos: str, controls: Sequence[str]) -> ChatFormat | None:
    """Return the format that ``template`` describes; None if it does not fit.

    ``controls`` are the texts of the vocabulary's control tokens, one of which must end an answer.
    """
    if len(template) > _LONGEST:
        return None
    render = _renderer(template, bos, eos)
    for roles in (_ROLES, _ROLES[1:]):  # some refuse a system message: then its text opens the user's first
        try:
            found = _derive(render, roles, bos, controls)
        except Exception:  # a template is a program: it may fail in any way, and its own refusals come so too
            continue
        if found is not None:
            return found
    return None


class _Renderer:
    """Renders a template with marked messages."""

    def __init__(self, template: Any, bos: str, eos: str) -> None:
        self._template, self._names = template, {"bos_token": bos, "eos_token": eos}

    def between(self, roles: Sequence[str], asking: bool) -> list[str] | None:
        """Return the texts before, between and after the messages' bodies; None if a body is not there."""
        marks = [f"body{i}mark" for i in range(len(roles))]
        messages = [{"role": role, "content": mark} for role, mark in zip(roles, marks, strict=True)]
        text = self._template.render(
            messages=messages, add_generation_prompt=asking, tools=None, enable_thinking=False, **self._names
        )
        pieces = []
        for mark in marks:
            before, found, text = text.partition(mark)
            if not found:
                return None
            pieces.append(before)
        return [*pieces, text]


def _renderer(template: str, bos: str, eos: str) -> _Renderer | None:
    """Compile a template as transformers does; None if it is not one."""
    from jinja2 import TemplateError
    from jinja2.sandbox import ImmutableSandboxedEnvironment

    def refuse(message: str) -> None:
        raise TemplateError(message)

    environment = ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=["jinja2.ext.loopcontrols"]
    )
    environment.filters["tojson"] = lambda value, **options: json.dumps(value, ensure_ascii=False, **options)
    environment.globals["raise_exception"] = refuse
    try:
        return _Renderer(environment.from_string(template), bos, eos)
    except TemplateError:
        return None


def _derive(
    render: _Renderer | None, roles: Sequence[str], bos: str, controls: Sequence[str]
) -> ChatFormat | None:
    """Return the format read off a talk of ``roles``; None if it does not fit."""
    start = roles.index("user") + 1  # bodies up to the first of the user
    if render is None or not (whole := render.between(roles, False)):
        return None
    asked, unasked = render.between(roles[:start], True), render.between(roles[:start], False)
    answered = render.between(roles[: start + 1], False)
    if not (asked and unasked and answered):
        return None
    opening, user_end, answer_end = whole[:start], unasked[-1], answered[-1]
    turn, back = whole[start], whole[start + 1]  # from the user's body to the answer's, and on to the next
    stable = turn == whole[start + 2] and back == whole[start + 3]
    same = asked[:-1] == unasked[:-1] == answered[:start] == opening
    if not (stable and same and asked[-1].startswith(user_end) and back.startswith(answer_end)):
        return None
    if turn != asked[-1] and turn.rstrip(" ") != asked[-1] and not asked[-1].startswith(turn):
        return None
    end = min((control for control in controls if control in answer_end), key=answer_end.index, default=None)
    if end is None or answer_end[: answer_end.index(end)].strip():
        return None
    user = back[len(answer_end) :]
    begin = bos if bos and opening[0].startswith(bos) else ""
    open_thought = "<think>" in asked[-1] and "</think>" not in asked[-1]  # calls come without one
    headers = {"user": user, "assistant": (turn if open_thought else asked[-1])[len(user_end) :]}
    ends = {"user": user_end, "assistant": answer_end.lstrip(" ")}
    if roles[0] == "system":
        headers["system"] = opening[0][len(begin) :]
        own = bool(user) and opening[1].endswith(user)  # else its text stands in the user's first message
        ends["system"] = opening[1].removesuffix(user) if own else ""
        first = None if own else opening[1]
    else:
        headers["system"], ends["system"], first = user.removeprefix(begin), "", "\n\n"
    lead = turn[len(asked[-1]) :] if turn.startswith(asked[-1]) else ""
    return ChatFormat(begin, headers, ends, first, lead)
