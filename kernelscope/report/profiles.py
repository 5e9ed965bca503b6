r"""An input of few numbers that is no picture, as a row of bars.

Bar j is as high as the input's entry j lies between the lowest and the highest value that entry takes among all inputs
of the explanation. A second row marks the explained input on each bar, so that the eye sees where the two agree.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from .. import pictures
from ..decomposition.explanation import Explanation

#: Entries of an input that can be told apart in a drawing as wide as a thumb.
MOST_ENTRIES = 64


@dataclass(frozen=True)
class Range:
    """The lowest and the highest value of each entry, with shape :math:`(p,)`."""

    low: Tensor
    high: Tensor

    def heights(self, x: Tensor) -> list[float]:
        """Where each entry lies, from 0 at its lowest to 100 at its highest; in the middle if it never differs."""
        reach = self.high - self.low
        level = torch.where(reach > 0, (x.detach().cpu().double().flatten() - self.low) / reach, 0.5)
        return level.nan_to_num(nan=0.5, posinf=1.0, neginf=0.0).clamp(0, 1).mul(100).tolist()

    def bars(self, x: Tensor) -> str:
        """The bars of an input as a path, one unit wide each and at most 100 high; the lowest is still to be seen.

        Example:
            >>> Range(torch.zeros(2), torch.ones(2)).bars(torch.tensor([0.5, 1.0]))
            'M.1 100V50h.8V100zM1.1 100V0h.8V100z'
        """
        return "".join(f"M{j or ''}.1 100V{min(97, round(100 - height))}h.8V100z"
                       for j, height in enumerate(self.heights(x)))

    def marks(self, x: Tensor) -> str:
        """A line over the place of each bar, at the height of an input."""
        return "".join(f"M{j} {min(97, round(100 - height))}h1" for j, height in enumerate(self.heights(x)))


def range_of(why: Explanation) -> Range | None:
    """The range of the inputs of an explanation, or ``None`` if they are pictures, whole numbers or too long."""
    x = why.inputs
    if pictures.picture_shape(x.shape[1:]) is not None or not x.is_floating_point():
        return None
    if not 2 <= x.shape[1:].numel() <= MOST_ENTRIES or not len(x):
        return None
    rows = torch.cat([part.double().flatten(1) for part in (x, why.sample_inputs) if len(part)])
    return Range(rows.nan_to_num().amin(0), rows.nan_to_num().amax(0))
