"""Products by the GPU's program, run on a processor by Triton's interpreter; writes how far off they are.

The interpreter has to be asked for before triton is imported, so this runs as a process of its own.
"""

import json
import os
import sys

os.environ["TRITON_INTERPRET"] = "1"

import pytest  # noqa: E402
import torch  # noqa: E402

from kernelscope.kernels import Gaussian, Laplacian, Matern  # noqa: E402
from kernelscope.kernels.fused import product, programs  # noqa: E402
from kernelscope.kernels.fused.product import Tiles, multiplied, prepared  # noqa: E402

KERNELS = {"Gaussian": Gaussian, "Laplacian": Laplacian, "Matern of 3/2": lambda b: Matern(1.5, b),
           "Matern of 5/2": lambda b: Matern(2.5, b)}

#: What the interpreter can tell apart; it takes products of numbers of 32 bits in one way.
ROUNDED = ("exact", "bf16")

#: Points, centers, dimensions, outputs, and among how many programs the columns are shared out.
SIZES = [(37, 53, 1, 1, 1), (35, 70, 3, 5, 2), (33, 40, 5, 2, 1), (20, 45, 17, 16, 3), (17, 33, 64, 40, 2),
         (18, 21, 300, 3, 1)]


def sides(n, m, d, c, seed=0, shift=3.0):
    """Points and centers far from nought, some of them copies of others, and weights."""
    generator = torch.Generator().manual_seed(seed)
    x, z, w = (torch.randn(*size, generator=generator) for size in ((n, d), (m, d), (m, c)))
    z[[1, m - 1]], z[5] = x[[3, 3]], z[6]
    return x + shift, z + shift, w


def scale(w):
    return float(w.double().norm())


def errors(kind, precision):
    """The error against the same kernel in float64, of the points as they are and as they were rounded."""
    found = []
    for n, m, d, c, shares in SIZES:
        x, z, w = sides(n, m, d, c)
        b = d**0.5
        kernel = KERNELS[kind](b)
        unit, center = b * kernel._profile.unit, z.mean(0)
        ours, theirs = prepared(x, center, unit, precision), prepared(z, center, unit, precision)
        tiles = Tiles(32, 32, 16 if d < 17 else 32, 1 if c == 1 else 16)
        got = multiplied(ours, theirs, w, kernel._profile, precision, tiles=tiles, shares=shares).double()
        moved = [vectors.rounded.double() * unit for vectors in (ours, theirs)]
        for name, left, right in (("true", x.double(), z.double()), ("moved", *moved)):
            gap = (got - kernel(left, right) @ w.double()).abs().max()
            found.append({"sizes": [n, m, d, c], "of": name, "error": float(gap) / scale(w)})
    return found


def copies(kind, precision, d, shift):
    """The entries of pairs of equal points: one row at a time, by weights that are 1 at one center."""
    x = sides(20, 20, d, 1, shift=shift)[0]
    kernel = KERNELS[kind](d**0.5)
    ours = prepared(x, None, d**0.5 * kernel._profile.unit, precision)
    got = multiplied(ours, ours, torch.eye(20), kernel._profile, precision, tiles=Tiles(32, 32, 32, 32), shares=1)
    return float(got.diagonal().min()), float(got.diagonal().max())


def neighbours(kind):
    """The largest error of an entry where all points are as close, but not equal, from far apart to nearly one."""
    generator = torch.Generator().manual_seed(0)
    worst, kernel, unit = 0.0, KERNELS[kind](6.0), 6.0 * KERNELS[kind](6.0)._profile.unit
    for closeness in range(12):
        x, z = (3 + 10.0 ** (-closeness / 3) * torch.randn(16, 40, generator=generator) for _ in range(2))
        ours, theirs = prepared(x, None, unit, "exact"), prepared(z, None, unit, "exact")
        got = multiplied(ours, theirs, torch.eye(16), kernel._profile, "exact", tiles=Tiles(16, 16, 16, 16), shares=1)
        worst = max(worst, float((got.double() - kernel(x.double(), z.double())).abs().max()))
    return worst


def apart(kind, precision, monkeypatch):
    """The largest error where no points are close, and differences are therefore not to be taken."""
    generator = torch.Generator().manual_seed(0)
    x, z = torch.randn(21, 40, generator=generator) + 3, torch.randn(33, 40, generator=generator) + 3
    kernel = KERNELS[kind](6.0)
    unit, center = 6.0 * kernel._profile.unit, z.mean(0)
    ours, theirs = prepared(x, center, unit, precision), prepared(z, center, unit, precision)
    monkeypatch.setattr(programs, "differences", None)
    got = multiplied(ours, theirs, torch.eye(33), kernel._profile, precision, tiles=Tiles(16, 16, 32, 16), shares=1)
    truth = kernel(ours.rounded.double() * unit, theirs.rounded.double() * unit)
    return float((got.double() - truth).abs().max())


def through_the_kernel(precision, monkeypatch):
    """The product that a kernel makes where it finds a GPU, beside what it makes by torch."""
    x, z, w = sides(70, 90, 12, 7)
    kernel = Laplacian(3.0, precision=precision, memory="30KB").fitted(z)
    by_torch = kernel.matmul(x, z, w), kernel.matmul(z, None, w)
    back = kernel.matmul(z, x, w[:70])
    true = Laplacian(3.0)(x.double(), z.double()) @ w.double()
    monkeypatch.setattr(product, "ready", lambda device: True)
    by_program = kernel.matmul(x, z, w), kernel.matmul(z, None, w)
    gap = max(float((a - b).abs().max()) for a, b in zip(by_torch, by_program, strict=True))
    turned = float((kernel.matmul(z, x, w[:70]) - back).abs().max())
    inner = float((w * kernel.matmul(z, x, by_program[0])).sum() - by_program[0].square().sum())
    again = all(torch.equal(a, b) for a, b in
                zip(by_program, (kernel.matmul(x, z, w), kernel.matmul(z, None, w)), strict=True))
    calls = []
    monkeypatch.setattr(product, "multiplied", lambda *args, **kwargs: calls.append(1))
    Laplacian(3.0, fused=False).matmul(x, z, w)
    Laplacian(3.0).matmul(x.double(), z.double(), w)
    Laplacian(3.0).matmul(x, z, w.clone().requires_grad_())
    return {"gap": gap / scale(w), "turned": turned / scale(w), "adjoint": abs(inner) / scale(w)**2, "again": again,
            "true": float((by_program[0] - true).abs().max()) / scale(w), "forced": not calls}


def emptied():
    """A row is the sum of its weights where the bandwidth is infinite beside the points, however it is cut."""
    x, w = torch.randn(37, 6) * 1e-4, torch.randn(53, 4)
    z = torch.randn(53, 6) * 1e-4
    profile = KERNELS["Gaussian"](1.0)._profile
    ours, theirs = (prepared(t, None, 1.0, "exact") for t in (x, z))
    return [float((multiplied(ours, theirs, w, profile, "exact", tiles=Tiles(rows, columns, 16, 16), shares=shares)
                   - w.sum(0)).abs().max())
            for rows, columns, shares in ((16, 16, 1), (16, 32, 2), (64, 16, 4), (32, 64, 9))]


def patched(work, *args):
    with pytest.MonkeyPatch.context() as monkeypatch:
        return work(*args, monkeypatch)


if __name__ == "__main__":
    torch.set_num_threads(1)
    sys.stdout.write(json.dumps({
        "errors": {kind: {precision: errors(kind, precision) for precision in ROUNDED} for kind in KERNELS},
        "copies": {kind: [copies(kind, precision, d, shift) for precision in ROUNDED
                          for d, shift in ((3, 0.0), (40, 3.0), (150, 1.0))] for kind in KERNELS},
        "neighbours": {kind: neighbours(kind) for kind in KERNELS},
        "cuts": emptied(),
        "apart": {f"{kind}, {precision}": patched(apart, kind, precision) for kind in KERNELS for precision in ROUNDED},
        "kernel": {precision: patched(through_the_kernel, precision) for precision in product.PRECISIONS},
    }))
