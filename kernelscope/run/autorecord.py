r"""Recording a script that says nothing about being recorded.

Three things have to be known: the network, the loader and the loss. While the script runs, torch itself tells them:
the first module called from outside whose outputs receive a gradient is the network; the batch delivered before names
the samples; the function of ``torch.nn.functional`` that was called on those outputs is the loss, and what it was
given is the target. All taps are those of this process, and are gone when the block ends.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.modules import module as modules
from torch.nn.modules.module import register_module_forward_hook, register_module_forward_pre_hook
from torch.optim.optimizer import register_optimizer_step_pre_hook
from torch.utils.data import DataLoader, Subset, TensorDataset

from ..errors import RecordingError
from ..losses import KNOWN, Loss
from ..nested import leaves
from ..network import get_random_state
from . import precision
from .hooks import Hook
from .keeping import Keep
from .loading import LoaderTap, accompanied
from .loss_calls import LossCall, same_values, target_of
from .naming import Instead
from .prepared import Watch, within
from .recording import Recording, watched
from .run import Run
from .samples import split_batch
from .tape import Place
from .wrappers import network_behind

#: Forward passes without a gradient that are remembered before the first one with a gradient.
REMEMBERED = 64

TWO_LINES = """
Record it with two lines in the script instead:
    with kernelscope.record(model, loader, loss=...) as recording:   # around the training loop
    run = recording.run                                              # after it"""


class AutoRecording:
    """Listens while the block runs; ``run`` is the recorded run afterwards.

    Args:
        out: The folder to record into.
        keep: Which parameters to store, as in :func:`kernelscope.record`.
        overwrite: Whether a run in ``out`` may be replaced.
        notes: Plain data to keep with the run.
        resume: Whether the run in ``out`` is taken up, as in :func:`kernelscope.record`.
        network: The network, where it is known.
        loss: The per-sample loss, where it is known.
        batch: ``batch -> (inputs, targets)``, where the loss is known and targets do not come last.
        class_names: A word for each class.
        commit_every: Seconds after which recorded steps are brought to the disk.
        advice: What to do where something cannot be found; the two lines of :func:`kernelscope.record` if not given.
        look: Called whenever the script makes a loader, by when it has imported what it trains with.

    Attributes:
        model: The network that was found.
        stood_down: Whether the script records itself, so that nothing was done here.

    Raises:
        RecordingError: If the network, the samples or the loss cannot be found; the message says which, and shows the
            two lines that name them.

    Example:
        >>> from torch.utils.data import TensorDataset
        >>> x = torch.randn(12, 3); y = x.sum(1, keepdim=True)
        >>> model, loader = nn.Linear(3, 1), DataLoader(TensorDataset(x, y), batch_size=4)
        >>> optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        >>> with AutoRecording() as recording:
        ...     for inputs, targets in loader:
        ...         optimizer.zero_grad()
        ...         F.mse_loss(model(inputs), targets).backward()
        ...         optimizer.step()
        >>> recording.run
        Run(in memory: 3 steps of SGD, 12 samples, 4 parameters)
    """

    def __init__(self, out: str | Path | None = None, keep: int | str = "all", overwrite: bool = False,
                 notes: dict[str, Any] | None = None, *, resume: bool = False, network: nn.Module | None = None,
                 loss: Loss | None = None, batch: Callable[[Any], tuple[Any, Any]] | None = None,
                 class_names: list[str] | None = None, commit_every: float = 1.0, advice: str = TWO_LINES,
                 look: Callable[[], None] | None = None):
        place = Place(None if out is None else Path(out), commit_every, overwrite, resume and out is not None,
                      resumable=False)
        self._options: dict[str, Any] = {
            "place": place, "keep": Keep.parse(keep), "notes": notes or {}, "average": None, "ids": None,
            "class_names": class_names,
        }
        self._network, self._loss, self._batch, self._advice = network, loss, batch or split_batch, advice
        self._look, self._watch = look, Watch(self._tap_of, yields=True)
        self.stood_down = False
        self.model: nn.Module | None = None
        self._recording: Recording | None = None
        self._dataset: Any = None
        self._other: Any = None
        self._taps: dict[int, LoaderTap] = {}
        self._refused: RecordingError | None = None
        self._pending: tuple[DataLoader[Any], Any, list[int]] | None = None
        self._stack: list[nn.Module] = []
        self._random: Tensor | None = None
        self._buffers: dict[int, dict[str, Tensor]] = {}
        self._glimpses: list[_Glimpse] = []

    # -- the block ---------------------------------------------------------------------------------------------------

    def __enter__(self) -> Self:
        self._listening = [
            register_module_forward_pre_hook(self._before_pass),
            # An exception within the network must not leave it on the stack.
            register_module_forward_hook(self._after_pass, with_kwargs=True, always_call=True),
        ]
        self._step_hook = register_optimizer_step_pre_hook(self._before_step)
        self._heard = Instead(F, {name: self._tapped(name, getattr(F, name)) for name in KNOWN})
        self._iterate = DataLoader.__iter__
        DataLoader.__iter__ = self._tapped_iterate()  # type: ignore[method-assign]
        self._make = DataLoader.__init__
        DataLoader.__init__ = self._tapped_make()  # type: ignore[method-assign]
        self._watch.open()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None,
                 trace: TracebackType | None) -> None:
        recording = self._recording
        try:
            if recording is not None:
                recording.__exit__(kind, error, trace)
        finally:
            self._stop_listening()
            self._step_hook.remove()
            self._heard.undo()
            DataLoader.__iter__ = self._iterate  # type: ignore[method-assign]
            DataLoader.__init__ = self._make  # type: ignore[method-assign]
            self._watch.close()
            for tap in reversed(self._taps.values()):
                tap.close()
            self._pending = None
        if recording is None and kind is None and not self.stood_down:
            raise self._nothing_found()

    def _stop_listening(self) -> None:
        for hook in self._listening:
            hook.remove()
            # torch forgets to forget this one, and takes every module for hooked from then on.
            modules._global_forward_hooks_with_kwargs.pop(hook.id, None)
        self._listening = []
        self._glimpses = []
        self._buffers = {}

    @property
    def recording(self) -> Recording | None:
        """The recording, once all that must be known was found."""
        return self._recording

    @property
    def run(self) -> Run:
        """The recorded run, after the block."""
        if self._recording is None:
            raise RecordingError("Nothing was recorded here. If the script records itself, open its own folder.")
        return self._recording.run

    # -- taps --------------------------------------------------------------------------------------------------------

    def _tapped_make(self) -> Callable[..., None]:
        original, session = self._make, self

        @functools.wraps(original)
        def make(loader: Any, *args: Any, **kwargs: Any) -> None:
            original(loader, *args, **kwargs)
            # A script imports what it trains with before it makes a loader.
            session._watch.open()
            if session._look is not None:
                session._look()

        return make

    def _tap_of(self, loader: Any) -> LoaderTap | None:
        """The tap on a loader that is made by others than torch."""
        if self.stood_down:
            return None
        if id(loader) not in self._taps:
            try:
                self._taps[id(loader)] = LoaderTap(loader, functools.partial(self._delivered, loader), None)
            except RecordingError as error:
                self._refused = self._refused or error
        return self._taps.get(id(loader))

    def _tapped_iterate(self) -> Callable[[Any], Any]:
        original, session = self._iterate, self

        @functools.wraps(original)
        def iterate(loader: Any) -> Any:
            # A loader that a recording listens to is left to it.
            within_another = any(within(tap.loader) is loader is not tap.loader for tap in session._taps.values())
            if within_another or hasattr(type(loader), "_tapped"):
                return original(loader)
            tap = session._tap_of(loader)
            return original(loader) if tap is None else accompanied(tap, type(loader), original)(loader)

        return iterate

    def _delivered(self, loader: DataLoader[Any], batch: Any, ids: list[int]) -> None:
        if self._recording is None:
            self._pending = (loader, batch, ids)
        elif _same_samples(loader.dataset, self._dataset):
            self._other = None
            self._refuse_another_order(loader)
            self._recording.deliver(batch, ids)
        else:
            self._other = loader.dataset
            self._recording.forget()

    def _refuse_another_order(self, loader: DataLoader[Any]) -> None:
        if id(loader) in self._taps:
            self._taps[id(loader)].order.refuse()

    def _tapped(self, name: str, function: Callable[..., Tensor]) -> Callable[..., Tensor]:
        signature = inspect.signature(function)

        @functools.wraps(function)
        def tapped(*args: Any, **kwargs: Any) -> Tensor:
            value = function(*args, **kwargs)
            if self._listening and isinstance(value, Tensor) and value.requires_grad:
                self._lost(name, signature.bind(*args, **kwargs).arguments, value)
            return value

        return tapped

    def _lost(self, name: str, arguments: dict[str, Any], value: Tensor) -> None:
        inputs = next(iter(arguments.values()))
        for glimpse in reversed(self._glimpses):
            if any(same_values(inputs, output) for output in leaves(glimpse.outputs)):
                call = LossCall(name, arguments, inputs)
                glimpse.losses.append(call)
                value.register_hook(call.use)
                return

    def _before_pass(self, module: nn.Module, args: Any) -> None:
        # Within a compiled module torch reads these lines instead of running them; its wrapper has been heard.
        if torch.compiler.is_compiling():
            return
        if self._is_heard(module) and torch.is_grad_enabled():
            first = next((p for p in module.parameters() if p.requires_grad), None)
            if first is not None and not nn.parameter.is_lazy(first):
                self._random = get_random_state(first.device)
                if id(module) not in self._buffers:
                    buffers = network_behind(module).named_buffers()
                    self._buffers[id(module)] = {name: b.detach().clone() for name, b in buffers}
        self._stack.append(module)

    def _is_heard(self, module: nn.Module) -> bool:
        """Whether a module may be the network: the one that was named, or any that is called from outside."""
        return not self._stack if self._network is None else module is self._network

    def _after_pass(self, module: nn.Module, args: Any, *rest: Any) -> None:
        if torch.compiler.is_compiling():
            return
        while self._stack and self._stack.pop() is not module:
            pass
        if not self._is_heard(module) or len(rest) != 2 or not torch.is_grad_enabled():
            return
        kwargs, outputs = rest
        tensors = [t for t in leaves(outputs) if t.requires_grad]
        first = next((p for p in module.parameters() if p.requires_grad), None)
        if first is None or not tensors or id(module) not in self._buffers:
            return
        if any(isinstance(hook, Hook) for hook in module._forward_hooks.values()):
            self.stood_down = True
            self._stop_listening()
            return
        glimpse = _Glimpse(self, module, args, kwargs, outputs, self._pending, self._random,
                           precision.current(first.device))
        unused = [g for g in self._glimpses if not g.used]
        if len(unused) >= REMEMBERED:
            self._glimpses.remove(unused[0])
        self._glimpses.append(glimpse)
        for t in tensors:
            t.register_hook(glimpse.use)

    def _before_step(self, optimizer: torch.optim.Optimizer, args: Any, kwargs: Any) -> Any:
        model = self.model
        if model is None:
            # A step with a closure makes its gradient within, and the recording may begin there.
            if (args[1] if len(args) > 1 else kwargs.get("closure")) is not None and self._listening:
                return watched(args, kwargs, lambda: self._recording, optimizer)
            return None
        if self._other is not None:
            raise RecordingError(
                f"The optimizer makes a step after a batch of another data set (a {type(self._other).__name__} of "
                f"{len(self._other)} samples) than the one the recording began with, and one is recorded. Train on one "
                "data set, made once, before the first epoch."
            )
        known = {id(p) for p in model.parameters()}
        held = [p for group in optimizer.param_groups for p in group["params"]]
        others = [p for p in held if id(p) not in known and p.requires_grad]
        if others and len(others) < len(held):
            raise RecordingError(
                f"The optimizer moves {len(others)} parameters that are not in the recorded {type(model).__name__}, so "
                "the script trains several modules together, and one network is recorded. Put them into one module "
                "whose forward calls them."
            )
        return None

    # -- the first gradient ------------------------------------------------------------------------------------------

    def _begin(self, first: _Glimpse) -> None:
        """Starts to record, in the middle of the first backward pass, when all that must be known is known."""
        if first.delivered is None or first.rows != len(first.delivered[2]):
            raise self._without_samples(first)
        loader, batch, _ = first.delivered
        self._refuse_another_order(loader)
        loss, split = (self._loss, self._batch) if self._loss is not None else self._found_loss(first, batch)
        self.model, self._dataset = first.module, loader.dataset
        recording = Recording(first.module, loader, loss, split=split, earlier=self._buffers[id(first.module)],
                              **self._options)
        recording.__enter__()
        # A batch of the training set ends what a batch of another one began, whichever loader brings it.
        recording.relay(functools.partial(self._delivered, loader))
        self._recording = recording
        for glimpse in self._glimpses:
            if glimpse.module is first.module and glimpse.delivered is not None \
                    and _same_samples(glimpse.delivered[0].dataset, self._dataset):
                recording.deliver(*glimpse.delivered[1:])
                glimpse.taken = recording.take(glimpse.args, glimpse.kwargs, glimpse.outputs, glimpse.random,
                                               glimpse.autocast)
        self._stop_listening()

    def _found_loss(self, first: _Glimpse, batch: Any) -> tuple[Loss, Callable[[Any], tuple[Any, Any]]]:
        """The loss that was called on the outputs, and which part of a batch was its target."""
        call = self._loss_of(first)
        split = target_of(call, batch, first.outputs)
        if split is None:
            raise self._missing(f"the target that {call.name} was given is not in the batch that the loader delivered; "
                                "it was computed from it")
        loss = call.as_loss()
        if loss is None:
            raise self._missing(f"{call.name} was given a weight for each entry, which no later call can know")
        return loss, split

    def _loss_of(self, glimpse: _Glimpse) -> LossCall:
        if not isinstance(glimpse.outputs, Tensor):
            raise self._missing(f"{type(glimpse.module).__name__} does not return one tensor")
        calls = [call for call in glimpse.losses if call.used]
        if not calls:
            raise self._missing("no loss function of torch.nn.functional (and no torch.nn loss module) was called on "
                                f"the outputs of {type(glimpse.module).__name__}, so what is minimised is unknown")
        if len(calls) > 1:
            names = " and ".join(call.name for call in calls)
            raise self._missing(f"several losses were called on the same outputs ({names}), and how they are weighed "
                                "is unknown")
        return calls[0]

    def _without_samples(self, glimpse: _Glimpse) -> RecordingError:
        name = type(glimpse.module).__name__
        if glimpse.delivered is not None:
            return self._missing(f"{name} was called on {glimpse.rows} rows after the loader had delivered a batch of "
                                 f"{len(glimpse.delivered[2])}, so which samples these are is unknown")
        if self._refused is not None:
            reason = str(self._refused).rstrip(".")
            return self._missing(f"the samples on which {name} is trained have no names. {reason}")
        return self._missing(f"no DataLoader was iterated before {name} was trained, so the samples of a step are "
                             "unknown. For a loop over tensors give record the pair (inputs, targets) as loader")

    def _nothing_found(self) -> RecordingError:
        if not self._taps and self._refused is None:
            what = "no DataLoader was iterated and no network received a gradient"
        else:
            what = "a DataLoader was iterated, but no torch.nn.Module that was called received a gradient"
        return self._missing(f"{what}. Training in another process cannot be seen from here")

    def _missing(self, what: str) -> RecordingError:
        return RecordingError(f"The script cannot be recorded by itself: {what}.{self._advice}")


class _Glimpse:
    """A forward pass that may turn out to be the first one of the training."""

    def __init__(self, session: AutoRecording, module: nn.Module, args: Any, kwargs: dict[str, Any], outputs: Any,
                 delivered: tuple[DataLoader[Any], Any, list[int]] | None, random: Tensor | None,
                 autocast: str | None):
        self.session, self.module, self.args, self.kwargs, self.outputs = session, module, args, kwargs, outputs
        self.delivered, self.random, self.autocast = delivered, random, autocast
        self.losses: list[LossCall] = []
        self.taken: Any = None
        self.used = False

    @property
    def rows(self) -> int:
        """The number of rows of the first tensor that went in."""
        first = next(iter(leaves([*self.args, *self.kwargs.values()])), None)
        return len(first) if first is not None and first.ndim else 0

    def use(self, gradient: Tensor) -> None:
        self.used = True
        if self.session._recording is None and not self.session.stood_down:
            self.session._begin(self)
        if self.taken is not None:
            self.taken.use(gradient)


def _same_samples(a: Any, b: Any) -> bool:
    """Whether two data sets are one: the same object, or made anew from the same parts."""
    if isinstance(a, TensorDataset) and isinstance(b, TensorDataset):
        return len(a.tensors) == len(b.tensors) and all(x is y for x, y in zip(a.tensors, b.tensors, strict=True))
    if isinstance(a, Subset) and isinstance(b, Subset):
        return _same_samples(a.dataset, b.dataset) and list(a.indices) == list(b.indices)
    return a is b
