"""Solvers: from an operator and targets to coefficients."""

from .base import Cost, Solver
from .conjugate_gradient import ConjugateGradient
from .direct import Direct
from .problem import Problem
from .solution import Solution
from .watch import State, Watch

__all__ = ["ConjugateGradient", "Cost", "Direct", "Problem", "Solution", "Solver", "State", "Watch"]
