"""The one interface of all solvers: from a problem to coefficients."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass

from .losses import Loss
from .problem import Problem
from .solution import Solution
from .watch import Watch


@dataclass(frozen=True)
class Cost:
    """What a solver will take, counted before it begins.

    Attributes:
        operations: Multiplications and additions.
        memory: Bytes.
        passes: Readings of all points; where it depends on the data, about how many.
        entries: Kernel entries that are computed beside those of the passes.
        products: How many products with a kernel matrix that is kept, about; ``None`` where none is.
    """

    operations: float
    memory: float
    passes: float
    entries: float = 0.0
    products: float | None = None


class Solver(ABC):
    """Finds the coefficients of a kernel machine.

    Attributes:
        loss: The loss it minimises; ``None`` for the squared one.
    """

    loss: Loss | None = None

    @abstractmethod
    def solve(self, problem: Problem, watch: Watch | None = None) -> Solution:
        """The solution for each ridge of the problem.

        Args:
            problem: The problem.
            watch: Hears of each pass, and holds the state to go on from.

        Raises:
            NonFiniteError: If the kernel gives NaN or infinite values.
            OutOfBudget: If it does not fit into the problem's memory; said before the first pass.
        """

    @abstractmethod
    def cost(self, problem: Problem) -> Cost:
        """What it will take."""
