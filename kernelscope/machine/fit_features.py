"""From a map of features, points and targets to a machine, in the space of the features."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from ..arguments import as_switch, what_came
from ..budget import as_bytes, as_words
from ..data.points import Points
from ..errors import DataError, OutOfBudget
from ..features.base import FeatureMap, check_alike, points_between
from ..kernels.of_features import FeatureKernel
from ..progress import counting, telling
from ..solvers import Squared
from ..solvers.losses import as_loss
from ..solvers.ridge import RidgePath
from .checking import usable
from .plan import ENOUGH, FIRST, PRODUCT, SIDE, Plan, seconds_of
from .primal import FeatureMachine, features_of
from .reading import checked_ridges, checked_weights, look_over, points_and_targets, read_weights, validation_of
from .ridges import Ridges
from .samples import EACH, SHARE, Samples, equations_of

#: How many matrices of features by features are held at once, and the multiplications and additions of a
#: factorisation, in cubes of the number of features.
MATRICES, CUBES = 6, 10.0

#: What other solvers take, and the solver of features does not: what it has instead.
OTHERS = {
    "centers": "Every sample is fitted, at the cost of none",
    "checkpoint": "The work is one pass",
    "tiles": "There is no kernel matrix",
    "patience": "There is nothing that could end early",
}


def fit_features(k: Any, x: Any, y: Any, ridge: Any, intercept: Any, weights: Any, validation: Any, memory: Any,
                 say: Callable[[str], None], progress: bool | None, **others: Any) -> FeatureMachine:
    """Fits a machine of features: one pass over the samples, then all ridges from one factorisation.

    Raises:
        DataError: If something was asked for that only other solvers do, or shapes do not fit together.
        NonFiniteError: If a point, a target, a weight or a feature is NaN or infinite.
        OutOfBudget: If the products of features do not fit into ``memory``.
    """
    start = time.monotonic()
    features = features_of(k)
    _refuse(features, others)
    kernel = usable(FeatureKernel(features), None)
    ridges, constant, room = checked_ridges(ridge), as_switch(intercept, "intercept"), as_bytes(memory)
    points, targets = points_and_targets(kernel, x, y)
    checked_weights(weights, len(points))
    w = None if weights is None else read_weights(weights, len(points))
    # Their sum may be more than a number can be, or less.
    unit = 1.0 if w is None else float(w.max())
    held = validation_of(kernel, validation, targets)
    look_over(kernel, points, None)
    features = features.fitted(points)
    if held is not None:
        check_alike(features, held[0], features, points)
    samples = Samples(points, targets.view(len(points), -1).clone(), None if w is None else w / unit)
    plan = planned_features(features, samples, ridges, constant, room)
    say(repr(plan))
    with telling(progress), counting(len(points), "features", "points") as done:
        watched = Samples(points.watched(done), samples.targets, samples.weights)
        equations = equations_of(watched, features, constant, room)
    free = torch.zeros(len(equations.gram), dtype=torch.bool)
    free[len(free) - constant:] = True
    path = RidgePath(equations, free)
    errors = None if held is None else _errors(path, ridges, features, constant, held[0], held[1], room)
    found = Ridges.of(path, list(ridges), errors, time.monotonic() - start, plan.plain())
    say(repr(found))
    return FeatureMachine(features, path, found, intercept=constant, single=targets.ndim == 1, samples=samples,
                          unit=unit, memory=room)


def planned_features(features: FeatureMap, samples: Samples, ridges: tuple[float, ...], constant: bool,
                     memory: int) -> Plan:
    """What the work takes.

    Raises:
        OutOfBudget: If the products of features do not fit into memory.
    """
    points, c = samples.points, samples.targets.shape[1]
    like, each = _seconds_of_point(features, points)
    n, p = len(points), like.flatten(1).shape[1] + constant
    matrices = 8.0 * p * (MATRICES * p + (2 + len(ridges)) * c)
    if matrices > (1 - SHARE) * memory:
        raise OutOfBudget(
            f"The products of {p:,} features need {as_words(matrices / (1 - SHARE))}, and memory allows "
            f"{as_words(memory)}. Take fewer features, raise memory, or fit their kernel, with a coefficient for each "
            f'of {n:,} points: ks.fit(features, x, y, solver="{"direct" if n < p else "eigenpro"}").'
        )
    a = like.new_ones(PRODUCT, PRODUCT, dtype=torch.float64)
    rate = seconds_of(lambda: a @ a) / (2.0 * PRODUCT**3)
    operations = 2.0 * n * p * (p + c) + CUBES * float(p)**3
    name = str(like.dtype)[6:]
    words = (f"{features!r}, {n:,} point{'s' * (n > 1)}, {c} output{'s' * (c > 1)}, {name}"
             + (f", {len(ridges)} ridges" if len(ridges) > 1 else f", ridge {ridges[0]:g}"))
    if ridges == (0.0,):
        words += ", which is none; ridge=[1e-6, 1e-3, 1] takes the one of these with the smallest GCV"
    why = f"{operations:.1e} operations, all ridges from one factorisation of {p:,} columns"
    return Plan(words, "primal", "primal", why, operations, matrices + min(SHARE * memory, float(EACH) * n * p), 1.0,
                n * each + operations * rate)


def _seconds_of_point(features: FeatureMap, points: Points) -> tuple[Tensor, float]:
    """The features of some points, and the seconds that those of one take."""
    side = FIRST
    while True:
        some = points_between(points, 0, side)
        start = time.perf_counter()
        values = features.phi(some)
        # Work on a GPU is done when its answer is there.
        float(values.sum())
        seconds = time.perf_counter() - start
        if seconds > ENOUGH or side >= min(SIDE, len(points)):
            return values, seconds / len(some)
        side *= 2


def _errors(path: RidgePath, ridges: tuple[float, ...], features: FeatureMap, constant: bool, points: Points,
            targets: Tensor, memory: int) -> Tensor:
    """The mean square over points and outputs, for each ridge."""
    thetas = torch.stack([path.coefficients(ridge) for ridge in ridges])
    total = thetas.new_zeros(len(ridges))
    y = targets.view(len(points), -1)
    for p, y2, _ in Samples(points, y).rows(features, constant, memory):
        for i, theta in enumerate(thetas):
            total[i] += (p.to(theta) @ theta - y2.to(theta)).square().sum()
    return (total / y.numel()).cpu()


def _refuse(features: FeatureMap, others: dict[str, Any]) -> None:
    """What was asked for that is not done here."""
    loss = others["loss"]
    if loss is not None and type(as_loss(loss)) is not Squared:
        raise DataError(f"The weights of features are solved for by the squared loss; {what_came(loss)} came. Pass "
                        "ks.kernels.FeatureKernel(features) for another loss.")
    if as_switch(others["distributed"], "distributed"):
        raise DataError("The weights of features are solved for by one process. Leave distributed out, or pass "
                        "ks.kernels.FeatureKernel(features).")
    odd = next((name for name in OTHERS if others[name] is not None), None)
    if odd is not None:
        raise DataError(f"{OTHERS[odd]} where the weights of {features!r} are solved for, and {odd}="
                        f"{what_came(others[odd])} came. Leave {odd} out, or pass "
                        "ks.kernels.FeatureKernel(features), whose solvers take it.")
