"""F12: shapes, types and devices that do not fit, as PyTorch lists the inputs that an operation must refuse."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import kernelscope as ks

from ...errors import KernelscopeError
from ..judging import Case, Cases, must_hold, must_refuse
from ..subjects import chords, classes, network, points, run, saved, spoken, symmetric, texts, trained

X, Y, L = points(), points(seed=1)[:, 0], ks.kernels.Laplacian(1.0)


def _fit(x: Any = X, y: Any = Y, k: Any = L, **options: Any) -> Any:
    return ks.fit(k, x, y, **{"ridge": 1e-3, "progress": False, **options})


def _wrong() -> Iterator[tuple[str, Callable[[], Any], tuple[str, ...]]]:
    """A name, a call, and words of which the sentence has one: what came, and what was needed."""
    model, machine = network(), _fit()
    yield "fit: more targets than points", lambda: _fit(y=Y[:5]), ("12", "5")
    yield "fit: more points than targets", lambda: _fit(X[:5]), ("12", "5")
    yield "fit: swapped axes of targets", lambda: _fit(y=torch.stack([Y, Y])), ("(2, 12)", "2")
    yield "fit: three axes of targets", lambda: _fit(y=Y[:, None, None]), ("(12, 1, 1)", "(n, c)")
    yield "fit: a target that is a number", lambda: _fit(y=Y[0]), ("()", "target")
    yield "fit: complex points", lambda: _fit(X + 0j), ("complex",)
    yield "fit: complex targets", lambda: _fit(y=Y + 0j), ("complex", "real")
    yield "fit: sparse points", lambda: _fit(X.to_sparse()), ("sparse",)
    yield "fit: sparse targets", lambda: _fit(y=Y.to_sparse()), ("sparse", "target")
    yield "fit: points without data", lambda: _fit(X.to("meta")), ("meta",)
    yield "fit: targets without data", lambda: _fit(y=Y.to("meta")), ("meta", "target")
    yield "fit: an array of objects", lambda: _fit(np.array([[object()] * 3] * 12)), ("object",)
    yield "fit: targets of words", lambda: _fit(y=np.array(["a"] * 12)), ("number", "str", "<U1")
    yield "fit: centers of another width", lambda: _fit(centers=points(4, 5)), ("3", "5")
    yield "fit: centers without data", lambda: _fit(centers=X.to("meta")), ("meta",)
    yield "fit: more centers than points", lambda: _fit(centers=40), ("40", "12")
    yield "fit: validation of another width", lambda: _fit(validation=(points(4, 5), Y[:4])), ("3", "5")
    yield "fit: validation with fewer targets", lambda: _fit(validation=(X, Y[:4])), ("12", "4")
    yield "fit: validation with more outputs", lambda: _fit(validation=(X, torch.stack([Y, Y], 1))), ("output", "2")
    yield "fit: weights for others", lambda: _fit(weights=torch.ones(5)), ("12", "5")
    yield "fit: weights with two axes", lambda: _fit(weights=torch.ones(12, 2)), ("(12, 2)", "(12,)")
    yield "fit: weights that are complex", lambda: _fit(weights=torch.ones(12) + 0j), ("real", "complex")
    yield "fit: weights below nought", lambda: _fit(weights=-torch.ones(12)), ("0", "negative")
    yield "fit: no kernel", lambda: _fit(k=nn.Linear(3, 1)), ("kernel",)
    yield "fit: a kernel that is not symmetric", lambda: _fit(k=ks.kernels.Precomputed(
        torch.arange(144.0).view(12, 12).double()), x=torch.arange(12)[:, None]), ("symmetric", "negative")
    yield "fit: numbers beyond the matrix", lambda: _fit(torch.arange(5, 17)[:, None], k=ks.kernels.Precomputed(
        symmetric(12))), ("16", "11")
    yield "Precomputed: not square", lambda: ks.kernels.Precomputed(torch.ones(3, 4)), ("(3, 4)",)
    yield "Precomputed: a list", lambda: ks.kernels.Precomputed([[1.0]]), ("list",)  # type: ignore[arg-type]
    yield "machine: points of another width", lambda: machine(points(2, 5)), ("3", "5")
    yield "machine: a point without its axis", lambda: machine(X[0, 0]), ("point", "()", "axis")
    yield "machine: complex points", lambda: machine(X + 0j), ("complex",)
    yield "machine: points without data", lambda: machine(X.to("meta")), ("meta",)
    yield "kernel: points of two widths", lambda: L(X, points(4, 5)), ("3", "5")
    yield "kernel: complex points", lambda: L(X + 0j, X), ("complex",)
    yield "kernel: one side without data", lambda: L(X, X.to("meta")), ("meta",)
    yield "operator: too short a vector", lambda: ks.KernelOperator(L, X) @ Y[:5], ("12", "5")
    yield "operator: a complex vector", lambda: ks.KernelOperator(L, X) @ (Y + 0j), ("complex", "real")
    yield "operator: a list", lambda: ks.KernelOperator(L, X) @ [1.0] * 12, ("list", "tensor")  # type: ignore[operator]
    yield "Tangent: points of another width", lambda: ks.kernels.Tangent(model)(points(4, 5)), ("5", "3")
    yield "Tangent: whole numbers", lambda: ks.kernels.Tangent(model)(torch.ones(4, 3, dtype=torch.long)), ("int64", )
    yield "Tangent: points without data", lambda: ks.kernels.Tangent(model)(X.to("meta")), ("meta",)
    yield "Tangent: no module", lambda: ks.kernels.Tangent(lambda x: x), ("Module",)  # type: ignore[arg-type]
    yield "Tangent: whole numbers as precision", lambda: ks.kernels.Tangent(model, dtype=torch.long), ("int64",)
    yield "Tangent: a device that is not here", lambda: ks.kernels.Tangent(model, device="cuda:97")(X), ("cuda",)
    yield "decompose: queries of another width", lambda: ks.decompose(run(), points(2, 5)), ("5", "3")
    yield "decompose: complex queries", lambda: ks.decompose(run(), X + 0j), ("complex",)
    yield "decompose: a query without its axis", lambda: ks.decompose(run(), X[0]), ("(3,)", "shape", "3")
    yield "decompose: sparse queries", lambda: ks.decompose(run(), X.to_sparse()), ("sparse",)
    yield "decompose: queries without data", lambda: ks.decompose(run(), X.to("meta")), ("meta",)
    yield "decompose: too many targets", lambda: ks.decompose(run(), X[:2], "loss", targets=classes(5)), ("5", "2")
    yield "decompose: a target that is no class", lambda: ks.decompose(
        run(), X[:1], "loss", targets=torch.tensor([9])), ("9", "3")
    yield "decompose: an output that is not there", lambda: ks.decompose(run(), X[:1], 7), ("7",)
    yield "decompose: groups for others", lambda: ks.decompose(run(), X[:1], groups=["a"] * 3), ("3", "12")
    yield "decompose: half precision", lambda: ks.decompose(run(), X[:1], dtype=torch.long), ("int64",)
    yield "decompose: a device that is not here", lambda: ks.decompose(run(), X[:1], device="cuda:97"), ("cuda",)
    yield "influence: queries of another width", lambda: ks.influence(run(), points(2, 5)), ("5", "3")
    yield "influence: complex queries", lambda: ks.influence(run(), X + 0j), ("complex",)
    yield "influence: sparse queries", lambda: ks.influence(run(), X.to_sparse()), ("sparse",)
    yield "influence: queries without data", lambda: ks.influence(run(), X.to("meta")), ("meta",)
    yield "influence: another method", lambda: ks.influence(run(), X[:1], method="tracin"), ("tracin", "metagradient")
    yield "influence: an output that is not there", lambda: ks.influence(run(), X[:1], 7), ("7",)
    yield "influence: too many targets", lambda: ks.influence(run(), X[:2], "loss", targets=classes(5)), ("5", "2")
    yield "influence: damping below nought", lambda: ks.influence(
        run(), X[:1], method="gauss-newton", damping=-1.0), ("-1",)
    yield "influence: no run", lambda: ks.influence(model, X[:1]), ("Sequential", "run")  # type: ignore[arg-type]
    yield "evaluate: queries of another width", lambda: ks.evaluate(run(), points(2, 5), classes(2)), ("5", "3")
    yield "evaluate: targets for others", lambda: ks.evaluate(run(), X[:2], classes(5)), ("5", "2")
    yield "evaluate: no targets", lambda: ks.evaluate(run(), X[:2]), ("target",)
    yield "evaluate: scores for others", lambda: ks.evaluate(
        run(), X[:2], classes(2), scores={"mine": torch.ones(2, 5)}), ("(2, 5)", "12")
    yield "evaluate: four subsets", lambda: ks.evaluate(run(), X[:2], classes(2), subsets=4), ("4", "8")
    yield "evaluate: complex queries", lambda: ks.evaluate(run(), X[:2] + 0j, classes(2)), ("complex",)
    yield "retrain: a sample that is not there", lambda: ks.retrain(run(), [[0, 99]]), ("99", "12")
    yield "retrain: a table for others", lambda: ks.retrain(run(), torch.ones(2, 5, dtype=torch.bool)), ("5", "12")
    yield "retrain: a subset of nothing", lambda: ks.retrain(run(), [[]]), ("empty", "no sample", "one sample", "0")
    yield "compare: probes of another width", lambda: ks.compare(run(), run(), points(4, 5)), ("5", "3")
    yield "compare: one probe", lambda: ks.compare(run(), run(), X[:1]), ("one", "two")
    yield "compare: complex probes", lambda: ks.compare(run(), run(), X + 0j), ("complex",)
    yield "compare: names for others", lambda: ks.compare(run(), run(), X, ids=["a"]), ("12", "1")
    yield "compare: a run of other inputs", lambda: ks.compare(run(), spoken(), X), ("shape", "input", "float")
    yield "compare: no run", lambda: ks.compare(run(), model, X), ("Sequential", "run")  # type: ignore[arg-type]
    yield "thinned: no step", lambda: run().thinned(0), ("0", "positive", "at least")
    yield "thinned: two ways at once", lambda: run().thinned(2, keep=2), ("one of", "every", "keep")
    yield "thinned: a step that is not there", lambda: run().thinned(points=[99]), ("99", "6")
    yield "from_checkpoints: one checkpoint", lambda: chords(saved(count=1), steps=[0]), ("two", "One")
    yield "from_checkpoints: steps for others", lambda: chords(steps=[0, 1]), ("2", "3")
    yield "from_checkpoints: a step twice", lambda: chords(steps=[0, 10, 10]), ("10", "once")
    yield "from_checkpoints: whole numbers", lambda: chords(saved(torch.ones(2, 3, dtype=torch.long))), ("int64",)
    yield "from_checkpoints: of another network", lambda: chords(model=nn.Linear(5, 2)), ("(2, 3)", "(2, 5)")
    yield "from_checkpoints: complex parameters", lambda: chords(saved(torch.ones(2, 3) + 0j)), ("complex",)
    yield "from_checkpoints: rates for others", lambda: chords(lr=[0.1] * 5), ("5", "2")
    yield "from_checkpoints: more targets than inputs", lambda: chords(y=points(5, 2)), ("12", "5")
    yield "from_checkpoints: inputs of another width", lambda: ks.decompose(chords(x=points(12, 5)), X[:1]), ("5", "3")
    yield "from_checkpoints: a loader of one number", lambda: chords(3), ("int", "3")
    yield "token_contributions: a run without tokens", lambda: ks.token_contributions(run(), X[:1]), ("token",)
    yield "token_contributions: a place that is not there", lambda: ks.token_contributions(
        spoken(), texts()[0][:1], places=9), ("9", "4")
    yield "token_contributions: fractions of tokens", lambda: ks.token_contributions(
        spoken(), texts()[0][:1] + 0.5), ("float", "int", "Long", "whole")
    yield "token_contributions: targets for others", lambda: ks.token_contributions(
        spoken(), texts()[0][:1], texts()[1][:3]), ("3", "1")
    yield "token_contributions: a token that is not there", lambda: ks.token_contributions(
        spoken(), texts()[0][:1] + 70), ("7", "range", "5")
    yield "explain: labels for others", lambda: ks.explain(run(), X[:1], labels=["a"] * 3), ("3", "12")
    yield "record: more targets than inputs", lambda: trained(X, classes(5)), ("12", "5")
    yield "record: a loader of one number", lambda: ks.record(model, 3, loss=F.mse_loss), ("int",)  # type: ignore[arg-type]
    yield "record: labels that are fractions", lambda: _recorded(X, classes().float()), ("float", "Long", "12")
    yield "posterior: targets for others", lambda: ks.posterior(L, X, Y[:4], X, ridge=1e-3), ("12", "4")
    yield "posterior: test points of another width", lambda: ks.posterior(L, X, Y, points(4, 5), ridge=1e-3), ("3", "5")
    yield "gradient_scores: labels for others", lambda: ks.gradient_scores(
        model, (X, classes(5)), (X, classes()), loss=F.cross_entropy), ("12", "5")
    yield "spectrum: a matrix that is not square", lambda: ks.spectrum(torch.ones(3, 4)), ("(3, 4)", "square")
    yield "spectrum: a matrix that is not symmetric", lambda: ks.spectrum(torch.arange(9.0).view(3, 3)), ("symmetric",)
    yield "eigenlearning: targets for others", lambda: ks.eigenlearning(symmetric(), Y, 4, ridge=0.1), ("8", "12")
    yield "predictions: of others", lambda: ks.predictions([1.0, 2.0, 3.0], [1.0, 2.0]), ("3", "2")
    yield "RandomFourier: complex points", lambda: ks.features.RandomFourier(4).phi(X + 0j), ("complex", "real")
    yield "bundle: inputs of another width", lambda: ks.nn.bundle(
        nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 2)), torch.randn(8, 5), features=4), ("5", "3")
    yield "SNNKLinear: inputs of another width", lambda: ks.nn.SNNKLinear(3, 4, 8)(torch.ones(2, 5)), ("5", "3")
    yield "SNNKLinear: complex inputs", lambda: ks.nn.SNNKLinear(3, 4, 8)(torch.ones(2, 3) + 0j), ("complex",)
    yield "denoiser: points without an axis", lambda: ks.generative.OptimalDenoiser(Y[0]), ("()", "shape")
    yield "kernel_critic: points of two widths", lambda: ks.generative.kernel_critic(L, X, points(4, 5)), ("3", "5")


def _recorded(x: Tensor, y: Tensor) -> Any:
    """A loss that wants other targets than came: torch's own error in the user's own loop, or one that names it."""
    try:
        return trained(x, y)
    except RuntimeError as error:
        raise KernelscopeError(f"{error}.") from error


def _right() -> Iterator[tuple[str, Callable[[], bool | str]]]:
    """Numbers kept in an unusual way that mean the same: the answer is that of the plain ones."""
    true, ledger = _fit()(X), ks.decompose(run(), X[:2]).contributions
    counted = ks.influence(run(), X[:2]).influences
    strided = torch.stack([X, X], 2)[:, :, 0]
    frozen = X.numpy().copy()
    frozen.flags.writeable = False
    ways: dict[str, Any] = {"strides": strided, "transposed": X.T.contiguous().T, "with a gradient":
                            X.clone().requires_grad_(), "a read-only array": frozen, "an array": X.numpy(),
                            "a parameter": nn.Parameter(X.clone()), "big-endian": X.numpy().astype(">f8")}
    for name, x in ways.items():
        yield f"fit: {name}", lambda x=x: _near(_fit(x)(X), true)  # type: ignore[misc]
        yield f"decompose: {name}", lambda x=x: _near(ks.decompose(run(), x[:2]).contributions, ledger)  # type: ignore
        yield f"influence: {name}", lambda x=x: _near(ks.influence(run(), x[:2]).influences, counted)  # type: ignore
    whole = torch.arange(6).view(2, 3)
    yield "decompose: whole numbers", lambda: _near(ks.decompose(run(), whole).contributions,
                                                    ks.decompose(run(), whole.double()).contributions)
    for dtype in (torch.float16, torch.bfloat16):
        rounded = X.to(dtype)
        yield f"products of {dtype} are summed in single precision", lambda r=rounded: _near(  # type: ignore[misc]
            L(r, r).double(), L(r.double(), r.double()), 1e-3)


def _near(found: Tensor, true: Tensor, far: float = 1e-9) -> bool | str:
    gap = float((found - true).abs().max())
    return gap <= far or f"off by {gap:.1e}"


class Mismatches(Cases):
    """What must be refused, and what must not."""

    id, sentence = "F12", "Shapes, types and devices do not fit."

    def cases(self) -> Iterator[Case]:
        for name, ask, naming in _wrong():
            yield name, partial(must_refuse, ask, KernelscopeError, naming=naming)
        for name, find in _right():
            yield name, partial(must_hold, find)


ROWS = (Mismatches,)
