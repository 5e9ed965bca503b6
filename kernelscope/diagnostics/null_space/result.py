"""What a run could not have learned, as a result: modes, their reach, and the error that follows."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from ...arguments import as_count
from ...decomposition.wording import counted
from ...result import Check, CheckRow, Result
from ...text import with_minus
from .reach import bound_of, reaches
from .reservoir_result import Reservoir

if TYPE_CHECKING:
    import pandas as pd

#: How many points are named for a mode.
NAMED = 3

#: Where the points stand, in words.
PLACES = {"queries": ("query", "queries"), "samples": ("training sample", "training samples"),
          "all": ("point", "training samples and queries")}


@dataclass(frozen=True, eq=False, repr=False)
class NullSpace(Result):
    r"""The modes of the path kernel on some points, and how much of the target each could take up.

    Modes are eigenvectors :math:`h_j` of the path kernel on the points, the largest eigenvalue first. What training
    had to add is :math:`a = f^* - f_0`, from the outputs at the start, with what buffers did booked to them.

    Attributes:
        values: The eigenvalues :math:`\mu_j`, with shape (r,).
        modes: The eigenvectors, with shape (m, r).
        aim: :math:`\langle h_j, f^* - f_0\rangle` for each output, with shape (r, c).
        learned: :math:`\langle h_j, f_T - f_0\rangle`, with shape (r, c).
        filter: :math:`F_j = 1 - e^{-\mu_j s/m}`, the share of a mode that a fixed kernel would have learned, with
            shape (r,).
        outside: What a sketch left out: the energy of the target there, what was learned there, both with shape (2,).
        slack: By how much an eigenvalue may be more than ``values`` say: rounding, and what a sketch left out.
        targets: f* at the points, with shape (m, c).
        initial: f_0 at the first of the times, with shape (m, c); at the start of a run that of :func:`decompose`.
        final: f_T at the last of the times.
        buffers: What buffers added on the way, with what the first forward pass had made of them.
        energies: The energy of each chord of the path.
        loss: The mean loss of training samples at the first and the last time; empty if there are none.
        predicted: The expected mean squared error by eigenlearning, which counts the samples; ``None`` where no
            training sample was looked at.
        speed: s, the curvature of the loss in the outputs times the pace of the optimizer and the factor by which
            losses were reduced.
        left: What is left of the change of outputs once chords and buffers are taken off, relative to their sizes.
        trace: The trace of the path kernel on the points.
        on: ``"queries"``, ``"samples"`` or ``"all"``.
        ids: The id of each point.
        labels: A word for each point, or ``None``.
        output_names: A word for each output.
        reservoir: The directions of residuals that moved nothing, if they were asked for.
        info: Provenance: run, times, dtype, cost, notes.
    """

    values: Tensor
    modes: Tensor
    aim: Tensor
    learned: Tensor
    filter: Tensor
    outside: Tensor
    slack: float
    targets: Tensor
    initial: Tensor
    final: Tensor
    buffers: Tensor
    energies: Tensor
    loss: Tensor
    predicted: float | None
    speed: float
    left: float
    trace: float
    on: str
    ids: list[int]
    labels: list[str] | None
    output_names: list[str]
    reservoir: Reservoir | None
    info: dict[str, Any] = field(default_factory=dict)

    @property
    def energy(self) -> float:
        """The energy E of the path."""
        return float(self.energies.sum())

    @property
    def reach(self) -> Tensor:
        """How far the run could have moved each mode, with shape (r,)."""
        return reaches(self.values, self.slack, self.energy)

    @property
    def aimed(self) -> Tensor:
        """The energy of the target along each mode, summed over outputs, with shape (r,)."""
        return self.aim.square().sum(1)

    @property
    def bound(self) -> float:
        """The certificate: the mean squared error that no run along this path could have gone below."""
        reach, energies = self.reach, self.aimed
        if len(self.values) < len(self.targets):
            rest = torch.tensor([self.slack * self.energy], dtype=torch.float64).sqrt()
            reach, energies = torch.cat([reach, rest]), torch.cat([energies, self.outside[:1]])
        return bound_of(energies, reach, self.targets.shape[1]) / max(self.targets.numel(), 1)

    @property
    def size(self) -> float:
        """The mean squared size of the target, f* - f_0."""
        return float((self.targets - self.initial - self.buffers).square().mean())

    @property
    def share(self) -> float:
        """The bound as a share of the target's energy."""
        return self.bound / self.size if self.size else 0.0

    @property
    def error(self) -> float:
        """The mean squared error at the last of the times, which is the end of the run if none were named."""
        return float((self.targets - self.final).square().mean())

    @property
    def null_dimension(self) -> int:
        """How many modes have an eigenvalue that cannot be told from 0."""
        return int((self.values <= self.slack).sum()) if len(self.values) == len(self.targets) else 0

    @property
    def dimension(self) -> float:
        r"""The effective dimension of what a fixed kernel would have learned, :math:`\sum_j F_j`."""
        return float(self.filter.sum())

    @property
    def unlearnable(self) -> float:
        r"""The mean squared target that a fixed kernel trained on these points would not have learned.

        .. math:: \tfrac1{mc} \sum_j (1 - F_j)^2 |a_j|^2
        """
        left = float(((1 - self.filter).square() * self.aimed).sum() + self.outside[0])
        return left / max(self.targets.numel(), 1)

    def said(self) -> str:
        """What could not be learned, in words."""
        count = len(self.values)
        movable = self.values > self.slack if self.null_dimension else torch.ones_like(self.values, dtype=torch.bool)
        within = int((movable & (self.reach.square() >= self.aimed)).sum())
        moved = (f"could move {within:,}, each by itself, as far as the target asks" if count != 1 else
                 f"{'could' if within else 'could not'} move it as far as the target asks")
        null = f"; {self.null_dimension:,} it could not move at all" if self.null_dimension and count != 1 else ""
        begun = f"of {counted(count, 'mode')} on {counted(len(self.targets), *PLACES[self.on])} the run {moved}{null}"
        error = f"its mean squared error{self.when}"
        if not self.bound:
            return (f"{begun}; no part of the target lay beyond its reach; {error} is {_number(self.error)}; "
                    f"{self.expected()}")
        return (f"{begun}; at least {_share(self.share)} of the target’s energy lay beyond its reach, so {error} is at "
                f"least {_number(self.bound)}, and it is {_number(self.error)}")

    @property
    def when(self) -> str:
        """The step behind the path, in words, where it is not the last of the run."""
        times, steps = self.info.get("times", []), self.info.get("steps")
        return f" at step {times[-1]:,} of {steps:,}" if times and steps and times[-1] != steps else ""

    def expected(self) -> str:
        """The two errors that are expected without the course of the run, in words."""
        fixed = f"a fixed kernel trained on all these points would have left {_number(self.unlearnable)}"
        return fixed if self.predicted is None else (
            f"{fixed}, and eigenlearning, which counts the samples, expects {_number(self.predicted)}")

    def summary(self) -> str:
        return f"NullSpace({self.said()})"

    def to_frame(self) -> pd.DataFrame:
        """One row for each mode, the largest eigenvalue first."""
        import pandas as pd

        whole = float(self.aimed.sum() + self.outside[0])
        return pd.DataFrame({
            "mode": range(len(self.values)), "eigenvalue": self.values.tolist(),
            "target": self.aimed.tolist(), "share": (self.aimed / (whole or 1.0)).tolist(),
            "reach": self.reach.square().tolist(), "learned": self.learned.square().sum(1).tolist(),
            "error": (self.aim - self.learned).square().sum(1).tolist(), "filter": self.filter.tolist(),
        })

    def top(self, k: int = 5) -> pd.DataFrame:
        """The modes of which most of the target is left in the end, and the points and outputs that they stand for.

        Args:
            k: How many.
        """
        import pandas as pd

        count = min(as_count(k, "k", least=1), len(self.values))
        errors = (self.aim - self.learned).square()
        total = float((self.targets - self.final).square().sum())
        rows = []
        for j in errors.sum(1).argsort(descending=True, stable=True)[:count].tolist():
            loads = self.modes[:, j]
            heavy = loads.abs().argsort(descending=True, stable=True)[:NAMED].tolist()
            row: dict[str, Any] = {
                "mode": j, "error": float(errors[j].sum()),
                "share of the error": float(errors[j].sum()) / (total or 1.0), "target": float(self.aimed[j]),
                "reach": float(self.reach[j]) ** 2, "filter": float(self.filter[j]),
                "output": self.output_names[int(errors[j].argmax())],
                "points": ", ".join(f"{with_minus(f'{float(loads[i]):+.2f}')} of {self.ids[i]}" for i in heavy),
            }
            if self.labels is not None:
                row["label"], row["share of the label"] = self._label(loads)
            rows.append(row)
        return pd.DataFrame(rows)

    def _label(self, loads: Tensor) -> tuple[str, float]:
        """The label whose points carry most of a mode, and the share that they carry."""
        assert self.labels is not None
        shares: dict[str, float] = {}
        for word, share in zip(self.labels, loads.square().tolist(), strict=True):
            shares[word] = shares.get(word, 0.0) + share
        word = max(sorted(shares), key=lambda name: shares[name])
        return word, shares[word]

    def check(self) -> Check:
        """The laws of the null space, measured on the recorded outputs."""
        rounded = self.info.get("rounding", 1e-12)
        change = self.learned.square().sum(1).sqrt()
        size = float((self.final - self.initial).norm()) + float(self.initial.norm()) + float(self.final.norm())
        floor = rounded * size
        null = self.values <= self.slack
        moved = float(change[null].max()) if bool(null.any()) and len(self.values) == len(self.targets) else 0.0
        most = float(self.reach[null].max()) + floor if bool(null.any()) else floor
        over = float((change - self.reach).max()) if len(change) else 0.0
        ratio = float((change / (self.reach + floor + 1e-300)).max()) if len(change) else 0.0
        lengths = float(self.values.sum()) / self.trace if self.trace else 1.0
        whole = len(self.values) == len(self.targets)
        least, apart = (float(self.info.get(name, 0.0)) for name in ("least", "asymmetry"))
        rows = [
            CheckRow("complete", "pass" if self.left <= rounded else "fail", self.left, rounded,
                     f"Gradients along the chords, and buffers, give the change of outputs up to "
                     f"{with_minus(f'{self.left:.1e}')}."),
            CheckRow("null modes", "pass" if moved <= most else "fail", moved, most,
                     f"The {self.null_dimension:,} modes of no eigenvalue moved by {with_minus(f'{moved:.1e}')} at "
                     "most, which is rounding (N1)."),
            CheckRow("reach", "pass" if over <= floor else "fail", over, floor,
                     f"No mode moved further than its reach; the nearest came to {ratio:.0%} of it."),
            CheckRow("certificate", "pass" if self.bound <= self.error + floor**2 + 1e-9 * self.error else "fail",
                     self.bound, self.error,
                     f"The error {_number(self.error)} is not below the bound {_number(self.bound)} (N2)."),
            CheckRow("sign", "pass" if least >= -rounded else "fail", least, -rounded,
                     f"The least eigenvalue is {with_minus(f'{least:.1e}')} of the largest; before rounding was taken "
                     f"off, the kernel differed from its transpose by {with_minus(f'{apart:.1e}')}."),
            CheckRow("trace", "pass" if (abs(lengths - 1) <= 1e-9 if whole else lengths <= 1 + 1e-9) else "fail",
                     lengths, 1.0, f"The modes carry {lengths:.6%} of the trace of the path kernel."),
        ]
        if len(self.loss):
            drop, factor = float(self.loss[0] - self.loss[1]), float(self.info.get("reduction", 1.0))
            rows.append(CheckRow(
                "energy", "pass", self.energy, drop,
                f"The energy of the path is {_number(self.energy)}, and the mean loss fell by {_number(drop)}; of "
                f"plain gradient descent by small full-batch steps the energy is {_number(factor)} times this fall."
                if abs(factor - 1) > 1e-3 else
                f"The energy of the path is {_number(self.energy)}, and the mean loss fell by {_number(drop)}: of "
                "plain gradient descent by small full-batch steps the two are one number."))
        return Check(tuple(rows))


def _share(value: float) -> str:
    return f"{value:.0%}" if value >= 0.005 else with_minus(f"{value:.1e}")


def _number(value: float) -> str:
    return with_minus(f"{value:.3g}")
