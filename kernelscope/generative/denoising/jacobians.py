r"""The geometry of a denoiser's Jacobian :math:`J = \nabla_y D(y, \sigma)`: what it keeps of a noisy point, and where.

A denoiser that is the mean of clean points given a noisy one has a symmetric J with eigenvalues from 0 on: it shrinks
the noisy point in a basis of its own. Their sum counts the directions that it lets pass; what J has off its symmetric
part cannot come from any such mean; how far from a pixel its entries are says how local it is.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from ...arguments import as_choice, as_count, as_seed
from ...errors import DataError
from ...progress import counting
from ...result import Check, CheckRow, Result
from ...text import with_minus
from .closed_forms import OptimalDenoiser, WienerDenoiser
from .closed_forms.points import rows
from .functions import DRAWS, DenoiserFunction, as_denoiser, as_levels, as_points, noised

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["JacobianGeometry", "jacobian_geometry"]

#: Up to how many numbers of a point all rows of J are taken.
EXACT = 64

#: A sum of squares below this is that of no Jacobian at all, such as that of the optimal denoiser at a training point.
NOTHING = 1e-20

#: What is measured, in the order of the table.
MEASURES = ("trace", "participation", "asymmetry", "radius")

#: The closed forms and the network before training, which each number is read beside.
NULLS = ("Wiener", "optimal", "untrained")


@dataclass(frozen=True, eq=False, repr=False)
class JacobianGeometry(Result):
    r"""What Jacobians of denoisers are like, per noise level.

    Attributes:
        names: The denoisers, those asked about first, then the nulls.
        levels: The noise levels, ascending, with shape (k,).
        means: For each measure its mean over the points, with shape (names, k): ``"trace"``, the effective degrees of
            freedom :math:`\mathrm{tr} J`; ``"participation"``, :math:`(\sum s^2)^2 / \sum s^4` of the singular values
            s; ``"asymmetry"``, :math:`|J - J^T| / |J + J^T|`; ``"radius"``, :math:`\sum |J_{pq}|^2 \mathrm{dist}(p, q)
            / \sum |J_{pq}|^2` in pixels. NaN where J is 0, and the radius where points are no images.
        errors: Their standard errors over the points (and probes, where there are any).
        singular: The singular values, descending, means over the points, with shape (names, k, d); empty with probes.
        eigenvalues: Those of the symmetric part of J, descending, likewise.
        info: Facts to print.
    """

    names: list[str]
    levels: Tensor
    means: dict[str, Tensor]
    errors: dict[str, Tensor]
    singular: Tensor
    eigenvalues: Tensor
    info: dict[str, Any] = field(default_factory=dict)

    @property
    def asked(self) -> list[str]:
        """The denoisers that are no nulls."""
        return [name for name in self.names if name not in NULLS]

    def of(self, name: str, measure: str) -> Tensor:
        """One measure of one denoiser at each level, with shape (k,).

        Raises:
            DataError: If there is no such denoiser or measure.
        """
        as_choice(measure, "measure", MEASURES)
        if name not in self.names:
            raise DataError(f"There is no denoiser {name!r}. There are {', '.join(self.names)}.")
        return self.means[measure][self.names.index(name)]

    def said(self) -> str:
        """The course of each measure of the denoisers asked about, in words."""
        low, high = float(self.levels[0]), float(self.levels[-1])
        parts = []
        for name in self.asked:
            found = [f"{what} {float(self.of(name, measure)[0]):.3g} to {float(self.of(name, measure)[-1]):.3g}{unit}"
                     for measure, what, unit in (("trace", "degrees of freedom", ""), ("asymmetry", "asymmetry", ""),
                                                 ("radius", "radius", " px"))
                     if not math.isnan(float(self.of(name, measure)[0]))]
            parts.append(f"{name} has {', '.join(found)}")
        return with_minus(f"from noise {low:.3g} to {high:.3g} {'; '.join(parts)}")

    def summary(self) -> str:
        """The answer in one sentence."""
        return (f"JacobianGeometry({self.info['points']} points, {self.info['draws']} draws, {self.info['how']}: "
                f"{self.said()})")

    def to_frame(self) -> pd.DataFrame:
        """One row for each denoiser and noise level, with each measure and its standard error."""
        import pandas as pd

        return pd.DataFrame([
            {"denoiser": name, "sigma": sigma, **{key: float(values[i, k]) for measure in MEASURES for key, values in
                                                  ((measure, self.means[measure]),
                                                   (f"{measure} error", self.errors[measure]))}}
            for i, name in enumerate(self.names) for k, sigma in enumerate(self.levels.tolist())])

    def check(self) -> Check:
        """Whether each denoiser could be the mean of clean points, and lets no more pass than the Wiener denoiser."""
        rows = []
        for name in self.asked:
            worst = float(self.of(name, "asymmetry").max())
            rows.append(CheckRow(f"symmetry of {name}", "pass" if worst <= 0.1 else "warn", worst, 0.1, (
                f"The Jacobian of {name} is up to {worst:.3f} asymmetric; that of a mean of clean points is 0.")))
            if "Wiener" in self.names:
                excess = float((self.of(name, "trace") / self.of("Wiener", "trace")).max())
                rows.append(CheckRow(f"freedom of {name}", "pass" if excess <= 1.5 else "warn", excess, 1.5, (
                    f"{name} lets up to {excess:.2f} times as many directions pass as the Wiener denoiser.")))
        return Check(tuple(rows))


def jacobian_geometry(denoiser: Any, x: Tensor, levels: Sequence[float] | Tensor = (0.05, 0.2, 1.0, 5.0), *,
                      train: Tensor | None = None, nulls: bool = True, probes: int | None = None,
                      side: int | None = None, channels: int = 1, draws: str = "paired",
                      seed: int = 0) -> JacobianGeometry:
    r"""Measures the Jacobian of a denoiser by the noisy point, at noisy versions of clean points.

    With at most 64 numbers in a point all rows of J are taken. With more, ``probes`` random signs v give
    :math:`\mathrm{tr} J = E\, v^T J v`, :math:`|J|^2 = E |J v|^2`, :math:`\mathrm{tr} J^2 = E\, (J^T v)^T J v` and
    :math:`\sum s^4 = E |J^T J v|^2`, and as many random rows give the radius.

    Args:
        denoiser: A run of a denoiser, a module with ``denoised``, a function (y, sigma) -> D, or several by name.
        x: Clean points, with shape (q, \*).
        levels: Noise levels.
        train: The clean training points, for the closed forms; by default those of the run.
        nulls: Whether to measure the Wiener denoiser, the optimal one and the network before training too, as far as
            they are known.
        probes: How many random signs; by default none up to 64 numbers in a point, and 32 with more.
        side: The height and width of an image; by default the root of its size, and no radius where that is not whole.
        channels: The number of channels.
        draws: ``"paired"`` takes the same points and noise at all levels, ``"independent"`` others at each.
        seed: What the noise and the probes begin with.

    Returns:
        The :class:`JacobianGeometry`.

    Raises:
        DataError: If shapes do not go together, or the denoiser has no gradient.

    References:
        | Generalization in diffusion models arises from geometry-adaptive harmonic representations (Kadkhodaie et al.,
          2024), section 3

    Example:
        >>> x = torch.randn(40, 4, generator=torch.Generator().manual_seed(0))
        >>> found = jacobian_geometry({"half": lambda y, sigma: y / 2}, x[:5], [0.1, 1.0])
        >>> found.of("half", "trace").tolist(), found.of("half", "radius").tolist()
        ([2.0, 2.0], [0.0, 0.0])
    """
    named = dict(denoiser) if isinstance(denoiser, Mapping) else {"network": denoiser}
    asked = {str(name): as_denoiser(value) for name, value in named.items()}
    if not asked or any(name in NULLS for name in asked):
        raise DataError(f"Denoisers are given by names other than {', '.join(NULLS)}, at least one; "
                        f"{', '.join(asked) or 'none'} came. Pass for example {{'network': run}}.")
    x, noise = as_points(x, "The points"), as_levels(levels)
    draws, seed = as_choice(draws, "draws", DRAWS), as_seed(seed)
    d, channels = x[0].numel(), as_count(channels, "channels", least=1)
    probes = (32 if d > EXACT else 0) if probes is None else as_count(probes, "probes", least=2)
    if nulls:
        asked |= _nulls(asked, train)
    distances = _distances(d, side, channels)
    shape = len(asked), len(noise)
    means, errors = ({name: torch.full(shape, torch.nan, dtype=torch.float64) for name in MEASURES} for _ in range(2))
    singular, eigenvalues = (torch.zeros(*shape, 0 if probes else d, dtype=torch.float64) for _ in range(2))
    with counting(len(asked) * len(noise), "Jacobians", "denoiser and level") as done:
        for k, (_, y) in enumerate(noised(x, noise, draws, seed)):
            sigma = noise[k].expand(len(y))
            for i, of in enumerate(asked.values()):
                if probes:
                    found = _estimated(of, y, sigma, distances, probes, seed)
                else:
                    J = (rows(of.denoise, y, sigma) if of.jacobian is None else of.jacobian(y, sigma)).double()
                    found = _measured(J, distances)
                    singular[i, k] = torch.linalg.svdvals(J).mean(0)
                    eigenvalues[i, k] = torch.linalg.eigvalsh((J + J.mT) / 2).flip(1).mean(0)
                for name, (mean, error) in found.items():
                    means[name][i, k], errors[name][i, k] = mean, error
                done(1)
    how = f"{probes} random signs" if probes else "all rows"
    return JacobianGeometry(list(asked), noise, means, errors, singular, eigenvalues,
                            {"points": len(x), "draws": draws, "how": how, "seed": seed, "d": d})


def _nulls(asked: dict[str, DenoiserFunction], train: Tensor | None) -> dict[str, DenoiserFunction]:
    first = next(iter(asked.values()))
    clean = first.clean if train is None else as_points(train, "The training points")
    found = {}
    if clean is not None:
        for name, form in (("Wiener", WienerDenoiser(clean)), ("optimal", OptimalDenoiser(clean))):
            found[name] = DenoiserFunction(form, jacobian=form.jacobian)
    if first.untrained is not None:
        found["untrained"] = DenoiserFunction(first.untrained)
    return found


def _distances(d: int, side: int | None, channels: int) -> Tensor | None:
    """How far pixels are from each other, with shape (d, d); none where points are no square images."""
    wide = math.isqrt(d // channels) if side is None else as_count(side, "side", least=1)
    if wide**2 * channels != d:
        if side is None:
            return None
        raise DataError(f"Points of {d} numbers are no images of {channels} x {side} x {side}. Pass side and channels "
                        "of the images, which must be square.")
    at = torch.arange(wide, dtype=torch.float64)
    places = torch.stack(torch.meshgrid(at, at, indexing="ij"), dim=-1).reshape(-1, 2).repeat(channels, 1)
    return torch.cdist(places, places)


def _measured(J: Tensor, distances: Tensor | None) -> dict[str, tuple[float, float]]:
    """Each measure of Jacobians with shape (q, d, d)."""
    squares = torch.linalg.svdvals(J).square()
    found = {
        "trace": J.diagonal(dim1=1, dim2=2).sum(1),
        "participation": squares.sum(1).square() / squares.square().sum(1),
        "asymmetry": torch.linalg.matrix_norm(J - J.mT) / torch.linalg.matrix_norm(J + J.mT),
    }
    whole = squares.sum(1)
    if distances is not None:
        found["radius"] = (J.square() * distances).sum((1, 2)) / whole
    return _averaged(found, whole)


def _estimated(of: DenoiserFunction, y: Tensor, sigma: Tensor, distances: Tensor | None, probes: int,
               seed: int) -> dict[str, tuple[float, float]]:
    """Each measure from random signs and random rows, a ratio being that of means over the signs at each point."""
    pull, push = _products(of.denoise, y, sigma)
    generator = torch.Generator().manual_seed(seed)
    d = y[0].numel()
    sums = torch.zeros(4, len(y), dtype=torch.float64)
    for _ in range(probes):
        v = (torch.randint(0, 2, (len(y), d), generator=generator).to(y) * 2 - 1)
        Jv, back = push(v), pull(v)
        fourth = pull(Jv).square().sum(1)
        sums += torch.stack([(v * Jv).sum(1), Jv.square().sum(1), (back * Jv).sum(1), fourth]).double() / probes
    trace, square, of_square, fourth = sums
    # |J -+ J^T|^2 = 2 |J|^2 -+ 2 tr J^2; by chance an estimate may fall below 0.
    asymmetry = ((square - of_square).clamp(min=0) / (square + of_square).clamp(min=NOTHING)).sqrt()
    found = {"trace": trace, "participation": square.square() / fourth, "asymmetry": asymmetry}
    if distances is not None:
        weighed, whole = torch.zeros(len(y), dtype=torch.float64), torch.zeros(len(y), dtype=torch.float64)
        for row in torch.randperm(d, generator=generator)[:probes].tolist():
            entries = pull(torch.eye(d, dtype=y.dtype)[row].expand(len(y), d)).square().double()
            weighed, whole = weighed + entries @ distances[row], whole + entries.sum(1)
        found["radius"] = weighed / whole.clamp(min=NOTHING)
    return _averaged(found, square)


def _averaged(found: dict[str, Tensor], whole: Tensor) -> dict[str, tuple[float, float]]:
    """Each measure over the points, but for the ratios where all entries of J together are 0."""
    there = whole > NOTHING
    return {name: _over_points(values if name == "trace" else values[there]) for name, values in found.items()}


def _products(denoise: Callable[[Tensor, Tensor], Tensor], y: Tensor,
              sigma: Tensor) -> tuple[Callable[[Tensor], Tensor], Callable[[Tensor], Tensor]]:
    """From v to J^T v and to J v at each point: the second is the gradient of the first, which is linear in v."""
    with torch.enable_grad():
        at = y.detach().requires_grad_()
        given = denoise(at, sigma)
        if not given.requires_grad or given.shape != y.shape:
            raise DataError("The denoiser must give one point for each, with a gradient. Pass a function (y, sigma) "
                            "-> D that is computed by torch, not under torch.no_grad().")
        free = torch.zeros_like(given).requires_grad_()
        back, = torch.autograd.grad(given, at, free, create_graph=True)

    def pull(v: Tensor) -> Tensor:
        return torch.autograd.grad(given, at, v.view_as(given), retain_graph=True)[0].flatten(1)

    def push(v: Tensor) -> Tensor:
        return torch.autograd.grad(back, free, v.view_as(back), retain_graph=True)[0].flatten(1)

    return pull, push


def _over_points(values: Tensor) -> tuple[float, float]:
    """The mean with its standard error; a ratio of a Jacobian that is 0 has no value."""
    values = values[values.isfinite()]
    error = float(values.std() / len(values) ** 0.5) if len(values) > 1 else float("nan")
    return float(values.mean()), error
