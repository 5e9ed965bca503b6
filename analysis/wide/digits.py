"""Digits as they are, with transformed copies beside them, and with kernels averaged over the same transforms."""

import math
from itertools import product

import torch
from torch import Tensor
from torch.nn.functional import affine_grid, grid_sample, pad

import kernelscope as ks

TESTS = 597
ANGLES, PIXELS = (-20, -10, 0, 10, 20), (-1, 0, 1)


def split(seed: int, tests: int = TESTS) -> tuple[tuple[Tensor, Tensor], tuple[Tensor, Tensor]]:
    """1,200 digits to train with and some of the other 597, as many of each class as its share: (images, labels)."""
    data = ks.data.digits("all", flat=False)
    order = torch.randperm(len(data), generator=torch.Generator().manual_seed(seed))
    order = order[data.y[order].sort(stable=True).indices]
    # Along the classes one after the other, every third or so.
    chosen = torch.zeros(len(data), dtype=torch.bool)
    chosen[torch.linspace(0, len(data) - 1, TESTS).round().long()] = True
    train, test = order[~chosen].sort().values, order[chosen]
    # Those of fewer tests are spread over the classes too.
    test = test[torch.linspace(0, TESTS - 1, tests).round().long()].sort().values
    return (data.x[train].double(), data.y[train]), (data.x[test].double(), data.y[test])


def moved(x: Tensor, angle: float, right: int, down: int) -> Tensor:
    """Images turned by an angle in degrees and shifted by pixels, with interpolation, and paper where none was."""
    height, width = x.shape[-2:]
    c, s = math.cos(math.radians(angle)), math.sin(math.radians(angle))
    back = torch.tensor([[c, s, -2 * right / width], [-s, c, -2 * down / height]], dtype=x.dtype)
    grid = affine_grid(back.expand(len(x), 2, 3), list(x.shape), align_corners=False)
    return grid_sample(x, grid, mode="bilinear", align_corners=False)


def augmented(x: Tensor, copies: int, seed: int) -> Tensor:
    """Each image and so many others of it less one, each turned and shifted in another way, one after the other."""
    ways = [way for way in product(ANGLES, PIXELS, PIXELS) if any(way)]
    draw = torch.Generator().manual_seed(seed)
    chosen = torch.rand(len(x), len(ways), generator=draw).argsort(1)[:, :copies - 1]
    all_ = torch.stack([moved(x, *way) for way in ways], 1)
    others = all_[torch.arange(len(x))[:, None], chosen]
    return torch.cat([x[:, None], others], 1).flatten(0, 1)


def shifted(right: int, down: int):
    """A shift by whole pixels, with paper where none was."""
    def shift(x: Tensor) -> Tensor:
        height, width = x.shape[-2:]
        wide = pad(x, (1, 1, 1, 1))
        return wide[..., 1 - down:1 - down + height, 1 - right:1 - right + width]

    return shift


#: All shifts by at most one pixel but the one by none.
SHIFTS = [shifted(right, down) for right, down in product(PIXELS, PIXELS) if right or down]


def with_shifts(x: Tensor) -> Tensor:
    """Each image and its eight shifts, one after the other."""
    return torch.stack([x, *(shift(x) for shift in SHIFTS)], 1).flatten(0, 1)
