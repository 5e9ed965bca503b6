r"""Mean loss gradients of many networks at once, each at its own parameters and on its own batch.

Parameters are stacked: S networks have one tensor with shape :math:`(S, *)` for each parameter, and so have their
gradients. Networks of different numbers do not touch each other.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.func import grad, vmap
from torch.nn.functional import log_softmax

from ...errors import ModelError
from ...losses import Loss
from ...network import MISFITS, Network, Parameters, cast, per_sample_losses
from ..differences import check_bends
from ..training_side import perturbed
from .derivatives import Tree
from .traced import traced

#: How often a gradient is taken before it is worth writing out.
WORTH = 8

class StackedGradients:
    r"""The gradient of the mean loss of a batch, for stacked networks.

    Args:
        network: The network.
        loss: Its loss.
        surroundings: The parameters that do not move.
        buffers: The buffers.
        training: The submodules in train mode.
        factor: What the loop multiplied gradients by.
    """

    def __init__(self, network: Network, loss: Loss, surroundings: Parameters, buffers: Parameters,
                 training: tuple[str, ...], factor: float = 1.0):
        self.network = network
        self.loss = loss
        self.surroundings = surroundings
        self.buffers = buffers
        self.training = training
        self.factor = factor
        self._traced: dict[Any, Callable[..., Tree]] = {}
        self._times: dict[Any, int] = {}

    def mean_loss(self, theta: Tree, x: tuple[Tensor, ...], y: Tensor) -> Tensor:
        """The mean loss of a batch, of one network, times the factor."""
        outputs = self.network({**self.surroundings, **theta}, self.buffers, x, self.training)
        mean = _losses(self.loss, outputs, y).mean()
        return mean if self.factor == 1.0 else self.factor * mean

    def each(self, theta: Tree, x: tuple[Tensor, ...], y: Tensor) -> Tree:
        """The gradient of each sample of a batch, of one network, stacked in the first axis."""
        one = lambda x, y: grad(self.mean_loss)(theta, tuple(t[None] for t in x), y[None])
        return vmap(one)(x, y)

    def __call__(self, theta: Tree, x: tuple[Tensor, ...], y: Tensor) -> Tree:
        """The gradients of S networks.

        Args:
            theta: Their parameters, each with shape (S, *).
            x: The inputs, each with shape (S, B, *).
            y: The targets, with shape (S, B, *).
        """
        return self._at("own", (0, 0, 0), theta, x, y)

    def on_all(self, theta: Tree, x: tuple[Tensor, ...], y: Tensor, block: int) -> Tree:
        """The gradients of S networks on the same samples, ``block`` of them at a time."""
        total: Tree | None = None
        for start in range(0, len(y), block):
            part = slice(start, start + block)
            some = tuple(t[part] for t in x)
            found = self._at("all", (0, None, None), theta, some, y[part])
            share = len(y[part]) / len(y)
            total = ({name: share * g for name, g in found.items()} if total is None else
                     {name: total[name].add_(g, alpha=share) for name, g in found.items()})
        assert total is not None
        return total

    def _at(self, which: str, axes: tuple[int | None, ...], theta: Tree, x: tuple[Tensor, ...], y: Tensor) -> Tree:
        key = which, tuple(theta), len(next(iter(theta.values()))), y.shape
        self._times[key] = times = self._times.get(key, 0) + 1
        if times <= WORTH:
            try:
                return vmap(grad(self.mean_loss), in_dims=axes)(theta, x, y)
            except MISFITS as error:
                raise ModelError(
                    "The network cannot be trained many times at once: torch.func cannot vectorise it or its loss "
                    f"({(str(error).strip().splitlines() or [type(error).__name__])[0][:160]}). Write its forward in "
                    "operations of torch alone, without branches that read values of tensors."
                ) from error
        if key not in self._traced:
            self._traced[key] = traced(vmap(grad(self.mean_loss), in_dims=axes), theta, x, y)
        return self._traced[key](theta, x, y)

    def check_bends(self, theta: Tree, x: tuple[Tensor, ...], y: Tensor, instead: str) -> None:
        """Compares the second derivatives of the mean loss, of one network, with differences of its gradient.

        Raises:
            ModelError: If they differ.
        """
        at, fixed, buffers, inputs, targets = cast(
            (perturbed(theta, list(theta)), self.surroundings, self.buffers, x, y), torch.float64, x[0].device)
        twin = StackedGradients(self.network, self.loss, fixed, buffers, self.training, self.factor)
        check_bends(lambda own: twin.mean_loss(own, inputs, targets), at, "the loss", instead)

    def bytes_per_network(self, theta: Tree, x: tuple[Tensor, ...], y: Tensor) -> int:
        """About how many bytes the gradient of one network on a batch takes, from what its forward keeps."""
        kept = 0

        def weigh(t: Tensor) -> Tensor:
            nonlocal kept
            kept += t.nbytes
            return t

        leaf = {name: t.detach().requires_grad_() for name, t in theta.items()}
        with torch.enable_grad(), torch.autograd.graph.saved_tensors_hooks(weigh, lambda t: t):
            self.mean_loss(leaf, x, y)
        return 2 * kept + sum(t.nbytes for t in (*x, y)) + 2 * sum(t.nbytes for t in theta.values())


def _losses(loss: Loss, outputs: Any, targets: Tensor) -> Tensor:
    """One loss for each sample, in the form that vectorises best."""
    plain = all(not value or value == -100 for value in loss.options.values())
    if loss.name == "cross_entropy" and plain and outputs.ndim == 2 and targets.ndim == 1:
        # torch goes through the last axis of a softmax one row at a time, several times slower where rows are short.
        # A target that is ignored would be a negative index; it is refused where batches are drawn.
        return -log_softmax(outputs.T, 0).gather(0, targets[None])[0]
    return per_sample_losses(loss, outputs, targets, len(targets))
