"""The directions of residuals that training dissipated, and those that it left alone, as a result."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from ...decomposition.wording import counted
from ...result import Check, CheckRow, Result
from ...text import with_minus

if TYPE_CHECKING:
    import pandas as pd

#: Of which less than this share was dissipated belongs to the reservoir.
KEPT = 0.5


@dataclass(frozen=True, eq=False, repr=False)
class Reservoir(Result):
    r"""What a run made of each direction of the residual at its start.

    The residuals of a squared loss obey :math:`u_{k+1} = A_k u_k`, with :math:`\Psi = A_{T-1}\cdots A_0`. Of plain
    gradient descent :math:`W = \frac n2(I - \Psi^T\Psi)` is what was dissipated. What a direction v of the residual
    adds to a query is :math:`T(x)v`.

    Attributes:
        values: The eigenvalues of :math:`I - \Psi^T\Psi` (of :math:`W` over n/2), descending, with shape (r,): 1 of a
            direction that is gone, 0 of one that is left.
        directions: Their eigenvectors, with shape (n, c, r).
        energies: :math:`\sum_k |\delta_k v|^2_{1/w}`, how far each direction moved the parameters, with shape (r,).
        moved: :math:`T(x)v` of each, with shape (q, c, r).
        lengths: :math:`\sum_k |\tilde\phi_k(x)|^2_w` of each query and output, with shape (q, c).
        initial: The residuals at the start, with shape (n, c).
        final: Those recorded at the end.
        carried: :math:`\Psi u_0`, which they should be.
        change: :math:`f_T(x) - f_0(x)`, with shape (q, c).
        foretold: :math:`T(x)u_0`, which it should be.
        labels: The targets, with shape (n, c), each output's mean taken off.
        plain: Whether each step was the gradient times the learning rate, so that W is a sum of squares.
        ids: The id of each sample.
        info: Provenance and notes.
    """

    values: Tensor
    directions: Tensor
    energies: Tensor
    moved: Tensor
    lengths: Tensor
    initial: Tensor
    final: Tensor
    carried: Tensor
    change: Tensor
    foretold: Tensor
    labels: Tensor
    plain: bool
    ids: list[int]
    info: dict[str, Any] = field(default_factory=dict)

    @property
    def kept(self) -> Tensor:
        """Whether each direction belongs to the reservoir: less than half of it was dissipated."""
        return self.values < KEPT

    def held(self, what: Tensor) -> float:
        """The share of a vector of residuals, with shape (n, c), that lies in the reservoir."""
        whole = float(what.square().sum())
        parts = torch.einsum("nc,ncr->r", what, self.directions).square()
        return float(parts[self.kept].sum()) / whole if whole else 0.0

    def said(self) -> str:
        """What was dissipated, in words."""
        count = int(self.kept.sum())
        queries = ""
        if len(self.moved):
            typical = lambda chosen: float(self.moved[..., chosen].square().sum(-1).mean().sqrt()) if int(
                chosen.sum()) else 0.0
            whole = typical(torch.ones_like(self.kept))
            if whole:
                queries = f"; of what residuals do to queries they hold {(typical(self.kept) / whole) ** 2:.1%}"
        return (f"of {counted(len(self.values), 'direction')} of the residual {count:,} kept more than half of "
                f"their energy; they held {self.held(self.initial):.0%} of the residual at the start and "
                f"{self.held(self.labels):.0%} of the targets{queries}")

    def summary(self) -> str:
        return f"Reservoir({self.said()})"

    def to_frame(self) -> pd.DataFrame:
        """One row for each direction."""
        import pandas as pd

        at = lambda what: torch.einsum("nc,ncr->r", what, self.directions).square().tolist()
        return pd.DataFrame({"direction": range(len(self.values)), "dissipated": self.values.tolist(),
                             "residual": at(self.initial), "target": at(self.labels),
                             "energy": self.energies.tolist(),
                             "moved queries": self.moved.square().sum((0, 1)).tolist()})

    def check(self) -> Check:
        """Whether the steps are those recorded, and no query is moved further than N3 allows."""
        limit = self.info.get("rounding", 1e-9)
        # A run is known to the digits that it was trained in.
        met = self.info.get("recorded", limit)
        gap = _relative(self.carried, self.final, torch.cat([self.initial, self.final]))
        off = _relative(self.foretold, self.change, self.change)
        allowed = self.lengths[..., None] * self.energies
        over = float((self.moved.square() / (allowed + limit**2 * float(allowed.max()) + 1e-300)).max()) if len(
            self.moved) and self.moved.numel() else 0.0
        least, most = float(self.values.min()), float(self.values.max())
        return Check((
            CheckRow("residual", "pass" if gap <= met else "fail", gap, met,
                     f"The steps take the first residual to the last, up to {with_minus(f'{gap:.1e}')}."),
            CheckRow("transfer", "pass" if off <= met else "fail", off, met,
                     f"They take it to the change at the queries, up to {with_minus(f'{off:.1e}')}."),
            CheckRow("N3", "pass" if over <= 1 + limit else "fail", over, 1.0,
                     f"No direction moved a query further than its energy allows; the nearest came to {over:.0%}."),
            CheckRow("dissipation", "pass" if not self.plain or least >= -1e-6 else "warn", least, 0.0,
                     f"Eigenvalues of I − ΨᵀΨ are between {with_minus(f'{least:.2g}')} and "
                     f"{with_minus(f'{most:.2g}')}"
                     + ("." if self.plain and least >= -1e-6 else
                        ": below 0 a step was too large, or momentum carried a direction further." if least < 0 else
                        "; with momentum or a preconditioner they are no sum over steps.")),
        ))


def _relative(found: Tensor, true: Tensor, scale: Tensor) -> float:
    size = float(scale.abs().max()) if scale.numel() else 0.0
    return float((found - true).abs().max()) / size if size else 0.0
