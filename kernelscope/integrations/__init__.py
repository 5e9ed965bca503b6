"""Kernels and their matrices for those who work with other packages."""

from .linear_operators import as_gpytorch_kernel, as_linear_operator

__all__ = ["as_gpytorch_kernel", "as_linear_operator"]
