"""F11: data with nothing in it, or too much: constant, single, empty, huge and vanishing numbers."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

import kernelscope as ks

from ...errors import KernelscopeError
from ..judging import Case, Cases
from ..row import Done, Silent
from ..row import refused as told
from ..subjects import classes, network, points, run, seeded, trained


def defined(call: Callable[[], Any]) -> Done | None:
    """Whether a call gives finite numbers, or an error that says why it has none; NaN is silent."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            answer = call()
    except KernelscopeError as error:
        return told(error)
    bad = _not_finite(answer)
    if bad:
        raise Silent(f"NaN or infinite: {bad}")
    return None


def _not_finite(answer: Any) -> str:
    """Which numbers of an answer are none."""
    if isinstance(answer, Tensor):
        right = not answer.is_floating_point() or bool(answer.isfinite().all())
        return "" if right else f"of shape {tuple(answer.shape)}"
    if isinstance(answer, float):
        return "" if math.isfinite(answer) else str(answer)
    if isinstance(answer, dict):
        return next((f"{name} {bad}" for name, value in answer.items() if (bad := _not_finite(value))), "")
    if isinstance(answer, tuple | list):
        return next((bad for value in answer if (bad := _not_finite(value))), "")
    return ""


def _fit(x: Tensor, y: Tensor, k: ks.kernels.Kernel | None = None, **options: Any) -> Any:
    k = ks.kernels.Gaussian() if k is None else k
    machine = ks.fit(k, x, y, **{"ridge": 1e-3, "progress": False, **options})
    return machine.coefficients, machine(x), machine.fitting.objective


def _ledger(x: Tensor, y: Tensor, model: nn.Module | None = None, **options: Any) -> Any:
    d = ks.decompose(trained(x, y, model, **options), x[:2])
    return d.contributions, d.final, d.residual, d.channels


def _datasets() -> dict[str, tuple[Tensor, Tensor]]:
    x = points(20)
    y = x[:, 1].sin()
    constant = x.clone()
    constant[:, 0] = 3.0
    return {
        "a constant feature": (constant, y), "all features constant": (torch.ones_like(x), y),
        "a constant target": (x, torch.full_like(y, 2.0)), "a target of nought": (x, torch.zeros_like(y)),
        "one sample": (x[:1], y[:1]), "no sample": (x[:0], y[:0]), "no feature": (x[:, :0], y),
        "fewer samples than features": (points(4, 50), y[:4]), "scale 1e30": (1e30 * x, y),
        "scale 1e-30": (1e-30 * x, y), "subnormal": (1e-310 * x, y), "targets of 1e30": (x, 1e30 * y),
        "targets of 1e-30": (x, 1e-30 * y), "single precision, scale 1e30": (1e30 * x.float(), y.float()),
        "single precision, scale 1e-30": (1e-30 * x.float(), y.float()),
        "single precision, subnormal": (1e-40 * x.float(), y.float()),
    }


def _relus() -> nn.Module:
    return seeded(nn.Sequential(nn.Linear(3, 6), nn.ReLU(), nn.Linear(6, 2)).double())


def _features(x: Tensor, y: Tensor) -> Any:
    machine = ks.fit(ks.features.RandomFourier(8, bandwidth=None), x, y, ridge=1e-3, progress=False)
    return machine(x)


def _posterior(x: Tensor, y: Tensor) -> Any:
    found = ks.posterior(ks.kernels.Laplacian(), x, y, x[:2], ridge=1e-3, progress=False)
    return found.mean, found.std


def _spectrum(x: Tensor) -> Any:
    found = ks.spectrum(ks.kernels.Gaussian(), x)
    return found.values


def _numbers(found: Any) -> Any:
    return {name: value for name, value in vars(found).items() if isinstance(value, Tensor | float | list)}


class Degenerate(Cases):
    """Sixteen data sets for fits, and the odd ones of recorded runs, of spectra and of measures."""

    id, sentence = "F11", "Data are constant, single, empty, huge or vanishing."

    def cases(self) -> Iterator[Case]:
        for kind, (x, y) in _datasets().items():
            yield f"fit: {kind}", partial(defined, partial(_fit, x, y))
            yield f"intercept: {kind}", partial(defined, partial(_fit, x, y, intercept=True, solver="cg"))
            yield f"features: {kind}", partial(defined, partial(_features, x, y))
            yield f"posterior: {kind}", partial(defined, partial(_posterior, x, y))
            yield f"spectrum: {kind}", partial(defined, partial(_spectrum, x))
        x, y = points(), classes()
        single = torch.zeros(12, dtype=torch.long)
        for kind, (a, b) in {"one class": (x, single), "constant inputs": (torch.ones_like(x), y), "nought": (0 * x, y),
                             "scale 1e30": (1e30 * x, y), "scale 1e-30": (1e-30 * x, y), "subnormal": (1e-310 * x, y),
                             "all alike": (x[:1].expand(12, -1).clone(), y)}.items():
            yield f"record and decompose: {kind}", partial(defined, partial(_ledger, a, b))
        yield "record and decompose: one output", partial(defined, lambda: _ledger(
            x, single, seeded(nn.Linear(3, 1, dtype=torch.float64))))
        yield "decompose: no query", partial(defined, lambda: ks.decompose(run(), x[:0]).contributions)
        yield "explain: no query", partial(defined, lambda: ks.explain(run(), x[:0]).decomposition.contributions)
        yield "predictions: two pairs", partial(defined, lambda: _numbers(ks.predictions([1.0, 2.0], [1.0, 2.0])))
        yield "predictions: constant", partial(defined, lambda: _numbers(ks.predictions([1.0] * 5, [2.0] * 5)))
        yield "gradient scores of one sample", partial(defined, lambda: ks.gradient_scores(
            network(), (x[:1], y[:1]), (x[:1], y[:1]), loss=F.cross_entropy).scores)
        yield "cosines of a gradient that is nought", partial(defined, lambda: ks.gradient_scores(
            network(), (0 * x, y), (0 * x, y), loss=F.cross_entropy, cosine=True).scores)
        yield "bundle of constant inputs", partial(defined, lambda: ks.nn.bundle(
            _relus(), torch.ones(40, 3).double(), features=8)[0](x))


ROWS = (Degenerate,)
