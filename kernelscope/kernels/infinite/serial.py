r"""A network of infinite width: layers one after the other, and the two kernels that it has.

References:
    | Deep Neural Networks as Gaussian Processes (Lee et al., 2018)
    | Neural Tangent Kernel: Convergence and Generalization in Neural Networks (Jacot et al., 2018)
    | Kernel Regression with Infinite-Width Neural Networks on Millions of Examples (Adlam et al., 2023)
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from itertools import dropwhile
from math import prod
from typing import TYPE_CHECKING, Any, NamedTuple

from torch import Generator, Tensor, nn

from ...arguments import as_choice, as_count, as_seed, what_came
from ...errors import DataError
from .affine import Dense
from .covariances import Covariances, Side
from .finite import Applied, Shape, Waiting, Widths, flattened
from .layer import Layer
from .pooling import AvgPool, Flatten, GlobalAvgPool, GlobalSumPool

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
        self.notes = sum(layer.notes for layer in layers)
        self.keeps = all(layer.keeps for layer in layers)
        self.flattens = any(layer.flattens for layer in layers)
        self.centered = bool(layers) and layers[-1].centered

    @property
    def of_pixels(self) -> bool:
        """Whether points keep their pixels: where the first layer that looks at them is no ``Flatten``."""
        layers = dropwhile(lambda layer: isinstance(layer, Flatten), self.layers)
        return any(layer.spatial for layer in layers)

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

    def torch(self, width: int | None = None, inputs: int | Sequence[int] | Tensor | None = None, outputs: int = 1,
              seed: int | Generator = 0) -> nn.Module:
        r"""A random network of this architecture and of finite width.

        Over seeds its outputs have mean nought and, the closer the wider it is, the covariance ``nngp`` (exactly where
        there is one hidden layer); ``Tangent`` of it tends to ``ntk``, for each seed. :class:`SelfAttention` and
        :class:`Aggregate` have kernels alone, and are refused here.

        Args:
            width: How many channels every hidden layer has; without it each has its own ``width``, as the ``ntk`` of
                the standard parameterisation supposes.
            inputs: The length of the vectors that come in, or the shape (channels, h, w) or (channels, length) of
                points with pixels; or such points. Without it the module is made when it is called first.
            outputs: How many outputs the readout has, the last ``Dense`` or ``Conv``.
            seed: Where the random numbers begin, or a generator of them.

        Returns:
            A module, from points with shape (n, \*inputs) to outputs with shape (n, outputs), in the default precision.

        Raises:
            DataError: If a layer has no finite width, or the channels of two branches differ.

        Example:
            >>> from kernelscope.kernels.infinite import Dense, ReLU, Serial
            >>> net = Serial(Dense(W_std=2**0.5), ReLU(), Dense())
            >>> net.torch(64, inputs=3)
            Sequential(
              (0): Affine(3 channels, 64 units)
              (1): Applied(ReLU())
              (2): Affine(64 channels, 1 units)
            )
        """
        if inputs is None:
            return Waiting(lambda shape: self.torch(width, shape, outputs, seed), repr(self))
        if isinstance(inputs, Tensor):
            inputs = tuple(inputs.shape[1:])
        self.normal(False)
        readout = max((k for k, layer in enumerate(self.layers) if isinstance(layer, Dense)), default=-1)
        if readout < 0 or not all(isinstance(layer, AvgPool | GlobalAvgPool | GlobalSumPool)
                                  for layer in self.layers[readout + 1:]):
            raise DataError("The outputs of a finite network are those of its readout, the last Dense or Conv, after "
                            f"which come only poolings; {self!r} has none, or other layers after it. Add Dense().")
        sizes = [as_count(size, "inputs", 1) for size in (inputs if isinstance(inputs, Sequence) else [inputs])]
        if self.of_pixels and len(sizes) < 2:
            raise DataError(f"The network looks at pixels, and inputs has the shape of a point, (channels, h, w) or "
                            f"(channels, length); {what_came(inputs)} came. Pass for example inputs=(3, 32, 32).")
        before = Shape(sizes[0], tuple(sizes[1:])) if self.of_pixels else Shape(prod(sizes), ())
        widths = Widths(None if width is None else as_count(width, "width", 1), self.parameterization == "standard",
                        seed if isinstance(seed, Generator) else Generator().manual_seed(as_seed(seed)))
        last = replace(widths, all=as_count(outputs, "outputs", 1))
        modules: list[nn.Module] = [] if self.of_pixels or len(sizes) == 1 else [Applied(flattened, "Flatten()")]
        for k, layer in enumerate(self.layers):
            module, before = layer.finite(before, last if k == readout else widths)
            modules.append(module)
        if before.pixels:
            raise DataError(f"A network ends its pixels, and {self!r} leaves {before.pixels} of them. Add Flatten() or "
                            "GlobalAvgPool() before the readout.")
        return nn.Sequential(*modules)

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

    def finite(self, before: Shape, widths: Widths) -> tuple[nn.Module, Shape]:
        modules = []
        for layer in self.layers:
            module, before = layer.finite(before, widths)
            modules.append(module)
        return nn.Sequential(*modules), before

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
