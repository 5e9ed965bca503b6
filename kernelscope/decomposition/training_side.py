r"""The training side of a step kernel: how each sample's loss gradient meets a test direction.

For directions :math:`\psi_q` the shares need :math:`\langle\psi_q, g_i\rangle`, with :math:`g_i` the gradient of the
i-th loss term at the parameters the forward pass saw. There are four exact ways, and all give the same numbers:

- ``layers``: per-sample gradients from the factors that one batched pass gives, then one matrix product;
- ``samples``: per-sample gradients by ``vmap(grad)``, then one matrix product;
- ``batch``: a directional derivative of all losses of the batch at once, which also holds where the samples of a batch
  meet each other (batch normalisation) or share random numbers (dropout);
- ``loop``: plain automatic differentiation, one loss at a time, for modules that ``torch.func`` cannot transform.

A probe on the first batch of each kind compares each with the last, and takes the first that agrees.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.func import grad, jvp, vmap

from ..composed import Composed
from ..errors import ModelError
from ..layers import Batch, Function, Gradients, ModuleGradients
from ..network import (
    MISFITS,
    Parameters,
    apart,
    cast,
    gradients_of,
    per_part_losses,
    per_sample_losses,
    random_state,
)
from ..run.replay import batch_tensors
from ..run.run import Run
from ..run.step import MicroBatch
from ..sizes import largest_of

#: The ways, in the order in which they are tried.
WAYS = ("layers", "samples", "batch", "loop")

#: So many directions at most meet a batch faster by derivatives of its losses than by the gradients of its samples,
#: where these come from ``vmap``: measured on a critic with its slope, in a third of the time for one to three.
FEW = 8

#: How closely a way must meet plain automatic differentiation, relative.
AGREEMENT = {torch.float64: 1e-8, torch.float32: 1e-3}


#: Why a way is not taken that would do what the next one does.
WITHOUT_FACTORS = "no gradient follows from the uses of a parameter"

#: Directions by parameter, with shape (Q, *), and a factor for each, to products with shape (Q, B).
Products = Callable[[Parameters, dict[str, float]], Tensor]

#: What a way is found for: the modules in train mode, whether random numbers were drawn, whether there were samples to
#: meet, and the parameters that move.
Kind = tuple[tuple[str, ...], bool, bool, tuple[str, ...]]


class TrainingSide:
    """Loss gradients of recorded batches, in the precision of the ledger.

    Args:
        run: The run.
        dtype: The precision of the ledger.
        device: Where to compute.
        memory: About how many bytes a block may fill.
        parts: Whether products are told for each part of a sample's loss, such as its tokens, one after the other.
        together: Of how many forward passes products are held side by side: those of a step, or of a chord.
    """

    def __init__(self, run: Run, dtype: torch.dtype, device: torch.device, memory: int, parts: bool = False,
                 together: int = 1):
        self.run = run
        self.together = together
        self.parts = parts
        self.dtype = dtype
        self.device = device
        self.memory = memory
        self._ways: dict[Kind, str] = {}
        self._few: dict[Kind, bool] = {}
        self._notes: dict[str, None] = {}
        self._layers: dict[tuple[tuple[str, ...], tuple[str, ...]], ModuleGradients] = {}

    @property
    def way(self) -> str:
        """The ways found so far, in words."""
        return ", ".join(way for way in WAYS if way in self._ways.values()) or "none"

    @property
    def note(self) -> str:
        """Why other ways were not taken."""
        return "; ".join(self._notes)

    def to(self, value: Any) -> Any:
        """Moves tensors to the ledger's precision and device."""
        return cast(value, self.dtype, self.device)

    def mean_gradient(self, batch: MicroBatch, k: int, parameters: Parameters, moving: list[str]) -> list[Tensor]:
        """The gradient of the mean loss of a forward pass, for the parameters named."""
        leaves = {name: parameters[name].detach().requires_grad_() for name in moving}
        with torch.enable_grad(), random_state(batch.random, self.device):
            losses = self.losses(batch, k)({**parameters, **leaves})
            gradients = gradients_of(losses.mean(), leaves)
        return [torch.zeros_like(p) if g is None else g for g, p in zip(gradients, leaves.values(), strict=True)]

    def weighted_gradients(self, batch: MicroBatch, k: int, parameters: Parameters, groups: list[list[str]],
                           weights: Tensor) -> dict[str, list[Tensor]]:
        """Weighted sums of the samples' gradients, for the parameters named.

        Args:
            batch: The forward pass.
            k: The step whose buffers it saw.
            parameters: The parameters it saw.
            groups: The names of the parameters, in groups.
            weights: The weights of the samples in each sum for each group, with shape (groups, sums, samples).

        Returns:
            For each parameter its sums.
        """
        leaves = {name: parameters[name].detach().requires_grad_() for names in groups for name in names}
        found: dict[str, list[Tensor]] = {name: [] for name in leaves}
        with torch.enable_grad(), random_state(batch.random, self.device):
            losses = self.losses(batch, k)({**parameters, **leaves})
            for names, rows in zip(groups, weights, strict=True):
                own = {name: leaves[name] for name in names}
                for row in rows:
                    gradients = (gradients_of((losses * self.to(row)).sum(), own, retain_graph=True)
                                 if bool(row.any()) else (None,) * len(own))
                    for (name, p), g in zip(own.items(), gradients, strict=True):
                        found[name].append(torch.zeros_like(p) if g is None else g)
        return {name: [g.detach() for g in sums] for name, sums in found.items()}

    def largest_gradient(self, batch: MicroBatch, k: int, parameters: Parameters, name: str) -> float:
        """The largest norm of a sample's gradient by one parameter, by plain automatic differentiation."""
        leaf = parameters[name].detach().requires_grad_()
        with torch.enable_grad(), random_state(batch.random, self.device):
            losses = self.losses(batch, k)({**parameters, name: leaf}).unbind()
        found = [gradients_of(loss, {name: leaf}, retain_graph=True)[0] for loss in losses]
        return max((float(g.norm()) for g in found if g is not None), default=0.0)

    def rows(self, batch: MicroBatch, k: int, parameters: Parameters, moving: list[str]) -> Parameters:
        """The gradients of the samples of a forward pass, each by itself, with shape (B, *) for each parameter.

        Raises:
            ModelError: If samples have no gradients of their own, or ``torch.func`` cannot transform the module.
        """
        way = self._way(batch, k, parameters, moving)
        if way not in ("layers", "samples"):
            raise ModelError(
                f"Gradients of single samples were needed, and this network gives none ({self.note or way}). Train "
                "without batch statistics and dropout, and keep to operations that torch.func can transform."
            )
        inputs, targets = self.to(batch_tensors(self.run, batch))
        rows_of = self._layer_rows if way == "layers" else self._transformed_rows
        found = rows_of(batch, parameters, self.to(self.run.buffers(k)), inputs, targets, moving)
        return {name: rows.reshape(-1, *parameters[name].shape) for name, rows in found.items()}

    def bent_rows(self, batch: MicroBatch, k: int, parameters: Parameters, directions: Parameters) -> Parameters:
        r"""The products :math:`H_i d_i` of each sample's Hessian with a direction of its own, with shape (B, *)."""
        inputs, targets = self.to(batch_tensors(self.run, batch))
        buffers = self.to(self.run.buffers(k))
        own = apart(parameters, list(directions))

        def loss(moved: Parameters, x: tuple[Tensor, ...], y: Tensor) -> Tensor:
            one = tuple(t.unsqueeze(0) for t in x)
            return self._per_sample({**parameters, **moved}, buffers, one, y.unsqueeze(0), batch.training).sum()

        def bent(x: tuple[Tensor, ...], y: Tensor, direction: Parameters) -> Parameters:
            return jvp(lambda p: grad(loss)(p, x, y), (own,), (direction,))[1]

        with Composed():
            return vmap(bent)(inputs, targets, directions)

    def bent(self, batch: MicroBatch, k: int, parameters: Parameters, directions: Parameters) -> Parameters:
        """The products of the Hessian of the batch's mean loss with rows of directions, with shape (Q, *)."""
        losses = self.losses(batch, k)
        own = apart(parameters, list(directions))
        size = sum(p.numel() for p in own.values()) * self.dtype.itemsize
        chunk = max(1, self.memory // (8 * max(size, 1)))
        slope = grad(lambda p: losses({**parameters, **p}).mean())
        with Composed():
            return vmap(lambda direction: jvp(slope, (own,), (direction,))[1], chunk_size=chunk)(directions)

    def products(self, batch: MicroBatch, k: int, parameters: Parameters, moving: list[str]) -> Products:
        r"""Makes the function that gives :math:`\langle s\psi_q, g_i\rangle` for directions and factors s.

        What all directions share is computed once, at the first call.

        Args:
            batch: The forward pass.
            k: Its step, whose buffers it saw.
            parameters: The parameters it saw.
            moving: The parameters that the directions have.
        """
        way = self._way(batch, k, parameters, moving)
        products = self._by(way)(batch, k, parameters, moving)
        if way != "samples" or not self._serves_few(batch, k, parameters, moving):
            return products
        few = self._by_batch(batch, k, parameters, moving)
        many = False

        def by_count(directions: Parameters, scales: dict[str, float]) -> Tensor:
            nonlocal many
            # Once the gradients of the samples are there, further directions cost a product.
            many = many or len(next(iter(directions.values()))) > FEW
            return (products if many else few)(directions, scales)

        return by_count

    def _serves_few(self, batch: MicroBatch, k: int, parameters: Parameters, moving: list[str]) -> bool:
        """Whether a directional derivative of the whole batch gives the same numbers, which is cheap for a few."""
        kind = self._kind(batch, moving)
        if kind not in self._few:
            beside = perturbed(parameters, moving)
            directions = {name: rows.unsqueeze(0) for name, rows in noise(parameters, moving).items()}
            truth = self._by("samples")(batch, k, beside, moving)(directions, dict.fromkeys(moving, 1.0))
            self._few[kind] = bool(torch.isfinite(truth).all()) and self._disagreement(
                "batch", batch, k, beside, directions, truth) is None
        return self._few[kind]

    def _kind(self, batch: MicroBatch, moving: list[str]) -> Kind:
        return batch.training, batch.random is not None, len(batch.columns) > 1, tuple(moving)

    def _way(self, batch: MicroBatch, k: int, parameters: Parameters, moving: list[str]) -> str:
        kind = self._kind(batch, moving)
        if kind not in self._ways:
            self._ways[kind] = self._find_way(batch, k, parameters, moving)
        return self._ways[kind]

    def _by(self, way: str) -> Callable[[MicroBatch, int, Parameters, list[str]], Products]:
        if way in ("layers", "samples"):
            return partial(self._by_rows, self._layer_rows if way == "layers" else self._transformed_rows)
        return self._by_batch if way == "batch" else self._by_loop

    def _find_way(self, batch: MicroBatch, k: int, parameters: Parameters, moving: list[str]) -> str:
        """The first way that agrees with plain automatic differentiation on a real batch of the kind."""
        directions = {name: rows.unsqueeze(0) for name, rows in noise(parameters, moving).items()}
        beside = perturbed(parameters, moving)
        # Two samples may have the same random numbers by chance; all of a batch do not.
        most = 2 if batch.random is None else None
        truth = self._by_loop(batch, k, beside, moving, most)(directions, dict.fromkeys(moving, 1.0))
        if not bool(torch.isfinite(truth).all()):
            beside = parameters
            truth = self._by_loop(batch, k, beside, moving, most)(directions, dict.fromkeys(moving, 1.0))
        coupled = self.run.network.couples(batch.training) or batch.random is not None
        # What one part of a sample adds is told by derivatives alone: its gradient has no factors of its own.
        ways = list(WAYS[2:] if coupled or self.parts else WAYS)
        few = batch if most is None else _first(batch, most)
        for way in ways[:-1]:
            # Gradients of samples are those of each alone, so the first ones tell; of others none is made.
            problem = self._disagreement(way, few if way in WAYS[:2] else batch, k, beside, directions, truth)
            if way == "layers" and problem is None and not self._layers[batch.training, tuple(moving)].by_uses:
                problem = WITHOUT_FACTORS
            if problem is None:
                return way
            self._notes[f"not by {way}: {problem}"] = None
        return ways[-1]

    def _disagreement(self, way: str, batch: MicroBatch, k: int, parameters: Parameters, directions: Parameters,
                      truth: Tensor) -> str | None:
        try:
            products = self._by(way)(batch, k, parameters, list(directions))
            found = products(directions, dict.fromkeys(directions, 1.0))[:, :truth.shape[1]]
        except (ModelError, *MISFITS) as error:
            return str(error).strip().splitlines()[0][:160]
        gap = largest_of(found - truth)
        limit = AGREEMENT[self.dtype] * max(float(truth.abs().max()), torch.finfo(self.dtype).tiny)
        return None if gap <= limit else "the samples of a batch depend on each other"

    def losses(self, batch: MicroBatch, k: int) -> Callable[[Parameters], Tensor]:
        """The losses of a recorded forward pass as a function of the parameters."""
        inputs, targets = self.to(batch_tensors(self.run, batch))
        buffers = self.to(self.run.buffers(k))
        return lambda parameters: self._per_sample(parameters, buffers, inputs, targets, batch.training)

    def own_mean(self, batch: MicroBatch, k: int, parameters: Parameters) -> float:
        """The mean of a forward pass as the recorded loss takes it, over the mean of its samples' losses."""
        inputs, targets = self.to(batch_tensors(self.run, batch))
        with torch.no_grad(), random_state(batch.random, self.device):
            outputs = self.run.network(parameters, self.to(self.run.buffers(k)), inputs, batch.training)
            each = per_sample_losses(self.run.loss, outputs, targets, len(targets))
            return float(self.run.loss.mean(outputs, targets).double() / each.double().mean())

    def _terms(self, batch: MicroBatch, k: int) -> Callable[[Parameters], Tensor]:
        """The terms of the loss that directions meet: those of samples, or of the parts of each."""
        if not self.parts:
            return self.losses(batch, k)
        inputs, targets = self.to(batch_tensors(self.run, batch))
        buffers = self.to(self.run.buffers(k))

        def terms(parameters: Parameters) -> Tensor:
            outputs = self.run.network(parameters, buffers, inputs, batch.training)
            return per_part_losses(self.run.loss, outputs, targets, len(targets)).flatten()

        return terms

    def _per_sample(self, parameters: Parameters, buffers: Parameters, inputs: tuple[Tensor, ...], targets: Tensor,
                    training: tuple[str, ...]) -> Tensor:
        outputs = self.run.network(parameters, buffers, inputs, training)
        return per_sample_losses(self.run.loss, outputs, targets, len(targets))

    def _by_rows(self, rows_of: Callable[..., Parameters], batch: MicroBatch, k: int, parameters: Parameters,
                 moving: list[str]) -> Products:
        inputs, targets = self.to(batch_tensors(self.run, batch))
        buffers = self.to(self.run.buffers(k))
        size = sum(parameters[name].numel() for name in moving) * self.dtype.itemsize
        block = max(1, min(len(targets), self.memory // (2 * self.together * max(size, 1))))
        kept: list[Parameters] = []
        if rows_of == self._layer_rows and block < len(targets):
            # Rows that do not fit would be made again for every direction: their factors meet it as they are.
            factors = self._factors(batch, parameters, buffers, inputs, targets, moving)
            if factors is not None:
                return partial(_meet, factors)

        def rows(start: int) -> Parameters:
            part = slice(start, start + block)
            return rows_of(batch, parameters, buffers, tuple(x[part] for x in inputs), targets[part], moving)

        def products(directions: Parameters, scales: dict[str, float]) -> Tensor:
            if block >= len(targets):
                if not kept:
                    kept.append(rows(0))
                return _pair(directions, kept[0], scales)
            return torch.cat([_pair(directions, rows(start), scales) for start in range(0, len(targets), block)], 1)

        return products

    def _factors(self, batch: MicroBatch, parameters: Parameters, buffers: Parameters, inputs: tuple[Tensor, ...],
                 targets: Tensor, moving: list[str]) -> Gradients | None:
        """The gradients of the samples by their factors, where that way is known to be one."""
        key = batch.training, tuple(moving)
        if key not in self._layers:
            return None
        try:
            return self._layers[key].at(self._function(batch, parameters, buffers))(Batch(inputs, {}, targets))
        except ModelError:
            return None

    def _function(self, batch: MicroBatch, parameters: Parameters, buffers: Parameters) -> Function:
        losses = lambda outputs, side: per_sample_losses(self.run.loss, outputs, side, len(side)).unsqueeze(1)
        return Function(self.run.network, parameters, buffers, losses, batch.training)

    def _layer_rows(self, batch: MicroBatch, parameters: Parameters, buffers: Parameters, inputs: tuple[Tensor, ...],
                    targets: Tensor, moving: list[str]) -> Parameters:
        function = self._function(batch, parameters, buffers)
        key = batch.training, tuple(moving)
        samples = Batch(inputs, {}, targets)
        if key in self._layers:
            rows = self._layers[key].at(function).rows_anyway(samples)
        else:
            # The first batch decides whether this is the way.
            self._layers[key] = ModuleGradients(function, moving)
            rows = self._layers[key].rows(samples)
        return {name: found.flatten(0, 1) for name, found in rows.items()}

    def _transformed_rows(self, batch: MicroBatch, parameters: Parameters, buffers: Parameters,
                          inputs: tuple[Tensor, ...], targets: Tensor, moving: list[str]) -> Parameters:
        def loss(own: Parameters, x: tuple[Tensor, ...], y: Tensor) -> Tensor:
            one = tuple(t.unsqueeze(0) for t in x)
            return self._per_sample({**parameters, **own}, buffers, one, y.unsqueeze(0), batch.training).sum()

        own = {name: parameters[name] for name in moving}
        return vmap(grad(loss), in_dims=(None, 0, 0))(own, inputs, targets)

    def _by_batch(self, batch: MicroBatch, k: int, parameters: Parameters, moving: list[str]) -> Products:
        losses = self._terms(batch, k)
        own = apart(parameters, moving)

        def derivative(direction: Parameters) -> tuple[Tensor, Tensor]:
            # Of some parameters that move no share may be asked.
            asked = {name: own[name] for name in direction}
            primal, tangent = jvp(lambda p: losses({**parameters, **p}), (asked,), (direction,))[:2]
            return primal, tangent

        def products(directions: Parameters, scales: dict[str, float]) -> Tensor:
            count = len(next(iter(directions.values())))
            # Every layer's tangents are held at once; activations are taken to be no larger than the parameters.
            size = sum(p.numel() for p in parameters.values()) * self.dtype.itemsize
            block = max(1, min(count, self.memory // (4 * max(size, 1))))
            parts = []
            for start in range(0, count, block):
                some = {name: _scaled(rows[start:start + block], scales[name]) for name, rows in directions.items()}
                # The same random numbers for every direction: the masks are those of the recorded pass.
                with random_state(batch.random, self.device):
                    found, tangents = vmap(derivative, randomness="same")(some)
                if batch.random is not None and not self._as_drawn(batch, losses, parameters, found[0]):
                    return self._by_loop(batch, k, parameters, moving)(directions, scales)
                parts.append(tangents)
            return torch.cat(parts)

        return products

    def _as_drawn(self, batch: MicroBatch, losses: Callable[[Parameters], Tensor], parameters: Parameters,
                  found: Tensor) -> bool:
        """Whether transformed losses met the random numbers of the recorded pass, which some operations draw anew."""
        with torch.no_grad(), random_state(batch.random, self.device):
            plain = losses(parameters)
        return bool(torch.allclose(found, plain, rtol=AGREEMENT[self.dtype], atol=AGREEMENT[self.dtype]))

    def _by_loop(self, batch: MicroBatch, k: int, parameters: Parameters, moving: list[str],
                 most: int | None = None) -> Products:
        leaves = {name: parameters[name].detach().requires_grad_() for name in moving}
        with torch.enable_grad(), random_state(batch.random, self.device):
            losses = self._terms(batch, k)({**parameters, **leaves}).unbind()

        def products(directions: Parameters, scales: dict[str, float]) -> Tensor:
            def column(loss: Tensor) -> Tensor:
                row = gradients_of(loss, leaves, retain_graph=True)
                filled = {name: (torch.zeros_like(p) if g is None else g).unsqueeze(0)
                          for (name, p), g in zip(leaves.items(), row, strict=True)}
                return _pair(directions, filled, scales)

            # Of all samples' gradients one is held at a time.
            return torch.cat([column(loss) for loss in losses[:most]], dim=1)

        return products


def _first(batch: MicroBatch, count: int) -> MicroBatch:
    """The first samples of a forward pass, as a pass of their own."""
    drawn = None if batch.drawn is None else tuple(t[:count] for t in batch.drawn)
    return replace(batch, columns=batch.columns[:count], drawn=drawn)


def _scaled(rows: Tensor, scale: float) -> Tensor:
    return rows if scale == 1.0 else rows * scale


def rows_of(values: Tensor) -> Tensor:
    """Values with shape (n, *) as a matrix, a scalar parameter's as one column; in place where that is possible."""
    return values.reshape(len(values), values.shape[1:].numel())


def _pair(directions: Parameters, gradients: Parameters, scales: dict[str, float]) -> Tensor:
    """The inner products of rows of directions with rows of gradients; factors go to the gradients, the fewer rows."""
    total: Tensor | None = None
    for name, rows in directions.items():
        few, many = _scaled(rows_of(gradients[name]), scales[name]), rows_of(rows).T
        # In double precision the product is a third faster with the fewer rows on the left.
        total = few @ many if total is None else total.addmm_(few, many)
    assert total is not None
    return total.T


def _meet(gradients: Gradients, directions: Parameters, scales: dict[str, float]) -> Tensor:
    """The inner products of rows of directions with gradients that are known by their factors."""
    count = len(next(iter(directions.values())))
    total = gradients.values.new_zeros(count, len(gradients.values))
    for piece, factor in gradients.factors.items():
        if piece.name in directions:
            met = factor.meet(rows_of(directions[piece.name])[:, piece.start:piece.stop])
            total.add_(met[:, 0].T, alpha=scales[piece.name])
    return total


def noise(parameters: Parameters, names: list[str], seed: int = 0) -> Parameters:
    """Normal numbers shaped like the parameters named, the same at every call."""
    return dict(_noises(parameters, names, seed))


def _noises(parameters: Parameters, names: list[str], seed: int = 0) -> Iterator[tuple[str, Tensor]]:
    """The same, one parameter after the other."""
    generator = torch.Generator().manual_seed(seed)
    for name in names:
        yield name, torch.randn(parameters[name].shape, generator=generator).to(parameters[name])


def perturbed(parameters: Parameters, names: list[str]) -> Parameters:
    """Parameters a little beside the given ones, where a branch that begins at nought shows."""
    # In place, so that of large parameters there is one copy, and one tensor of noise at a time.
    return parameters | {name: parameters[name].abs().add_(1).mul_(0.01).mul_(step).add_(parameters[name])
                         for name, step in _noises(parameters, names)}
