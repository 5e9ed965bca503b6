"""Kernels, points and matrices for the tests of tiles, and what processes do with them: this file is run in each."""

import contextlib
import math
import os
import sys
import time
from datetime import timedelta
from pathlib import Path

import torch
import torch.distributed as dist

import kernelscope as ks
from kernelscope.cli import main
from kernelscope.errors import ProcessLost
from kernelscope.kernels import Laplacian
from kernelscope.kernels.base import Kernel
from kernelscope.machine.checkpoint import Checkpoint
from kernelscope.solvers import PCG
from kernelscope.solvers.system import System


class DeepReLU(Kernel):
    """The kernel of an infinitely wide network with some hidden layers of rectifiers, by its recursion."""

    def __init__(self, depth=3):
        self.depth = depth

    def __repr__(self):
        return f"DeepReLU({self.depth})"

    def __call__(self, x, z=None):
        a, b = self._vectors(x), self._vectors(x if z is None else z)
        k, p, q = 2 * a @ b.T / a.shape[1], 2 * a.square().mean(1), 2 * b.square().mean(1)
        lengths = (p[:, None] * q).sqrt()
        for _ in range(self.depth):
            angle = (k / lengths).clamp(-1, 1).acos()
            k = lengths / math.pi * (angle.sin() + (math.pi - angle) * angle.cos())
        return k

    def diagonal(self, x):
        return 2 * self._vectors(x).square().mean(1)

    def _vectors(self, x):
        points = self.points(x)
        return points.part(0, len(points)).args[0]


class Slow(Laplacian):
    """A kernel that takes its time, and says in a file which tiles it computed."""

    def __init__(self, log=None, pause=0.0):
        super().__init__(2.0)
        self.log, self.pause = log, pause

    def __call__(self, x, z=None):
        time.sleep(self.pause)
        if self.log is not None:
            with open(self.log, "a") as file:
                file.write(f"{len(self.points(x))}\n")
        return super().__call__(x, z)


def samples(n=300, d=5, outputs=2):
    x = torch.randn(n, d, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    return x, torch.stack([(x[:, 0] * (i + 1)).sin() + x.norm(dim=1) for i in range(outputs)], 1)


def building(folder, log, pause):
    x, _ = samples()
    ks.Tiles(Slow(log, float(pause)), x, folder, side=32).build()


#: What is fitted by one process and by several: with tiles or without, with all that columns and scales come from.
SETTINGS = {
    "tiles": {"ridge": 1e-3, "tiled": torch.float64},
    "single precision": {"ridge": 1e-3, "tiled": torch.float32},
    "computed": {"ridge": [1e-2, 1e-4], "intercept": True},
    "without tiles in memory": {"ridge": 1e-3, "memory": 700_000},
    "columns": {"ridge": 1e-3, "preconditioner": "rpcholesky", "weighted": True},
    "patience": {"ridge": [1e-7, 1e-3], "preconditioner": None, "patience": 2},
}


def fitted(folder, ridge, tiled=None, preconditioner="nystrom", weighted=False, **more):
    x, y = samples()
    weights = torch.rand(len(x), generator=torch.Generator().manual_seed(1)) if weighted else None
    tiles = None if tiled is None else ks.Tiles(Laplacian(2.0), x, f"{folder}-{tiled}", side=32, dtype=tiled)
    if "patience" in more:
        more["validation"] = x[:40] + 0.3, y[:40]
    solver = PCG(preconditioner, rank=20, tolerance=1e-9)
    machine = ks.fit(Laplacian(2.0), x, y, ridge=ridge, weights=weights, tiles=tiles, solver=solver, progress=False,
                     **more)
    return {"coefficients": machine.fitting.coefficients, "intercepts": machine.fitting.intercepts,
            "history": torch.tensor([one["residual"] for one in machine.fitting.history])}


def joined(store, rank, size):
    """Meets the other processes: by a file, or as torchrun says."""
    os.environ["GLOO_SOCKET_IFNAME"] = "lo"
    where = {} if store is None else {"init_method": f"file://{store}", "rank": rank, "world_size": size}
    dist.init_process_group("gloo", timeout=timedelta(seconds=60), **where)
    # Who ends one of them waits until all have met.
    dist.barrier()


def together(out, store=None, rank=0, size=1):
    joined(store, rank, size)
    found = {name: fitted(f"{out}.tiles", distributed=True, **settings) for name, settings in SETTINGS.items()}
    if dist.get_rank() == 0:
        torch.save(found, out)
    dist.barrier()
    dist.destroy_process_group()


def long_fit(folder, pause=0.0, distributed=False):
    """A fit that takes many products, each of which is kept."""
    Checkpoint.due = lambda self: True
    times = System.times

    def slowly(self, v, exact):
        time.sleep(pause)
        return times(self, v, exact)

    System.times = slowly
    x, y = samples()
    tiles = ks.Tiles(Slow(pause=pause / 4), x, Path(folder) / "tiles", side=32)
    solver = PCG(rank=5, tolerance=1e-10)
    try:
        machine = ks.fit(tiles.kernel, x, y, ridge=[1e-5, 1e-3], intercept=True, tiles=tiles, solver=solver,
                         checkpoint=Path(folder) / "checkpoint", progress=False, distributed=distributed)
    finally:
        System.times = times
    return {"coefficients": machine.fitting.coefficients, "intercepts": machine.fitting.intercepts,
            "history": torch.tensor([one["residual"] for one in machine.fitting.history])}


def killed(folder, pause, store=None, rank=0):
    """The fit, by this process or by two, until somebody ends it."""
    if store is not None:
        joined(store, rank, 2)
    Path(folder, f"begun-{os.getpid()}").touch()
    try:
        found = long_fit(folder, pause, store is not None)
        if rank == 0:
            torch.save(found, Path(folder) / "found.pt")
    except ProcessLost:
        os._exit(3)


def command(port, rank, size, out, *words):
    """A command of the shell, as torchrun starts it."""
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "RANK": str(rank), "LOCAL_RANK": str(rank),
                   "WORLD_SIZE": str(size), "GLOO_SOCKET_IFNAME": "lo", "CUDA_VISIBLE_DEVICES": ""}
    with open(f"{out}-{rank}", "w") as said, contextlib.redirect_stdout(said):
        code = main(words)
    sys.exit(code)


def alone(function, *arguments):
    """One of these functions, in a process of its own."""
    torch.set_num_threads(1)
    {"together": together, "killed": killed, "command": command, "building": building}[function](*arguments)


if __name__ == "__main__":
    torch.set_num_threads(1)
    {"building": building, "together": together}[sys.argv[1]](*sys.argv[2:])
