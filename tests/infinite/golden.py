"""Kernel matrices that neural-tangents computed in float64, and their points, which need no random numbers."""

import json
import math
from pathlib import Path

import torch

#: From a name to matrices, as lists.
GOLDEN = json.loads((Path(__file__).parent / "golden.json").read_text(encoding="utf-8"))


def points(shape, c=0.1, a=0.7548776662466927, b=0.5698402909980532):
    """Numbers from -1 to 1 that are spread like random ones."""
    i = torch.arange(1, math.prod(shape) + 1, dtype=torch.float64)
    return (torch.remainder(i * a + c + torch.remainder(i * i * b, 1), 1) * 2 - 1).reshape(shape)


def vectors():
    return points((4, 5)), points((3, 5), c=0.37)


def images():
    """With channels first; the numbers were laid out with channels last."""
    return points((3, 8, 8, 3)).permute(0, 3, 1, 2), points((2, 8, 8, 3), c=0.37).permute(0, 3, 1, 2)


def matrix(name, kind):
    return torch.tensor(GOLDEN[name][kind], dtype=torch.float64)
