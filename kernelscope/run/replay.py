r"""Steps that were not stored, computed again.

From a stored row and the optimizer's stored states the recorded batches, numbers and random states give the same steps
again, bit for bit where the loop was the plain one (mean loss, backward, step). Where it was not, the replayed end may
miss the next stored row by rounding; the ledger books that gap instead of hiding it.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from ..errors import DataError, KernelscopeError, RuleError
from ..network import exact_arithmetic, flatten, gradients_of, random_state
from .gradient import Tolerance, used_gradient
from .numbers import BESIDE, as_held
from .precision import reduced
from .rules import RULES

if TYPE_CHECKING:
    from .run import Run
    from .step import MicroBatch, Step


def replay(run: Run, anchor: int, first: int, last: int) -> Iterator[Tensor]:
    """The parameter vectors at the steps ``first`` to ``last``, computed from the row stored at ``anchor``.

    One after the other, when it is asked for: what was given and let go of takes no memory.
    """
    loop = None
    for k in range(anchor, last + 1):
        with _told(run, anchor, last):
            loop = loop or _Loop(run, anchor, last)
            row = loop.row() if k >= first else None
        if row is not None:
            yield row
        if k < last:
            with _told(run, anchor, last):
                loop.step(k)


@contextmanager
def _told(run: Run, anchor: int, last: int) -> Iterator[None]:
    """Within it steps are computed exactly; what goes wrong is told in terms of the run."""
    try:
        with torch.inference_mode(False), exact_arithmetic(), torch.enable_grad():
            yield
    except KernelscopeError:
        raise
    except (RuntimeError, ValueError, TypeError, LookupError, ArithmeticError, AttributeError) as error:
        raise DataError(
            f"The steps {anchor} to {last} of {run.store.path or 'this recording'} cannot be computed again "
            f"({type(error).__name__}: {str(error)[:200]}). Load the run with the model and the loss that were "
            'recorded; with record(..., keep="all") no step is ever computed again.'
        ) from error


class _Loop:
    """The training loop from a stored row on."""

    def __init__(self, run: Run, anchor: int, last: int):
        row = run.row(anchor)
        assert row is not None
        self.run, self.anchor = run, anchor
        self.parameters = _as_trained(run, row)
        self.optimizers: dict[int, torch.optim.Optimizer] = {}
        # A step may use a gradient that was taken before an earlier step: of two optimizers the second one does.
        self._seen = {batch.at for k in range(anchor, last) for batch in run.step(k).batches if batch.at != k}
        self._past = {at: _as_trained(run, run.trajectory(at, at)[0]) for at in self._seen if at < anchor}

    def row(self) -> Tensor:
        """The parameters as they are."""
        return flatten(list(self.parameters.values()), self.run.dtype)

    def step(self, k: int) -> None:
        """Makes step k."""
        if k in self._seen:
            self._past[k] = _leaves(self.parameters)
        step = self.run.step(k)
        _set_gradients(self.run, step, k, self.parameters, self._past)
        if step.owner not in self.optimizers:
            # An optimizer that began later brings the states it had then.
            states = self.run.states(max(self.anchor, step.owner)) or {}
            self.optimizers[step.owner] = _optimizer(step, self.parameters, states)
        _set_numbers(step, self.optimizers[step.owner])
        self.optimizers[step.owner].step()
        for p in self.parameters.values():
            # Between steps memory is for whoever reads the rows.
            p.grad = None


def _as_trained(run: Run, row: Tensor) -> dict[str, nn.Parameter]:
    return _leaves({name: t.to(dtype) for (name, t), dtype in zip(run.named(row).items(), run.dtypes, strict=True)})


def _leaves(parameters: Mapping[str, Tensor]) -> dict[str, nn.Parameter]:
    return {name: nn.Parameter(t.detach().clone()) for name, t in parameters.items()}


def _set_gradients(run: Run, step: Step, k: int, parameters: dict[str, nn.Parameter],
                   past: dict[int, dict[str, nn.Parameter]]) -> None:
    for p in parameters.values():
        p.grad = None
    moving = [name for group in step.groups for name in group["names"] if name not in step.without]
    if not moving:
        return
    means = []
    for batch in step.batches:
        at = parameters if batch.at == k else past[batch.at]
        means.append(gradients_of(mean_loss(run, batch, k, at), {name: at[name] for name in moving}))
    leaves = [parameters[name] for name in moving]
    filled = [[torch.zeros_like(p) if g is None else g for g, p in zip(part, leaves, strict=True)] for part in means]
    which = [run.names.index(name) for name in moving]
    used = used_gradient(step, filled, which, Tolerance.of(run.precision, any(b.autocast for b in step.batches)))
    for p, g in zip(leaves, used.gradient, strict=True):
        p.grad = g.to(p.dtype)


def mean_loss(run: Run, batch: MicroBatch, k: int, parameters: dict[str, Any]) -> Tensor:
    """The mean loss of a recorded forward pass, in the precision of the pass and on the device of the parameters."""
    inputs, targets = batch_tensors(run, batch)
    device = next(iter(parameters.values())).device
    buffers = run.buffers(k)
    # A loop that casts its passes computes its loss in the same context.
    with random_state(batch.random, device), reduced(batch.autocast, device):
        outputs = run.network(parameters, buffers, inputs, batch.training)
        return run.loss.mean(outputs, targets)


def batch_tensors(run: Run, batch: MicroBatch) -> tuple[tuple[Tensor, ...], Tensor]:
    """The inputs and targets of a recorded forward pass."""
    return run.samples.read(batch)


def _optimizer(step: Step, parameters: dict[str, nn.Parameter], states: dict[str, Tensor]) -> torch.optim.Optimizer:
    """The optimizer of a step as it was when these states were stored."""
    if step.optimizer not in RULES:
        raise RuleError(
            f"Steps of {step.optimizer} cannot be replayed, and this recording keeps only some of them. "
            'Record with keep="all".'
        )
    groups = [{"params": [parameters[name] for name in group["names"]]} for group in step.groups]
    made = getattr(torch.optim, step.optimizer)(groups)
    for key, value in states.items():
        owner, parameter, name = _split(key)
        if owner == step.owner:
            # Counters stay float32, as the optimizer keeps them.
            made.state[parameters[parameter]][name] = value.clone()
    return made


def _split(key: str) -> tuple[int, str, str]:
    owner, _, rest = key.partition("|")
    parameter, _, name = rest.rpartition("|")
    return int(owner), parameter, name


def _set_numbers(step: Step, optimizer: torch.optim.Optimizer) -> None:
    for group, recorded in zip(optimizer.param_groups, step.groups, strict=True):
        numbers = {name: value for name, value in recorded.items() if name != "names"}
        group.update({name: _number(value) for name, value in as_held(numbers).items() if name != BESIDE})


def _number(value: Any) -> Any:
    return tuple(value) if isinstance(value, list) else value
