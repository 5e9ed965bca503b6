r"""Which classes a run was trained to tell apart, and which of them an output answers with.

The answer is the largest of several outputs. One output is a logit, and answers with the second of two classes where it
is above 0; under the plain binary cross entropy it is a probability, whose logit is taken; and under a loss that
compares it with 0 and 1 as quantities it is above one half.
"""

from __future__ import annotations

from torch import Tensor

from ...decomposition.stochastic.points import Points
from ...decomposition.targets import class_targets
from ...errors import DataError
from ...result import as_float64
from ...run.classes import BINARY, QUANTITIES, class_indices
from ...run.run import Run
from ..chances import as_logits
from ..task import IGNORED, counted

#: A loss of quantities whose outputs are rates, or their logarithms, and so compare with no class.
RATES = "poisson_nll_loss"

#: What is said where a network of several outputs tells no classes apart.
ALL = "The outputs are no classes, so features are the gradients of all of them, beside each other."
LABELS = ("Each target is several labels and no class, so features are the gradients of all outputs, beside each "
          "other, and there is no predicted class.")

#: What is said of targets that came and cannot be compared.
NO_RIGHT = ("The run tells no classes apart, so whether a query is answered right cannot be told, and its target is "
            "left out.")


def trained_on(run: Run, samples: Points) -> tuple[Points, str | None]:
    """The training samples whose targets the loss does not pass over, and a note of the others.

    Raises:
        DataError: If there are none.
    """
    targets = samples.targets
    if targets is None:
        return samples, None
    kept = counted(run, targets).nonzero().flatten()
    left = len(targets) - len(kept)
    if not left:
        return samples, None
    said = f"The loss passes over the target {run.loss.options.get('ignore_index', IGNORED)}"
    if not len(kept):
        raise DataError(f"{said}, and every training sample has it, so nothing was learned from any. Record a run with "
                        "other targets.")
    left_out = f"{left:,} of the {len(targets):,} training samples, which have it, are left out"
    return samples.chosen(kept), f"{said}, so {left_out}."


def classes_of(run: Run, samples: Points) -> Tensor | None:
    """The class of each training sample, if the run tells classes apart."""
    if samples.targets is None or run.loss.name == RATES:
        return None
    return class_indices(samples.targets, run.loss.name)


def tells_apart(classes: Tensor | None, width: int) -> bool:
    """Whether so many outputs tell these classes apart."""
    return classes is not None and int(classes.min()) >= 0 and int(classes.max()) < max(width, 2)


def are_logits(run: Run) -> bool:
    """Whether the outputs of a classifier are scores whose softmax, or sigmoid, is a probability, or become such."""
    return run.loss.name not in QUANTITIES


def answered(run: Run, outputs: Tensor) -> tuple[Tensor, Tensor]:
    """Outputs with shape (q, c) as logits where they stand for probabilities, and the class each answers with."""
    logits = as_logits(run, as_float64(outputs))
    if logits.shape[1] > 1:
        return logits, logits.argmax(1)
    return logits, (logits[:, 0] > (0 if are_logits(run) else 0.5)).long()


def all_outputs(run: Run, width: int) -> str:
    """What is said where features are the gradients of all of several outputs."""
    targets = run.samples.held_targets
    several = run.loss.name in BINARY and targets is not None and targets[:1].numel() == width
    return LABELS if several else ALL


def rightness(run: Run, queries: Points, predicted: Tensor | None, outputs: Tensor) -> tuple[Tensor | None, str | None]:
    """Whether the predicted class of each query is the true one, where that is known, and a note where it is not."""
    if queries.targets is None:
        return None, None
    if predicted is None:
        return None, NO_RIGHT
    return predicted == class_targets(queries.targets, run, None if outputs.shape[1] == 1 else outputs), None
