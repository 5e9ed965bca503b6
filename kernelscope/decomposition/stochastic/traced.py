"""A function of tensors written out as the list of operations that it does.

Vectorising and differentiating a small network costs more time in bookkeeping than in arithmetic. What is done does not
change from step to step, so it is written down once, and the list is gone through from then on.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.fx.experimental.proxy_tensor import make_fx

from ...nested import leaves

#: What torch raises of a function that it cannot write out.
_UNTRACEABLE = (RuntimeError, TypeError, ValueError, NotImplementedError, AttributeError, LookupError, AssertionError)

#: How closely the list must meet the function, relative.
AGREEMENT = {torch.float64: 1e-10, torch.float32: 1e-4}


def traced(function: Callable[..., Any], *arguments: Any) -> Callable[..., Any]:
    """The function for arguments of these shapes: as a list of operations, or itself where that is not the same.

    Example:
        >>> double = traced(lambda t: 2 * t["w"], {"w": torch.ones(2)})
        >>> double({"w": torch.tensor([3.0, 4.0])})
        tensor([6., 8.])
    """
    try:
        # A function that was wrapped is asked for the arguments of what it wraps, which may be others.
        graph = make_fx(lambda *given: function(*given))(*arguments)
        # The loss itself is not asked for, only its gradient.
        graph.graph.eliminate_dead_code()
        graph.recompile()
        alike = _agree(graph(*arguments), function(*arguments))
    except _UNTRACEABLE:
        return function
    return graph if alike else function


def _agree(found: Any, truth: Any) -> bool:
    pairs = zip(leaves(found), leaves(truth), strict=True)
    return all(a.shape == b.shape and _close(a, b) for a, b in pairs)


def _close(found: Tensor, truth: Tensor) -> bool:
    limit = AGREEMENT.get(truth.dtype, 1e-2) * float(truth.abs().max()) if truth.numel() else 0.0
    return bool(torch.allclose(found, truth, rtol=0, atol=limit, equal_nan=True))
