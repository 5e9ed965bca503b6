r"""A kernel machine: a function made of a kernel, centers and coefficients.

.. math:: f(x) = \sum_j k(x, z_j)\, \alpha_j + b

Each of its terms belongs to one center, so the function can be asked why: the terms at a point and the intercept add up
to its value there.
"""

from __future__ import annotations

import os
from numbers import Real
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..arguments import what_came
from ..budget import as_bytes, as_words
from ..data.points import Points
from ..errors import DataError, NonFiniteError, OutOfBudget
from ..kernels.base import Kernel
from . import keeping
from .contributions import Contributions
from .describing import same
from .fitting import Fitting
from .plan import Plan
from .points import equal, in_memory, joined


class KernelMachine:
    r"""The function :math:`f(x) = \sum_j k(x, z_j)\, \alpha_j + b`.

    Args:
        kernel: The kernel.
        centers: The points :math:`z_j`, p of them.
        coefficients: Their weights :math:`\alpha`, with shape :math:`(p, c)`; or :math:`(p,)` for one output that has
            no axis of its own.
        intercept: The constant b, with shape :math:`()` or :math:`(c,)`; nought if not given.
        fitting: How it was fitted, if it was.

    Attributes:
        centers: The points, as a tensor; as a tuple or a dictionary of tensors if each point is several.

    Raises:
        DataError: If there is not one coefficient for each center, or the kernel keeps outputs apart.
        NonFiniteError: If a coefficient is NaN or infinite.

    Example:
        >>> import torch, kernelscope as ks
        >>> k = ks.kernels.Laplacian(bandwidth=1.0)
        >>> machine = ks.KernelMachine(k, torch.tensor([[0.0], [1.0]]), torch.tensor([1.0, -1.0]))
        >>> machine
        KernelMachine(Laplacian(bandwidth=1), 2 centers, 1 output)
        >>> machine(torch.tensor([[0.0], [0.5]]))
        tensor([0.6321, 0.0000])
    """

    def __init__(self, kernel: Kernel, centers: Any, coefficients: Tensor, intercept: Tensor | None = None, *,
                 fitting: Fitting | None = None):
        if not isinstance(kernel, Kernel):
            raise DataError(f"A machine is made of a kernel; {what_came(kernel)} came. Pass for example "
                            "ks.kernels.Laplacian(bandwidth=20.0).")
        self.kernel, self.fitting = kernel, fitting
        self.centers = in_memory(kernel.points(centers))
        self._points: Points = kernel.points(self.centers)
        self.coefficients = _checked(coefficients, len(self._points))
        self.intercept = _constant(intercept, self.coefficients)

    def __len__(self) -> int:
        """The number of centers."""
        return len(self._points)

    def __repr__(self) -> str:
        c = 1 if self.coefficients.ndim == 1 else self.coefficients.shape[1]
        constant = ", with an intercept" if bool((self.intercept != 0).any()) else ""
        ridge = "" if self.fitting is None else f", ridge {self.fitting.ridge:g}"
        return (f"KernelMachine({self.kernel!r}, {len(self):,} center{'s' * (len(self) > 1)}, "
                f"{c} output{'s' * (c > 1)}{constant}{ridge})")

    def __call__(self, x: Any) -> Tensor:
        """The values at points, with shape :math:`(q,)` or :math:`(q, c)`; block by block, as the kernel multiplies."""
        values = self.kernel.matmul(self.kernel.points(x), self._points, self.coefficients)
        return values + self.intercept.to(values)

    @torch.no_grad()
    def contributions(self, x: Any, memory: int | str = "1GB") -> Contributions:
        r"""What each center adds at points: :math:`k(x, z_j)\, \alpha_j`, with shape :math:`(q, c, p)`.

        Args:
            x: The points, q of them.
            memory: How much the terms may use, a number of bytes or a size such as ``"1GB"``.

        Raises:
            OutOfBudget: If the terms do not fit into ``memory``.

        Example:
            >>> import torch, kernelscope as ks
            >>> k = ks.kernels.Laplacian(bandwidth=1.0)
            >>> machine = ks.KernelMachine(k, torch.tensor([[0.0], [1.0]]), torch.tensor([1.0, -1.0]))
            >>> why = machine.contributions(torch.tensor([[0.0]]))
            >>> why.terms
            tensor([[[ 1.0000, -0.3679]]], dtype=torch.float64)
            >>> why.check().ok
            True
        """
        points = self.kernel.points(x)
        alpha = self.coefficients.view(len(self), -1)
        needed, room = 16 * len(points) * alpha.numel(), as_bytes(memory)
        if needed > room:
            raise OutOfBudget(
                f"{len(points)} points, {alpha.shape[1]} outputs and {len(self)} centers have terms of "
                f"{as_words(needed)}, and memory allows {as_words(room)}. Ask for fewer points at a time, at most "
                f"{room // (16 * alpha.numel())}, or raise memory."
            )
        block = self.kernel(points, self._points)
        least = max(alpha.dtype, block.dtype, key=lambda dtype: torch.finfo(dtype).eps)
        terms = block.double()[:, None, :] * alpha.double().T.to(block.device)
        outputs = self(points).double()
        return Contributions(terms, outputs.view(len(points), -1), self.intercept.double().view(-1), str(least)[6:])

    def at(self, ridge: Real | float) -> KernelMachine:
        """The machine of another ridge that was fitted in the same passes.

        Raises:
            DataError: If it was not fitted with this ridge.
        """
        known = [] if self.fitting is None else self.fitting.ridges
        if self.fitting is None or not isinstance(ridge, Real) or ridge not in known:
            raise DataError(f"This machine was fitted with the ridges {known}, and {what_came(ridge)} is none of them. "
                            "Pass one of these, or fit with ridge=[...].")
        if ridge == self.fitting.ridge:
            return self
        return self._with(self.fitting, known.index(float(ridge)))

    @property
    def plan(self) -> Plan | None:
        """How it was decided to fit the machine, and why; ``None`` if it was not fitted."""
        return None if self.fitting is None else Plan(**self.fitting.plan)

    # -- what can be made of machines --------------------------------------------------------------------------------

    def __add__(self, other: KernelMachine) -> KernelMachine:
        if not isinstance(other, KernelMachine):
            return NotImplemented
        if not same(self.kernel, other.kernel):
            raise DataError(f"The sum of a machine of {self.kernel!r} and one of {other.kernel!r} is no machine of one "
                            "kernel. Add what they give, f(x) + g(x).")
        if self.coefficients.shape[1:] != other.coefficients.shape[1:]:
            raise DataError(f"Machines are added output by output: one has coefficients of shape "
                            f"{tuple(self.coefficients.shape)}, the other {tuple(other.coefficients.shape)}. Fit both "
                            "with targets of one shape.")
        intercept = self.intercept + other.intercept
        if equal(self.centers, other.centers):
            return KernelMachine(self.kernel, self.centers, self.coefficients + other.coefficients, intercept)
        return KernelMachine(self.kernel, joined(self.centers, other.centers),
                             torch.cat([self.coefficients, other.coefficients]), intercept)

    def __mul__(self, factor: Real | float) -> KernelMachine:
        if not isinstance(factor, Real):
            return NotImplemented
        a = float(factor)
        return KernelMachine(self.kernel, self.centers, a * self.coefficients, a * self.intercept)

    __rmul__ = __mul__

    def __truediv__(self, factor: Real | float) -> KernelMachine:
        if isinstance(factor, Real) and not factor:
            raise DataError("A machine is divided by a number other than nought; 0 came. Look at where it comes from.")
        return self * (1 / float(factor)) if isinstance(factor, Real) else NotImplemented

    def __neg__(self) -> KernelMachine:
        return self * -1.0

    def __sub__(self, other: KernelMachine) -> KernelMachine:
        return self + -other if isinstance(other, KernelMachine) else NotImplemented

    # -- on the disk -------------------------------------------------------------------------------------------------

    def save(self, path: str | os.PathLike[str], overwrite: bool = False) -> Path:
        """Keeps the machine in the folder ``path``: its kernel in words, its tensors with their checksums.

        Args:
            path: The folder.
            overwrite: Whether a machine that is there already is replaced.

        Raises:
            StoreExists: If there is something already.
        """
        return keeping.save(self, path, overwrite)

    @classmethod
    def load(cls, path: str | os.PathLike[str], kernel: Kernel | None = None) -> KernelMachine:
        """Opens a saved machine; every checksum is verified and nothing is ever unpickled.

        Args:
            path: The folder.
            kernel: The kernel; needed where it holds more than numbers, such as the model of a tangent kernel.

        Raises:
            DataError: If the kernel is needed and missing, or is not the one the machine was saved with.
            StoreCorrupt: If the folder does not hold what was written.
        """
        return keeping.load(cls, path, kernel)

    def __getstate__(self) -> dict[str, Any]:
        # Points hold the function that reads them, which cannot be sent to another process.
        return {name: value for name, value in self.__dict__.items() if name != "_points"}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state, _points=state["kernel"].points(state["centers"]))

    def _with(self, fitting: Fitting, place: int) -> KernelMachine:
        """The machine of one of the ridges."""
        alpha, b = fitting.solution(place)
        single = self.coefficients.ndim == 1
        return KernelMachine(self.kernel, self.centers, alpha[:, 0] if single else alpha, b[0] if single else b,
                             fitting=fitting.choosing(place))


def _checked(coefficients: Any, p: int) -> Tensor:
    if not isinstance(coefficients, Tensor) or not coefficients.is_floating_point():
        raise DataError(f"Coefficients are a tensor of real numbers; {what_came(coefficients)} came. Pass shape ({p},) "
                        f"or ({p}, c).")
    if coefficients.ndim not in (1, 2) or len(coefficients) != p:
        raise DataError(f"A machine needs one coefficient for each of its {p} centers; shape "
                        f"{tuple(coefficients.shape)} came. Pass shape ({p},) or ({p}, c).")
    if not bool(coefficients.isfinite().all()):
        raise NonFiniteError("A coefficient is NaN or infinite, and every value of the machine would be. Look at where "
                             "they come from.")
    return coefficients.detach().clone()


def _constant(intercept: Tensor | None, coefficients: Tensor) -> Tensor:
    if intercept is None:
        return coefficients.new_zeros(coefficients.shape[1:])
    b = torch.as_tensor(intercept).detach().to(coefficients)
    if b.shape != coefficients.shape[1:]:
        raise DataError(f"The intercept has one number for each output, shape {tuple(coefficients.shape[1:])}; shape "
                        f"{tuple(b.shape)} came. Leave it out for none.")
    if not bool(b.isfinite().all()):
        raise NonFiniteError("The intercept is NaN or infinite. Look at where it comes from.")
    return b.clone()

