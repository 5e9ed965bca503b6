r"""The patches of an image that a convolution multiplies with its kernel, for any number of spatial axes."""

from __future__ import annotations

from collections.abc import Sequence

import torch.nn.functional as F
from torch import Tensor

#: How much is padded before and after each spatial axis.
Padding = Sequence[tuple[int, int]]


def patches(x: Tensor, kernel: Sequence[int], stride: Sequence[int], padding: Padding, dilation: Sequence[int],
            groups: int = 1) -> Tensor:
    r"""Cuts out the patches, with shape :math:`(n, g, L, d/g \cdot |k|)`, from x with shape :math:`(n, d, *)`.

    Example:
        >>> import torch
        >>> x = torch.arange(5.0).view(1, 1, 5)
        >>> patches(x, [2], [1], [(0, 0)], [2])[0, 0]
        tensor([[0., 2.],
                [1., 3.],
                [2., 4.]])
    """
    n, d = x.shape[:2]
    if all(size == 1 for size in (*kernel, *stride)) and not any(p for pair in padding for p in pair):
        return x.reshape(n, groups, d // groups, -1).transpose(2, 3)
    if any(p for pair in padding for p in pair):
        x = F.pad(x, [p for pair in reversed(padding) for p in pair])
    counts = [(size - step * (width - 1) - 1) // hop + 1
              for size, width, hop, step in zip(x.shape[2:], kernel, stride, dilation, strict=True)]
    hops = [hop * s for hop, s in zip(stride, x.stride()[2:], strict=True)]
    steps = [step * s for step, s in zip(dilation, x.stride()[2:], strict=True)]
    to_group = d // groups * x.stride(1)
    cut = x.as_strided((n, groups, *counts, d // groups, *kernel), (x.stride(0), to_group, *hops, x.stride(1), *steps))
    return cut.reshape(n, groups, _product(counts), -1)


def _product(numbers: Sequence[int]) -> int:
    total = 1
    for number in numbers:
        total *= number
    return total
