r"""Recording a training loop without changing it.

Three taps are enough: the loader tells which samples a batch holds, a hook on the network's forward pass tells which
inputs it received at which parameters, and the optimizer-step hook of torch tells when the parameters move. What is
stored is what the optimizer did, so clipping, schedules, accumulation and skipped steps are right by construction.
"""

from __future__ import annotations

import time
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import torch
from torch import Tensor, nn
from torch.optim.optimizer import register_optimizer_step_pre_hook
from torch.utils.data import DataLoader

from ..architecture import describe
from ..errors import DataError, NonFiniteError, RecordingError
from ..network import Network, flatten, get_random_state, training_flags
from ..storage import MemoryStore, Store
from .gradient_check import warn_of_another_loss
from .keeping import Keep
from .loading import LoaderTap
from .losses import Loss
from .provenance import provenance
from .resuming import take_up
from .rules import RULES, hyperparameters, rule_name
from .run import Run
from .samples import Samples, split_batch
from .segments import Chunk
from .step import MicroBatch, Step
from .writer import Writer

#: Steps are handed to the writer when they fill this many bytes, or after ``commit_every`` seconds.
CHUNK = 32 * 2**20


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
    accumulation. The model, the loader and the random state are left exactly as they would be without recording.

    Args:
        model: The network that is trained.
        loader: The loader that the loop iterates; or a pair ``(inputs, targets)`` of tensors for a loop that indexes
            them itself, which then calls ``recording.batch(ids)`` before each forward pass (not needed where every
            pass sees all samples).
        loss: The per-sample loss that is minimised, called as ``loss(outputs, targets, reduction="none")`` if it takes
            a reduction; a ``torch.nn`` loss module will do. A loop may use its mean, its sum, or any multiple.
        out: The folder to record into; ``None`` keeps the run in memory.
        keep: ``"all"`` stores the parameters at every step; a number k at every k-th, the others are replayed; a size
            such as ``"200MB"`` starts with all and thins out when the size is reached.
        average: A module with averaged weights (``torch.optim.swa_utils.AveragedModel`` or a copy) that the loop
            updates; afterwards ``decompose(..., weights="average")`` explains it.
        batch: ``batch -> (inputs, targets)`` for loaders that give something else than ``(..., targets)``.
        ids: ``batch -> whole numbers`` for loaders whose samples have no index.
        class_names: A word for each class.
        commit_every: Seconds after which recorded steps are brought to the disk; ``0`` commits every step.
        overwrite: Whether a run in ``out`` may be replaced.
        resume: Whether the run in ``out`` is taken up again, at the step whose parameters the model holds.
        notes: Plain data to keep with the run.

    Returns:
        A context manager; ``recording.run`` is the :class:`Run` after the block.

    Raises:
        RecordingError: If the loop and the recording do not fit together; the message says what to do.

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
                     class_names=None if class_names is None else [str(name) for name in class_names],
                     commit_every=commit_every, overwrite=overwrite, resume=resume, notes=notes or {})


class _Pass:
    """A forward pass under way: it counts once its outputs have received a gradient."""

    def __init__(self, batch: MicroBatch):
        self.batch = batch
        self.used = False

    def use(self, _: Tensor) -> None:
        self.used = True


class Recording:
    """The one mutable object: it listens while the block runs, and dies into an immutable :class:`Run`.

    Attributes:
        acknowledged: The number of steps that are safely stored.
    """

    def __init__(self, model: nn.Module, loader: Any, loss: Loss, *, out: Path | None, keep: Keep,
                 average: nn.Module | None, split: Callable[[Any], tuple[Any, Any]], ids: Callable[[Any], Any] | None,
                 class_names: list[str] | None, commit_every: float, overwrite: bool, resume: bool,
                 notes: dict[str, Any]):
        if isinstance(loader, DataLoader):
            fixed = ids is None
            self._tap: LoaderTap | None = LoaderTap(loader, self._delivered_batch, ids)
            self._samples = Samples(len(loader.dataset) if fixed else None)  # type: ignore[arg-type]
        else:
            self._tap = None
            self._samples = _samples_of(loader)
        if resume and out is None:
            raise RecordingError("resume=True takes up a run in a folder, and none is named. Pass out=... as well.")
        self._model, self._loss, self._out, self._keep, self._split = model, loss, out, keep, split
        self._average = None if average is None else _averaged(model, average)
        self._class_names, self._commit_every, self._notes = class_names, commit_every, notes
        self._overwrite, self._resume = overwrite, resume
        self._run: Run | None = None
        self._open = False

    # -- the block ---------------------------------------------------------------------------------------------------

    def __enter__(self) -> Self:
        if self._run is not None or self._open:
            raise RecordingError("A recording is used once. Call record(...) again for another one.")
        self._network = Network(self._model)
        self._parameters = {name: p for name, p in self._model.named_parameters() if p.requires_grad}
        if not self._parameters:
            raise RecordingError(
                "No parameter of the model requires a gradient, so there is nothing to record. "
                "Unfreeze what will be trained before the recording begins."
            )
        self._names = list(self._parameters)
        self._place = {id(p): i for i, p in enumerate(self._parameters.values())}
        self._device = next(iter(self._parameters.values())).device
        self._dtype = _widest(p.dtype for p in self._parameters.values())
        self._passes: list[_Pass] = []
        self._last_batches: list[MicroBatch] = []
        self._pending: tuple[list[int], Any] | None = None
        self._foreign = self._unnamed = self._iterated = 0
        self._random: Tensor | None = None
        self._drawn = False
        self._seen_buffers: dict[str, Tensor] = {}
        self._restarts: list[int] = [0]
        # Optimizers and their first steps; held, because the id of one that is gone may be given to the next.
        self._seen_optimizers: list[tuple[torch.optim.Optimizer, int]] = []
        self._before_average: Tensor | None = None
        self._step = self._begin_store()
        self._chunk = Chunk(first=self._step)
        if self._step == 0:
            # Under the number -1 stand the things that hold before the first forward pass.
            frozen = {name: t for name, t in self._network.parameters.items() if name not in self._parameters}
            self._chunk.states[-1] = {name: t.cpu() for name, t in frozen.items()}
            self._keep_buffers(-1)
        self._written = time.monotonic()
        self._attach()
        self._open = True
        return self

    def _begin_store(self) -> int:
        self._meta: dict[str, Any] = {
            "parameters": [_entry(name, p) for name, p in self._parameters.items()],
            "frozen": [_entry(n, p) for n, p in self._model.named_parameters() if n not in self._parameters],
            "dtype": str(self._dtype).removeprefix("torch."),
            "samples": self._samples.size if self._samples.fixed else None,
            "loss": self._loss.name, "loss_options": self._loss.options, "class_names": self._class_names,
            "architecture": describe(self._model), "keep": self._keep.word, "notes": self._notes,
            "restarts": [0], "complete": False, **provenance(self._model),
        }
        if self._resume:
            assert self._out is not None
            self._store, step, restarts = take_up(self._out, self._network, self._loss, self._meta,
                                                  flatten(list(self._parameters.values()), self._dtype).cpu(),
                                                  self._samples)
            self._restarts = [*restarts, step]
        else:
            step = 0
            self._store = (MemoryStore("run", self._meta) if self._out is None else
                           Store.create(self._out, kind="run", meta=self._meta, overwrite=self._overwrite))
        self._writer = Writer(self._store, acknowledged=step)
        return step

    def _attach(self) -> None:
        self._hooks: list[Any] = [
            register_optimizer_step_pre_hook(self._before_step),
            self._model.register_forward_pre_hook(self._before_pass, with_kwargs=True),
            self._model.register_forward_hook(self._after_pass, with_kwargs=True),
        ]
        if self._tap is not None:
            self._tap.open()

    def _detach(self) -> None:
        for hook in self._hooks:
            hook.remove()
        if self._tap is not None:
            self._tap.close()
        self._open = False

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None,
                 trace: TracebackType | None) -> None:
        self._detach()
        steps = self._step
        try:
            if steps and self._finite_parameters():
                self._row(steps, last=True)
            self._flush()
            self._writer.close()
            self._store.commit({**self._meta, "restarts": self._restarts, "complete": kind is None,
                                "drawn": self._drawn})
        finally:
            self._store.close()
        if steps:
            self._run = Run.from_store(self._store if self._out is None else Store.open(self._out, "run", "size"),
                                       self._network, self._loss)
        elif kind is None:
            raise self._nothing_recorded()

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
        return self._writer.acknowledged

    # -- what the loop does ------------------------------------------------------------------------------------------

    def batch(self, ids: Any) -> None:
        """Says which samples the next forward pass sees, in a loop that has no loader."""
        values = ids.tolist() if hasattr(ids, "tolist") else list(ids)
        self._delivered_batch(None, values)

    def _delivered_batch(self, batch: Any, ids: list[int]) -> None:
        self._iterated += 1
        self._pending = (ids, batch)

    def _before_pass(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        if torch.is_grad_enabled():
            self._random = get_random_state(self._device)

    def _after_pass(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], outputs: Any) -> None:
        if not torch.is_grad_enabled():
            return
        tensors = [t for t in _leaves(outputs) if t.requires_grad]
        if not tensors:
            return
        if kwargs or not args or not all(isinstance(a, Tensor) for a in args):
            raise RecordingError(
                "The network is called with keyword arguments or with something that is no tensor, and the recorder "
                "keeps positional tensors only. Call it as model(x, ...), or wrap it in a module that does."
            )
        batch = self._micro_batch(module, args)
        if batch is None:
            self._unnamed += 1
            return
        before = [p for p in self._passes if p.used]
        if before and before[-1].batch.norms is None:
            # What has been gathered so far tells how much the loop weighs each pass it accumulates.
            before[-1].batch.norms = self._norms()
        this = _Pass(batch)
        self._passes.append(this)
        for t in tensors:
            t.register_hook(this.use)

    def _micro_batch(self, module: nn.Module, args: tuple[Tensor, ...]) -> MicroBatch | None:
        count = len(args[0]) if args[0].ndim else 0
        if self._pending is None and self._tap is None and count == self._samples.size:
            self._pending = (list(range(count)), None)
        if self._pending is None or len(self._pending[0]) != count:
            return None
        ids, delivered = self._pending
        columns = self._samples.columns(ids)
        if delivered is None:
            targets = self._samples.batch(columns)[1]
        else:
            targets = self._split(delivered)[1]
        if not isinstance(targets, Tensor) or len(targets) != count:
            raise DataError(
                f"The targets of a batch must be a tensor with one row for each of its {count} samples; came "
                f"{tuple(targets.shape) if isinstance(targets, Tensor) else type(targets).__name__}. "
                "Pass batch=lambda b: (inputs, targets) to record(...)."
            )
        inputs = tuple(a.detach().cpu() for a in args)
        if any(x.shape[:1] != (count,) for x in inputs):
            raise DataError(
                f"Every input of the network must have one row for each of the {count} samples of a batch; came "
                f"{[tuple(x.shape) for x in inputs]}. Keep constants inside the module, as buffers."
            )
        new, agrees = self._samples.keep(columns, inputs, targets)
        if bool(new.any()):
            self._chunk.samples.append((torch.tensor(ids)[new], *(x[new].clone() for x in inputs),
                                        targets.detach().cpu()[new].clone()))
        random = self._random
        if random is not None and torch.equal(random, get_random_state(self._device)):
            random = None
        self._drawn |= not agrees
        return MicroBatch(
            columns=columns, at=self._step, training=training_flags(module), random=random,
            drawn=None if agrees else (*(x.clone() for x in inputs), targets.detach().cpu().clone()),
            autocast=torch.is_autocast_enabled(self._device.type),
        )

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
        mine = [[p for p in group["params"] if id(p) in self._place] for group in optimizer.param_groups]
        if not any(mine):
            self._foreign += 1
            return
        self._writer.raise_failure()
        batches = [p.batch for p in self._passes if p.used] or self._last_batches
        if not batches:
            raise self._nothing_seen()
        norms, largest = self._norms(), self._largest()
        self._refuse_non_finite(norms)
        name = rule_name(optimizer)
        groups = [{"names": [self._names[self._place[id(p)]] for p in own], **hyperparameters(group)}
                  for own, group in zip(mine, optimizer.param_groups, strict=True)]
        without = [self._names[self._place[id(p)]] for own in mine for p in own if p.grad is None]
        owner = next((first for seen, first in self._seen_optimizers if seen is optimizer), self._step)
        step = Step(name, groups, batches, norms, largest, without, owner=owner)
        self._row(self._step)
        if owner == self._step:
            self._seen_optimizers.append((optimizer, owner))
            self._first_step(optimizer, name, step)
        self._keep_states(owner)
        self._chunk.steps.append(step)
        self._passes.clear()
        self._last_batches = batches
        self._pending = None
        self._step += 1

    def _first_step(self, optimizer: torch.optim.Optimizer, name: str, step: Step) -> None:
        unknown = [p for group in optimizer.param_groups for p in group["params"]
                   if id(p) not in self._place and any(p is q for q in self._model.parameters())]
        if unknown:
            raise RecordingError(
                "The optimizer moves parameters of the model that did not exist or were frozen when the recording "
                "began. Build the model and set requires_grad before `with ks.record(...)`."
            )
        if name not in RULES:
            warnings.warn(
                f"The steps of {name} are recorded, but they cannot be unrolled into shares of samples; decompose "
                f'will refuse them unless rule="displacement" is asked. Known are {", ".join(sorted(RULES))}.',
                stacklevel=5,
            )
        elif len(self._seen_optimizers) == 1:
            warn_of_another_loss(self._network, self._loss, self._samples, step, self._parameters, self._names)

    # -- what is kept ------------------------------------------------------------------------------------------------

    def _row(self, k: int, last: bool = False) -> None:
        """Keeps what holds at the start of step k, and hands full chunks to the writer."""
        row = flatten(list(self._parameters.values()), self._dtype).cpu()
        if self._average is not None:
            self._keep_average(k, row, last)
        self._keep_buffers(k)
        if k % self._keep.every == 0 or last:
            self._chunk.rows[k] = row
        due = time.monotonic() - self._written >= self._commit_every
        if self._chunk.steps and (due or self._chunk.nbytes >= CHUNK):
            self._flush()

    def _flush(self) -> None:
        if self._keep.budget is not None and self._store.nbytes + self._chunk.nbytes > self._keep.budget:
            self._writer.drain()
            self._keep = self._keep.thin(self._store, self._step)
            self._chunk = self._keep.thinned(self._chunk, self._step)
        self._writer.put(self._chunk)
        self._chunk = Chunk(first=self._step)
        self._written = time.monotonic()

    def _keep_buffers(self, k: int) -> None:
        changed = {}
        for name, b in self._model.named_buffers():
            if name not in self._seen_buffers or not torch.equal(self._seen_buffers[name], b):
                changed[name] = self._seen_buffers[name] = b.detach().clone()
        if changed:
            self._chunk.buffers[k] = {name: b.cpu() for name, b in changed.items()}

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
                        states[key] = torch.as_tensor(value).detach().cpu().clone()

    def _keep_average(self, k: int, row: Tensor, last: bool) -> None:
        assert self._average is not None
        now = flatten(self._average, self._dtype).cpu()
        if self._before_average is not None and self._chunk.steps:
            self._chunk.steps[-1].average = averaging_factor(self._before_average, row, now)
        if self._before_average is None or last:
            self._chunk.averages[k] = now
        self._before_average = now

    def _norms(self) -> Tensor:
        held = [(i, p.grad) for i, p in enumerate(self._parameters.values()) if p.grad is not None]
        norms = torch.zeros(len(self._names), dtype=torch.float64)
        if held:
            gradients = [g.coalesce().values() if g.is_sparse else g for _, g in held]
            norms[[i for i, _ in held]] = torch.stack(torch._foreach_norm(gradients)).double().cpu()
        return norms

    def _largest(self) -> float:
        held = [p.grad for p in self._parameters.values() if p.grad is not None and p.grad.numel()]
        held = [g.coalesce().values() if g.is_sparse else g for g in held]
        return float(torch.stack(torch._foreach_norm(held, float("inf"))).max()) if held else 0.0

    # -- what can go wrong -------------------------------------------------------------------------------------------

    def _refuse_non_finite(self, norms: Tensor) -> None:
        bad = [name for name, norm in zip(self._names, norms.tolist(), strict=True) if norm != norm or norm == torch.inf]
        if bad or not self._finite_parameters():
            what = f"the gradient of {bad[0]!r}" if bad else "a parameter"
            raise NonFiniteError(
                f"At step {self._step} {what} is NaN or infinite ({len(bad)} of {len(self._names)} parameters), so no "
                "share of it can be booked. Look at the loss of this batch and the learning rate, or clip gradients. "
                f"The {self._step} steps before it are kept."
            )

    def _finite_parameters(self) -> bool:
        return all(bool(torch.isfinite(n)) for n in torch._foreach_norm([p.detach() for p in
                                                                         self._parameters.values()]))

    def _nothing_seen(self) -> RecordingError:
        if self._tap is not None and self._iterated == 0:
            return RecordingError(
                f"The optimizer makes step {self._step}, but the recorded loader was never iterated, so the samples "
                "of the step are unknown. Give record(...) the loader that the loop reads."
            )
        if self._unnamed:
            return RecordingError(
                f"The optimizer makes step {self._step} after a forward pass whose number of rows is not that of the "
                "batch that was delivered. Give record(...) the loader that the loop reads; in a loop without a loader "
                "call recording.batch(ids) before each forward pass."
            )
        return RecordingError(
            f"The optimizer makes step {self._step}, but the recorded model was not called on a batch of the recorded "
            "loader since the step before. Was the model replaced or wrapped after record(...)? Record the module that "
            "the loop calls."
        )

    def _nothing_recorded(self) -> RecordingError:
        if self._foreign:
            return RecordingError(
                f"{self._foreign} optimizer steps were seen and none of them moved the recorded model. Was it replaced "
                "after record(...)? Create the model, then the recording, then the optimizer from model.parameters()."
            )
        if self._tap is not None and self._iterated == 0:
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


def _samples_of(pair: Any) -> Samples:
    if not isinstance(pair, list | tuple) or len(pair) < 2 or not all(isinstance(t, Tensor) for t in pair):
        raise RecordingError(
            f"The training data must be a DataLoader or a pair (inputs, targets) of tensors; a "
            f"{type(pair).__name__} came. Pass the loader that the loop iterates."
        )
    if len({len(t) for t in pair}) != 1:
        raise DataError(
            f"Inputs and targets must have one row for each sample; they have {[len(t) for t in pair]} rows. "
            "Cut them to the same length."
        )
    samples = Samples(len(pair[0]))
    samples.targets = pair[-1].detach().cpu()
    return samples


def _averaged(model: nn.Module, average: nn.Module) -> list[Tensor]:
    inner = getattr(average, "module", average)
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


def _leaves(value: Any) -> list[Tensor]:
    if isinstance(value, Tensor):
        return [value]
    if isinstance(value, dict):
        value = list(value.values())
    return [t for item in value for t in _leaves(item)] if isinstance(value, list | tuple) else []


def _widest(dtypes: Any) -> torch.dtype:
    widest = torch.float32
    for dtype in dtypes:
        widest = torch.promote_types(widest, dtype)
    return widest
