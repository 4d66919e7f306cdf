"""``ScriptedModel``: a model that says what it was told to. For tests, demonstrations and replays.

It plays a list of turns, one for each prompt of a session, and keeps every prompt it saw. A turn is
a :class:`~autogpt.llm.message.ToolCall`, a text (what a model without a grammar might say: parsed,
and invalid if it is no call), or a function from the prompt to either. Calls are checked against
the prompt's schemas as those of any model without masks are, so a test notices when the loop would
not have allowed them.

>>> model = ScriptedModel([ToolCall("finish", {"answer": "42"})])
>>> model.respond([Prompt("s", (), (CallSpec("finish", {"type": "object"}),))])[0].call.name
'finish'

A script file is YAML or JSON: a list of turns, or a mapping from session to such lists. A turn is
``{name: ..., arguments: {...}}`` or a plain text.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from ...errors import UsageError
from ...text import Prompting
from ..message import Prompt, ToolCall, Turn, why_invalid
from ..text.grammar import parse_call

Said = ToolCall | str
Line = Said | Callable[[Prompt], Said]


class ScriptEnded(UsageError):
    """A scripted model was asked for more turns than its script holds."""


class ScriptedModel:
    """A model that plays a script; token fields of its turns are empty."""

    fingerprint = "scripted"
    tokenizer_hash = ""
    prompting: Prompting = "names"

    def __init__(
        self,
        script: Sequence[Line] | Mapping[str, Sequence[Line]],
        check: bool = True,
        name: str = "scripted",
    ) -> None:
        """Play ``script`` from its start in every session, or each session's own list of a mapping.

        With ``check=False`` calls are passed on without a look at the prompt's schemas.
        """
        self.name = name
        self.check = check
        self.prompts: list[Prompt] = []
        """Every prompt seen, in order."""
        self._script = script
        self._at: dict[str, int] = {}

    @classmethod
    def from_file(cls, path: str | Path, check: bool = True) -> ScriptedModel:
        """Read a script file (see above); raises UsageError naming the file and the turn."""
        import yaml

        place = Path(path)
        try:
            raw = place.read_text(encoding="utf-8")
            data: Any = yaml.safe_load(raw)
        except OSError as error:
            raise UsageError(f"{place}: cannot read the script ({error.strerror})") from error
        except (ValueError, yaml.YAMLError) as error:
            reason = " ".join(str(error).split())
            raise UsageError(f"{place}: the script is neither YAML nor JSON ({reason})") from error
        model = cls(_script(data, place), check, name=f"scripted:{place.name}")
        model.fingerprint = f"scripted:{hashlib.sha256(raw.encode()).hexdigest()}"
        return model

    def respond(
        self, prompts: Sequence[Prompt], on_text: Callable[[int, str], None] | None = None
    ) -> list[Turn]:
        """Play the next turn of each prompt's session; raises ScriptEnded when there is none."""
        turns = []
        for i, prompt in enumerate(prompts):
            self.prompts.append(prompt)
            turn = self._turn(prompt, self._next(prompt))
            if on_text is not None:
                on_text(i, turn.text)
            turns.append(turn)
        return turns

    def close_session(self, session: str) -> None:
        """Forget where ``session`` stood; asked again, it starts from the beginning."""
        self._at.pop(session, None)

    def _next(self, prompt: Prompt) -> Said:
        script = self._script
        lines = script.get(prompt.session, ()) if isinstance(script, Mapping) else script
        at = self._at.get(prompt.session, 0)
        if at >= len(lines):
            raise ScriptEnded(
                f"the script has {len(lines)} turns for session {prompt.session!r} and was asked for "
                f"turn {at + 1}; allowed now: {', '.join(call.name for call in prompt.calls) or 'nothing'}"
            )
        self._at[prompt.session] = at + 1
        line = lines[at]
        return line(prompt) if callable(line) else line

    def _turn(self, prompt: Prompt, said: Said) -> Turn:
        if isinstance(said, ToolCall):
            call, text, invalid = said, said.text(), None
        else:
            parsed, invalid = parse_call(said)
            if parsed is None:
                return Turn(None, said, invalid=invalid)
            call, text = parsed, said
        wrong = why_invalid(call, prompt.calls) if self.check else None
        return Turn(None, text, invalid=wrong) if wrong else Turn(call, text)


def _script(data: Any, place: Path) -> list[Line] | dict[str, Sequence[Line]]:
    """Read a script file's content."""
    if isinstance(data, list):
        return [_line(entry, f"{place}: turn {i}") for i, entry in enumerate(data, 1)]
    if isinstance(data, dict) and all(isinstance(entry, list) for entry in data.values()):
        return {
            str(name): [_line(entry, f"{place}: {name}: turn {i}") for i, entry in enumerate(entries, 1)]
            for name, entries in data.items()
        }
    raise UsageError(f"{place}: a script is a list of turns, or a mapping from session to such lists")


def _line(entry: Any, where: str) -> Line:
    if isinstance(entry, str):
        return entry
    if isinstance(entry, dict) and isinstance(entry.get("name"), str) and set(entry) <= {"name", "arguments"}:
        arguments = entry.get("arguments") or {}
        if isinstance(arguments, dict):
            return ToolCall(entry["name"], arguments)
    raise UsageError(f"{where}: a turn is a text or {{name: ..., arguments: {{...}}}}")
