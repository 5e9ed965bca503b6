"""What a run's network says of queries and of training samples: outputs at both ends, classes, and last features."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ...decomposition.stochastic.points import Points
from ...decomposition.trajectory import Trajectory
from ...errors import DataError, ModelError, NonFiniteError
from ...network import cast
from ...result import as_float64
from ...run.run import Run
from ..last_layer import LastLayer
from .answers import all_outputs, answered, tells_apart
from .gradients import Side, picked


@dataclass(frozen=True, eq=False)
class Seen:
    """Queries and training samples, as the network answers them at the end of the run.

    Attributes:
        queries: The queries, and the class whose logit is taken of each.
        samples: The same of training samples, with their own classes.
        feature: Which feature is taken, after what the network allows.
        logits: The outputs for the queries, with shape (q, c), as logits where they are probabilities.
        classes: The class of each training sample, if targets stand for some.
        predicted: The class predicted for each query, if targets stand for classes.
        change: What the number whose gradient is the feature changed by over the run, of queries and of samples;
            ``None`` where there are several.
        into: What goes into the last layer, of queries and of samples; ``None`` where there is none.
        last: The name of the last layer.
        notes: What is said of it.
    """

    queries: Side
    samples: Side
    feature: str
    logits: Tensor
    classes: Tensor | None
    predicted: Tensor | None
    change: tuple[Tensor, Tensor] | None
    into: tuple[Tensor, Tensor] | None
    last: str | None
    notes: list[str]


def look(trajectory: Trajectory, queries: Points, samples: Points, taken: Tensor, classes: Tensor | None,
         feature: str) -> Seen:
    """Asks the network, at both ends of the run.

    Args:
        trajectory: The run.
        queries: The queries.
        samples: The training samples.
        taken: The places of those that count.
        classes: The class of each of them, or ``None``.
        feature: ``"predicted"``, ``"centred"`` or ``"trace"``.

    Raises:
        DataError: If a feature is asked for that the outputs do not have.
        NonFiniteError: If the network answers with NaN.
    """
    run, place = trajectory.run, trajectory.device
    if not len(queries):
        raise DataError("Coverage is that of queries, and none came: x has no rows. Pass at least one.")
    inputs = cast(queries.inputs, trajectory.dtype, place)
    own = cast(tuple(t[taken] for t in samples.inputs), trajectory.dtype, place)
    classes = None if classes is None else classes[taken]
    places = ((trajectory.at(run.start), trajectory.first_buffers()),
              (trajectory.at(run.stop), trajectory.buffers(run.stop)))
    ends = [LastLayer(run.network, parameters, buffers, own) for parameters, buffers in places]
    (first, _), (final, into) = (_asked(end, run, inputs) for end in ends)
    (first_own, _), (final_own, into_own) = (_asked(end, run, own) for end in ends)
    width = final.shape[1]
    told = tells_apart(classes, width)
    if not told and width > 1:
        if feature == "centred":
            raise DataError('feature="centred" takes the mean of all logits off that of a class, and this network '
                            'tells no classes apart. Pass feature="trace", or leave it out.')
        picks: tuple[Tensor | None, Tensor | None] = None, None
        notes = [all_outputs(run, width)] if feature == "predicted" else []
        feature = "trace"
    elif width == 1:
        # There is one number, whatever it is called.
        picks, notes, feature = (_first(final), _first(final_own)), [], "predicted"
    else:
        assert classes is not None
        picks = (None, None) if feature == "trace" else (final.argmax(1), classes.to(place))
        notes = []
    logits, answers = answered(run, final)
    change = None
    if picks[0] is not None and picks[1] is not None:
        number = picked(feature)
        change = (as_float64(number(final, picks[0]) - number(first, picks[0])),
                  as_float64(number(final_own, picks[1]) - number(first_own, picks[1])))
    both = None if into is None or into_own is None else (into, into_own)
    return Seen(Side(inputs, picks[0]), Side(own, picks[1]), feature, logits, classes if told else None,
                answers if told else None, change, both, ends[1].name, notes)


def _asked(end: LastLayer, run: Run, inputs: tuple[Tensor, ...]) -> tuple[Tensor, Tensor | None]:
    """The outputs as rows, and what goes into the last layer."""
    try:
        outputs, into = end(inputs)
    except (RuntimeError, ValueError, IndexError) as error:
        trained = [tuple(t.shape[1:]) for t in run.samples.inputs]
        raise DataError(
            f"The network cannot take these queries ({str(error).strip().splitlines()[0][:200]}). Its inputs in "
            f"training had the shapes {trained} each; the queries have {[tuple(t.shape[1:]) for t in inputs]}."
        ) from error
    odd: Any = next((o for o in outputs if not isinstance(o, Tensor) or o.ndim == 0), None)
    if odd is not None:
        raise ModelError(f"Coverage needs outputs that are a tensor with a row for each query; this network gives a "
                         f"{type(odd).__name__}. Record a module that wraps it and returns its logits.")
    rows = torch.cat(outputs)
    rows = rows.unsqueeze(1) if rows.ndim == 1 else rows.flatten(1)
    if not bool(rows.isfinite().all()):
        raise NonFiniteError("The network answers with NaN or infinite values, so there is no feature to cover. Train "
                             "it anew with a smaller learning rate, or slice the run before they came.")
    return rows, into


def _first(outputs: Tensor) -> Tensor:
    return torch.zeros(len(outputs), dtype=torch.long, device=outputs.device)
