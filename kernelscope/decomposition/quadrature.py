r"""The average of the query's gradient along one step.

The step kernel is exact when the query side is the average

.. math:: \bar\phi_k(x) = \int_0^1 \nabla_\theta f(x; \theta_k + s D_k)\,ds, \qquad D_k = \theta_{k+1} - \theta_k.

A rule evaluates the gradient at some nodes. Its global error is of order 1 in the step length at the left end, 2 at the
midpoint, 2m with m Gauss-Legendre nodes. Gonzalez' discrete gradient corrects the midpoint along the step so that
:math:`\langle\tilde\phi_k, D_k\rangle = f_{k+1} - f_k` to the last digit, and is the default; with M in its name
it corrects M Gauss-Legendre nodes likewise.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

import numpy as np

from ..arguments import what_came
from ..errors import DataError


@dataclass(frozen=True)
class Quadrature:
    """Nodes in [0, 1], their weights, and whether the sum is corrected to be complete.

    Example:
        >>> Quadrature.parse("gauss2").nodes
        (0.2113248654051..., 0.7886751345948...)
    """

    name: str
    nodes: tuple[float, ...]
    weights: tuple[float, ...]
    corrected: bool = False

    @classmethod
    def parse(cls, name: str) -> Quadrature:
        """The rule called ``"left"``, ``"midpoint"``, ``"gaussM"`` (M nodes), ``"gonzalez"`` or ``"gonzalezM"``."""
        if isinstance(name, str) and name == "left":
            return cls(name, (0.0,), (1.0,))
        if isinstance(name, str) and name in ("midpoint", "gonzalez"):
            return cls(name, (0.5,), (1.0,), corrected=name == "gonzalez")
        gauss = re.fullmatch(r"(gauss|gonzalez)([1-9]\d?)", str(name))
        if gauss:
            nodes, weights = np.polynomial.legendre.leggauss(int(gauss[2]))
            return cls(name, tuple(((nodes + 1) / 2).tolist()), tuple((weights / 2).tolist()),
                       corrected=gauss[1] == "gonzalez")
        raise DataError(
            'quadrature must be "gonzalez", "midpoint", "left", or "gaussM" or "gonzalezM" with M from 1 to 99; '
            f'{what_came(name)} came. "gonzalez" is complete to the last digit at the cost of one gradient a step.'
        )
