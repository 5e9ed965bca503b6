"""Normalisation layers written out in plain operations, whose second derivatives are right.

The second derivative through torch's own layer normalisation is wrong where a forward derivative is taken of a forward
one, or of a vectorised backward one (by a tenth and more in networks of a few units; seen in torch 2.13, with instance
normalisation likewise). The second derivative of its weight normalisation is no symmetric matrix at all. Written out
as means and roots they are differentiated like everything else.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.overrides import TorchFunctionMode


class Composed(TorchFunctionMode):
    """Within it normalisations are made of plain operations."""

    def __torch_function__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return WRITTEN.get(function, function)(*args, **(kwargs or {}))


def _standardised(x: Tensor, axes: tuple[int, ...], eps: float) -> Tensor:
    apart = x - x.mean(axes, keepdim=True)
    return apart / (apart.square().mean(axes, keepdim=True) + eps).sqrt()


def _layer_norm(x: Tensor, shape: Sequence[int], weight: Tensor | None = None, bias: Tensor | None = None,
                eps: float = 1e-5, *_: Any) -> Tensor:
    out = _standardised(x, tuple(range(-len(shape), 0)), eps)
    out = out if weight is None else out * weight
    return out if bias is None else out + bias


def _group_norm(x: Tensor, groups: int, weight: Tensor | None = None, bias: Tensor | None = None, eps: float = 1e-5,
                *_: Any) -> Tensor:
    out = _standardised(x.reshape(x.shape[0], groups, -1), (-1,), eps).reshape(x.shape)
    return _by_channel(out, weight, bias)


def _instance_norm(x: Tensor, running_mean: Tensor | None = None, running_var: Tensor | None = None,
                   weight: Tensor | None = None, bias: Tensor | None = None, use_input_stats: bool = True,
                   momentum: float = 0.1, eps: float = 1e-5) -> Tensor:
    if use_input_stats:
        return _by_channel(_standardised(x, tuple(range(2, x.ndim)), eps), weight, bias)
    shape = (1, -1, *[1] * (x.ndim - 2))
    assert running_mean is not None
    assert running_var is not None
    out = (x - running_mean.view(shape)) / (running_var.view(shape) + eps).sqrt()
    return _by_channel(out, weight, bias)


def _weight_norm(v: Tensor, g: Tensor, dim: int = 0) -> Tensor:
    axes = tuple(axis for axis in range(v.ndim) if axis != dim % v.ndim) if dim != -1 else tuple(range(v.ndim))
    return v * (g / v.square().sum(axes, keepdim=True).sqrt())


def _by_channel(out: Tensor, weight: Tensor | None, bias: Tensor | None) -> Tensor:
    shape = (1, -1, *[1] * (out.ndim - 2))
    out = out if weight is None else out * weight.view(shape)
    return out if bias is None else out + bias.view(shape)


#: What is written out, by the function that a module calls.
WRITTEN: dict[Callable[..., Any], Callable[..., Tensor]] = {
    F.layer_norm: _layer_norm, torch.layer_norm: _layer_norm, F.group_norm: _group_norm,
    torch.group_norm: _group_norm, F.instance_norm: _instance_norm, torch._weight_norm: _weight_norm,
}
