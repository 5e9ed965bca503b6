"""Half a million real samples from two photographs: the brightness of a window of pixels, and the color of its center.

The photographs, a temple and a flower of 427 × 640 pixels each, come with scikit-learn. What is learned is to color a
black and white picture: from the luma of k × k pixels to the two chroma values of the one in the middle.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from hashlib import sha256

import torch
from torch import Tensor

from ..arguments import as_choice, as_count, as_seed, as_switch
from ..errors import DataError
from .points import Part, Points

#: The side of the tiles that photographs are cut into, and the share of tiles that are for tests.
TILE, SHARE = 64, 0.2

#: The turns and mirror images of a square.
SYMMETRIES = 8


class Patches(Points):
    """Windows of photographs as points, which are cut out when they are read, with their targets.

    Attributes:
        window: The side k of a window.
        split: ``"train"``, ``"test"`` or ``"all"``.
        places: The image, the row and the column of each window's first pixel, and its symmetry, with shape
            :math:`(n, 4)`.
    """

    def __init__(self, places: Tensor, window: int, split: str):
        super().__init__(len(places), self._cut)
        self.places, self.window, self.split = places, window, split

    @property
    def x(self) -> Tensor:
        """The windows, with shape :math:`(n, k^2)`, luma between 0 and 1, in float32."""
        return self.part(0, len(self)).args[0]

    @property
    def y(self) -> Tensor:
        """The two chroma values of each center, with shape :math:`(n, 2)`, of mean 0 and variance 1 over all pixels."""
        image, row, column, _ = self.places.unbind(1)
        return _photographs()[1][image, row + self.window // 2, column + self.window // 2]

    def __repr__(self) -> str:
        return f"Patches(split={self.split!r}, {len(self)} windows of {self.window} × {self.window} pixels)"

    def _cut(self, numbers: Sequence[int]) -> Part:
        rows = slice(numbers.start, numbers.stop) if isinstance(numbers, range) and numbers.step == 1 else list(numbers)
        image, row, column, symmetry = self.places[rows].unbind(1)
        luma, chroma = _photographs()
        # A view: windows are copied when they are chosen.
        windows = luma.unfold(1, self.window, 1).unfold(2, self.window, 1)[image, row, column]
        for way in symmetry.unique().tolist():
            if way:
                own = symmetry == way
                windows[own] = _turned(windows[own], way)
        middle = self.window // 2
        return Part((windows.flatten(1),), {}, chroma[image, row + middle, column + middle])


def patches(split: str = "train", *, count: int | None = None, window: int = 9, seed: int = 0,
            augment: bool = False) -> Patches:
    r"""Windows of k × k pixels of two photographs, and the color of their centers, in a random order.

    The photographs are cut into tiles of 64 × 64 pixels, of which ``seed`` names a fifth for tests. A window that lies
    in training tiles alone is for training, one in test tiles alone is for tests, and those that lie in both are left
    out: no pixel is seen from both sides. With ``augment`` each window comes in all of its eight turns and mirror
    images, as points of their own, three million of them for training.

    Args:
        split: ``"train"``, ``"test"`` or ``"all"``.
        count: How many windows; ``None`` for all of them.
        window: The side k, an odd number.
        seed: Names the split and the order.
        augment: Whether windows are turned and mirrored.

    Returns:
        Points, which a kernel and ``ks.fit`` read in parts; ``x`` and ``y`` are all of them as tensors.

    Raises:
        DataError: If scikit-learn is not installed, or there are not so many windows.

    Example:
        >>> train = patches("train", count=1000, window=5)
        >>> train
        Patches(split='train', 1000 windows of 5 × 5 pixels)
        >>> train.x.shape, train.y.shape
        (torch.Size([1000, 25]), torch.Size([1000, 2]))
    """
    split = as_choice(split, "split", ("train", "test", "all"))
    window, augment, seed = as_count(window, "window", 1), as_switch(augment, "augment"), as_seed(seed)
    if window % 2 == 0 or window > TILE:
        raise DataError(f"A window has a pixel in its middle and fits into a tile: window must be an odd number up to "
                        f"{TILE - 1}; {window} came. Pass for example window=9.")
    luma, _ = _photographs()
    tests = _in_test(luma.shape, seed).float()
    share = torch.nn.functional.avg_pool2d(tests[:, None], window, 1)[:, 0]
    inside = {"train": share == 0, "test": share == 1, "all": share >= 0}[split].nonzero()
    copies = SYMMETRIES if augment else 1
    there = copies * len(inside)
    if count is not None and as_count(count, "count", 1) > there:
        raise DataError(f"There are {there} windows of side {window} in {split!r}, and count={count} were asked for. "
                        f"Ask for fewer{'' if augment else ', or pass augment=True'}.")
    order = torch.randperm(there, generator=torch.Generator().manual_seed(seed))[:count]
    return Patches(torch.cat([inside[order // copies], order[:, None] % copies], 1), window, split)


@lru_cache(maxsize=1)
def _photographs() -> tuple[Tensor, Tensor]:
    """Luma with shape (2, h, w), and chroma with shape (2, h, w, 2), as JPEG defines them."""
    try:
        from sklearn.datasets import load_sample_images
    except ModuleNotFoundError as error:
        raise DataError("The photographs come with scikit-learn, which is not installed. Install it with pip install "
                        "scikit-learn, or use ks.data.digits().") from error
    red, green, blue = (torch.stack([torch.tensor(image) for image in load_sample_images().images]).double()
                        / 255).unbind(-1)
    luma = 0.299 * red + 0.587 * green + 0.114 * blue
    chroma = torch.stack([blue - luma, red - luma], -1)
    pixels = chroma.flatten(0, 2)
    return luma.float(), ((chroma - pixels.mean(0)) / pixels.std(0)).float()


def _in_test(shape: Sequence[int], seed: int) -> Tensor:
    """Whether each pixel is in a tile for tests: those with the smallest hashes of (seed, tile)."""
    images, height, width = shape
    across = -(-width // TILE)
    tiles = (torch.arange(height) // TILE)[:, None] * across + torch.arange(width) // TILE
    count = int(tiles.max()) + 1
    found = torch.zeros(images, height, width, dtype=torch.bool)
    for image in range(images):
        # A hash, and no generator: the split is the same for every version of every library.
        hashes = [sha256(f"{seed}/{image}/{tile}".encode()).digest() for tile in range(count)]
        chosen = sorted(range(count), key=hashes.__getitem__)[:round(SHARE * count)]
        found[image] = torch.isin(tiles, torch.tensor(chosen))
    return found


def _turned(windows: Tensor, way: int) -> Tensor:
    """Windows turned by so many right angles; from four on, mirrored first."""
    return torch.rot90(windows.flip(2) if way >= 4 else windows, way % 4, (1, 2))
