"""F20: what single precision changes of the public numbers."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import cache, partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

import kernelscope as ks

from ..judging import Case, Cases
from ..row import Silent
from ..subjects import classes, network, points, trained

SINGLE, DOUBLE = torch.float32, torch.float64

#: By how much of its largest entry a quantity may change: some hundred roundings of a sum of products; a solution with
#: a condition of up to 1e3; and a number that takes eigenvectors, or many steps, in single precision.
SUM, SOLVED, FAR = 2e-5, 2e-3, 2e-2

Quantity = Callable[[torch.dtype], Tensor]


def _x(dtype: torch.dtype, seed: int = 0) -> Tensor:
    return points(seed=seed).to(dtype)


def _y(dtype: torch.dtype) -> Tensor:
    return points()[:, 0].sin().to(dtype)


@cache
def _run(dtype: torch.dtype) -> ks.Run:
    return trained(_x(dtype), classes(), network(dtype))


def _machine(dtype: torch.dtype, **options: Any) -> Any:
    return ks.fit(ks.kernels.Laplacian(1.0), _x(dtype), _y(dtype), **{"ridge": 1e-2, "progress": False, **options})


def _scores(dtype: torch.dtype, **options: Any) -> Tensor:
    model = network(dtype)
    return ks.gradient_scores(model, (_x(dtype, 2), classes()), (_x(dtype), classes()), loss=F.cross_entropy,
                              **options).scores


def _block(kernel: ks.kernels.Kernel, dtype: torch.dtype) -> Tensor:
    return kernel(_x(dtype), _x(dtype, 3))


def _closed_forms() -> dict[str, Quantity]:
    k = ks.kernels
    kernels = {"Gaussian": k.Gaussian(1.0), "Laplacian": k.Laplacian(1.0), "Matern 1.5": k.Matern(1.5, 1.0),
               "Matern 2.5": k.Matern(2.5, 1.0), "Cauchy": k.Cauchy(1.0),
               "RationalQuadratic": k.RationalQuadratic(1.0, 1.0), "Polynomial": k.Polynomial(),
               "Cosine": k.Cosine(), "ArcCosine 0": k.ArcCosine(0),
               "ArcCosine 1": k.ArcCosine(1), "ReLUNTK": k.ReLUNTK(), "Dispersal": k.Dispersal(1.0, 1.0)}
    return {name: partial(_block, kernel) for name, kernel in kernels.items()}


def _quantities() -> dict[str, tuple[Quantity, float]]:
    """Forty public numbers and how far they may move."""
    net = _infinite()
    ledger = lambda t: ks.decompose(_run(t), _x(t, 3)[:2])
    found: dict[str, tuple[Quantity, float]] = {name: (ask, 2e-3 if name == "ArcCosine 0" else SUM)
                                                for name, ask in _closed_forms().items()}
    return found | {
        "infinite ntk": (lambda t: net.ntk(_x(t), _x(t, 3)), SUM),
        "infinite nngp": (lambda t: net.nngp(_x(t), _x(t, 3)), SUM),
        "Tangent": (lambda t: ks.kernels.Tangent(network(t))(_x(t)), SUM),
        "Tangent, full": (lambda t: ks.kernels.Tangent(network(t), outputs="full")(_x(t)), SUM),
        "Tangent, cosines": (lambda t: ks.kernels.Tangent(network(t), cosine=True)(_x(t)), SUM),
        "Tangent, diagonal": (lambda t: ks.kernels.Tangent(network(t)).diagonal(_x(t)), SUM),
        "gradient scores": (_scores, 1e-4),
        "gradient scores, cosines": (lambda t: _scores(t, cosine=True), 1e-4),
        "operator product": (lambda t: _operator(t) @ _y(t), SUM),
        "operator norm": (lambda t: torch.tensor(_operator(t).norm().value), SUM),
        "operator trace": (lambda t: torch.tensor(_operator(t).trace().value), SUM),
        "largest eigenvalues": (lambda t: _operator(t).eigenpairs(3).values, 1e-4),
        "spectrum": (lambda t: ks.spectrum(ks.kernels.Gaussian(1.0), _x(t)).values, 1e-4),
        "median bandwidth": (lambda t: torch.tensor(ks.kernels.median_bandwidth(_x(t))), SUM),
        "direct fit": (lambda t: _machine(t, solver="direct")(_x(t, 3)), SOLVED),
        "cg fit": (lambda t: _machine(t, solver="cg")(_x(t, 3)), SOLVED),
        "fit with centers": (lambda t: _machine(t, centers=_x(t)[:6])(_x(t, 3)), SOLVED),
        "fit with an intercept": (lambda t: _machine(t, intercept=True)(_x(t, 3)), SOLVED),
        "weighted fit": (lambda t: _machine(t, weights=torch.linspace(1, 2, 12))(_x(t, 3)), SOLVED),
        "contributions of a machine": (lambda t: _machine(t).contributions(_x(t, 3)).terms, SOLVED),
        "fit of features": (lambda t: ks.fit(ks.features.RandomFourier(8), _x(t), _y(t), ridge=1e-2,
                                             progress=False)(_x(t, 3)), SOLVED),
        "Fourier features": (lambda t: ks.features.RandomFourier(16).phi(_x(t)), SUM),
        "arc-cosine features": (lambda t: ks.features.ArcCosineFeatures(16).phi(_x(t)), SUM),
        "gradient features": (lambda t: ks.features.GradientFeatures(network(t)).inner(_x(t)), SUM),
        "posterior mean": (lambda t: _posterior(t).mean, SOLVED),
        "posterior deviation": (lambda t: _posterior(t).std, SOLVED),
        "contributions": (lambda t: ledger(t).contributions, 1e-3),
        "final outputs": (lambda t: ledger(t).final, 1e-4),
        "steps of a ledger": (lambda t: ledger(t).steps, 1e-3),
        "path kernel": (lambda t: ks.path_kernel(_run(t), _x(t)[:4]).matrix, 1e-3),
        "evolution, similarity": (lambda t: ks.evolution(_run(t), _x(t), classes(), progress=False, movie=0).cka, FAR),
        "coverage": (lambda t: ks.coverage(_run(t), _x(t, 3)).coverage, FAR),
    }


def _operator(dtype: torch.dtype) -> ks.KernelOperator:
    return ks.KernelOperator(ks.kernels.Gaussian(1.0), _x(dtype))


def _infinite() -> Any:
    from kernelscope.kernels.infinite import Dense, ReLU, Serial

    return Serial(Dense(), ReLU(), Dense())


def _posterior(dtype: torch.dtype) -> ks.Posterior:
    return ks.posterior(ks.kernels.Laplacian(1.0), _x(dtype), _y(dtype), _x(dtype, 3), ridge=1e-2, progress=False)


def within(found: Tensor, true: Tensor, limit: float) -> None:
    """Two values of a quantity, compared with its largest entry.

    Raises:
        Silent: If they are further apart than is stated, or of another shape.
    """
    if found.shape != true.shape:
        raise Silent(f"shape {tuple(found.shape)} and not {tuple(true.shape)}")
    gap = float((found.double() - true.double()).abs().max() / true.double().abs().max().clamp(min=1e-300))
    if not gap <= limit:
        raise Silent(f"moves by {gap:.1e} of its largest entry, and {limit:.0e} is stated")


def close(ask: Quantity, limit: float) -> None:
    """A quantity of single precision beside that of double precision."""
    within(ask(SINGLE), ask(DOUBLE), limit)


def again(ask: Quantity, dtype: torch.dtype) -> None:
    """A quantity asked twice gives the same bits."""
    if not torch.equal(ask(dtype), ask(dtype)):
        raise Silent("two calls differ")


class Precision(Cases):
    """More than forty quantities, in single precision and again."""

    id, sentence = "F20", "Numbers are computed in single precision, and again."

    def cases(self) -> Iterator[Case]:
        for name, (ask, limit) in _quantities().items():
            yield f"{name}: single beside double", partial(close, ask, limit)
            yield f"{name}: again", partial(again, ask, SINGLE)


ROWS = (Precision,)
