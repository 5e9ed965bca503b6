"""The functions between two linear maps, by name, so that a layer can say which one it has when it is kept."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from ...arguments import what_came
from ...errors import DataError
from ...features.spectra import ACTIVATIONS as NAMED

Activation = Callable[[Tensor], Tensor]

#: Those that have a name.
ACTIVATIONS: dict[str, Activation] = NAMED | {"gelu_tanh": lambda z: nn.functional.gelu(z, approximate="tanh")}

#: On how many rows, and on how many numbers of them, a function is tried.
PROBED = 64

#: The modules and functions of torch that are one of them.
_SAME: dict[Any, str] = {
    torch.tanh: "tanh", nn.functional.tanh: "tanh", torch.relu: "relu", nn.functional.relu: "relu",
    nn.functional.gelu: "gelu", nn.functional.silu: "silu", torch.sigmoid: "sigmoid", nn.functional.sigmoid: "sigmoid",
    nn.functional.softplus: "softplus", torch.cos: "cos", torch.sin: "sin",
}


class Settled(nn.Module):
    """A module that stays in evaluation mode, whatever the mode of the layer that it is in."""

    def __init__(self, module: nn.Module):
        super().__init__()
        self.module = module
        self.train(False)

    def train(self, mode: bool = True) -> Settled:
        return super().train(False)

    def forward(self, z: Tensor) -> Tensor:
        return self.module(z)


def as_activation(value: Any) -> tuple[str | None, Activation]:
    """An activation with its name, which is ``None`` for a function of the user's own.

    Args:
        value: A name, a module such as ``torch.nn.GELU()``, or a function of each number of a tensor.

    Raises:
        DataError: If it is none of these.

    Example:
        >>> as_activation(nn.GELU(approximate="tanh"))[0], as_activation("relu")[0], as_activation(torch.tanh)[0]
        ('gelu_tanh', 'relu', 'tanh')
    """
    if isinstance(value, str) and value in ACTIVATIONS:
        return value, ACTIVATIONS[value]
    if isinstance(value, nn.Module):
        name = _name_of(value)
        # A module with parameters, such as PReLU, stays the user's: what a layer moves and keeps is a copy.
        inner = value.module if isinstance(value, Settled) else value
        own = Settled(copy.deepcopy(inner).requires_grad_(False)) if name is None else ACTIVATIONS[name]
        return name, own
    if callable(value) and not isinstance(value, type):
        try:
            name = _SAME.get(value)
        except TypeError:  # a function that cannot be a key
            name = None
        return name, value
    raise DataError(
        f"activation must be one of {', '.join(ACTIVATIONS)}, a module such as torch.nn.GELU(), or a function of a "
        f'tensor; {what_came(value)} came. Pass for example activation="gelu".'
    )


def check_each(function: Activation, z: Tensor) -> None:
    """Whether something is a function of each number alone, the same at each call.

    Numbers that come in another shape, beside others, have to give what they gave.

    Args:
        function: A function of tensors.
        z: Some numbers that it is for, with shape (n, l).

    Raises:
        DataError: If it is none.

    Example:
        >>> check_each(torch.tanh, torch.randn(20, 5))
    """
    some = z[:PROBED]
    found, again = function(some.clone()), function(some.clone())
    off = 1e-6 * float(found.abs().max())
    if not torch.allclose(found, again, 1e-6, off):
        raise DataError("activation must be the same function at each call, and this one draws random numbers. Pass it "
                        "as it is in evaluation, without dropout or noise.")
    order = torch.randperm(some.numel(), generator=torch.Generator().manual_seed(0))[:PROBED].to(z.device)
    wanted = found.flatten()[order]
    for shape in ((-1, 1), (1, -1)):
        try:
            alone = function(some.flatten()[order].reshape(shape)).flatten()
        except (RuntimeError, IndexError, ValueError) as error:
            raise DataError(f"activation must be a function of each number alone, and this one fails for numbers of "
                            f"another shape ({str(error).splitlines()[0]}). Pass one that has the same parameters for "
                            "all neurons.") from error
        if alone.shape != wanted.shape or not torch.allclose(alone, wanted, 1e-6, off):
            raise DataError("activation must be a function of each number alone, and this one looks at others too, as "
                            "a softmax over neurons does. Pass the function of a neuron, and keep the rest as a module "
                            "after the layer.")


def _name_of(module: nn.Module) -> str | None:
    """The name of the function that a module of torch is."""
    # What is derived from one of them may be another function.
    if type(module) is nn.GELU:
        return "gelu" if module.approximate == "none" else "gelu_tanh"
    if type(module) is nn.Softplus:
        return "softplus" if module.beta == 1 and module.threshold == 20 else None
    known: dict[type[nn.Module], str] = {nn.Tanh: "tanh", nn.ReLU: "relu", nn.SiLU: "silu", nn.Sigmoid: "sigmoid",
                                         nn.Identity: "identity"}
    return known.get(type(module))
