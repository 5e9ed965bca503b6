"""Everything that is kept on a disk, in small: how it is made, and all that is read of it again."""

from __future__ import annotations

import copy
import hashlib
import json
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.nn.functional import mse_loss

from ..decomposition.exact import decompose
from ..kernels import Gaussian
from ..machine.fit import fit
from ..machine.machine import KernelMachine
from ..nn.layers.layer import SNNKLinear
from ..result import Result
from ..run.opening import load
from ..run.recorder import record
from ..run.run import Run
from ..solvers import ConjugateGradient
from ..tiles.tiles import Tiles
from .exactness import recorded


@dataclass(frozen=True)
class Kept:
    """A kind of thing on a disk.

    Attributes:
        name: What it is.
        make: Makes it at a path that is not there yet.
        read: Reads all of it, as a checksum of every number and every word.
        again: Does the same as ``make`` where one is already, so that another one is there in the end, or the same.
    """

    name: str
    make: Callable[[Path], object]
    read: Callable[[Path], str]
    again: Callable[[Path], object] | None = None


def digest(value: Any) -> str:
    """A checksum of nested plain values and tensors: equal only where every bit is."""
    found = hashlib.sha256()
    _into(value, found)
    return found.hexdigest()[:24]


def _into(value: Any, found: Any) -> None:
    if isinstance(value, torch.Tensor):
        t = value.detach().cpu().contiguous()
        found.update(f"{t.dtype}{tuple(t.shape)}".encode())
        found.update(t.reshape(-1).view(torch.uint8).numpy().tobytes())
    elif isinstance(value, dict):
        for key, item in value.items():
            _into(key, found)
            _into(item, found)
    elif isinstance(value, list | tuple):
        found.update(f"[{len(value)}".encode())
        for item in value:
            _into(item, found)
    else:
        found.update(repr(value).encode())


# A run


def rich_run(path: Path) -> Run:
    """A run with everything that a run may hold: passes in two halves, noise, statistics, averages and kept rows."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = nn.Sequential(nn.Linear(3, 5), nn.BatchNorm1d(5), nn.Tanh(), nn.Dropout(0.2), nn.Linear(5, 2)).double()
        model[0].bias.requires_grad_(False)
        x, y = (torch.randn(16, width, dtype=torch.float64) for width in (3, 2))
        optimizer = torch.optim.Adam([p for p in model.parameters() if p.requires_grad], lr=0.05)
        with record(model, (x, y), loss=mse_loss, out=path, commit_every=0, average=copy.deepcopy(model), keep=3,
                    class_names=["a", "b"], notes={"by": "selftest"}) as recording:
            for k in range(10):
                ids = torch.arange(3 * k, 3 * k + 6) % 16
                recording.batch(ids)
                (mse_loss(model(x[ids]), y[ids]) / 2).backward()
                if k % 2:
                    optimizer.step()
                    optimizer.zero_grad()
    return recording.run


@cache
def _short_run() -> Run:
    return recorded(lambda p: torch.optim.SGD(p, lr=0.1), 3)


def run_of(path: Path) -> str:
    """All that a run says."""
    return digest(run_numbers(load(path)))


def run_numbers(run: Run) -> list[Any]:
    """Every number and every word of a run."""
    count, every = len(run), [run.step(k) for k in range(len(run))]
    steps = [(s.optimizer, s.groups, s.largest, s.without, s.average, s.owner, s.norms,
              [(b.columns, b.at, b.training, b.autocast, b.random, b.norms, b.drawn) for b in s.batches])
             for s in every]
    info = {key: value for key, value in run.info().items() if key != "path"}
    return [steps, list(run.trajectory(0, count)), [run.buffers(k) for k in range(-1, count + 1)],
            [run.states(k) for k in range(-1, count + 1)], [run.sample(i) for i in range(run.size)],
            [run.average(k) for k in range(count + 1)], dict(run.network.parameters), info, run.labels,
            run.class_names, run.restarts, run.fingerprint()]


# The others


def _points(count: int = 40) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(count, 3, generator=generator, dtype=torch.float64)
    return x, x.sin().sum(1)


@cache
def _machine(ridge: float = 1e-3) -> KernelMachine:
    x, y = _points()
    return fit(Gaussian(1.0), x, y, centers=10, ridge=ridge, solver="direct", progress=False)


def _machine_of(path: Path) -> str:
    machine = KernelMachine.load(path)
    fitting = machine.fitting
    return digest([machine.coefficients, machine.intercept, machine.centers, repr(machine.kernel), repr(machine),
                   None if fitting is None else vars(fitting), machine(_points()[0][:3])])


@cache
def _result(steps: int = 4) -> Result:
    run = recorded(lambda p: torch.optim.SGD(p, lr=0.1, momentum=0.9), steps)
    return decompose(run, run.samples.inputs[0][:2], progress=False)


def _result_of(path: Path) -> str:
    found = Result.load(path)
    return digest([type(found).__name__, {name: value for name, value in vars(found).items()}])


def _tiles(path: Path) -> Tiles:
    return Tiles(Gaussian(1.0), _points(20)[0], path, side=10)


def _tiles_of(path: Path) -> str:
    tiles = _tiles(path)
    return digest(tiles @ torch.eye(20, dtype=torch.float64))


def passes(path: Path | None) -> KernelMachine:
    """A fit in many cheap passes, which goes on in a folder."""
    x, y = _points()
    solver = ConjugateGradient("two-level", rank=2, steps=1, tolerance=1e-15, passes=3)
    return fit(Gaussian(1.0), x, y, centers=12, ridge=1e-4, solver=solver, progress=False,
               checkpoint=None if path is None else str(path))


def checkpoint_of(path: Path | None) -> str:
    """What a fit that goes on in a folder ends with."""
    machine = passes(path)
    return digest([machine.coefficients, machine.intercept])


def _layer(path: Path, width: int = 4) -> None:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(width)
        SNNKLinear(3, width, features=6).save(path)


def _layer_of(path: Path) -> str:
    return digest(dict(SNNKLinear.load(path).state_dict()))


def kinds() -> list[Kept]:
    """Every kind of thing that is kept."""
    return [
        Kept("run", rich_run, run_of, lambda path: _short_run().save(path, overwrite=True)),
        Kept("machine", lambda path: _machine().save(path), _machine_of,
             lambda path: _machine(1e-1).save(path, overwrite=True)),
        Kept("result", lambda path: _result().save(path), _result_of,
             lambda path: _result(3).save(path, overwrite=True)),
        Kept("tiles", lambda path: _tiles(path).build(), _tiles_of),
        Kept("checkpoint", passes, checkpoint_of),
        Kept("layer", _layer, _layer_of, lambda path: _layer(path, 5)),
    ]


def files(path: Path) -> list[Path]:
    """The files of a kept thing, in an order that never changes."""
    return [path] if path.is_file() else sorted(found for found in path.rglob("*") if found.is_file())


def copied(path: Path, target: Path) -> Path:
    """A copy of a kept thing."""
    return Path(shutil.copy(path, target) if path.is_file() else shutil.copytree(path, target, symlinks=True))


def resealed(body: Any) -> bytes:
    """A manifest with a sound checksum, whatever it says."""
    text = json.dumps(body, sort_keys=True, separators=(",", ":"))
    return f'{{"body":{text},"sha256":"{hashlib.sha256(text.encode()).hexdigest()}"}}'.encode()
