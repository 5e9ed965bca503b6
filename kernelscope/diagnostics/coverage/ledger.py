r"""Scores read off the exact decomposition of a run: how an answer was put together from training samples.

With the contributions :math:`c_i(x)` to the logit of the predicted class, its initial value :math:`f_0` and its final
one :math:`f_T`:

- retrieval strength :math:`|f_T - f_0| / \sqrt{k(x, x)}`;
- init share :math:`|f_0| / (|f_0| + \sum_i |c_i|)`;
- agreement :math:`|\sum_i c_i| / \sum_i |c_i|`, which is 1 where contributions have one sign and 0 where they cancel;
- effective support :math:`e^{H(p)}` with :math:`p_i = |c_i| / \sum_j |c_j|`: among how many samples it is spread;
- label purity: the share of the positive contributions that samples of the predicted class made;
- time centre: where on the run, from 0 to 1, the absolute changes by its steps have their mean;
- SGD variance: the variance of contribution rows, :math:`\sum_s \frac{\eta_s^2}{B}\,\mathrm{Var}_i(\text{row}_s)`
  of independent draws, where the rule of the run has such rows. It asks the gradients of all training samples at each
  step, where the others ask those of the batch.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from ...decomposition.exact import decompose
from ...decomposition.result import Decomposition
from ...decomposition.stochastic.expected import expected
from ...errors import DataError, ModelError, OutOfBudget, RuleError
from ...run.run import Run
from .seen import Seen

#: What is said where the variance is left out.
NO_VARIANCE = "The SGD variance is left out: {reason}"


def ledger_scores(run: Run, inputs: tuple[Tensor, ...], seen: Seen, diagonal: Tensor,
                  **options: Any) -> dict[str, Tensor]:
    """The scores of each query, each with shape (q,).

    Args:
        run: The run.
        inputs: The queries.
        seen: What the network answers; of several outputs that are no classes the first is explained.
        diagonal: k(x, x).
        options: Those of :func:`decompose`.
    """
    names, words = run.class_names, None
    if seen.predicted is not None and names is not None:
        # A class that no training sample has may have no name.
        words = [names[c] if c < len(names) else str(c) for c in seen.predicted.tolist()]
    return scores_of(decompose(run, _alone(inputs), **_explained(seen), **options), words, diagonal)


def draw_variance(run: Run, inputs: tuple[Tensor, ...], seen: Seen,
                  **options: Any) -> tuple[dict[str, Tensor], str | None]:
    """The SGD variance, with shape (q,), or a note of why there is none.

    Args:
        run: The run.
        inputs: The queries.
        seen: What the network answers.
        options: Those of :func:`decompose`.
    """
    try:
        noise = expected(run, _alone(inputs), order=1, carried=False, **_explained(seen), **options)
    # Of slices, of runs that did not draw all samples, of batch normalisation and of some rules there is none.
    except (RuleError, DataError, ModelError, OutOfBudget) as error:
        return {}, NO_VARIANCE.format(reason=str(error))
    return {"SGD variance": noise.row_variance[:, 0]}, None


def _alone(inputs: tuple[Tensor, ...]) -> Any:
    """Inputs as they are handed in."""
    return inputs[0] if len(inputs) == 1 else inputs


def _explained(seen: Seen) -> dict[str, Any]:
    """Which output is taken apart."""
    classes = seen.predicted if seen.queries.classes is None else seen.queries.classes
    return {"output": 0} if classes is None else {"output": _own, "targets": classes.cpu()}


def scores_of(ledger: Decomposition, words: list[str] | None, diagonal: Tensor) -> dict[str, Tensor]:
    """The scores of a ledger of one output.

    Args:
        ledger: The ledger.
        words: The label of the predicted class for each query.
        diagonal: k(x, x), with shape (q,).
    """
    shares, steps = ledger.contributions[:, 0], ledger.steps[:, 0].abs()
    first, whole = ledger.initial[:, 0].abs(), shares.abs().sum(1)
    parts = shares.abs() / _positive(whole)[:, None]
    entropy = -torch.special.xlogy(parts, parts).sum(1)
    middle = (torch.arange(steps.shape[1], dtype=torch.float64) + 0.5) / max(steps.shape[1], 1)
    found = {
        "retrieval strength": (ledger.final - ledger.initial)[:, 0].abs() / _positive(diagonal).sqrt(),
        "init share": first / _positive(first + whole),
        "agreement": shares.sum(1).abs() / _positive(whole),
        "effective support": entropy.exp(),
        "time centre": steps @ middle / _positive(steps.sum(1)),
    }
    if words is not None and ledger.labels is not None:
        positive = shares.clamp(min=0)
        own = torch.tensor([[label == word for label in ledger.labels] for word in words], dtype=torch.float64)
        found["label purity"] = (positive * own.reshape(positive.shape)).sum(1) / _positive(positive.sum(1))
    return found


def _own(outputs: Tensor, targets: Tensor) -> Tensor:
    """The logit of each query's class."""
    return outputs.reshape(len(outputs), -1).gather(1, targets[:, None])


def _positive(values: Tensor) -> Tensor:
    return values.clamp(min=torch.finfo(torch.float64).tiny)
