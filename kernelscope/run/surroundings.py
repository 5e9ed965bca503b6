r"""Whether the network is still the one whose recording began.

A run holds one network: its modules and its frozen parameters once, and a row of the others for each step. A module
that is replaced, a parameter that is made anew or a frozen one that moves would leave a run whose outputs are not the
model's. So at each step the identity of every module and parameter is looked at, and for frozen parameters the count
of changes that torch keeps; the values themselves are compared when the recording ends.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from ..errors import RecordingError


class Surroundings:
    """What must stay as it is while a network is recorded.

    Args:
        model: The network.
        frozen: The values of its parameters that are not recorded.
    """

    def __init__(self, model: nn.Module, frozen: Mapping[str, Tensor]):
        self._tables = [(what, path, table, dict(table)) for path, module in model.named_modules()
                        for what, table in (("module", module._modules), ("parameter", module._parameters))]
        self._frozen = {name: (p, frozen[name]) for name, p in model.named_parameters() if name in frozen}
        self._marks = {name: _mark(p) for name, (p, _) in self._frozen.items()}
        self._names = {id(p): name for name, (p, _) in self._frozen.items()}

    def frozen(self, parameter: Tensor) -> str | None:
        """The name of a frozen parameter; ``None`` for any other tensor."""
        return self._names.get(id(parameter))

    def difference(self, thoroughly: bool = False) -> str | None:
        """What is no longer as it was, in words; without ``thoroughly`` only what costs next to nothing is compared."""
        for what, path, table, before in self._tables:
            if len(table) != len(before) or any(table.get(name) is not held for name, held in before.items()):
                found = _difference(what, path, table, before)
                if found:
                    return found
        for name, (p, held) in self._frozen.items():
            mark = _mark(p)
            if thoroughly or mark != self._marks[name]:
                self._marks[name] = mark
                if p.dtype != held.dtype or not torch.equal(p.detach(), held.to(p.device)):
                    return f"the frozen parameter {name!r} was changed"
        return None


def _mark(p: Tensor) -> tuple[int, int]:
    """What torch counts up when a tensor is written to, and where its numbers are."""
    return p._version, p.data_ptr()


def _difference(what: str, path: str, table: Mapping[str, Any], before: Mapping[str, Any]) -> str | None:
    for name in {**before, **table}:
        was, now = before.get(name), table.get(name)
        if was is not now:
            full = f"the {what} {f'{path}.{name}' if path else name!r}"
            if was is None or now is None:
                return f"{full} was {'added' if was is None else 'removed'}"
            kinds = f"another {type(now).__name__}" if type(now) is type(was) else f"a {type(now).__name__}"
            return f"{full} was replaced by {kinds}"
    return None


MEND = (
    "A run holds one network, so its outputs would not be those of the model. Change the model before `with "
    "ks.record(...)`, or end the block and record what follows as a run of its own. A parameter that is set by hand "
    "between steps is recorded if it has requires_grad=True when the block begins."
)


def another_network(step: int, what: str) -> RecordingError:
    """The error for a network that is not the one whose recording began."""
    return RecordingError(f"Before step {step} {what}, while the network was recorded. {MEND} The steps before are "
                          "kept.")


def another_at_the_end(steps: int, what: str) -> RecordingError:
    """The same, found when the block ends."""
    return RecordingError(f"When the block ended, {what} since the recording began. {MEND} Which of the {steps} steps "
                          "came after the change is unknown; they are kept, in a run that is marked as incomplete.")


def moved_while_frozen(step: int, name: str | None) -> RecordingError:
    """The error for an optimizer that moves what was frozen or did not exist when the recording began."""
    what = "parameters of the model that did not exist" if name is None else f"the parameter {name!r}, which was frozen"
    return RecordingError(
        f"At step {step} the optimizer moves {what} when the recording began, and a run holds rows of those parameters "
        "alone that required a gradient then. Build the model and set requires_grad before `with ks.record(...)`: a "
        "parameter that no optimizer holds yet stays where it is. Or record each phase in a block of its own. The "
        "steps before are kept."
    )
