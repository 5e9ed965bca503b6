r"""The empirical neural tangent kernel of a network.

.. math:: k(x, z) = \frac{\partial f(\theta, x)}{\partial\theta}\Big(\frac{\partial f(\theta, z)}{\partial\theta}\Big)^T

It is a kernel of gradient features, computed from the factors of the gradients and never from a Jacobian; summed over
the outputs (not divided by their number), or with all pairs of outputs.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from ..arguments import as_switch
from ..data.points import Points
from ..errors import DataError
from ..features.gradient import EVERYTHING, GradientFeatures, Groups
from .base import Kernel, check_vector, multiply_by_blocks
from .of_features import multiply_by_features

#: How many points a check compares.
CORNER = 4


@dataclass(frozen=True)
class Agreement:
    """How far a kernel is from the products of Jacobians in float64.

    Attributes:
        error: The largest difference, relative to the largest entry.
        points: How many points were compared on each side.
    """

    error: float
    points: int

    def __str__(self) -> str:
        return (f"Tangent kernel against float64 Jacobians of {self.points} by {self.points} random points: "
                f"largest error {self.error:.1e} of the largest entry.")


class Tangent(Kernel):
    r"""The empirical NTK of an unchanged module, at its present parameters.

    With ``outputs="trace"`` it is :math:`\sum_c \langle\nabla f_c(x), \nabla f_c(z)\rangle`, with shape :math:`(n, m)`;
    with ``outputs="full"`` it is :math:`\langle\nabla f_c(x), \nabla f_{c'}(z)\rangle`, with shape
    :math:`(n, c, m, c)`. With a loss it is the product of loss gradients, and points are pairs of inputs and targets.
    The module is read in eval mode, from a copy.

    Args:
        model: The network.
        outputs: ``"trace"`` or ``"full"``.
        output: What is differentiated: ``None`` for all outputs, the number of one, or a function of the outputs.
        loss: A per-sample loss, differentiated instead of the outputs. It is given the outputs; of a network that
            answers with a dictionary or an object that has ``logits``, the logits, as a tensor.
        cosine: Whether gradients are brought to length 1 first; then each entry is between -1 and 1, and 0 for a
            gradient that is nought.
        parameters: Names of parameters or modules to differentiate by; without it all that require a gradient.
        dtype: The precision to compute in; without it that of the parameters.
        device: Where to compute; without it where the parameters are.
        memory: About how much may be used, a number of bytes or a size such as ``"1GB"``.
        precision: ``"exact"``; ``"tf32"`` or ``"bf16"`` round gradients before products are taken, which is off by
            about 1e-3 of the largest entry (``check=True`` prints by how much).
        check: Whether each call compares a random corner with Jacobians in float64, and prints the error.

    Raises:
        ModelError: If an output of a sample depends on the samples beside it.
        OutOfBudget: If the answer does not fit into ``memory``.

    References:
        | Neural Tangent Kernel: Convergence and Generalization in Neural Networks (Jacot et al., 2018)
        | Fast Finite Width Neural Tangent Kernel (Novak et al., 2022)

    Example:
        >>> k = Tangent(nn.Linear(2, 3))
        >>> x = torch.tensor([[1.0, 0.0], [0.0, 2.0]])
        >>> k(x)                                       # c (x.z + 1), for c = 3 outputs
        tensor([[ 6.,  3.],
                [ 3., 15.]])
        >>> Tangent(nn.Linear(2, 3), outputs="full")(x).shape
        torch.Size([2, 3, 2, 3])
    """

    def __init__(self, model: nn.Module, *, outputs: str = "trace", output: int | Callable[..., Tensor] | None = None,
                 loss: Callable[..., Tensor] | None = None, cosine: bool = False,
                 parameters: Sequence[str] | None = None, dtype: torch.dtype | None = None,
                 device: torch.device | str | None = None, memory: int | str = "1GB", precision: str = "exact",
                 check: bool = False):
        if outputs not in ("trace", "full"):
            raise DataError(f'outputs must be "trace" (summed over outputs) or "full" (all pairs); {outputs!r} came.')
        self.features = GradientFeatures(model, output=output, loss=loss, parameters=parameters, dtype=dtype,
                                         device=device, memory=memory, precision=precision)
        self.outputs, self.cosine, self._checks = outputs, as_switch(cosine, "cosine"), as_switch(check, "check")

    def __repr__(self) -> str:
        what = "losses" if self.targets else "outputs"
        return f"Tangent({what} by {self.features.size} parameters, outputs={self.outputs!r})"

    @property
    def full(self) -> bool:
        """Whether pairs of outputs are kept apart."""
        return self.outputs == "full"

    @property
    def targets(self) -> bool:  # type: ignore[override]
        """Whether points come with their targets: those of losses do."""
        return self.features.targets

    @property
    def notes(self) -> tuple[str, ...]:
        """The parameters that were differentiated by themselves, each with the reason."""
        return self.features.notes

    def points(self, x: Any) -> Points:
        return self.features.points(x)

    def columns_of(self, x: Any) -> int | None:
        return self.features.columns_of(x) if self.full else None

    def __call__(self, x: Any, z: Any = None) -> Tensor:
        x = self.points(x)
        z = None if z is None else self.points(z)
        block = self.features.inner(x, z, self.full)
        if self.cosine:
            block = self._normalised({"all": block}, x, z, EVERYTHING)["all"]
        if self._checks:
            print(self.check(x, z))  # noqa: T201
        return block

    def by_parameter(self, x: Any, z: Any = None) -> dict[str, Tensor]:
        """The kernel by each parameter alone; without ``cosine`` their sum is the kernel.

        Parameters have their names within the module; those of ``torch.compile(model)`` are called as in ``model``.
        """
        return self._by({name: (name,) for name in self.features.names}, x, z)

    def by_layer(self, x: Any, z: Any = None) -> dict[str, Tensor]:
        """The kernel by the parameters of each submodule alone; without ``cosine`` their sum is the kernel."""
        layers: dict[str, list[str]] = {}
        for name in self.features.names:
            path = name.split(".")
            # What is parametrised belongs to the module that uses it.
            end = path.index("parametrizations") if "parametrizations" in path else -1
            layers.setdefault(".".join(path[:end]), []).append(name)
        return self._by(layers, x, z)

    def at(self, state: Mapping[str, Tensor]) -> Tangent:
        """The same kernel at other parameters, those of a ``state_dict`` of the module.

        Raises:
            ModelError: If it is that of another module.
        """
        other = object.__new__(Tangent)
        other.__dict__.update(self.__dict__, features=self.features.at(state))
        return other

    def matmul(self, x: Any, z: Any, v: Tensor) -> Tensor:
        left = self.points(x)
        right = left if z is None else self.points(z)
        check_vector(self, left, right, v)
        v = v.to(self.features.device, self.features.dtype)
        if self._checks:
            print(self.check(left, right))  # noqa: T201
        if not self.cosine:
            return self._times(left, right, v)
        # To bring gradients to length 1, what they are multiplied by is divided instead.
        near = self._inverse_lengths(left)
        far = near if right is left else self._inverse_lengths(right)
        found = self._times(left, right, v * far[(..., *[None] * (v.ndim - far.ndim))])
        return found * near[(..., *[None] * (v.ndim - near.ndim))]

    def blocks(self, x: Any, z: Any = None) -> Iterator[tuple[slice, slice, Tensor]]:
        left = self.points(x)
        right = left if z is None else self.points(z)
        if not self.cosine:
            yield from self.features.blocks(left, right, self.full)
            return
        near = self._inverse_lengths(left)
        far = near if right is left else self._inverse_lengths(right)
        for rows, columns, block in self.features.blocks(left, right, self.full):
            yield rows, columns, block * near[rows][(..., *[None] * far.ndim)] * far[columns]

    def diagonal(self, x: Any) -> Tensor:
        found = self.features.squares(x, self.full)
        return (found > 0).to(found) if self.cosine else found

    def check(self, x: Any, z: Any = None) -> Agreement:
        """Compares a random corner of the kernel, and a product with it, with float64 Jacobians by plain autograd.

        The product is made as those of large operators are, from a product with the gradients on either side.
        """
        x = self.points(x)
        z = x if z is None else self.points(z)
        generator = torch.Generator().manual_seed(0)
        some = lambda points: points.chosen(torch.randperm(len(points), generator=generator)[:CORNER].tolist())
        left, right = some(x), some(z)
        exact = self.features.jacobian(left), self.features.jacobian(right)
        truth = torch.tensordot(exact[0], exact[1], ([2], [2]))
        v = torch.randn(truth.shape[2:], generator=generator, dtype=truth.dtype).to(truth)
        product = self.features.push(left, self.features.pull(right, v.to(self.features.dtype))).double()
        gaps = [_relative(product - torch.tensordot(truth, v, 2), torch.tensordot(truth.abs(), v.abs(), 2))]
        if not self.full:
            truth = truth.diagonal(dim1=1, dim2=3).sum(-1)
        gaps.append(_relative(self.features.inner(left, right, self.full).double() - truth, truth))
        return Agreement(max(gaps), min(len(left), len(right)))

    # -- inside ------------------------------------------------------------------------------------------------------

    def _by(self, groups: Groups, x: Any, z: Any) -> dict[str, Tensor]:
        x = self.points(x)
        z = None if z is None else self.points(z)
        blocks = self.features.inner_by(groups, x, z, self.full)
        return self._normalised(blocks, x, z, groups) if self.cosine else blocks

    def _normalised(self, blocks: dict[str, Tensor], x: Points, z: Points | None, groups: Groups) -> dict[str, Tensor]:
        left = self.features.squares_by(groups, x, self.full)
        right = left if z is None else self.features.squares_by(groups, z, self.full)
        found = {}
        for group, block in blocks.items():
            near, far = (norms[group].sqrt().clamp(min=torch.finfo(block.dtype).tiny) for norms in (left, right))
            found[group] = block / near[(..., *[None] * far.ndim)] / far
        return found

    def _by_jacobian(self, x: Points, z: Points, vectors: int) -> bool:
        """Whether Jacobian products, one for each output and vector, cost less than the entries of the kernel."""
        c = self.features.columns_of(z)
        per_pair, per_point = self.features.costs(z, min(len(x), len(z)))
        return c * vectors * per_point * (len(x) + len(z)) < per_pair * len(x) * len(z)

    def _times(self, x: Points, z: Points, v: Tensor) -> Tensor:
        """The product without regard to the lengths of gradients."""
        if self.full:
            return multiply_by_features(self.features, x, self.features, z, v, None)
        return (self._output_by_output if self._by_jacobian(x, z, v[0].numel()) else self._block_by_block)(x, z, v)

    def _output_by_output(self, x: Points, z: Points, v: Tensor) -> Tensor:
        return multiply_by_features(self.features, x, self.features, z, v, self.features.columns_of(z))

    def _block_by_block(self, x: Points, z: Points, v: Tensor) -> Tensor:
        return multiply_by_blocks(self.features.blocks(x, z, self.full), len(x), len(z), v)

    def _inverse_lengths(self, points: Points) -> Tensor:
        """One over the lengths of gradients, and 0 for a gradient that is nought."""
        lengths = self.features.squares(points, self.full).sqrt()
        return torch.where(lengths > 0, 1 / lengths, 0.0)


def _relative(gap: Tensor, truth: Tensor) -> float:
    scale = float(truth.abs().max())
    return float(gap.abs().max()) / (scale or 1.0)
