"""One tile in one file.

A file is a header of fixed size and the numbers row by row, the lowest byte first. The header is a mark, and canonical
JSON with its own checksum: whose tile it is, where it lies in the matrix, its precision, and the checksum of the
numbers. It is compared with what it has to be byte for byte, so a file that is shorter, longer, changed, or of another
matrix is told at once, and the numbers are read into memory whose size is known before the file is opened.
"""

from __future__ import annotations

import errno
import os
import stat
import sys
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from ..errors import StoreCorrupt, StoreError, UnsafeFile
from ..storage.files import BINARY, NO_FOLLOW, disk_errors, inside, write_file
from ..storage.strict import parse, sealed

MARK, HEADER = b"KSTILE01", 1024

#: How many bytes are taken into the checksum at a time, while they are in the cache.
BLOCK = 2**20

#: What to do about a file that is not what it should be.
MEND = "tiles.repair() removes it, and tiles.build() computes it again; the other tiles are not touched."


@dataclass(frozen=True)
class Label:
    """What the header of a tile says, beside the checksum.

    Attributes:
        of: Tells the kernel and the points of this tile from all others, in hexadecimal.
        place: The numbers of its strips.
        shape: Its rows and columns.
        dtype: Its precision.
    """

    of: str
    place: tuple[int, int]
    shape: tuple[int, int]
    dtype: torch.dtype

    @property
    def name(self) -> str:
        """The name of its file: a tile of other points has another one."""
        return f"tile-{self.place[0]:06d}-{self.place[1]:06d}-{self.of[:16]}.tile"

    @property
    def size(self) -> int:
        """The bytes of its file."""
        return HEADER + self.shape[0] * self.shape[1] * self.dtype.itemsize

    def header(self, checksum: int) -> bytes:
        """The first bytes of its file."""
        return (MARK + sealed({"of": self.of, "place": list(self.place), "shape": list(self.shape),
                               "dtype": str(self.dtype), "crc32": checksum})).ljust(HEADER)


def write(folder: Path, label: Label, tile: Tensor, part: Path) -> None:
    """Writes a tile beside its name, brings it to the disk, and gives it its name.

    Raises:
        StoreFull: If the disk has no room.
        StoreError: If it cannot be written.
    """
    if sys.byteorder != "little":
        raise StoreError("Tiles hold numbers with the lowest byte first, and this machine has the highest first.")
    data = _bytes(tile.to(label.dtype).cpu().contiguous())
    path = inside(folder, label.name)
    with disk_errors(path, label.size):
        write_file(path, [label.header(_checksum(data)), data], part=part)


def read(folder: Path, label: Label) -> Tensor:
    """A tile, checked.

    Raises:
        FileNotFoundError: If there is no such file.
        StoreCorrupt: If it is not what was written.
        UnsafeFile: If it is a link, a pipe or a device.
        StoreError: If the disk refuses to read it.
    """
    path = inside(folder, label.name)
    tile = torch.empty(label.shape, dtype=label.dtype)
    data = _bytes(tile)
    try:
        if not stat.S_ISREG(os.lstat(path).st_mode):
            raise _irregular(path)
        with open(os.open(path, os.O_RDONLY | NO_FOLLOW | BINARY), "rb", buffering=0) as file:
            size = os.fstat(file.fileno()).st_size
            if size != label.size:
                raise _corrupt(path, f"it has {size:,} bytes, and a tile of {label.shape[0]} × {label.shape[1]} "
                                     f"numbers in {str(label.dtype)[6:]} has {label.size:,}")
            head = file.read(HEADER)
            done = 0
            while done < len(data) and (count := file.readinto(data[done:])):
                done += count
    except FileNotFoundError:
        raise
    except OSError as error:
        if error.errno == errno.ELOOP:
            raise _irregular(path) from error
        raise StoreError(f"{path} cannot be read: {error.strerror}. Check its permissions and the disk; nothing was "
                         "changed.") from error
    checksum = _said(head, path)
    if head != label.header(checksum):
        raise _corrupt(path, "its header is that of another tile, of another kernel, or of other points")
    if done < len(data) or _checksum(data) != checksum:
        raise _corrupt(path, "its numbers are not those that were written")
    return tile


def _said(head: bytes, path: Path) -> int:
    """The checksum that a header gives."""
    if head[:len(MARK)] != MARK:
        raise _corrupt(path, "it does not begin like a tile")
    try:
        found = parse(head[len(MARK):].rstrip(b" "), path, depth=4)
        return int(found["body"]["crc32"])
    except (StoreCorrupt, UnsafeFile, KeyError, TypeError, ValueError, OverflowError) as error:
        raise _corrupt(path, "its header cannot be read") from error


def _bytes(tile: Tensor) -> memoryview:
    return tile.view(-1).view(torch.uint8).numpy().data


def _checksum(data: memoryview) -> int:
    total = 0
    for piece in _pieces(data):
        total = zlib.crc32(piece, total)
    return total


def _pieces(data: memoryview) -> Iterator[memoryview]:
    for start in range(0, len(data), BLOCK):
        yield data[start:start + BLOCK]


def _corrupt(path: Path, what: str) -> StoreCorrupt:
    return StoreCorrupt(f"{path} is damaged: {what}. {MEND}")


def in_the_way(path: Path) -> UnsafeFile:
    """The error for a folder where a tile has to be, which is not removed: nobody knows what is in it."""
    return UnsafeFile(f"{path} is a folder, and a tile is a regular file. Somebody put it there. Move it away, and "
                      "tiles.build() computes the tile again; the other tiles are not touched.")


def _irregular(path: Path) -> UnsafeFile:
    if path.is_dir() and not path.is_symlink():
        return in_the_way(path)
    return UnsafeFile(f"{path} is a link, a pipe or a device, and a tile is a regular file. Somebody put it "
                      f"there; it was not followed. {MEND}")
