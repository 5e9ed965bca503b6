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
  of independent draws, where the rule of the run has such rows.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from ...decomposition.exact import decompose
from ...decomposition.result import Decomposition
from ...decomposition.stochastic.expected import expected
from ...errors import DataError, RuleError
from ...run.run import Run
from .seen import Seen

#: What is said where the variance is left out.
NO_VARIANCE = "The SGD variance is left out: {reason}"


def ledger_scores(run: Run, inputs: tuple[Tensor, ...], seen: Seen, diagonal: Tensor,
                  **options: Any) -> tuple[dict[str, Tensor], str | None]:
    """The scores of each query, each with shape (q,), and a note where one is missing.

    Args:
        run: The run.
        inputs: The queries.
        seen: What the network answers; of several outputs that are no classes the first is explained.
        diagonal: k(x, x).
        options: Those of :func:`decompose`.
    """
    x, classes, names = inputs[0] if len(inputs) == 1 else inputs, seen.queries.classes, run.class_names
    classes = seen.predicted if classes is None else classes
    asked: dict[str, Any] = {"output": 0} if classes is None else {"output": _own, "targets": classes.cpu()}
    words = None if seen.predicted is None or names is None else [names[c] for c in seen.predicted.tolist()]
    found = scores_of(decompose(run, x, **asked, **options), words, diagonal)
    try:
        noise = expected(run, x, order=1, carried=False, **asked, **options)
    # Of slices, of runs that did not draw all samples, and of some rules there is none.
    except (RuleError, DataError) as error:
        return found, NO_VARIANCE.format(reason=str(error))
    return found | {"SGD variance": noise.row_variance[:, 0]}, None


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
