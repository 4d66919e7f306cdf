"""What the methods that train through TRL 1.16 share.

TRL computes the losses of DPO, KTO and GRPO; three things of its trainers do not fit, and ``Ours``, a
class that is mixed into them, replaces these:

- Rows. TRL tokenises text and lets every token after the prompt carry loss, tool results too. Here
  rows come as token ids with masks and are never tokenised again; the collator keeps the masks.
- Steps. One batch of TRL's is one optimiser step here; ``training_step`` cuts it into micro-batches
  by a budget of tokens (memory), and adds the replayed samples of ordinary fine-tuning, whose
  cross entropy keeps what was learned before.
- Runs. Order, rate, budget of minutes, checkpoints and what is shown are those of ``pace``, so that
  a killed run goes on exactly; TRL's own checkpoints, logs and its telemetry are off.

The reference policy is the adapter that the run starts from: its log-probabilities are computed once,
before the first step, and kept beside the checkpoint. Log-probabilities are those of the model
itself, without the grammar that the engine adds. Private names of TRL that this leans on:
``_prepare_dataset``, ``_prepare_inputs``, ``_send_telemetry``, ``_metrics``, KTO's ``_compute_kl_logps``,
GRPO's ``_get_per_token_logps_and_entropies`` and the call that ``logprobs.Answers`` answers; TRL is
pinned exactly, and a test reads their signatures.

TRL, accelerate and datasets take seconds to import: only inside functions.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import cache
from itertools import islice
from typing import TYPE_CHECKING, Any

from .console import Progress
from .logprobs import Answers, begin, cut
from .monitor import Sentinel
from .pace import Report, Watch, finish, rate_at
from .policy import PolicyConfig, PolicyRun, Work, reference, shuffled
from .prefix import backward_shared

if TYPE_CHECKING:
    import torch


class Ours:
    """What replaces parts of a TRL trainer; see the module's text. Mixed in before TRL's class."""

    run: PolicyRun
    work: Work
    steps: Sequence[Sequence[int]]
    """The items of each step that is still to do."""
    answers: Answers
    loss_of_step: float
    chosen: list[int]
    """The items of the current step."""

    def _send_telemetry(self) -> None:
        """Nothing leaves the machine."""

    def _prepare_dataset(self, dataset: Any, *rest: Any) -> Any:
        """The data set holds the items' numbers; ``work`` has the rows."""
        return dataset

    def _prepare_inputs(self, inputs: Any) -> Any:
        """Batches are where they should be; GRPO's own would start to generate here."""
        return inputs

    def get_train_dataloader(self) -> Any:
        """One batch is the items of one optimiser step."""
        from torch.utils.data import DataLoader

        batches: Any = [{"items": list(items)} for items in self.steps]
        return DataLoader(batches, batch_size=None)

    def floating_point_ops(self, inputs: Any) -> int:
        """Not counted."""
        return 0

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """Nothing: what is around the steps shows them."""

    def training_step(self, model: Any, inputs: Any, num_items_in_batch: Any = None) -> torch.Tensor:
        """Leave the gradient of a whole step: its micro-batches, then what is replayed."""
        import torch

        run, work = self.run, self.work
        inner: Any = super()
        total = torch.zeros((), device=run.device)
        self.loss_of_step = 0.0
        self.chosen = list(work.before(inputs["items"]))
        if not self.chosen:
            return total  # nothing to learn from in this step
        with run.autocast():
            shared = begin(run.core, [row for i in self.chosen for row in work.rows(i)], grad=True)
        lengths = [sum(len(row.ids) - shared.length for row in work.rows(i)) for i in self.chosen]
        self.answers.shared = shared
        for part in cut(lengths, run.config.micro_tokens):
            batch = work.batch([self.chosen[place] for place in part])
            # The trainer divides the mean of a micro-batch by this, so the step's is the mean of all;
            # GRPO's sum is over the tokens of the whole step already.
            whole = "num_items_in_batch" in batch
            self.current_gradient_accumulation_steps = 1 if whole else len(self.chosen) / len(part)
            total += inner.training_step(model, batch, num_items_in_batch)
        self.answers.shared = None
        backward_shared(shared)
        run.replay_gradient(len(self.chosen))
        self.loss_of_step = float(total)
        return total

    def _compute_kl_logps(self, model: Any, batch: Any) -> torch.Tensor:
        """KTO's drift of the step, which ``work`` has estimated."""
        import torch

        return torch.tensor([self.work.drift], device=self.run.device)

    def _get_per_token_logps_and_entropies(self, *_: Any, **__: Any) -> tuple[Any, Any, None]:
        """GRPO's log-probabilities and entropies ``[B, L - 1]`` of the rows that ``work`` made last."""
        return self.answers.scored(self.work.current, self.work.temperature)


@cache
def ours(kind: str) -> Any:
    """Return TRL's trainer class ``kind`` (``DPOTrainer``, ...) with ``Ours`` mixed in."""
    import trl

    return type(f"Ours{kind}", (Ours, getattr(trl, kind)), {})


def arguments(kind: str, config: PolicyConfig, device: str, **special: Any) -> Any:
    """Return TRL's arguments (``DPOConfig``, ...) for a run that ``pace`` governs."""
    import trl

    settings: Any = getattr(trl, kind)
    made = settings(
        output_dir=str(config.out),
        per_device_train_batch_size=2,  # not what a step has, see get_train_dataloader; KTO, GRPO want two
        max_grad_norm=1.0,
        gradient_checkpointing=False,
        use_cpu=device == "cpu",
        bf16=False,
        save_strategy="no",
        logging_strategy="no",
        report_to="none",
        disable_tqdm=True,
        remove_unused_columns=False,
        dataloader_pin_memory=False,
        seed=config.seed,
        **special,
    )
    made._n_gpu = min(1, made.n_gpu)  # one process, one device
    return made


def padding_tokenizer() -> Any:
    """Return a tokenizer that knows padding only: TRL asks for one, nothing is tokenised here."""
    from tokenizers import Tokenizer, models
    from transformers import PreTrainedTokenizerFast

    make: Any = PreTrainedTokenizerFast
    return make(
        tokenizer_object=Tokenizer(models.WordLevel({"<pad>": 0}, "<pad>")),
        pad_token="<pad>",
        eos_token="<pad>",
        bos_token="<pad>",
    )


@contextmanager
def _quiet() -> Iterator[None]:
    """TRL and transformers do not log or warn about what does not concern us."""
    import warnings

    from transformers.utils import logging

    level = logging.get_verbosity()
    logging.set_verbosity_error()  # type: ignore[no-untyped-call]
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.set_verbosity(level)


def _around(trainer: Any, watch: Watch, sentinel: Sentinel) -> Any:
    """Return the callback that gives a TRL trainer our rate, accounts and end."""
    from transformers import TrainerCallback

    run: PolicyRun = trainer.run

    class Around(TrainerCallback):
        """What happens before and after each step."""

        def on_step_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
            """Set the rate."""
            self.started = time.monotonic()
            run.notes.clear()
            run.set_rate()

        def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
            """Account for the step."""
            rows = [row for item in trainer.chosen for row in trainer.work.rows(item)]
            tokens = sum(sum(row.mask) for row in rows)
            shown = run.account(self.started, trainer.loss_of_step, len(trainer.chosen), tokens)
            metrics = trainer._metrics["train"]
            run.notes.update({name: sum(v) / len(v) for name, v in metrics.items() if v})
            metrics.clear()
            sentinel.see({"loss": trainer.loss_of_step, **run.notes})
            watch.after(shown, run.notes)
            control.should_training_stop = watch.over()

    return Around()


def build(run: PolicyRun, work: Work, kind: str, steps: Sequence[Sequence[int]], **special: Any) -> Any:
    """Return TRL's trainer ``kind`` (``DPO``, ``KTO``, ``GRPO``) over ``work``, with ``Ours`` mixed in."""
    import datasets
    import torch
    from transformers import PrinterCallback

    more = {"reward_funcs": _no_reward} if kind == "GRPO" else {}
    trainer = ours(f"{kind}Trainer")(
        model=run.wrapped,
        args=arguments(f"{kind}Config", run.config, run.device, max_steps=len(steps), **special),
        train_dataset=datasets.Dataset.from_dict({"item": list(range(work.count))}),
        processing_class=padding_tokenizer(),
        optimizers=(
            run.optimiser,
            # The rate is set before each step; this keeps the scheduler from changing it.
            torch.optim.lr_scheduler.LambdaLR(
                run.optimiser,
                lambda _: rate_at(run.progress(), 1.0, run.config.warmup),
            ),
        ),
        **more,
    )
    trainer.remove_callback(PrinterCallback)
    if "ref" in run.wrapped.peft_config:
        run.wrapped.delete_adapter("ref")  # TRL's copy of the adapter; ours is a list of numbers
    trainer.precompute_ref_logps = True
    trainer.run, trainer.work, trainer.steps = run, work, steps
    trainer.answers = Answers(run.core, run.autocast)
    return trainer


def _no_reward(**_: Any) -> list[float]:
    """TRL asks for a source of rewards; attempts come with theirs."""
    raise NotImplementedError


def train(
    run: PolicyRun,
    work: Work,
    kind: str,
    batch: int,
    progress: Callable[[Progress], None] | None,
    repeat: int = 1,
    **special: Any,
) -> Report:
    """Train until steps or minutes are used up, or go on with the run that ``out`` holds.

    Args:
        kind: ``DPO``, ``KTO`` or ``GRPO``.
        batch: items of a step.
        repeat: how many steps in a row have the same items.
        special: arguments of TRL's configuration for the method.

    Raises:
        Collapse: the model has come apart; what was promoted before stays.
    """
    config, state = run.config, run.state
    config.out.mkdir(parents=True, exist_ok=True)
    run.total = config.steps or max(1, round(config.epochs * work.count * repeat / batch))
    with _quiet():
        work.refer(reference(run, work))
        run.resume()
        with Watch(run, f"{config.name} by {kind} on {run.device}, {work.count} items", progress) as watch:
            if not watch.over():
                stream = shuffled(work.count, config.seed)
                rounds = [list(islice(stream, batch)) for _ in range(-(-run.total // repeat))]
                steps = [rounds[step // repeat] for step in range(state.step, run.total)]
                trainer = build(run, work, kind, steps, **special)
                trainer.add_callback(_around(trainer, watch, Sentinel(config.out / "collapse.json")))
                trainer.train()
    return finish(run)
