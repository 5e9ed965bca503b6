r"""What is recorded: a network, and those of its parameters that move.

The parameters :math:`\theta` are those that require a gradient when the recording begins, in the order of the model.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from ..architecture import describe
from ..errors import RecordingError
from ..network import Network, Parameters, flatten
from ..sizes import norm_of
from .calling import ByName, Calling
from .provenance import provenance
from .surroundings import Surroundings
from .wrappers import network_behind

#: Gradients of so many numbers are too long for a norm in single precision.
LONG = 2**15


class Subject:
    """A network under recording.

    Args:
        called: The module that the loop calls: the network, or a wrapper of it.
        earlier: Its buffers before the first pass, where passes were seen before the recording began.
        calling: How it is called, where that is not with tensors in order.

    Attributes:
        called: That module.
        model: The network within.
        network: The network as a function, on a copy.
        parameters: The parameters whose rows are recorded, by name.
        names: Their names, in order.
        device: Where they are.
        dtype: A precision that holds all of them.
        frozen: The values of the others.
        surroundings: What must stay as it is.

    Raises:
        RecordingError: If there is nothing to record, or nothing that a ledger could be made of.
    """

    def __init__(self, called: nn.Module, earlier: Parameters | None = None, calling: Calling | None = None):
        self.called = called
        self.model = network_behind(called)
        self._within = self.model
        if calling is not None:
            self.model = ByName(self.model, calling)
        _refuse_lazy(self.model)
        self.network = Network(self.model)
        self.network.buffers |= earlier or {}
        self.parameters: Parameters = {name: p for name, p in self.model.named_parameters() if p.requires_grad}
        _refuse_unreal(self.model, self.parameters)
        self.names = list(self.parameters)
        self.device = next(iter(self.parameters.values())).device
        self.dtype = _widest(p.dtype for p in self.parameters.values())
        self.frozen = {name: t for name, t in self.network.parameters.items() if name not in self.parameters}
        self.surroundings = Surroundings(self.model, self.frozen)
        self._named = {id(p): name for name, p in self.parameters.items()}
        self._modules = list(self.model.named_modules())
        self._buffers = [(name, self.model.get_submodule(name.rpartition(".")[0]), name.rpartition(".")[2])
                         for name, _ in self.model.named_buffers()]

    def name(self, parameter: Tensor) -> str | None:
        """The name of a recorded parameter; ``None`` for any other tensor."""
        return self._named.get(id(parameter))

    @property
    def size(self) -> int:
        """The number of entries of a row."""
        return sum(p.numel() for p in self.parameters.values())

    @property
    def row(self) -> Tensor:
        """The recorded parameters as they are, in one row."""
        return flatten(list(self.parameters.values()), self.dtype).cpu()

    @property
    def buffers(self) -> Parameters:
        """The buffers as they are."""
        return {name: b for name, module, own in self._buffers if (b := module._buffers[own]) is not None}

    @property
    def training(self) -> tuple[str, ...]:
        """The names of the submodules in train mode."""
        # A wrapper that is called by nobody in the loop is in the mode of what it wraps.
        self.model.training = self._within.training
        return tuple(name for name, module in self._modules if module.training)

    @property
    def finite(self) -> bool:
        """Whether all recorded parameters are numbers."""
        return all(bool(torch.isfinite(p).all()) for p in self.parameters.values())

    def norms(self) -> Tensor:
        """For each recorded parameter the norm of its gradient, 0 where it has none."""
        places, gradients = self._gradients()
        # A single norm of a long tensor in float32 is off by 1e-4, which would look like clipping.
        if any(g.dtype == torch.float32 and g.device.type == "cpu" and g.numel() > LONG for g in gradients):
            found = torch.tensor([norm_of(g) for g in gradients], dtype=torch.float64)
        else:
            found = torch.stack(torch._foreach_norm(gradients)).double().cpu() if gradients else torch.zeros(0).double()
        if len(places) == len(self.names):
            return found
        norms = torch.zeros(len(self.names), dtype=torch.float64)
        norms[places] = found
        return norms

    def largest(self) -> float:
        """The largest absolute entry of the gradients."""
        # The norm of this name is twenty times slower.
        ends = [end for g in self._gradients()[1] if g.numel() for end in torch.aminmax(g)]
        return max((abs(end) for end in torch.stack(ends).tolist()), default=0.0) if ends else 0.0

    def _gradients(self) -> tuple[list[int], list[Tensor]]:
        """The gradients that are there, as dense tensors, and the places of their parameters."""
        held = [(i, p.grad) for i, p in enumerate(self.parameters.values()) if p.grad is not None]
        return [i for i, _ in held], [g.coalesce().values() if g.is_sparse else g for _, g in held]

    def about(self) -> dict[str, Any]:
        """The network in plain data."""
        return {
            "parameters": [_entry(name, p) for name, p in self.parameters.items()],
            "frozen": [_entry(name, p) for name, p in self.frozen.items()],
            "dtype": str(self.dtype).removeprefix("torch."), "architecture": describe(self.model),
            **provenance(self._within),
        }


def _refuse_lazy(model: nn.Module) -> None:
    lazy = next((name for name, t in [*model.named_parameters(), *model.named_buffers()] if is_lazy(t)), None)
    if lazy is not None:
        raise RecordingError(
            f"{lazy!r} has no shape before the first batch, since its layer is a lazy one, so there is nothing yet to "
            "record. Call the model on a batch once, under torch.no_grad(), before `with ks.record(...)` and before "
            "the optimizer is made."
        )


def _refuse_unreal(model: nn.Module, trained: Parameters) -> None:
    if not trained:
        raise RecordingError(
            "No parameter of the model requires a gradient, so there is nothing to record. "
            "Unfreeze what will be trained before the recording begins."
        )
    odd = next(((name, p) for name, p in model.named_parameters() if not p.is_floating_point()), None)
    if odd is not None:
        raise RecordingError(
            f"The parameter {odd[0]!r} is {odd[1].dtype}, and the ledger is made of real numbers. "
            "Keep real and imaginary parts as two parameters, and quantized ones as buffers."
        )
    bound = next((name for name, module in model.named_modules()
                  if isinstance(module, nn.Embedding | nn.EmbeddingBag) and module.max_norm is not None), None)
    if bound is not None:
        raise RecordingError(
            f"The table {bound!r} shortens its rows whenever they are looked up (max_norm), which moves parameters "
            "outside every optimizer step. Leave max_norm out, or bound the rows after each step."
        )


def _entry(name: str, p: Tensor) -> dict[str, Any]:
    return {"name": name, "shape": list(p.shape), "dtype": str(p.dtype).removeprefix("torch.")}


def _widest(dtypes: Any) -> torch.dtype:
    widest = torch.float32
    for dtype in dtypes:
        widest = torch.promote_types(widest, dtype)
    return widest
