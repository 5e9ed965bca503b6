r"""Averaged weights beside the trained ones.

After step k an average follows the weights by :math:`e_{k+1} = a e_k + (1 - a)\theta_{k+1}`. The factor a is told from
the three, so that any way of averaging is recorded as what it did, and only the two ends of the average are kept.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from ..errors import RecordingError
from ..network import flatten
from .wrappers import network_behind


def averaged(model: nn.Module, average: nn.Module) -> list[Tensor]:
    """The averages of the parameters of a model that are trained.

    Raises:
        RecordingError: If one is missing, or has another shape.
    """
    held = dict(network_behind(getattr(average, "module", average)).named_parameters())
    trained = [name for name, p in model.named_parameters() if p.requires_grad]
    missing = [name for name in trained if name not in held]
    if missing:
        raise RecordingError(
            f"The averaged model must have the parameters of the trained one, and it lacks {missing[0]!r}. "
            "Pass torch.optim.swa_utils.AveragedModel(model) or copy.deepcopy(model)."
        )
    own = dict(model.named_parameters())
    other = next((name for name in trained if held[name].shape != own[name].shape), None)
    if other is not None:
        raise RecordingError(
            f"The averaged model must have the parameters of the trained one, and its {other!r} has the shape "
            f"{tuple(held[other].shape)} in place of {tuple(own[other].shape)}. "
            "Pass torch.optim.swa_utils.AveragedModel(model) or copy.deepcopy(model)."
        )
    return [held[name] for name in trained]


class Average:
    """Averaged weights, looked at where a step begins.

    Args:
        tensors: The averages, in the order of the trained parameters.
        dtype: The precision of the rows.

    Attributes:
        last: The average as it was seen last, in one row.
    """

    def __init__(self, tensors: list[Tensor], dtype: torch.dtype):
        self._tensors = tensors
        self._dtype = dtype
        self._before: Tensor | None = None
        self._step = -1
        self.last: Tensor | None = None

    def look(self, step: int, row: Tensor) -> float | None:
        """How much of the old average is in the one at the start of a step, beside the trained weights ``row``.

        There is no old one at the first step; a step that is made again has the same one as before.
        """
        if step != self._step:
            self._before, self._step = self.last, step
        self.last = flatten(self._tensors, self._dtype).cpu()
        return None if self._before is None else averaging_factor(self._before, row, self.last)


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
