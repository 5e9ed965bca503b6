r"""A sample of the optimal denoiser, split over training images in closed form."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from ...arguments import as_place
from ...result import Check, CheckRow, Result
from ...text import with_minus
from ..measures import Concentration, concentration

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["OptimalExplanation"]


@dataclass(frozen=True, eq=False, repr=False)
class OptimalExplanation(Result):
    r"""Samples of the optimal denoiser, whose split over training images is closed: :math:`D^* = \sum_i w_i x_i`.

    Attributes:
        levels: The noise level of each of N stages, descending, with shape (N,).
        points: The noisy point at each stage, with shape (q, N, \*).
        denoised: The mean of the training images there, with shape (q, N, \*); the last one is the sample.
        weights: The weight w of each training image, with shape (q, N, n).
        labels: A word for each training image, or ``None``.
        names: A word for each sample.
        info: The sampler.
    """

    levels: Tensor
    points: Tensor
    denoised: Tensor
    weights: Tensor
    labels: list[str] | None
    names: list[str]
    info: dict[str, Any] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.weights)

    @property
    def final(self) -> Tensor:
        """The samples, with shape (q, *)."""
        return self.denoised[:, -1]

    def stage_contributions(self) -> Tensor:
        r""":math:`a_{k,i} = w_i(x_k) - w_i(x_{k-1})` for k from 1 on, with shape (q, N - 1, n); nought over images."""
        return self.weights.diff(dim=1)

    def concentration(self) -> Concentration:
        """On how few training images each stage's denoised point rests, each measure with shape (q, N)."""
        return concentration(self.weights)

    def fixed(self, query: int = 0) -> float:
        """The noise level from which on the image of largest weight in the end has more than half of it."""
        weights = self.weights[as_place(query, "query", len(self), "samples")]
        return float(self.levels[first_of_the_last(weights[:, int(weights[-1].argmax())] > 0.5)])

    def middle(self) -> tuple[float, float]:
        r"""The noise levels between which the middle half of all change of weights happens, the lower one first."""
        size = self.stage_contributions().abs().sum(-1).mean(0)
        reached = size.cumsum(0) / size.sum()
        ends = [int((reached >= part).nonzero()[0]) + 1 for part in (0.75, 0.25)]
        return float(self.levels[ends[0]]), float(self.levels[ends[1]])

    def summary(self) -> str:
        """The answer in one sentence."""
        q, stages, n = self.weights.shape
        eff = self.concentration().n_eff.median(0).values
        low, high = self.middle()
        fixed = torch.tensor([self.fixed(i) for i in range(q)]).median()
        return (f"OptimalExplanation({q} sample{'s' * (q != 1)} x {stages} stages x {n} images: the images mixed fall "
                f"from {float(eff[0]):.0f} to {float(eff[-1]):.2g}, the last one has most weight from noise "
                f"{float(fixed):.2g} on, half of the change happens between noise {high:.2g} and {low:.2g})")

    def to_frame(self) -> pd.DataFrame:
        """One row for each stage: the median over samples of how many images are mixed, and what changes."""
        import pandas as pd

        measures = self.concentration()
        moved = self.stage_contributions().abs().sum(-1).mean(0)
        return pd.DataFrame({"stage": range(len(self.levels)), "noise": self.levels.tolist(),
                             "n_eff": measures.n_eff.median(0).values.tolist(),
                             "gini": measures.gini.median(0).values.tolist(),
                             "change": [float("nan"), *moved.tolist()]})

    def check(self) -> Check:
        """Whether what images gain others lose, and the weighted images are the denoised points."""
        left = float(self.stage_contributions().sum(-1).abs().max())
        words = with_minus(f"{left:.1e}")
        return Check((CheckRow("sum", "pass" if left <= 1e-14 else "fail", left, 1e-14,
                               f"At each stage what images gain and lose adds up to nought, to {words}."),))


def first_of_the_last(values: Tensor) -> int:
    """From which place on a sequence keeps its last value.

    Example:
        >>> first_of_the_last(torch.tensor([2, 1, 2, 2]))
        2
    """
    other = (values != values[-1]).nonzero()
    return int(other[-1]) + 1 if len(other) else 0
