r"""The waves of any activation on the range that its inputs have, by least squares.

No continuous spectrum has to be sampled: over a range, a few frequencies are nearer to a function than any quadrature
of its transform, and what their random features would vary by is part of what is minimised.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from ..arguments import as_choice, as_count, as_positive, what_came
from ..errors import DataError, NonFiniteError
from .spectra import ACTIVATIONS, EXACT, LEAST, LineSpectrum

#: How often shares of features and amplitudes are found from each other.
ROUNDS = 60

#: By how much half a period exceeds the largest number that was seen.
BEYOND = 1.1

#: Second moments are capped here: their exponential is a number still.
MOST = 300.0


def spectrum_of(name: str, radius: float | None = None, terms: int = 8) -> LineSpectrum:
    r"""The waves of an activation: exactly for cos, sin and the identity, else on :math:`|z| \le R`.

    Args:
        name: A name in ``ACTIVATIONS``, such as ``"tanh"``.
        radius: The radius R of the range that z has; not needed for cos, sin and the identity.
        terms: How many frequencies, for those that are fitted to the range.

    Raises:
        DataError: If the name is not known, or a radius is needed.

    Example:
        >>> z = torch.linspace(-2, 2, 100)
        >>> (spectrum_of("tanh", radius=2.0)(z) - z.tanh()).abs().max() < 1e-4
        tensor(True)
    """
    if as_choice(name, "name", ACTIVATIONS) in EXACT:
        return EXACT[name]
    if radius is None:
        raise DataError(f"{name} is a sum of waves over a range only. Pass radius=, the largest |w.x + b| there is.")
    return fit_spectrum(name, torch.linspace(-1, 1, 1001, dtype=torch.float64) * as_positive(radius, "radius"), terms)


def fit_spectrum(function: str | Callable[[Tensor], Tensor], z: Tensor, terms: int = 8, *, radius: float | None = None,
                 log_variances: Callable[[Tensor], Tensor] | None = None, features: int | None = None) -> LineSpectrum:
    r"""The constant, slope and waves that are nearest to a function on given numbers, less what their features vary.

    With frequencies :math:`\kappa_k = k \pi / R`, of all functions of this form it has the least

    .. math:: \frac1n \sum_i \big(f(z_i) - \hat f(z_i)\big)^2 + \frac{1}{2m} \Big(\sum_k |a_k| \sqrt{V_k}\Big)^2,

    the squared error plus the variance of m random features shared among the waves in the best way. It is found by
    turns: shares :math:`m_k \propto |a_k| \sqrt{V_k}` from amplitudes, and amplitudes from shares by ridge regression.

    Args:
        function: A name in ``ACTIVATIONS``, or any function of a tensor, also a learned one.
        z: The numbers :math:`w \cdot x + b` where it is needed; a sample of them is enough.
        terms: How many frequencies.
        radius: The radius R; without it, ``BEYOND`` times the largest :math:`|z|`.
        log_variances: From frequencies to :math:`\ln V_k`, such as ``log_variance_factor(kappa * r, d)``; without it,
            nothing is taken off.
        features: How many features m there are, with ``log_variances``.

    Raises:
        DataError: If an argument is missing or does not fit.
        NonFiniteError: If the function is not finite there.

    Example:
        >>> z = torch.linspace(-3, 3, 200)
        >>> found = fit_spectrum("relu", z, terms=6)
        >>> found
        LineSpectrum(relu: 6 frequencies up to 5.712, constant 0.82, slope 0.5)
        >>> (found(z) - z.relu()).abs().max() < 0.05
        tensor(True)
    """
    place, z, terms = getattr(z, "device", None), _range(z), as_count(terms, "terms", 1)
    name = as_choice(function, "function", ACTIVATIONS) if isinstance(function, str) else None
    values = (ACTIVATIONS[name] if name is not None else function)(z.to(place))  # type: ignore[operator]
    if not isinstance(values, Tensor) or values.shape != z.shape or not bool(values.isfinite().all()):
        raise NonFiniteError("The function must give one finite number for each z. Check it there, or leave such z "
                             "out.")
    if (log_variances is None) != (features is None):
        raise DataError("The variance of features takes both log_variances and features. Pass both, or neither.")
    reach = BEYOND * float(z.abs().max()) if radius is None else as_positive(radius, "radius")
    kappa = math.pi / reach * torch.arange(1, terms + 1, dtype=torch.float64)
    columns = torch.cat([torch.ones_like(z)[:, None], z[:, None], (z[:, None] * kappa).cos(),
                         (z[:, None] * kappa).sin()], 1)
    values = values.double().cpu()
    weights = _amplitudes(columns, values, kappa, log_variances, features)
    cosine, sine = weights[2:2 + terms], weights[2 + terms:]
    heights = torch.hypot(cosine, sine)
    # Where a line is all there is, what waves have is rounding.
    heights = torch.where(heights < LEAST * values.abs().max(), 0.0, heights)
    return LineSpectrum(float(weights[0]), float(weights[1]), tuple(kappa.tolist()), tuple(heights.tolist()),
                        tuple(torch.atan2(-sine, cosine).tolist()), name).without_small()


def _amplitudes(columns: Tensor, values: Tensor, kappa: Tensor, log_variances: Any, features: int | None) -> Tensor:
    """The weights of the constant, the slope, the cosines and the sines."""
    n, terms = len(columns), len(kappa)
    if log_variances is None:
        return torch.linalg.lstsq(columns, values[:, None], driver="gelsd").solution[:, 0]
    half = log_variances(kappa).double().clamp(max=MOST) / 2
    shares = torch.full((terms,), 1 / terms, dtype=torch.float64)
    gram, moment = columns.T @ columns / n, columns.T @ values / n
    weights = torch.zeros(len(gram), dtype=torch.float64)
    for _ in range(ROUNDS):
        penalty = (2 * half).exp() / (2 * as_count(features, "features", 1) * shares)
        # Divided by the root of its penalty a column needs a penalty of 1, however large that was.
        scale = torch.cat([torch.ones(2, dtype=torch.float64), (1 + penalty.repeat(2)).rsqrt()])
        rest = torch.cat([torch.zeros(2, dtype=torch.float64), penalty.repeat(2)]) * scale.square()
        system = scale[:, None] * gram * scale + torch.diag(rest)
        weights = scale * torch.linalg.lstsq(system, (scale * moment)[:, None], driver="gelsd").solution[:, 0]
        heights = torch.hypot(weights[2:2 + terms], weights[2 + terms:]) * half.exp()
        if not bool(heights.sum() > 0):
            break
        shares = (heights / heights.sum()).clamp(min=LEAST)
    return weights


def _range(z: Any) -> Tensor:
    if not isinstance(z, Tensor) or not z.numel() or z.is_complex():
        raise DataError(f"z must be a tensor of at least one real number; {what_came(z)} came. Pass x @ W.T + b.")
    flat = z.detach().double().flatten().cpu()
    if not bool(flat.isfinite().all()):
        raise NonFiniteError("z holds NaN or an infinite value. Remove such numbers, or mend them.")
    if not bool(flat.any()):
        raise DataError("All z are 0, where every function is a constant. Pass the numbers that the layer sees.")
    return flat
