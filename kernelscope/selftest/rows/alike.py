"""F10: samples that are the same, or nearly, and labels that contradict each other."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial

import torch
from torch import Tensor

import kernelscope as ks

from ..judging import Case, Cases, must_hold
from ..subjects import points

RIDGE = 1e-3

#: How far the answers of two solvers may be apart, of numbers of size one: iterations end at a residual of 1e-6, and
#: EigenPro at 2e-3.
FAR = {"direct": 1e-8, "cg": 1e-4, "pcg": 1e-4, "eigenpro": 2e-2}


def _data() -> dict[str, tuple[Tensor, Tensor]]:
    x = points(40, 2)
    y = x[:, 0].sin()
    twice, near = torch.cat([x[:20], x[:20]]), torch.cat([x[:20], x[:20] + 1e-9 * points(20, 2, seed=2)])
    labels = torch.cat([y[:20], -y[:20]])
    return {
        "every sample twice": (twice, torch.cat([y[:20], y[:20]])),
        "one sample ten times": (torch.cat([x[:30], x[:1].expand(10, -1)]), torch.cat([y[:30], y[:1].expand(10)])),
        "near-duplicates": (near, torch.cat([y[:20], y[:20]])),
        "all samples equal": (x[:1].expand(40, -1).clone(), y),
        "conflicting labels": (twice, labels),
        "near-duplicates with conflicting labels": (near, labels),
    }


def _solver(name: str) -> object:
    return {"pcg": ks.solvers.PCG(), "eigenpro": ks.solvers.EigenPro(epochs=500, tolerance=1e-4)}.get(name, name)


def agrees(x: Tensor, y: Tensor, solver: str, fit: Callable[..., ks.KernelMachine] = ks.fit) -> bool | str:
    """Whether a machine gives what dense algebra in double precision gives; samples weigh as often as they come."""
    k = ks.kernels.Gaussian(1.0)
    machine = fit(k, x, y, ridge=RIDGE, solver=_solver(solver), progress=False)
    gram = torch.exp(-torch.cdist(x, x, compute_mode="donot_use_mm_for_euclid_dist").square() / 2)
    truth = gram @ torch.linalg.solve(gram + len(x) * RIDGE * torch.eye(len(x)).double(), y)
    gap = float((machine(x) - truth).abs().max())
    if gap <= FAR[solver] or machine.fitting is not None and any("conver" in note for note in machine.fitting.notes):
        return True
    return f"{gap:.1e} from the closed form, and {FAR[solver]:.0e} is allowed"


class Alike(Cases):
    """Six kinds of samples and four solvers."""

    id, sentence = "F10", "Samples are the same, or nearly, and labels contradict each other."

    def cases(self) -> Iterator[Case]:
        for kind, (x, y) in _data().items():
            for solver in FAR:
                yield f"{kind}, {solver}", partial(must_hold, partial(agrees, x, y, solver))


ROWS = (Alike,)
