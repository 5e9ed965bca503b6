"""Kernels and their matrices, and runs, for those who work with other packages."""

from .linear_operators import as_gpytorch_kernel, as_linear_operator
from .scalars import run_scalars
from .tracking import log_run

__all__ = ["as_gpytorch_kernel", "as_linear_operator", "log_run", "run_scalars"]
