"""Copies made by one thread, for the thread that writes behind a loop's back.

torch's own copies are spread over a pool of threads, and each thread that asks for one gets a pool of its own. As soon
as two pools have more threads than the machine has cores, those of the loop's own pool go to sleep after each piece of
work instead of waiting for the next, and every step of the loop waits for them to wake up.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor


def copied(tensor: Tensor) -> Tensor:
    """A copy of a tensor on the CPU, in memory of its own.

    Example:
        >>> copied(torch.tensor([[1.0, 2.0]], dtype=torch.bfloat16))
        tensor([[1., 2.]], dtype=torch.bfloat16)
    """
    return joined([tensor.reshape(1, *tensor.shape)]).view(tensor.shape)


def joined(parts: Sequence[Tensor]) -> Tensor:
    """Tensors on the CPU, of one type and of one shape but for their lengths, one after the other.

    Example:
        >>> joined([torch.tensor([True]), torch.tensor([False, True])])
        tensor([ True, False,  True])
    """
    shape = (sum(len(part) for part in parts), *parts[0].shape[1:])
    held = np.concatenate([part.detach().contiguous().reshape(-1).view(torch.uint8).numpy() for part in parts])
    # Nothing cannot be read as another type.
    return torch.from_numpy(held).view(parts[0].dtype).view(shape) if len(held) else parts[0].new_empty(shape)
