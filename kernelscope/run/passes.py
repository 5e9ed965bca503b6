"""The forward passes behind a step.

A pass counts once its outputs have received a gradient; one that was only looked at (an evaluation, a batch that was
skipped) leaves no trace. Its inputs are kept at that moment: later the loop may reuse their memory.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from ..errors import DataError
from .forms import Forms
from .samples import Samples
from .step import MicroBatch


class Pass:
    """A forward pass, seen when it ended.

    Attributes:
        inputs: What the network received.
        known: The ids and the targets of its rows, or ``None`` where they are unknown.
        at: The number of the step whose starting parameters it saw.
        training: The names of the submodules in train mode.
        random: The random state before the pass, if the pass used it.
        autocast: The reduced precision in which it ran, or ``None``.
        form: Inputs and targets as the table of samples holds them, where that is another form of them.
    """

    def __init__(self, passes: Passes, inputs: tuple[Tensor, ...], known: tuple[Sequence[int], Tensor] | None, at: int,
                 training: tuple[str, ...], random: Tensor | None, autocast: str | None,
                 form: tuple[tuple[Tensor, ...], Tensor] | None = None):
        self._passes: Passes | None = passes
        self.inputs, self.known, self.at = inputs, known, at
        self.training, self.random, self.autocast, self.form = training, random, autocast, form
        self.backward = -1

    def use(self, _: Tensor) -> None:
        """Takes note that the outputs receive a gradient; what comes a second time is not counted again."""
        passes, self._passes = self._passes, None
        if passes is not None:
            passes.use(self)


class Passes:
    """The passes since the last step that count.

    Args:
        samples: The table of samples.
        norms: Gives the norms of the gradients gathered so far.
        drawn: Whether input and target of a sample are drawn anew each time.

    Attributes:
        batches: The passes, in the order in which their gradients came.
        unknown: How many passes counted whose samples are unknown.
        fresh: Columns, inputs and targets of samples seen for the first time.
        forms: What is known of the forms in which samples come.
    """

    def __init__(self, samples: Samples, norms: Callable[[], Tensor], drawn: bool = False):
        self.batches: list[MicroBatch] = []
        self.unknown = 0
        self.fresh: list[tuple[Tensor, ...]] = []
        self.forms = Forms(samples, drawn)
        self._samples = samples
        self._norms: Callable[[], Tensor] | None = norms
        self._backward = -1

    def clear(self) -> None:
        """Begins the next step."""
        self.batches = []
        self.unknown = 0

    def close(self) -> None:
        """Counts no further pass, and lets go of everything."""
        self._norms = None
        self.clear()
        self.fresh = []

    def use(self, this: Pass) -> None:
        """Counts a pass whose outputs receive a gradient."""
        if self._norms is None:
            return
        backward = torch._C._current_graph_task_id()
        # Passes of one backward are weighed by it; between two, what has been gathered tells the weight of the first.
        if self.batches and backward != self._backward:
            norms = self._norms()
            if not norms.any():
                # The loop has cleared the gradients of the passes before: it skipped their step.
                self.clear()
            elif self.batches[-1].norms is None:
                self.batches[-1].norms = norms
        self._backward = backward
        if this.known is None:
            self.unknown += 1
            return
        self.batches.append(self._micro_batch(this, *this.known))
        this.inputs, this.known, this.form = (), None, None

    def _micro_batch(self, this: Pass, ids: Sequence[int], targets: Tensor) -> MicroBatch:
        if any(x.shape[:1] != (len(ids),) for x in this.inputs):
            raise DataError(
                f"Every input of the network must have one row for each of the {len(ids)} samples of a batch; came "
                f"{[tuple(x.shape) for x in this.inputs]}. Keep constants inside the module, as buffers."
            )
        columns = self._samples.columns(ids)
        inputs = tuple(x.detach().cpu() for x in this.inputs)
        targets = targets.detach().cpu()
        table, labels = (inputs, targets) if this.form is None else (
            tuple(x.detach().cpu() for x in this.form[0]), this.form[1].detach().cpu())
        new, agrees = self._samples.keep(columns, table, labels)
        self.forms.look(columns, table, labels, new, agrees)
        if bool(new.any()):
            self.fresh.append((columns[new], *(x[new] for x in table), labels[new]))
        agrees = agrees and this.form is None
        return MicroBatch(
            columns=columns, at=this.at, training=this.training, random=this.random, autocast=this.autocast,
            drawn=None if agrees else (*(x.clone() for x in inputs), targets.clone()),
        )
