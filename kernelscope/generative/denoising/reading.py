"""What a diffusion run says as a denoiser: its noise levels, its clean points, its function at any step."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from ...errors import DataError
from ...network import Parameters, cast, undisturbed
from ...run.run import Run
from .denoiser import along
from .noise import NoiseLaw

__all__ = ["DiffusionRun"]

#: Clean points that are told from noisy ones are known to so many roundings of the largest of them.
ROUNDING = 8


class DiffusionRun:
    """A recorded run of a module like :class:`Denoiser`: called as (y, sigma), with coefficients of its own.

    Args:
        run: The run.

    Attributes:
        run: The run.
        law: The law that its noise levels were drawn from: the one that was given to the recording, or else the normal
            law with the mean and the deviation of the logarithms that were drawn.

    Raises:
        DataError: If the run is none of a denoiser.

    Example:
        >>> from kernelscope.generative.training import train_diffusion
        >>> reading = DiffusionRun(train_diffusion(torch.randn(20, 4), width=8, steps=5, batch=4))
        >>> reading.law, reading.denoised(torch.zeros(2, 4), torch.tensor([0.1, 1.0])).shape
        (NoiseLaw(mean=-1.2, deviation=1.2), torch.Size([2, 4]))
    """

    def __init__(self, run: Run):
        self.run = run
        module = run.network.module(())
        if not hasattr(module, "coefficients") or len(run.samples.inputs) != 2:
            raise DataError(
                "A diffusion run is one of kernelscope.generative.Denoiser, which is called with noisy points and "
                f"noise levels; this run is one of {type(module).__name__} with {len(run.samples.inputs)} inputs. "
                "Wrap the network in a Denoiser, train that and record it."
            )
        self._module: Any = module
        self.law = self._law()

    def _law(self) -> NoiseLaw:
        given = (self.run.meta.get("notes") or {}).get("law")
        if given is not None:
            if (not isinstance(given, list) or len(given) != 2 or not all(type(v) in (int, float) for v in given)
                    or not all(map(math.isfinite, given)) or given[1] <= 0):
                raise DataError(f"The law of noise in the notes of a diffusion run is its mean and its deviation; "
                                f"{str(given)[:100]!r} was found. The notes were changed; record again.")
            return NoiseLaw(float(given[0]), float(given[1]))
        if not len(self.run):
            raise DataError("This run has no step, so nobody knows what noise it was trained on. Take a longer slice, "
                            "or record with record_diffusion(..., law=NoiseLaw()).")
        drawn = torch.cat([self.levels(k) for k in range(len(self.run))]).double().log()
        deviation = float(drawn.std()) if len(drawn) > 1 else 0.0
        # Of one level only there is no deviation to tell.
        return NoiseLaw(float(drawn.mean()), deviation or NoiseLaw.deviation)

    def coefficients(self, sigma: Tensor) -> tuple[Tensor, Tensor]:
        """The coefficients a and b in D = a y + b o, o what the network gives."""
        return self._module.coefficients(sigma)

    def output(self, y: Tensor, sigma: Tensor, parameters: Parameters | None = None) -> Tensor:
        """What the network gives, at the end of the run or at other parameters, in the precision of ``y``."""
        run = self.run
        held = run.parameters() if parameters is None else parameters
        # Gradients by the noisy point go through, where it asks for them.
        graph = torch.is_grad_enabled()
        with undisturbed(y.device), torch.set_grad_enabled(graph):
            held = cast({**run.network.parameters, **held}, y.dtype, y.device)
            return run.network(held, cast(run.buffers(run.stop), y.dtype, y.device), (y, sigma.to(y)))

    def denoised(self, y: Tensor, sigma: Tensor, parameters: Parameters | None = None) -> Tensor:
        """The denoised points D."""
        a, b = self.coefficients(sigma.to(y))
        return along(a, y) * y + along(b, y) * self.output(y, sigma, parameters)

    @property
    def averaged(self) -> Parameters:
        """The averaged weights that were recorded beside the trained ones, at the end of the run.

        Raises:
            DataError: If there are none.
        """
        row = self.run.average(self.run.stop)
        if row is None:
            raise DataError("This run holds no averaged weights at its end. Record with record_diffusion(..., "
                            "average=averaged_model), and take the whole run.")
        return self.run.named(row)

    def averaging(self, y: Tensor, sigma: Tensor) -> Tensor:
        r"""What averaging the weights adds to the denoised points, with the shape of ``y``.

        .. math:: D_{\bar\theta} - D_{\theta_T} = \int_0^1 J\big(\theta_T + s (\bar\theta - \theta_T)\big)\,
                  (\bar\theta - \theta_T)\, ds

        It is the group that closes a ledger of the trained weights at the averaged ones; ``decompose(run, ...,
        weights="average")`` gives the part of each sample in it.
        """
        return self.denoised(y, sigma, self.averaged) - self.denoised(y, sigma)

    @property
    def clean(self) -> Tensor:
        """The clean training points by sample, with shape (n, *); NaN where training never drew one.

        They are told from noisy points, so to rounding; points that differ by no more are given as the first of them.
        """
        samples = self.run.samples
        seen = samples.seen
        (y, sigma), o = samples.batch(seen.nonzero().flatten())
        a, b = self.coefficients(sigma)
        x = torch.full((samples.size, *y.shape[1:]), torch.nan, dtype=y.dtype)
        found = along(a, y) * y + along(b, y) * o
        size = (along(a, y) * y).abs() + (along(b, y) * o).abs()
        known_to = ROUNDING * torch.finfo(y.dtype).eps * float(size.flatten(1).norm(dim=1).max()) if len(size) else 0.0
        x[seen] = found[_first_alike(found, known_to)]
        return x

    def levels(self, k: int) -> Tensor:
        """The noise levels of the samples that step k of this run drew, over all its forward passes."""
        return torch.cat([self.run.samples.read(batch)[0][1] for batch in self.run[k].batches])


def _first_alike(x: Tensor, tolerance: float) -> Tensor:
    """For each row the place of the first one that is no farther away, with shape (n,)."""
    rows = x.flatten(1).double()
    way = torch.randn(rows.shape[1], generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    # Along a direction no two rows are farther apart than they are, so those alike are near in this order.
    along_way = rows @ (way / way.norm())
    order = along_way.argsort(stable=True)
    along_way = along_way[order]
    first = torch.arange(len(rows))
    for shift in range(1, len(rows)):
        near = (along_way[shift:] - along_way[:-shift] <= tolerance).nonzero().flatten()
        if not len(near):
            break
        one, other = order[near], order[near + shift]
        alike = (rows[one] - rows[other]).norm(dim=1) <= tolerance
        one, other = one[alike], other[alike]
        first.scatter_reduce_(0, torch.maximum(one, other), torch.minimum(one, other), "amin")
    return first
