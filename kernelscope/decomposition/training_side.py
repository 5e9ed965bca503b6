r"""The training side of a step kernel: how each sample's loss gradient meets a test direction.

For directions :math:`\psi_q` the shares need :math:`\langle\psi_q, g_i\rangle`, with :math:`g_i` the gradient of the
i-th loss term at the parameters the forward pass saw. There are three exact ways, and all give the same numbers:

- ``samples``: per-sample gradients by ``vmap(grad)``, then one matrix product;
- ``batch``: a directional derivative of all losses of the batch at once, which also holds where the samples of a batch
  meet each other (batch normalisation) or share random numbers (dropout);
- ``loop``: plain automatic differentiation, one loss at a time, for modules that ``torch.func`` cannot transform.

A probe on the first batch compares each with the last, and takes the first that agrees.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.func import grad, jvp, vmap

from ..network import Parameters, cast, per_sample_losses, random_state
from ..run.replay import batch_tensors
from ..run.run import Run
from ..run.step import MicroBatch


#: The ways, in the order in which they are tried.
WAYS = ("samples", "batch", "loop")

#: How closely a way must meet plain automatic differentiation, relative.
AGREEMENT = {torch.float64: 1e-8, torch.float32: 1e-3}


Way = Callable[[MicroBatch, int, Parameters, Parameters, dict[str, float]], Tensor]


class TrainingSide:
    """Loss gradients of recorded batches, in the precision of the ledger.

    Args:
        run: The run.
        dtype: The precision of the ledger.
        device: Where to compute.
        memory: About how many bytes a block may fill.
    """

    def __init__(self, run: Run, dtype: torch.dtype, device: torch.device, memory: int):
        self.run = run
        self.dtype = dtype
        self.device = device
        self.memory = memory
        self.way = "samples"
        self.note = ""

    def to(self, value: Any) -> Any:
        """Moves tensors to the ledger's precision and device."""
        return cast(value, self.dtype, self.device)

    def mean_gradient(self, batch: MicroBatch, k: int, parameters: Parameters, moving: list[str]) -> list[Tensor]:
        """The gradient of the mean loss of a forward pass, for the parameters named."""
        leaves = {name: parameters[name].detach().requires_grad_() for name in moving}
        with torch.enable_grad(), random_state(batch.random, self.device):
            losses = self._losses(batch, k)({**parameters, **leaves})
            gradients = torch.autograd.grad(losses.mean(), list(leaves.values()), allow_unused=True)
        return [torch.zeros_like(p) if g is None else g for g, p in zip(gradients, leaves.values(), strict=True)]

    def products(self, batch: MicroBatch, k: int, parameters: Parameters, directions: Parameters,
                 scales: dict[str, float]) -> Tensor:
        r""":math:`\langle s\psi_q, g_i\rangle` for all directions and samples, with shape :math:`(Q, B)`.

        Args:
            batch: The forward pass.
            k: Its step, whose buffers it saw.
            parameters: The parameters it saw.
            directions: For each parameter the directions, with shape :math:`(Q, *)`.
            scales: A factor s for each parameter, applied where it costs least.
        """
        return self._by(self.way)(batch, k, parameters, directions, scales)

    def _by(self, way: str) -> Way:
        return {"samples": self._by_samples, "batch": self._by_batch, "loop": self._by_loop}[way]

    def probe(self, batch: MicroBatch, k: int, parameters: Parameters, moving: list[str]) -> None:
        """Finds the first way that agrees with plain automatic differentiation on a real batch."""
        generator = torch.Generator().manual_seed(0)
        directions = {name: self.to(torch.randn(2, *parameters[name].shape, generator=generator)) for name in moving}
        scales = dict.fromkeys(directions, 1.0)
        truth = self._by_loop(batch, k, parameters, directions, scales, most=2)
        coupled = self.run.network.couples(batch.training) or batch.random is not None
        notes: list[str] = []
        for way in WAYS[1:] if coupled else WAYS:
            if way == "loop":
                self.way, self.note = way, "; ".join(notes)
                return
            problem = self._disagreement(way, batch, k, parameters, directions, scales, truth)
            if problem is None:
                self.way, self.note = way, "; ".join(notes)
                return
            notes.append(f"not by {way}: {problem}")

    def _disagreement(self, way: str, batch: MicroBatch, k: int, parameters: Parameters, directions: Parameters,
                      scales: dict[str, float], truth: Tensor) -> str | None:
        try:
            found = self._by(way)(batch, k, parameters, directions, scales)[:, :truth.shape[1]]
        # torch.func reports what it cannot transform by these.
        except (RuntimeError, NotImplementedError, ValueError, TypeError) as error:
            return str(error).strip().splitlines()[0][:160]
        gap = float((found - truth).abs().max())
        limit = AGREEMENT[self.dtype] * max(float(truth.abs().max()), torch.finfo(self.dtype).tiny)
        return None if gap <= limit else "the samples of a batch depend on each other"

    def _losses(self, batch: MicroBatch, k: int) -> Callable[[Parameters], Tensor]:
        """The losses of a recorded forward pass as a function of the parameters."""
        inputs, targets = self.to(batch_tensors(self.run, batch))
        buffers = self.to(self.run.buffers(k))
        return lambda parameters: self._per_sample(parameters, buffers, inputs, targets, batch.training)

    def _per_sample(self, parameters: Parameters, buffers: Parameters, inputs: tuple[Tensor, ...], targets: Tensor,
                    training: tuple[str, ...]) -> Tensor:
        outputs = self.run.network(parameters, buffers, inputs, training)
        return per_sample_losses(self.run.loss, outputs, targets, len(targets))

    def _by_samples(self, batch: MicroBatch, k: int, parameters: Parameters, directions: Parameters,
                    scales: dict[str, float]) -> Tensor:
        inputs, targets = self.to(batch_tensors(self.run, batch))
        buffers = self.to(self.run.buffers(k))
        fixed = {name: p for name, p in parameters.items() if name not in directions}

        def loss(moving: Parameters, x: tuple[Tensor, ...], y: Tensor) -> Tensor:
            one = tuple(t.unsqueeze(0) for t in x)
            return self._per_sample({**fixed, **moving}, buffers, one, y.unsqueeze(0), batch.training).sum()

        gradients = vmap(grad(loss), in_dims=(None, 0, 0))
        moving = {name: parameters[name] for name in directions}
        size = sum(p.numel() for p in moving.values()) * self.dtype.itemsize
        block = max(1, min(len(targets), self.memory // (2 * max(size, 1))))
        parts = []
        for start in range(0, len(targets), block):
            rows = gradients(moving, tuple(x[start:start + block] for x in inputs), targets[start:start + block])
            parts.append(_pair(directions, {name: _scaled(g, scales[name]) for name, g in rows.items()}))
        return torch.cat(parts, dim=1)

    def _by_batch(self, batch: MicroBatch, k: int, parameters: Parameters, directions: Parameters,
                  scales: dict[str, float]) -> Tensor:
        losses = self._losses(batch, k)
        fixed = {name: p for name, p in parameters.items() if name not in directions}
        moving = {name: parameters[name] for name in directions}

        def derivative(direction: Parameters) -> Tensor:
            return jvp(lambda p: losses({**fixed, **p}), (moving,), (direction,))[1]

        count = len(next(iter(directions.values())))
        # Every layer's tangents are held at once; activations are taken to be no larger than the parameters.
        size = sum(p.numel() for p in parameters.values()) * self.dtype.itemsize
        block = max(1, min(count, self.memory // (4 * max(size, 1))))
        parts = []
        for start in range(0, count, block):
            some = {name: _scaled(rows[start:start + block], scales[name]) for name, rows in directions.items()}
            # The same random numbers for every direction: the masks are those of the recorded pass.
            with random_state(batch.random, self.device):
                parts.append(vmap(derivative, randomness="same")(some))
        return torch.cat(parts)

    def _by_loop(self, batch: MicroBatch, k: int, parameters: Parameters, directions: Parameters,
                 scales: dict[str, float], most: int | None = None) -> Tensor:
        leaves = {name: parameters[name].detach().requires_grad_() for name in directions}
        with torch.enable_grad(), random_state(batch.random, self.device):
            losses = self._losses(batch, k)({**parameters, **leaves}).unbind()
        columns = []
        for i in range(len(losses) if most is None else min(most, len(losses))):
            row = torch.autograd.grad(losses[i], list(leaves.values()), retain_graph=True, allow_unused=True)
            filled = {name: torch.zeros_like(p) if g is None else _scaled(g, scales[name])
                      for (name, p), g in zip(leaves.items(), row, strict=True)}
            columns.append(_pair(directions, {name: g.unsqueeze(0) for name, g in filled.items()}))
        return torch.cat(columns, dim=1)


def _scaled(rows: Tensor, scale: float) -> Tensor:
    return rows if scale == 1.0 else rows * scale


def _pair(directions: Parameters, gradients: Parameters) -> Tensor:
    """The inner products of rows of directions with rows of gradients."""
    total: Tensor | None = None
    for name, rows in directions.items():
        product = rows.flatten(1) @ gradients[name].flatten(1).T
        total = product if total is None else total.add_(product)
    assert total is not None
    return total
