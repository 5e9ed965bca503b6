r"""Running statistics of batch normalisation, by which the parameters of early steps move outputs as well.

In train mode a batch normalisation reads its batch and moves :math:`b' = (1 - m) b + m\,s(\theta_k)`, with s the mean
or the unbiased variance of what it read; in the end outputs are read with b. So there is a derivative by b on the way
back, :math:`\beta_k = (1 - m)\beta_{k+1}`, and each pass returns :math:`m\,(\partial s/\partial\theta)^T\beta_{k+1}`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.func import vjp, vmap
from torch.overrides import TorchFunctionMode

from ...errors import ModelError
from ...network import Parameters, apart, random_state
from ...run.replay import batch_tensors
from ...run.run import Run
from ...run.step import MicroBatch
from ..query_side import QuerySide
from ..training_side import AGREEMENT, TrainingSide

#: What is asked of the network where a buffer is no statistic of a batch normalisation.
OTHERS = (
    "The buffer {!r} of this network changes during training, and it is no running statistic of a batch normalisation, "
    "so how it depends on the samples is not known. Keep such state out of the network, or use "
    'influence(..., method="gauss-newton").'
)

#: What is said of statistics that moved by something else than the recorded passes.
MOVED = (
    "The running statistics {!r} moved at step {} by something else than the recorded passes, so how they depend on "
    "the samples is not known. Keep the network in eval mode where it is not trained on, or use "
    'influence(..., method="gauss-newton").'
)


class Statistics:
    """The running statistics of a run.

    Args:
        run: The run.
        side: The training side.
        names: The parameters to differentiate by.

    Raises:
        ModelError: If other buffers change.
    """

    def __init__(self, run: Run, side: TrainingSide, names: list[str]):
        self.run, self.side, self.names = run, side, names
        self.moving = sorted(_moving(run))
        kinds = {name: module for name, module in run.network.module(()).named_modules()
                 if isinstance(module, nn.modules.batchnorm._BatchNorm)}
        self._modules = {name: module for name, module in kinds.items()
                         if {_joined(name, "running_mean"), _joined(name, "running_var")} & set(self.moving)}
        known = {_joined(name, part) for name in self._modules for part in ("running_mean", "running_var")}
        strange = [name for name in self.moving if name not in known]
        if strange:
            raise ModelError(OTHERS.format(strange[0]))
        self._checked: set[int] = set()
        last, end = run.buffers(run.stop - 1), run.buffers(run.stop)
        beside = next((name for name in self.moving if not torch.equal(last[name], end[name])), None)
        if beside is not None:
            raise ModelError(MOVED.format(beside, run.stop))

    def begin(self, side: QuerySide, theta: Parameters, buffers: Parameters) -> Parameters:
        """The derivatives of what is explained by the statistics at the end, each with shape (R, *)."""
        if not self.moving:
            return {}
        leaves = {name: buffers[name].detach().clone().requires_grad_() for name in self.moving}
        rows: dict[str, list[Tensor]] = {name: [] for name in self.moving}
        with torch.enable_grad(), _Written():
            raw = side.network(theta, {**buffers, **leaves}, side.inputs)
            for value in side.functional(raw, side.functional.side).flatten().unbind():
                found = torch.autograd.grad(value, list(leaves.values()), retain_graph=True, allow_unused=True)
                for (name, leaf), g in zip(leaves.items(), found, strict=True):
                    rows[name].append(torch.zeros_like(leaf) if g is None else g)
        return {name: torch.stack(parts) for name, parts in rows.items()}

    def back(self, k: int, cotangents: Parameters, at: dict[int, Parameters],
             give: Callable[[int, Parameters], None]) -> None:
        """Goes back through the passes of step k: ``cotangents`` change, ``give`` gets those by the parameters."""
        if not cotangents:
            return
        # A pass that serves two steps moved the statistics once.
        moved = [batch for batch in self.run.step(k).batches
                 if batch.at == k and set(batch.training) & set(self._modules)]
        self._check(k, moved, at)
        for j in range(len(moved) - 1, -1, -1):
            batch = moved[j]
            parts = self._parts(k, batch, j)
            own = apart(at[batch.at], self.names)
            with random_state(batch.random, self.side.device):
                read, theta = self._reader(batch, k), at[batch.at]
                pull = vjp(lambda p, read=read, theta=theta: read({**theta, **p}), own)[1]
                asked = {name: cotangents[name] * parts[name] for name in parts}
                given = vmap(pull)(asked)[0]
            give(batch.at, given)
            for name in parts:
                cotangents[name] = cotangents[name] * (1 - parts[name])

    def _check(self, k: int, batches: list[MicroBatch], at: dict[int, Parameters]) -> None:
        """Whether the recorded passes moved the statistics of step k."""
        if k in self._checked:
            return
        self._checked.add(k)
        # The buffers of a step are those after its passes.
        here, there = self.side.to(self.run.buffers(k - 1)), self.side.to(self.run.buffers(k))
        for j, batch in enumerate(batches):
            parts = self._parts(k, batch, j)
            with random_state(batch.random, self.side.device):
                seen = self._reader(batch, k)(at[batch.at])
            here = {**here, **{name: (1 - part) * here[name] + part * seen[name] for name, part in parts.items()}}
        limit = max(AGREEMENT[self.side.dtype], 1e-3 if self.run.precision != torch.float64 else 0.0)
        for name in self.moving:
            if float((here[name] - there[name]).norm()) > limit * float(there[name].norm()):
                raise ModelError(MOVED.format(name, k))

    def _parts(self, k: int, batch: MicroBatch, before: int) -> dict[str, float]:
        """The share m of each statistic that a pass replaces, after ``before`` others of the step."""
        parts: dict[str, float] = {}
        for name, module in self._modules.items():
            if name in batch.training:
                count = self.run.buffers(k - 1).get(_joined(name, "num_batches_tracked"))
                part = module.momentum
                if part is None:
                    part = 1.0 / (float(0 if count is None else count) + before + 1)
                parts |= {_joined(name, "running_mean"): float(part), _joined(name, "running_var"): float(part)}
        return parts

    def _reader(self, batch: MicroBatch, k: int) -> Callable[[Parameters], Parameters]:
        """Gives the statistics of what each batch normalisation reads in a pass, at any parameters."""
        network, training = self.run.network, batch.training
        inputs, buffers = self.side.to(batch_tensors(self.run, batch))[0], self.side.to(self.run.buffers(k))
        names = [name for name in self._modules if name in training]

        def read(parameters: Parameters) -> Parameters:
            found: Parameters = {}
            with _heard(network.module(training), names, found):
                network(parameters, buffers, inputs, training)
            return found

        return read


def _moving(run: Run) -> set[str]:
    """The buffers of real numbers that change during the run."""
    first = run.buffers(run.start - 1)
    return {name for k in {run.start, (run.start + run.stop) // 2, run.stop}
            for name, value in run.buffers(k).items()
            if value.is_floating_point() and not torch.equal(value, first[name])}


class _Written(TorchFunctionMode):
    """Within it batch normalisation by running statistics is plain operations, which have derivatives by these."""

    def __torch_function__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return (_normalised if function is F.batch_norm else function)(*args, **(kwargs or {}))


def _normalised(x: Tensor, mean: Tensor | None, var: Tensor | None, weight: Tensor | None = None,
                bias: Tensor | None = None, training: bool = False, momentum: float = 0.1, eps: float = 1e-5) -> Tensor:
    if training or mean is None or var is None:
        return F.batch_norm(x, mean, var, weight, bias, training, momentum, eps)
    shape = (1, -1, *[1] * (x.ndim - 2))
    out = (x - mean.view(shape)) / (var.view(shape) + eps).sqrt()
    out = out if weight is None else out * weight.view(shape)
    return out if bias is None else out + bias.view(shape)


@contextmanager
def _heard(module: nn.Module, names: list[str], found: Parameters) -> Iterator[None]:
    """Within it, the statistics of the inputs of the modules named go to ``found``."""
    def hear(name: str) -> Callable[[nn.Module, tuple[Tensor, ...]], None]:
        def hook(_: nn.Module, inputs: tuple[Tensor, ...]) -> None:
            x = inputs[0]
            axes = [axis for axis in range(x.ndim) if axis != 1]
            found[_joined(name, "running_mean")] = x.mean(axes)
            found[_joined(name, "running_var")] = x.var(axes, unbiased=True)
        return hook

    modules = dict(module.named_modules())
    handles = [modules[name].register_forward_pre_hook(hear(name)) for name in names]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def _joined(module: str, name: str) -> str:
    return f"{module}.{name}" if module else name
