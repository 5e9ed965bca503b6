r"""The ledger of a trained network.

For every query x, output c and run of T steps,

.. math:: f_T(x) = f_0(x) + \sum_i c_i(x) + \text{decay} + \text{momentum at start} + \text{buffers}
          + \text{rounding} + \text{unattributed},

where :math:`c_i(x)` is the exact share of training sample i. What is left over, the residual, is round-off.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, Self

import torch
from torch import Tensor

from ..arguments import as_count, as_place
from ..result import Check, CheckRow, Result, rows_of
from . import gaps

if TYPE_CHECKING:
    import pandas as pd

#: An unattributed share beyond which single samples are not to be trusted.
DOUBTFUL = 0.1

#: Where a change of the output can come from; every ledger has exactly these columns.
CHANNELS = ("data", "decay", "momentum", "buffers", "rounding", "unattributed")

#: The residual a complete ledger may leave, as a share of the sum of its absolute terms.
COMPLETE = {"float64": 1e-12, "float32": 1e-5}


@dataclass(frozen=True, eq=False, repr=False)
class Decomposition(Result):
    r"""A trained network's output as its initial output plus the shares of samples, steps and channels.

    Attributes:
        initial: :math:`f_0(x)`, with shape :math:`(q, c)`.
        final: :math:`f_T(x)`, with shape :math:`(q, c)`.
        contributions: The exact share of each training sample, with shape :math:`(q, c, n)`.
        channels: For each of ``data, decay, momentum, buffers, rounding, unattributed`` its total, :math:`(q, c)`.
        steps: The data share booked at each step, with shape :math:`(q, c, T)`.
        path: :math:`f_k(x)` along the run, with shape :math:`(q, c, T + 1)`.
        quadrature_error: What the quadrature of each step missed before any correction, :math:`(q, c, T)`.
        magnitude: The sum of the absolute values of all terms, :math:`(q, c)`: the scale of the residual.
        group_steps: The data share of each group of samples at each step, :math:`(q, c, G, T)`, if groups were asked.
        groups: The names of the groups.
        outputs: The network's own outputs along the run, :math:`(q, C, T + 1)`, if they are vectors.
        sample_ids: The id of each training sample, with shape :math:`(n,)`.
        labels: A word for each training sample, or ``None``.
        output_names: A word for each output.
        info: Provenance: run, rule, quadrature, engine, dtype, cost, notes.
        unattributed: What each step leaves unattributed, with shape :math:`(q, c, T)`; ``None`` where no step does.
    """

    initial: Tensor
    final: Tensor
    contributions: Tensor
    channels: dict[str, Tensor]
    steps: Tensor
    path: Tensor
    quadrature_error: Tensor
    magnitude: Tensor
    group_steps: Tensor | None
    groups: list[str]
    outputs: Tensor | None
    sample_ids: Tensor
    labels: list[str] | None
    output_names: list[str]
    info: dict[str, Any] = field(default_factory=dict)
    unattributed: Tensor | None = None

    @property
    def residual(self) -> Tensor:
        r"""What no channel holds, :math:`f_T - f_0 - \sum \text{channels}`, with shape :math:`(q, c)`."""
        return self.final - self.initial - torch.stack([self.channels[name] for name in CHANNELS]).sum(0)

    @property
    def moments(self) -> list[int]:
        """The number of training steps behind each entry of the path, counted from its first one, T + 1 of them."""
        points = self.info.get("points") or list(range(self.path.shape[-1]))
        return [point - points[0] for point in points]

    @property
    def on_chords(self) -> bool:
        """Whether its steps are chords between kept parameters."""
        return "points" in self.info

    def gaps(self) -> pd.DataFrame:
        """What each step, or chord between kept parameters, leaves unattributed, the largest first.

        ``unattributed`` is the mean share of the absolute terms over all outputs of all queries, ``largest`` that of
        the worst, ``of_all`` the part of all such gaps. More checkpoints help most within the first rows.
        """
        return gaps.table(self)

    def by_step(self) -> Tensor:
        """The data share booked at each step, with shape :math:`(q, c, T)`."""
        return self.steps

    def cancellation(self) -> Tensor:
        r"""How much the shares cancel, :math:`1 - |\sum_i c_i| / \sum_i |c_i|`, with shape :math:`(q, c)`."""
        total = self.contributions.abs().sum(-1)
        return 1 - self.contributions.sum(-1).abs() / total.clamp_min(torch.finfo(total.dtype).tiny)

    def top(self, k: int = 5, query: int = 0, output: int = 0) -> pd.DataFrame:
        """The ``k`` samples with the largest absolute share in one output of one query, largest first."""
        import pandas as pd

        k = as_count(k, "k", least=1)
        shares = self.contributions[self.place(query), self.place_of_output(output)]
        order = shares.abs().argsort(descending=True, stable=True)[:k]
        return pd.DataFrame({
            "sample": self.sample_ids[order].tolist(),
            "share": shares[order].tolist(),
            "label": [None if self.labels is None else self.labels[i] for i in order.tolist()],
            "rank": list(range(1, len(order) + 1)),
        })

    def __len__(self) -> int:
        return self.initial.shape[0]

    def __getitem__(self, queries: int | slice | list[int] | Tensor) -> Self:
        """The ledgers of some of the queries."""
        rows = rows_of(queries, len(self))
        return replace(
            self,
            **{name: getattr(self, name)[rows] for name in
               ("initial", "final", "contributions", "steps", "path", "quadrature_error", "magnitude")},
            channels={name: values[rows] for name, values in self.channels.items()},
            group_steps=None if self.group_steps is None else self.group_steps[rows],
            outputs=None if self.outputs is None else self.outputs[rows],
            unattributed=None if self.unattributed is None else self.unattributed[rows],
        )

    def place(self, query: Any) -> int:
        """The number of a query from 0 on; raises if there is no such query."""
        return as_place(query, "query", len(self), "queries")

    def place_of_output(self, output: Any) -> int:
        """The number of an output from 0 on; raises if there is no such output."""
        return as_place(output, "output", len(self.output_names), "outputs")

    def summary(self) -> str:
        """The ledger in one sentence."""
        q, c, n = self.contributions.shape
        missing = self._share("unattributed")
        if self.on_chords:
            advice = gaps.advice(self)
            return (
                f"Decomposition(queries={q}, outputs={c}, samples={n}, chords={self.steps.shape[-1]} over "
                f"{self.moments[-1]} steps, residual={self.completeness():.1e} of the terms, "
                f"unattributed={percent(missing)} at most, {percent(self.unattributed_share())} in the mean, "
                f"{percent(self.unattributed_of_change())} of the change"
                f"{f'; {advice}' if advice else ''})"
            )
        return (
            f"Decomposition(queries={q}, outputs={c}, samples={n}, steps={self.steps.shape[-1]}, "
            f"residual={self.completeness():.1e} of the terms, "
            f"unattributed={missing:.1e})"
        )

    def unattributed_share(self) -> float:
        """The unattributed part as a share of the sum of the absolute terms, in the mean over outputs of queries."""
        if self.magnitude.numel() == 0:
            return 0.0
        scale = self.magnitude.clamp_min(torch.finfo(torch.float64).tiny)
        return float((self.channels["unattributed"].abs() / scale).mean())

    def completeness(self) -> float:
        """The largest residual, as a share of the sum of the absolute terms."""
        if self.residual.numel() == 0:
            return 0.0
        return float((self.residual.abs() / self.magnitude.clamp_min(torch.finfo(torch.float64).tiny)).max())

    def _share(self, channel: str) -> float:
        if self.magnitude.numel() == 0:
            return 0.0
        scale = self.magnitude.clamp_min(torch.finfo(torch.float64).tiny)
        return float((self.channels[channel].abs() / scale).max())

    def unattributed_of_change(self) -> float:
        r"""The unattributed part beside what training changed, :math:`\sum|u| / \sum|f_T - f_0|` over all outputs.

        Where large shares cancel it is far more than the share of the terms.
        """
        change = float((self.final - self.initial).abs().sum())
        missing = float(self.channels["unattributed"].abs().sum())
        return missing / change if change > 0 else 0.0

    def to_frame(self) -> pd.DataFrame:
        """One row for each query and output: initial, each channel, residual, final."""
        import pandas as pd

        q, c = self.initial.shape
        columns: dict[str, list[Any]] = {
            "query": [i for i in range(q) for _ in range(c)],
            "output": [name for _ in range(q) for name in self.output_names],
            "initial": self.initial.flatten().tolist(),
        }
        columns |= {name: self.channels[name].flatten().tolist() for name in CHANNELS}
        columns |= {"residual": self.residual.flatten().tolist(), "final": self.final.flatten().tolist()}
        return pd.DataFrame(columns)

    def check(self) -> Check:
        """Whether the ledger closes, how good its quadrature was, and what it could not attribute."""
        limit = COMPLETE[self.info.get("dtype", "float64")]
        exact = self.info.get("quadrature", "gonzalez") == "gonzalez"
        complete, unattributed, rounding = self.completeness(), self._share("unattributed"), self._share("rounding")
        shares = self.magnitude.clamp_min(torch.finfo(torch.float64).tiny)
        missed = float((self.quadrature_error.abs().sum(-1) / shares).max()) if len(self) else 0.0
        rows = [
            CheckRow(
                "completeness", "pass" if complete <= limit else ("fail" if exact else "warn"), complete, limit,
                f"Initial output plus all channels gives the final output to {complete:.1e} of the absolute terms.",
            ),
            CheckRow(
                "quadrature", "pass" if missed <= 0.01 else "warn", missed, 0.01,
                f"Along the steps the quadrature missed {missed:.1e} of the absolute terms before correction; "
                "it tells how far single shares may be off.",
            ),
            CheckRow(
                "rounding", "pass" if rounding <= 1e-3 else "warn", rounding, 1e-3,
                f"Rounding in training moved the outputs by {rounding:.1e} of the absolute terms.",
            ),
            CheckRow(
                "unattributed", "pass" if unattributed <= 1e-6 else "warn", unattributed, 1e-6,
                f"{unattributed:.1e} of the absolute terms comes from changes that the update rule does not explain."
                if not self.on_chords else
                f"{percent(unattributed)} of the absolute terms at most, {percent(self.unattributed_share())} in the "
                f"mean, or {percent(self.unattributed_of_change())} of the change, are unattributed: between the "
                "parameters that were kept it is not known what samples did. "
                f"{sentence(gaps.advice(self))}".strip(),
            ),
        ]
        return Check(tuple(rows))


def percent(share: float) -> str:
    """A share in percent, with the digits a reader needs.

    Example:
        >>> percent(0.1234), percent(0.00456), percent(2e-8)
        ('12 %', '0.46 %', '2e-06 %')
    """
    value = 100 * share
    return f"{value:.0f} %" if value >= 9.5 else f"{value:.1f} %" if value >= 0.95 else f"{value:.2g} %"


def sentence(clause: str) -> str:
    """A clause as a sentence of its own; empty if there is none."""
    return f"{clause[:1].upper()}{clause[1:]}." if clause else ""
