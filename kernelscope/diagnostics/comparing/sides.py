"""One run of a comparison, as the probes tell it: answers, kernels, features, contributions, coverage."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ...decomposition.exact import decompose, final_outputs
from ...decomposition.output import natural_output
from ...decomposition.result import Decomposition
from ...decomposition.stochastic.points import Points, as_points
from ...decomposition.targets import class_targets, fitted_targets
from ...decomposition.trajectory import Trajectory
from ...errors import DataError
from ...network import cast
from ...run.run import Run
from ..coverage.answers import answered
from ..evolution.between import kernels_at
from ..evolution.scene import PRODUCTS, look_at
from ..last_layer import LastLayer
from ..states import states


@dataclass(frozen=True)
class Setting:
    """What all sides of a comparison share.

    Attributes:
        output: What is explained, ``None`` for the usual.
        dtype: The precision, ``None`` for each network's own.
        memory: About how many bytes may be used.
        quiet: Whether bars are shown, as ``progress`` of :func:`decompose`.
    """

    output: int | str | Callable[..., Tensor] | None
    dtype: torch.dtype | None
    memory: int
    quiet: bool | None


@dataclass(frozen=True, eq=False)
class Side:
    """A run, and what its network says of the probes.

    Attributes:
        run: The run.
        points: The probes, with their targets in the form of training if they are known.
        outputs: At the start and at the end, with shape (2, q, c), float64.
        losses: At the start and at the end, with shape (2, q), if targets are known.
        answers: The class answered with at the start and at the end, with shape (2, q), of classifiers.
        names: The names of the classes.
        truth: The true class of each probe, if it is known, with shape (q,).
        dtype: The precision of kernels.
        place: Where to compute.
    """

    run: Run
    points: Points
    outputs: Tensor
    losses: Tensor | None
    answers: Tensor | None
    names: list[str] | None
    truth: Tensor | None
    dtype: torch.dtype
    place: torch.device

    @classmethod
    def of(cls, run: Run, x: Any, targets: Any, place: torch.device, dtype: torch.dtype | None) -> Side:
        """Asks the network.

        Raises:
            DataError: If it cannot take the probes, or their targets.
        """
        points = as_points(run, x, targets)
        if not len(points):
            raise DataError("Runs are compared on two probes at least; none came. Pass thirty or so, which make "
                            "intervals that mean something.")
        kind = dtype or (torch.float64 if run.dtype == torch.float64 else torch.float32)
        inputs = cast(points.inputs, kind, place)
        raw = final_outputs(Trajectory(run, kind, place), None, inputs)
        classes = natural_output(run, raw) != "output"
        truth = None
        if points.targets is not None and classes:
            truth = class_targets(points.targets, run, None if raw.ndim < 2 or raw.shape[1] == 1 else raw).cpu()
        known = torch.zeros(0)
        if points.targets is not None:
            known = fitted_targets(cast(_in_form(points.targets, truth, run), kind, place), raw, run)
        looks = [look_at(run, at, points.inputs, known, kind, place) for _, at in states(run, [0, len(run)])]
        outputs = torch.stack([look.outputs for look in looks])
        answers = torch.stack([answered(run, look.outputs)[1] for look in looks]) if classes else None
        return cls(run, points, outputs, torch.stack([look.losses for look in looks]) if len(known) else None, answers,
                   run.class_names if classes else None, truth, kind, place)

    @property
    def softmax(self) -> bool:
        """Whether what all outputs of a probe have in common makes no difference."""
        return self.run.loss.name == "cross_entropy" and self.outputs.shape[2] > 1

    def kernels(self, memory: int) -> list[Tensor]:
        """The empirical NTK among probes at the start and at the end, each with shape (q, q)."""
        return [matrix.to("cpu", torch.float64) for matrix in kernels_at(
            self.run, [0, len(self.run)], self.points, None, self.dtype, self.place, max(1, int(PRODUCTS * memory)))]

    def features(self) -> list[Tensor] | None:
        """The products of what goes into the last layer at the start and at the end, or ``None`` if there is none."""
        found = []
        for _, at in states(self.run, [0, len(self.run)]):
            at, inputs = cast((at, self.points.inputs), self.dtype, self.place)
            own = self.run.network.parameters
            rows = LastLayer(self.run.network, {name: at[name] for name in own},
                             {name: t for name, t in at.items() if name not in own}, inputs)(inputs)[1]
            if rows is None:
                return None
            found.append(rows @ rows.T)
        return found

    def ledger(self, setting: Setting, picked: Tensor | None) -> Decomposition:
        """The exact contributions to what is explained.

        Args:
            setting: What is explained, and how.
            picked: The class of each probe whose logit is explained, unless another output was asked for.
        """
        output, targets = setting.output, self.points.targets
        if output is None and picked is not None:
            output, targets = (0, None) if self.outputs.shape[2] == 1 else (contrast, picked)
        return decompose(self.run, self.points.inputs, output, targets=targets, device=self.place,
                         memory=setting.memory, progress=setting.quiet)


def contrast(outputs: Tensor, targets: Tensor) -> Tensor:
    """The logit of a class minus the mean of those of all others, with shape (q, 1).

    Example:
        >>> contrast(torch.tensor([[1.0, 2.0, 6.0]]), torch.tensor([2]))
        tensor([[4.5000]])
    """
    count = outputs.shape[1]
    own = outputs.gather(1, targets.long().reshape(-1, 1))
    return (count * own - outputs.sum(1, keepdim=True)) / (count - 1)


def _in_form(targets: Tensor, truth: Tensor | None, run: Run) -> Tensor:
    """Classes in the form in which training had them, if that was another than the one that came."""
    known = run.samples.held_targets
    if truth is None or known is None or known[:1].numel() == targets[:1].numel():
        return targets
    if known[:1].numel() == 1:
        return truth.reshape(-1, *known.shape[1:]).to(known.dtype)
    return torch.nn.functional.one_hot(truth, known.shape[1]).to(known.dtype)


def same_answers(sides: list[Side]) -> list[list[list[str]]] | None:
    """For each side, at start and end, the name of the class that each probe is answered with; ``None`` of others."""
    named = []
    for side in sides:
        if side.answers is None:
            return None
        names = side.names or []
        named.append([[names[i] if 0 <= i < len(names) else str(i) for i in row] for row in side.answers.tolist()])
    return named


def chosen(sides: list[Side]) -> list[Tensor] | None:
    """The class of each probe whose logit is explained, on each side: the true one, or else the answer of the first.

    Raises:
        DataError: If the second knows no class of that name.
    """
    first, second = sides
    if first.answers is None or second.answers is None:
        return None
    own = first.answers[1] if first.truth is None else first.truth
    if first.names == second.names:
        return [own, own]
    there = {name: i for i, name in enumerate(second.names or [])}
    names = [(first.names or [])[i] if i < len(first.names or []) else str(i) for i in own.tolist()]
    unknown = next((name for name in names if name not in there), None)
    if unknown is not None:
        raise DataError(f"The second network tells no class {unknown!r}, so there is no such logit to be explained in "
                        f"both. It tells {', '.join(there)} apart; pass output=, the number of one or a function.")
    return [own, torch.tensor([there[name] for name in names])]


def is_generative(run: Any) -> bool:
    """Whether this is a run of a denoiser, of a GAN, or of a side of one."""
    if hasattr(run, "generator") and hasattr(run, "critic"):
        return True
    notes = run.meta.get("notes") if isinstance(run, Run) else None
    return isinstance(notes, dict) and notes.get("generative") in ("diffusion", "gan")


