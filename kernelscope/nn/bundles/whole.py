"""A network as a whole is replaced: towers of random features, and one matrix fitted to what it says."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from ...arguments import as_choice
from ...data.points import Points
from ...errors import DataError, NonFiniteError
from ...result import as_float64
from ...solvers.ridge import RidgePath
from ..towers import Fourier, Rectified, drawn
from .blockwise import reader_of
from .bundle_report import BundleReport
from .bundled import BundledLayer, BundledModel, flat
from .choosing import HELD, Plan, by_bandwidth, spread_over
from .closed_form import summed
from .comparing import Comparison, are_classes, check_targets, threshold
from .hooks import check_hooks
from .watching import BATCH, answered, batches


def whole(reader: nn.Module, points: Points, labels: Tensor | None, targets: Any, plan: Plan,
          test: tuple[Points, Tensor | None] | None) -> tuple[BundledModel, BundleReport]:
    """One matrix on random features for the whole network, and what that cost.

    Raises:
        DataError: If inputs or outputs are not one row of numbers for each point, or there is nothing to fit to.
    """
    if plan.tower == "neurons":
        raise DataError('A network as a whole has no layer of neurons to keep. Pass tower="rectified" or "fourier".')
    samples = _inputs(points)
    own, logits = _answers(reader, points)
    check_targets(labels, own, logits)
    classes = are_classes(labels, own, logits)
    fitted_to = "labels" if targets is None and labels is not None else "self" if targets is None else targets
    wanted = _targets(fitted_to, own, labels, classes, points)
    towers, x = [], flat(samples, samples[0].numel())
    mean, scale = _centre(x)
    near, draw = as_float64((x - mean) / scale), torch.Generator().manual_seed(plan.seed)
    for k, m in enumerate(plan.features):
        tower = _tower(near, wanted, m, draw, plan, k)
        # Rounded as they are kept, so that the next one is chosen for what it will be given.
        towers.append(tower.to(x))
        near = as_float64(towers[-1](near.to(x)))
    by_class = isinstance(fitted_to, str) and fitted_to == "labels"
    # What a network says is often nearly linear; what its labels are is not.
    layer = BundledLayer(mean, scale, towers, wanted.shape[1], not by_class if plan.skip is None else plan.skip)
    bundled = BundledModel(layer, 1.0, samples, wanted)
    bundled.ridge = bundled.path.best_ridge() if plan.ridge is None else plan.ridge
    layer.assign(bundled.path.coefficients(bundled.ridge))

    linear = RidgePath(summed(_affine(x, layer), wanted), torch.arange(x.shape[1] + 1) == x.shape[1])
    plain = linear.best_ridge()
    goal: Tensor | None
    if test is None:
        before, after, words, truth = own, bundled.leave_one_out(), "samples left out in turn", labels
        line, goal = linear.left_out(_affine(x, layer), wanted, plain), None if by_class else wanted
    else:
        given, words, truth = flat(_inputs(test[0]), x.shape[1]), "test points", test[1]
        before, after = _answers(reader, test[0])[0], layer(given.to(layer.mean))
        check_targets(truth, before, logits)
        line = _affine(given, layer) @ linear.coefficients(plain)
        goal = before if isinstance(fitted_to, str) and not by_class else None
    # What is fitted to classes as 0 and 1 lies between them.
    least = threshold(own)
    cuts = least, 0.5 if by_class else least
    result, other = Comparison(classes, *cuts), Comparison(classes, *cuts)
    off, far = Comparison(False), Comparison(False)
    result.add(before, after, truth)
    other.add(before, line, truth)
    if goal is not None:
        off.add(goal, after)
        far.add(goal, line)
    numbers = sum(p.numel() for p in reader.parameters())
    bundled.to(next((p.device for p in reader.parameters()), torch.device("cpu")))
    return bundled, BundleReport(
        mode="full", tower=plan.tower, blocks=["the whole network"], features=[layer.size], ridges=[bundled.ridge],
        errors=torch.tensor([off.error]), linear=torch.tensor([far.error]), accumulated=torch.tensor([off.error]),
        before=[numbers], after=[bundled.trainable_parameters], parameters_before=numbers,
        parameters_after=bundled.trainable_parameters, fixed=sum(b.numel() for b in layer.towers.buffers()),
        error=None if by_class else result.error, agreement=result.agreement,
        divergence=None if by_class else result.divergence, score_before=result.score("before"),
        score_after=result.score("after"), score_linear=other.score("after"), score=result.name, measured_on=words,
        count=result.count)


def _tower(x: Tensor, y: Tensor, m: int, draw: torch.Generator, plan: Plan, k: int) -> Rectified | Fourier:
    """The next tower, for what the one before gives in double precision."""
    if plan.tower == "fourier":
        # Features have length 1, inputs the root of their number.
        stretch = (x.shape[1] / float(x.square().sum(1).mean())) ** 0.5 if k else 1.0
        some = spread_over(len(x), HELD)
        return Fourier(stretch * by_bandwidth(stretch * x[some], y[some], m, draw, plan).rows)
    return drawn("rectified", m, x.shape[1], draw, rows=plan.rows)


def _centre(x: Tensor) -> tuple[Tensor, Tensor]:
    """The mean of each input and the spread of all."""
    exact = as_float64(x)
    mean = exact.mean(0)
    scale = float((exact - mean).square().mean()) ** 0.5 or 1.0
    return mean.to(x), torch.tensor(scale, dtype=torch.float64).to(x)


def _affine(x: Tensor, layer: BundledLayer) -> Tensor:
    near = (as_float64(x) - as_float64(layer.mean)) / as_float64(layer.scale)
    return torch.cat([near, torch.ones_like(near[:, :1])], 1)


def _inputs(points: Points) -> Tensor:
    """The points as one tensor.

    Raises:
        DataError: If they are none of real numbers.
    """
    given = points.part(0, len(points))
    if given.kwargs or len(given.args) != 1 or not isinstance(given.args[0], Tensor) or (
            not given.args[0].is_floating_point()):
        raise DataError("A network is bundled as a whole for inputs that are one tensor of real numbers with a row for "
                        'each point; these are several, named, or whole numbers. Pass mode="ffn" to bundle its blocks.')
    return given.args[0].detach().cpu()


def _answers(model: nn.Module, points: Points) -> tuple[Tensor, bool]:
    """The outputs for all points, with shape (n, c), and whether they may be logits."""
    parts = [answered(model, given) for _, given in batches(points, range(len(points)), BATCH)]
    found = torch.cat([as_float64(part) for part, _ in parts])
    if found.ndim != 2:
        raise DataError(f"A network bundled as a whole gives one row of outputs for each point; this one gives shape "
                        f'{tuple(found.shape[1:])} each. Flatten its outputs, or pass mode="ffn".')
    if not bool(found.isfinite().all()):
        raise NonFiniteError("The network gives NaN or infinite outputs for these points, and nothing can be fitted to "
                             "them. Look at its outputs first.")
    return found, parts[0][1]


def _targets(wanted: Any, own: Tensor, labels: Tensor | None, classes: bool, points: Points) -> Tensor:
    """What is fitted to, with shape (n, c)."""
    if isinstance(wanted, nn.Module):
        teacher = reader_of(wanted)
        check_hooks(wanted, teacher, points)
        wanted = _answers(teacher, points)[0]
    if isinstance(wanted, Tensor):
        if wanted.shape != own.shape or not bool(wanted.isfinite().all()):
            raise DataError(f"The outputs of a teacher are finite numbers with shape (n, c) for n = {len(own)} points "
                            f"and the c = {own.shape[1]} outputs of the network; shape {tuple(wanted.shape)} came.")
        return as_float64(wanted)
    if as_choice(wanted, "targets", ("self", "labels")) == "self":
        return own
    if labels is None:
        raise DataError('targets="labels" needs labels. Pass them as y.')
    if not classes:
        return as_float64(labels).reshape(len(own), -1)
    if int(labels.min()) < 0:
        raise DataError(f"Classes are counted from 0; {int(labels.min())} came.")
    if own.shape[1] == 1:
        return as_float64(labels).reshape(-1, 1)
    return nn.functional.one_hot(labels.long().flatten(), own.shape[1]).double()
