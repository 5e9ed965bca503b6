"""The scores that coverage is compared with, of the queries of a run."""

from __future__ import annotations

import torch
from torch import Tensor

from ...result import as_float64
from ...run.run import Run
from ..baselines import energy, kl_from_uniform, mahalanobis, max_softmax, nearest
from ..chances import as_logits
from ..states import gradients_of, states
from .answers import are_logits
from .seen import Seen

#: The score that needs no network.
NULL = "pixel kNN"

#: What is said of classifiers whose outputs are compared with 0 and 1.
NO_LOGITS = "Max softmax, energy and GradNorm are left out: outputs trained by {loss} are no logits."


def other_scores(run: Run, seen: Seen, dtype: torch.dtype, device: torch.device,
                 memory: int) -> tuple[dict[str, Tensor], str | None]:
    """Each score with shape (q,), larger for what is better known, those that the network allows; and a note.

    Args:
        run: The run.
        seen: The queries and the samples.
        dtype: The precision of gradients.
        device: Where they are taken.
        memory: How many bytes may be used.
    """
    found: dict[str, Tensor] = {}
    logits = seen.predicted is not None and are_logits(run)
    if logits:
        found |= {"max softmax": max_softmax(seen.logits), "energy": energy(seen.logits)}
    if seen.into is not None:
        found["feature kNN"] = nearest(*seen.into, normalised=True)
        found["Mahalanobis"] = mahalanobis(*seen.into, None if seen.classes is None else seen.classes.cpu())
    if logits and seen.last is not None:
        found["GradNorm"] = _grad_norm(run, seen, dtype, device, memory)
    raw, samples = (torch.cat([as_float64(t).flatten(1) for t in side.inputs], 1)
                    for side in (seen.queries, seen.samples))
    missing = NO_LOGITS.format(loss=run.loss.name) if seen.predicted is not None and not logits else None
    return found | {NULL: nearest(raw, samples)}, missing


def _grad_norm(run: Run, seen: Seen, dtype: torch.dtype, device: torch.device, memory: int) -> Tensor:
    names = [name for name in run.network.parameters if name.rpartition(".")[0] == seen.last]
    (_, state), = states(run, [len(run)])

    def loss(outputs: Tensor, classes: Tensor) -> Tensor:
        # The logit of what is nearly 1 needs all digits.
        return kl_from_uniform(as_logits(run, outputs.double()), classes)

    features = gradients_of(run, names, loss=loss, dtype=dtype, device=device, memory=memory).at(state)
    # The loss knows no target; the class stands in its place.
    points = features.points((*seen.queries.inputs, torch.zeros(len(seen.logits), dtype=torch.long, device=device)))
    return torch.cat([as_float64(features.phi(points.chosen(range(part.start, part.stop))).abs().flatten(1).sum(1))
                      for part in features.steps(points)])
