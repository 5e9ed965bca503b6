"""What a folder of tiles belongs to.

``tiles.json`` holds the kernel in words and its values at a few points, the checksum of every strip of points, and the
side and precision of the tiles. It is sealed by a checksum. More points may be added behind those that are there:
strips that stay as they are keep their tiles.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..data.points import Points
from ..errors import DataError, StoreCorrupt
from ..features.base import points_between
from ..kernels.base import Kernel
from ..storage.files import disk_errors, read_file, write_atomically
from ..storage.strict import parse, sealed

NAME, LIMIT, VERSION = "tiles.json", 2**26, 1

#: At how many points the values of the kernel are kept, and how far another's may be off, which is rounding.
PROBES, CLOSE = 16, {"torch.float64": 1e-12, "torch.float32": 1e-5}


@dataclass(frozen=True)
class Identity:
    """What tiles are of.

    Attributes:
        kernel: The kernel in words.
        values: Its values at the first points, one after the other.
        precision: The precision of these values, in words.
        count: The number of points n.
        strips: The checksum of each strip of points.
        side: The side of a tile.
        dtype: The precision of the tiles, in words.
    """

    kernel: str
    values: tuple[float, ...]
    precision: str
    count: int
    strips: tuple[str, ...]
    side: int
    dtype: str

    @classmethod
    @torch.no_grad()
    def made(cls, kernel: Kernel, points: Points, side: int, dtype: torch.dtype) -> Identity:
        """That of a kernel and points."""
        few = kernel(points_between(points, 0, PROBES))
        strips = tuple(digest(points, i, min(i + side, len(points))) for i in range(0, len(points), side))
        return cls(repr(kernel), tuple(few.double().flatten().tolist()), str(few.dtype), len(points), strips, side,
                   str(dtype))

    def of(self, i: int, j: int) -> str:
        """Tells tile (i, j) from any other."""
        words = "\n".join((self.kernel, self.dtype, str(self.side), self.strips[i], self.strips[j]))
        return hashlib.sha256(words.encode()).hexdigest()

    def keep(self, folder: Path) -> None:
        """Writes it into a folder."""
        with disk_errors(folder / NAME, 0):
            write_atomically(folder / NAME, sealed({"format": "kernelscope tiles", "version": VERSION} | vars(self)))


def kept(folder: Path) -> Identity | None:
    """What the tiles of a folder are of; ``None`` if it does not say.

    Raises:
        StoreCorrupt: If what it says is damaged.
        UnsafeFile: If it is a link, or larger than it can be.
    """
    path = folder / NAME
    try:
        data = read_file(folder, NAME, LIMIT)
    except FileNotFoundError:
        return None
    assert data is not None
    found = parse(data, path, depth=5)
    try:
        if not isinstance(found, dict) or not isinstance(found.get("body"), dict):
            raise ValueError("it does not describe tiles")
        body: dict[str, Any] = dict(found["body"])
        if data != sealed(body) or body.pop("format") != "kernelscope tiles" or body.pop("version") != VERSION:
            raise ValueError("the checksum, or the version, is another one")
        lists = {name: tuple(body[name]) for name in ("values", "strips")}
        identity = Identity(**body | lists)
        right = (isinstance(identity.count, int) and isinstance(identity.side, int) and identity.side > 0
                 and all(isinstance(value, float) for value in identity.values)
                 and all(isinstance(strip, str) for strip in identity.strips)
                 and len(identity.strips) == -(-identity.count // identity.side))
        if not right:
            raise ValueError("its numbers do not fit together")
    except (KeyError, TypeError, ValueError) as error:
        why = (f"{error} is missing" if isinstance(error, KeyError) else
               "its entries are not those of tiles" if isinstance(error, TypeError) else error)
        raise StoreCorrupt(f"{path} is damaged: {why}. So nobody knows what the tiles beside it are of. Name "
                           "another folder, or delete this one; nothing was changed.") from error
    return identity


def check_same(old: Identity, new: Identity, points: Points, folder: Path) -> None:
    """Refuses a folder whose tiles are of something else than the first of these points.

    Raises:
        DataError: If they are.
    """
    other = [what for what, same in (
        ("the kernel", old.kernel == new.kernel and old.precision == new.precision and _close(old, new)),
        ("the side of a tile", old.side == new.side),
        ("the precision of the tiles", old.dtype == new.dtype)) if not same]
    if old.count > new.count:
        raise DataError(f"{folder} holds the tiles of {old.count:,} points, and {new.count:,} came. Open it with all "
                        f"of them and take tiles.leading({new.count}), or name another folder.")
    full = old.count // old.side
    cut = full * old.side
    # Strips of another side have other checksums.
    if old.side == new.side and (old.strips[:full] != new.strips[:full] or (
            cut < old.count and old.strips[full] != digest(points, cut, old.count))):
        other.append("the points")
    if other:
        raise DataError(f"{folder} holds tiles of another matrix: it differs in {', '.join(other)}. They are of "
                        f"{old.kernel}, {old.count:,} points, with side {old.side} in {old.dtype[6:]}. Name another "
                        "folder; nothing was changed.")


def digest(points: Points, start: int, stop: int) -> str:
    """The checksum of some points."""
    part, found = points.part(start, stop), hashlib.sha256()
    for value in _tensors((part.args, sorted(part.kwargs.items()))):
        found.update(f"{value.dtype} {tuple(value.shape)}".encode())
        found.update(value.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data)
    return found.hexdigest()


def _tensors(value: Any) -> Iterator[Tensor]:
    """The tensors of a point that may be several, one within another."""
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, tuple | list):
        for inner in value:
            yield from _tensors(inner)


def _close(old: Identity, new: Identity) -> bool:
    """Whether two kernels have the same values, as far as both saw the same points."""
    a, b = (torch.tensor(one.values, dtype=torch.float64) for one in (old, new))
    k, m = int(len(a)**0.5), int(len(b)**0.5)
    small = min(k, m)
    a, b = a.view(k, k)[:small, :small], b.view(m, m)[:small, :small]
    return float((a - b).abs().max()) <= CLOSE.get(new.precision, 0.0) * float(b.abs().max())
