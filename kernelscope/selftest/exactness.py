"""Whether this machine computes exactly: small runs written as sums, and small systems solved, in a few seconds."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch

    from ..run.run import Run

#: Times the sum of the absolute terms: some hundred operations in float64.
EXACT = 1e-12


@dataclass(frozen=True)
class ExactRow:
    """One thing that must be exact: its error and the limit of it."""

    name: str
    error: float | None
    limit: float
    sentence: str

    @property
    def ok(self) -> bool:
        """Whether the error is within the limit; NaN is not."""
        return self.error is not None and self.error <= self.limit


@dataclass(frozen=True)
class Exact:
    """What was found on this machine."""

    rows: tuple[ExactRow, ...]
    seconds: float

    @property
    def ok(self) -> bool:
        """Whether everything is exact."""
        return all(row.ok for row in self.rows)

    def summary(self) -> str:
        """The answer in one sentence."""
        wrong = sum(not row.ok for row in self.rows)
        if wrong:
            return f"{wrong} of {len(self.rows)} computations are not exact on this machine."
        return f"All {len(self.rows)} computations are exact to round-off, in {self.seconds:.1f} s."


def exact() -> Exact:
    """Tries one small instance of each thing that this package says is exact.

    Example:
        >>> exact().ok
        True
    """
    began = time.perf_counter()
    rows = []
    for name, limit, attempt, words in _claims():
        try:
            miss = attempt()
            rows.append(ExactRow(name, miss, limit, words.format(error=f"{miss:.0e}")))
        except Exception as error:  # noqa: BLE001 - a machine that cannot compute it at all is told so
            rows.append(ExactRow(name, None, limit, f"{type(error).__name__}: {error}"))
    return Exact(tuple(rows), time.perf_counter() - began)


def _claims() -> Iterator[tuple[str, float, Callable[[], float], str]]:
    import torch

    sums = "the sum of the machines is the network to {error}"
    optimizers: dict[str, Callable[[Any], torch.optim.Optimizer]] = {
        "SGD": lambda p: torch.optim.SGD(p, lr=0.1),
        "SGD with momentum": lambda p: torch.optim.SGD(p, lr=0.05, momentum=0.9, nesterov=True, weight_decay=0.01),
        "RMSprop": lambda p: torch.optim.RMSprop(p, lr=0.01),
        "Adagrad": lambda p: torch.optim.Adagrad(p, lr=0.05),
        "Adam": lambda p: torch.optim.Adam(p, lr=0.02),
        "AdamW": lambda p: torch.optim.AdamW(p, lr=0.02, weight_decay=0.05),
    }
    for name, make in optimizers.items():
        yield name, EXACT, partial(_optimized, make), sums
    yield "replayed run", EXACT, lambda: _decomposed(recorded(optimizers["Adam"], keep=3)), sums
    yield "run on disk", 0.0, _kept, "what is read from the disk is what was recorded, bit for bit"
    yield "float32", 1e-5, lambda: _decomposed(recorded(optimizers["Adam"], dtype=torch.float32)), sums
    for solver in ("direct", "cg"):
        yield f"kernel fit, {solver}", 1e-8, partial(_fitted, solver), (
            "predictions are those of the dense system to {error}")
    yield "tangent kernel", 1e-12, _tangent, "the kernel is that of explicit Jacobians to {error}"


def tools(dtype: torch.dtype | None = None) -> tuple[torch.nn.Module, torch.Tensor, torch.Tensor]:
    """A small network and its data, always the same, without touching the global random numbers."""
    import torch

    dtype = torch.float64 if dtype is None else dtype
    generator = torch.Generator().manual_seed(0)
    x, y = (torch.rand(8, width, generator=generator, dtype=torch.float64).to(dtype) for width in (3, 1))
    skip = torch.nn.utils.skip_init
    model = torch.nn.Sequential(skip(torch.nn.Linear, 3, 5), torch.nn.Tanh(), skip(torch.nn.Linear, 5, 1)).to(dtype)
    for parameter in model.parameters():
        torch.nn.init.uniform_(parameter, -1, 1, generator=generator)
    return model, x, y


def recorded(make: Callable[[Any], torch.optim.Optimizer], steps: int = 8, dtype: torch.dtype | None = None,
             **options: Any) -> Run:
    """A small run of an optimizer."""
    import torch
    from torch.nn.functional import mse_loss

    from ..run.recorder import record

    model, x, y = tools(dtype)
    optimizer = make(model.parameters())
    with record(model, (x, y), loss=mse_loss, **options) as recording:
        for step in range(steps):
            ids = torch.arange(step, step + 5) % len(x)
            recording.batch(ids)
            optimizer.zero_grad()
            mse_loss(model(x[ids]), y[ids]).backward()
            optimizer.step()
    return recording.run


def _decomposed(run: Run) -> float:
    from ..decomposition.exact import decompose

    return decompose(run, run.samples.inputs[0][:2], progress=False).completeness()


def _optimized(make: Callable[[Any], torch.optim.Optimizer]) -> float:
    return _decomposed(recorded(make))


def _kept() -> float:
    import torch

    from ..run.opening import load

    with tempfile.TemporaryDirectory() as folder:
        make = lambda p: torch.optim.SGD(p, lr=0.1, momentum=0.9)
        memory, out = recorded(make), Path(folder) / "run"
        recorded(make, out=out)
        disk = load(out)
        rows = zip(memory.trajectory(0, len(memory)), disk.trajectory(0, len(disk)), strict=True)
        return max(float((a - b).abs().max()) for a, b in rows)


def _fitted(solver: str) -> float:
    import torch

    from ..kernels import Gaussian
    from ..machine.fit import fit

    generator = torch.Generator().manual_seed(1)
    x, z = (torch.rand(count, 2, generator=generator, dtype=torch.float64) for count in (40, 5))
    y = torch.sin(4 * x.sum(1, keepdim=True))
    kernel = Gaussian(0.5)
    machine = fit(kernel, x, y, ridge=1e-2, solver=solver, progress=False)
    gram = (-torch.cdist(x, x) ** 2 / (2 * 0.5**2)).exp()
    cross = (-torch.cdist(z, x) ** 2 / (2 * 0.5**2)).exp()
    truth = cross @ torch.linalg.solve(gram + len(x) * 1e-2 * torch.eye(len(x), dtype=x.dtype), y)
    return float((machine(z) - truth).abs().max() / truth.abs().max())


def _tangent() -> float:
    import torch

    from ..kernels import Tangent

    model, x, _ = tools()
    jacobian = []
    for point in x:
        gradients = torch.autograd.grad(model(point[None]).sum(), list(model.parameters()))
        jacobian.append(torch.cat([gradient.flatten() for gradient in gradients]))
    truth = torch.stack(jacobian) @ torch.stack(jacobian).T
    found = Tangent(model)(x, x)
    return float((found.reshape(truth.shape) - truth).abs().max() / truth.abs().max())
