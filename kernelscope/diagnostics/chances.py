r"""What the outputs of a classifier stand for: logits, or probabilities already.

Several outputs of one class are logits whose softmax is the probability of each class; one output, or one for each of
several labels, is a logit whose sigmoid is. Under the plain binary cross entropy an output is the probability itself.
"""

from __future__ import annotations

import torch
from torch import Tensor

from ..run.run import Run

#: The loss whose outputs are probabilities, and the number nearest to 0 that a logit is taken of.
PLAIN, LEAST = "binary_cross_entropy", 1e-12


def are_probabilities(run: Run) -> bool:
    """Whether the outputs of the network are probabilities, and no logits."""
    return run.loss.name == PLAIN


def as_logits(run: Run, outputs: Tensor) -> Tensor:
    """Outputs as logits, with their shape: the answer is the second of two classes where one is above 0."""
    return torch.logit(outputs, eps=LEAST) if are_probabilities(run) else outputs


def as_probabilities(run: Run, outputs: Tensor) -> Tensor:
    """Outputs with shape (n, c) as probabilities; those of several classes add up to 1, those of labels need not."""
    if are_probabilities(run):
        return outputs
    labels = run.loss.name == "binary_cross_entropy_with_logits"
    return outputs.sigmoid() if labels or outputs.shape[1] == 1 else outputs.softmax(1)
