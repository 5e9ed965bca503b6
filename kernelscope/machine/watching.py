"""The work of a solver, told and kept as it goes on."""

from __future__ import annotations

import math
import time
from collections.abc import Callable

import torch
from torch import Tensor

from ..data.points import Points
from ..errors import NonFiniteError
from ..features.base import points_between
from ..kernels.base import Kernel
from ..linalg import times
from ..solvers import Loss, Problem, State, Watch
from .checkpoint import Checkpoint
from .lowest import PREFIX, Lowest
from .plan import in_words

#: After how many seconds the next pass is told of.
PAUSE = 2.0

#: The share of the memory that the kernel of validation points and centers may fill, how many of its bytes are computed
#: together, and the share of the time that looks at the error may take where it does not fit.
ROOM, PART, LOOKS = 0.1, 2**24, 0.1

#: Under which name the history is kept beside what the solver needs.
HISTORY = "watch.history"


class Errors:
    """Errors on points that are not fitted: mean squared ones, or the mean of the loss that is fitted.

    The kernel of the points and the centers is computed once where there is room to keep it.

    Args:
        kernel: The kernel.
        centers: The centers.
        x: The points.
        y: Their targets, with shape (m, c).
        loss: The loss; ``None`` for the squared one.
        memory: The memory of the fit.
    """

    def __init__(self, kernel: Kernel, centers: Points, x: Points, y: Tensor, loss: Loss | None, memory: int):
        self.kernel, self.centers, self.x, self.y, self.loss, self.memory = kernel, centers, x, y, loss, memory
        self._block: Tensor | None = None

    @property
    def keeps(self) -> bool:
        """Whether there is room for the kernel of the points and the centers."""
        return len(self.x) * len(self.centers) * self.y.dtype.itemsize <= ROOM * self.memory

    def __call__(self, coefficients: Tensor, intercepts: Tensor) -> Tensor:
        """The error of each solution, for coefficients with shape (r, p, c): shape (r,)."""
        r, p, c = coefficients.shape
        values = self._times(coefficients.movedim(0, 1).reshape(p, r * c))
        f, y = values.view(len(self.x), r, c) + intercepts.to(values), self.y.to(values)[:, None]
        return (f - y).double().square().mean((0, 2)) if self.loss is None else self.loss.values(f, y).double().mean(0)

    def of_some(self, most: int) -> Errors:
        """The same on some of the points, always the same ones."""
        if len(self.x) <= most:
            return self
        some = torch.randperm(len(self.x), generator=torch.Generator().manual_seed(0))[:most].sort().values
        return Errors(self.kernel, self.centers, self.x.chosen(some.tolist()), self.y[some.to(self.y.device)],
                      self.loss, self.memory)

    def _times(self, v: Tensor) -> Tensor:
        if not self.keeps:
            return self.kernel.matmul(self.x, self.centers, v)
        if self._block is None:
            step = max(1, PART // (len(self.centers) * self.y.dtype.itemsize))
            self._block = torch.cat([self.kernel(points_between(self.x, i, min(i + step, len(self.x))), self.centers)
                                     for i in range(0, len(self.x), step)])
        return times(self._block, v.to(self._block))


class Telling(Watch):
    """Tells of passes, and keeps where the solver stands.

    Args:
        say: Takes a line.
        often: Whether each pass is told of, or one every few seconds.
        errors: Gives validation errors, if there are some.
        checkpoint: Keeps where the solver stands, if it shall.
        problem: The problem.
        step: What the solver calls a pass.
        patience: For how many passes the validation error may not have been lower before the fit ends; ``None`` for
            any number.

    Attributes:
        step: What the solver calls a pass.
        history: The passes, with the residual and the validation error of each.
        lowest: What was found at the lowest validation error; ``None`` without patience.
    """

    def __init__(self, say: Callable[[str], None], often: bool, errors: Errors | None, checkpoint: Checkpoint | None,
                 problem: Problem, step: str, patience: int | None):
        self._say, self._often, self._errors, self._checkpoint = say, often, errors, checkpoint
        self._problem, self.step, self._looking = problem, step, 0.0
        self._start = self._said = time.monotonic()
        self._unwritten: dict[str, Tensor] | None = None
        self.history: list[dict[str, float | None]] = []
        kept = None if checkpoint is None else checkpoint.tensors_on(problem.y.device)
        self.lowest = None if patience is None else Lowest(patience, step, kept)
        if kept is not None:
            self.kept = {name: t for name, t in kept.items() if not name.startswith(PREFIX)}
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
                f"After {self.step} {state.passes:.3g} the residual is {state.residual}: the kernel is NaN or infinite "
                "for some point and center. Look at the kernel's numbers and at the points."
            )
        error, enough = None, False
        if self._errors is not None and self._due():
            errors = self._looked(self._errors, state)
            error = float(errors.min())
            enough = self.lowest is not None and self.lowest.take(errors, state)
        self.history.append({"passes": state.passes, "residual": state.residual, "validation": error})
        if self._checkpoint is not None:
            self._unwritten = state.tensors() | self.as_tensors()
            if self._checkpoint.due():
                self.write()
        now = time.monotonic()
        if self._often or now - self._said > PAUSE:
            self._said = now
            beside = "" if error is None else f", validation error {error:.4g}"
            self._say(f"{self.step} {state.passes:.3g}: residual {state.residual:.1e}{beside}, "
                      f"{in_words(now - self._start)}")
        return enough

    def _due(self) -> bool:
        """Whether the validation error is looked at: in each pass, unless that takes long and nothing hangs on it."""
        return (self.lowest is not None or self._errors is None or self._errors.keeps
                or self._looking <= LOOKS * (time.monotonic() - self._start))

    def _looked(self, errors: Errors, state: State) -> Tensor:
        start = time.monotonic()
        found = errors(*state.coefficients())
        if self.lowest is not None:
            # Rounding on one machine is not that on another, and all have to end after the same pass.
            found = self._problem.summed(found if self._problem.first else torch.zeros_like(found))
        self._looking += time.monotonic() - start
        return found

    def as_tensors(self) -> dict[str, Tensor]:
        """The history, and what was found at the lowest error, as they are kept."""
        return {HISTORY: _written(self.history)} | ({} if self.lowest is None else self.lowest.tensors())

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
