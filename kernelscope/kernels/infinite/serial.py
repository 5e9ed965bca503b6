r"""A network of infinite width: layers one after the other, and the two kernels that it has.

References:
    | Deep Neural Networks as Gaussian Processes (Lee et al., 2018)
    | Neural Tangent Kernel: Convergence and Generalization in Neural Networks (Jacot et al., 2018)
    | Kernel Regression with Infinite-Width Neural Networks on Millions of Examples (Adlam et al., 2023)
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any, NamedTuple

from torch import Tensor

from ...arguments import as_choice, what_came
from ...errors import DataError
from .covariances import Covariances, Side
from .layer import Layer

if TYPE_CHECKING:
    from .kernels import Infinite

#: The two parameterisations.
PARAMETERIZATIONS = ("ntk", "standard")


class Both(NamedTuple):
    """Both kernel matrices.

    Attributes:
        nngp: The covariances of the outputs of random networks, with shape (n, m).
        ntk: The products of their gradients, with shape (n, m).
    """

    nngp: Tensor
    ntk: Tensor


class Serial(Layer):
    r"""Layers one after the other, each of infinite width.

    Before training, the outputs are a Gaussian process with the covariance ``nngp``; while all parameters are trained
    by gradient flow on the squared error, they change by the kernel ``ntk``. Points come as vectors, with shape (n, d);
    as images, (n, channels, h, w); as sequences, (n, channels, length). The first covariance is
    :math:`x \cdot z / \text{channels}`. Which covariances are needed, of vectors, of each pixel or of all pairs of
    pixels, is seen from the layers; where none looks at pixels, points of any shape are read as vectors.

    Where not all positions of points are there, as in sequences of several lengths, a mask of 1 and 0 comes beside
    them, without the axis of channels: ``(x, mask)``, or by name ``{"x": x, "mask": mask}``. Graphs bring the patterns
    of their nodes in the same way (see :class:`Aggregate`).

    Args:
        layers: The layers, first to last; the readout, a ``Dense``, is one of them.
        parameterization: ``"ntk"``, in which weights are divided by the root of their number, or ``"standard"``, in
            which they are drawn so small, and the tangent kernel depends on the widths.

    Raises:
        DataError: If one of them is no layer, or cannot follow the one before.

    Example:
        >>> import torch, kernelscope as ks
        >>> from kernelscope.kernels.infinite import Dense, ReLU, Serial
        >>> net = Serial(Dense(W_std=2**0.5), ReLU(), Dense(W_std=2**0.5))
        >>> x = torch.tensor([[1.0, 0.0], [0.0, 2.0]], dtype=torch.float64)
        >>> net.nngp(x)   # off the diagonal 2 |x| |z| / (pi d)
        tensor([[1.0000, 0.6366],
                [0.6366, 4.0000]], dtype=torch.float64)
        >>> net.ntk
        Serial(Dense(W_std=1.41421), ReLU(), Dense(W_std=1.41421)).ntk
    """

    fills = False

    def __init__(self, *layers: Layer, parameterization: str = "ntk"):
        for layer in layers:
            if not isinstance(layer, Layer):
                raise DataError(f"A network is made of layers; {what_came(layer)} came. Pass for example "
                                "Serial(Dense(), ReLU(), Dense()), with brackets after each name.")
        self.layers = layers
        self.parameterization = as_choice(parameterization, "parameterization", PARAMETERIZATIONS)
        self.spatial = any(layer.spatial for layer in layers)
        self.paired = any(layer.paired for layer in layers)
        self.patterned = any(layer.patterned for layer in layers)
        self.remembers = sum(layer.remembers for layer in layers)
        self.keeps = all(layer.keeps for layer in layers)
        self.flattens = any(layer.flattens for layer in layers)
        self.centered = bool(layers) and layers[-1].centered

    @property
    def nngp(self) -> Infinite:
        """The kernel of the Gaussian process that random networks are."""
        return self._kernel("nngp")

    @property
    def ntk(self) -> Infinite:
        """The kernel by which all parameters learn."""
        return self._kernel("ntk")

    def both(self, x: Any, z: Any = None) -> Both:
        """Both kernel matrices from one pass, each with shape (n, m)."""
        return self._kernel("ntk").both(x, z)

    def own(self, c: Covariances) -> tuple[Covariances, Side]:
        inner = []
        for layer in self.layers:
            before = c
            c, side = layer.own(c)
            c = _masked(layer, before, c.settled())
            inner.append(side)
        return c, Side(c.a, None, tuple(inner))

    def __call__(self, c: Covariances, left: Side, right: Side) -> Covariances:
        for layer, one, other in zip(self.layers, left.inner, right.inner, strict=True):
            c = _masked(layer, c, layer(c, one, other))
        return c

    def pixels(self, shape: tuple[int, ...]) -> tuple[int, ...]:
        for layer in self.layers:
            shape = () if layer.flattens else layer.pixels(shape)
        return shape

    def there(self, mask: Tensor) -> Tensor:
        for layer in self.layers:
            mask = layer.there(mask)
        return mask

    def normal(self, before: bool) -> bool:
        for layer in self.layers:
            before = layer.normal(before)
        return before

    def arguments(self) -> dict[str, Any]:
        return {}

    def __repr__(self) -> str:
        more = [] if self.parameterization == "ntk" else [f"parameterization={self.parameterization!r}"]
        return f"Serial({', '.join([*map(repr, self.layers), *more])})"

    def _kernel(self, which: str) -> Infinite:
        from .kernels import kernel_of  # A network and its kernels know each other.

        return kernel_of(self, which)


def _masked(layer: Layer, before: Covariances, after: Covariances) -> Covariances:
    """What comes after a layer, nought at what is not there."""
    if before.x.mask is None and before.z.mask is None:
        return after
    x, z = (None if side.mask is None else layer.there(side.mask) for side in (before.x, before.z))
    if layer.fills:
        after = after.scaled(x, z)
    return replace(after, x=replace(after.x, mask=x), z=replace(after.z, mask=z))
