"""Real points to train generative models on, which need no download: small images as vectors of numbers in [-1, 1]."""

from __future__ import annotations

from torch import Tensor

from ..arguments import as_choice, as_count
from ..data import digits, patches

__all__ = ["points"]

#: The side of an image.
SIDE = 8


def points(name: str = "digits", split: str = "train", count: int | None = None, seed: int = 0) -> Tensor:
    """Images of 8 × 8 pixels, with shape (n, 64) and numbers in [-1, 1].

    Args:
        name: ``"digits"``, handwritten ones, or ``"patches"``, the luma of windows of two photographs.
        split: ``"train"`` or ``"test"``; no pixel of a photograph is in both.
        count: How many; ``None`` for all digits, and for 4096 windows.
        seed: Names the split of the photographs and the order of windows.

    Raises:
        DataError: If there are not so many, or scikit-learn, which has the photographs, is not installed.

    References:
        Alpaydin & Kaynak (1998), Optical Recognition of Handwritten Digits, https://doi.org/10.24432/C50P49

    Example:
        >>> points("digits", count=5).shape
        torch.Size([5, 64])
    """
    name, split = as_choice(name, "name", ("digits", "patches")), as_choice(split, "split", ("train", "test"))
    count = None if count is None else as_count(count, "count", least=1)
    if name == "digits":
        return digits(split).x[:count] * 2 - 1
    # A window there has a pixel in its middle; the last row and the last column are left out here.
    windows = patches(split, count=count or 4096, window=SIDE + 1, seed=seed).x
    return (windows.view(-1, SIDE + 1, SIDE + 1)[:, :SIDE, :SIDE] * 2 - 1).flatten(1)
