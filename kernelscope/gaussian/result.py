"""What is known of outputs after training: their means, and how far they may lie from them."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from ..result import Check, CheckRow, Result
from ..text import with_minus

if TYPE_CHECKING:
    import pandas as pd

#: How far below nought an eigenvalue of a covariance may lie by rounding, relative to the variances before training.
NEGATIVE = 1e-8

#: How large the residual of the equations may be.
RESIDUAL = 1e-6

#: What each kind is, in a few words.
KINDS = {
    "nngp": "the Bayesian posterior of infinitely wide networks",
    "ntkgp": "the posterior of a Gaussian process with the tangent kernel",
    "ensemble": "infinitely wide networks, each trained from a start of its own",
    "gp": "the posterior of a Gaussian process",
}


@dataclass(frozen=True, eq=False, repr=False)
class Posterior(Result):
    r"""Outputs at test points: a normal distribution, the same one for each output up to its mean.

    At several times everything but ``prior`` has one more axis, the first.

    Attributes:
        mean: The means, with shape (q, c); or (t, q, c).
        covariance: The covariances of one output between test points, with shape (q, q), or (t, q, q); ``None`` where
            only means were asked for.
        prior: The variance of each before training, with shape (q,).
        evidence: The logarithm of the density of the targets before they were seen,
            :math:`\log p(y) = -\tfrac12 y^T (K + \sigma^2 I)^{-1} y - \tfrac12 \log\det(K + \sigma^2 I) -
            \tfrac n2 \log 2\pi`, summed over outputs; ``None`` where it is not known.
        times: The times of training, with shape (t,); infinity for its end.
    """

    mean: Tensor
    covariance: Tensor | None
    prior: Tensor
    evidence: float | None
    times: Tensor
    info: dict[str, Any] = field(default_factory=dict)

    @property
    def std(self) -> Tensor:
        """The standard deviation at each test point, with shape (q,), or (t, q).

        Raises:
            AttributeError: If only means were asked for.
        """
        if self.covariance is None:
            raise AttributeError("Only means were asked for, and a standard deviation comes from a covariance. Call "
                                 "ks.posterior with covariance=True.")
        return self.covariance.diagonal(dim1=-2, dim2=-1).clamp(min=0.0).sqrt()

    def summary(self) -> str:
        """The answer in one sentence."""
        q, c = self.mean.shape[-2:]
        over = "" if self.covariance is None else "; the median standard deviation is {:.3g}, {:.0%} of what it was "\
            "before training".format(*self.spread())
        evidence = "" if self.evidence is None else with_minus(f"; log evidence {self.evidence:.5g}")
        return (f"Posterior({KINDS[self.info['of']]}: {q:,} test point{'s' * (q > 1)}, {c} output{'s' * (c > 1)}, "
                f"{self.info['samples']:,} samples, {self._when()}{over}{evidence})")

    def spread(self, place: int = -1) -> tuple[float, float]:
        """The median standard deviation at one of the times, and the median share of it in that before training."""
        std = self.std.view(-1, len(self.prior))[place]
        before = self.prior.clamp(min=0.0).sqrt()
        share = std / before.clamp(min=torch.finfo(before.dtype).tiny)
        return float(std.median()), float(share.median())

    def to_frame(self) -> pd.DataFrame:
        """One row for each time, test point and output."""
        import pandas as pd

        mean = self.mean.reshape(-1, *self.mean.shape[-2:])
        t, q, c = mean.shape
        grid = torch.cartesian_prod(*(torch.arange(k) for k in (t, q, c))).view(-1, 3).T
        table = {"time": self.times[grid[0]].tolist(), "point": grid[1].tolist(),
                 "output": grid[2].tolist(), "mean": mean.flatten().tolist()}
        if self.covariance is not None:
            table["std"] = self.std.reshape(t, q)[grid[0], grid[1]].tolist()
        return pd.DataFrame(table)

    def check(self) -> Check:
        """Whether the equations were solved, and covariances are positive semidefinite and no more than at first."""
        residual, rows = float(self.info["residual"]), []
        rows.append(CheckRow("equations", "pass" if residual <= RESIDUAL else "fail", residual, RESIDUAL,
                             f"The equations are solved up to {residual:.1e} of their right-hand sides."))
        if self.covariance is not None:
            scale = max(float(self.prior.max()), torch.finfo(torch.float64).tiny)
            low = float(torch.linalg.eigvalsh(self.covariance).min()) / scale
            rows.append(CheckRow("positive", "pass" if low >= -NEGATIVE else "warn", low, -NEGATIVE, with_minus(
                f"The least eigenvalue of the covariances is {low:.1e} of the largest variance before training.")))
            if self.info["of"] != "ensemble":
                gain = float((self.std.square() - self.prior).max()) / scale
                rows.append(CheckRow("informed", "pass" if gain <= NEGATIVE else "warn", gain, NEGATIVE,
                                     "No variance is larger than before training." if gain <= NEGATIVE else
                                     f"A variance is larger than before training, by {gain:.1e} of the largest."))
        return Check(tuple(rows))

    def _when(self) -> str:
        if len(self.times) > 1:
            return f"{len(self.times)} times"
        return "trained to the end" if math.isinf(self.times[0]) else f"time {float(self.times[0]):g}"
