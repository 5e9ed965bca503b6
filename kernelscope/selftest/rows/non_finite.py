"""F8: a NaN or an infinite number in whatever is handed in."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

import kernelscope as ks

from ...errors import DataError, ModelError, RecordingError
from ..judging import Case, Cases, must_hold, must_refuse
from ..subjects import chords, classes, network, points, run, saved, symmetric, trained

NAN, INF = float("nan"), float("inf")
NAMING = ("NaN", "finite", "no number", "positive number", "infinity")


def _at(place: int, value: float, values: Tensor) -> Tensor:
    spoiled = values.clone()
    spoiled.reshape(-1)[place] = value
    return spoiled


#: How numbers are spoiled, by name.
KINDS: dict[str, Callable[[Tensor], Tensor]] = {
    "NaN first": partial(_at, 0, NAN), "NaN last": partial(_at, -1, NAN), "infinite first": partial(_at, 0, INF),
    "infinite last": partial(_at, -1, -INF), "all NaN": lambda v: torch.full_like(v, NAN),
    "all infinite": lambda v: torch.full_like(v, INF),
}


def _beside(place: tuple[int, int], value: float, both: bool, matrix: Tensor) -> Tensor:
    spoiled, (i, j) = matrix.clone(), place
    spoiled[i, j] = value
    if both:
        spoiled[j, i] = value
    return spoiled


#: How entries of a symmetric matrix are spoiled: LAPACK reads one triangle only.
ENTRIES: dict[str, Callable[[Tensor], Tensor]] = {
    f"{word}, {where}": partial(_beside, place, value, both)
    for word, value in (("NaN", NAN), ("infinite", INF))
    for where, place, both in (("upper triangle", (1, 5), False), ("lower triangle", (5, 1), False),
                               ("both triangles", (1, 5), True), ("diagonal", (3, 3), False))
}

X, Y = points(), points(seed=1)[:, 0]
IMAGES = torch.rand(20, 16, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


def _fit(x: Any = X, y: Any = Y, **options: Any) -> Any:
    settings = {"ridge": 1e-3, "progress": False, **options}
    return ks.fit(ks.kernels.Gaussian(1.0), x, y, **settings)


def _two(x: Tensor) -> Tensor:
    """Two points, a spoiled one among them if there is one."""
    return x[:2] if not x[:2].isfinite().all() else x[-2:]


def _of_vectors() -> dict[str, Callable[[Tensor], Any]]:
    """Calls that take points of three numbers."""
    tangent = lambda: ks.kernels.Tangent(network())
    asked: dict[str, Callable[[Tensor], Any]] = {
        "decompose": lambda x: ks.decompose(run(), _two(x)),
        "explain": lambda x: ks.explain(run(), _two(x)),
        "influence": lambda x: ks.influence(run(), _two(x)),
        "influence, gauss-newton": lambda x: ks.influence(run(), _two(x), method="gauss-newton"),
        "evaluate, queries": lambda x: ks.evaluate(run(), x, classes(), subsets=8, seeds=2, progress=False),
        "compare, probes": lambda x: ks.compare(run(), run(), x, k=3, draws=20, progress=False),
        "thinned": lambda x: ks.decompose(run().thinned(keep=3), _two(x)),
        "from_checkpoints, parameters": lambda x: chords(saved(torch.stack([x[0], x[-1]]))),
        "from_checkpoints, inputs": lambda x: ks.decompose(chords(x=x), X[:2]),
        "from_checkpoints, targets": lambda x: ks.decompose(chords(y=torch.stack([x[:, 0], x[:, -1]], 1)), X[:2]),
        "from_checkpoints, queries": lambda x: ks.decompose(chords(), _two(x)),
        "scalars for trackers": lambda x: ks.integrations.run_scalars(run(), x, targets=classes(), times=2),
        "coverage": lambda x: ks.coverage(run(), x),
        "null_space": lambda x: ks.null_space(run(), x, classes()),
        "evolution": lambda x: ks.evolution(run(), x, classes(), progress=False),
        "path_kernel": lambda x: ks.path_kernel(run(), x),
        "reservoir": lambda x: ks.reservoir(_regression(Y), x),
        "expected": lambda x: ks.expected(run(), x, 0),
        "ensemble": lambda x: ks.ensemble(run(), x, 0, seeds=2, sampling="reshuffling"),
        "kernel_distances": lambda x: ks.kernel_distances(run(), run(), x),
        "gradient_scores, test": lambda x: ks.gradient_scores(network(), (x, classes()), (X, classes()),
                                                              loss=F.cross_entropy),
        "gradient_scores, train": lambda x: ks.gradient_scores(network(), (X, classes()), (x, classes()),
                                                               loss=F.cross_entropy),
        "Tangent": lambda x: tangent()(x),
        "Tangent operator": lambda x: ks.KernelOperator(tangent(), x) @ torch.ones(len(x), dtype=x.dtype),
        "GradientFeatures": lambda x: ks.features.GradientFeatures(network()).push(x, torch.ones(38, dtype=x.dtype)),
        "Gaussian operator": lambda x: ks.KernelOperator(ks.kernels.Gaussian(1.0), x).eigenpairs(2),
        "median_bandwidth": lambda x: ks.kernels.median_bandwidth(x),
        "spectrum": lambda x: ks.spectrum(ks.kernels.Gaussian(1.0), x),
        "fit, x": lambda x: _fit(x),
        "fit, centers": lambda x: _fit(centers=x),
        "fit, validation x": lambda x: _fit(validation=(x, Y)),
        "machine": lambda x: _fit()(x),
        "contributions": lambda x: _fit().contributions(x),
        "fit features": lambda x: ks.fit(ks.features.RandomFourier(8), x, Y, ridge=1e-3, progress=False),
        "feature machine": lambda x: ks.fit(ks.features.RandomFourier(8), X, Y, ridge=1e-3, progress=False)(x),
        "RandomFourier": lambda x: ks.features.RandomFourier(8).phi(x),
        "ArcCosineFeatures": lambda x: ks.features.ArcCosineFeatures(8).phi(x),
        "PositiveFeatures": lambda x: ks.features.PositiveFeatures(8).phi(x),
        "balance": lambda x: ks.features.balance(x, torch.eye(3, dtype=x.dtype)),
        "scaling, train": lambda x: ks.scaling(ks.kernels.Gaussian(1.0), (x, Y), (X, Y), centers=[3], samples=[12]),
        "scaling, test": lambda x: ks.scaling(ks.kernels.Gaussian(1.0), (X, Y), (x, Y), centers=[3], samples=[12]),
        "learning_curves": lambda x: ks.learning_curves({"a": ks.kernels.Gaussian(1.0)}, (x, Y), (X, Y), samples=[12]),
        "posterior, x": lambda x: ks.posterior(ks.kernels.Gaussian(1.0), x, Y, X, ridge=1e-3, progress=False),
        "posterior, x_test": lambda x: ks.posterior(ks.kernels.Gaussian(1.0), X, Y, x, ridge=1e-3, progress=False),
        "bundle": lambda x: ks.nn.bundle(_relus(), x.repeat(8, 1), features=8, test=X),
        "convert": lambda x: ks.nn.convert(nn.Linear(3, 4, dtype=x.dtype), "gelu", x.repeat(8, 1), 8),
        "record, inputs": lambda x: ks.decompose(trained(x, classes()), X[:2]),
        "OptimalDenoiser": lambda x: ks.generative.OptimalDenoiser(x),
        "WienerDenoiser": lambda x: ks.generative.WienerDenoiser(x),
        "explain_optimal, data": lambda x: ks.generative.explain_optimal(x, X[:2]),
        "explain_optimal, latents": lambda x: ks.generative.explain_optimal(X, x),
        "denoiser_fit": lambda x: ks.generative.denoiser_fit(ks.generative.OptimalDenoiser(X), x, [0.5], train=X),
        "jacobian_geometry": lambda x: ks.generative.jacobian_geometry(ks.generative.WienerDenoiser(X), x, [0.5]),
        "kernel_critic": lambda x: ks.generative.kernel_critic(ks.kernels.Gaussian(1.0), X, x),
        "train_diffusion": lambda x: ks.generative.train_diffusion(x, steps=2, width=4, batch=12),
        "train_gan": lambda x: ks.generative.train_gan(x, steps=2, width=4, batch=12),
        "sampling": lambda x: ks.generative.sample(ks.generative.WienerDenoiser(X), x, ks.generative.schedule(4)),
    }
    for name, kernel in _kernels().items():
        asked[name] = lambda x, kernel=kernel: kernel(x, X)  # type: ignore[misc]
    return asked


def _relus() -> nn.Sequential:
    generator = torch.Generator().manual_seed(0)
    model = nn.Sequential(nn.Linear(3, 6), nn.ReLU(), nn.Linear(6, 2)).double()
    with torch.no_grad():
        for p in model.parameters():
            p.copy_(torch.randn(p.shape, generator=generator, dtype=torch.float64))
    return model


def _kernels() -> dict[str, Any]:
    from kernelscope.kernels.infinite import Dense, ReLU, Serial

    k = ks.kernels
    return {"Gaussian": k.Gaussian(1.0), "Laplacian": k.Laplacian(1.0), "Matern": k.Matern(1.5, 1.0),
            "Cauchy": k.Cauchy(1.0), "Polynomial": k.Polynomial(), "ArcCosine": k.ArcCosine(), "ReLUNTK": k.ReLUNTK(),
            "infinite": Serial(Dense(), ReLU(), Dense()).ntk}


def _of_numbers() -> dict[str, Callable[[Tensor], Any]]:
    """Calls that take one number for each of twelve points."""
    return {
        "fit, y": lambda y: _fit(y=y),
        "fit, y, cg": lambda y: _fit(y=y, solver="cg"),
        "fit, y, eigenpro": lambda y: _fit(y=y, solver="eigenpro"),
        "fit, y, direct": lambda y: _fit(y=y, solver="direct"),
        "fit, y, huber": lambda y: _fit(y=y, loss="huber"),
        "fit, y, PCG": lambda y: _fit(y=y, solver=ks.solvers.PCG()),
        "fit, y, features": lambda y: ks.fit(ks.features.RandomFourier(8), X, y, ridge=1e-3, progress=False),
        "fit, weights": lambda y: _fit(weights=y.abs()),
        "fit, validation y": lambda y: _fit(validation=(X, y)),
        "posterior, y": lambda y: ks.posterior(ks.kernels.Gaussian(1.0), X, y, X, ridge=1e-3, progress=False),
        "eigenlearning, y": lambda y: ks.eigenlearning(ks.kernels.Gaussian(1.0)(X), y, 4, ridge=1e-3),
        "spectrum, y": lambda y: ks.spectrum(ks.kernels.Gaussian(1.0), X, y),
        "scaling, y": lambda y: ks.scaling(ks.kernels.Gaussian(1.0), (X, y), (X, Y), centers=[3], samples=[12]),
        "learning_curves, y": lambda y: ks.learning_curves({"a": ks.kernels.Gaussian(1.0)}, (X, Y), (X, y),
                                                           samples=[6]),
        "evaluate, scores": lambda y: ks.evaluate(run(), X[:1], classes()[:1], subsets=8, seeds=2, progress=False,
                                                  scores={"mine": y[None]}),
        "influence, damping": lambda y: ks.influence(run(), X[:1], method="gauss-newton",
                                                     damping=abs(float(y[0] + y[-1]))),
        "from_checkpoints, rate": lambda y: chords(lr=abs(float(y[0] + y[-1]))),
        "predictions": lambda y: ks.predictions(y, Y),
        "orders": lambda y: ks.orders(y.abs().tolist(), {"a": Y.abs().tolist()}),
        "orders, errors": lambda y: ks.orders(range(1, 13), {"a": y.abs().tolist()}),
        "trade_offs": lambda y: ks.trade_offs([(str(i), float(i + 1), float(v)) for i, v in enumerate(y)],
                                              cost="seconds", measure="score"),
        "operator product": lambda y: ks.KernelOperator(ks.kernels.Gaussian(1.0), X) @ y,
        "record, targets": lambda y: ks.decompose(_regression(y), X[:2]),
    }


def _regression(y: Tensor) -> ks.Run:
    model = nn.Linear(3, 1, dtype=torch.float64)
    with torch.no_grad():
        model.weight.fill_(0.1)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    with ks.record(model, (X, y[:, None]), loss=F.mse_loss) as recording:
        for rows in ([*range(6)], [*range(6, 12)]):
            optimizer.zero_grad()
            recording.batch(rows)
            F.mse_loss(model(X[rows]), y[rows][:, None]).backward()
            optimizer.step()
    return recording.run


def _of_matrices() -> dict[str, Callable[[Tensor], Any]]:
    """Calls that take a symmetric matrix."""
    y = points(8, 1)[:, 0]
    numbers = torch.arange(8)[:, None]
    fits: dict[str, Any] = {name: solver for name, solver in (
        ("direct", "direct"), ("cg", "cg"), ("eigenpro", "eigenpro"), ("chosen", None), ("PCG", ks.solvers.PCG()))}
    asked: dict[str, Callable[[Tensor], Any]] = {
        f"Precomputed, {name}": lambda K, solver=solver: ks.fit(  # type: ignore[misc]
            ks.kernels.Precomputed(K), numbers, y, ridge=1e-3, solver=solver, progress=False)
        for name, solver in fits.items()}
    return asked | {
        "spectrum of a matrix": lambda K: ks.spectrum(K),
        "spectrum of a Precomputed": lambda K: ks.spectrum(ks.kernels.Precomputed(K), numbers),
        "eigenlearning of a matrix": lambda K: ks.eigenlearning(K, y, 4, ridge=1e-3),
        "posterior of a Precomputed": lambda K: ks.posterior(ks.kernels.Precomputed(K), numbers, y, numbers, ridge=0.1,
                                                             progress=False),
        "eigenpairs of a Precomputed": lambda K: ks.KernelOperator(ks.kernels.Precomputed(K), numbers).eigenpairs(2),
    }


def _of_estimators() -> dict[str, Callable[[Tensor], Any]]:
    """Calls of scikit-learn's kind, whose rules ask for a ValueError."""
    from kernelscope.sklearn import KernelClassifier, KernelRegressor

    labels = classes().numpy()
    return {
        "KernelRegressor.fit": lambda x: KernelRegressor().fit(x.numpy(), Y.numpy()),
        "KernelRegressor.fit, y": lambda x: KernelRegressor().fit(X.numpy(), x[:, 0].numpy()),
        "KernelRegressor.fit, weights": lambda x: KernelRegressor().fit(X.numpy(), Y.numpy(), x[:, 0].abs().numpy()),
        "KernelRegressor.predict": lambda x: KernelRegressor().fit(X.numpy(), Y.numpy()).predict(x.numpy()),
        "KernelClassifier.fit": lambda x: KernelClassifier().fit(x.numpy(), labels),
        "KernelClassifier.predict": lambda x: KernelClassifier().fit(X.numpy(), labels).predict(x.numpy()),
    }


def _estimators_are_here() -> bool:
    return importlib.util.find_spec("sklearn") is not None


def _answers(ask: Callable[[Tensor], Any], good: Tensor) -> bool:
    """The call has an answer where nothing is wrong with the numbers, so that what it refuses are these."""
    ask(good)
    return True


class NonFinite(Cases):
    """Every call with every kind of spoiled numbers, and gradients spoiled in the loop."""

    id, sentence = "F8", "NaN or an infinite number stands in inputs, labels, gradients or kernel entries."

    def cases(self) -> Iterator[Case]:
        right: tuple[type[Exception], ...] = (DataError, ModelError, RecordingError)
        groups = [(_of_vectors(), KINDS, X, right), (_of_numbers(), KINDS, Y, right),
                  (_of_matrices(), ENTRIES, symmetric(), right)]
        if _estimators_are_here():
            rows = {"last" if "last" in kind else kind: spoil for kind, spoil in KINDS.items() if "last" not in kind}
            groups.append((_of_estimators(), rows, X, (*right, ValueError)))
        for of, kinds, good, errors in groups:
            for name, ask in of.items():
                yield f"{name}: all finite", partial(must_hold, partial(_answers, ask, good))
                for kind, spoil in kinds.items():
                    yield f"{name}: {kind}", partial(must_refuse, partial(ask, spoil(good)), *errors, naming=NAMING)
        for step in (0, 3, 5):
            spoiled = lambda step=step: ks.decompose(trained(X, classes(), spoiled=step), X[:2])
            yield f"a gradient at step {step}", partial(must_refuse, spoiled, *right, naming=NAMING)


ROWS = (NonFinite,)
