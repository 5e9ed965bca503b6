r"""Bundling: layers of a trained network are replaced by features that are fixed, and one matrix solved for.

A block Linear, activation, Linear computes :math:`W_2\, a(W_1 x + b_1) + b_2`. If its hidden layer is a product of
features, :math:`a(W_1 x + b_1) \approx \Psi\, \Phi(x)`, the matrices behind them are one, :math:`M = W_2 \Psi`, and the
best M in the mean square is that of a ridge regression on what the block is given and what it gives. The same holds for
a network as a whole. No gradient step is taken anywhere.

References:
    | Scalable Neural Network Kernels (Sehanobish et al., 2024)
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from ...arguments import as_choice, as_count, as_part, as_seed, as_switch, as_whole, what_came
from ...data.points import Points, as_points
from ...errors import DataError, ModelError
from ...features.directions import KINDS
from ...network import undisturbed
from .blockwise import blockwise, reader_of
from .bundle_report import BundleReport
from .choosing import TOWERS, Plan
from .closed_form import checked_ridge
from .hooks import check_hooks
from .targets import labels_of
from .whole import whole

#: What may be bundled.
MODES = ("ffn", "layerwise", "full")


def bundle(model: nn.Module, x: Any, y: Any = None, mode: str = "ffn", features: int | Sequence[int] = 64, *,
           targets: str | nn.Module | Tensor | None = None, tower: str = "rectified", skip: bool | None = None,
           ridge: float | None = None, test: Any = None, held_out: float = 0.25, seed: int = 0,
           rows: str = "orthogonal") -> tuple[nn.Module, BundleReport]:
    r"""Compacts a network in closed form, layer by layer or as a whole.

    .. math:: \min_{M, L, c}\; \frac1n \sum_i |M^T \Phi(x_i) + L^T \tilde x_i + c - y_i|^2 + \lambda |M|^2

    The model is not changed. With ``"ffn"`` and ``"layerwise"`` a copy without its hooks is returned, in which every
    block Linear, activation, Linear (see :func:`~kernelscope.nn.find_blocks`) is one :class:`BundledLayer`; what
    looked like one and is none is left as it was, and named in the report.

    Args:
        model: The network.
        x: Points: a tensor, a tuple or dictionary of them, a data set, a loader that does not shuffle. Rows that an
            ``attention_mask`` hides are not fitted to.
        y: Their targets, as a tensor: classes as whole numbers (0 and 1 for one output), or numbers like the outputs.
            Without them those of the data set, where x is one that has some.
        mode: ``"ffn"`` fits each block to its own output in the network as it is; ``"layerwise"`` one after the other,
            each on what the blocks before it, already replaced, give it; ``"full"`` replaces the network as a whole.
        features: The number of features, or one for each block; with ``"full"`` one for each tower, of which each
            reads the one before.
        targets: For ``"full"``: ``"self"``, the network's own outputs; ``"labels"``, y (classes as 0 and 1), the usual
            choice where y came, alone or with a data set; or a teacher, a network or its outputs as a tensor.
        tower: ``"rectified"`` or ``"fourier"`` random features; or ``"neurons"``, those of the block's own neurons
            that say most about its output, which are kept as they are. On networks trained on digits the latter are
            nearer with fewer parameters, and random features little better than the linear map beside them.
        skip: Whether there is a linear map beside the features; by default there is, but not for a whole network that
            is fitted to labels. Blocks have it free of the ridge; in a whole network it is a part of the kernel.
        ridge: The ridge; without it the one of least generalised cross-validation error.
        test: Points, a data set with targets, or a pair of points and targets, to measure on. Without them blocks are
            measured on points kept apart, and a whole network by what it says of each sample when fitted to the others.
        held_out: The share of the points that is kept apart for blocks.
        seed: Which random features.
        rows: How their directions are drawn, see :func:`~kernelscope.features.directions.directions`.

    Returns:
        What was bundled, a :class:`BundledModel` for ``"full"``, and its :class:`BundleReport`.

    Raises:
        DataError: If nothing can be bundled, or points, targets and arguments do not fit.
        ModelError: If the network cannot be called with the points, or hooks, which are called on one batch to see
            that, change what it gives.
        NonFiniteError: If a block gives NaN or infinite values.

    Example:
        >>> import kernelscope as ks
        >>> x = ks.data.digits("train").x
        >>> model = nn.Sequential(nn.Linear(64, 256), nn.Tanh(), nn.Linear(256, 10))
        >>> bundled, report = ks.nn.bundle(model, x, features=16)
        >>> bundled
        Sequential(
          (0): BundledLayer(
            64 -> 10, 16 features, with a linear skip
            (towers): Sequential(
              (0): Rectified(64 -> 16)
            )
          )
          (1): Passed()
          (2): Passed()
        )
        >>> report.parameters_before, report.parameters_after
        (19210, 810)
    """
    if not isinstance(model, nn.Module):
        raise ModelError(f"A network that is bundled is a torch.nn.Module; {what_came(model)} came. Pass the module.")
    mode, tower = as_choice(mode, "mode", MODES), as_choice(tower, "tower", TOWERS)
    plan = Plan(_counts(features), tower, None if skip is None else as_switch(skip, "skip"), checked_ridge(ridge),
                 as_seed(seed), as_choice(rows, "rows", KINDS))
    points, labels = as_points(x), _labels(labels_of(x) if y is None else y)
    held = _points_and_labels(test, len(points.part(0, 1).args))
    if labels is not None and len(labels) != len(points):
        raise DataError(f"There is one target for each point; {len(points)} points and {len(labels)} targets came.")
    device = next((p.device for p in model.parameters()), torch.device("cpu"))
    with undisturbed(device):
        reader = reader_of(model)
        check_hooks(model, reader, points)
        if mode == "full":
            return whole(reader, points, labels, targets, plan, held)
        if targets is not None and targets != "self":
            raise DataError(f'Blocks are fitted to their own outputs, so targets is "self" with mode="{mode}"; '
                            f'{what_came(targets)} came. Pass mode="full" to fit the whole network to something else.')
        return blockwise(model, reader, points, labels, mode == "layerwise", plan, held,
                          as_part(held_out, "held_out", "0.25"))


def _counts(features: Any) -> list[int]:
    if as_whole(features) is not None or not isinstance(features, Sequence) or isinstance(features, str):
        return [as_count(features, "features", 1)]
    if not len(features):
        raise DataError("features is empty, and there would be none. Pass for example features=64.")
    return [as_count(each, "features", 1) for each in features]


def _labels(y: Any) -> Tensor | None:
    if y is None:
        return None
    try:
        found = torch.as_tensor(y).detach().cpu()
    except (TypeError, ValueError, RuntimeError) as error:
        raise DataError(f"Targets are a tensor with a row for each point; {what_came(y)} came.") from error
    if found.ndim == 0 or found.is_complex() or not bool(found.isfinite().all()):
        raise DataError(f"Targets are finite real numbers, one row for each point; {found.dtype} of shape "
                        f"{tuple(found.shape)} came, or with NaN. Mend them first.")
    return found


def _points_and_labels(test: Any, inputs: int) -> tuple[Points, Tensor | None] | None:
    if test is None:
        return None
    # Two tensors for a network of two inputs are points; with targets they are a pair of their own.
    both = inputs == 2 and isinstance(test, tuple) and isinstance(test[0], Tensor)
    if isinstance(test, tuple) and len(test) == 2 and not both:
        points, labels = as_points(test[0]), _labels(test[1])
        if labels is None or len(labels) == len(points):
            return points, labels
        raise DataError(f"There is one target for each test point; {len(points)} points and {len(labels)} targets "
                        "came.")
    return as_points(test), _labels(labels_of(test))
