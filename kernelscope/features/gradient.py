r"""Gradients of a network as features: the map whose kernel is the empirical neural tangent kernel.

.. math:: \Phi(x) = \partial f(\theta, x) / \partial\theta

Products of features are computed layer by layer from the factors of the gradients, and a parameter that no layer
accounts for is differentiated by itself; nothing is left out. ``push`` and ``pull`` are Jacobian products by automatic
differentiation, forward and backward, and never hold a gradient of more than one batch.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from itertools import accumulate
from typing import Any

import torch
from torch import Tensor, nn

from ..budget import as_bytes, as_words
from ..data.points import Points, as_points
from ..errors import DataError, ModelError, OutOfBudget
from ..layers import Batch, Function, ModuleGradients, Outer
from ..layers.batch import form
from ..layers.jacobian import pull, push, way_to_push
from ..layers.strips import strips
from ..layers.tiles import pack, squared_norms, tile_cost
from ..losses import Loss
from ..nested import mapped
from ..network import Network, Parameters, cast, plain_name, undisturbed
from .base import FeatureMap
from .explained import Explained
from .first_look import check_finite, check_module, check_place, look
from .gathering import Gatherer
from .gram import EVERYTHING, Gram, Groups

#: What may be rounded before products are taken.
PRECISIONS = ("exact", "tf32", "bf16")

#: The share of the memory that gradients handed out in parts may fill.
PART = 0.1


class GradientFeatures(FeatureMap):
    r"""The gradients of a network's outputs, or of its losses, by its parameters.

    The network is read in eval mode, from a copy; it is never changed.

    Args:
        model: The network.
        output: What is differentiated: ``None`` for all outputs, the number of one, or a function of the outputs that
            gives one row for each sample.
        loss: A per-sample loss; its gradients are taken instead of those of outputs, and points are pairs of inputs
            and targets.
        parameters: The names of the parameters (or of modules, for all of theirs) to differentiate by; without it all
            that require a gradient. Those of a module made by ``torch.compile`` are the names within it, and its own,
            with ``_orig_mod.``, are known too.
        dtype: The precision to compute in; without it that of the parameters.
        device: Where to compute; without it where the parameters are.
        memory: About how much may be used, a number of bytes or a size such as ``"1GB"``.
        precision: ``"exact"``; or ``"tf32"`` or ``"bf16"`` to round gradients before products are taken.

    Raises:
        ModelError: If the outputs of a sample depend on the samples beside it.

    Example:
        >>> features = GradientFeatures(nn.Linear(2, 1, bias=False))
        >>> features.phi(torch.tensor([[3.0, 4.0]]))
        tensor([[[3., 4.]]])
    """

    def __init__(self, model: nn.Module, *, output: int | Callable[..., Tensor] | None = None,
                 loss: Callable[..., Tensor] | None = None, parameters: Sequence[str] | None = None,
                 dtype: torch.dtype | None = None, device: torch.device | str | None = None,
                 memory: int | str = "1GB", precision: str = "exact"):
        if precision not in PRECISIONS:
            raise DataError(f"precision must be one of {', '.join(PRECISIONS)}; {precision!r} came.")
        check_module(model)
        with torch.inference_mode(False):
            self.network = Network(model)
        self.names = _selected(self.network, parameters)
        self.dtype, self.device = check_place(dtype, device, (self.network.parameters[name] for name in self.names))
        self.memory, self.precision = as_bytes(memory), precision
        self.explained = Explained(output, None if loss is None else Loss(loss))
        self._columns: int | None = None
        self._prepare()

    def _prepare(self) -> None:
        self._parameters: Parameters = cast(self.network.parameters, self.dtype, self.device)
        self._buffers: Parameters = cast(self.network.buffers, self.dtype, self.device)
        self._gradients = ModuleGradients(
            Function(self.network, self._parameters, self._buffers, self.explained), self.names)
        self._gatherer = Gatherer(self._gradients, self._batch, self.memory,
                                  torch.bfloat16 if self.precision == "bf16" else None)
        self._seen: set[Any] = set()
        self._ways: dict[Any, str | None] = {}
        ends = list(accumulate((self._parameters[name].numel() for name in self.names), initial=0))
        self._firsts = dict(zip(self.names, ends, strict=False))

    # -- what the features are ---------------------------------------------------------------------------------------

    @property
    def shapes(self) -> list[torch.Size]:
        """The shapes of the parameters, in the order of the features."""
        return [self._parameters[name].shape for name in self.names]

    @property
    def size(self) -> int:  # type: ignore[override]
        """The number of parameters P."""
        return sum(shape.numel() for shape in self.shapes)

    @property
    def targets(self) -> bool:  # type: ignore[override]
        """Whether points come with their targets: those of losses do."""
        return self.explained.loss is not None

    def columns_of(self, x: Any) -> int:
        """The number of outputs c for points like these."""
        if self._columns is None:
            with undisturbed(self.device):
                self._batch(self.points(x), 0, 1)
        assert self._columns is not None
        return self._columns

    def points(self, x: Any) -> Points:
        """What was handed in, as points, with their targets where losses are differentiated."""
        points = as_points(x, self.targets)
        if not len(points):
            raise DataError("There are no points: the inputs have no rows. Pass at least one.")
        return points

    @property
    def notes(self) -> tuple[str, ...]:
        """The parameters that are differentiated by themselves, each with the reason; empty before the first use."""
        return self._gradients.notes

    def with_(self, **changes: Any) -> GradientFeatures:
        """The same features in another precision or on another device."""
        other = object.__new__(GradientFeatures)
        other.__dict__.update(self.__dict__, **changes)
        other._prepare()
        return other

    def at(self, state: Mapping[str, Tensor]) -> GradientFeatures:
        """The same features at other parameters and buffers, those of a ``state_dict`` of the module.

        Raises:
            DataError: If it is that of another module.
        """
        return self.with_(network=self.network.at(state))

    # -- features ----------------------------------------------------------------------------------------------------

    def phi(self, x: Any) -> Tensor:
        points = self.points(x)
        needed = len(points) * self.columns_of(points) * self.size * self.dtype.itemsize
        if needed > self.memory:
            raise OutOfBudget(
                f"The gradients of {len(points)} points take {as_words(needed)}, and memory allows "
                f"{as_words(self.memory)}. Use inner, push and pull, which never hold them all, or raise memory."
            )
        with undisturbed(self.device):
            blocks = []
            for i, j in self._gatherer.some(points):
                rows = self._gatherer.of(points, i, j).by_name(self.names, self._parameters)
                each = [rows[name].reshape(j - i, self.columns_of(points), -1) for name in self.names]
                blocks.append(torch.cat(each, 2))
            return torch.cat(blocks)

    def parts(self, x: Any) -> Iterator[tuple[slice, Tensor, Tensor]]:
        points = self.points(x)
        with undisturbed(self.device):
            batches = list(self._gatherer.some(points))
        for i, j in batches:
            with undisturbed(self.device):
                found = self._gatherer.of(points, i, j)
            # Between two parts the arithmetic is the caller's own.
            for piece, factor in found.factors.items():
                for samples, numbers, values in strips(factor, int(PART * self.memory)):
                    rows = slice(i + samples.start, i + samples.stop)
                    yield rows, self._firsts[piece.name] + piece.start + numbers, values

    def push(self, x: Any, u: Tensor) -> Tensor:
        self._check_u(u)
        points = self.points(x)
        with undisturbed(self.device):
            directions = u.to(self.device, self.dtype).reshape(self.size, -1).T
            found = [self._pushed(points, i, j, directions) for i, j in self._gatherer.some(points)]
        check_finite(found, "A gradient times u")
        return torch.cat(found).reshape(len(points), -1, *u.shape[1:])

    def pull(self, x: Any, v: Tensor) -> Tensor:
        points = self.points(x)
        wanted = len(points), self.columns_of(points)
        self._check_v(points, v)
        with undisturbed(self.device):
            total = torch.zeros(self.size, v[0, 0].numel(), dtype=self.dtype, device=self.device)
            weights = v.to(self.device, self.dtype, copy=v.is_inference()).reshape(*wanted, -1)
            for i, j in self._gatherer.some(points):
                pull(self._gradients.function, self.names, self._batch(points, i, j), weights[i:j], total)
        check_finite([total], "A gradient times v")
        return total.reshape(self.size, *v.shape[2:])

    def inner(self, x: Any, z: Any = None, full: bool = False) -> Tensor:
        return self._inner(x, z, full, EVERYTHING)["all"]

    def inner_by_parameter(self, x: Any, z: Any = None, full: bool = False) -> dict[str, Tensor]:
        """The products by each parameter alone; their sum is :meth:`inner`."""
        return self.inner_by({name: (name,) for name in self.names}, x, z, full)

    def inner_by(self, groups: Groups, x: Any, z: Any = None, full: bool = False) -> dict[str, Tensor]:
        """The products by each group of parameters alone."""
        return self._inner(x, z, full, groups)

    def squares(self, x: Any, full: bool = False) -> Tensor:
        return self.squares_by(EVERYTHING, x, full)["all"]

    def squares_by(self, groups: Groups, x: Any, full: bool = False) -> dict[str, Tensor]:
        """The squared norms by each group of parameters alone."""
        points = self.points(x)
        found: dict[str, list[Tensor]] = {group: [] for group in groups}
        with undisturbed(self.device):
            for i, j in self._gatherer.some(points, full):
                each = self._gatherer.of(points, i, j)
                own = {piece: squared_norms(factor, full) for piece, factor in each.factors.items()}
                nought = each.values.new_zeros(each.values.shape if full else len(each.values))
                for group, names in groups.items():
                    found[group].append(sum((norms for piece, norms in own.items()
                                             if names is None or piece.name in names), nought))
        whole = {group: torch.cat(norms) for group, norms in found.items()}
        check_finite(whole.values(), "The gradient", 0)
        return whole

    def blocks(self, x: Any, z: Any, full: bool = False) -> Iterator[tuple[slice, slice, Tensor]]:
        """The kernel matrix in blocks that fit in memory, each with its rows and columns."""
        points, others = self.points(x), self.points(z)
        return self._gram(points, full).blocks(points, others)

    def jacobian(self, x: Any) -> Tensor:
        """The gradients in float64 by plain automatic differentiation, one output at a time: shape (n, c, p)."""
        points = self.points(x)
        exact = self.with_(dtype=torch.float64)
        with undisturbed(self.device):
            batch = exact._batch(points, 0, len(points))
            rows = exact._gradients.function.plainly(self.names, batch)
        return torch.cat([rows[name] for name in self.names], 2)

    def costs(self, x: Any, count: int) -> tuple[float, float]:
        """About how many multiplications an entry of the kernel takes, and a point of a Jacobian product."""
        points = self.points(x)
        with undisturbed(self.device):
            probe = self._gatherer.few(points)
            tile = pack(probe, count, False)
        # A Jacobian product is a forward and about two backward passes through every use of every parameter.
        passes = sum(factor.length * factor.positions if isinstance(factor, Outer) and factor.size is None else
                     factor.rows()[0, 0].numel() for factor in probe.factors.values())
        return tile_cost(tile, count), 3.0 * passes

    # -- inside ------------------------------------------------------------------------------------------------------

    def _pushed(self, points: Points, start: int, stop: int, directions: Tensor) -> Tensor:
        batch = self._batch(points, start, stop)
        key = form(batch)
        if key not in self._ways:
            self._ways[key] = way_to_push(self._gradients.function, self.names, batch)
        way = self._ways[key]
        if way is not None:
            return push(self._gradients.function, self.names, batch, directions, way)
        found = self._gatherer.of(points, start, stop)
        total = found.values.new_zeros(*found.values.shape, len(directions))
        for piece, factor in found.factors.items():
            for samples, numbers, values in strips(factor, int(PART * self.memory)):
                total[samples] += values @ directions.T[self._firsts[piece.name] + piece.start + numbers]
        return total

    def _inner(self, x: Any, z: Any, full: bool, groups: Groups) -> dict[str, Tensor]:
        points = self.points(x)
        others = points if z is None else self.points(z)
        with undisturbed(self.device):
            found = self._gram(points, full).whole(points, others, groups)
        check_finite(found.values(), "A product of gradients")
        return found

    def _gram(self, points: Points, full: bool) -> Gram:
        return Gram(self._gatherer, self.columns_of(points) if full else None, self.dtype, self.device,
                    self.precision == "tf32")

    def _batch(self, points: Points, start: int, stop: int) -> Batch:
        part = points.part(start, stop)
        # What was made in inference mode takes no part in a gradient; a copy does.
        batch = Batch(*(mapped(lambda t: t.clone() if t.is_inference() else t,
                               cast(value, self.dtype, self.device)) for value in part))
        if form(batch) not in self._seen:
            explained = look(self._gradients.function, batch)
            self._columns = explained.shape[1] if self._columns is None else self._columns
            self._seen.add(form(batch))
        return batch


def _selected(network: Network, parameters: Sequence[str] | None) -> list[str]:
    """The names of the parameters to differentiate by."""
    if parameters is not None:
        parameters = [parameters] if isinstance(parameters, str) else parameters
        parameters = list(parameters) if isinstance(parameters, Iterable) else [parameters]
        odd = [wanted for wanted in parameters if not isinstance(wanted, str)]
        if odd or not parameters:
            raise DataError(
                "parameters are the names of parameters, or of modules for all of theirs, such as "
                f"{next(iter(network.parameters), 'weight')!r}; {f'a {type(odd[0]).__name__}' if odd else 'none'} came."
            )
    names = network.trainable if parameters is None else [
        name for name in network.parameters if any(_is_of(name, wanted) for wanted in parameters)]
    unknown = [] if parameters is None else [
        wanted for wanted in parameters if not any(_is_of(name, wanted) for name in network.parameters)]
    if unknown:
        raise DataError(
            f"The network has no parameter or module {unknown[0]!r}. It has {', '.join(list(network.parameters)[:8])}"
            f"{', ...' if len(network.parameters) > 8 else ''}."
        )
    if not names:
        raise ModelError("No parameter requires a gradient, so there are no features. Select some with parameters=.")
    return names


def _is_of(name: str, wanted: str) -> bool:
    """Whether a parameter has a name, or belongs to the module of that name, compiled or not."""
    return f"{plain_name(name)}.".startswith(f"{plain_name(f'{wanted}.')}")
