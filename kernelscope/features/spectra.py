r"""Activations as sums of waves: a constant, a slope and cosines.

.. math:: f(z) = c_0 + c_1 z + \sum_k a_k \cos(\kappa_k z + \varphi_k)

A few functions are such sums (cos, sin), and on a range :math:`|z| \le R` every continuous one nearly is.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from numbers import Real
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from ..arguments import as_count, as_positive, what_came
from ..errors import DataError

#: Amplitudes below this share of the largest are left out.
LEAST = 1e-9


@dataclass(frozen=True)
class LineSpectrum:
    r"""A function of a number as a constant, a slope and waves.

    .. math:: f(z) = c_0 + c_1 z + \sum_k a_k \cos(\kappa_k z + \varphi_k)

    Args:
        constant: The constant :math:`c_0`.
        slope: The slope :math:`c_1`.
        frequencies: The frequencies :math:`\kappa_k > 0`, in radians.
        amplitudes: The amplitudes :math:`a_k`.
        phases: The phases :math:`\varphi_k`.
        name: The activation that it stands for, if it has a name.

    Raises:
        DataError: If there are not as many of each, or a frequency is not positive.

    Example:
        >>> EXACT["sin"](torch.tensor([math.pi / 6, math.pi / 2]))
        tensor([0.5000, 1.0000])
        >>> EXACT["sin"]
        LineSpectrum(sin: 1 frequency up to 1, constant 0, slope 0)
    """

    constant: float = 0.0
    slope: float = 0.0
    frequencies: tuple[float, ...] = ()
    amplitudes: tuple[float, ...] = ()
    phases: tuple[float, ...] = ()
    name: str | None = None

    def __post_init__(self) -> None:
        parts = [_numbers(getattr(self, part), part) for part in ("frequencies", "amplitudes", "phases")]
        for part, numbers in zip(("frequencies", "amplitudes", "phases"), parts, strict=True):
            object.__setattr__(self, part, numbers)
        for part in ("constant", "slope"):
            object.__setattr__(self, part, _numbers([getattr(self, part)], part)[0])
        if len({len(numbers) for numbers in parts}) > 1:
            raise DataError(f"Each wave has a frequency, an amplitude and a phase; {len(parts[0])} frequencies, "
                            f"{len(parts[1])} amplitudes and {len(parts[2])} phases came. Pass as many of each.")
        if any(kappa <= 0 for kappa in parts[0]):
            raise DataError(f"Frequencies must be positive; {min(parts[0]):g} came. A wave of frequency 0 is a part of "
                            "the constant, one of a negative frequency is that of the positive one with phase -phi.")

    def __repr__(self) -> str:
        count = len(self.frequencies)
        waves = "no waves" if not count else (
            f"{count} frequenc{'y' if count == 1 else 'ies'} up to {max(self.frequencies):.4g}")
        return (f"LineSpectrum({'' if self.name is None else self.name + ': '}{waves}, constant {self.constant:.4g}, "
                f"slope {self.slope:.4g})")

    def __call__(self, z: Tensor) -> Tensor:
        """The function, with the shape of z."""
        found = self.constant + self.slope * z
        for kappa, amplitude, phase in zip(self.frequencies, self.amplitudes, self.phases, strict=True):
            found = found + amplitude * (kappa * z + phase).cos()
        return found

    @property
    def mass(self) -> float:
        r"""The sum of absolute amplitudes, :math:`\sum_k |a_k|`."""
        return sum(abs(amplitude) for amplitude in self.amplitudes)

    def without_small(self, least: float = LEAST) -> LineSpectrum:
        """The same without the waves whose amplitude is less than a share of the largest."""
        largest = max((abs(amplitude) for amplitude in self.amplitudes), default=0.0)
        kept = [k for k, amplitude in enumerate(self.amplitudes) if amplitude and abs(amplitude) >= least * largest]
        return LineSpectrum(self.constant, self.slope, tuple(self.frequencies[k] for k in kept),
                        tuple(self.amplitudes[k] for k in kept), tuple(self.phases[k] for k in kept), self.name)


def relu_spectrum(radius: float, terms: int) -> LineSpectrum:
    r"""The ReLU on :math:`|z| \le R` as its Fourier series.

    .. math:: \max(0, z) = \frac R4 + \frac z2 - \frac{2R}{\pi^2} \sum_{k = 1, 3, \ldots} \frac{\cos(k \pi z / R)}{k^2}

    Args:
        radius: The radius R.
        terms: How many odd k.

    Example:
        >>> relu_spectrum(1.0, 1000)(torch.tensor([0.25, 0.5]))
        tensor([0.2500, 0.5000])
    """
    radius, terms = as_positive(radius, "radius"), as_count(terms, "terms", 1)
    odd = [2 * k + 1 for k in range(terms)]
    return LineSpectrum(radius / 4, 0.5, tuple(k * math.pi / radius for k in odd),
                    tuple(-2 * radius / (math.pi * k) ** 2 for k in odd), (0.0,) * terms, "relu")


def _numbers(values: Any, name: str) -> tuple[float, ...]:
    if isinstance(values, Tensor):
        values = values.tolist()
    if not isinstance(values, Sequence) or isinstance(values, str):
        raise DataError(f"{name} must be a list of numbers; {what_came(values)} came. Pass for example {name}=(1.0,).")
    found = tuple(float(value) if isinstance(value, Real) else math.nan for value in values)
    if not all(math.isfinite(value) for value in found):
        raise DataError(f"Each of {name} must be a finite number. Leave the others out.")
    return found


#: Activations that are a few waves, exactly.
EXACT = {
    "cos": LineSpectrum(0.0, 0.0, (1.0,), (1.0,), (0.0,), "cos"),
    "sin": LineSpectrum(0.0, 0.0, (1.0,), (1.0,), (-math.pi / 2,), "sin"),
    "identity": LineSpectrum(0.0, 1.0, name="identity"),
}

#: Activations by name, as functions of tensors.
ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "cos": torch.cos, "sin": torch.sin, "identity": lambda z: z,
    "gaussian": lambda z: (-z.square() / 2).exp(), "sech": lambda z: 1 / z.cosh(), "sech2": lambda z: z.cosh() ** -2,
    "tanh": torch.tanh, "sigmoid": torch.sigmoid, "erf": lambda z: torch.erf(z / math.sqrt(2)),
    "softplus": F.softplus, "gelu": F.gelu, "silu": F.silu, "relu": torch.relu,
}
