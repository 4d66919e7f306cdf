"""``AutoGPT``: the whole agent as one Python object.

    agent = AutoGPT(tools=[my_tool])
    result = agent.run("Which supplier had the most late deliveries?", inputs=["deliveries.csv"])

Settings come from the same places as for the command line, keyword arguments first. The model loads
on first use and stays loaded. Runs are recorded like any other, so ``autogpt runs show`` has them.
Tools that are passed in run in this process and are this program's own responsibility.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from ...errors import UsageError
from ...llm.message import Model, Sampling
from ...settings import load

if TYPE_CHECKING:
    from ..goals.load import Goal
    from ..record.events import Event, PersonAnswered, PersonAsked
    from ..record.result import RunResult
    from ..run.chat import ChatSession
    from ..run.runner import Runner


class AutoGPT:
    """An agent: a model, tools, and a home where runs are kept."""

    def __init__(
        self,
        model: str | Model | None = None,
        tools: Iterable[object] = (),
        *,
        home: str | Path | None = None,
        device: str | None = None,
        dtype: str | None = None,
        seed: int = 0,
        memory: bool | None = None,
        ask: Callable[[str, PersonAsked], PersonAnswered] | None = None,
        on_event: Callable[[str, Event], None] | None = None,
    ) -> None:
        """Prepare an agent; nothing is loaded or written yet.

        ``model`` is a name as on the command line, or a model such as ``ScriptedModel``. ``tools``
        are added to the built-in ones: functions under ``@tool``, LangChain tools, Tool objects.
        ``memory`` False: nothing is recalled or kept across runs.
        ``ask`` answers approvals and questions (without it runs are unattended); ``on_event`` is called
        with the run's id and each recorded event. Raises UsageError for wrong settings.
        """
        name = model if isinstance(model, str) else None
        self.settings = load(home=home, model=name, device=device, dtype=dtype, memory=memory)
        self._model: Model | None = None if isinstance(model, str) or model is None else model
        self._tools = list(tools)
        self._seed = seed
        self._ask = ask
        self._on_event = on_event
        self._runner: Runner | None = None

    @property
    def model(self) -> Model:
        """The model, loaded on first use. Raises ModelUnavailable, saying what to fetch."""
        if self._model is None:
            from ..open import open_model

            self._model = open_model(self.settings)
        return self._model

    @property
    def runner(self) -> Runner:
        """The durable driver under this object, for what the short methods do not offer."""
        if self._runner is None:
            from ..open import open_memory, open_registry, open_store
            from ..run.runner import Runner

            store = open_store(self.settings)
            self._runner = Runner(
                store,
                self.model,
                open_registry(self._tools),
                ask=self._ask,
                on_event=self._on_event,
                sampling=Sampling(seed=self._seed),
                memory=open_memory(self.settings, store),
            )
        return self._runner

    def run(self, goal: Goal | str, inputs: Sequence[str | Path] = ()) -> RunResult:
        """Work on a goal to its end and return the outcome; ``inputs`` are copied into its workspace.

        A failed check or a limit is an outcome, not an error. Raises UserError for what a person can
        put right, and Interrupted on Ctrl-C (``resume`` goes on).
        """
        from ..goals.load import adapt

        return self.runner.run(adapt(goal, inputs))

    def resume(self, run: str) -> RunResult:
        """Go on with an interrupted run, by its id or a unique beginning."""
        return self.runner.resume(self.runner.store.resolve_run(run))

    def chat(self, inputs: Sequence[str | Path] = ()) -> ChatSession:
        """Begin a conversation: ``reply = session.say("...")``, and ``session.close()`` at its end."""
        from ..goals.load import adapt
        from ..run.chat import ChatSession

        return ChatSession(self.runner, adapt("a conversation", inputs))

    def rate(self, run: str, value: float, why: str = "") -> str:
        """Rate a run from 0 (useless) to 1, by its id or a unique beginning; return what counts now.

        Raises UsageError for a value outside 0 to 1, an unknown run, and one without an answer.
        """
        from ..record.events import Rating
        from ..run.feedback import rate_run, who

        store = self.runner.store
        rating = Rating(value=value, text=why, by=who())
        return rate_run(store, store.resolve_run(run), rating, self.runner.memory)

    def generate(
        self, text: str, max_tokens: int = 2000, on_text: Callable[[str], None] | None = None
    ) -> str:
        """Return the model's plain answer to a message: no plan, no tools, no record.

        ``on_text`` gets it piece by piece, as it is written. Raises UsageError for a model that only makes
        calls.
        """
        generate = getattr(self.model, "generate", None)
        if generate is None:
            raise UsageError(f"the model {self.model.name} makes tool calls only; it cannot generate text")
        return str(generate(text, max_tokens=max_tokens, on_text=on_text))
