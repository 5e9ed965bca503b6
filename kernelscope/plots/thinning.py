"""Long lines with few points: what the eye sees of a line is the lowest and the highest value in each stretch."""

from __future__ import annotations

from torch import Tensor


def thinned(values: Tensor, most: int = 240) -> list[int]:
    """Places of about ``most`` points to keep, ascending: the extremes of each stretch, and the first and the last.

    Example:
        >>> import torch
        >>> thinned(torch.tensor([0.0, 5.0, 1.0, 2.0, 9.0, 3.0, 4.0]), most=4)
        [0, 1, 3, 4, 6]
    """
    count = len(values)
    if count <= most:
        return list(range(count))
    kept, stretches = {0, count - 1}, max(1, most // 2)
    for stretch in range(stretches):
        start, stop = stretch * count // stretches, (stretch + 1) * count // stretches
        kept |= {start + int(values[start:stop].argmin()), start + int(values[start:stop].argmax())}
    return sorted(kept)
