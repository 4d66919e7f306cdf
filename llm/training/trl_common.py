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
``_prepare_dataset``, ``_get_train_sampler``, ``_send_telemetry``, ``_metrics`` and the call that
``logprobs.install`` answers; TRL is pinned exactly, and a test reads their signatures.

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
from .pace import Report, Watch, finish, rate_at
from .policy import PolicyConfig, PolicyRun, Work, reference, shuffled
from .prefix import backward_shared

if TYPE_CHECKING:
    import torch


class Order:
    """A sampler of TRL's: the indices of the steps that are still to do."""

    def __init__(self, indices: Sequence[int]) -> None:
        self._indices = indices

    def __len__(self) -> int:
        return len(self._indices)

    def __iter__(self) -> Iterator[int]:
        return iter(self._indices)


class Ours:
    """What replaces parts of a TRL trainer; see the module's text. Mixed in before TRL's class."""

    run: PolicyRun
    order: Order
    work: Work
    answers: Answers
    loss_of_step: float
    chosen: list[int]
    """The items of the current step."""

    def _send_telemetry(self) -> None:
        """Nothing leaves the machine."""

    def _prepare_dataset(self, dataset: Any, *rest: Any) -> Any:
        """The data set holds the items' numbers; ``work`` has the rows."""
        return dataset

    def _get_train_sampler(self, dataset: Any = None) -> Order:
        return self.order

    def floating_point_ops(self, inputs: Any) -> int:
        """Not counted."""
        return 0

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """Nothing: what is around the steps shows them."""

    def training_step(self, model: Any, inputs: Any, num_items_in_batch: Any = None) -> torch.Tensor:
        """Leave the gradient of a whole step: its micro-batches, then what is replayed."""
        import torch

        run, self.chosen = self.run, [int(i) for i in inputs["items"]]
        inner: Any = super()
        total = torch.zeros((), device=run.device)
        with run.autocast():
            shared = begin(run.core, [row for i in self.chosen for row in self.work.rows(i)], grad=True)
        lengths = [sum(len(row.ids) - shared.length for row in self.work.rows(i)) for i in self.chosen]
        self.work.before(self.chosen)
        self.answers.shared = shared
        for part in cut(lengths, run.config.micro_tokens):
            batch = self.work.batch([self.chosen[place] for place in part])
            # The trainer divides the mean of a micro-batch by this, so the step's is the mean of all.
            self.current_gradient_accumulation_steps = len(self.chosen) / len(part)
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
        per_device_train_batch_size=config.batch,
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


def _around(trainer: Any, watch: Watch, work: Work) -> Any:
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
            rows = [row for item in trainer.chosen for row in work.rows(item)]
            tokens = sum(sum(row.mask) for row in rows)
            shown = run.account(self.started, trainer.loss_of_step, len(trainer.chosen), tokens)
            metrics = trainer._metrics["train"]
            run.notes.update({name: sum(v) / len(v) for name, v in metrics.items() if v})
            metrics.clear()
            watch.after(shown, run.notes)
            control.should_training_stop = watch.over()

    return Around()


def build(run: PolicyRun, work: Work, kind: str, order: Order, **special: Any) -> Any:
    """Return TRL's trainer ``kind`` (``DPO``, ``KTO``) over ``work``, with ``Ours`` mixed in."""
    import datasets
    import torch
    from transformers import PrinterCallback

    trainer = ours(f"{kind}Trainer")(
        model=run.wrapped,
        args=arguments(f"{kind}Config", run.config, run.device, **special),
        train_dataset=datasets.Dataset.from_dict({"item": list(range(work.count))}),
        processing_class=padding_tokenizer(),
        data_collator=lambda items: {"items": [item["item"] for item in items]},
        optimizers=(
            run.optimiser,
            # The rate is set before each step; this keeps the scheduler from changing it.
            torch.optim.lr_scheduler.LambdaLR(
                run.optimiser,
                lambda _: rate_at(run.progress(), 1.0, run.config.warmup),
            ),
        ),
    )
    trainer.remove_callback(PrinterCallback)
    if "ref" in run.wrapped.peft_config:
        run.wrapped.delete_adapter("ref")  # TRL's copy of the adapter; ours is a list of numbers
    trainer.precompute_ref_logps = True
    trainer.run, trainer.order, trainer.work = run, order, work
    trainer.answers = Answers(run.core, run.autocast)
    return trainer


def train(
    run: PolicyRun,
    work: Work,
    kind: str,
    progress: Callable[[Progress], None] | None,
    **special: Any,
) -> Report:
    """Train until steps or minutes are used up, or go on with the run that ``out`` holds.

    Args:
        kind: ``DPO`` or ``KTO``.
        special: arguments of TRL's configuration for the method.
    """
    config, state = run.config, run.state
    config.out.mkdir(parents=True, exist_ok=True)
    run.total = config.steps or max(1, round(config.epochs * work.count / config.batch))
    with _quiet():
        work.refer(reference(run, work))
        run.resume()
        title = f"{config.name} by {kind} on {run.device}, {work.count} items"
        with Watch(run, title, progress) as watch:
            if not watch.over():
                wanted = islice(shuffled(work.count, config.seed), run.total * config.batch)
                order = Order(list(wanted)[state.step * config.batch :])
                special = {**special, "max_steps": run.total - state.step}
                trainer = build(run, work, kind, order, **special)
                trainer.add_callback(_around(trainer, watch, work))
                trainer.train()
    return finish(run)
