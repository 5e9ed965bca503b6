r"""Which forward passes of a network are behind its next step.

A pass counts once its outputs have received a gradient in a backward whose result the parameters still hold. One that
was differentiated with ``create_graph=True`` was asked for its slope, as a penalty does, and that is told apart.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from ...errors import RecordingError
from ...nested import leaves
from ...network import get_random_state, training_flags
from ...run.hooks import attach

__all__ = ["Ear", "Heard"]


@dataclass(eq=False)
class Heard:
    """A forward pass.

    Attributes:
        x: What the network received, with shape (n, *).
        outputs: What it gave.
        training: The names of the submodules in train mode.
        random: The random state before the pass, if the pass used it.
        about: What the listener made of it when it ended.
        used: Whether its outputs are behind the gradients that the parameters hold.
        sloped: Of which rows the slope was taken with a graph, with shape (n,); ``None`` of none.
        at: What the listener counted when its outputs received a gradient.
        order: Which pass it was.
    """

    x: Tensor
    outputs: Tensor
    training: tuple[str, ...]
    random: Tensor | None
    about: Any = None
    used: bool = False
    sloped: Tensor | None = None
    at: int = 0
    order: int = 0


class Ear:
    """Listens to the passes of a network.

    Args:
        network: The module that the loop calls.
        held: Says whether its parameters hold a gradient.
        look: Called with each pass when it ends; what it gives is kept as ``about``.
        count: What ``at`` is to say.

    Attributes:
        passes: The passes that were used or sloped since the last step, in the order in which they were made.
        shape: The shape of one row of what the network received last, or ``None``.
    """

    def __init__(self, network: nn.Module, held: Callable[[], bool], look: Callable[[Tensor, Tensor], Any],
                 count: Callable[[], int]):
        self._network, self._held, self._look, self._count = network, held, look, count
        self._device = next(network.parameters()).device
        self._random: Tensor | None = None
        self._backward = self._order = -1
        self._open = True
        self.passes: list[Heard] = []
        self.shape: torch.Size | None = None
        self._hooks = [attach(network.register_forward_pre_hook, self._before),
                       attach(network.register_forward_hook, self._after)]

    @property
    def used(self) -> list[Heard]:
        """The passes behind the gradients that the parameters hold."""
        return [heard for heard in self.passes if heard.used]

    def clear(self) -> None:
        """Begins the next step."""
        self.passes = []

    def close(self) -> None:
        """Leaves the network as it was."""
        for hook in self._hooks:
            hook.remove()
        self._open = False
        self.clear()

    def _before(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        if torch.is_grad_enabled():
            self._random = get_random_state(self._device)

    def _after(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], outputs: Any) -> None:
        if any(torch._C._functorch.is_functorch_wrapped_tensor(t) for t in leaves(args)):
            # Within a transform of torch.func there is no batch to be seen.
            return
        if kwargs or len(args) != 1 or not isinstance(args[0], Tensor) or not isinstance(outputs, Tensor):
            raise RecordingError(
                f"The {type(module).__name__} is called with several things or with something that is no tensor, and a "
                "recorded game has a generator of latents and a critic of points. Call each with one tensor and let it "
                "give one. A condition of the generator may be appended to its latents; for one that the critic sees, "
                "let the generator give it with its points and append it to the real points in the data set."
            )
        x = args[0]
        self.shape = x.shape[1:]
        about = self._look(x, outputs)
        # While its parameters are frozen, as for a step of the other network, a pass is behind none of its own.
        frozen = not any(p.requires_grad for p in self._network.parameters())
        if frozen or not (torch.is_grad_enabled() and outputs.requires_grad):
            return
        random = self._random
        if random is not None and torch.equal(random, get_random_state(self._device)):
            random = None
        self._order += 1
        heard = Heard(x.detach(), outputs.detach(), training_flags(module), random, about, order=self._order)
        outputs.register_hook(lambda slope: self._hear(heard, slope))

    def _hear(self, heard: Heard, slope: Tensor) -> None:
        if not self._open:
            return
        # The engine computes with a graph where one is asked for.
        if torch.is_grad_enabled():
            rows = (slope.detach() != 0).reshape(len(heard.x), -1).any(1) if slope.numel() else slope
            heard.sloped = rows if heard.sloped is None else heard.sloped | rows
        else:
            backward = torch._C._current_graph_task_id()
            if backward != self._backward and not self._held():
                # The loop has cleared the gradients of the passes before.
                self.passes = [other for other in self.passes if other.sloped is not None]
                for other in self.passes:
                    other.used = False
            self._backward = backward
            heard.used, heard.at = True, self._count()
        if not any(other is heard for other in self.passes):
            # A backward reaches the last pass first.
            self.passes = sorted([*self.passes, heard], key=lambda other: other.order)
