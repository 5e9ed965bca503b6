"""The work of a solver, told and kept as it goes on."""

from __future__ import annotations

import math
import time
from collections.abc import Callable

import torch
from torch import Tensor

from ..data.points import Points
from ..errors import NonFiniteError
from ..kernels.base import Kernel
from ..solvers import Loss, State, Watch
from .checkpoint import Checkpoint
from .plan import in_words

#: After how many seconds the next pass is told of.
PAUSE = 2.0

#: Under which name the history is kept beside what the solver needs.
HISTORY = "watch.history"


class Errors:
    """Errors on points that are not fitted: mean squared ones, or the mean of the loss that is fitted.

    Args:
        kernel: The kernel.
        centers: The centers.
        x: The points.
        y: Their targets, with shape (m, c).
        loss: The loss; ``None`` for the squared one.
    """

    def __init__(self, kernel: Kernel, centers: Points, x: Points, y: Tensor, loss: Loss | None = None):
        self.kernel, self.centers, self.x, self.y, self.loss = kernel, centers, x, y, loss

    def __call__(self, coefficients: Tensor, intercepts: Tensor) -> Tensor:
        """The error of each solution, for coefficients with shape (r, p, c): shape (r,)."""
        r, p, c = coefficients.shape
        values = self.kernel.matmul(self.x, self.centers, coefficients.movedim(0, 1).reshape(p, r * c))
        f, y = values.view(len(self.x), r, c) + intercepts.to(values), self.y.to(values)[:, None]
        return (f - y).double().square().mean((0, 2)) if self.loss is None else self.loss.values(f, y).double().mean(0)

    def of_some(self, most: int) -> Errors:
        """The same on some of the points, always the same ones."""
        if len(self.x) <= most:
            return self
        some = torch.randperm(len(self.x), generator=torch.Generator().manual_seed(0))[:most].sort().values
        return Errors(self.kernel, self.centers, self.x.chosen(some.tolist()), self.y[some.to(self.y.device)],
                      self.loss)


class Telling(Watch):
    """Tells of passes, and keeps where the solver stands.

    Args:
        say: Takes a line.
        often: Whether each pass is told of, or one every few seconds.
        errors: Gives validation errors, if there are some.
        checkpoint: Keeps where the solver stands, if it shall.
        device: Where the solver computes.

    Attributes:
        history: The passes, with the residual and the validation error of each.
    """

    def __init__(self, say: Callable[[str], None], often: bool, errors: Errors | None, checkpoint: Checkpoint | None,
                 device: torch.device):
        self._say, self._often, self._errors, self._checkpoint = say, often, errors, checkpoint
        self._start = self._said = time.monotonic()
        self._unwritten: dict[str, Tensor] | None = None
        self.history: list[dict[str, float | None]] = []
        kept = None if checkpoint is None else checkpoint.tensors_on(device)
        if kept is not None:
            self.kept = kept
            self.history = _read(self.kept.pop(HISTORY))
            # What has no states begins anew.
            self.kept = self.kept or None

    @property
    def passes(self) -> float:
        """How many passes were made."""
        return float(self.history[-1]["passes"] or 0) if self.history else 0.0

    def heard(self, state: State) -> bool:
        if not math.isfinite(state.residual):
            raise NonFiniteError(
                f"After {state.passes:.3g} passes the residual is {state.residual}: the kernel is NaN or infinite for "
                "some point and center. Look at the kernel's numbers and at the points."
            )
        error = None
        if self._errors is not None:
            error = float(self._errors(*state.coefficients()).min())
        self.history.append({"passes": state.passes, "residual": state.residual, "validation": error})
        if self._checkpoint is not None:
            self._unwritten = state.tensors() | self.as_tensors()
            if self._checkpoint.due():
                self.write()
        now = time.monotonic()
        if self._often or now - self._said > PAUSE:
            self._said = now
            beside = "" if error is None else f", validation error {error:.4g}"
            self._say(f"pass {state.passes:.3g}: residual {state.residual:.1e}{beside}, "
                      f"{in_words(now - self._start)}")
        return False

    def as_tensors(self) -> dict[str, Tensor]:
        """The history, as it is kept."""
        return {HISTORY: _written(self.history)}

    def write(self) -> None:
        """Brings what was heard last to the disk, if it is not there."""
        if self._checkpoint is not None and self._unwritten is not None:
            self._checkpoint.keep(self._unwritten, {"passes": self.passes, "done": False})
            self._unwritten = None


def _written(history: list[dict[str, float | None]]) -> Tensor:
    rows = [[math.nan if value is None else value for value in one.values()] for one in history]
    return torch.tensor(rows, dtype=torch.float64).view(-1, 3)


def _read(values: Tensor) -> list[dict[str, float | None]]:
    names = ("passes", "residual", "validation")
    return [{name: None if math.isnan(value) else value for name, value in zip(names, row, strict=True)}
            for row in values.tolist()]
