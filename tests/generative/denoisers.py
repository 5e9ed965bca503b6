"""Tiny recorded denoisers in double precision, and what their draws did, by two nested loops."""

from __future__ import annotations

import warnings

import torch
import torch.nn.functional as F
from torch import Tensor, nn

import kernelscope as ks
from kernelscope.generative.denoising.denoiser import Denoiser, along
from kernelscope.generative.denoising.noise import NoiseLaw
from kernelscope.generative.networks import NoiseMLP
from kernelscope.run.run import Run

RATE, SPREAD = 0.05, 0.8


class LinearCore(nn.Module):
    """A core that is linear in the point and does not look at the noise."""

    def __init__(self, d: int):
        super().__init__()
        self.map = nn.Linear(d, d, bias=False)

    def forward(self, y: Tensor, c: Tensor) -> Tensor:
        return self.map(y)


def points(n: int = 12, d: int = 3) -> Tensor:
    return torch.randn(n, d, generator=torch.Generator().manual_seed(1), dtype=torch.float64)


def recorded(core: nn.Module, x: Tensor, optimizer: str = "sgd", steps: int = 6, batch: int = 4,
             average: bool = False) -> Run:
    """A short recorded training of a denoiser."""
    law, source = NoiseLaw(-0.5, 1.0), torch.Generator().manual_seed(2)
    with torch.random.fork_rng():
        torch.manual_seed(3)
        for p in core.parameters():
            p.data = 0.4 * torch.randn(p.shape)
    denoiser = Denoiser(core, SPREAD).double()
    made = {"sgd": lambda p: torch.optim.SGD(p, lr=RATE), "adam": lambda p: torch.optim.Adam(p, lr=0.02),
            "momentum": lambda p: torch.optim.SGD(p, lr=RATE, momentum=0.9),
            "decay": lambda p: torch.optim.AdamW(p, lr=0.02, weight_decay=0.1)}[optimizer](denoiser.parameters())
    kept = torch.optim.swa_utils.AveragedModel(
        denoiser, multi_avg_fn=torch.optim.swa_utils.get_ema_multi_avg_fn(0.9)) if average else None
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        options = {"average": kept} if average else {}
        with ks.record(denoiser, (x, x), loss=F.mse_loss, notes={"law": [law.mean, law.deviation]},
                       **options) as recording:
            for _ in range(steps):
                ids = torch.randint(len(x), (batch,), generator=source)
                sigma = law.draw(batch, source).double()
                y = x[ids] + along(sigma, x[ids]) * torch.randn(x[ids].shape, generator=source, dtype=torch.float64)
                target = denoiser.target(x[ids], y, sigma)
                recording.deliver((y, target), ids.tolist())
                made.zero_grad()
                F.mse_loss(denoiser(y, sigma), target).backward()
                made.step()
                if kept is not None:
                    kept.update_parameters(denoiser)
    return recording.run


def mlp(d: int = 3) -> nn.Module:
    with torch.random.fork_rng():
        return NoiseMLP(d, width=5)


def draws(run: Run) -> list[tuple[int, int, Tensor, Tensor, Tensor, int]]:
    """Every draw of a run: step, sample, noisy point, noise level, target, and how many draws its step has."""
    found = []
    for k in range(len(run)):
        batch = run.step(k).batches[0]
        (y, sigma), target = run.samples.read(batch)
        for j, i in enumerate(batch.columns.tolist()):
            found.append((k, i, y[j], sigma[j], target[j], len(y)))
    return found


def at(run: Run, k: int, y: Tensor, sigma: Tensor, parameters: dict[str, Tensor] | None = None) -> Tensor:
    """The output for one point at the start of step k, or at other parameters."""
    held = run.parameters(k) if parameters is None else parameters
    return run.network(held, run.buffers(k), (y[None], sigma[None]))[0]


def gradient(run: Run, k: int, value, parameters: dict[str, Tensor]) -> Tensor:
    """The gradient of a number by the parameters, as one vector."""
    leaves = {name: p.clone().requires_grad_() for name, p in parameters.items()}
    found = torch.autograd.grad(value(leaves), list(leaves.values()), allow_unused=True)
    return torch.cat([(torch.zeros_like(p) if g is None else g).flatten()
                      for g, p in zip(found, leaves.values(), strict=True)])
