"""Solvers: from an operator and targets to coefficients."""

from .base import Cost, Solver
from .conjugate_gradient import ConjugateGradient
from .direct import Direct
from .eigenpro import EigenPro
from .eigensystem import Eigensystem
from .losses import Huber, Logistic, Loss, Softmax, Squared
from .newton import Newton
from .pcg import PCG
from .problem import Problem
from .shards import shared
from .solution import Solution
from .warm import WarmStart
from .watch import State, Watch

__all__ = ["PCG", "ConjugateGradient", "Cost", "Direct", "EigenPro", "Eigensystem", "Huber", "Logistic", "Loss", "Newton",
           "Problem", "Softmax", "Solution", "Solver", "Squared", "State", "WarmStart", "Watch", "shared"]
