r"""Whether a query is inside what was learned.

A step of training moves the answer to a query along the query's tangent feature :math:`\phi(x)`. What of this feature
is not in the span of those of the training samples, no step could have moved. The share that is, the *coverage*, says
how far an answer rests on what was trained, and what is left, the Schur complement, bounds how far any function of the
kernel that agrees on the training samples may differ at the query.
"""

from __future__ import annotations

import time
from typing import Any

import torch

from ...arguments import as_choice, as_switch, what_came
from ...decomposition.precision import checked_dtype, ledger_precision
from ...decomposition.questions import checked_memory, checked_place, checked_run
from ...decomposition.stochastic.points import as_points, samples_of
from ...decomposition.trajectory import Trajectory
from ...errors import DataError, ModelError
from ...network import undisturbed
from ...progress import Bar
from ...run.run import Run
from ..baselines import NEIGHBOUR
from ..states import times_of
from .answers import classes_of, rightness, trained_on
from .cautions import cautions
from .gradients import FEATURES, KERNELS, TIMES, features_of, layers_of, weights_of
from .ledger import draw_variance, ledger_scores
from .others import other_scores
from .result import ROUNDING, Coverage
from .scoring import kernel_scores, layer_scores
from .seen import look
from .spanning import spanned
from .subset import chosen


def coverage(run: Run, x: Any, *, kernel: str = "tangent", feature: str = "predicted", ridge: float = 1e-3,
             samples: Any = None, targets: Any = None, ledger: bool = False, sgd_variance: bool = False,
             baselines: bool = True, by_layer: bool = False, times: Any = None, dtype: torch.dtype | None = None,
             device: torch.device | str | None = None, memory: int | str = "1GB",
             progress: bool | None = None) -> Coverage:
    r"""The share of each query's tangent feature that lies inside the span of those of training.

    .. math:: c_\lambda(x) = \frac{k_x^T (K + \lambda)^{-1} k_x}{k(x, x)} \in [0, 1], \qquad
              \lambda = \rho\,\mathrm{tr} K / n

    It is a score of how well the network knows a query, beside others; each training sample's coverage by all others
    says how much is usual. The network is read in eval mode.

    Args:
        run: The recorded run, or a slice of it.
        x: The queries, in any form that :func:`decompose` takes.
        kernel: - ``"tangent"``: the gradients at the end of the run.
                - ``"path"``: those at some times of the run beside each other, weighted by its time.
                - ``"last layer"``: those by the parameters of the last layer alone.
        feature: - ``"predicted"``: the gradient of one logit: of a query that of the class predicted for it at the end
                   of the run, of a training sample that of its own class. Networks of one output have that one; of
                   several outputs that are no classes, or labels, all are taken, as by ``"trace"``. One-hot rows, and
                   numbers that are 0 or 1, are classes under any loss.
                 - ``"centred"``: the same logit minus the mean of all, which is what a softmax sees of it.
                 - ``"trace"``: the gradients of all outputs, beside each other.
        ridge: :math:`\rho`, the ridge as a share of the mean eigenvalue. Coverage by other ridges is told beside.
        samples: How many training samples span, drawn evenly from the classes, or their ids; all if not given.
        targets: The targets of the queries, which tell whether each prediction is right.
        ledger: Whether the scores of the exact decomposition are taken too; this goes through all steps of the run.
        sgd_variance: Whether the variance of the answer over draws of batches is taken too. It asks the gradients of
            all training samples at each step, which takes many times as long as the ledger.
        baselines: Whether other scores are taken too: max softmax, energy and GradNorm where outputs are logits or
            probabilities of classes, feature kNN, Mahalanobis, and pixel kNN, which needs no network.
        by_layer: Whether the coverage by each layer's parameters alone is taken too.
        times: At which times a path kernel takes gradients: how many, evenly, or numbers of steps; 16 if not given.
        dtype: The precision to compute gradients in, as in :func:`decompose`.
        device: Where to compute.
        memory: About how many bytes may be used, as a number or as ``"1GB"``.
        progress: Whether a bar is shown; on a terminal or in a notebook, if not given.

    Returns:
        The :class:`Coverage`.

    Raises:
        DataError: If queries, targets or options do not fit the run.
        ModelError: If the network is no function of a point.
        OutOfBudget: If there are more samples than can be taken apart.
        RuleError: If a path kernel asks for learning rates and there are none.

    References:
        | Sketching Curvature for Efficient Out-of-Distribution Detection (Sharma et al., arXiv 2102.12567)
        | GradOrth: Out-of-Distribution Detection with Orthogonal Projection of Gradients (Behpour et al., 2308.00310)
        | (f5) and (f6) of the theory notes

    Example:
        >>> import kernelscope as ks, torch.nn.functional as F
        >>> x, y = torch.eye(3)[:2], torch.ones(2, 1)
        >>> model = torch.nn.Linear(3, 1, bias=False)
        >>> optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        >>> with ks.record(model, (x, y), loss=F.mse_loss) as recording:
        ...     F.mse_loss(model(x), y).backward()
        ...     optimizer.step()
        >>> found = ks.coverage(recording.run, torch.tensor([[1.0, 1.0, 0.0], [1.0, 0.0, 1.0], [0.0, 0.0, 1.0]]))
        >>> found.coverage.round(decimals=2)                 # nothing was ever learned along the third axis
        tensor([1.0000, 0.5000, 0.0000], dtype=torch.float64)
    """
    begun = time.perf_counter()
    run = checked_run(run)
    as_choice(kernel, "kernel", KERNELS)
    as_choice(feature, "feature", FEATURES)
    ridge = _ridge(ridge)
    for value, name in ((ledger, "ledger"), (sgd_variance, "sgd_variance"), (baselines, "baselines"),
                        (by_layer, "by_layer")):
        as_switch(value, name)
    moments = _moments(run, kernel, times)
    weights = weights_of(run, moments) if kernel == "path" else None
    if weights is not None and not any(w for own in weights for w in own.values()):
        raise DataError("Every learning rate of this run is 0, so nothing moved and the path kernel is nought. Pass "
                        'kernel="tangent", or record a run that trained.')
    checked_dtype(dtype)
    memory = checked_memory(memory)
    quiet = None if progress is None else not as_switch(progress, "progress")
    place = checked_place(device, next(iter(run.network.parameters.values())).device)
    with undisturbed(place):
        queries = as_points(run, x, targets)
        held, passed_over = trained_on(run, samples_of(run))
        dtype, note = ledger_precision(run, dtype, queries.inputs, place)
        classes = classes_of(run, held)
        taken = chosen(held.ids, classes, samples)
        seen = look(Trajectory(run, dtype, place), queries, held, taken, classes, feature)
        right, unknown = rightness(run, queries, seen.predicted, seen.logits)
        layers = layers_of(_names(run, kernel, seen.last))
        features = features_of(run, seen.queries.classes is not None, seen.feature,
                               [name for names in layers.values() for name in names],
                               dtype=dtype, device=place, memory=memory)
        with Bar(total=len(moments), desc="coverage", unit="time", disable=quiet) as bar:
            found = spanned(features, run, moments, weights, seen, layers, memory, bar.update)
        others, fewer = other_scores(run, seen, dtype, place, memory) if baselines else ({}, None)
    ids = [held.ids[i] for i in taken.tolist()]
    labels = None if held.labels is None else [held.labels[i] for i in taken.tolist()]
    precision = str(dtype).removeprefix("torch.")
    scores = kernel_scores(found, seen, ridge, ids, labels, ROUNDING[precision])
    options = {"dtype": dtype, "device": place, "memory": memory, "progress": progress}
    book = ledger_scores(run, queries.inputs, seen, found.diagonal, **options) if ledger else {}
    draws, missing = draw_variance(run, queries.inputs, seen, **options) if sgd_variance else ({}, None)
    told = run.info()
    return Coverage(
        **scores, ridge=ridge, diagonal=found.diagonal, spectrum=found.span.values, classes=seen.predicted, right=right,
        change=None if seen.change is None else seen.change[0],
        by_layer=layer_scores(found, ridge) if by_layer else None, baselines=others, ledger=book | draws, kernel=kernel,
        feature=seen.feature, class_names=run.class_names if seen.predicted is not None else None,
        info={"run": {key: told[key] for key in ("path", "steps", "rules", "samples", "parameters", "loss", "dtype")},
              "samples": len(ids), "features": found.size, "times": moments, "modes": len(found.span.values),
              "solved": "n by n" if found.span.dual else "p by p", "last layer": seen.last, "neighbour": NEIGHBOUR,
              "dtype": precision,
              "notes": [words for words in (note, passed_over, *seen.notes, unknown, fewer,
                                            *cautions(found, seen.samples), missing) if words],
              "seconds": round(time.perf_counter() - begun, 3)})


def _ridge(ridge: Any) -> float:
    if isinstance(ridge, bool) or not isinstance(ridge, int | float) or not 0 <= ridge < float("inf"):
        raise DataError(f"ridge must be a number from 0 on, a share of the mean eigenvalue; {what_came(ridge)} came. "
                        "Pass ridge=1e-3.")
    return float(ridge)


def _moments(run: Run, kernel: str, times: Any) -> list[int]:
    """The times of the run at which gradients are taken."""
    if kernel == "path":
        return times_of(run, TIMES if times is None else times)
    if times is not None:
        raise DataError(f'times are those of a path kernel, and kernel="{kernel}" takes the end of the run. Leave '
                        'times out, or pass kernel="path".')
    if not len(run):
        raise DataError("This run has no steps, so nothing was trained. Record training, or take a longer slice.")
    return [len(run)]


def _names(run: Run, kernel: str, last: str | None) -> list[str]:
    """The parameters whose gradients are features."""
    if kernel != "last layer":
        return run.names
    names = [name for name in run.names if last is not None and name.rpartition(".")[0] == last]
    if not names:
        raise ModelError("No module with parameters is called, or the last one was not trained, so its gradients are "
                         'no features. Pass kernel="tangent".')
    return names
