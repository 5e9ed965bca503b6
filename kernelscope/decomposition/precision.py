r"""The precision of a ledger, which is the network's own where its forward allows no other.

A ledger is kept in float64 whatever the training was in. A forward that makes tensors itself, as ``torch.zeros(1, n)``
or ``x.float()`` do, makes them in float32, and they meet parameters in float64 that they cannot be multiplied with.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from ..arguments import what_came
from ..errors import DataError, KernelscopeError, ModelError
from ..network import MADE_ALONE, cast
from ..run.run import Run
from .training_side import TrainingSide
from .trajectory import Trajectory

#: What is said once where nobody asked for a precision.
OWN = (
    "The ledger is in float32 and closes to about 1e-7: the network or its loss {made}. Make them with dtype=x.dtype, "
    "or as buffers of the module, for a ledger in float64."
)

#: What torch, and a network's own code, raise where precisions do not go together.
_MISFITS = (RuntimeError, TypeError, ValueError, IndexError, KeyError, AttributeError, AssertionError, KernelscopeError)


def checked_dtype(dtype: Any) -> None:
    """Whether a ledger can be kept in this precision.

    Raises:
        DataError: If it cannot.
    """
    if dtype is not None and (not isinstance(dtype, torch.dtype) or dtype not in (torch.float64, torch.float32)):
        came = dtype if isinstance(dtype, torch.dtype) else what_came(dtype)
        raise DataError(
            f"The ledger is kept in torch.float64 or torch.float32; {came} came. torch.float64 is the default."
        )


def ledger_precision(run: Run, asked: torch.dtype | None, queries: tuple[Tensor, ...],
                     device: torch.device) -> tuple[torch.dtype, str | None]:
    """The precision to compute in, and a note if it is not float64 although none was asked for.

    Raises:
        ModelError: If float64 was asked for, and the network can be computed in float32 only.
    """
    usual = torch.float64 if asked is None else asked
    if usual == torch.float32 or run.dtype == torch.float64:
        return usual, None
    problem = _problem(run, usual, queries, device)
    if problem is None or _problem(run, torch.float32, queries, device) is not None:
        # What fails in both is said where it is met, in words of what was handed in.
        return usual, None
    made = MADE_ALONE.format(own="float32", asked="float64", problem=problem)
    if asked is not None:
        raise ModelError(
            f"The network cannot be computed in float64: it or its loss {made}. Pass dtype=torch.float32, or make such "
            "tensors with dtype=x.dtype."
        )
    return torch.float32, OWN.format(made=made)


def _problem(run: Run, dtype: torch.dtype, queries: tuple[Tensor, ...], device: torch.device) -> str | None:
    """What goes wrong with some queries in eval mode, or with the first batch as it was trained on."""
    trajectory, k = Trajectory(run, dtype, device), run.start
    parameters = trajectory.at(k)
    try:
        run.network(parameters, trajectory.buffers(k), cast(tuple(x[:2] for x in queries), dtype, device))
        for batch in run.step(k).batches[:1] if len(run) else ():
            # A pass may have been made before the first step of a slice.
            TrainingSide(run, dtype, device, 0).mean_gradient(batch, k, parameters, run.names)
    except torch.OutOfMemoryError:
        # Half the numbers would fit, for another reason.
        raise
    except _MISFITS as error:
        return (str(error).strip().splitlines() or [type(error).__name__])[0][:160].rstrip(".")
    return None
