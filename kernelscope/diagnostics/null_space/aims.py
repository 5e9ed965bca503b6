r"""What training aimed at: the values that the explained outputs should take.

Quantities are aimed at as they are. Of classes the probabilities are explained, and the aim is 1 for the class of a
point and 0 for the others; the mean squared error is then that of Brier. A cross entropy trains another quantity: what
no run could reach in probabilities bounds the Brier score, not the loss.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ...arguments import as_whole, what_came
from ...decomposition.output import NAMED
from ...decomposition.targets import class_targets, shape_of
from ...errors import DataError, NonFiniteError
from ...run.classes import BINARY
from ...run.run import Run
from ..chances import as_probabilities

#: Said where probabilities are explained.
PROBABILITIES = ("The probabilities of classes are explained, and their targets are 1 and 0: the error is the Brier "
                 "score averaged over classes, and not the loss that was trained.")

#: Said where a point has several labels.
LABELS = ("The probabilities of labels are explained, each by itself, and their targets are those of the labels: the "
          "error is the Brier score averaged over labels, and not the loss that was trained.")


@dataclass(frozen=True)
class Aim:
    """What is explained, and what it should be.

    Attributes:
        run: The run.
        output: What :func:`output_functional` takes.
        index: The number of the explained output, if it is one.
        chances: Whether probabilities are explained.
        labels: Whether these are of labels, of which a point may have several or none.
        width: The number of the network's outputs, 0 if they are no tensor.
    """

    run: Run
    output: int | Callable[..., Tensor] | None
    index: int | None
    chances: bool
    labels: bool
    width: int

    @property
    def note(self) -> str:
        """What is to be said of the values."""
        return "" if not self.chances else LABELS if self.labels else PROBABILITIES

    @classmethod
    def of(cls, run: Run, output: Any, final: Any) -> Aim:
        """What is explained of these outputs.

        Raises:
            DataError: If it is none that a target can be given for.
        """
        if isinstance(output, str) and output != "logits":
            named = output in NAMED
            raise DataError(
                f"The target must be a value for each explained output, and {output!r} is "
                f"{'one without a target of its own' if named else 'no output'}. Leave output out, or pass the number "
                "of an output or a function of the outputs."
            )
        width = final.shape[1:].numel() if isinstance(final, Tensor) else 0
        index = as_whole(output)
        if output is not None and index is None and not callable(output) and output != "logits":
            raise DataError(f"output must be None, \"logits\", the number of an output or a function of the outputs; "
                            f"{what_came(output)} came. None explains all outputs, of classes their probabilities.")
        labels = run.loss.name in BINARY and not run.is_classification
        if index is not None or callable(output) or output == "logits" or not (labels or run.is_classification):
            return cls(run, None if output == "logits" else output, index, False, labels, width)
        if not isinstance(final, Tensor) or final.ndim > 2:
            raise DataError(
                f"Probabilities of classes need outputs with shape (n, classes), and this network gives "
                f"{shape_of(final)}. Pass a function of the outputs as output, and as y the values it should take.")
        return cls(run, lambda outputs: as_probabilities(run, outputs.reshape(len(outputs), -1)), None, True, labels,
                   width)

    def values(self, targets: Tensor, explained: Tensor) -> Tensor:
        """The values that explained outputs of shape (q, c) should take, with their shape.

        Raises:
            DataError: If the targets give none.
            NonFiniteError: If one is NaN or infinite.
        """
        rows = self._rows(targets, explained)
        if not bool(rows.isfinite().all()):
            odd = int((~rows.isfinite().all(1)).nonzero()[0])
            raise NonFiniteError(f"Target {odd} is NaN or infinite. Remove its point, or mend it.")
        return rows

    def _rows(self, targets: Tensor, explained: Tensor) -> Tensor:
        count, width = explained.shape
        if targets.is_complex():
            raise DataError("Targets must be real numbers, and complex ones came. Pass their parts as two outputs.")
        each = targets.shape[1:].numel()
        alone = each == 1 and not targets.is_floating_point()
        if self.chances and each == width and targets.is_floating_point() and self.run.loss.name in BINARY:
            rows = targets.reshape(count, width).double()
            if bool(((rows < 0) | (rows > 1)).any()):
                raise DataError("The loss of this run takes probabilities from 0 to 1 as targets, and others came. "
                                "Pass y as they were in training.")
            return rows
        if self._of_rows and alone:
            classes = class_targets(targets, self.run, torch.empty(0, self.width))
            if self.index is not None:
                return (classes == self.index % self.width).double()[:, None]
            if width == self.width:
                return torch.nn.functional.one_hot(classes, width).double()
        elif self.run.is_classification and (alone or self.chances and each == 1):
            names = self.run.class_names or []
            classes = class_targets(targets, self.run, torch.empty(0, self.width) if self.width > 1 else None)
            if self.index is not None:
                return (classes == self.index % max(self.width, 1)).double()[:, None]
            if width == 1 and len(names) <= 2:
                return classes.double()[:, None]
            if width >= max(len(names), int(classes.max()) + 1 if len(classes) else 0):
                return torch.nn.functional.one_hot(classes, width).double()
        elif each == width:
            return targets.reshape(count, width).double()
        elif self.index is not None and each == self.width:
            return targets.reshape(count, -1)[:, self.index:][:, :1].double() if self.index >= 0 else (
                targets.reshape(count, -1)[:, self.index].double()[:, None])
        raise DataError(
            f"The targets must say what each of the {width} explained outputs should be, and they are "
            f"{shape_of(targets)}. Pass y with shape ({count}, {width})"
            f"{', or the index of each class' if self.run.is_classification or self._of_rows else ''}."
        )

    @property
    def _of_rows(self) -> bool:
        """Whether rows with a 1 for the class were learned as quantities, so that an index means such a row."""
        return self.width > 1 and self.run.class_indices is not None and not self.run.is_classification and (
            not callable(self.output))
