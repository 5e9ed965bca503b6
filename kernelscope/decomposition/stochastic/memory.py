r"""What an optimizer remembers: the weight of each step's gradient in the final parameters.

An update rule that is linear in gradients ends at

.. math:: \theta_T = \theta_0 - \sum_s W_s \hat g_s + \dots, \qquad W_s = \sum_{k\ge s} M_{k,s},

with :math:`M_{k,s}` the weight that the gradient of step s has in step k: :math:`\eta_s` for SGD,
:math:`\eta\,\frac{1-\mu^{T-s}}{1-\mu}` for heavy ball. Of rules with preconditioners :math:`W_s` is an entry for each
parameter, with the preconditioners as recorded. Decay, which forgets too, is not counted, nor are parameters that
nothing moves.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from ...errors import DataError, RuleError
from ...network import undisturbed
from ...progress import counting
from ...result import Check, CheckRow, Result
from ...run.rules import Muon, find_rule
from ...run.run import Run
from ..adjoint import Adjoint
from ..questions import checked_memory, checked_run
from ..segments import cut
from ..training_side import TrainingSide
from ..trajectory import Trajectory
from ..unrolling import Unroller

if TYPE_CHECKING:
    import pandas as pd

#: The entries of a weight that are told, beside their mean.
LOW, HIGH = 0.1, 0.9


@dataclass(frozen=True, eq=False, repr=False)
class MemoryWeights(Result):
    r"""The weight of each step's gradient in the final parameters, for one run or several.

    Attributes:
        weights: By the name of a run the geometric mean of :math:`W_s` over parameters, with shape :math:`(T,)`: so no
            parameter counts for more because its gradients are small.
        low: The entry that a tenth of the parameters are below, likewise.
        high: The entry that a tenth are above, likewise.
        rules: By the name of a run its optimizers.
        info: Provenance: notes.
    """

    weights: dict[str, Tensor]
    low: dict[str, Tensor]
    high: dict[str, Tensor]
    rules: dict[str, str]
    info: dict[str, Any] = field(default_factory=dict)

    def relative(self, name: str) -> Tensor:
        """The weights of a run as shares of the median one, with shape (T,)."""
        found = self.weights[name]
        return found / found.median() if len(found) and float(found.median()) else found

    def last(self, name: str) -> float:
        """The share of its full weight that the gradient of the last step has had time to bring in."""
        found = self.relative(name)
        return float(found[-1]) if len(found) else 1.0

    def horizon(self, name: str) -> int:
        """How many of the last steps have brought in less than nine tenths of the median weight."""
        low = (self.relative(name) < 0.9).tolist()
        return next((i for i, below in enumerate(reversed(low)) if not below), len(low))

    def summary(self) -> str:
        """The weights in one sentence."""
        return f"MemoryWeights({self.said()})"

    def said(self) -> str:
        """What the last steps weigh under each rule."""
        return "; ".join(f"{name}: the last gradient enters with {self.last(name):.0%} of the median weight, "
                         f"{self.horizon(name)} steps with less than 90%" for name in self.weights)

    def to_frame(self) -> pd.DataFrame:
        """One row for each run and step."""
        import pandas as pd

        frames = [pd.DataFrame({
            "run": name, "step": range(len(values)), "weight": values.tolist(), "low": self.low[name].tolist(),
            "high": self.high[name].tolist(), "relative": self.relative(name).tolist(),
        }) for name, values in self.weights.items()]
        return pd.concat(frames, ignore_index=True)

    def check(self) -> Check:
        """Whether every weight is a finite number that moves parameters against the gradient."""
        rows = []
        for name, values in self.low.items():
            least = float(values.min()) if len(values) else 0.0
            ok = bool(torch.isfinite(values).all()) and least >= 0
            rows.append(CheckRow(f"sign of {name}", "pass" if ok else "warn", least, 0.0,
                                 f"The least of the weights of {name} is {least:.2g}."))
        return Check(tuple(rows))


def memory_weights(runs: Run | Mapping[str, Run], *, memory: int | str = 2**29) -> MemoryWeights:
    r"""How much the gradient of each step weighs in the final parameters, for one run or several by name.

    .. math:: W_s = \sum_{k\ge s} M_{k,s}

    Args:
        runs: A recorded run, or several by name.
        memory: About how many bytes the computation may use beside the runs, as a number or as ``"1GB"``.

    Raises:
        DataError: If it is no run.
        RuleError: If an optimizer turns whole matrices (Muon), or its step cannot be unrolled.

    References:
        Momentum as a weighted memory: "Why Momentum Really Works" (Goh, 2017).

    Example:
        >>> import kernelscope as ks, torch.nn.functional as F
        >>> from torch import nn
        >>> x = torch.randn(8, 3); y = x @ torch.ones(3, 1)
        >>> model = nn.Linear(3, 1)
        >>> optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.5)
        >>> with ks.record(model, (x, y), loss=F.mse_loss) as recording:
        ...     for _ in range(3):
        ...         optimizer.zero_grad()
        ...         F.mse_loss(model(x), y).backward()
        ...         optimizer.step()
        >>> ks.memory_weights(recording.run).weights["SGD"]
        tensor([0.1750, 0.1500, 0.1000], dtype=torch.float64)
    """
    memory = checked_memory(memory)
    if isinstance(runs, Mapping):
        if not runs or not all(isinstance(name, str) for name in runs):
            raise DataError("runs must be a recorded run, or a dictionary of names and runs; an empty one came, or one "
                            'of other keys. Pass for example {"momentum": run}.')
        named = {name: checked_run(run) for name, run in runs.items()}
    else:
        run = checked_run(runs)
        named = {_rules(run) or "run": run}
    found = {name: _weights(run, memory) for name, run in named.items()}
    typical, low, high = ({name: rows[i] for name, rows in found.items()} for i in range(3))
    return MemoryWeights(typical, low, high, {name: _rules(run) for name, run in named.items()},
                         {"steps": {name: len(run) for name, run in named.items()}})


def _rules(run: Run) -> str:
    return ", ".join(sorted({run.step(k).optimizer for k in range(run.start, run.stop)}))


def _weights(run: Run, memory: int) -> tuple[Tensor, Tensor, Tensor]:
    """The geometric mean of the weights over parameters at each step, and two of their quantiles."""
    for k in range(run.start, run.stop):
        if isinstance(find_rule(run.step(k).optimizer), Muon):
            raise RuleError("The weight of a gradient is a number for each entry, and Muon turns whole matrices. Leave "
                            "this run out.")
    place = next(iter(run.network.parameters.values())).device
    found = torch.zeros(3, len(run), dtype=torch.float64)
    with undisturbed(place), counting(len(run), "memory weights", "step") as done:
        trajectory = Trajectory(run, torch.float64, place)
        unroller = Unroller(run, TrainingSide(run, torch.float64, place, memory // 4), False)
        # A held step is its parameters, its gap and its preconditioner.
        length = max(1, memory // (4 * 3 * 8 * max(run.parameter_count, 1)))
        adjoint = Adjoint()
        for segment in reversed(cut(run, unroller, trajectory, length) if len(run) else []):
            rows, steps = segment.unroll(unroller, trajectory)
            for k in range(segment.stop - 1, segment.start - 1, -1):
                step = steps[k - segment.start]
                entries = [
                    (rule.sign * adjoint.direction(name, rows[k][name].new_ones(()), step)).expand(rows[k][name].shape)
                    for name, rule in step.linear.items()]
                if entries:
                    found[:, k - run.start] = _told(torch.cat([entry.flatten() for entry in entries]))
                done(1)
    return found[0], found[1], found[2]


def _told(entries: Tensor) -> Tensor:
    ordered = entries.double().cpu().sort().values
    positive = ordered[ordered > 0]
    typical = positive.log().mean().exp() if len(positive) else ordered.mean()
    places = [round(part * (len(ordered) - 1)) for part in (LOW, HIGH)]
    return torch.stack([typical, ordered[places[0]], ordered[places[1]]])
