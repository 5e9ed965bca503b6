"""A kernel matrix as the tiles of its lower triangle: computed, read from a disk, multiplied."""

from .computed import Computed
from .tiles import Tiles
from .triangle import LANES, Triangle

__all__ = ["LANES", "Computed", "Tiles", "Triangle"]
