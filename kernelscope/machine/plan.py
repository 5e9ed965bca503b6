r"""Which solver, and what it will take.

Every solver counts its multiplications and its memory beforehand. A kernel entry of two points with d numbers costs
about :math:`2d` more, and there are np of them in a pass. Of the solvers that fit into the memory the one is taken that
counts fewest; what is iterated counts several times, since it may need more passes than one knows. The count depends on
the problem alone, so the same call takes the same solver everywhere. Only the time is measured, on a small block.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import NamedTuple

import torch

from ..arguments import what_came
from ..budget import as_words
from ..errors import DataError, OutOfBudget
from ..features.base import points_between
from ..solvers import (
    PCG,
    ConjugateGradient,
    Cost,
    Direct,
    EigenPro,
    Loss,
    Newton,
    Problem,
    Solver,
    Squared,
)
from ..solvers.losses import as_loss
from ..solvers.orthonormal import CUT
from ..solvers.problem import SHARE


class Choice(NamedTuple):
    """A solver to choose from, and how many times its operations count; of kernels that are too smooth for rounding."""

    make: Callable[[Problem], Solver]
    times: float
    smooth: float


#: Every solver that is chosen from, the plainest first.
CHOICES: dict[str, Choice] = {
    "direct": Choice(lambda problem: Direct(), 1.0, 1.0),
    "cg": Choice(lambda problem: ConjugateGradient("full"), 6.0, 6.0),
    # Of a smooth kernel it may not reach the end, and in single precision leave the way.
    "cg, two-level": Choice(lambda problem: ConjugateGradient("two-level"), 50.0, 1e4),
    # It ends near the smallest objective, and not at it.
    "eigenpro": Choice(lambda problem: EigenPro(), 200.0, 200.0),
}

#: Those for problems whose centers are all points, with a ridge that rounding leaves in force: what is iterated there
#: needs no normal equations, and is the same function of points and targets as the direct solution.
SQUARE: dict[str, Choice] = {
    "direct": CHOICES["direct"],
    "pcg": Choice(lambda problem: PCG(), 100.0, 100.0),
    "eigenpro": Choice(lambda problem: EigenPro(), 2e4, 2e4),
}

#: How much larger than the rounding of a kernel matrix a ridge has to be, and of how many points that is taken.
ABOVE, FEW = 10.0, 16

#: What the user can ask for by name, and which of these it stands for.
NAMES: dict[str, tuple[str, ...]] = {"direct": ("direct",), "cg": ("cg", "cg, two-level"),
                                     "eigenpro": ("eigenpro",)}

#: What a kernel entry costs beside its product: exponentials and roots, counted as multiplications.
ENTRY = 20.0

#: The side of the block that is timed, and of the products that are.
SIDE, PRODUCT = 256, 384

#: The side of the block that is timed first, and after how many seconds a larger one would tell no more.
FIRST, ENOUGH = 8, 0.05


@dataclass(frozen=True)
class Plan:
    """What was decided before the work, and why.

    Attributes:
        problem: The problem in words.
        name: The solver's name among those that are chosen from; ``None`` if it was given.
        solver: The solver in words.
        why: Why this one.
        operations: Multiplications and additions, those of kernel entries included.
        memory: Bytes.
        passes: Readings of all points, about.
        seconds: How long it will take, about.
        products: Products with a kernel matrix that is kept, about; ``None`` where it is computed in every pass.
    """

    problem: str
    name: str | None
    solver: str
    why: str
    operations: float
    memory: float
    passes: float
    seconds: float
    products: float | None = None

    def __repr__(self) -> str:
        work = f"{self.passes:.3g} pass{'es' * (self.passes != 1)}"
        if self.products is not None:
            work = (f"{self.products:.3g} products with the kernel matrix, which is "
                    + ("computed once" if self.passes else "there"))
        return (f"{self.problem}\n{self.solver}: {self.why}\nabout {work}, {as_words(self.memory)}, "
                f"{in_words(self.seconds)}")

    @property
    def step(self) -> str:
        """What the solver counts, in a word."""
        return "pass" if self.products is None else "product"

    def plain(self) -> dict[str, str | float | None]:
        """The fields, as they are kept."""
        return asdict(self)


def planned(problem: Problem, solver: Solver | str | None, words: str, said: str | None = None) -> tuple[Solver, Plan]:
    """The solver for a problem, and the plan.

    Args:
        problem: The problem.
        solver: A solver, the name of one, or ``None`` to choose one.
        words: The problem in words.
        said: The choice that was made when the work began, to stay with it.

    Raises:
        DataError: If there is no solver of this name.
        OutOfBudget: If none fits into the memory.
    """
    if isinstance(solver, Solver):
        if problem.tiles is not None and not isinstance(solver, PCG):
            raise DataError(f"A kernel matrix in tiles is solved by ks.solvers.PCG; {solver!r} came. Leave tiles out, "
                            "or leave solver out.")
        cost = solver.cost(problem)
        _check_room(problem, {repr(solver): cost})
        return solver, _plan(problem, words, None, solver, cost, "as asked for")
    if solver is not None and (not isinstance(solver, str) or solver not in NAMES):
        raise DataError(f"solver must be {', '.join(map(repr, NAMES))}, 'primal' for features, a solver of ks.solvers, "
                        f"or None to choose one; {what_came(solver)} came. Leave it out if in doubt.")
    choices = SQUARE if problem.square and is_solid(problem) else CHOICES
    names = NAMES[solver] if solver is not None else tuple(choices)
    if problem.tiles is not None or (solver == "cg" and choices is SQUARE):
        if solver not in (None, "cg"):
            raise DataError(f'A kernel matrix in tiles is solved by solver="cg"; {what_came(solver)} came. Leave tiles '
                            "out, or pass solver=\"cg\".")
        choices, names = SQUARE, ("pcg",)
    candidates = {name: choices[name].make(problem) for name in names}
    costs = {name: candidates[name].cost(problem) for name in names}
    _check_room(problem, costs)
    room = [name for name in names if _all_memory(problem, costs[name]) <= problem.memory]
    smooth = len(room) > 1 and is_smooth(problem)
    times = {name: choices[name].smooth if smooth else choices[name].times for name in room}
    name = said if said in names else min(room, key=lambda name: times[name] * total(problem, costs[name]))
    return candidates[name], _plan(problem, words, name, candidates[name], costs[name],
                                   _why(problem, name, costs, solver))


def minimising(solver: Solver | str | None, loss: str | Loss | None) -> Solver | str | None:
    """The solver as it was given, or the one that minimises a loss.

    Raises:
        DataError: If the solver minimises another loss.
    """
    if loss is None:
        return solver
    wanted, own = as_loss(loss), getattr(solver, "loss", None) or Squared()
    if type(own) is type(wanted) and vars(own) == vars(wanted):
        return solver
    if solver is not None:
        raise DataError(f"The loss {wanted!r} is minimised by Newton({wanted!r}); solver={what_came(solver)} came. "
                        "Leave solver out, or pass a Newton with this loss to set its tolerance.")
    return Newton(wanted)


def is_smooth(problem: Problem) -> bool:
    """Whether some of what the centers span is below rounding, as few of them show."""
    order = torch.randperm(len(problem.z), generator=torch.Generator().manual_seed(0))[:SIDE].sort().values
    some = problem.z.chosen(order.tolist())
    values = torch.linalg.eigvalsh(problem.kernel(some).to(problem.y.dtype))
    return bool(values[0] < CUT[problem.y.dtype] * values[-1])


def is_solid(problem: Problem) -> bool:
    r"""Whether every ridge :math:`n\lambda` is above rounding.

    By that the eigenvalues of the kernel matrix may be off, about :math:`\epsilon\sqrt{n}\,k(x, x)`.
    """
    n = len(problem.z)
    few = problem.z.chosen([i * n // min(n, FEW) for i in range(min(n, FEW))])
    noise = torch.finfo(problem.y.dtype).eps * n**0.5 * float(problem.kernel.diagonal(few).mean())
    return n * min(problem.ridge) > ABOVE * noise


def total(problem: Problem, cost: Cost) -> float:
    """All operations, those of kernel entries included."""
    return cost.operations + entries(problem, cost) * (2.0 * _numbers(problem) + ENTRY)


def entries(problem: Problem, cost: Cost) -> float:
    """How many kernel entries are computed."""
    n, p = problem.shape
    return cost.passes * n * p + cost.entries


def in_words(seconds: float) -> str:
    """A time as a person would say it.

    Example:
        >>> in_words(0.2), in_words(42.4), in_words(5000)
        ('less than a second', '42 s', '1 h 23 min')
    """
    if seconds < 1:
        return "less than a second"
    if seconds < 100:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 60 else f"{minutes // 60} h {minutes % 60} min"


def _why(problem: Problem, name: str, costs: dict[str, Cost], asked: str | None) -> str:
    said = []
    for other, cost in costs.items():
        if other != name:
            count = f"{total(problem, cost):.1e}{' or more' * (cost.passes > 1)}"
            needed = _all_memory(problem, cost)
            said.append(f"{other} counts {count}" if needed <= problem.memory else
                        f"{other} needs {as_words(needed)} of {as_words(problem.memory)}")
    own = f"{total(problem, costs[name]):.1e} operations"
    return "; ".join(([f"as asked for, {own}"] if asked is not None else [own]) + said)


def _plan(problem: Problem, words: str, name: str | None, solver: Solver, cost: Cost, why: str) -> Plan:
    per_entry, per_operation = _rates(problem)
    # What is computed of coefficients is computed by every process, kernel entries by one of them.
    seconds = entries(problem, cost) / problem.processes * per_entry + cost.operations * per_operation
    return Plan(words, name, repr(solver), why, total(problem, cost), _all_memory(problem, cost), cost.passes, seconds,
                cost.products)


def _check_room(problem: Problem, costs: dict[str, Cost]) -> None:
    least = min(costs, key=lambda name: costs[name].memory)
    needed = _all_memory(problem, costs[least])
    if needed > problem.memory:
        raise OutOfBudget(
            f"{least} with {len(problem.z):,} centers needs {as_words(needed)}, and memory allows "
            f"{as_words(problem.memory)}. Take fewer centers, or raise memory."
        )


def _all_memory(problem: Problem, cost: Cost) -> float:
    """The memory of a solver and of the block of rows that it reads."""
    n, p = problem.shape
    return cost.memory + min(SHARE * problem.memory, float(n) * p * problem.y.dtype.itemsize)


def _numbers(problem: Problem) -> int:
    """How many numbers a point has."""
    part = problem.x.part(0, 1)
    return sum(t.numel() for t in (*part.args, *part.kwargs.values()) if isinstance(t, torch.Tensor))


def _rates(problem: Problem) -> tuple[float, float]:
    """The seconds of one kernel entry and of one multiplication and addition, measured on little."""
    side, seconds = FIRST // 2, 0.0
    while seconds < ENOUGH and side < SIDE:
        side *= 2
        x, z = points_between(problem.x, 0, side), points_between(problem.z, 0, side)
        seconds = seconds_of(lambda: problem.kernel(x, z))  # noqa: B023
    a = torch.ones(PRODUCT, PRODUCT, dtype=problem.y.dtype, device=problem.y.device)
    return seconds / (len(x) * len(z)), seconds_of(lambda: a @ a) / (2.0 * PRODUCT**3)


def seconds_of(work: Callable[[], torch.Tensor]) -> float:
    """The shorter of two times, since the first one may include preparations."""
    taken = []
    for _ in range(2):
        start = time.perf_counter()
        # Work on a GPU is done when its answer is there.
        float(work()[0, 0])
        taken.append(time.perf_counter() - start)
    return min(taken)
