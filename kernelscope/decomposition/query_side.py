r"""The query side of a step kernel: outputs of the network at given parameters, and their gradients.

Queries are read in eval mode, where each stands for itself. Their gradients :math:`\nabla_\theta f_c(x_q;\theta)` come
from the factors that one batched pass gives, from a vectorised Jacobian where ``torch.func`` can transform the module,
and else from plain automatic differentiation, one output at a time.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor
from torch.func import jacrev, vmap

from ..errors import ModelError
from ..layers import Batch, Function, ModuleGradients
from ..layers.tiles import Tile, pack
from ..network import MISFITS, Network, Parameters, get_random_state, gradients_of, random_state, set_random_state
from ..sizes import largest_of
from .output import OutputFunctional
from .training_side import AGREEMENT, WITHOUT_FACTORS, perturbed

#: The ways to compute gradients, in the order in which they are tried.
WAYS = ("layers", "vectorised", "loop")

#: What to do about a network that is no function of a query, by what was seen of it.
RANDOM = ("It draws random numbers. Let it draw in train mode only, as torch.nn.Dropout does and "
          "F.dropout(x, p, training=self.training).")
STATEFUL = ("It keeps state outside of its parameters and buffers, or draws random numbers outside of torch. Keep such "
            "state in buffers, and leave it as it is in eval mode.")
NORMALISED = ("Its batch normalisation {!r} has track_running_stats=False and reads the batch it is given. Train with "
              "running statistics.")
MIXED = ("Look for a mean, a sum or a comparison over the first axis in its forward, or in the function given as "
         "output, and let each row stand for itself in eval mode.")


class QuerySide:
    """Outputs and gradients of some queries.

    Args:
        network: The network.
        inputs: The queries, each tensor with one row for each.
        functional: What is explained of the outputs.
        names: The parameters to differentiate by.
    """

    #: How many bytes a backward pass keeps of one query, as a probe sees it.
    saved = 0

    def __init__(self, network: Network, inputs: tuple[Tensor, ...], functional: OutputFunctional, names: list[str]):
        self.network = network
        self.inputs = inputs
        self.functional = functional
        self.names = names
        self.way = WAYS[0]
        self.note = ""
        self._layers: ModuleGradients | None = None

    def __len__(self) -> int:
        return len(self.inputs[0])

    def part(self, rows: slice) -> QuerySide:
        """Some of the queries."""
        part = copy.copy(self)
        side = None if self.functional.side is None else self.functional.side[rows]
        part.functional = replace(self.functional, side=side)
        part.inputs = tuple(x[rows] for x in self.inputs)
        return part

    def outputs(self, parameters: Parameters, buffers: Parameters) -> tuple[Any, Tensor]:
        """The network's outputs, and the explained numbers with shape :math:`(q, c)`."""
        with torch.no_grad():
            raw = self.network(parameters, buffers, self.inputs)
            rows = self.functional(raw, self.functional.side)
        if len(rows) != len(self):
            raise ModelError(
                f"The network gave {len(rows)} rows of outputs for {len(self)} "
                f"{'query' if len(self) == 1 else 'queries'}, so they do not belong to queries. Samples must stand "
                "along the first axis of inputs and outputs: wrap a network that has them along another axis in a "
                "module whose forward exchanges the axes, train and record that one."
            )
        return raw, rows

    def gradients(self, parameters: Parameters, buffers: Parameters) -> list[Tensor]:
        """The gradients of all explained numbers, for each parameter with shape :math:`(q c, *)`."""
        ways = {"layers": self._by_layers, "vectorised": self._vectorised, "loop": self._loop}
        return ways[self.way](parameters, buffers)

    def spread(self, missed: Tensor) -> Tensor:
        """What each row is corrected by where a quadrature missed ``missed`` of it: all of it, by itself."""
        return missed

    def tile(self, parameters: Parameters, buffers: Parameters, count: int, full: bool) -> Tile | None:
        """The gradients by their factors, for products of ``count`` by ``count`` queries; ``None`` if they have none.

        Args:
            parameters: Where they are taken.
            buffers: The buffers there.
            count: With how many others they meet.
            full: Whether pairs of outputs are kept apart.
        """
        if self.way != "layers" or self._layers is None:
            return None
        function = Function(self.network, parameters, buffers, self.functional)
        try:
            return pack(self._layers.at(function)(Batch(self.inputs, {}, self.functional.side)), count, full)
        except ModelError:
            return None

    def probe(self, parameters: Parameters, buffers: Parameters) -> None:
        """Finds the first way that agrees with plain automatic differentiation on two queries.

        Raises:
            ModelError: If the output of a query depends on the queries beside it, on chance, or on what came before.
        """
        two = self.part(slice(0, 2))
        beside = perturbed(parameters, self.names)
        two._check_that_each_stands_alone(beside, buffers)
        if two._is_finite(beside, buffers):
            parameters = beside
        del beside
        self.saved = two._kept(parameters, buffers) // max(len(two), 1)
        notes: list[str] = []
        for way in WAYS:
            self.way = two.way = way
            problem = None if way == "loop" else _disagreement(two, parameters, buffers)
            if way == "layers" and problem is None and two._layers is not None and not two._layers.by_uses:
                problem = WITHOUT_FACTORS
            if problem is None:
                break
            notes.append(f"queries not {way}: {problem}")
        self._layers, self.note = two._layers, "; ".join(notes)

    def _check_that_each_stands_alone(self, parameters: Parameters, buffers: Parameters) -> None:
        """Refuses a network whose output is no function of the query, by what was seen of it."""
        explained = lambda: self.outputs(parameters, buffers)[1]
        device = self.inputs[0].device
        with random_state(None, device):
            state = get_random_state(device)
            together, again = explained(), explained()
            if _apart(together, again):
                set_random_state(state, device)
                advice = STATEFUL if _apart(together, explained()) else RANDOM
                raise ModelError(
                    "In eval mode the network gives another output each time that it is asked the same, so its output "
                    f"is no function of the query. {advice}"
                )
        try:
            alone = torch.cat([self.part(slice(q, q + 1)).outputs(parameters, buffers)[1] for q in range(len(self))])
            problem = "its output changes with the queries beside it"
        except (RuntimeError, ValueError, ModelError) as error:
            alone = torch.full_like(together, torch.inf)
            problem = str(error).strip().splitlines()[0][:160]
        if _apart(together, alone):
            norms = self.network.batch_norms_without_statistics()
            raise ModelError(
                f"In eval mode the network cannot take a query by itself ({problem}), so its output is no function of "
                f"the query. {NORMALISED.format(norms[0]) if norms else MIXED}"
            )

    def _by_layers(self, parameters: Parameters, buffers: Parameters) -> list[Tensor]:
        function = Function(self.network, parameters, buffers, self.functional)
        queries = Batch(self.inputs, {}, self.functional.side)
        if self._layers is None:
            # The first queries decide whether this is the way.
            self._layers = ModuleGradients(function, self.names)
            rows = self._layers.rows(queries)
        else:
            rows = self._layers.at(function).rows_anyway(queries)
        return [rows[name].reshape(-1, *parameters[name].shape) for name in self.names]

    def _vectorised(self, parameters: Parameters, buffers: Parameters) -> list[Tensor]:
        own = {name: parameters[name] for name in self.names}

        def explained(moving: Parameters, x: tuple[Tensor, ...], side: Tensor | None) -> Tensor:
            raw = self.network({**parameters, **moving}, buffers, tuple(t.unsqueeze(0) for t in x))
            return self.functional(raw, None if side is None else side.unsqueeze(0)).squeeze(0)

        side = self.functional.side
        jacobians = vmap(jacrev(explained), in_dims=(None, 0, None if side is None else 0))(own, self.inputs, side)
        return [jacobians[name].flatten(0, 1) for name in self.names]

    def _loop(self, parameters: Parameters, buffers: Parameters) -> list[Tensor]:
        rows = list(self._one_by_one(parameters, buffers))
        return [torch.stack(column) for column in zip(*rows, strict=True)]

    def _one_by_one(self, parameters: Parameters, buffers: Parameters) -> Iterator[tuple[Tensor, ...]]:
        """The gradients by plain automatic differentiation, of one number after the other."""
        leaves = {name: parameters[name].detach().requires_grad_() for name in self.names}

        def row(value: Tensor) -> tuple[Tensor, ...]:
            found = gradients_of(value, leaves, retain_graph=True)
            return tuple(torch.zeros_like(p) if g is None else g for g, p in zip(found, leaves.values(), strict=True))

        for q in range(len(self)):
            one = self.part(slice(q, q + 1))
            with torch.enable_grad():
                raw = self.network({**parameters, **leaves}, buffers, one.inputs)
                values = self.functional(raw, one.functional.side)[0].unbind()
            yield from map(row, values)

    def _kept(self, parameters: Parameters, buffers: Parameters) -> int:
        """How many bytes the graph of these queries keeps, beside the parameters."""
        leaves = {name: parameters[name].detach().requires_grad_() for name in self.names}
        known = {t.untyped_storage().data_ptr() for t in parameters.values()}
        kept: dict[int, int] = {}

        def note(t: Tensor) -> Tensor:
            place = t.untyped_storage().data_ptr()
            if place not in known:
                kept[place] = max(kept.get(place, 0), t.nbytes)
            return t

        # A network that differentiates with torch.func within its forward allows no such hooks, nor counting by them.
        with suppress(RuntimeError), torch.enable_grad(), torch.autograd.graph.saved_tensors_hooks(note, lambda t: t):
            raw = self.network({**parameters, **leaves}, buffers, self.inputs)
            self.functional(raw, self.functional.side)
        return sum(kept.values())

    def _is_finite(self, parameters: Parameters, buffers: Parameters) -> bool:
        # all() lets go of each gradient before the next one is made.
        return all(map(_all_finite, self._one_by_one(parameters, buffers)))


def _all_finite(row: tuple[Tensor, ...]) -> bool:
    return all(bool(torch.isfinite(t.aminmax()[0]) & torch.isfinite(t.aminmax()[1])) for t in row if t.numel())


def _apart(a: Tensor, b: Tensor) -> bool:
    """Whether two computations of the same numbers differ by more than rounding."""
    return bool((a - b).abs().nan_to_num(0.0).max() > AGREEMENT[a.dtype] * a.abs().nan_to_num(0.0).max())


def _disagreement(side: QuerySide, parameters: Parameters, buffers: Parameters) -> str | None:
    """What is wrong with the side's way; plain gradients, of a number each, are held one at a time."""
    try:
        found = side.gradients(parameters, buffers)
    except (ModelError, *MISFITS) as error:
        return str(error).strip().splitlines()[0][:160]
    gaps, sizes = [0.0], [0.0]

    def compare(number: int, truth: tuple[Tensor, ...]) -> None:
        for rows, true in zip(found, truth, strict=True):
            gaps.append(largest_of(rows[number] - true))
            sizes.append(largest_of(true))

    for number, truth in enumerate(side._one_by_one(parameters, buffers)):
        compare(number, truth)
        del truth
    agree = all(gap <= AGREEMENT[found[0].dtype] * max(sizes) for gap in gaps)
    return None if agree else "they depend on each other"
