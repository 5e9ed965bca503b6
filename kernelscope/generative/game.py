r"""The recording of a GAN: two runs of one game.

Both are ordinary runs, so that everything which is asked of a run is asked of them too. The critic's run is one of
:class:`Judged`, whose samples are the real points i (place i), their penalties (place n + i) and the places of
generated points in a batch (from 2n on). The generator's run is one of the generator, whose samples are the places in a
batch of latents and whose targets are the critic's field at what was generated.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from ..network import Parameters, cast, undisturbed
from ..run.run import Run
from .adversary import Adversary

__all__ = ["GANRun"]


@dataclass(frozen=True, eq=False)
class GANRun:
    """A recorded game.

    Attributes:
        generator: The generator's run.
        critic: The critic's run.
        game: The losses.
        real: The number n of real points.
        seen: For each step of the generator the number of steps that the critic had made before it, with shape (T,).
    """

    generator: Run
    critic: Run
    game: Adversary
    real: int
    seen: Tensor

    def __repr__(self) -> str:
        return (f"GANRun({self.game.kind}: {len(self.generator)} steps of a generator with "
                f"{self.generator.parameter_count} parameters, {len(self.critic)} of a critic with "
                f"{self.critic.parameter_count}, {self.real} real points)")

    @property
    def points(self) -> Tensor:
        """The real points, with shape (n, *)."""
        return self.critic.samples.batch(torch.arange(self.real))[0][0]

    def generated(self, z: Tensor, parameters: Parameters | None = None) -> Tensor:
        """What the generator makes of latents, at the end of its run or at other parameters."""
        return _at(self.generator, z, parameters)

    def score(self, x: Tensor, parameters: Parameters | None = None) -> Tensor:
        """The critic's scores of points, with shape (q,), at the end of its run or at other parameters."""
        return _at(self.critic, x, parameters)[:, 0]

    def slope(self, x: Tensor, parameters: Parameters | None = None) -> Tensor:
        """The gradient of the critic's score by the point, with the shape of ``x``."""
        with torch.enable_grad():
            x = x.detach().requires_grad_()
            return torch.autograd.grad(_at(self.critic, x, parameters, graph=True)[:, 0].sum(), x)[0]


def _at(run: Run, x: Tensor, parameters: Parameters | None, graph: bool = False) -> Tensor:
    held = run.parameters() if parameters is None else parameters
    with undisturbed(x.device), torch.set_grad_enabled(graph):
        held = cast({**run.network.parameters, **held}, x.dtype, x.device)
        return run.network(held, cast(run.buffers(run.stop), x.dtype, x.device), (x,))
