r"""Random directions g of which every one has the normal distribution :math:`N(0, I_d)`.

Rows that are orthogonal, or that a product of Hadamard matrices gives, spread more evenly than independent ones, and
most sums over them vary less.

References:
    | Orthogonal Random Features (Yu et al., 2016)
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from ..arguments import as_choice, as_count, as_seed

#: The ways in which directions are drawn.
KINDS = ("independent", "orthogonal", "structured", "unscaled", "sobol")

#: The least number that is mapped to a normal one, since nought would be infinite.
LEAST = 1e-12

#: The least size of Hadamard matrices: signs alone are too few to be spread evenly in few dimensions.
WIDE = 64


def directions(count: int, d: int, kind: str = "orthogonal", seed: int | torch.Generator = 0) -> Tensor:
    """Rows of random numbers, drawn with a generator of their own.

    Args:
        count: How many rows.
        d: The numbers of each.
        kind: ``"independent"``; ``"orthogonal"``, in blocks of d rows; ``"structured"``, products of Hadamard matrices
            and signs whose rows get independent lengths, normal up to about 1/d; ``"unscaled"``, the same with rows of
            one length, which are less normal but vary least; or ``"sobol"``, a sequence that fills space evenly, for
            few dimensions. Of Hadamard matrices, the next power of two is taken, and at least 64.
        seed: Which ones; or a generator to draw with.

    Returns:
        The rows, in double precision, with shape (count, d).

    Example:
        >>> g = directions(4, 3, "orthogonal", seed=0)
        >>> g.shape, abs(float(g[0] @ g[1])) < 1e-12
        (torch.Size([4, 3]), True)
    """
    count, d, kind = as_count(count, "count", 1), as_count(d, "d", 1), as_choice(kind, "kind", KINDS)
    draw = seed if isinstance(seed, torch.Generator) else torch.Generator().manual_seed(as_seed(seed))
    if kind == "sobol":
        return _sobol(count, d, draw)
    if kind == "independent":
        return _normal((count, d), draw)
    size = d if kind == "orthogonal" else max(2 ** (d - 1).bit_length(), WIDE)
    block = _orthogonal if kind == "orthogonal" else _hadamard
    rows = torch.cat([block(size, draw) for _ in range(-(-count // size))])[:count]
    lengths = math.sqrt(size) if kind == "unscaled" else _normal((count, size), draw).norm(dim=1, keepdim=True)
    # Coordinates of a normal vector are a normal vector, also the first few of a padded one.
    return (rows * lengths)[:, :d]


def _normal(shape: tuple[int, ...], draw: torch.Generator) -> Tensor:
    return torch.randn(*shape, generator=draw, dtype=torch.float64)


def _orthogonal(d: int, draw: torch.Generator) -> Tensor:
    """A rotation or reflection from the uniform distribution."""
    q, r = torch.linalg.qr(_normal((d, d), draw))
    # Without the signs it would depend on how the factorisation is computed.
    return q * r.diagonal().sign()


def _hadamard(size: int, draw: torch.Generator) -> Tensor:
    """Rows H D H D H D of length 1, where the size is a power of two."""
    rows = torch.eye(size, dtype=torch.float64)
    for _ in range(3):
        signs = torch.randint(0, 2, (size,), generator=draw).double() * 2 - 1
        rows = _transformed(rows * signs) / math.sqrt(size)
    return rows


def _transformed(rows: Tensor) -> Tensor:
    """The Walsh-Hadamard transform of each row, whose length is a power of two."""
    size, step = rows.shape[1], 1
    while step < size:
        pairs = rows.reshape(len(rows), -1, 2, step)
        rows = torch.stack((pairs[:, :, 0] + pairs[:, :, 1], pairs[:, :, 0] - pairs[:, :, 1]), 2).reshape(len(rows), -1)
        step *= 2
    return rows


def _sobol(count: int, d: int, draw: torch.Generator) -> Tensor:
    seed = int(torch.randint(0, 2**31, (1,), generator=draw))
    uniform = torch.quasirandom.SobolEngine(d, scramble=True, seed=seed).draw(count, dtype=torch.float64)
    return math.sqrt(2) * torch.erfinv(2 * uniform.clamp(LEAST, 1 - LEAST) - 1)
