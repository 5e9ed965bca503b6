r"""What each center of a machine adds to its values.

.. math:: f(x) = b + \sum_j k(x, z_j)\, \alpha_j

Every term belongs to one center. They are exact shares of the value, and no statement about what the machine would say
if it had been fitted without a center.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Self

import torch
from torch import Tensor

from ..arguments import as_count, as_place
from ..result import Check, CheckRow, Result, rows_of

if TYPE_CHECKING:
    import pandas as pd

#: What terms may lack to the value, as a share of the sum of their absolute values.
EXACT = {"float64": 1e-12, "float32": 1e-5}


@dataclass(frozen=True, eq=False, repr=False)
class Contributions(Result):
    r"""The terms of a machine at some points.

    Attributes:
        terms: :math:`k(x_i, z_j)\, \alpha_{jc}`, with shape :math:`(q, c, p)`.
        outputs: The machine's values, with shape :math:`(q, c)`.
        intercept: The constant, with shape :math:`(c,)`.
        dtype: The precision of the machine: the least among its coefficients and the values of its kernel.
    """

    terms: Tensor
    outputs: Tensor
    intercept: Tensor
    dtype: str

    @property
    def residual(self) -> Tensor:
        """What the terms and the intercept lack to the value, with shape :math:`(q, c)`: round-off only."""
        return self.outputs - self.terms.sum(-1) - self.intercept

    def top(self, k: int = 5, query: int = 0, output: int = 0) -> pd.DataFrame:
        """The ``k`` centers with the largest absolute terms in one output at one point, largest first.

        Example:
            >>> import torch, kernelscope as ks
            >>> k = ks.kernels.Laplacian(bandwidth=1.0)
            >>> machine = ks.KernelMachine(k, torch.tensor([[0.0], [1.0]]), torch.tensor([1.0, -3.0]))
            >>> machine.contributions(torch.tensor([[0.0]])).top()
               center  contribution  rank
            0       1     -1.103638     1
            1       0      1.000000     2
        """
        import pandas as pd

        q, c, _ = self.terms.shape
        terms = self.terms[as_place(query, "query", q, "queries"), as_place(output, "output", c, "outputs")]
        order = terms.abs().argsort(descending=True, stable=True)[:as_count(k, "k", least=1)]
        return pd.DataFrame({"center": order.tolist(), "contribution": terms[order].tolist(),
                             "rank": list(range(1, len(order) + 1))})

    def __len__(self) -> int:
        return len(self.terms)

    def __getitem__(self, queries: Any) -> Self:
        """The terms at some of the points."""
        rows = rows_of(queries, len(self))
        return replace(self, terms=self.terms[rows], outputs=self.outputs[rows])

    def summary(self) -> str:
        """The answer in one sentence."""
        q, c, p = self.terms.shape
        return f"Contributions(queries={q}, outputs={c}, centers={p}, residual={self._lack():.1e} of the terms)"

    def to_frame(self) -> pd.DataFrame:
        """One row for each point and output: intercept, the sum of positive and of negative terms, and the value."""
        import pandas as pd

        q, c, _ = self.terms.shape
        return pd.DataFrame({
            "query": [i for i in range(q) for _ in range(c)],
            "output": list(range(c)) * q,
            "intercept": self.intercept.repeat(q).tolist(),
            "raised": self.terms.clamp(min=0).sum(-1).flatten().tolist(),
            "lowered": self.terms.clamp(max=0).sum(-1).flatten().tolist(),
            "value": self.outputs.flatten().tolist(),
        })

    def check(self) -> Check:
        """Whether the terms add up."""
        limit, lack = EXACT.get(self.dtype, 1e-2), self._lack()
        return Check((CheckRow(
            "completeness", "pass" if lack <= limit else "fail", lack, limit,
            f"The terms of centers and the intercept give the machine's values to {lack:.1e} of the absolute terms.",
        ),))

    def _lack(self) -> float:
        size = self.terms.abs().sum(-1) + self.intercept.abs()
        share = self.residual.abs() / size.clamp_min(torch.finfo(torch.float64).tiny)
        return float(share.max()) if share.numel() else 0.0
