r"""A block in which a training loop is recorded.

Three taps are enough: the loader tells which samples a batch holds, a hook on the network's forward pass tells which
inputs it received at which parameters, and the optimizer-step hook of torch tells when the parameters move. What is
stored is what the optimizer did, so clipping, schedules, accumulation and skipped steps are right by construction.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from operator import is_not
from types import TracebackType
from typing import Any, Self

import torch
from torch import Tensor, nn
from torch.optim.optimizer import register_optimizer_step_post_hook, register_optimizer_step_pre_hook

from ..arguments import what_came
from ..errors import DataError, RecordingError, StoreError
from ..losses import Loss
from ..nested import leaves
from ..network import Parameters, get_random_state, random_state
from ..storage import MemoryStore, Store
from . import faults, precision
from .averages import Average, averaged
from .calling import Calling
from .classes import compare_names
from .copy_check import warn_of_other_outputs
from .gradient_check import warn_of_another_loss
from .hooks import attach
from .keeping import Keep
from .loading import Deliver
from .loss_check import refuse_other_losses
from .optimizers import Optimizers, Plan
from .passes import Pass, Passes
from .rules import RULES
from .run import Run
from .source import Source
from .step import MicroBatch, Step
from .subject import Subject
from .surroundings import another_at_the_end, another_network
from .tape import Place, Tape
from .wrappers import network_behind, refuse_parts


class Recording:
    """The one mutable object: it listens while the block runs, and dies into an immutable :class:`Run`.

    Args:
        model: The module that the loop calls.
        loader: The loader, or the pair ``(inputs, targets)``.
        loss: The per-sample loss.
        place: Where the run goes.
        keep: Which rows are stored.
        average: A module with averaged weights.
        split: ``batch -> (inputs, targets)``.
        ids: ``batch -> whole numbers``.
        class_names: A word for each class.
        notes: Plain data to keep with the run.
        targets: ``(inputs, given) -> targets``, where the loop makes its targets from what it feeds the network.
        told: Where no pass is listened to and :meth:`book` tells of all of them, what to do if the first gradient is
            another one.
        earlier: The buffers before the first pass, where passes were seen before the recording began.
        calling: How the network is called, where that is not with tensors in order.

    Attributes:
        acknowledged: The number of steps that are safely stored.
        seen: In a game of two networks, the number of steps that the other one has made.
        watched: Why the gradient of the next step is to be compared again with that of the recorded loss, as words for
            that step, where it has terms that the first one had not.
        what: What is recorded, in words.
    """

    seen: int | None = None
    watched: str | None = None
    what: str = "recorded model"

    def __init__(self, model: nn.Module, loader: Any, loss: Loss, *, place: Place, keep: Keep,
                 average: nn.Module | None, split: Callable[[Any], tuple[Any, Any]], ids: Callable[[Any], Any] | None,
                 class_names: list[str] | None, notes: dict[str, Any],
                 targets: Callable[[tuple[Tensor, ...], Tensor], Tensor] | None = None, told: str | None = None,
                 earlier: Parameters | None = None, calling: Calling | None = None):
        self._source = Source(loader, split, ids)
        refuse_parts(model)
        self._model, self._loss, self._place, self._keep = model, loss, place, keep
        self._averaged = None if average is None else averaged(network_behind(model), average)
        self._class_names, self._notes, self._earlier = class_names, notes, earlier
        self._targets, self._told, self._calling = targets, told, calling
        self._run: Run | None = None
        self._used = False

    # -- the block ---------------------------------------------------------------------------------------------------

    def __enter__(self) -> Self:
        if self._used:
            raise RecordingError("A recording is used once. Call record(...) again for another one.")
        subject = self._subject = Subject(self._model, self._earlier, self._calling)
        samples = self._source.samples
        self._passes = Passes(samples, subject.norms, drawn=not (self._told is None and self._targets is None))
        self._optimizers = Optimizers(subject)
        self._last_batches: list[MicroBatch] = []
        self._foreign = 0
        self._random: Tensor | None = None
        # Whether the copy gives other outputs than the model; not known before the first pass.
        self._other: bool | None = None
        meta = {
            **subject.about(), "samples": samples.size if samples.fixed else None, "loss": self._loss.name,
            "loss_options": self._loss.options, "class_names": self._class_names, "keep": self._keep.word,
            "notes": self._notes, "complete": False,
        }
        if self._calling is not None:
            meta["calling"] = self._calling.about()
        average = None if self._averaged is None else Average(self._averaged, subject.dtype)
        self._tape = Tape(subject, samples, self._place, self._keep, average, meta, self._loss)
        self._run = self._tape.earlier
        if self._run is not None:
            self._passes.forms.take_up(self._run)
        self._tape.keep_surroundings(self._earlier)
        try:
            self._attach()
        except BaseException:
            self._detach()
            self._tape.abandon()
            raise
        self._used = True
        return self

    def _attach(self) -> None:
        self._hooks: list[Any] = [
            register_optimizer_step_pre_hook(self._before_step),
            register_optimizer_step_post_hook(self._after_step),
        ]
        if self._told is None:
            self._hooks += [attach(self._subject.called.register_forward_pre_hook, self._before_pass),
                            attach(self._subject.called.register_forward_hook, self._after_pass)]
        self._source.open()

    def _detach(self) -> None:
        for hook in self._hooks:
            hook.remove()
        self._source.close()
        self._passes.close()

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None,
                 trace: TracebackType | None) -> None:
        tape = self._tape
        self._detach()
        ended = tape.settle()
        changed = self._subject.surroundings.difference(thoroughly=True)
        try:
            store = tape.finish(ended, complete=kind is None and changed is None)
            if store is not None:
                self._run = self._opened(store)
        except StoreError as failure:
            rescued = self._rescue(tape, failure)
            if error is None:
                failure.add_note(rescued)
                raise
            # The error that ended the block is the one to see first.
            error.add_note(rescued if isinstance(error, StoreError) else f"{failure}\n{rescued}")
        finally:
            tape.release()
            self._optimizers.forget()
        if not tape.recorded and kind is None:
            raise faults.nothing_recorded(self._foreign, self._source.batches, self._source.unread, self.what)
        if tape.recorded and changed is not None:
            found = another_at_the_end(tape.step, changed)
            if error is None:
                raise found
            if not isinstance(error, RecordingError):
                error.add_note(str(found))

    def _opened(self, store: Store | MemoryStore) -> Run:
        if isinstance(store, Store):
            store = Store.open(store.path, "run", "size")
        return Run.from_store(store, self._subject.network, self._loss)

    def _rescue(self, tape: Tape, failure: StoreError) -> str:
        """Makes a run in memory of what a failed disk holds and what it could not take; says so."""
        memory = tape.rescue()
        if memory is not None:
            self._run = self._opened(memory)
        steps = tape.step if memory is None else len(self.run)
        return faults.rescued(failure, self._place.out, self.acknowledged, steps, kept=memory is not None,
                              resumable=self._place.resumable)

    @property
    def run(self) -> Run:
        """The recorded run, after the block."""
        if self._run is None:
            raise faults.no_run_yet()
        return self._run

    @property
    def acknowledged(self) -> int:
        """The number of steps that are safely stored."""
        return self._tape.acknowledged if self._used else 0

    @property
    def steps(self) -> int:
        """The number of steps that have ended."""
        return self._tape.step - self._tape.broken_off if self._used else 0

    @property
    def gathered(self) -> Tensor:
        """The norms of the gradients that the parameters hold, with one number for each."""
        return self._subject.norms()

    # -- batches -----------------------------------------------------------------------------------------------------

    def batch(self, ids: Any) -> None:
        """Says which samples the next forward pass sees, in a loop that has no loader."""
        if self._source.has_loader:
            raise RecordingError(
                "recording.batch(ids) is for a loop that has no loader, and this recording listens to one. Pass the "
                "tensors of all samples instead of the loader, or leave recording.batch out."
            )
        self._source.say(ids)

    def relay(self, deliver: Deliver) -> None:
        """Has the loader's batches told to ``deliver`` first, which hands on those that count."""
        self._source.relay(deliver)

    def commit(self) -> None:
        """Brings all steps that were made to the store at once, as before a checkpoint that may be gone on from."""
        self._tape.commit()

    def deliver(self, batch: Any, ids: list[int]) -> None:
        """Takes note that the loop received a batch of these samples."""
        self._source.deliver(batch, ids)

    def forget(self) -> None:
        """Takes note that the loop received a batch of samples that are not recorded."""
        self._source.skip()

    # -- passes ------------------------------------------------------------------------------------------------------

    def take(self, args: tuple[Any, ...], kwargs: dict[str, Any], outputs: Any, random: Tensor | None,
             autocast: str | None) -> Pass | None:
        """Takes a forward pass that was made before the recording began, on the batch that was delivered last."""
        self._random = random
        with torch.enable_grad(), precision.reduced(autocast, self._subject.device):
            return self._see(args, kwargs, outputs)

    def _before_pass(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        if torch.is_grad_enabled():
            self._random = get_random_state(self._subject.device)

    def _after_pass(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], outputs: Any) -> None:
        self._see(args, kwargs, outputs)

    def _see(self, args: tuple[Any, ...], kwargs: dict[str, Any], outputs: Any) -> Pass | None:
        tensors = [t for t in leaves(outputs) if t.requires_grad] if torch.is_grad_enabled() else []
        if not tensors:
            return None
        if self._calling is not None:
            args, kwargs, outputs = self._calling.tensors(args, kwargs), {}, self._calling.picked(outputs)
        if kwargs or not args or not all(isinstance(a, Tensor) for a in args):
            raise RecordingError(
                "The network is called with keyword arguments or with something that is no tensor, and the recorder "
                "keeps positional tensors only. Call it as model(x, ...), or wrap it in a module that does."
            )
        subject, random = self._subject, self._random
        if random is not None and torch.equal(random, get_random_state(subject.device)):
            random = None
        known = self._known(args)
        form = None
        if self._calling is not None and known is not None:
            long, labels = self._calling.widened(args, known[1])
            if random is None:
                args, known = long, (known[0], labels)
            elif labels is not known[1] or any(map(is_not, long, args)):
                # Random numbers drawn for longer rows would be others.
                form = long, labels
        this = Pass(self._passes, args, known, self._tape.step - self._tape.broken_off,
                    subject.training, random, precision.current(subject.device) or precision.of(subject.called),
                    form)
        for t in tensors:
            t.register_hook(this.use)
        if self._other is None:
            if self._class_names is not None and this.known is not None:
                compare_names(self._class_names, outputs, this.known[1], self._loss.name)
            self._other = warn_of_other_outputs(subject, this, outputs)
        return this

    def _known(self, inputs: tuple[Tensor, ...]) -> tuple[Sequence[int], Tensor] | None:
        """The ids and the targets behind the inputs of a pass, or ``None``."""
        found = self._source.find(inputs)
        if found is None or self._targets is None:
            return found
        ids, given = found
        with torch.no_grad(), random_state(None, self._subject.device):
            made = self._targets(tuple(t.detach() for t in inputs), given)
        if not isinstance(made, Tensor) or made.shape[:1] != (len(ids),):
            raise DataError(
                f"targets= must give a tensor with one row for each of the {len(ids)} samples of a batch; "
                f"{what_came(made)} came. Pass targets=lambda inputs, given: ... with the samples along the first axis."
            )
        return ids, made

    def book(self, inputs: tuple[Tensor, ...], ids: Sequence[int], targets: Tensor,
             training: tuple[str, ...] | None = None, random: Tensor | None = None) -> None:
        """Takes note of a pass behind the next step that the loop made, be it in another form.

        Args:
            inputs: What the network received.
            ids: The ids of its rows.
            targets: Their targets.
            training: The names of the submodules that were in train mode; those that are if not given.
            random: The random state before the pass, if it used it.
        """
        subject = self._subject
        this = Pass(self._passes, inputs, (ids, targets), self._tape.step - self._tape.broken_off,
                    subject.training if training is None else training, random, precision.current(subject.device))
        this.use(targets)

    # -- steps -------------------------------------------------------------------------------------------------------

    def _before_step(self, optimizer: torch.optim.Optimizer, args: Any, kwargs: Any) -> Any:
        closure = args[1] if len(args) > 1 else kwargs.get("closure")
        if closure is None:
            self._note_step(optimizer)
            return None
        return watched(args, kwargs, lambda: self, optimizer)

    def note_evaluation(self, optimizer: torch.optim.Optimizer, first: bool) -> None:
        """Takes note that a step called its closure, which made a gradient; what later calls see is of no step."""
        if first:
            self._note_step(optimizer)
        self._passes.clear()

    def _after_step(self, optimizer: torch.optim.Optimizer, args: Any, kwargs: Any) -> None:
        self._optimizers.end(optimizer)
        self._tape.end()

    def _note_step(self, optimizer: torch.optim.Optimizer) -> None:
        tape, passes = self._tape, self._passes
        plan = self._optimizers.plan(optimizer, tape.step)
        if not any(plan.names):
            self._foreign += 1
            return
        changed = self._subject.surroundings.difference()
        if changed is not None:
            raise another_network(tape.step, changed)
        tape.raise_failure()
        passes.forms.tell()
        tape.forget_what_was_broken_off()
        step = self._made(plan, tape.step)
        if step.owner == tape.step:
            self._look_at_the_first(step)
            self._optimizers.add(optimizer, step)
        elif self.watched is not None and step.optimizer in RULES and not self._other:
            warn_of_another_loss(self._subject, self._loss, self._source.samples, step, self._told, self.watched)
        self.watched = None
        tape.keep_samples(passes.fresh)
        passes.fresh = []
        tape.keep_start(step, self._optimizers)
        self._last_batches = step.batches
        self._source.next_step()
        passes.clear()
        tape.begin(step)

    def _made(self, plan: Plan, k: int) -> Step:
        """The step that an optimizer is about to make, from the gradients as they are."""
        subject, optimizer = self._subject, plan.optimizer
        batches = self._passes.batches or ([] if self._passes.unknown else self._last_batches)
        if not batches:
            raise (faults.never_iterated(k) if self._source.unread else
                   faults.other_rows(k) if self._passes.unknown else faults.not_called(k))
        norms, largest = subject.norms(), subject.largest()
        bad = [name for name, norm in zip(subject.names, norms.tolist(), strict=True) if not math.isfinite(norm)]
        if bad:
            raise faults.non_finite(k, f"the gradient of {bad[0]!r}", f"{len(bad)} of {len(subject.names)} gradients")
        groups = [plan.group(i, group) for i, group in enumerate(optimizer.param_groups)]
        without = [name for names in plan.names for name in names if subject.parameters[name].grad is None]
        first = self._optimizers.first_step(optimizer)
        return Step(plan.rule, groups, batches, norms, largest, without, owner=k if first is None else first,
                    seen=self.seen)

    def _look_at_the_first(self, step: Step) -> None:
        """Looks at the first step of an optimizer: can it be unrolled, and is the loss that of the loop?"""
        name, subject, samples = step.optimizer, self._subject, self._source.samples
        if name not in RULES and self._keep.replays:
            raise RecordingError(
                f"keep={self._keep.word!r} leaves steps to be computed again, and a step of {name} cannot be. "
                'Record with keep="all".'
            )
        if name not in RULES:
            faults.warn(
                f"The steps of {name} are recorded, but they cannot be unrolled into shares of samples; decompose "
                f'will refuse them unless rule="displacement" is asked. Known are {", ".join(sorted(RULES))}.'
            )
        if not len(self._optimizers):
            refuse_other_losses(subject, self._loss, samples, step.batches[0])
            if name in RULES and not self._other:
                warn_of_another_loss(subject, self._loss, samples, step, self._told)


def watched(args: Any, kwargs: Any, find: Callable[[], Recording | None],
            optimizer: torch.optim.Optimizer) -> tuple[Any, dict[str, Any]]:
    """The arguments of a step with a closure that tells a recording of its calls; it may begin during the first."""
    closure = args[1] if len(args) > 1 else kwargs["closure"]
    noted = False

    def told() -> Any:
        nonlocal noted
        value = closure()
        recording = find()
        if recording is not None:
            # The first call gives the gradient at the step's start.
            recording.note_evaluation(optimizer, first=not noted)
        noted = True
        return value

    return (args[0], told, *args[2:]), {key: item for key, item in kwargs.items() if key != "closure"}
