r"""Gradients of a network as features: the map whose kernel is the empirical neural tangent kernel.

.. math:: \Phi(x) = \partial f(\theta, x) / \partial\theta

Products of features are computed layer by layer from the factors of the gradients, and a parameter that no layer
accounts for is differentiated by itself; nothing is left out. ``push`` and ``pull`` are Jacobian products by automatic
differentiation, forward and backward, and never hold a gradient of more than one batch.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call, jvp

from ..budget import as_bytes, as_words
from ..data.points import Points, as_points
from ..errors import DataError, ModelError, OutOfBudget
from ..layers import Batch, ModuleGradients, Outer
from ..layers.batch import each_tensor, form, tensors_of
from ..layers.factors import distinct
from ..layers.products import mirror, multiply
from ..layers.strips import strips
from ..layers.tiles import Joined, Tile, aligned, pack, squared_norms, tile_cost
from ..network import Network, Parameters, cast, exact_arithmetic, flatten, per_sample_losses, random_state, unflatten
from ..run.losses import Loss
from .base import FeatureMap
from .first_look import check_finite, check_module, check_place, look

#: What may be rounded before products are taken.
PRECISIONS = ("exact", "tf32", "bf16")

#: The shares of the memory that kept gradients, a batch under way and products may fill.
KEPT, UNDER_WAY, WORKSPACE = 0.4, 0.25, 0.25

#: The share of the memory that gradients handed out in parts may fill.
PART = 0.1

#: How many points are differentiated at a time where memory would allow more.
MOST = 512


#: Parameters by the name of a group; ``None`` stands for all of them.
Groups = Mapping[str, Sequence[str] | None]
EVERYTHING: Groups = {"all": None}


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
            that require a gradient.
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
        if loss is not None and output is not None:
            raise DataError("Either an output or a loss is differentiated; both came. Leave one out.")
        if not (output is None or callable(output) or (isinstance(output, int) and not isinstance(output, bool))):
            raise DataError(f"output must be the number of one output or a function of all; {output!r} came.")
        check_module(model)
        with torch.inference_mode(False):
            self.network = Network(model)
        self.names = _selected(self.network, parameters)
        self.dtype, self.device = check_place(dtype, device, (self.network.parameters[name] for name in self.names))
        self.memory, self.precision = as_bytes(memory), precision
        self.output, self.loss = output, None if loss is None else Loss(loss)
        self._parameters: Parameters = cast(self.network.parameters, self.dtype, self.device)
        self._buffers: Parameters = cast(self.network.buffers, self.dtype, self.device)
        self._gradients = ModuleGradients(self.network, self.names)
        self._columns: int | None = None
        self._unit: dict[Any, tuple[int, int]] = {}
        self._seen: set[Any] = set()

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
        return self.loss is not None

    def columns_of(self, x: Any) -> int:
        """The number of outputs c for points like these."""
        if self._columns is None:
            with self._quietly():
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
        return tuple(dict.fromkeys(note for plan in self._gradients.plans for note in plan.notes))

    def with_(self, **changes: Any) -> GradientFeatures:
        """The same features in another precision or on another device."""
        other = object.__new__(GradientFeatures)
        other.__dict__.update(self.__dict__, **changes)
        other._parameters = cast(other.network.parameters, other.dtype, other.device)
        other._buffers = cast(other.network.buffers, other.dtype, other.device)
        other._gradients, other._unit, other._seen = ModuleGradients(other.network, self.names), {}, set()
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
        with self._quietly():
            blocks = []
            for i, j in self._parts(points, len(points), full=False):
                rows = self._gradients.rows(self._parameters, self._buffers, self._batch(points, i, j), self._values)
                each = [rows[name].reshape(j - i, self.columns_of(points), -1) for name in self.names]
                blocks.append(torch.cat(each, 2))
            return torch.cat(blocks)

    def parts(self, x: Any) -> Iterator[tuple[slice, Tensor, Tensor]]:
        points = self.points(x)
        firsts, end = {}, 0
        for name, shape in zip(self.names, self.shapes, strict=True):
            firsts[name], end = end, end + shape.numel()
        with self._quietly():
            batches = list(self._parts(points, len(points), full=False))
        for i, j in batches:
            with self._quietly():
                found = self._gradients(self._parameters, self._buffers, self._batch(points, i, j), self._values)
            # Between two parts the arithmetic is the caller's own.
            for piece, factor in found.factors.items():
                for samples, numbers, values in strips(factor, int(PART * self.memory)):
                    yield slice(i + samples.start, i + samples.stop), firsts[piece.name] + piece.start + numbers, values

    def push(self, x: Any, u: Tensor) -> Tensor:
        self._check_u(u)
        points = self.points(x)
        with self._quietly():
            directions = u.to(self.device, self.dtype).reshape(self.size, -1).T
            found = [self._pushed(self._batch(points, i, j), directions)
                     for i, j in self._parts(points, len(points), full=False)]
        check_finite(found, "A gradient times u")
        return torch.cat(found).reshape(len(points), -1, *u.shape[1:])

    def pull(self, x: Any, v: Tensor) -> Tensor:
        points = self.points(x)
        wanted = len(points), self.columns_of(points)
        self._check_v(points, v)
        with self._quietly():
            total = torch.zeros(self.size, v[0, 0].numel(), dtype=self.dtype, device=self.device)
            weights = v.to(self.device, self.dtype, copy=v.is_inference()).reshape(*wanted, -1)
            for i, j in self._parts(points, len(points), full=False):
                self._pulled(self._batch(points, i, j), weights[i:j], total)
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
        with self._quietly():
            for i, j in self._parts(points, 1, full):
                each = self._gradients(self._parameters, self._buffers, self._batch(points, i, j), self._values)
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
        with self._quietly():
            _, each = self._measure(points, min(len(points), len(others)), full)
        c = self.columns_of(points) if full else 1
        most = max(1, int(KEPT * self.memory // max(2 * each, 1)))
        side = max(1, min(most, int((0.1 * self.memory / (c * c * self.dtype.itemsize)) ** 0.5)))
        for i in range(0, len(points), side):
            rows = slice(i, min(i + side, len(points)))
            with self._quietly():
                left = self._tile(points, rows.start, rows.stop, side, full, self.memory)
            for j in range(0, len(others), side):
                columns = slice(j, min(j + side, len(others)))
                with self._quietly():
                    same = others is points and columns == rows
                    right = left if same else self._tile(others, j, columns.stop, side, full, self.memory)
                    n, m = rows.stop - i, columns.stop - j
                    block = torch.zeros((n, c, m, c) if full else (n, m), dtype=self._out_dtype, device=self.device)
                    self._multiply(left, right, full, EVERYTHING, {"all": block}, slice(0, n), slice(0, m), self.memory)
                    if same:
                        mirror(block)
                yield rows, columns, block

    def jacobian(self, x: Any) -> Tensor:
        """The gradients in float64 by plain automatic differentiation, one output at a time: shape (n, c, p)."""
        points = self.points(x)
        exact = self.with_(dtype=torch.float64)
        with exact._quietly():
            batch = exact._batch(points, 0, len(points))
            rows = exact._gradients.plainly(self.names, exact._parameters, exact._buffers, batch, exact._values)
        return torch.cat([rows[name] for name in self.names], 2)

    def costs(self, x: Any, count: int) -> tuple[float, float]:
        """About how many multiplications an entry of the kernel takes, and a point of a Jacobian product."""
        points = self.points(x)
        with self._quietly():
            probe = self._gradients(self._parameters, self._buffers, self._batch(points, 0, min(4, len(points))),
                                    self._values)
            tile = pack(probe, count, False)
        # A Jacobian product is a forward and about two backward passes through every use of every parameter.
        passes = sum(factor.length * factor.positions if isinstance(factor, Outer) and factor.size is None else
                     factor.rows()[0, 0].numel() for factor in probe.factors.values())
        return tile_cost(tile, count), 3.0 * passes

    # -- products ----------------------------------------------------------------------------------------------------

    def _inner(self, x: Any, z: Any, full: bool, groups: Groups) -> dict[str, Tensor]:
        points = self.points(x)
        others = points if z is None else self.points(z)
        c = self.columns_of(points)
        n, m = len(points), len(others)
        self._check_room(n, m, c if full else 1, len(groups))
        with self._quietly():
            out = {group: torch.zeros((n, c, m, c) if full else (n, m), dtype=self._out_dtype, device=self.device)
                   for group in groups}
            _, each = self._measure(points, min(n, m), full)
            room = max(self.memory - sum(block.nbytes for block in out.values()), 1)
            held = n if others is points else n + m
            if held * each <= KEPT * room:
                left = self._tile(points, 0, n, min(n, m), full, room)
                right = left if others is points else self._tile(others, 0, m, min(n, m), full, room)
                self._multiply(left, right, full, groups, out, slice(0, n), slice(0, m), room)
            else:
                self._by_panels(points, others, full, groups, out, room, int(KEPT * room // each))
            if others is points:
                for block in out.values():
                    mirror(block)
        return out

    def _by_panels(self, points: Points, others: Points, full: bool, groups: Groups, out: dict[str, Tensor],
                   room: int, most: int) -> None:
        """Keeps the gradients of as many rows as fit, and lets those of the columns pass by."""
        if most < 2:
            raise OutOfBudget(
                f"The gradients of two points do not fit in memory={as_words(self.memory)}. Raise memory, select "
                "fewer parameters or fewer outputs."
            )
        same = others is points
        panel, strip = max(1, 3 * most // 4), max(1, most // 4)
        for i in range(0, len(points), panel):
            rows = slice(i, min(i + panel, len(points)))
            left = self._tile(points, rows.start, rows.stop, panel, full, room)
            if same:
                self._multiply(left, left, full, groups, out, rows, rows, room)
            for j in range(rows.stop if same else 0, len(others), strip):
                columns = slice(j, min(j + strip, len(others)))
                right = self._tile(others, j, columns.stop, panel, full, room)
                self._multiply(left, right, full, groups, out, rows, columns, room)

    def _multiply(self, left: Tile, right: Tile, full: bool, groups: Groups, out: dict[str, Tensor], rows: slice,
                  columns: slice, room: int) -> None:
        workspace = int(WORKSPACE * room)
        left, right = aligned(left, right)
        for group, whole in out.items():
            block = whole[rows, :, columns] if full else whole[rows, columns]
            names = groups[group]
            pieces = None if names is None else {p for p in (*left.spans, *left.outers) if p.name in names}
            with self._rounding():
                multiply(left, right, full, workspace, block, pieces)

    def _tile(self, points: Points, start: int, stop: int, count: int, full: bool, room: int) -> Tile:
        """The gradients of some points, kept for products with ``count`` others, where ``room`` bytes are left."""
        graph, _ = self._measure(points, count, full)
        step = self._step(graph, stop - start, room)
        joined = Joined(stop - start)
        for i in range(start, stop, step):
            found = self._gradients(self._parameters, self._buffers, self._batch(points, i, min(i + step, stop)),
                                    self._values)
            joined.add(pack(found, count, full, torch.bfloat16 if self.precision == "bf16" else None))
        check_finite(joined.tile.tensors(), "The gradient", start)
        return joined.tile

    # -- Jacobian products -------------------------------------------------------------------------------------------

    def _pulled(self, batch: Batch, weights: Tensor, total: Tensor) -> None:
        leaves = {name: self._parameters[name].detach().requires_grad_() for name in self.names}
        with torch.enable_grad():
            explained = self._outputs({**self._parameters, **leaves}, batch)
            for k in range(weights.shape[2]):
                if not explained.requires_grad:
                    return
                found = torch.autograd.grad(explained, list(leaves.values()), weights[..., k],
                                            retain_graph=k + 1 < weights.shape[2], allow_unused=True)
                total[:, k] += flatten([torch.zeros_like(p) if g is None else g
                                        for g, p in zip(found, leaves.values(), strict=True)])

    def _pushed(self, batch: Batch, directions: Tensor) -> Tensor:
        """The Jacobian times each direction, with shape (n, c, r)."""
        own = {name: self._parameters[name] for name in self.names}
        function = lambda moving: self._outputs({**self._parameters, **moving}, batch)
        found = []
        for direction in directions:
            tangents = dict(zip(self.names, unflatten(direction, self.shapes), strict=True))
            try:
                found.append(jvp(function, (own,), (tangents,))[1])
            # An operation without a forward derivative; the derivative of a backward pass has the same value.
            except (RuntimeError, NotImplementedError):
                found.append(self._pushed_twice(batch, tangents))
        return torch.stack(found, 2).detach()

    def _pushed_twice(self, batch: Batch, tangents: Parameters) -> Tensor:
        leaves = {name: self._parameters[name].detach().requires_grad_() for name in self.names}
        with torch.enable_grad():
            explained = self._outputs({**self._parameters, **leaves}, batch)
            weights = torch.zeros_like(explained, requires_grad=True)
            found = torch.autograd.grad(explained, list(leaves.values()), weights, create_graph=True, allow_unused=True)
            pairs = [(g * tangents[name]).sum() for name, g in zip(self.names, found, strict=True) if g is not None]
            return torch.autograd.grad(torch.stack(pairs).sum(), weights)[0] if pairs else torch.zeros_like(explained)

    # -- inside ------------------------------------------------------------------------------------------------------

    def _outputs(self, parameters: Parameters, batch: Batch) -> Tensor:
        state = {**parameters, **{name: b.clone() for name, b in self._buffers.items()}}
        return self._values(functional_call(self.network.module(()), state, batch.args, batch.kwargs), batch.side)

    def _values(self, outputs: Any, side: Any) -> Tensor:
        """What is differentiated, with shape (n, c)."""
        if self.loss is not None:
            losses = per_sample_losses(self.loss, _tensor_of(outputs), side, len(tensors_of(side)[0]))
            return losses.unsqueeze(1)
        if callable(self.output):
            outputs = self.output(outputs)
        values = _tensor_of(outputs)
        values = values.unsqueeze(1) if values.ndim == 1 else values.flatten(1)
        if isinstance(self.output, int):
            if not -values.shape[1] <= self.output < values.shape[1]:
                raise DataError(f"output={self.output} asks for one of {values.shape[1]} outputs. Count from 0.")
            return values[:, [self.output]]
        return values

    def _batch(self, points: Points, start: int, stop: int) -> Batch:
        part = points.part(start, stop)
        # What was made in inference mode takes no part in a gradient; a copy does.
        batch = Batch(*(each_tensor(cast(value, self.dtype, self.device),
                                    lambda t: t.clone() if t.is_inference() else t) for value in part))
        if form(batch) not in self._seen:
            explained = look(self.network, self._parameters, self._buffers, batch, self._values)
            self._columns = explained.shape[1] if self._columns is None else self._columns
            self._seen.add(form(batch))
        return batch

    def _measure(self, points: Points, count: int, full: bool) -> tuple[int, int]:
        """The bytes that a sample takes while it is differentiated, and when it is kept."""
        key = count.bit_length(), full
        if key not in self._unit:
            probe = self._batch(points, 0, min(4, len(points)))
            kept: dict[int, int] = {}

            def note(t: Tensor) -> Tensor:
                kept[t.untyped_storage().data_ptr()] = t.untyped_storage().nbytes()
                return t

            self._gradients.plan(self._parameters, self._buffers, probe, self._values)
            with torch.autograd.graph.saved_tensors_hooks(note, lambda t: t):
                found = self._gradients(self._parameters, self._buffers, probe, self._values)
            own = {p.untyped_storage().data_ptr() for p in (*self._parameters.values(), *self._buffers.values())}
            graph = sum(size for place, size in kept.items() if place not in own)
            factors = sum(t.nbytes for t in distinct(found.factors.values()))
            tile = pack(found, count, full, torch.bfloat16 if self.precision == "bf16" else None)
            # Output gradients are stacked, laid out anew and kept, at worst all at once.
            self._unit[key] = (graph + 3 * factors) // len(tile), tile.nbytes // len(tile)
        return self._unit[key]

    def _parts(self, points: Points, count: int, full: bool) -> Iterator[tuple[int, int]]:
        graph, _ = self._measure(points, count, full)
        step = self._step(graph, len(points), self.memory)
        for i in range(0, len(points), step):
            yield i, min(i + step, len(points))

    def _step(self, graph: int, count: int, room: int) -> int:
        return max(1, min(count, MOST, int(UNDER_WAY * room // max(graph, 1))))

    def _check_room(self, n: int, m: int, c: int, count: int) -> None:
        size = n * m * c * c * self._out_dtype.itemsize * count
        if size > 0.6 * self.memory:
            raise OutOfBudget(
                f"The kernel matrix of {n} by {m} points takes {as_words(size)}, and memory allows "
                f"{as_words(self.memory)} for everything. Multiply without it, by KernelOperator(k, x) @ v, or raise "
                "memory."
            )

    @property
    def _out_dtype(self) -> torch.dtype:
        return self.dtype

    @contextmanager
    def _quietly(self) -> Iterator[None]:
        with exact_arithmetic(), random_state(None, self.device), torch.inference_mode(False), torch.no_grad():
            yield

    @contextmanager
    def _rounding(self) -> Iterator[None]:
        if self.precision != "tf32" or self.device.type != "cuda":
            yield
            return
        torch.backends.cuda.matmul.allow_tf32 = True
        try:
            yield
        finally:
            torch.backends.cuda.matmul.allow_tf32 = False


def _tensor_of(outputs: Any) -> Tensor:
    """The outputs of a network as a tensor; those of a language model are its logits."""
    logits = outputs.get("logits") if isinstance(outputs, Mapping) else getattr(outputs, "logits", None)
    if isinstance(logits, Tensor):
        outputs = logits
    if not isinstance(outputs, Tensor) or not outputs.is_floating_point() or outputs.ndim == 0:
        kind = type(outputs).__name__
        if isinstance(outputs, Tensor):
            kind = f"{outputs.dtype} of shape {tuple(outputs.shape)}"
        raise ModelError(
            f"The network must give a tensor of real numbers with one row for each sample; it gave {kind}. "
            "Pass output=, a function that takes such a tensor from the outputs."
        )
    return outputs


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
        name for name in network.parameters
        if any(name == wanted or name.startswith(f"{wanted}.") for wanted in parameters)]
    unknown = [] if parameters is None else [
        wanted for wanted in parameters
        if not any(name == wanted or name.startswith(f"{wanted}.") for name in network.parameters)]
    if unknown:
        raise DataError(
            f"The network has no parameter or module {unknown[0]!r}. It has {', '.join(list(network.parameters)[:8])}"
            f"{', ...' if len(network.parameters) > 8 else ''}."
        )
    if not names:
        raise ModelError("No parameter requires a gradient, so there are no features. Select some with parameters=.")
    return names
