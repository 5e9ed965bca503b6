r"""One side of a comparison: a recorded model that makes points, whatever it is.

A denoiser goes from noise to a point down its noise levels, a generator in one step. Both are asked the same: what do
you make of these latents, at the end of training or before it, and with which kernels do you see points?
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call

from ...arguments import what_came
from ...errors import DataError
from ...kernels.tangent import Tangent
from ...network import Parameters
from ...run.run import Run
from ..denoising.denoiser import along
from ..denoising.noise import schedule
from ..denoising.reading import DiffusionRun
from ..denoising.sampling import Sampled, sample
from ..games.game import GANRun

__all__ = ["DIFFUSION", "GAN", "DiffusionSide", "GANSide", "Side", "View", "function_of",
           "side_of", "tangent"]

DIFFUSION, GAN = "diffusion", "GAN"

#: The noise levels at which a denoiser is looked at, and the one that stands for it where there is room for one.
LEVELS, MAIN = (0.1, 0.3, 1.0, 3.0), 0.3


@dataclass(frozen=True)
class View:
    """A kernel matrix of a model on some points.

    Attributes:
        slot: In which row of the table it goes: ``"main"`` is the one that stands for the model.
        where: What it is a kernel of, in words.
        gram: The matrix, with shape (n, n).
        seen: The clean or generated points that stand behind its rows, with shape (n, *).
        real: Which of them are real.
    """

    slot: str
    where: str
    gram: Tensor
    seen: Tensor
    real: Tensor


class DiffusionSide:
    """A recorded denoiser.

    Args:
        run: Its run.
        levels: The noise levels of its sampler.
    """

    kind = DIFFUSION

    def __init__(self, run: Run, levels: Tensor | None = None):
        self.run, self.reading = run, DiffusionRun(run)
        self.levels = schedule() if levels is None else levels

    @property
    def runs(self) -> tuple[Run, ...]:
        """The runs of its networks."""
        return (self.run,)

    @property
    def points(self) -> Tensor:
        """The training points by sample, NaN where training never drew one."""
        return self.reading.clean

    def latents(self, count: int, generator: torch.Generator) -> Tensor:
        """What it starts from."""
        shape = self.run.samples.inputs[0].shape[1:]
        return torch.randn(count, *shape, generator=generator, dtype=torch.float64)

    def down(self, z: Tensor, k: int | None = None) -> Sampled:
        """Its way from noise to points, at step ``k`` of training."""
        held = self.run.parameters(k)
        return sample(lambda y, sigma: self.reading.denoised(y, sigma, held), z, self.levels)

    def generate(self, z: Tensor, k: int | None = None) -> Tensor:
        """What it makes of latents at step ``k`` of training, at its end without one."""
        return self.down(z, k).final

    def views(self, points: Tensor, noise: Tensor, z: Tensor, k: int | None = None) -> Iterator[View]:
        """Its kernel on noisy points, at each of some noise levels, all with the same noise."""
        kernel = tangent(self.run, k)
        for level in LEVELS:
            sigma = torch.full((len(points),), level, dtype=torch.float64)
            gram = kernel((points + along(sigma, points) * noise, sigma))
            yield View("main" if level == MAIN else f"σ = {level:g}", f"the denoiser at σ = {level:g}", gram, points,
                       torch.ones(len(points), dtype=torch.bool))

    def presented(self) -> int:
        """How many training points it was shown, a point as often as it was."""
        return sum(batch.columns.numel() for k in range(len(self.run)) for batch in self.run[k].batches)


class GANSide:
    """A recorded game.

    Args:
        gan: The game.
    """

    kind = GAN

    def __init__(self, gan: GANRun):
        self.gan = gan

    @property
    def runs(self) -> tuple[Run, ...]:
        """The runs of its networks."""
        return (self.gan.generator, self.gan.critic)

    @property
    def points(self) -> Tensor:
        """The training points by sample, NaN where training never drew one."""
        return self.gan.points

    def latents(self, count: int, generator: torch.Generator) -> Tensor:
        """What it starts from."""
        shape = self.gan.generator.samples.inputs[0].shape[1:]
        return torch.randn(count, *shape, generator=generator, dtype=torch.float64)

    def generate(self, z: Tensor, k: int | None = None) -> Tensor:
        """What it makes of latents at step ``k`` of the generator, at the end without one."""
        return self.gan.generated(z, None if k is None else self.gan.generator.parameters(k))

    def views(self, points: Tensor, noise: Tensor, z: Tensor, k: int | None = None) -> Iterator[View]:
        """The critic's kernel on real and generated points, half and half, and the generator's on latents."""
        half = len(points) // 2
        fake = self.generate(z)
        both = torch.cat([points[:half], fake[:len(points) - half]])
        judge = self.steps_of_critic(k)
        yield View("main", "the critic on real and generated points", tangent(self.gan.critic, judge, "network")(both),
                   both, torch.arange(len(both)) < half)
        yield View("generator", "the generator on latents", tangent(self.gan.generator, k)(z), fake,
                   torch.zeros(len(z), dtype=torch.bool))

    def steps_of_critic(self, k: int | None) -> int | None:
        """How many steps the critic had made before step ``k`` of the generator."""
        return None if k is None else int(self.gan.seen[k]) if k < len(self.gan.seen) else len(self.gan.critic)

    def presented(self) -> int:
        """How many training points its critic was shown, a point as often as it was."""
        critic, n = self.gan.critic, self.gan.real
        return sum(int((batch.columns < n).sum()) for k in range(len(critic)) for batch in critic[k].batches)


Side = DiffusionSide | GANSide


def side_of(value: Any, name: str) -> Side:
    """A recorded model as a side.

    Raises:
        DataError: If it is none.
    """
    match value:
        case GANRun():
            side: Side = GANSide(value)
        case DiffusionRun():
            side = DiffusionSide(value.run)
        case Run():
            side = DiffusionSide(value)
        case _:
            raise DataError(f"{name} must be the run of a denoiser, a GANRun, or a list of runs of different seeds; "
                            f"{what_came(value)} came. Pass what train_diffusion or train_gan returned.")
    if not all(len(run) for run in side.runs):
        raise DataError(f"{name} has no step of training, so there is nothing to compare. Record a run with at least "
                        "one step.")
    return side


def tangent(run: Run, k: int | None, part: str = "") -> Tangent:
    """The tangent kernel of a run's network, or of a part of it, at a step; summed over outputs, in float64."""
    module, held = _network(run, k, part)
    return Tangent(module, dtype=torch.float64).at(held)


def function_of(run: Run, k: int | None, part: str = "") -> Callable[..., Tensor]:
    """A run's network, or a part of it, at a step as a function of points in float64 that can be differentiated."""
    module, held = _network(run, k, part)
    held = {name: value.double() if value.is_floating_point() else value for name, value in held.items()}
    return lambda *inputs: functional_call(module, held, inputs)


def _network(run: Run, k: int | None, part: str) -> tuple[nn.Module, Parameters]:
    module: Any = run.network.module(())
    held: Parameters = {**run.network.parameters, **run.buffers(run.stop if k is None else run.start + k),
                        **run.parameters(k)}
    if part:
        # A network that differentiates itself cannot be differentiated sample by sample; its inner one can.
        module = getattr(module, part)
        held = {name.removeprefix(f"{part}."): value for name, value in held.items() if name.startswith(f"{part}.")}
    return module, held
