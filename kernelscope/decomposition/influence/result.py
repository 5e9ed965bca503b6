r"""What the weight of a sample in training does to an output, to first order."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, Self

import torch
from torch import Tensor

from ...arguments import as_count, as_place, as_whole
from ...errors import DataError
from ...result import Check, CheckRow, Result, rows_of
from ...text import shown

if TYPE_CHECKING:
    import pandas as pd

    from ..result import Decomposition
    from .beside import ContributionAndInfluence

#: The ways to compute influence.
METHODS = ("metagradient", "gauss-newton")

#: What is said of influence wherever it is shown.
MEANING = {
    "metagradient": "Influence is counterfactual and first order: the derivative of the output by the sample's weight, "
                    "through the whole training. It is no share of the output and does not add up to it.",
    "gauss-newton": "Influence is counterfactual and first order: the derivative of the output by the sample's weight, "
                    "at the optimum that a damped Gauss-Newton step would find from the end. It is no share of the "
                    "output and does not add up to it.",
}

#: Said on every page with influence on it, because the numbers are easily taken for what retraining gives.
ESTIMATE = (
    "Influence is an estimate to first order of what leaving a sample out would do, and is not verified by retraining "
    "here. ks.evaluate says how well it foretells retraining, and ks.retrain trains without the samples."
)

#: The share of the path that may be unexplained: as rounding, and before the derivative is not that of this training.
NEGLIGIBLE, UNEXPLAINED = 1e-6, 1e-2

#: The growth of derivatives on the way back beyond which first order holds for tiny changes only.
GROWTH = 1e4

#: The rank correlation that influences must keep where the damping is ten times as large, or as small.
STABLE = 0.8

#: The residual of the linear solve, relative, by precision, and the mean gradient at the end beside the mean of its
#: parts.
SOLVED, STILL = {"float64": 1e-6, "float32": 1e-4}, 0.1


@dataclass(frozen=True, eq=False, repr=False)
class Influence(Result):
    r"""The derivative of outputs by the weight of each sample in training: counterfactual, to first order.

    .. math:: I_i(x) = \frac{\partial f(x)}{\partial w_i}\Big|_{w=1}, \qquad
              f_{\text{without } i}(x) \approx f(x) - I_i(x) .

    A contribution says what training on a sample added along this run; an influence says how the output would change
    if the sample had counted more or less. They are different numbers.

    Attributes:
        influences: :math:`I_i`, with shape :math:`(q, c, n)`.
        values: The outputs at the end of the run, with shape :math:`(q, c)`.
        method: ``"metagradient"``, through the whole training, or ``"gauss-newton"``, at its end.
        sample_ids: The id of each training sample, with shape :math:`(n,)`.
        labels: A word for each training sample, or ``None``.
        output_names: A word for each output.
        info: Provenance: run, dtype, cost, notes, and what :meth:`check` measures.
    """

    influences: Tensor
    values: Tensor
    method: str
    sample_ids: Tensor
    labels: list[str] | None
    output_names: list[str]
    info: dict[str, Any] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.values)

    def __getitem__(self, queries: int | slice | list[int] | Tensor) -> Self:
        """The influences on some of the queries."""
        rows = rows_of(queries, len(self))
        return replace(self, influences=self.influences[rows], values=self.values[rows])

    def place(self, query: Any) -> int:
        """The number of a query from 0 on; raises if there is no such query."""
        return as_place(query, "query", len(self), "queries")

    def place_of_output(self, output: Any) -> int:
        """The number of an output from 0 on; raises if there is no such output."""
        return as_place(output, "output", len(self.output_names), "outputs")

    def top(self, k: int = 5, query: int = 0, output: int = 0) -> pd.DataFrame:
        """The ``k`` samples with the largest absolute influence on one output of one query, largest first."""
        import pandas as pd

        k = as_count(k, "k", least=1)
        row = self.influences[self.place(query), self.place_of_output(output)]
        order = row.abs().argsort(descending=True, stable=True)[:k]
        return pd.DataFrame({
            "sample": self.sample_ids[order].tolist(),
            "influence": row[order].tolist(),
            "label": [None if self.labels is None else self.labels[i] for i in order.tolist()],
            "rank": list(range(1, len(order) + 1)),
        })

    def removed(self, ids: int | Iterable[int]) -> Tensor:
        r"""The outputs predicted for training without some samples, :math:`f - \sum_i I_i`, with shape :math:`(q, c)`.

        A prediction to first order: it leaves out how the samples would have acted on each other, and is the less to
        be trusted the more of them are removed. Training again tells the truth. The denominator of the mean loss is as
        recorded, while :func:`kernelscope.retrain` divides by the samples that are left: a shift that is nearly the
        same for all subsets of a size.

        Args:
            ids: The ids of the samples, as in ``sample_ids``; each counts once.

        Raises:
            DataError: If there is no such sample.
        """
        one = as_whole(ids)
        try:
            asked = [one] if one is not None else [as_whole(i) for i in ids]  # type: ignore[union-attr]
        except TypeError as error:
            raise DataError(f"removed takes ids of samples, one or a list of them; {ids!r} came.") from error
        places = {int(i): place for place, i in enumerate(self.sample_ids.tolist())}
        wrong = next((i for i in asked if i is None or i not in places), ...)
        if wrong is not ...:
            raise DataError(
                f"removed takes ids of training samples, and {wrong!r} is none of the {len(places)} there are. "
                "Look at influence.sample_ids."
            )
        which = sorted({places[i] for i in asked if i is not None})
        return self.values - self.influences[:, :, which].sum(-1)

    def beside(self, decomposition: Decomposition, names: list[str] | None = None) -> ContributionAndInfluence:
        """These influences beside the contributions of the same run to the same output: each under its own name.

        Args:
            decomposition: What :func:`kernelscope.decompose` gave for the same run, queries and output.
            names: A word for each query.

        Raises:
            DataError: If it is of other queries, outputs or samples, or of several outputs.
        """
        from .beside import beside

        return beside(decomposition, self, names)

    def to_frame(self) -> pd.DataFrame:
        """One row for each query, output and sample."""
        import pandas as pd

        q, c, n = self.influences.shape
        labels: list[str | None] = [None] * n if self.labels is None else [*self.labels]
        return pd.DataFrame({
            "query": torch.arange(q).repeat_interleave(c * n).numpy(),
            "output": [name for _ in range(q) for name in self.output_names for _ in range(n)],
            "sample": self.sample_ids.repeat(q * c).numpy(),
            "label": labels * (q * c),
            "influence": self.influences.flatten().numpy(),
        })

    def summary(self) -> str:
        """The influences in one sentence."""
        q, c, n = self.influences.shape
        how = "through the whole training" if self.method == "metagradient" else \
            f"at its end, damping {self.info.get('damping', float('nan')):.2g}"
        return (f"Influence(queries={q}, outputs={c}, samples={n}, {self.method}: what the weight of a sample does to "
                f"the output, counterfactual and first order, {how}{self._strongest()})")

    def _strongest(self) -> str:
        """The sample without which the first query would change most, where one output is asked about."""
        if self.influences.shape[1] != 1 or not bool(self.influences[:1].any()):
            return ""
        row = self.influences[0, 0]
        place = int(row.abs().argmax())
        label = f", a {shown(self.labels[place])}," if self.labels is not None else ""
        value = float(row[place])
        way = "lower" if value > 0 else "higher"
        return (f"; without sample {int(self.sample_ids[place])}{label} {self.output_names[0]} of query 0, now "
                f"{float(self.values[0, 0]):.3g}, would be about {abs(value):.2g} {way}, and no other single sample "
                "matters more")

    def check(self) -> Check:
        """Whether the derivative is that of this training, and how far it can be trusted."""
        rows = [self._finite(), *(self._of_steps() if self.method == "metagradient" else self._of_curvature())]
        return Check(tuple(rows))

    def _finite(self) -> CheckRow:
        bad = int((~self.influences.isfinite()).sum())
        return CheckRow("finite", "fail" if bad else "pass", float(bad), 0.0,
                        f"{bad} influences are NaN or infinite." if bad else "All influences are finite.")

    def _of_steps(self) -> list[CheckRow]:
        share, count = float(self.info.get("unexplained", 0.0)), int(self.info.get("unexplained_steps", 0))
        growth = float(self.info.get("growth", 1.0))
        status = "pass" if share <= NEGLIGIBLE else "warn" if share <= UNEXPLAINED else "fail"
        return [
            CheckRow("explained", status, share, UNEXPLAINED,
                     f"{count} steps moved otherwise than their rule says, {share:.1e} of the path; how these depend "
                     "on the samples is not in the derivative." if share > NEGLIGIBLE else
                     "Every step is that of its rule, so the derivative is that of this training."),
            CheckRow("stability", "pass" if growth <= GROWTH else "warn", growth, GROWTH,
                     f"On the way back through training the derivative by the parameters grew {growth:.3g}-fold; "
                     + ("small changes stay small." if growth <= GROWTH else
                        "training is chaotic, and first order holds for tiny changes of weights only.")),
        ]

    def _of_curvature(self) -> list[CheckRow]:
        info = self.info
        residual, still = float(info.get("residual", 0.0)), float(info.get("gradient", 0.0))
        solved = SOLVED.get(str(info.get("dtype")), 1e-6)
        rows = [
            CheckRow("solved", "pass" if residual <= solved else "fail", residual, solved,
                     f"The linear equations are solved to {residual:.1e}, by {info.get('solver', 'Cholesky')}."),
            CheckRow("optimum", "pass" if still <= STILL else "warn", still, STILL,
                     f"At the end the mean gradient is {still:.1e} of the mean length of its parts; influence at the "
                     "end assumes an optimum, where it is nought."),
        ]
        kept = info.get("sensitivity")
        if kept is not None:
            rows.append(CheckRow(
                "damping", "pass" if kept >= STABLE else "warn", float(kept), STABLE,
                f"With a damping ten times as large or as small, ranks of influences correlate with these by "
                f"{kept:.2f}, on average over outputs, or more."))
        else:
            rows.append(CheckRow("damping", "warn", None, STABLE,
                                 "How far influences depend on the damping was not measured: the equations are large. "
                                 "Ask again with damping ten times as large and as small."))
        negative = float(info.get("negative", 0.0))
        if negative > 1e-9:
            rows.append(CheckRow("convex", "warn", negative, 1e-9,
                                 f"The loss bends downwards in its outputs, by {negative:.1e} of the largest "
                                 "curvature; that part was left out."))
        return rows
