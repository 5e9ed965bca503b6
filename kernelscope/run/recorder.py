r"""Recording a training loop without changing it.

Three taps are enough: the loader tells which samples a batch holds, a hook on the network's forward pass tells which
inputs it received at which parameters, and the optimizer-step hook of torch tells when the parameters move. What is
stored is what the optimizer did, so clipping, schedules, accumulation and skipped steps are right by construction.
"""

from __future__ import annotations

import math
import time
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy
from torch.optim.optimizer import register_optimizer_step_post_hook, register_optimizer_step_pre_hook
from torch.utils.data import DataLoader

from ..architecture import describe
from ..errors import DataError, NonFiniteError, RecordingError, StoreError, StoreExists
from ..network import Network, flatten, get_random_state
from ..storage import MemoryStore, Store
from ..storage.files import disk_errors
from ..storage.manifest import exists
from . import precision
from .classes import checked_names, compare_names
from .copy_check import warn_of_other_outputs
from .deliveries import Deliveries, leaves, len_of
from .gradient_check import warn_of_another_loss
from .keeping import Keep
from .loading import Deliver, LoaderTap, as_integers
from .loss_check import refuse_other_losses
from .losses import Loss
from .passes import Pass, Passes
from .provenance import provenance
from .resuming import take_up
from .rows import Rows
from .rules import RULES, hyperparameters, rule_name
from .run import Run
from .samples import Samples, split_batch
from .segments import Chunk, encode
from .step import MicroBatch, Step
from .surroundings import Surroundings, another_at_the_end, another_network, moved_while_frozen
from .wrappers import network_behind, refuse_parts, untraced
from .writer import Writer

#: About how many bytes a step has beside its tensors.
STEP = 512

#: Steps of a small network are handed over when there are this many.
MOST_STEPS = 4096

#: A run of at most this many bytes is taken into memory when its disk fails.
RESCUE = 2**30


def record(
    model: nn.Module,
    loader: DataLoader[Any] | Sequence[Tensor],
    *,
    loss: Callable[..., Tensor],
    out: str | Path | None = None,
    keep: int | str = "all",
    average: nn.Module | None = None,
    batch: Callable[[Any], tuple[Any, Any]] | None = None,
    ids: Callable[[Any], Any] | None = None,
    class_names: Sequence[str] | None = None,
    commit_every: float = 1.0,
    overwrite: bool = False,
    resume: bool = False,
    notes: dict[str, Any] | None = None,
) -> Recording:
    r"""Records the training loop inside the ``with`` block.

    The loop stays as it is: any number of epochs over ``loader``, any ``torch.optim`` optimizer, schedules, clipping,
    accumulation. The model, the loader and the random state are left exactly as they would be without recording. One
    network is recorded: its modules and frozen parameters stay as they are until the block ends.

    Args:
        model: The network that is trained, as the loop calls it; of one that is compiled or spread over devices the
            network within is recorded.
        loader: The loader that the loop iterates, which serves one recording at a time; or a pair ``(inputs, targets)``
            of tensors for a loop that indexes them itself, which then calls ``recording.batch(ids)`` before each
            forward pass (not needed where every pass sees all samples).
        loss: The per-sample loss that is minimised, called as ``loss(outputs, targets, reduction="none")`` if it takes
            a reduction, which gives losses with shape :math:`(n,)` or :math:`(n, *)`; a ``torch.nn`` loss module will
            do. A loop may use its mean, its sum, or any multiple.
        out: The folder to record into; ``None`` keeps the run in memory.
        keep: ``"all"`` stores the parameters at every step; a number k at every k-th, the others are replayed; a size
            such as ``"200MB"`` starts with all and thins out when the size is reached.
        average: A module with averaged weights (``torch.optim.swa_utils.AveragedModel`` or a copy) that the loop
            updates; afterwards ``decompose(..., weights="average")`` explains it.
        batch: ``batch -> (inputs, targets)`` for loaders that give something else than ``(..., targets)``.
        ids: ``batch -> whole numbers`` for loaders whose samples have no index, a number of its own for each sample.
        class_names: A word for each class.
        commit_every: Seconds after which recorded steps are brought to the disk; ``0`` commits every step.
        overwrite: Whether a run in ``out`` may be replaced.
        resume: Whether the run in ``out`` is taken up again, at the step whose parameters the model holds; where there
            is none yet, one is begun.
        notes: Plain data to keep with the run.

    Returns:
        A context manager; ``recording.run`` is the :class:`Run` after the block.

    Raises:
        RecordingError: If the loop and the recording do not fit together; the message says what to do.
        DataError: If batches, ids or targets have another form than asked, or two samples share an id.

    Example:
        >>> import torch.nn.functional as F
        >>> from torch.utils.data import DataLoader, TensorDataset
        >>> x = torch.randn(12, 3); y = x.sum(1, keepdim=True)
        >>> model, loader = nn.Linear(3, 1), DataLoader(TensorDataset(x, y), batch_size=4, shuffle=True)
        >>> optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        >>> with record(model, loader, loss=F.mse_loss) as recording:
        ...     for inputs, targets in loader:
        ...         optimizer.zero_grad()
        ...         F.mse_loss(model(inputs), targets).backward()
        ...         optimizer.step()
        >>> recording.run
        Run(in memory: 3 steps of SGD, 12 samples, 4 parameters)
    """
    return Recording(model, loader, Loss(loss), out=None if out is None else Path(out), keep=Keep.parse(keep),
                     average=average, split=batch or split_batch, ids=ids,
                     class_names=checked_names(class_names),
                     commit_every=commit_every, overwrite=overwrite, resume=resume, notes=notes or {})


@dataclass
class _Plan:
    """What is the same for many steps of an optimizer: which parameters it holds, and the numbers of its groups."""

    optimizer: torch.optim.Optimizer
    held: tuple[int, ...]
    rule: str
    names: list[list[str]]
    frozen: list[tuple[str, Tensor]]
    known: dict[int, tuple[dict[str, Any], dict[str, Any]]] = field(default_factory=dict)

    def group(self, i: int, group: dict[str, Any]) -> dict[str, Any]:
        """The names and numbers of a group, made anew when one of them has changed."""
        seen, plain = self.known.get(i, ({}, {}))
        now = {key: value for key, value in group.items() if key != "params"}
        if any(isinstance(value, Tensor) for value in now.values()) or now != seen:
            plain = {"names": self.names[i], **hyperparameters(group)}
            self.known[i] = now, plain
        return plain


class Recording:
    """The one mutable object: it listens while the block runs, and dies into an immutable :class:`Run`.

    Attributes:
        acknowledged: The number of steps that are safely stored.
    """

    def __init__(self, model: nn.Module, loader: Any, loss: Loss, *, out: Path | None, keep: Keep,
                 average: nn.Module | None, split: Callable[[Any], tuple[Any, Any]], ids: Callable[[Any], Any] | None,
                 class_names: list[str] | None, commit_every: float, overwrite: bool, resume: bool,
                 notes: dict[str, Any], earlier: dict[str, Tensor] | None = None):
        self._tap: LoaderTap | None = None
        self._taps_a_loader = isinstance(loader, DataLoader)
        if isinstance(loader, DataLoader):
            self._tap = LoaderTap(loader, self.deliver, ids)
            self._samples = Samples(len(loader.dataset) if ids is None else None)  # type: ignore[arg-type]
            self._deliveries = Deliveries(split)
        else:
            inputs, targets = _pair(loader)
            self._samples = Samples(len(targets))
            self._deliveries = Deliveries(lambda pair: pair)
            # A pass that is given a slice of the inputs, or all of them, needs no word about its samples.
            self._deliveries.add(range(len(targets)), (inputs, targets))
            self._targets = targets
        # The buffers before the first pass, where passes were seen before the recording began.
        self._earlier = earlier
        if resume and out is None:
            raise RecordingError("resume=True takes up a run in a folder, and none is named. Pass out=... as well.")
        if not isinstance(commit_every, int | float) or not commit_every >= 0:
            raise RecordingError(
                f"commit_every must be a number of seconds from 0 on; {commit_every!r} came. With 0 every step is "
                "brought to the disk at once."
            )
        refuse_parts(model)
        self._called, self._model = model, network_behind(model)
        self._loss, self._out, self._keep = loss, out, keep
        self._average = None if average is None else _averaged(self._model, average)
        self._class_names, self._commit_every, self._notes = class_names, commit_every, notes
        self._overwrite, self._resume = overwrite, resume
        self._run: Run | None = None
        self._writer: Writer | None = None
        self._used = False

    # -- the block ---------------------------------------------------------------------------------------------------

    def __enter__(self) -> Self:
        if self._used:
            raise RecordingError("A recording is used once. Call record(...) again for another one.")
        _refuse_lazy(self._model)
        self._network = Network(self._model)
        self._network.buffers |= self._earlier or {}
        self._parameters: dict[str, Tensor] = {name: p for name, p in self._model.named_parameters() if p.requires_grad}
        if not self._parameters:
            raise RecordingError(
                "No parameter of the model requires a gradient, so there is nothing to record. "
                "Unfreeze what will be trained before the recording begins."
            )
        odd = next((name for name, p in self._model.named_parameters() if not p.is_floating_point()), None)
        if odd is not None:
            raise RecordingError(
                f"The parameter {odd!r} is {self._model.get_parameter(odd).dtype}, and the ledger is made of real "
                "numbers. Keep real and imaginary parts as two parameters, and quantized ones as buffers."
            )
        self._names = list(self._parameters)
        self._place = {id(p): i for i, p in enumerate(self._parameters.values())}
        self._device = next(iter(self._parameters.values())).device
        self._dtype = _widest(p.dtype for p in self._parameters.values())
        self._rows = Rows(sum(p.numel() for p in self._parameters.values()), self._dtype)
        self._passes = Passes(self._samples, self._norms)
        self._last_batches: list[MicroBatch] = []
        self._said: list[int] | None = None
        self._named = 0
        self._foreign = self._iterated = 0
        self._random: Tensor | None = None
        # Whether the copy gives other outputs than the model; not known before the first pass.
        self._other: bool | None = None
        self._seen_buffers: dict[str, Tensor] = {}
        # Optimizers and their first steps; held, because the id of one that is gone may be given to the next.
        self._seen_optimizers: list[tuple[torch.optim.Optimizer, int]] = []
        self._plans: dict[int, _Plan] = {}
        self._modules = list(self._model.named_modules())
        frozen = {name: t for name, t in self._network.parameters.items() if name not in self._parameters}
        self._surroundings = Surroundings(self._model, frozen)
        self._buffers = [(name, self._model.get_submodule(name.rpartition(".")[0]), name.rpartition(".")[2])
                         for name, _ in self._model.named_buffers()]
        # About how many bytes wait in the chunk.
        self._filled = 0
        self._under_way: Step | None = None
        self._unsent: Chunk | None = None
        self._before_average: Tensor | None = None
        self._written = time.monotonic()
        self._chunk = self._begin()
        self._first = self._chunk.first
        if self._first == 0:
            # Under the number -1 stand the things that hold before the first forward pass.
            self._chunk.states[-1] = {name: t.cpu() for name, t in frozen.items()}
            self._keep_buffers(-1, self._earlier)
        try:
            self._attach()
        except BaseException:
            self._detach()
            if self._writer is not None:
                self._writer.close()
                self._writer.release()
            raise
        self._used = True
        return self

    def _begin(self) -> Chunk:
        """The first chunk, where the recording begins or is taken up."""
        self._meta: dict[str, Any] = {
            "parameters": [_entry(name, p) for name, p in self._parameters.items()],
            "frozen": [_entry(n, p) for n, p in self._model.named_parameters() if n not in self._parameters],
            "dtype": str(self._dtype).removeprefix("torch."),
            "samples": self._samples.size if self._samples.fixed else None,
            "loss": self._loss.name, "loss_options": self._loss.options, "class_names": self._class_names,
            "architecture": describe(self._model), "keep": self._keep.word, "notes": self._notes,
            "complete": False, **provenance(self._model),
        }
        # A folder in which no step was committed is as good as none.
        if self._out is not None and exists(self._out) and Store.open(self._out, "run").segments:
            if self._resume:
                row = flatten(list(self._parameters.values()), self._dtype).cpu()
                store, self._run, step = take_up(self._out, self._network, self._loss, self._meta, row, self._samples)
                self._named = self._samples.size
                self._writer = Writer(store, self._rows, acknowledged=step)
                return Chunk(first=step, place=self._run.place)
            if not self._overwrite:
                raise StoreExists(
                    f"{self._out} already holds a recording. Choose another folder, pass resume=True to take it up or "
                    "overwrite=True to replace it; it is intact."
                )
        if self._out is not None:
            with disk_errors(self._out, 0):
                self._out.mkdir(parents=True, exist_ok=True)
        return Chunk(first=0)

    def _attach(self) -> None:
        self._hooks: list[Any] = [
            register_optimizer_step_pre_hook(self._before_step),
            register_optimizer_step_post_hook(self._after_step),
            self._called.register_forward_pre_hook(untraced(self._before_pass), with_kwargs=True),
            self._called.register_forward_hook(untraced(self._after_pass), with_kwargs=True),
        ]
        if self._tap is not None:
            self._tap.open()

    def _detach(self) -> None:
        for hook in self._hooks:
            hook.remove()
        # The recording and its taps know each other; apart, each is freed as soon as nobody needs it.
        if self._tap is not None:
            self._tap.close()
            self._tap = None
        self._passes.close()
        self._deliveries.forget()

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None,
                 trace: TracebackType | None) -> None:
        self._detach()
        self._send()
        rest = self._drop_what_has_no_end()
        recorded = self._step > self._first
        changed = self._surroundings.difference(thoroughly=True)
        try:
            if recorded:
                if rest:
                    self._keep_row(self._step, last=True)
                self._flush()
            if self._writer is not None:
                self._writer.close()
                assert self._writer.store is not None
                if recorded:
                    self._writer.store.commit({**self._meta, "complete": kind is None and changed is None})
                self._run = self._opened(self._writer.store)
        except StoreError as failure:
            rescued = self._rescue()
            if error is None:
                failure.add_note(rescued)
                raise
            # The error that ended the block is the one to see first.
            error.add_note(rescued if isinstance(error, StoreError) else f"{failure}\n{rescued}")
        finally:
            if self._writer is not None:
                self._writer.release()
            self._seen_optimizers.clear()
            self._plans.clear()
        if not recorded and kind is None:
            raise self._nothing_recorded()
        if recorded and changed is not None:
            changed_network = another_at_the_end(self._step, changed)
            if error is None:
                raise changed_network
            if not isinstance(error, RecordingError):
                error.add_note(str(changed_network))

    def _opened(self, store: Store | MemoryStore) -> Run:
        if isinstance(store, Store):
            store = Store.open(store.path, "run", "size")
        return Run.from_store(store, self._network, self._loss)

    def _rescue(self) -> str:
        """Where the disk failed, what is on it and what waits becomes a run in memory; says so."""
        assert self._writer is not None
        stored = self._writer.store or MemoryStore("run", self._meta)
        if stored.nbytes > RESCUE:
            return (f"{self.acknowledged} of {self._step} recorded steps are safe in {self._out}: open them with "
                    "kernelscope.load, or go on from there with resume=True.")
        memory = MemoryStore("run", self._meta)
        for segment in stored.segments:
            memory.append(stored.read(segment), segment.meta)
        for chunk in self._writer.waiting:
            memory.append(encode(chunk), chunk.meta)
        self._run = self._opened(memory)
        return (f"{self.acknowledged} of {len(self._run)} recorded steps are safe in {self._out}, and all of them are "
                "in recording.run: make room and call recording.run.save(...) with another folder.")

    @property
    def run(self) -> Run:
        """The recorded run, after the block."""
        if self._run is None:
            raise RecordingError(
                "There is no run yet. Put the training loop inside `with ks.record(...) as recording:` and read "
                "recording.run after the block; if the block ended by an error before its first step, nothing was kept."
            )
        return self._run

    @property
    def acknowledged(self) -> int:
        """The number of steps that are safely stored."""
        return 0 if self._writer is None else self._writer.acknowledged

    # -- what the loop does ------------------------------------------------------------------------------------------

    def batch(self, ids: Any) -> None:
        """Says which samples the next forward pass sees, in a loop that has no loader."""
        self._iterated += 1
        self._said = as_integers(ids)

    def relay(self, deliver: Deliver) -> None:
        """Has the loader's batches told to ``deliver`` first, which hands on those that count."""
        if self._tap is not None:
            self._tap.deliver = deliver

    def deliver(self, batch: Any, ids: list[int]) -> None:
        """Takes note that the loop received a batch of these samples."""
        self._iterated += 1
        self._deliveries.add(ids, batch)

    def forget(self) -> None:
        """Takes note that the loop received a batch of samples that are not recorded."""
        self._deliveries.skip()

    def take(self, args: tuple[Any, ...], kwargs: dict[str, Any], outputs: Any, random: Tensor | None,
             autocast: str | None) -> Pass | None:
        """Takes a forward pass that was made before the recording began, on the batch that was delivered last."""
        self._random = random
        with torch.enable_grad(), precision.reduced(autocast, self._device):
            return self._see(args, kwargs, outputs)

    def _before_pass(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        if torch.is_grad_enabled():
            self._random = get_random_state(self._device)

    def _after_pass(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], outputs: Any) -> None:
        self._see(args, kwargs, outputs)

    def _see(self, args: tuple[Any, ...], kwargs: dict[str, Any], outputs: Any) -> Pass | None:
        tensors = [t for t in leaves(outputs) if t.requires_grad] if torch.is_grad_enabled() else []
        if not tensors:
            return None
        if kwargs or not args or not all(isinstance(a, Tensor) for a in args):
            raise RecordingError(
                "The network is called with keyword arguments or with something that is no tensor, and the recorder "
                "keeps positional tensors only. Call it as model(x, ...), or wrap it in a module that does."
            )
        random = self._random
        if random is not None and torch.equal(random, get_random_state(self._device)):
            random = None
        training = tuple(name for name, module in self._modules if module.training)
        this = Pass(self._passes, args, self._known(args), self._step - self._broken_off(), training, random,
                    precision.current(self._device))
        for t in tensors:
            t.register_hook(this.use)
        if self._other is None:
            if self._class_names is not None and this.known is not None:
                compare_names(self._class_names, outputs, this.known[1], self._loss.name)
            self._other = warn_of_other_outputs(self._network, self._model, args, training, random, outputs,
                                                this.autocast)
        return this

    def _known(self, inputs: tuple[Tensor, ...]) -> tuple[Sequence[int], Tensor] | None:
        """The ids and targets of the rows that the network received."""
        if self._said is None:
            return self._deliveries.find(inputs)
        if len(self._said) != len_of(inputs[0]):
            return None
        return self._said, self._targets[self._samples.columns(self._said)]

    def _before_step(self, optimizer: torch.optim.Optimizer, args: Any, kwargs: Any) -> Any:
        closure = args[1] if len(args) > 1 else kwargs.get("closure")
        if closure is None:
            self._note_step(optimizer)
            return None
        noted = False

        def watched() -> Any:
            nonlocal noted
            value = closure()
            # The first call gives the gradient at the step's start; what later ones see belongs to no step.
            if not noted:
                self._note_step(optimizer)
            noted = True
            self._passes.clear()
            return value

        return (args[0], watched, *args[2:]), {key: item for key, item in kwargs.items() if key != "closure"}

    def _note_step(self, optimizer: torch.optim.Optimizer) -> None:
        plan = self._plan(optimizer)
        moved = next((name for name, p in plan.frozen if p.grad is not None), None)
        if moved is not None:
            raise moved_while_frozen(self._step, moved)
        if not any(plan.names):
            self._foreign += 1
            return
        changed = self._surroundings.difference()
        if changed is not None:
            raise another_network(self._step, changed)
        if self._writer is not None:
            self._writer.raise_failure()
        self._drop_what_was_broken_off()
        batches = self._passes.batches or ([] if self._passes.unknown else self._last_batches)
        if not batches:
            raise self._nothing_seen()
        norms, largest = self._norms(), self._largest()
        bad = [name for name, norm in zip(self._names, norms.tolist(), strict=True) if not math.isfinite(norm)]
        if bad:
            raise self._non_finite(f"the gradient of {bad[0]!r}", f"{len(bad)} of {len(self._names)} gradients")
        k, name = self._step, plan.rule
        groups = [plan.group(i, group) for i, group in enumerate(optimizer.param_groups)]
        without = [n for names in plan.names for n in names if self._parameters[n].grad is None]
        owner = next((first for seen, first in self._seen_optimizers if seen is optimizer), k)
        step = Step(name, groups, batches, norms, largest, without, owner=owner)
        if owner == k:
            self._first_step(optimizer, name, step)
            self._seen_optimizers.append((optimizer, owner))
        self._filled += STEP + sum(t.nbytes for b in batches for t in (b.random, *(b.drawn or ())) if t is not None)
        self._filled += sum(t.nbytes for part in self._passes.fresh for t in part)
        self._chunk.samples += self._passes.fresh
        self._passes.fresh = []
        if not self._samples.fixed:
            self._chunk.ids += self._samples.ids[self._named:]
            self._named = self._samples.size
        self._keep_row(k)
        if self._chunk.steps and self._is_due():
            self._flush()
        self._keep_states(owner)
        self._last_batches = batches
        self._said = None
        self._passes.clear()
        # Whatever interrupts from here on, the chunk holds this step or it does not.
        self._under_way = step
        self._chunk.steps.append(step)

    def _plan(self, optimizer: torch.optim.Optimizer) -> _Plan:
        """Which recorded parameters an optimizer holds; looked up anew when its groups have changed."""
        held = tuple(id(p) for group in optimizer.param_groups for p in (*group["params"], group))
        plan = self._plans.get(id(optimizer))
        if plan is None or plan.optimizer is not optimizer or plan.held != held:
            names = [[self._names[self._place[id(p)]] for p in group["params"] if id(p) in self._place]
                     for group in optimizer.param_groups]
            others = [p for group in optimizer.param_groups for p in group["params"] if id(p) not in self._place]
            frozen = [(name, p) for p in others if (name := self._surroundings.frozen(p)) is not None]
            if any(p is q for q in self._model.parameters() for p in others if self._surroundings.frozen(p) is None):
                raise moved_while_frozen(self._step, None)
            plan = self._plans[id(optimizer)] = _Plan(optimizer, held, rule_name(optimizer), names, frozen)
        return plan

    def _after_step(self, optimizer: torch.optim.Optimizer, args: Any, kwargs: Any) -> None:
        self._under_way = None

    def _drop_what_was_broken_off(self) -> bool:
        """Forgets a step that its optimizer did not end; says whether there was one."""
        broken = self._broken_off()
        if broken:
            self._chunk.steps.pop()
        return broken

    def _broken_off(self) -> bool:
        return bool(self._chunk.steps) and self._chunk.steps[-1] is self._under_way

    def _drop_what_has_no_end(self) -> bool:
        """Forgets a last step without an end that can be kept; says whether the parameters are those of an end."""
        if self._drop_what_was_broken_off():
            return False
        finite = self._finite_parameters()
        if not finite and self._chunk.steps:
            self._chunk.steps.pop()
        return finite

    @property
    def _step(self) -> int:
        """The number of the next step."""
        return self._chunk.last

    def _first_step(self, optimizer: torch.optim.Optimizer, name: str, step: Step) -> None:
        if name not in RULES and self._keep.replays:
            raise RecordingError(
                f"keep={self._keep.word!r} leaves steps to be computed again, and a step of {name} cannot be. "
                'Record with keep="all".'
            )
        if name not in RULES:
            warnings.warn(
                f"The steps of {name} are recorded, but they cannot be unrolled into shares of samples; decompose "
                f'will refuse them unless rule="displacement" is asked. Known are {", ".join(sorted(RULES))}.',
                stacklevel=5,
            )
        if self._seen_optimizers:
            return
        refuse_other_losses(self._network, self._loss, self._samples, step.batches[0], self._parameters)
        if name in RULES and not self._other:
            warn_of_another_loss(self._network, self._loss, self._samples, step, self._parameters, self._names)

    # -- what is kept ------------------------------------------------------------------------------------------------

    def _keep_row(self, k: int, last: bool = False) -> None:
        """Keeps what holds at the start of step k."""
        if self._average is not None:
            self._keep_average(k)
        self._keep_buffers(k)
        if last or self._keep.stores(k):
            row = self._rows.of(list(self._parameters.values()))
            # A sum is finite if its terms are, unless it overflows; then each is looked at.
            if not math.isfinite(row.sum()) and not bool(torch.isfinite(row).all()):
                raise self._non_finite("a parameter", "its last step made it so")
            self._chunk.rows[k] = row
            self._filled += row.nbytes

    def _is_due(self) -> bool:
        # The first step is brought to the disk at once, so that a folder that cannot be written is found at once.
        return (self._writer is None or len(self._chunk.steps) >= MOST_STEPS or self._filled >= self._keep.chunk
                or time.monotonic() - self._written >= self._commit_every)

    def _flush(self) -> None:
        """Hands the chunk to the writer, and begins the next one."""
        self._send()
        chunk, k = self._chunk, self._step
        if not chunk.steps:
            return
        writer = self._writer = self._writer or Writer(self._begin_store, self._rows)
        if self._before_average is not None:
            chunk.averages[k] = self._before_average
        if self._keep.budget is not None and writer.nbytes + chunk.nbytes > self._keep.budget:
            writer.drain()
            self._keep = self._keep.thin(writer.store or MemoryStore("run"), k, chunk)
        self._unsent = chunk
        self._send()
        self._written = time.monotonic()

    def _send(self) -> None:
        # An interruption may come between any two of these lines; then they are gone through again.
        chunk = self._unsent
        if chunk is not None:
            if self._chunk is chunk:
                self._chunk, self._filled = Chunk(first=chunk.last, place=chunk.place + 1), 0
            assert self._writer is not None
            self._writer.put(chunk)
            self._unsent = None

    def _begin_store(self) -> Store | MemoryStore:
        if self._out is None:
            return MemoryStore("run", self._meta)
        empty = exists(self._out) and not Store.open(self._out).segments
        return Store.create(self._out, kind="run", meta=self._meta, overwrite=self._overwrite or empty)

    def _keep_buffers(self, k: int, held: dict[str, Tensor] | None = None) -> None:
        changed = {}
        if held is None:
            held = {name: b for name, module, own in self._buffers if (b := module._buffers[own]) is not None}
        for name, b in held.items():
            if name not in self._seen_buffers or not torch.equal(self._seen_buffers[name], b):
                changed[name] = self._seen_buffers[name] = b.detach().clone()
        if changed:
            self._chunk.buffers[k] = {name: b.cpu() for name, b in changed.items()}
            self._filled += sum(b.nbytes for b in changed.values())

    def _keep_states(self, owner: int) -> None:
        anchor = self._keep.replays and self._step % self._keep.every == 0
        if not anchor and owner != self._step:
            return
        states = self._chunk.states.setdefault(self._step, {})
        # A replay from here needs the states of all optimizers, whichever moves first.
        for optimizer, first in self._seen_optimizers:
            for p in (p for group in optimizer.param_groups for p in group["params"] if id(p) in self._place):
                for name, value in optimizer.state.get(p, {}).items():
                    if value is not None:
                        key = f"{first}|{self._names[self._place[id(p)]]}|{name}"
                        states[key] = self._rows.copy(torch.as_tensor(value))
                        self._filled += states[key].nbytes

    def _keep_average(self, k: int) -> None:
        assert self._average is not None
        now = flatten(self._average, self._dtype).cpu()
        if self._before_average is None:
            self._chunk.averages[k] = now
        elif self._chunk.steps:
            row = flatten(list(self._parameters.values()), self._dtype).cpu()
            self._chunk.steps[-1].average = averaging_factor(self._before_average, row, now)
        self._before_average = now

    def _norms(self) -> Tensor:
        places, gradients = self._gradients()
        found = torch.stack(torch._foreach_norm(gradients)).double().cpu() if gradients else torch.zeros(0).double()
        if len(places) == len(self._names):
            return found
        norms = torch.zeros(len(self._names), dtype=torch.float64)
        norms[places] = found
        return norms

    def _gradients(self) -> tuple[list[int], list[Tensor]]:
        """The gradients that are there, as dense tensors, and the places of their parameters."""
        held = [(i, p.grad) for i, p in enumerate(self._parameters.values()) if p.grad is not None]
        return [i for i, _ in held], [g.coalesce().values() if g.is_sparse else g for _, g in held]

    def _largest(self) -> float:
        # The norm of this name is twenty times slower.
        ends = [end for g in self._gradients()[1] if g.numel() for end in torch.aminmax(g)]
        return max((abs(end) for end in torch.stack(ends).tolist()), default=0.0) if ends else 0.0

    # -- what can go wrong -------------------------------------------------------------------------------------------

    def _non_finite(self, what: str, more: str) -> NonFiniteError:
        return NonFiniteError(
            f"At step {self._step} {what} is NaN or infinite ({more}), so no share of it can be booked. Look at the "
            "loss of this batch and the learning rate, or clip gradients. The steps before it are kept."
        )

    def _finite_parameters(self) -> bool:
        return all(bool(torch.isfinite(p).all()) for p in self._parameters.values())

    def _nothing_seen(self) -> RecordingError:
        if self._taps_a_loader and self._iterated == 0:
            return RecordingError(
                f"The optimizer makes step {self._step}, but the recorded loader was never iterated, so the samples "
                "of the step are unknown. Give record(...) the loader that the loop reads, and begin to iterate it "
                "inside the block."
            )
        if self._passes.unknown:
            return RecordingError(
                f"The optimizer makes step {self._step} after a forward pass whose number of rows is not that of the "
                "batch that was delivered. Give record(...) the loader that the loop reads; in a loop without a loader "
                "call recording.batch(ids) before each forward pass."
            )
        return RecordingError(
            f"The optimizer makes step {self._step}, but the recorded model was not called on a batch of the recorded "
            "loader since the step before. Was the model replaced or wrapped after record(...)? Record the module that "
            "the loop calls; of one that was compiled with torch.compile that is the compiled module."
        )

    def _nothing_recorded(self) -> RecordingError:
        if self._foreign:
            return RecordingError(
                f"{self._foreign} optimizer steps were seen and none of them moved the recorded model. Was it replaced "
                "after record(...)? Create the model, then the recording, then the optimizer from model.parameters()."
            )
        if self._taps_a_loader and self._iterated == 0:
            return RecordingError(
                "The recorded loader was never iterated and no optimizer step was seen. Put the training loop inside "
                "the `with ks.record(...)` block, in this process."
            )
        return RecordingError(
            f"{self._iterated} batches were delivered, but no optimizer step was seen. A step counts when "
            "optimizer.step() of a torch.optim optimizer runs inside the `with ks.record(...)` block."
        )


def averaging_factor(before: Tensor, row: Tensor, now: Tensor) -> float:
    r"""The :math:`a` with :math:`e_{k+1} = a e_k + (1 - a)\theta_{k+1}`, in the sense of least squares."""
    old, new = (before - row).double(), (now - row).double()
    square = float(old @ old)
    if square == 0:
        return 0.0
    factor = float(new @ old) / square
    short = round(factor, 6)
    # Factors are round numbers to a person; where the rounded one fits as well as the data can tell, it is meant.
    eps = torch.finfo(now.dtype).eps
    return short if float((new - short * old).norm()) <= 4 * eps * float(now.double().norm()) else factor


def _pair(pair: Any) -> tuple[tuple[Tensor, ...], Tensor]:
    if not isinstance(pair, list | tuple) or len(pair) < 2 or not all(isinstance(t, Tensor) and t.ndim for t in pair):
        raise RecordingError(
            f"The training data must be a DataLoader or a pair (inputs, targets) of tensors; a "
            f"{type(pair).__name__} came. Pass the loader that the loop iterates."
        )
    if len({len(t) for t in pair}) != 1:
        raise DataError(
            f"Inputs and targets must have one row for each sample; they have {[len(t) for t in pair]} rows. "
            "Cut them to the same length."
        )
    return tuple(pair[:-1]), pair[-1].detach().cpu()


def _refuse_lazy(model: nn.Module) -> None:
    lazy = next((name for name, t in [*model.named_parameters(), *model.named_buffers()] if is_lazy(t)), None)
    if lazy is not None:
        raise RecordingError(
            f"{lazy!r} has no shape before the first batch, since its layer is a lazy one, so there is nothing yet to "
            "record. Call the model on a batch once, under torch.no_grad(), before `with ks.record(...)` and before "
            "the optimizer is made."
        )


def _averaged(model: nn.Module, average: nn.Module) -> list[Tensor]:
    inner = network_behind(getattr(average, "module", average))
    held = dict(inner.named_parameters())
    missing = [name for name, p in model.named_parameters() if p.requires_grad and name not in held]
    if missing:
        raise RecordingError(
            f"The averaged model must have the parameters of the trained one, and it lacks {missing[0]!r}. "
            "Pass torch.optim.swa_utils.AveragedModel(model) or copy.deepcopy(model)."
        )
    return [held[name] for name, p in model.named_parameters() if p.requires_grad]


def _entry(name: str, p: Tensor) -> dict[str, Any]:
    return {"name": name, "shape": list(p.shape), "dtype": str(p.dtype).removeprefix("torch.")}


def _widest(dtypes: Any) -> torch.dtype:
    widest = torch.float32
    for dtype in dtypes:
        widest = torch.promote_types(widest, dtype)
    return widest
