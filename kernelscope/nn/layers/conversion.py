r"""A trained layer :math:`f(Wx + b)` turned into a layer that is a kernel, in closed form, and how good it is.

.. math:: \min_{\Psi, L, c} \frac1n \sum_i |\Phi(x_i)\Psi^T + L x_i + c - f(W x_i + b)|^2 + \lambda |\Psi|^2

With ``ridge`` the tower has random neurons, mixtures of two of the layer's own each, of which those are kept that
explain most of what a linear map does not; with ``cur`` some of the layer's own neurons; with ``analytic`` the
random features that are right on average without any fit.

References:
    | Scalable Neural Network Kernels (Sehanobish et al., 2024)
    | CUR matrix decompositions for improved data analysis (Mahoney and Drineas, 2009)
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import cached_property
from numbers import Real
from typing import Any

import torch
from torch import Tensor, nn

from ...arguments import as_choice, as_count, as_part, as_seed, what_came
from ...errors import ConversionRefused, DataError, NonFiniteError
from ...features.directions import KINDS, directions
from ...features.planning import plan_layer
from ...progress import counting
from .activations import Activation, as_activation, check_each
from .baselines import (
    directions_of,
    fitted,
    least_squares,
    linear_map,
    low_rank,
    narrower,
    relative,
    strength,
    svd_floor,
    with_one,
)
from .layer import SNNKLinear, as_rank
from .report import ConversionReport
from .selection import LOOKED_AT, forward_selection

#: How a layer can be converted.
MODES = ("ridge", "cur", "analytic", "trainable")

#: Up to which kappa r a layer is a constant to the digits.
CONSTANT = 1e-12

#: How many random neurons are drawn for each that is kept, and at most.
DRAWN, MOST = 32, 4096

#: Below how many inputs for each coefficient it is tried whether features help at all, and in how many parts.
FEW, FOLDS = 4, 5

#: What each mode looks at, of what only some of them do.
TAKES = {"ridge": ("ridge", "tower", "skip"), "cur": ("ridge", "skip"), "analytic": (), "trainable": ("tower", "skip")}

#: Bandwidths that are tried, as shares of the median distance.
BANDWIDTHS = (0.25, 0.5, 1.0, 2.0, 4.0)


@dataclass(frozen=True, eq=False)
class Task:
    """A layer to convert, with inputs that are fitted and inputs that are held out, in double precision.

    Attributes:
        weights: W with shape (l, d).
        bias: b with shape (l,).
        activation: The function f.
        name: Its name, if it has one.
        seen: Inputs that are fitted, with shape (n, d).
        held: Inputs that are held out, with shape (k, d).
        outputs: The layer's outputs at those fitted, with shape (n, l).
        unseen: Its outputs at those held out, with shape (k, l).
        some: Places of those among the fitted that rows are chosen on, with shape (q,).
    """

    weights: Tensor
    bias: Tensor
    activation: Activation
    name: str | None
    seen: Tensor
    held: Tensor
    outputs: Tensor
    unseen: Tensor
    some: Tensor

    @cached_property
    def directions(self) -> tuple[Tensor, Tensor]:
        """Singular values of what the linear map gives for centred inputs, and directions of outputs."""
        return directions_of(self.seen - self.seen.mean(0), self.weights)

    @cached_property
    def reduced_rank(self) -> Tensor:
        """Directions of inputs by how much a linear map says of the outputs through them, with shape (k, d)."""
        slopes = least_squares(with_one(self.seen), self.outputs)[:-1].T
        _, v = directions_of(self.seen - self.seen.mean(0), slopes)
        return v @ slopes


def convert(linear: nn.Module, activation: Any, x_calibration: Tensor, features: int = 64, mode: str = "ridge", *,
            seed: int = 0, kind: str = "orthogonal", held_out: float | Tensor = 0.25, ridge: float | None = None,
            tower: str | None = None, skip: bool | int = True,
            chosen_from: int = LOOKED_AT) -> tuple[SNNKLinear, ConversionReport]:
    r"""Converts a trained layer :math:`f(Wx + b)` and measures the result on inputs that it was not fitted to.

    Where there are few inputs for each coefficient, ``ridge`` mode tries by cross-validation whether features help at
    all, and takes none if they do not. Time grows as :math:`n d^2 + n l^2`, most of it for the baselines of the report,
    and memory is some ten copies of inputs and outputs in double precision: some minutes and 2 GB for 8,000 inputs of a
    layer from 3,072 numbers to 3,072, on one core. A bar tells how far it is.

    Args:
        linear: The linear map: a ``torch.nn.Linear``, or a layer with ``weight`` with shape (l, d) and ``bias``.
        activation: The function after it: a name, a module or a function.
        x_calibration: Inputs to the layer, with shape (*, d). Of sequences, with shape (n, t, d), whole ones are held
            out.
        features: How many features m.
        mode: ``"ridge"``, random neurons with coefficients by ridge regression; ``"cur"``, neurons of the layer itself
            that stay as they are, the others by ridge regression on them; ``"analytic"``, random features that are
            right on average; or ``"trainable"``, random features and coefficients that are not fitted at all.
        seed: Which random numbers.
        kind: How directions are drawn, see ``features.directions``.
        held_out: The share of the inputs that is held out; or further inputs, which are held out instead.
        ridge: The ridge; without it the one with the least generalised cross-validation.
        tower: In ``ridge`` mode ``"neurons"``, ``"rectified"`` or ``"fourier"``; without it the one with the least
            generalised cross-validation.
        skip: In ``ridge`` and ``cur`` mode whether there is a linear map beside the features, or its rank. One of full
            rank takes as many multiplications as the layer itself.
        chosen_from: On how many of the inputs, at most, neurons are chosen; those are drawn at random. All are fitted.

    Returns:
        The layer, on the device and in the digits of ``linear``, and its :class:`ConversionReport`.

    Raises:
        DataError: If an argument is none that can be taken, or there are too few inputs.
        NonFiniteError: If inputs or outputs are not finite.
        ConversionRefused: If an analytic conversion would be worse than a linear map.

    References:
        | Scalable Neural Network Kernels (Sehanobish et al., 2024)

    Example:
        >>> x = torch.randn(400, 6)
        >>> layer, report = convert(nn.Linear(6, 40), "tanh", x, features=8)
        >>> layer(x).shape, report.rel_frob < report.linear_rel
        (torch.Size([400, 40]), True)
    """
    mode = as_choice(mode, "mode", MODES)
    features, seed, kind = as_count(features, "features", 1), as_seed(seed), as_choice(kind, "kind", KINDS)
    if tower is not None:
        tower = as_choice(tower, "tower", _RIDGE_TOWERS)
    ridge = _ridge_of(ridge)
    _check_taken(mode, {"ridge": ridge is not None, "tower": tower is not None, "skip": skip is not True})
    task = _task(linear, activation, x_calibration, held_out, seed, as_count(chosen_from, "chosen_from", 2))
    rank = as_rank(skip, task.seen.shape[1])
    width = task.seen.shape[1] if rank is None else rank
    if mode in ("ridge", "cur") and len(task.seen) <= width + 1:
        raise DataError(f"{len(task.seen)} inputs do not tell a linear skip of {width} numbers and a constant apart. "
                        "Pass more inputs, or a skip of small rank such as skip=8.")
    with torch.no_grad():
        linear_rel = relative(linear_map(task.seen, task.outputs, task.held), task.unseen)
        layer, facts = _MADE[mode](task, features, seed=seed, kind=kind, ridge=ridge, tower=tower, rank=rank,
                                   linear_rel=linear_rel)
        lengths = task.seen.norm(dim=1)
        layer.norms.copy_(torch.stack((lengths.min(), lengths.max())))
        report = _report(task, layer, mode, features, linear_rel, facts | {"seed": seed, "kind": kind})
    weight: Any = linear.weight
    return layer.to(weight.device, weight.dtype), report


def _check_taken(mode: str, given: dict[str, bool]) -> None:
    """Whether a mode looks at all that was given."""
    for name, came in given.items():
        if came and name not in TAKES[mode]:
            modes = " or ".join(f'mode="{other}"' for other, taken in TAKES.items() if name in taken)
            raise DataError(f'{name} is not looked at with mode="{mode}". Leave it out, or pass {modes}.')


def _ridge_of(value: Any) -> float | None:
    """The ridge, if one was given."""
    if value is not None and (isinstance(value, bool) or not isinstance(value, Real) or not 0 <= float(value)):
        raise DataError(f"ridge must be a number from 0 on; {what_came(value)} came. Leave it out to have it chosen.")
    return None if value is None else float(value)


def _task(linear: Any, activation: Any, x: Any, held_out: Any, seed: int, most: int) -> Task:
    """The arguments as they are meant."""
    weight = getattr(linear, "weight", None)
    if not isinstance(weight, Tensor) or weight.ndim != 2:
        raise DataError(f"linear must have weight with shape (l, d), as torch.nn.Linear has; {what_came(linear)} came. "
                        "Pass the linear map alone, and the function after it as activation.")
    weights = weight.detach().double()
    bias = getattr(linear, "bias", None)
    shift = weights.new_zeros(len(weights)) if bias is None else bias.detach().double()
    name, function = as_activation(activation)
    if isinstance(function, nn.Module):
        function.to(weights)
    seen = _inputs(x, "x_calibration", weights)
    draw = torch.Generator().manual_seed(seed)
    if isinstance(held_out, Tensor):
        held = _inputs(held_out, "held_out", weights)
    else:
        # Inputs of one sequence are alike: some of them would not be held out while others are fitted.
        whole = seen.reshape(len(x), -1, seen.shape[1]) if x.ndim > 2 else seen
        what = "sequences" if x.ndim > 2 else "inputs"
        count = round(as_part(held_out, "held_out", "0.25") * len(whole))
        if count < 1 or len(whole) - count < (1 if x.ndim > 2 else 2):
            raise DataError(f"x_calibration has {len(whole)} {what}, of which {count} would be held out. Pass more, or "
                            f"further inputs to hold out: held_out=inputs.")
        order = torch.randperm(len(whole), generator=draw).to(seen.device)
        held, seen = (whole[part].reshape(-1, seen.shape[1]) for part in (order[:count], order[count:]))
    with torch.no_grad(), torch.random.fork_rng([weights.device] if weights.is_cuda else []):
        outputs, unseen = (function(part @ weights.T + shift) for part in (seen, held))
    if outputs.shape != (len(seen), len(weights)):
        raise DataError(f"activation must be a function of each number; from shape {(len(seen), len(weights))} it made "
                        f"{tuple(outputs.shape)}.")
    if not bool(outputs.isfinite().all() and unseen.isfinite().all()):
        raise NonFiniteError("The layer's outputs at these inputs are not all finite. Look at the inputs, the weights "
                             "and the activation.")
    with torch.no_grad(), torch.random.fork_rng([weights.device] if weights.is_cuda else []):
        check_each(function, seen @ weights.T + shift)
    n = len(seen)
    some = torch.randperm(n, generator=draw)[:most].sort().values if n > most else torch.arange(n)
    return Task(weights, shift, function, name, seen, held, outputs, unseen, some.to(seen.device))


def _inputs(x: Any, name: str, weights: Tensor) -> Tensor:
    """Inputs with shape (n, d), in double precision."""
    if not isinstance(x, Tensor) or x.ndim < 1 or x.shape[-1] != weights.shape[1] or not x.is_floating_point():
        came = f"a tensor of {x.dtype} with shape {tuple(x.shape)}" if isinstance(x, Tensor) else what_came(x)
        raise DataError(f"{name} must be inputs to the layer, a tensor of floating point with shape "
                        f"(*, {weights.shape[1]}); {came} came.")
    points = x.detach().reshape(-1, weights.shape[1]).to(weights)
    if not len(points):
        raise DataError(f"{name} has no inputs. Pass some hundreds that are like those the layer will see.")
    if not bool(points.isfinite().all()):
        raise NonFiniteError(f"{name} has numbers that are not finite. Leave such inputs out.")
    return points


def _report(task: Task, layer: SNNKLinear, mode: str, features: int, linear_rel: float,
            facts: dict[str, Any]) -> ConversionReport:
    """Errors on what was held out, beside those of the baselines."""
    found, unseen = layer(task.held), task.unseen
    centred = unseen - unseen.mean(0)
    left, all_of_it = (found - unseen).square().sum(0), centred.square().sum(0)
    count = min(features, len(task.weights))
    predicted = facts.pop("predicted", None)
    with counting(4, "baselines", "baseline") as done:
        floor = svd_floor(unseen, features)
        done(1)
        without = unseen - linear_map(task.held, unseen, task.held)
        residual = torch.linalg.svdvals(without).square()[features:].sum().sqrt() / unseen.norm().clamp(min=1e-300)
        done(1)
        singular, outwards = task.directions
        thin = low_rank(task.seen.mean(0), outwards[:features], task.weights, task.bias, task.activation, task.held)
        done(1)
        fewer = narrower(task.outputs, task.some, count, unseen)
        done(1)
    return ConversionReport(
        mode=mode, tower=layer.tower_name, activation=task.name, features=features, inputs=layer.in_features,
        outputs=layer.out_features, skip=-1 if layer.skip_rank is None else layer.skip_rank,
        fitted=len(task.seen), held_out=len(task.held), rel_frob=relative(found, unseen),
        rel_max=float((found - unseen).abs().max() / unseen.abs().max().clamp(min=1e-300)),
        svd_floor=floor, skip_floor=float(residual), linear_rel=linear_rel,
        low_rank_rel=relative(thin, unseen), narrower_rel=relative(fewer, unseen),
        kappa_r=strength(task.weights, task.bias, task.seen, singular), predicted_rel=predicted,
        outside=float(layer.outside(task.held).double().mean()),
        parameters=sum(p.numel() for p in layer.parameters()), multiplications=layer.multiplications,
        r2_per_neuron=torch.where(all_of_it > 0, 1 - left / all_of_it.clamp(min=1e-300), (left == 0).to(left)).cpu(),
        info=facts)


def _ridge(task: Task, features: int, *, seed: int, kind: str, ridge: float | None, tower: str | None,
           rank: int | None, **_: Any) -> tuple[SNNKLinear, dict[str, Any]]:
    """The best of some towers, or no features where the inputs are too few to choose any."""
    options: dict[str, Any] = {"seed": seed, "kind": kind, "ridge": ridge, "tower": tower, "rank": rank}
    width = (task.seen.shape[1] if rank is None else rank) + 1
    if len(task.seen) < FEW * (width + features) and not _settled(task, features, width, options):
        cross, chosen, layer = _alone(task, rank)
        return layer, {"ridge": chosen, "gcv": cross, "too few inputs": True}
    cross, chosen, layer = _best_tower(task, features, **options)
    return layer, {"ridge": chosen, "gcv": cross}


def _settled(task: Task, features: int, width: int, options: dict[str, Any]) -> bool:
    """Whether features help at inputs that they were neither chosen nor fitted on; with the ridge that parts agree on.

    Generalised cross-validation takes a ridge of next to nothing every now and then where inputs are few.
    """
    parts = list(_parts(task, options["seed"]))
    if any(len(part.seen) <= width for part in parts):
        return False
    if options["ridge"] is None:
        found = sorted((_best_tower(part, features, **options)[1:] for part in parts), key=lambda fit: fit[0])
        options |= {"ridge": found[len(found) // 2][0], "tower": found[len(found) // 2][1].tower_name}
    beside = sum(_left(part, _best_tower(part, features, **options)[2]) for part in parts)
    return beside < sum(_left(part, _alone(part, options["rank"])[2]) for part in parts)


def _parts(task: Task, seed: int) -> Iterator[Task]:
    """The same task with a part of the fitted inputs held out each time."""
    n, device = len(task.seen), task.seen.device
    order = torch.randperm(n, generator=torch.Generator().manual_seed(seed)).to(device)
    for out in order.chunk(min(FOLDS, n)):
        kept = torch.ones(n, dtype=torch.bool, device=device)
        kept[out] = False
        yield replace(task, seen=task.seen[kept], outputs=task.outputs[kept], held=task.seen[out],
                      unseen=task.outputs[out], some=torch.arange(n - len(out), device=device))


def _left(task: Task, layer: SNNKLinear) -> float:
    """The sum of squares that a layer leaves of what is held out."""
    return float((layer(task.held) - task.unseen).square().sum())


def _alone(task: Task, rank: int | None) -> tuple[float, float, SNNKLinear]:
    """The skip and the constant without features."""
    return _with_rows(task, 0, "neurons", task.weights[:0], task.bias[:0], None, rank)


def _best_tower(task: Task, features: int, *, seed: int, kind: str, ridge: float | None, tower: str | None,
                rank: int | None) -> tuple[float, float, SNNKLinear]:
    """Random neurons or waves; the kind of tower, the bandwidth and the ridge with the least cross-validation."""
    tries: list[tuple[float, float, SNNKLinear]] = []
    for name in _RIDGE_TOWERS if tower is None else (tower,):
        for rows, shifts in _RIDGE_TOWERS[name](task, features, seed, kind, rank):
            tries.append(_with_rows(task, min(features, len(rows) * (1 + (name == "fourier"))), name, rows, shifts,
                                    ridge, rank))
    return min(tries, key=lambda found: found[0])


def _with_rows(task: Task, size: int, name: str, rows: Tensor, shifts: Tensor, ridge: float | None,
               rank: int | None) -> tuple[float, float, SNNKLinear]:
    """A layer with these rows, fitted: its cross-validation, its ridge and itself."""
    layer = _empty(task, size, name, rank)
    layer.tower.place(rows, shifts)
    _place_skip(task, layer)
    theta, chosen, cross = fitted(layer.tower(task.seen), _free(layer, task.seen), task.outputs, ridge)
    _place(layer, theta)
    return cross, chosen, layer


def _cur(task: Task, features: int, *, ridge: float | None, rank: int | None,
         **_: Any) -> tuple[SNNKLinear, dict[str, Any]]:
    """Neurons of the layer that stay as they are; the others from them, by ridge regression."""
    count = min(features, len(task.weights))
    kept = _selected(task, task.outputs[task.some], count, rank)
    # Neurons that others explain to the digits are left last, and needed only where all are asked for.
    others = [j for j in range(len(task.weights)) if j not in set(kept.tolist())]
    kept = torch.cat((kept, torch.tensor(others[:count - len(kept)], dtype=torch.long)))
    cross, chosen, layer = _with_rows(task, len(kept), "neurons", task.weights[kept], task.bias[kept], ridge, rank)
    layer.coefficients[kept] = torch.eye(len(kept)).to(layer.coefficients)
    layer.constant[kept] = 0
    if layer.skip is not None:
        layer.skip[kept] = 0
    return layer, {"ridge": chosen, "gcv": cross, "neurons": kept.tolist()}


def _analytic(task: Task, features: int, *, seed: int, kind: str, linear_rel: float,
              **_: Any) -> tuple[SNNKLinear, dict[str, Any]]:
    """Random features that are right on average, where they promise less error than a linear map."""
    strong = strength(task.weights, task.bias, task.seen, task.directions[0])
    if features < 2:
        raise ConversionRefused(f"An analytic conversion has pairs of features, and {features} was asked for. Pass "
                                "features=2 or more.")
    if strong <= CONSTANT:
        raise ConversionRefused(
            "The layer gives the same for all inputs, so that there are no waves of what it sees to take apart: the "
            'inputs are all alike, or its weights are nought. Pass other inputs, or mode="cur", which is a constant.'
        )
    plan = plan_layer(task.activation, features - features % 2, task.seen, task.weights, task.bias,
                      positive="parameters", kind=kind, seed=seed)
    if plan.predicted_error > linear_rel + 1e-9:
        raise ConversionRefused(
            f"An analytic conversion with {features} features would be off by {plan.predicted_error:.3g}, relative to "
            f"the layer's outputs, and a linear map is off by {linear_rel:.3g}: inputs and weights are too long for "
            f"its frequencies (kappa r = {strong:.2g}; up to about 1 it works). Pass "
            'mode="ridge" or mode="cur", which are fitted, or more features.'
        )
    near, waves, spectrum = plan.layer, plan.features.waves, plan.features.spectrum
    layer = _empty(task, waves.columns, "universal", None, len(near.transform))
    tower: Any = layer.tower
    tower.balance.copy_(near.transform)
    tower.offset.copy_(-near.transform @ near.center)
    if waves.columns:
        rows, heights = waves.rows("inputs", kind, seed)[::2]
        tower.place(rows, rows.new_zeros(len(rows)))
        tower.bases.copy_(heights[0])
        tower.rates.copy_(heights[1])
        layer.coefficients.copy_(plan.parameters()[:, -waves.columns:])
    assert layer.skip is not None
    layer.skip.copy_(spectrum.slope * near.weights @ near.transform)
    layer.constant.copy_(spectrum.constant + spectrum.slope * near.bias - layer.skip @ near.center)
    return layer, {"predicted": plan.predicted_error, "frequencies": list(spectrum.frequencies),
                   "pairs": list(plan.features.counts), "directions": len(near.transform)}


def _trainable(task: Task, features: int, *, seed: int, kind: str, tower: str | None, rank: int | None,
               **_: Any) -> tuple[SNNKLinear, dict[str, Any]]:
    """Random features and coefficients, of the layer's shape."""
    activation = task.activation if task.name is None else task.name
    layer = SNNKLinear(task.seen.shape[1], len(task.weights), features, tower=tower or "neurons",
                       activation=activation, skip=True if rank is None else rank, seed=seed, kind=kind)
    return layer.to(task.weights), {}


def _neurons(task: Task, features: int, seed: int, kind: str, rank: int | None,
             function: Activation | None = None) -> list[tuple[Tensor, Tensor]]:
    """Random mixtures of two of the layer's neurons each, of which those are kept that explain most."""
    function = task.activation if function is None else function
    own = torch.cat((task.weights, task.bias[:, None]), 1)
    count = max(features, min(DRAWN * features, MOST))
    draw = torch.Generator().manual_seed(seed)
    pairs = torch.randint(len(own), (count, 2), generator=draw).to(own.device)
    shares = torch.nn.functional.normalize(directions(count, 2, "independent", draw).to(own), dim=1)
    mixed = (shares[:, :, None] * own[pairs]).sum(1)
    chosen = _selected(task, function(task.seen[task.some] @ mixed[:, :-1].T + mixed[:, -1]), features, rank)
    return [(mixed[chosen, :-1], mixed[chosen, -1])]


def _selected(task: Task, candidates: Tensor, count: int, rank: int | None) -> Tensor:
    """The columns that explain most of the outputs, beside a linear skip, all on the inputs that are looked at."""
    layer = _empty(task, 0, "neurons", rank)
    _place_skip(task, layer)
    return forward_selection(candidates, task.outputs[task.some], _free(layer, task.seen[task.some]), count)


def _rectified(task: Task, features: int, seed: int, kind: str, rank: int | None) -> list[tuple[Tensor, Tensor]]:
    return _neurons(task, features, seed, kind, rank, torch.relu)


def _fourier(task: Task, features: int, seed: int, kind: str, rank: int | None) -> list[tuple[Tensor, Tensor]]:
    """Random waves of some bandwidths."""
    some = task.seen[:500]
    median = torch.pdist(some).median() if len(some) > 1 else some.new_ones(())
    rows = directions(-(-features // 2), task.seen.shape[1], kind, seed).to(task.seen)
    return [(rows / (share * median.clamp(min=1e-300)), rows.new_zeros(len(rows))) for share in BANDWIDTHS]


_RIDGE_TOWERS: dict[str, Callable[..., list[tuple[Tensor, Tensor]]]] = {
    "neurons": _neurons, "rectified": _rectified, "fourier": _fourier}

_MADE: dict[str, Callable[..., tuple[SNNKLinear, dict[str, Any]]]] = {
    "ridge": _ridge, "cur": _cur, "analytic": _analytic, "trainable": _trainable}


def _empty(task: Task, features: int, tower: str, rank: int | None, inner: int | None = None) -> SNNKLinear:
    """A layer of the shape of the one to convert, in double precision."""
    activation = task.activation if task.name is None else task.name
    layer = SNNKLinear(task.seen.shape[1], len(task.weights), features, tower=tower, activation=activation,
                       skip=True if rank is None else rank, inner=inner)
    return layer.to(task.weights)


def _place_skip(task: Task, layer: SNNKLinear) -> None:
    """For a skip of small rank the directions of inputs that say most of the outputs: reduced-rank regression."""
    if layer.skip_rank:
        rows = task.reduced_rank[:layer.skip_rank]
        layer.skip_rows[:len(rows)] = rows


def _free(layer: SNNKLinear, x: Tensor) -> Tensor:
    """The columns that are not penalised: those of the skip and the constant."""
    return with_one(x[:, :0] if layer.skip is None else layer._skipped(x))


def _place(layer: SNNKLinear, theta: Tensor) -> None:
    """Puts fitted coefficients into a layer."""
    size = layer.tower.size
    layer.coefficients.copy_(theta[:size].T)
    if layer.skip is not None:
        layer.skip.copy_(theta[size:-1].T)
    layer.constant.copy_(theta[-1])
