r"""Settings that are chosen on other queries than those they are judged on.

A damping that is picked where it does best, and shown there, is shown at its luck. Queries are split in two: those of
one half get the setting that foretells best on the other half.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from ...errors import DataError
from ...ranks import spearman

__all__ = ["chosen_elsewhere"]


def chosen_elsewhere(settings: Mapping[str, Tensor], members: Tensor, answers: Tensor) -> tuple[Tensor, str]:
    """For each query the scores by the setting that foretells best on the other half of the queries.

    Args:
        settings: The scores by each setting, with shape (q, n).
        members: Whether each sample is in each subset, with shape (subsets, n).
        answers: What was measured, with shape (subsets, q).

    Returns:
        The scores with shape (q, n), and the settings that were chosen, in words.

    Raises:
        DataError: If several settings came and there is one query, which leaves none to choose on.

    Example:
        >>> members = torch.rand(9, 6, generator=torch.Generator().manual_seed(0)) < 0.5
        >>> right = torch.arange(12.0).view(2, 6) ** 2
        >>> found, word = chosen_elsewhere({"right": right, "wrong": -right}, members, members.float() @ right.T)
        >>> torch.equal(found, right), word
        (True, 'right')
    """
    names = list(settings)
    if len(names) == 1:
        return settings[names[0]], names[0]
    q = answers.shape[1]
    if q < 2:
        raise DataError(f"The setting of {len(names)} is chosen on other queries than it is judged on, and there is "
                        "one query. Pass two or more, or one setting.")
    lds = torch.stack([spearman(settings[name].double() @ members.double().T, answers.T) for name in names])
    even = torch.arange(q) % 2 == 0
    # Which setting the even queries get is told by the odd ones, and the other way round.
    picked = [int(lds[:, ~half].mean(1).argmax()) for half in (even, ~even)]
    scores = torch.where(even[:, None], settings[names[picked[0]]], settings[names[picked[1]]])
    return scores, " / ".join(dict.fromkeys(names[i] for i in picked))
