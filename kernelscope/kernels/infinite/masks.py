r"""Masks: points of which some positions are missing, so that sequences of several lengths stand in one tensor.

A mask is 1 where a position is there and 0 elsewhere. What is not there is nought before the network and after each of
its layers, whatever their biases and activations make of nought. So a sequence with a tail that is not there has the
kernels of the shorter sequence, wherever noughts are put around it (``padding="same"``) and strides divide both
lengths.

A layer with a stride s makes of the s positions that begin at :math:`s p` one place p, as a pooling does of its window:
the place is there if any of them is. A convolution that keeps its windows inside (``padding="valid"``) keeps them
inside of the mask too: its place is there if the whole window is. One that goes round (``padding="circular"``) goes
round all positions, the missing ones too. The end of pixels is there if anything is; the kernels of a point of which
nothing is there are nought.

Means are taken over the positions that are there, of each point by its own count.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import pad

from ...arguments import what_came
from ...errors import DataError
from .covariances import Layout
from .windows import Window, moved


def checked_mask(mask: object, x: Tensor) -> Tensor:
    """A mask in the precision of the points that it is of, with shape (n, *pixels).

    Raises:
        DataError: If it has another shape, or other values than 0 and 1.
    """
    if not isinstance(mask, Tensor) or mask.shape != (len(x), *x.shape[2:]):
        came = f"shape {tuple(mask.shape[1:])}" if isinstance(mask, Tensor) else what_came(mask)
        raise DataError(f"A mask has one entry for each position, shape {tuple(x.shape[2:])} for a point of shape "
                        f"{tuple(x.shape[1:])}; {came} came. Leave out the axis of channels.")
    if mask.dtype != torch.bool and not bool(((mask == 0) | (mask == 1)).all()):
        raise DataError("A mask holds 1 where a position is there and 0 where it is not; other values came. Pass for "
                        "example mask > 0.")
    return mask.to(x)


def joined_places(mask: Tensor, sides: tuple[int, ...]) -> Tensor:
    """Which places are there after so many positions in each direction have become one.

    Example:
        >>> joined_places(torch.tensor([[1, 1, 1, 0, 0]]), (2,))
        tensor([[1, 1, 0]])
    """
    for axis, side in enumerate(sides, start=1):
        full = pad(mask, (*[0, 0] * (mask.ndim - axis - 1), 0, -mask.shape[axis] % side))
        mask = full.unflatten(axis, (-1, side)).amax(axis + 1)
    return mask


def whole_windows(mask: Tensor, window: Window) -> Tensor:
    """Which windows are there as a whole."""
    for k, axes in enumerate(Layout(mask.ndim - 1, False, False).axes):
        mask = torch.stack(list(moved(mask, axes, window, k))).amin(0)
    return mask


def any_place(mask: Tensor) -> Tensor:
    """Of which points there is anything, with shape (n,)."""
    return mask.flatten(1).amax(1) if mask.ndim > 1 else mask


def shares(mask: Tensor, sides: tuple[int, ...]) -> Tensor:
    """How many positions the window of each has for one that is there, which makes a mean one over these alone.

    Example:
        >>> shares(torch.tensor([[1.0, 1.0, 1.0, 0.0]]), (2,))
        tensor([[1., 1., 2., 2.]])
    """
    part = mask
    for axis, side in enumerate(sides, start=1):
        part = part.unflatten(axis, (-1, side)).mean(axis + 1).repeat_interleave(side, axis)
    return 1 / torch.where(part > 0, part, 1.0)
