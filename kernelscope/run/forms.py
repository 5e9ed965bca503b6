r"""Whether what comes under an id is the sample that came under it before.

A sample may come in changing forms: another input with the same target, as under augmentation. If input and target are
both others, the id more likely stands for another sample, and shares are booked on the wrong one.

A recording that is taken up must go on with its data. What differs then from what was kept may be one more form, but if
a share q of the rows came in another form each time, then r rows of the earlier part that came again were all alike
with probability :math:`(1 - q)^r` only. Where this is next to nothing, the data are others.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from ..errors import RecordingError
from .faults import warn
from .run import Run
from .samples import Samples

#: Passes that are compared with the recording that is taken up, and the probability that is next to nothing.
PASSES = 8
CHANCE = 1e-6

#: The same input computed on another device differs by less than this part of its largest number.
ROUNDING = 1e-3


class Forms:
    """What is known of the forms in which samples come.

    Args:
        samples: The table of samples.
        drawn: Whether input and target of a sample are drawn anew each time, so that nothing follows from others.
    """

    def __init__(self, samples: Samples, drawn: bool = False):
        self._samples, self._drawn = samples, drawn
        self._earlier: _Earlier | None = None
        self._left = self._compared = self._changed = self._others = 0
        self._waiting: list[str] = []
        self._seen_others = self._seen_changed = False

    def take_up(self, run: Run) -> None:
        """Compares the next passes with the run that is taken up."""
        self._earlier, self._left = _Earlier(run), PASSES

    def look(self, columns: Tensor, inputs: Sequence[Tensor], targets: Tensor, new: Tensor, agrees: bool) -> None:
        """Looks at a batch after it was kept.

        Args:
            columns: The columns of its samples.
            inputs: What the network received.
            targets: Their targets.
            new: Which rows were seen for the first time.
            agrees: Whether the other ones are as they were kept.

        Raises:
            RecordingError: If these are not the data of the recording that is taken up.
            DataError: If the batches name their samples, and an id stands for two of them.
        """
        if self._drawn:
            return
        if self._earlier is not None and self._left:
            self._left -= 1
            self._compared += len(new) - int(new.sum())
            if not agrees:
                self._compare(self._earlier, columns, inputs, targets)
        if agrees:
            return
        if not self._samples.fixed:
            self._samples.refuse_namesakes(columns, inputs, targets)
        elif not self._seen_others:
            others = self._samples.others(columns, inputs, targets)
            if bool(others.any()):
                self._seen_others = True
                self._waiting.append(
                    f"Sample {self._name(columns, others)} came with another input and target than before; if a "
                    "collate_fn or the data set changes the order or draws other items, shares are booked on the wrong "
                    "samples: keep the order, or pass ids=lambda batch: ... to record(...)."
                )

    def tell(self) -> None:
        """Warns of what was seen, once."""
        while self._waiting:
            warn(self._waiting.pop(0))

    def _compare(self, earlier: _Earlier, columns: Tensor, inputs: Sequence[Tensor], targets: Tensor) -> None:
        input_changed, target_changed = self._samples.changed(columns, inputs, targets, ROUNDING)
        changed, others = input_changed | target_changed, input_changed & target_changed
        self._changed += int(changed.sum())
        self._others += int(others.sum())
        # A class does not change with the form of a sample; numbers between classes may.
        classes = not targets.is_floating_point() or torch.equal(targets, targets.round())
        if bool(others.any()) and not earlier.drew_others and (classes or self._is_new(self._others, earlier)):
            raise self._other_data(columns, others, "input and target")
        if bool(changed.any()) and not earlier.drew:
            part = changed if not bool(others.any()) else others
            what = "input and target" if part is others else "input" if bool(input_changed.any()) else "target"
            if self._is_new(self._changed, earlier):
                raise self._other_data(columns, part, what)
            if not self._seen_changed:
                self._seen_changed = True
                self._waiting.append(
                    f"Sample {self._name(columns, part)} comes with another {what} than in the recording that is "
                    "taken up, which is too short to tell whether samples come in changing forms; if they do not, "
                    "these are other data: pass the data set it was recorded with, in the same order."
                )

    def _is_new(self, count: int, earlier: _Earlier) -> bool:
        """Whether so many rows in other forms would have been seen in the earlier part as well."""
        return (1 - count / (self._compared + 1)) ** earlier.repeats < CHANCE

    def _other_data(self, columns: Tensor, which: Tensor, what: str) -> RecordingError:
        return RecordingError(
            f"Sample {self._name(columns, which)} comes with another {what} than in the recording that is taken up, so "
            "these are not the data of the recording, and shares would be booked on the wrong samples. Pass the data "
            "set it was recorded with, in the same order, or record into another folder."
        )

    def _name(self, columns: Tensor, which: Tensor) -> int:
        return self._samples.ids[int(columns[which][0])]


class _Earlier:
    """What is known of the earlier part.

    Attributes:
        repeats: How many rows came again.
        drew: Whether some came in another form.
        drew_others: Whether some came with another input and target.
    """

    def __init__(self, run: Run):
        batches = [batch for k in range(len(run)) for batch in run.step(k).batches]
        columns = torch.cat([batch.columns for batch in batches]) if batches else torch.zeros(0)
        self.repeats = len(columns) - len(columns.unique())
        drawn = [(batch.columns, batch.drawn) for batch in batches if batch.drawn is not None]
        self.drew = bool(drawn)
        self.drew_others = any(bool(run.samples.others(c, d[:-1], d[-1]).any()) for c, d in drawn)
