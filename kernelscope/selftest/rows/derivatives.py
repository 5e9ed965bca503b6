"""F22: every kernel beside finite differences, closed forms and random draws."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from functools import partial

import torch
from torch import Tensor, nn

import kernelscope as ks

from ..judging import Case, Cases
from ..row import Silent
from ..subjects import CLASSES, points, seeded

X, Z = points(6), points(4, seed=3)

#: Central differences are off by the square of the step, and by rounding over it.
STEP, DIFFERENCES, ROUND_OFF = 1e-5, 1e-7, 1e-11

#: Random draws: so many standard errors of a mean, and what a feature map of a finite number may be off.
DRAWS, ERRORS = 200_000, 6.0


def network_of(kind: str) -> nn.Module:
    """A small smooth network with the layers of a kind, for points of three numbers."""
    layers: dict[str, Callable[[], nn.Module]] = {
        "linear": lambda: nn.Linear(3, CLASSES),
        "tanh": lambda: nn.Sequential(nn.Linear(3, 5), nn.Tanh(), nn.Linear(5, CLASSES)),
        "softplus": lambda: nn.Sequential(nn.Linear(3, 5), nn.Softplus(), nn.Linear(5, CLASSES)),
        "layer norm": lambda: nn.Sequential(nn.Linear(3, 5), nn.LayerNorm(5), nn.GELU(), nn.Linear(5, CLASSES)),
        "convolution": lambda: nn.Sequential(nn.Unflatten(1, (1, 3)), nn.Conv1d(1, 2, 2), nn.Tanh(), nn.Flatten(),
                                             nn.Linear(4, CLASSES)),
        "batch norm, evaluating": lambda: nn.Sequential(nn.Linear(3, 5), nn.BatchNorm1d(5), nn.Tanh(),
                                                        nn.Linear(5, CLASSES)).eval(),
        "group norm": lambda: nn.Sequential(nn.Linear(3, 4), nn.GroupNorm(2, 4), nn.SiLU(), nn.Linear(4, CLASSES)),
        "bilinear attention": lambda: _Attending(),
    }
    return seeded(layers[kind]().double())


class _Attending(nn.Module):
    """Three tokens that look at each other."""

    def __init__(self) -> None:
        super().__init__()
        self.into, self.out = nn.Linear(1, 4), nn.Linear(4, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        h = self.into(x[..., None])
        return self.out((h @ h.mT).softmax(-1) @ h).mean(-2)


NETWORKS = ("linear", "tanh", "softplus", "layer norm", "convolution", "batch norm, evaluating", "group norm",
            "bilinear attention")


def jacobian(model: nn.Module, x: Tensor) -> Tensor:
    """Derivatives of outputs by parameters as differences of two outputs, with shape (n, c, p)."""
    columns = []
    with torch.no_grad():
        for p in model.parameters():
            for place in range(p.numel()):
                entry, ends = p.view(-1), []
                value = float(entry[place])
                for sign in (1, -1):
                    entry[place] = value + sign * STEP
                    ends.append(model(x))
                entry[place] = value
                columns.append((ends[0] - ends[1]) / (2 * STEP))
    return torch.stack(columns, -1)


def near(found: Tensor, true: Tensor, limit: float) -> None:
    """Two tensors, compared with the largest entry of the true one.

    Raises:
        Silent: If they are apart.
    """
    if found.shape != true.shape:
        raise Silent(f"shape {tuple(found.shape)} and not {tuple(true.shape)}")
    gap = float((found - true).abs().max() / true.abs().max().clamp(min=1e-300))
    if not gap <= limit:
        raise Silent(f"off by {gap:.1e} of the largest entry, and {limit:.0e} is allowed")


def _tangent(kind: str, way: str) -> None:
    model = network_of(kind)
    J, K = jacobian(model, X), jacobian(model, Z)
    full = torch.einsum("icp,jdp->icjd", J, K)
    trace = full.diagonal(dim1=1, dim2=3).sum(-1)
    kernel = ks.kernels.Tangent(model, outputs="full" if way == "full" else "trace")
    v = points(4, 1, seed=5)
    if way == "trace":
        near(kernel(X, Z), trace, DIFFERENCES)
    elif way == "full":
        near(kernel(X, Z), full, DIFFERENCES)
    elif way == "product":
        near(ks.KernelOperator(kernel, X, Z) @ v, trace @ v, DIFFERENCES)
    elif way == "features":
        near(ks.features.GradientFeatures(model).inner(X, Z), trace, DIFFERENCES)
    else:
        near(kernel.diagonal(X), J.square().sum((1, 2)), DIFFERENCES)


def _closed_forms() -> dict[str, tuple[ks.kernels.Kernel, Callable[[float, Tensor, Tensor], float]]]:
    """Kernels, and each entry of them from the distance and the two points, in plain Python."""
    k = ks.kernels
    cosine = lambda a, b: max(-1.0, min(1.0, float(a @ b) / math.sqrt(float(a @ a) * float(b @ b))))
    lengths = lambda a, b: math.sqrt(float(a @ a) * float(b @ b))
    arc0 = lambda c: (math.pi - math.acos(c)) / math.pi
    arc1 = lambda c: (math.sqrt(1 - c * c) + (math.pi - math.acos(c)) * c) / math.pi
    return {
        "Gaussian": (k.Gaussian(0.7), lambda r, a, b: math.exp(-r * r / (2 * 0.49))),
        "Laplacian": (k.Laplacian(0.7), lambda r, a, b: math.exp(-r / 0.7)),
        "Matern 1.5": (k.Matern(1.5, 0.7), lambda r, a, b: (1 + 3**0.5 * r / 0.7) * math.exp(-(3**0.5) * r / 0.7)),
        "Matern 2.5": (k.Matern(2.5, 0.7), lambda r, a, b: (1 + 5**0.5 * r / 0.7 + 5 * r * r / (3 * 0.49))
                       * math.exp(-(5**0.5) * r / 0.7)),
        "Cauchy": (k.Cauchy(0.7), lambda r, a, b: 1 / (1 + r * r / 0.49)),
        "RationalQuadratic": (k.RationalQuadratic(2.0, 0.7), lambda r, a, b: (1 + r * r / (2 * 2 * 0.49)) ** -2.0),
        "Polynomial": (k.Polynomial(3, 0.5), lambda r, a, b: (float(a @ b) + 0.5) ** 3),
        "Cosine": (k.Cosine(), lambda r, a, b: cosine(a, b)),
        "ArcCosine 0": (k.ArcCosine(0), lambda r, a, b: arc0(cosine(a, b))),
        "ArcCosine 1": (k.ArcCosine(1), lambda r, a, b: lengths(a, b) * arc1(cosine(a, b))),
        "Sum": (k.Gaussian(1.0) + k.Laplacian(1.0), lambda r, a, b: math.exp(-r * r / 2) + math.exp(-r)),
        "Product": (k.Gaussian(1.0) * k.Laplacian(1.0), lambda r, a, b: math.exp(-r * r / 2 - r)),
        "Scaled": (2.5 * k.Laplacian(1.0), lambda r, a, b: 2.5 * math.exp(-r)),
    }


def _closed(name: str, way: str) -> None:
    kernel, entry = _closed_forms()[name]
    true = torch.tensor([[entry(math.dist(a.tolist(), b.tolist()), a, b) for b in Z] for a in X], dtype=torch.float64)
    if way == "matrix":
        near(kernel(X, Z), true, ROUND_OFF)
    else:
        v = points(4, 1, seed=5)
        near(ks.KernelOperator(kernel, X, Z) @ v, true @ v, ROUND_OFF)


def _infinite(which: str) -> tuple[Tensor, Callable[[Tensor, Tensor], Tensor]]:
    """A covariance of one hidden layer, and what is averaged over random weights."""
    from kernelscope.kernels.infinite import Dense, Erf, ReLU, Serial

    layer = {"relu": ReLU(), "erf": Erf()}[which.split()[0]]
    act = {"relu": torch.relu, "erf": torch.erf}[which.split()[0]]
    slope = {"relu": lambda u: (u > 0).double(),
             "erf": lambda u: 2 / math.sqrt(math.pi) * (-u * u).exp()}[which.split()[0]]
    net = Serial(Dense(), layer, Dense())
    if which.endswith("nngp"):
        return net.nngp(X, Z), lambda u, v: act(u)[:, :, None] * act(v)[:, None, :]
    inner = X @ Z.T / X.shape[1]
    return net.ntk(X, Z), lambda u, v: (act(u)[:, :, None] * act(v)[:, None, :]
                                        + slope(u)[:, :, None] * slope(v)[:, None, :] * inner)


def _drawn(which: str) -> None:
    true, sample = _infinite(which)
    w = torch.randn(DRAWS, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64) / math.sqrt(3)
    total, squares = torch.zeros_like(true), torch.zeros_like(true)
    for some in w.split(20_000):
        values = sample(some @ X.T, some @ Z.T)
        total += values.sum(0)
        squares += values.square().sum(0)
    mean = total / DRAWS
    error = ((squares / DRAWS - mean.square()) / DRAWS).sqrt()
    worst = float(((mean - true).abs() / error.clamp(min=1e-12)).max())
    if not worst <= ERRORS:
        raise Silent(f"the mean of {DRAWS:,} draws is {worst:.1f} standard errors from the closed form")


def _features(name: str) -> None:
    """Products of random features, averaged over seeds, beside the kernel that they stand for."""
    maps: dict[str, tuple[Callable[[int], ks.features.FeatureMap], Tensor]] = {
        "Fourier, Gaussian": (lambda s: ks.features.RandomFourier(64, 1.0, seed=s), ks.kernels.Gaussian(1.0)(X, Z)),
        "Fourier, Laplacian": (lambda s: ks.features.RandomFourier(64, 1.0, "laplacian", seed=s),
                               ks.kernels.Laplacian(1.0)(X, Z)),
        "arc-cosine": (lambda s: ks.features.ArcCosineFeatures(64, 1, seed=s), ks.kernels.ArcCosine(1)(X, Z)),
    }
    make, true = maps[name]
    values = torch.stack([make(seed).inner(X, Z) for seed in range(200)])
    error = values.std(0) / math.sqrt(len(values))
    worst = float(((values.mean(0) - true).abs() / error).max())
    if not worst <= ERRORS:
        raise Silent(f"the mean of {len(values)} maps is {worst:.1f} standard errors from the kernel")


class Derivatives(Cases):
    """Tangent kernels in five ways, closed forms in two, and means of random draws."""

    id, sentence = "F22", "Kernels are held against finite differences, closed forms and random draws."

    def cases(self) -> Iterator[Case]:
        for kind in NETWORKS:
            for way in ("trace", "full", "product", "features", "diagonal"):
                yield f"tangent kernel, {kind}: {way}", partial(_tangent, kind, way)
        for name in _closed_forms():
            for way in ("matrix", "product"):
                yield f"{name}: {way}", partial(_closed, name, way)
        for which in ("relu nngp", "relu ntk", "erf nngp", "erf ntk"):
            yield f"infinite width, {which}: {DRAWS:,} draws", partial(_drawn, which)
        for name in ("Fourier, Gaussian", "Fourier, Laplacian", "arc-cosine"):
            yield f"features, {name}", partial(_features, name)


ROWS = (Derivatives,)
