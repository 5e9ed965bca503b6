"""What a machine of features would say of each of its samples without it."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Self

from torch import Tensor

from ..result import Check, CheckRow, Result, rows_of

if TYPE_CHECKING:
    import pandas as pd

#: What a leverage may be beyond 0 and 1.
ROUNDING = 1e-8


@dataclass(frozen=True, eq=False, repr=False)
class LeaveOneOut(Result):
    """The values at each sample of the machine that was fitted to all others, with the same ridge.

    Attributes:
        values: The values, with shape (n, c).
        fitted: Those of the machine itself, with shape (n, c).
        targets: The targets, with shape (n, c).
        leverages: How much each sample says of its own fitted value, from 0 to 1, with shape (n,).
    """

    values: Tensor
    fitted: Tensor
    targets: Tensor
    leverages: Tensor

    @property
    def errors(self) -> Tensor:
        """The mean square over outputs of what each sample's value without it is off by, with shape (n,)."""
        return (self.targets - self.values).square().mean(1)

    @property
    def error(self) -> float:
        """The mean square over samples and outputs."""
        return float(self.errors.mean())

    def __len__(self) -> int:
        return len(self.values)

    def __getitem__(self, rows: Any) -> Self:
        """Some of the samples."""
        places = rows_of(rows, len(self))
        return replace(self, values=self.values[places], fitted=self.fitted[places], targets=self.targets[places],
                       leverages=self.leverages[places])

    def summary(self) -> str:
        """The answer in one sentence."""
        fitted = float((self.targets - self.fitted).square().mean())
        return (f"LeaveOneOut(samples={len(self):,}, outputs={self.values.shape[1]}, error {self.error:.4g} "
                f"without the sample, {fitted:.4g} with it, leverages {float(self.leverages.min()):.2g} to "
                f"{float(self.leverages.max()):.2g})")

    def to_frame(self) -> pd.DataFrame:
        """One row for each sample and output."""
        import pandas as pd

        n, c = self.values.shape
        return pd.DataFrame({
            "sample": [i for i in range(n) for _ in range(c)], "output": list(range(c)) * n,
            "target": self.targets.flatten().tolist(), "fitted": self.fitted.flatten().tolist(),
            "left out": self.values.flatten().tolist(),
            "leverage": [value for value in self.leverages.tolist() for _ in range(c)],
        })

    def check(self) -> Check:
        """Whether leverages are shares."""
        beyond = float((self.leverages - 1).clamp(min=0).max() + (-self.leverages).clamp(min=0).max())
        return Check((CheckRow("leverages", "pass" if beyond <= ROUNDING else "fail", beyond, ROUNDING,
                               f"Leverages lie between 0 and 1 to {beyond:.1e}."),))
