"""F13: networks that change when they are asked, or do not give the same twice."""

from __future__ import annotations

import hashlib
import random
import warnings
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import kernelscope as ks

from ...errors import ModelError, RecordingError
from ..judging import Case, Cases
from ..kept import digest, run_numbers
from ..row import Done, Silent, refused
from ..subjects import classes, points, seeded, trained

X, Y = points(), classes()


class Forward(nn.Module):
    """Two layers with something between them."""

    def __init__(self, between: Callable[[nn.Module, Tensor], Tensor], **parts: nn.Module):
        super().__init__()
        self.a, self.b, self.between = nn.Linear(3, 4), nn.Linear(4, 3), between
        for name, part in parts.items():
            self.add_module(name, part)
        self.register_buffer("seen", torch.zeros(()))

    def forward(self, x: Tensor) -> Tensor:
        """What lies between the layers decides."""
        return self.b(self.between(self, self.a(x)))


def _depth(net: nn.Module, h: Tensor) -> Tensor:
    return h * (torch.rand(len(h), 1, dtype=h.dtype) > 0.5) if net.training else h


def _noise(net: nn.Module, h: Tensor) -> Tensor:
    return h.tanh() + 0.1 * torch.randn_like(h)


def _counting(net: nn.Module, h: Tensor) -> Tensor:
    with torch.no_grad():
        net.get_buffer("seen").add_(1)
    return h.tanh()


def _python_noise(net: nn.Module, h: Tensor) -> Tensor:
    return h.tanh() * (1 + random.random())


def _in_place(net: nn.Module, h: Tensor) -> Tensor:
    return (h + 1).mul_(2.0).add_(0.5).tanh()


def _layers(*between: nn.Module) -> nn.Module:
    return nn.Sequential(nn.Linear(3, 4), *between, nn.Linear(4, 3))


def _tied() -> nn.Module:
    model = nn.Sequential(nn.Linear(3, 3), nn.Tanh(), nn.Linear(3, 3))
    model[2].weight = model[0].weight
    return model


def _frozen() -> nn.Module:
    model = _layers(nn.Tanh())
    model.get_submodule("0").requires_grad_(False)
    return model


def _hooked() -> nn.Module:
    model = _layers(nn.Tanh())
    model.get_submodule("0").register_forward_hook(lambda module, args, out: 2 * out)
    return model


def _compiled() -> nn.Module:
    return torch.compile(_layers(nn.Tanh()), backend="eager")  # type: ignore[return-value]


MODELS: dict[str, Callable[[], nn.Module]] = {
    "batch norm": lambda: _layers(nn.BatchNorm1d(4), nn.Tanh()),
    "batch norm, evaluating": lambda: _layers(nn.BatchNorm1d(4), nn.Tanh()).eval(),
    "batch norm without running statistics": lambda: _layers(nn.BatchNorm1d(4, track_running_stats=False), nn.Tanh()),
    "dropout": lambda: _layers(nn.Tanh(), nn.Dropout(0.5)),
    "dropout, evaluating": lambda: _layers(nn.Tanh(), nn.Dropout(0.5)).eval(),
    "alpha dropout": lambda: _layers(nn.SELU(), nn.AlphaDropout(0.3)),
    "random leaky units": lambda: _layers(nn.RReLU()),
    "stochastic depth": lambda: Forward(_depth), "noise in forward": lambda: Forward(_noise),
    "noise of Python": lambda: Forward(_python_noise), "a counter in a buffer": lambda: Forward(_counting),
    "in place": lambda: Forward(_in_place), "in-place units": lambda: _layers(nn.ReLU(inplace=True)),
    "tied weights": _tied, "frozen layer": _frozen,
    "all frozen": lambda: _layers(nn.Tanh()).requires_grad_(False),
    "unused layer": lambda: Forward(lambda net, h: h.tanh(), unused=nn.Linear(7, 7)),
    "forward hook": _hooked, "compiled": _compiled,
    "spectral norm": lambda: nn.Sequential(nn.utils.parametrizations.spectral_norm(nn.Linear(3, 4)), nn.Linear(4, 3)),
    "weight norm": lambda: nn.Sequential(nn.utils.parametrizations.weight_norm(nn.Linear(3, 4)), nn.Linear(4, 3)),
    "layer norm": lambda: _layers(nn.LayerNorm(4), nn.Tanh()),
}

#: What is asked of a network as it stands: it must not be changed by it.
ASKED: dict[str, Callable[[nn.Module], Any]] = {
    "Tangent": lambda model: ks.kernels.Tangent(model)(X),
    "products": lambda model: ks.KernelOperator(
        ks.kernels.Tangent(model, outputs="full"), X) @ torch.ones(12, 3).double(),
    "GradientFeatures": lambda model: ks.features.GradientFeatures(model).inner(X),
    "gradient_scores": lambda model: ks.gradient_scores(model, (X[:3], Y[:3]), (X, Y), loss=F.cross_entropy).scores,
}


#: What is asked of a run, and of the network that it has trained.
OF_RUNS: dict[str, Callable[[ks.Run, nn.Module], Tensor]] = {
    "decompose": lambda run, model: closed(run, model),
    "decompose, thinned": lambda run, model: ks.decompose(run.thinned(2), X[:2]).contributions,
    "influence": lambda run, model: ks.influence(run, X[:2]).influences,
    "influence, gauss-newton": lambda run, model: ks.influence(run, X[:2], method="gauss-newton").influences,
    "compare": lambda run, model: ks.compare(run, run, X[:4], k=3, draws=10, coverage=False).kernels["a"],
    "retrain": lambda run, model: _flat(ks.retrain(run, [range(8)], sampling="reshuffling").parameters),
    "from_checkpoints": lambda run, model: ks.decompose(ks.from_checkpoints(
        {k: {**run.parameters(k), **run.buffers(k)} for k in (0, 3, 6)}, model=model, data=(X, Y),
        loss=F.cross_entropy, lr=0.1), X[:2]).contributions,
}


def _flat(tree: dict[str, Tensor]) -> Tensor:
    return torch.cat([value.flatten() for value in tree.values()])


def made(name: str) -> nn.Module:
    """The network of a name, in double precision, with weights that a seed decides."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = MODELS[name]().double()
        return seeded(model) if "norm" not in name else model


def state(model: nn.Module) -> str:
    """A digest of all that a call must leave: values, modes, gradients, hooks, and the states of random numbers."""
    digest = hashlib.sha256()
    for name, value in model.state_dict().items():
        digest.update(name.encode() + value.detach().contiguous().view(torch.uint8).numpy().tobytes()
                      if value.ndim else name.encode() + repr(value.item()).encode())
    words = [(name, module.training, len(module._forward_hooks), len(module._forward_pre_hooks),
              len(module._backward_hooks)) for name, module in model.named_modules()]
    grads = [(name, p.requires_grad, p.grad is None) for name, p in model.named_parameters()]
    digest.update(repr((words, grads, random.getstate(), str(np.random.get_state()))).encode())  # noqa: NPY002
    digest.update(torch.get_rng_state().numpy().tobytes())
    return digest.hexdigest()


def untouched(model: nn.Module, ask: Callable[[nn.Module], Any]) -> Done | None:
    """Asks twice: the network is as it was, and both answers are the same; or it is refused by name."""
    before, answers, refusal = state(model), [], None
    for _ in range(2):
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                answers.append(ask(model))
        except (ModelError, RecordingError) as error:
            refusal = error
        if state(model) != before:
            raise Silent("the network, its modes or the random state are not as they were")
    if refusal is not None:
        if answers:
            raise Silent("one of two calls was refused, and the other had an answer")
        return refused(refusal)
    if not torch.equal(*answers):
        raise Silent(f"two calls differ by {float((answers[0] - answers[1]).abs().max()):.1e}")
    return None


def asked(name: str, ask: Callable[[ks.Run, nn.Module], Tensor]) -> Done | None:
    """A run of the network is recorded and asked twice: asking changes nothing."""
    model = made(name)
    if not any(p.requires_grad for p in model.parameters()):
        model.requires_grad_(True)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        try:
            run = trained(X, Y, model)
        except (ModelError, RecordingError) as error:
            return refused(error)
    before = digest(run_numbers(run))
    done = untouched(model, lambda model: ask(run, model))
    if digest(run_numbers(run)) != before:
        raise Silent("the run is not as it was")
    return done


def closed(run: ks.Run, model: nn.Module) -> Tensor:
    """The contributions of a ledger that closes.

    Raises:
        Silent: If it does not.
    """
    ledger = ks.decompose(run, X[:2])
    scale = ledger.initial.abs() + ledger.contributions.abs().sum(-1)
    terms = sum(ledger.channels.values())
    if float(((ledger.final - ledger.initial - terms).abs() / scale).max()) > 1e-10:
        raise Silent("the ledger does not close")
    return ledger.contributions


class Models(Cases):
    """Twenty-two networks, asked in eleven ways."""

    id, sentence = "F13", "Networks draw random numbers, keep statistics, tie, freeze or change in place."

    def cases(self) -> Iterator[Case]:
        for name in MODELS:
            for what, ask in ASKED.items():
                yield f"{name}: {what}", lambda name=name, ask=ask: untouched(made(name), ask)  # type: ignore[misc]
            for what, run_ask in OF_RUNS.items():
                yield f"{name}: {what}", partial(asked, name, run_ask)


ROWS = (Models,)
