r"""A path kernel by its products with a few columns, and what they leave out.

From :math:`Y = \bar K\Omega` with orthonormal columns :math:`\Omega`, the first of which hold the target, follows
:math:`\hat K = Y(\Omega^T Y)^+ Y^T \preceq \bar K` (Nyström). The trace of :math:`\bar K - \hat K` is known exactly,
and no direction h of length 1 has more than it: :math:`h^T\bar K h \le h^T\hat K h + \mathrm{tr}(\bar K - \hat K)`.
So a sketch gives a certificate too, weaker by what it left out.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from ...arguments import as_seed
from ...result import as_float64
from .chords import Chord, Walk


def columns(aim: Tensor, rank: int, seed: int = 0) -> Tensor:
    """Orthonormal columns, with shape (N, rank), that hold the target and are random else."""
    generator = torch.Generator().manual_seed(as_seed(seed))
    random = torch.randn(len(aim), rank, generator=generator, dtype=torch.float64)
    whole = torch.cat([aim / (float(aim.norm()) or 1.0), random], 1)[:, :rank]
    return torch.linalg.qr(whole)[0]


def products(walk: Walk, omega: Tensor, block: int, done: Callable[[], object]) -> tuple[Tensor, float]:
    """The path kernel times columns, with shape (N, r), and its trace.

    Args:
        walk: The chords, and the points.
        omega: The columns, with shape (N, r).
        block: How many points are taken at a time.
        done: Called after each chord.
    """
    total, trace = torch.zeros_like(omega), 0.0
    for chord, buffers, q, e in walk.chords():
        found, own = _of_a_chord(walk, chord, buffers, omega, block)
        total += found + (e @ (q.T @ omega) + q @ (e.T @ omega) + e @ (e.T @ omega)) / chord.energy
        trace += own + float((2 * e * q + e * e).sum()) / chord.energy
        done()
    return total, trace


def _of_a_chord(walk: Walk, chord: Chord, buffers: dict[str, Tensor], omega: Tensor,
                block: int) -> tuple[Tensor, float]:
    side = walk.side
    cuts = [slice(start, min(start + block, len(side))) for start in range(0, len(side), block)]
    held: list[Tensor] = []

    def rows(part: slice) -> Tensor:
        found = side.part(part).gradients(chord.middle, buffers)
        flat = torch.cat([g.flatten(1) * chord.weights[name] ** 0.5
                          for name, g in zip(side.names, found, strict=True) if chord.weights[name]], 1)
        return flat.reshape(part.stop - part.start, -1, flat.shape[1])

    pulled: Tensor | None = None
    trace = 0.0
    for part in cuts:
        g = rows(part)
        more = torch.einsum("icp,ir->crp", g, omega[part].to(g))
        pulled = more if pulled is None else pulled + more
        trace += float(as_float64(g).square().sum())
        if len(cuts) == 1:
            held = [g]
    assert pulled is not None
    return torch.cat([as_float64(torch.einsum("icp,crp->ir", held[0] if held else rows(part), pulled))
                      for part in cuts]), trace


def nystrom(omega: Tensor, product: Tensor, trace: float) -> tuple[Tensor, Tensor, float]:
    r"""The eigenpairs of the sketched kernel, descending, and the trace that is left.

    A little is added to the diagonal first, and counted as left out, so that the root exists.

    Args:
        omega: Orthonormal columns, with shape (N, r).
        product: The kernel times them.
        trace: The trace of the kernel.

    References:
        | Fixed-Rank Approximation of a Positive-Semidefinite Matrix from Streaming Data (Tropp et al., 2017)

    Example:
        >>> K = torch.diag(torch.tensor([3.0, 1.0], dtype=torch.float64))
        >>> values, vectors, left = nystrom(torch.eye(2, dtype=torch.float64), K, 4.0)
        >>> [round(value, 9) for value in values.tolist()], abs(left) < 1e-9
        ([3.0, 1.0], True)
    """
    size = float(product.norm())
    if not size:
        return torch.zeros(omega.shape[1], dtype=omega.dtype), omega, max(trace, 0.0)
    inner = omega.T @ product
    shift = torch.finfo(omega.dtype).eps * size
    while True:
        root, failed = torch.linalg.cholesky_ex((inner + inner.T) / 2 + shift * torch.eye(len(inner)).to(inner))
        if not int(failed):
            break
        shift *= 10
    moved = product + shift * omega
    half = torch.linalg.solve_triangular(root, moved.T, upper=False).T
    vectors, singular, _ = torch.linalg.svd(half, full_matrices=False)
    values = singular.square()
    return values, vectors, max(trace + shift * len(omega) - float(values.sum()), 0.0) + shift
