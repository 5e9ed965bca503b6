"""Layers: how covariances, variances and the tangent kernel of one become those of the next."""

from __future__ import annotations

from abc import ABC, abstractmethod
from inspect import signature
from typing import Any

from torch import Tensor, nn

from ...errors import DataError
from ..distances import root
from .covariances import Covariances, Side
from .finite import Shape, Widths


class Layer(ABC):
    """A layer of infinite width, or several of them.

    Attributes:
        spatial: Whether it looks at where pixels are, so that points keep their shape before it.
        paired: Whether it needs the covariances of all pairs of pixels.
        keeps: Whether it keeps what covariances lack (see :mod:`.covariances`), so that single precision suffices.
        flattens: Whether pixels end with it.
        centered: Whether what comes out has mean nought.
        fills: Whether it may make something of nought, so that masks are applied after it.
        patterned: Whether it asks for the patterns of graphs.
        remembers: How many numbers it has to know of a point for each pair of its pixels.
        notes: How many it has to know for each pixel.
    """

    spatial: bool = False
    paired: bool = False
    keeps: bool = False
    flattens: bool = False
    centered: bool = False
    fills: bool = True
    patterned: bool = False
    remembers: int = 0
    notes: int = 0

    @abstractmethod
    def own(self, c: Covariances) -> tuple[Covariances, Side]:
        """The covariances of points with themselves after the layer, and what has to be known of each of them."""

    @abstractmethod
    def __call__(self, c: Covariances, left: Side, right: Side) -> Covariances:
        """The covariances of pairs after the layer, for what is known of each side."""

    def pixels(self, shape: tuple[int, ...]) -> tuple[int, ...]:
        """The pixels after the layer.

        Raises:
            DataError: If it cannot be applied to so many.
        """
        return shape

    def there(self, mask: Tensor) -> Tensor:
        """Which pixels are there after the layer, for those before it (see :mod:`.masks`)."""
        return mask

    def normal(self, before: bool) -> bool:
        """Whether values are normal after the layer.

        Raises:
            DataError: If it needs values that are, and they are not.
        """
        return before

    def finite(self, before: Shape, widths: Widths) -> tuple[nn.Module, Shape]:
        """The layer at finite width, for what comes in, and what goes out.

        Raises:
            DataError: If there is none.
        """
        raise DataError(f"{self!r} has kernels, and no module of finite width is known here. Leave it out of the "
                        "network that torch(...) is asked of.")

    def arguments(self) -> dict[str, Any]:
        """What the layer was made with; it keeps its arguments under their names."""
        return {name: getattr(self, name) for name in signature(type(self)).parameters}

    def __repr__(self) -> str:
        made = signature(type(self)).parameters
        said = [f"{name}={value:.6g}" if isinstance(value, float) else f"{name}={value!r}"
                for name, value in self.arguments().items() if value != made[name].default]
        return f"{type(self).__name__}({', '.join(said)})"


class Single(Layer):
    """A layer without others inside, which knows of each point its variances."""

    @abstractmethod
    def variances(self, own: Covariances) -> Tensor:
        """The variances after the layer, with shape (n, *pixels), for the covariances of points with themselves."""

    @abstractmethod
    def between(self, c: Covariances, a: Tensor, b: Tensor) -> Covariances:
        """The covariances after the layer, where the roots of its variances are known."""

    def own(self, c: Covariances) -> tuple[Covariances, Side]:
        deviations = root(self.variances(c))
        return self.between(c, deviations, deviations), Side(deviations)

    def __call__(self, c: Covariances, left: Side, right: Side) -> Covariances:
        return self.between(c, left.root.to(c.given), right.root.to(c.given))
