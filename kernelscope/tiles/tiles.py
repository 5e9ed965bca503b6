"""A kernel matrix on disk, built by any number of workers.

Every tile of the lower triangle is a file of its own, so a build that is killed goes on with the tiles that are
missing, and workers that know nothing of each other, on any machines that see the folder, build it together. A tile has
the same bits whoever computes it.
"""

from __future__ import annotations

import os
import random
import re
import time
from collections import deque
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ..arguments import as_count, as_path
from ..budget import as_bytes, as_words
from ..errors import DataError, StoreCorrupt, StoreError, UnsafeFile
from ..features.base import points_between
from ..kernels.base import Kernel
from ..progress import counting, telling
from ..storage.files import ask_for_room, disk_errors, make_folder
from ..storage.lock import alone
from .claims import Claims
from .computed import ASYMMETRY, check_kernel, computed, precision
from .file import Label, in_the_way, read, write
from .identity import Identity, check_same, kept
from .pace import seconds_each, suited
from .triangle import Triangle

#: How many tiles are read ahead of the one that is multiplied.
AHEAD = 2

#: For how long a worker waits before it looks again for what others compute, in seconds: at first, and at most.
SOON, LATE = 0.02, 1.0

#: Every file that belongs to a tile.
OWN = re.compile(r"(tile-\d{6}-\d{6}-[0-9a-f]{16}\.tile)(\.claim|\.[0-9a-z]+\.part)?", re.ASCII)


@dataclass(frozen=True)
class Work:
    """What is left to do.

    Attributes:
        tiles: How many tiles are missing.
        bytes: How many bytes they take on the disk.
        seconds: How long one worker will take, about.
    """

    tiles: int
    bytes: int
    seconds: float

    def __repr__(self) -> str:
        return (f"{self.tiles:,} tile{'s' * (self.tiles != 1)}, {as_words(self.bytes)} on disk, about "
                f"{self.seconds:.3g} s of one worker")


class Tiles(Triangle):
    r"""The symmetric matrix :math:`K_{ij} = k(x_i, x_j)`, kept in a folder as the tiles of its lower triangle.

    It is opened, or made if need be; nothing is computed before ``build``. Every tile is checked when it is read.

    Args:
        kernel: A symmetric kernel with one number for each pair of points.
        x: The points, n of them.
        folder: Where the tiles are. A folder of fewer points, which are the first of these, is gone on with: the tiles
            that are there already stay.
        side: How many points the side of a tile has. If not given, that of the tiles that are there; in a new folder
            one by which a tile takes at most about a minute, and a small share of the whole.
        dtype: The precision in which tiles are kept, ``torch.float32`` or ``torch.float64``; that of the kernel if not
            given.
        memory: About how much the tiles that stay in memory after they were read may use.

    Raises:
        DataError: If there is no such matrix, or the folder holds that of another kernel or of other points.
        StoreCorrupt: If the folder does not say what it is of.

    Example:
        >>> import torch, kernelscope as ks
        >>> K = ks.Tiles(ks.kernels.Laplacian(bandwidth=1.0), torch.tensor([[0.0], [1.0], [2.0]]), "tiles", side=2)
        >>> K.missing
        3
        >>> K.build()
        >>> K @ torch.ones(3)
        tensor([1.5032, 1.7358, 1.5032])
        >>> K[0, [0, 2]]
        tensor([[1.0000, 0.1353]])
    """

    def __init__(self, kernel: Kernel, x: Any, folder: str | os.PathLike[str], side: int | None = None,
                 dtype: torch.dtype | None = None, memory: int | str = "1GB"):
        check_kernel(kernel)
        if dtype is not None and dtype not in ASYMMETRY:
            raise DataError(f"Tiles are kept in torch.float32 or torch.float64; {dtype!r} came. Leave dtype out for "
                            "the precision of the kernel.")
        self.folder = as_path(folder, "The folder of tiles", '"tiles/digits"')
        points = kernel.points(x)
        own = precision(kernel, points)
        with disk_errors(self.folder, 0):
            make_folder(self.folder)
        # Of workers that open a new folder at once, one says how large tiles are.
        with disk_errors(self.folder, 0), alone(self.folder):
            old = kept(self.folder)
            if side is None:
                side = suited(seconds_each(kernel, points), len(points)) if old is None else old.side
            super().__init__(kernel, points, as_count(side, "side", 1), dtype or own, as_bytes(memory))
            self.identity = Identity.made(kernel, points, self.side, self.dtype)
            if old is not None:
                check_same(old, self.identity, points, self.folder)
            if old is None or old.count < self.identity.count:
                self.identity.keep(self.folder)

    def __repr__(self) -> str:
        return f"Tiles({self.kernel!r}, shape={self.shape}, {str(self.folder)!r})"

    @property
    def missing(self) -> int:
        """How many tiles are not there yet."""
        return len(self._missing())

    def estimate(self) -> Work:
        """What is left to do, by the time that a small block takes."""
        labels = [self._label(*place) for place in self._missing()]
        # A tile on the diagonal is symmetric, so half of it is computed.
        entries = sum(label.shape[0] * label.shape[1] / (2 if label.place[0] == label.place[1] else 1)
                      for label in labels)
        seconds = entries * seconds_each(self.kernel, self.points, self.side) if labels else 0.0
        return Work(len(labels), sum(label.size for label in labels), seconds)

    def build(self, progress: bool | None = None) -> None:
        """Computes the tiles that are missing, and returns when all are there.

        Any number of workers may do so at once. What one has claimed the others leave to it, and take it over if it
        was killed. After an interruption the same call goes on.

        Args:
            progress: Whether a bar is shown; on a terminal or in a notebook, and for what takes long, if not given.

        Raises:
            StoreFull: If the disk has no room for them; said before the work begins.
            NonFiniteError: If the kernel is NaN or infinite for two points.
        """
        missing = self._missing()
        if not missing:
            return
        with disk_errors(self.folder, 0):
            ask_for_room(self.folder, sum(self._label(*place).size for place in missing))
        # Workers that begin somewhere else meet less often.
        order = random.Random(os.getpid())
        pause = SOON
        with (telling(progress), counting(len(missing), "kernel matrix", "tiles") as done,
              Claims(self.folder) as claims):
            while missing:
                first = order.randrange(len(missing))
                mine = sum(self._made(place, claims, done) for place in missing[first:] + missing[:first])
                left = self._missing()
                done(len(missing) - len(left) - mine)
                missing, pause = left, SOON if mine else min(2 * pause, LATE)
                if missing and not mine:
                    time.sleep(pause)

    def repair(self) -> int:
        """Removes tiles that are damaged or of no use any more, and what killed workers left; says how many tiles.

        Workers should not build meanwhile.

        Raises:
            UnsafeFile: If a folder is where a tile has to be; all else is mended before that is said.
        """
        labels = {label.name: label for label in (self._label(*place) for place in self.places)}
        removed, folders = 0, []
        for name in self._names():
            own = OWN.fullmatch(name)
            if own is None:
                continue
            if own[2] is not None:
                with suppress(OSError):
                    os.unlink(self.folder / name)
                continue
            try:
                if name in labels:
                    read(self.folder, labels[name])
                    continue
            except (StoreCorrupt, UnsafeFile):
                pass
            path = self.folder / name
            if path.is_dir() and not path.is_symlink():
                folders.append(path)
                continue
            with disk_errors(path, 0):
                os.unlink(path)
            removed += 1
        if folders:
            raise in_the_way(folders[0])
        return removed

    def leading(self, count: int) -> Leading:
        """The matrix of the first points, from the same tiles.

        Args:
            count: How many points.

        Example:
            >>> import torch, kernelscope as ks
            >>> K = ks.Tiles(ks.kernels.Laplacian(bandwidth=1.0), torch.eye(3), "tiles", side=2)
            >>> K.build()
            >>> K.leading(2).shape
            (2, 2)
        """
        return Leading(self, count)

    # -- tiles -----------------------------------------------------------------------------------------------------

    def _label(self, i: int, j: int) -> Label:
        rows, columns = self.strip(i), self.strip(j)
        return Label(self.identity.of(i, j), (i, j), (rows.stop - rows.start, columns.stop - columns.start), self.dtype)

    def _names(self) -> list[str]:
        with disk_errors(self.folder, 0):
            return os.listdir(self.folder)

    def _missing(self) -> list[tuple[int, int]]:
        there = set(self._names())
        return [place for place in self.places if self._label(*place).name not in there]

    def _made(self, place: tuple[int, int], claims: Claims, done: Any) -> bool:
        """Computes a tile, unless it is there or another worker does."""
        label = self._label(*place)
        # Others may have made it since the folder was looked through.
        if os.path.lexists(self.folder / label.name):
            return False
        with claims.taking(label.name) as mine:
            if not mine or os.path.lexists(self.folder / label.name):
                return False
            tile = computed(self.kernel, self.points, self.strip(place[0]), self.strip(place[1]))
            write(self.folder, label, tile, claims.part(label.name))
        done(1)
        return True

    def _tile(self, i: int, j: int) -> Tensor:
        label = self._label(i, j)
        try:
            return read(self.folder, label)
        except FileNotFoundError as error:
            raise StoreError(f"{self.folder / label.name} is not there: {self.missing:,} of {len(self.places):,} tiles "
                             "are missing. Call tiles.build() first.") from error

    def _fetched(self, places: list[tuple[int, int]]) -> Iterator[Tensor]:
        """Tiles from the disk, some of which are read while another is multiplied."""
        if not places:
            return
        ahead: deque[Future[Tensor]] = deque()
        with ThreadPoolExecutor(1) as reader:
            try:
                for i, j in places:
                    ahead.append(reader.submit(self._tile, i, j))
                    if len(ahead) > AHEAD:
                        yield ahead.popleft().result()
                while ahead:
                    yield ahead.popleft().result()
            finally:
                for waiting in ahead:
                    waiting.cancel()


class Leading(Triangle):
    """The matrix of the first points of some tiles, which are cut where the points end.

    Args:
        whole: The tiles.
        count: How many points.

    Raises:
        DataError: If there are not so many.
    """

    def __init__(self, whole: Tiles, count: int):
        if as_count(count, "count", 1) > len(whole):
            raise DataError(f"There are {len(whole):,} points, and the first {count:,} were asked for. Pass a number "
                            f"up to {len(whole)}.")
        super().__init__(whole.kernel, points_between(whole.points, 0, count), whole.side, whole.dtype, whole._room)
        self.whole = whole

    def __repr__(self) -> str:
        return f"Leading({len(self)} of {self.whole!r})"

    def _tile(self, i: int, j: int) -> Tensor:
        rows, columns = self.strip(i), self.strip(j)
        return self.whole._tile(i, j)[:rows.stop - rows.start, :columns.stop - columns.start]

    def _fetched(self, places: list[tuple[int, int]]) -> Iterator[Tensor]:
        for (i, j), tile in zip(places, self.whole._fetched(places), strict=True):
            rows, columns = self.strip(i), self.strip(j)
            yield tile[:rows.stop - rows.start, :columns.stop - columns.start]
