r"""Newton's method for kernel machines with a loss other than the squared one.

At each step the objective is taken for its quadratic approximation, whose lowest point is found by preconditioned
conjugate gradients, as exactly as is worth while; then the objective itself is minimised along the way there, which
needs no further reading of the points. So it never rises, from wherever one begins. Every ridge has steps of its own;
what they share is the pass over the points.

References:
    | Globally Convergent Newton Methods for Ill-conditioned Generalized Self-concordant Losses
      (Marteau-Ferey et al., 2019)
    | Choosing the Forcing Terms in an Inexact Newton Method (Eisenstat and Walker, 1996)
"""

from __future__ import annotations

from dataclasses import dataclass, fields

import torch
from torch import Tensor

from ..arguments import as_count, as_part
from ..budget import as_words
from ..errors import DataError, OutOfBudget
from ..progress import counting
from .base import Cost, Solver
from .curvature import Curvature, Sample, worth
from .losses import Loss, as_loss
from .objective import Objective
from .problem import Problem
from .solution import Solution
from .watch import State, Watch

#: What conjugate gradients may leave of a residual at most, in the metric of the curvature.
FORCING = 0.1

#: What may be left of the slope where a search along a line ends, and how many points it looks at.
FLAT, LOOKS = 0.1, 100

#: How many times as much as is negligible a step must have promised, for it to matter that it was lost to rounding.
LOST = 10.0

#: The outputs of all points, with shape (n, r, c), and the gradient.
_Seen = tuple[Tensor, Tensor]


@dataclass
class _Walk:
    """Where the iteration stands: all that the next step depends on."""

    b: Tensor  # coordinates, with shape (k, r, c)
    first: Tensor  # the norm of the first gradient, with shape (r,)
    begun: Tensor  # the first objective, or that of nought if it is larger: of its size is rounding
    objective: Tensor
    done: Tensor
    lost: Tensor  # whether rounding ended it
    apart: Tensor  # whether each output has a factor of its own
    passes: Tensor
    history: Tensor

    def tensors(self) -> dict[str, Tensor]:
        return {f.name: getattr(self, f.name).clone() for f in fields(self)}


class Newton(Solver):
    r"""Minimises :math:`\frac1n \sum_i w_i\, \ell(f(x_i), y_i) + \lambda \|f\|_H^2` by Newton's method.

    Args:
        loss: ``"logistic"`` for targets between 0 and 1, each output a question of its own; ``"softmax"`` for one class
            of several; ``"huber"`` for real targets with outliers; ``"squared"``; or a loss of ``ks.solvers``.
        tolerance: It ends after a step that promised to lower the objective by less than this share of it: half the
            squared norm of the gradient, measured by the curvature.
        steps: How many inner steps, each a pass, a Newton step takes at most.
        passes: After how many passes the iteration is given up.

    Raises:
        DataError: If one of them is out of range.

    Example:
        >>> Newton("huber")
        Newton(Huber(delta=1.35))
    """

    loss: Loss

    def __init__(self, loss: str | Loss = "logistic", *, tolerance: float = 1e-6, steps: int = 100, passes: int = 1000):
        self.loss = as_loss(loss)
        self.steps, self.passes = as_count(steps, "steps", 1), as_count(passes, "passes", 1)
        self.tolerance = as_part(tolerance, "tolerance", "1e-6")

    def __repr__(self) -> str:
        return f"Newton({self.loss!r})"

    def cost(self, problem: Problem) -> Cost:
        n, p = problem.shape
        m, passes, rounds = problem.outputs * len(problem.ridge), 40.0, 8.0
        factors = m if self._apart(problem) else len(problem.ridge)
        sample = Sample.count(problem, factors)
        operations = passes * 4.0 * n * p * m + 20.0 * p**3 + rounds * factors * (2.0 * sample + p) * p**2
        return Cost(operations, _memory(problem, factors), passes + rounds * sample / n)

    def solve(self, problem: Problem, watch: Watch | None = None) -> Solution:
        """The solution for each ridge of the problem; the watch hears of each Newton step.

        Raises:
            NonFiniteError: If the kernel gives NaN or infinite values.
            DataError: If the loss has no minimum for these targets, or what was kept is of another problem.
            OutOfBudget: If it does not fit into the problem's memory; said before the first pass.
        """
        self.loss.check(problem.y, problem.weights, problem.intercept)
        needed = self.cost(problem).memory
        if needed > problem.memory:
            raise OutOfBudget(
                f"{self!r} with {len(problem.z)} centers and {len(problem.x)} points takes {as_words(needed)}, and "
                f"memory allows {as_words(problem.memory)}. Take fewer centers or ridges, or raise memory."
            )
        watch, m = Watch() if watch is None else watch, problem.outputs * len(problem.ridge)
        objective = Objective(problem, self.loss)
        walk = _begun(objective) if watch.kept is None else _checked(watch.kept, objective)
        apart = self._apart(problem)
        sample = Sample(objective, Sample.count(problem, m if apart else len(problem.ridge)))
        here = objective.gradient(walk.b)
        if watch.kept is None:
            # What is read anew after an interruption is not counted again.
            walk.passes = walk.passes + sample.passes + 1
            walk.first, walk.objective = _norm(here[1]), objective.value(here[0], walk.b)
            nothing = objective.value(torch.zeros_like(here[0]), torch.zeros_like(walk.b))
            walk.begun, walk.apart = torch.maximum(walk.objective, nothing), torch.tensor(apart)
        notes: list[str] = []
        with counting(self.passes, "fit", "pass") as done:
            done(int(walk.passes))
            while not bool(walk.done.all()) and not notes:
                before = int(walk.passes)
                here = self._step(objective, sample, walk, here)
                done(int(walk.passes) - before)
                stopped = watch.heard(_state(objective, walk))
                if not bool(walk.done.all()) and (stopped or float(walk.passes) >= self.passes):
                    notes.append(self._ended(objective, walk, stopped))
        if bool(walk.lost.any()):
            notes.append(_lost(objective, walk))
        state = _state(objective, walk)
        coefficients, intercepts = state.coefficients()
        assert state.objective is not None
        return Solution(coefficients, intercepts, state.objective, state.passes, tuple(walk.history.tolist()),
                        tuple(notes))

    @staticmethod
    def _apart(problem: Problem) -> bool:
        """Whether each output begins with a factor of its own: where it is sure to pay, and there is room."""
        return worth(problem, problem.outputs * len(problem.ridge)) and _fits(problem)

    def _step(self, objective: Objective, sample: Sample, walk: _Walk, here: _Seen) -> _Seen:
        """From what is seen here a direction, the lowest point along it, and what is seen there."""
        outputs, gradient = here
        curvature, problem = Curvature(objective, sample, outputs, bool(walk.apart)), objective.problem
        before = walk.passes
        walk.passes = walk.passes + len(sample) / len(problem.x)
        share = _norm(gradient) / walk.first.clamp(min=_tiny(walk.first))
        s, change = self._direction(objective, curvature, outputs, gradient, share.sqrt().clamp(max=FORCING), walk)
        if float(walk.passes - before) > sample.price(problem) and _fits(problem):
            walk.apart = torch.tensor(True)
        promised = -(gradient * s).sum((0, 2)).double() / 2
        b = walk.b + _lowest(objective, outputs, change, walk, s).to(s)[:, None] * s
        del change  # before as much again is needed
        there = objective.gradient(b)
        walk.passes = walk.passes + 1
        value, eps = objective.value(there[0], b), torch.finfo(b.dtype).eps
        noise, negligible = 8 * eps * walk.begun, self.tolerance * walk.objective
        # Outputs of the new coordinates are not those that were foreseen, where coefficients cancel each other.
        worse = value > (1 + 8 * eps) * walk.objective
        stuck = worse | (walk.objective - value <= noise)
        walk.lost = walk.lost | ~walk.done & stuck & (promised > LOST * (negligible + noise))
        walk.done = walk.done | stuck | (promised <= negligible + noise)
        walk.b, walk.objective = torch.where(worse[:, None], walk.b, b), torch.where(worse, walk.objective, value)
        share = torch.where(worse, share, _norm(there[1]) / walk.first.clamp(min=_tiny(walk.first)))
        walk.history = torch.cat([walk.history, share.max().view(1).to(walk.history)])
        return there

    def _direction(self, objective: Objective, curvature: Curvature, outputs: Tensor, gradient: Tensor, forcing: Tensor,
                   walk: _Walk) -> tuple[Tensor, Tensor]:
        """About the Newton direction of each ridge, and how outputs change along it."""
        inner = lambda u, v: (u * v).sum((0, 2))
        spread = lambda a: a[:, None]
        s, change = torch.zeros_like(gradient), torch.zeros_like(outputs)
        rest = -gradient
        z = curvature.solve(rest)
        direction, size = z, inner(rest, z)
        first, still = size, ~walk.done & (size > 0)
        for _ in range(self.steps):
            along, product = objective.product(outputs, direction)
            product = product + spread(curvature.lift) * direction
            walk.passes = walk.passes + 1
            bend = inner(direction, product)
            rate = torch.where(still & (bend > 0), size / bend.clamp(min=_tiny(bend)), 0.0)
            s, rest = s + spread(rate) * direction, rest - spread(rate) * product
            change += spread(rate) * along
            z = curvature.solve(rest)
            fresh = inner(rest, z)
            still = still & (fresh > forcing.square() * first) & (rate > 0)
            if not bool(still.any()):
                break
            direction = z + spread(fresh / size.clamp(min=_tiny(size))) * direction
            size = fresh
        return s, change

    def _ended(self, objective: Objective, walk: _Walk, stopped: bool) -> str:
        said = (f"With ridge {_which(objective, ~walk.done)} it has not converged: after {float(walk.passes):.3g} "
                f"passes the gradient is still {float(walk.history[-1]):.1e} of what it was at the start")
        return f"{said}. It was asked to stop." if stopped else f"{said}. Raise passes or the ridge."


def _which(objective: Objective, these: Tensor) -> str:
    """Some of the ridges, in words."""
    return ", ".join(f"{ridge:g}" for ridge, this in zip(objective.problem.ridge, these.tolist(), strict=True) if this)


def _lost(objective: Objective, walk: _Walk) -> str:
    dtype = str(walk.b.dtype)[6:]
    finer = " Pass the points in float64, or raise the ridge." if dtype == "float32" else " Raise the ridge."
    return (f"With ridge {_which(objective, walk.lost)} the rounding of {dtype} has the last word: the gradient is "
            f"{float(walk.history[-1]):.1e} of what it was at the start, and no step lowers the objective.{finer}")


def _lowest(objective: Objective, outputs: Tensor, change: Tensor, walk: _Walk, s: Tensor) -> Tensor:
    """How far to go along s, for each ridge; 0 where the objective cannot be lowered."""
    at = lambda t: objective.along(outputs, change, walk.b, s, t)
    low = torch.zeros_like(walk.objective)
    high, t = torch.full_like(low, torch.inf), torch.ones_like(low)
    start, slope, _ = at(low)
    down = ~walk.done & (slope < 0)
    settled, best = ~down, torch.zeros_like(low)
    rounding = 4 * torch.finfo(torch.float64).eps * start.abs()
    for _ in range(LOOKS):
        value, here, bend = at(t)
        fine = (here.abs() <= FLAT * slope.abs()) & (value <= start + rounding)
        best = torch.where(~settled & fine, t, best)
        settled = settled | fine
        if bool(settled.all()):
            break
        low, high = torch.where(here < 0, t, low), torch.where(here < 0, high, t)
        newton = t - here / bend.clamp(min=_tiny(bend))
        between = torch.where(high < torch.inf, (low + high) / 2, 2 * t)
        # Far beyond where anything is known, one looks no farther than ten times.
        inside = (newton > low) & (newton < torch.minimum(high, 10 * t))
        t = torch.where(inside, newton, between)
    # Where the search ended before, at the last point from which it still goes down.
    return torch.where(settled, best, low)


def _begun(objective: Objective) -> _Walk:
    nothing, no = torch.zeros_like(objective.ridges), torch.zeros_like(objective.ridges, dtype=torch.bool)
    return _Walk(objective.begin(), nothing, nothing.double(), nothing.double(), no, no,
                 torch.tensor(False), torch.zeros((), dtype=torch.float64), torch.ones(1, dtype=torch.float64))


def _state(objective: Objective, walk: _Walk) -> State:
    b = walk.b
    return State(float(walk.passes), float(walk.history[-1]), tuple(walk.objective.tolist()),
                 lambda: objective.solution(b), walk.tensors)


def _checked(kept: dict[str, Tensor], objective: Objective) -> _Walk:
    """The state that was kept, where it is one of this problem."""
    if not {f.name for f in fields(_Walk)} <= set(kept) or tuple(kept["b"].shape) != objective.shape:
        raise DataError(
            f"The state to go on from is not of this problem and this solver: coordinates of shape {objective.shape} "
            "are needed. Fit the same data with the same solver, or begin anew."
        )
    return _Walk(**{f.name: kept[f.name].to(objective.ridges.device, copy=True) for f in fields(_Walk)})


def _memory(problem: Problem, factors: int) -> float:
    """The bytes of the basis and what it is made of, of the factors, and of three numbers for each output."""
    (n, p), m, item = problem.shape, problem.outputs * len(problem.ridge), problem.y.dtype.itemsize
    return item * ((5.0 + 2 * factors) * p * p + 3.0 * n * m + 12.0 * p * m)


def _fits(problem: Problem) -> bool:
    """Whether there is room for a factor for each output at each ridge."""
    return _memory(problem, problem.outputs * len(problem.ridge)) <= problem.memory


def _norm(gradient: Tensor) -> Tensor:
    return gradient.square().sum((0, 2)).sqrt()


def _tiny(t: Tensor) -> float:
    return torch.finfo(t.dtype).tiny
