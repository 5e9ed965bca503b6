r"""Products of the Hessian of a recorded batch's mean loss with many directions at once.

By forward derivatives of the gradient, which all directions share, or by plain automatic differentiation twice, one
direction at a time, for modules that ``torch.func`` cannot transform. On the first batch of each kind the one is
compared with the other, and that with differences of the gradient itself: a gradient that was cut off from part of
what it depends on, by ``detach``, has another derivative than automatic differentiation tells.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.func import grad, jvp, vmap

from ...composed import Composed
from ...errors import ModelError
from ...network import MISFITS, Parameters, apart, gradients_of, random_state
from ...run.step import MicroBatch
from ..differences import CUT, inner, missed
from ..training_side import AGREEMENT, TrainingSide, noise, perturbed

#: About how many bytes the derivatives of a batch fill at once: few enough to stay near the core.
CHUNK = 2**25

#: What is done where the gradients' derivative is not known.
INSTEAD = (
    "Then the influence through training is not known. Leave them out of what is trained, or use "
    'influence(..., method="gauss-newton").'
)


class Bending:
    """Hessians of recorded batches.

    Args:
        side: The training side.
        names: The parameters to differentiate by.
        memory: About how many bytes a block of directions may fill.
    """

    def __init__(self, side: TrainingSide, names: list[str], memory: int):
        self.side, self.names, self.memory = side, names, memory
        self.notes: dict[str, None] = {}
        self._ways: dict[tuple[tuple[str, ...], bool, bool], tuple[bool, int]] = {}

    def __call__(self, batch: MicroBatch, k: int, parameters: Parameters, directions: Parameters) -> Parameters:
        """The products with rows of directions, each with shape (R, *); parameters without a direction have nought."""
        count = len(next(iter(directions.values())))
        rows = {name: directions[name] if name in directions else
                parameters[name].new_zeros(count, *parameters[name].shape) for name in self.names}
        kind = batch.training, batch.random is not None, len(batch.columns) > 1
        if kind not in self._ways:
            self._ways[kind] = self._find(batch, k, parameters)
        transformed, each = self._ways[kind]
        if not transformed:
            return self._twice(batch, k, parameters, rows)[0]
        chunk = max(1, min(self.memory, CHUNK) // max(each, 1))
        parts = [self._forward(batch, k, parameters, {name: t[start:start + chunk] for name, t in rows.items()})
                 for start in range(0, count, chunk)]
        return {name: torch.cat([part[name] for part in parts]) for name in self.names}

    def _find(self, batch: MicroBatch, k: int, parameters: Parameters) -> tuple[bool, int]:
        """Whether forward derivatives agree with plain ones; and about how many bytes a direction needs."""
        beside = perturbed(parameters, self.names)
        rows = {name: t.unsqueeze(0) for name, t in noise(parameters, self.names).items()}
        truth, held = self._twice(batch, k, beside, rows)
        self._check(batch, k, beside, rows, truth)
        each = 2 * held + 4 * sum(t.numel() * t.element_size() for t in truth.values())
        try:
            found = self._forward(batch, k, beside, rows)
        except (ModelError, *MISFITS) as error:
            self.notes[f"curvature one direction at a time: {str(error).strip().splitlines()[0][:160]}"] = None
            return False, each
        size = max(float(t.abs().max()) for t in truth.values() if t.numel())
        apart_by = max(float((found[name] - t).abs().max()) for name, t in truth.items() if t.numel())
        if not apart_by <= AGREEMENT[self.side.dtype] * max(size, torch.finfo(self.side.dtype).tiny):
            self.notes["curvature one direction at a time: its forward derivative is another"] = None
            return False, each
        return True, each

    def _check(self, batch: MicroBatch, k: int, parameters: Parameters, rows: Parameters, bent: Parameters) -> None:
        """Whether the products are those of differences of the gradient, along a direction of their own.

        Raises:
            ModelError: If they are not.
        """
        if self.side.dtype != torch.float64 or not rows:
            return
        own = apart(parameters, self.names)
        along = noise(parameters, self.names, seed=1)
        found = float(inner(bent, along))
        here = self._gradient(batch, k, parameters)
        size, direction, length = (float(inner(t, t)) ** 0.5 for t in (bent, rows, here))

        def slope(step: float) -> float:
            moved = {name: p + step * along[name] for name, p in own.items()}
            return float(inner(self._gradient(batch, k, {**parameters, **moved}), rows))

        truth = missed(found, slope, size, length * direction)
        if truth is not None:
            raise ModelError(CUT.format(what="the recorded losses", found=found, truth=truth, instead=INSTEAD))

    def _gradient(self, batch: MicroBatch, k: int, parameters: Parameters) -> Parameters:
        """The gradient of the mean loss, as training computes it."""
        leaves = {name: parameters[name].detach().requires_grad_() for name in self.names}
        with torch.enable_grad(), random_state(batch.random, self.side.device):
            found = gradients_of(self.side.losses(batch, k)({**parameters, **leaves}).mean(), leaves)
        return {name: torch.zeros_like(p) if g is None else g
                for (name, p), g in zip(leaves.items(), found, strict=True)}

    def _forward(self, batch: MicroBatch, k: int, parameters: Parameters, rows: Parameters) -> Parameters:
        losses = self.side.losses(batch, k)
        own = apart(parameters, self.names)
        slope = grad(lambda p: losses({**parameters, **p}).mean())
        # The same random numbers for every direction: the masks are those of the recorded pass.
        with Composed(), random_state(batch.random, self.side.device):
            return vmap(lambda row: jvp(slope, (own,), (row,))[1], randomness="same")(rows)

    def _twice(self, batch: MicroBatch, k: int, parameters: Parameters, rows: Parameters) -> tuple[Parameters, int]:
        """The products by differentiating twice, and how many bytes the first derivative kept."""
        held = 0

        def kept(t: Tensor) -> Tensor:
            nonlocal held
            held += t.numel() * t.element_size()
            return t

        leaves = {name: parameters[name].detach().requires_grad_() for name in self.names}
        with torch.enable_grad(), Composed(), random_state(batch.random, self.side.device):
            with torch.autograd.graph.saved_tensors_hooks(kept, lambda t: t):
                mean = self.side.losses(batch, k)({**parameters, **leaves}).mean()
            first = torch.autograd.grad(mean, list(leaves.values()), create_graph=True, allow_unused=True)
            bent: dict[str, list[Tensor]] = {name: [] for name in self.names}
            reached = [(g, name) for g, name in zip(first, self.names, strict=True)
                       if g is not None and g.requires_grad]
            for r in range(len(next(iter(rows.values())))):
                # The first is there where no gradient depends on the parameters.
                met = torch.stack([mean.new_zeros(()), *((g * rows[name][r]).sum() for g, name in reached)]).sum()
                found = gradients_of(met, leaves, retain_graph=True)
                for (name, p), g in zip(leaves.items(), found, strict=True):
                    bent[name].append(torch.zeros_like(p) if g is None else g)
        return {name: torch.stack(parts).detach() for name, parts in bent.items()}, held
