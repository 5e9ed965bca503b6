r"""What is known of the spectrum of a kernel matrix: eigenvalues, and what follows from them.

Where only the k largest are known, so is the sum of the others: the trace minus those found. Whatever is concave in the
eigenvalues, as entropy and effective dimension are, is then known between two bounds. Ways that look at a part of the
matrix find values that may be too small, :math:`\hat\lambda_j \le \lambda_j`. The upper bound needs no more than that:
the eigenvalues that are most even are :math:`\max(\hat\lambda_j, \ell)`, with the level :math:`\ell` that makes up the
trace. The lower one takes those found as the true ones, where their residuals are small, and else follows from trace
and norm alone, by Cauchy and Schwarz.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from ..arguments import as_count
from ..errors import DataError
from ..measures import effective_dimension, entropy_rank, label_mass
from ..result import Check, CheckRow, Result
from ..text import with_minus

if TYPE_CHECKING:
    import pandas as pd

#: Up to which residual, relative to the largest, a value found counts as an eigenvalue.
SHARP = 1e-6

#: How far rounding takes a matrix from symmetric, and an eigenvalue below 0, relative to the largest.
ROUNDING = {torch.float64: 1e-10, torch.float32: 1e-4}


@dataclass(frozen=True, eq=False, repr=False)
class Spectrum(Result):
    r"""Eigenvalues of a kernel matrix, the largest first.

    Attributes:
        values: The eigenvalues found, descending, with shape (k,).
        vectors: Their vectors, with shape (n, k).
        residuals: :math:`\|K v - \lambda v\|` of each, with shape (k,).
        trace: :math:`\mathrm{tr} K`, from the diagonal.
        norm: The Frobenius norm.
        norm_error: Its standard error, 0 where it is exact.
        size: The number n of rows.
        method: ``"dense"``, ``"lanczos"``, ``"randomized"`` or ``"nystrom"``.
        ridge: The ridge that :meth:`effective_dimension` takes unless another is given.
        targets: Targets with shape (n, c), or ``None``.
        alignment: The centred kernel-target alignment, or ``None`` without targets.
        asymmetry: How far the matrix is from its transpose, relative to its largest entry; ``None`` where it was only
            multiplied.
        info: Facts to print.
    """

    values: Tensor
    vectors: Tensor
    residuals: Tensor
    trace: float
    norm: float
    norm_error: float
    size: int
    method: str
    ridge: float
    targets: Tensor | None
    alignment: float | None
    asymmetry: float | None
    info: dict[str, Any] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.values)

    @property
    def whole(self) -> bool:
        """Whether all eigenvalues are known."""
        return len(self.values) == self.size

    @property
    def beyond(self) -> float:
        """The sum of the eigenvalues that were not looked for, the trace minus those found."""
        return 0.0 if self.whole else self.trace - float(self.values.sum())

    def participation(self) -> float:
        r"""The participation ratio :math:`(\mathrm{tr} K)^2 / \|K\|_F^2`, known whatever was found."""
        return self.trace**2 / self.norm**2 if self.norm else 0.0

    def entropy_rank(self) -> tuple[float, float]:
        r"""Between which numbers the effective rank :math:`e^{H(p)}` lies, :math:`p_j = \lambda_j/\mathrm{tr}K`.

        Of what lies beyond those found the sum is known, and that none is larger than the last one. The entropy is
        least if it is in as few eigenvalues as that allows, and largest if it is spread evenly. Both are one number
        where all are known. Where residuals are not small, the rank is at least the participation ratio
        :math:`(\mathrm{tr}K)^2/\|K\|^2`.
        """
        low = entropy_rank(self._fewest()) if self.sharp else self._least_dimension(0.0)
        return (low, entropy_rank(self._most_even()))

    @property
    def sharp(self) -> bool:
        """Whether residuals are so small that the values found count as eigenvalues."""
        return self.whole or float(self.residuals.max()) <= SHARP * float(self.values.abs().max())

    def effective_dimension(self, ridge: float | None = None) -> tuple[float, float]:
        r"""Between which numbers :math:`\mathrm{tr} K(K + \rho)^{-1}` lies; both are one where all values are known.

        Where residuals are not small, it is at least :math:`(\mathrm{tr}K)^2 / (\|K\|^2 + \rho\, \mathrm{tr}K)`.

        Args:
            ridge: :math:`\rho`, from 0 on; that of the result if not given.

        Raises:
            DataError: If it is negative.
        """
        rho = self.ridge if ridge is None else checked_ridge(ridge)
        low = effective_dimension(self._fewest(), rho) if self.sharp else self._least_dimension(rho)
        return (low, effective_dimension(self._most_even(), rho))

    def label_mass(self, k: int) -> float:
        """The share of the centred targets that the k first eigenvectors span.

        Raises:
            DataError: If there are no targets, or not so many vectors.
        """
        if self.targets is None:
            raise DataError("The share of targets needs targets, and none came. Pass them: ks.spectrum(kernel, x, y).")
        if as_count(k, "k", least=1) > len(self):
            raise DataError(f"{len(self)} eigenvectors are known, and k={k} were asked for. Pass "
                            f"ks.spectrum(kernel, x, y, k={k}).")
        return label_mass(self.vectors[:, :k], self.targets)

    def decay(self, first: int = 2) -> float | None:
        r"""The a of a power law :math:`\lambda_j \approx C j^{-a}`, by least squares in logarithms; ``None`` of none.

        Args:
            first: The first j that counts: the largest eigenvalue is mostly that of a constant.
        """
        start = as_count(first, "first", least=1) - 1
        good = self.values > max(float(self.residuals.max()), 1e-12 * float(self.values[0]))
        j = torch.arange(1, len(self) + 1, dtype=torch.float64)[start:][good[start:]]
        if len(j) < 3:
            return None
        across, up = j.log(), self.values[start:][good[start:]].log()
        across = across - across.mean()
        return -float(across @ up / (across @ across))

    @property
    def negative(self) -> str | None:
        """That this is the matrix of no kernel, in words, or ``None``."""
        scale = float(self.values.abs().max()) or 1.0
        limit = ROUNDING[torch.float64 if self.info.get("dtype") == "float64" else torch.float32] * scale
        least = float(self.values.min())
        told = "not positive semidefinite, so the matrix of no kernel"
        if least < -limit:
            return f"{told}: the least eigenvalue found is {least:.3g}, the largest {float(self.values[0]):.3g}"
        if self.beyond < -max(limit, 1e-6 * scale):
            return f"{told}: those found add up to {float(self.values.sum()):.3g}, and the trace is {self.trace:.3g}"
        return None

    def said(self) -> str:
        """The spectrum in words."""
        if self.negative is not None:
            return with_minus(self.negative)
        top = float(self.values[0]) / self.trace if self.trace else 0.0
        low, high = self.entropy_rank()
        rank = f"{low:.3g}" if self.whole else f"{low:.3g} to {high:.3g}"
        held = "" if self.whole else f", the {len(self)} found {1 - self.beyond / (self.trace or 1.0):.0%}"
        told = (f"the largest of {self.size:,} eigenvalues holds {top:.1%} of the trace{held}; effective rank {rank} "
                f"by entropy, {self.participation():.3g} by participation")
        if self.alignment is not None and self.targets is not None:
            k = min(len(self), max(1, self.targets.shape[1]))
            told += (f"; alignment with the targets {self.alignment:.2f}, {self.label_mass(k):.0%} of them in the "
                     f"{'first eigenvector' if k == 1 else f'{k} first eigenvectors'}")
        return with_minus(told)

    def summary(self) -> str:
        """The answer in one sentence."""
        return f"Spectrum({self.said()})"

    def to_frame(self) -> pd.DataFrame:
        """One row for each eigenvalue."""
        import pandas as pd

        shares = self.values.cumsum(0) / (self.trace or 1.0)
        columns: dict[str, Any] = {"number": range(1, len(self) + 1), "eigenvalue": self.values.tolist(),
                                   "residual": self.residuals.tolist(), "share up to it": shares.tolist()}
        if self.targets is not None:
            y = self.targets - self.targets.mean(0)
            mass = (self.vectors.T @ y).square().sum(1).cumsum(0) / (float(y.square().sum()) or 1.0)
            columns["label mass up to it"] = mass.tolist()
        return pd.DataFrame(columns)

    def check(self) -> Check:
        """Whether the pairs are those of the matrix, and the matrix is that of a kernel."""
        limit = ROUNDING[torch.float64 if self.info.get("dtype") == "float64" else torch.float32]
        scale = float(self.values.abs().max()) or 1.0
        off = float(self.residuals.max()) / scale
        loose = 1e-6 if self.method in ("dense", "lanczos") else 1e-2
        least = float(self.values.min()) / scale
        square = float(self.values.square().sum()) ** 0.5
        over = (square - self.norm - 3 * self.norm_error) / (self.norm or 1.0)
        rows = [
            _row("residuals", off, max(loose, limit), f"The largest residual is {off:.1e} of the largest eigenvalue.",
                 "warn"),
            _row("positive", -least, limit, f"The least eigenvalue found is {least:.1e} of the largest.", "warn"),
            _row("beyond", -self.beyond / scale, max(limit, 1e-6), f"Beyond those found there is {self.beyond:.3g} of "
                 f"the trace of {self.trace:.3g}; a positive matrix leaves nothing below 0.", "warn"),
            _row("norm", over, max(limit, 1e-6), f"The eigenvalues found have the norm {square:.6g}, and the matrix "
                                                 f"{self.norm:.6g}."),
        ]
        if self.asymmetry is not None:
            rows.append(_row("symmetry", self.asymmetry, limit, f"Entries differ from those across by "
                             f"{self.asymmetry:.1e} of the largest.", "warn"))
        return Check(tuple(rows))

    def _fewest(self) -> Tensor:
        """All eigenvalues as they might be, with what lies beyond those found in as few as may be."""
        values = self.values.clamp(min=0)
        rest, count, most = max(self.beyond, 0.0), self.size - len(self), float(values[-1])
        if not count or not rest:
            return values
        if most <= 0:
            return self._most_even()
        full = min(int(rest / most), count)
        left = max(rest - full * most, 0.0)
        return torch.cat([values, torch.full((full,), most, dtype=torch.float64),
                          torch.full((int(full < count),), left, dtype=torch.float64)])

    def _most_even(self) -> Tensor:
        """All eigenvalues as even as may be, where none of those found is smaller than it was found."""
        values = self.values.clamp(min=0)
        rest, count = max(self.beyond, 0.0), self.size - len(self)
        if not count or not rest:
            return values
        # The level to which what lies beyond fills up the eigenvalues not found, and the least of those found.
        kept = len(values)
        while kept and rest / count > float(values[kept - 1]):
            kept, rest, count = kept - 1, rest + float(values[kept - 1]), count + 1
        return torch.cat([values[:kept], torch.full((count,), rest / count, dtype=torch.float64)])

    def _least_dimension(self, ridge: float) -> float:
        """What an effective dimension, or at no ridge the effective rank, is at least."""
        norm = self.norm + 3 * self.norm_error
        return self.trace**2 / (norm**2 + ridge * self.trace) if norm and self.trace > 0 else 0.0


def _row(name: str, value: float, limit: float, sentence: str, otherwise: str = "fail") -> CheckRow:
    return CheckRow(name, "pass" if value <= limit else otherwise, value, limit, sentence)


def checked_ridge(ridge: Any) -> float:
    """A ridge from 0 on.

    Raises:
        DataError: If it is none.
    """
    if isinstance(ridge, bool) or not isinstance(ridge, int | float) or not 0 <= ridge < float("inf"):
        raise DataError(f"ridge is a number from 0 on; {ridge!r} came. Pass for example 1e-3.")
    return float(ridge)
