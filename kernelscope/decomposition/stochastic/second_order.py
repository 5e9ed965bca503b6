r"""The query side to second order: gradients :math:`\phi`, and what the Hessians H of the outputs make of directions.

No Hessian is formed. :math:`Hd` comes with :math:`\phi` from one forward-over-reverse pass, and :math:`u^THv` from two
forward passes for all outputs at once.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.func import jacrev, jvp, vmap

from ...composed import Composed
from ...errors import ModelError
from ...network import MISFITS, Parameters, apart, cast
from ..differences import check_bends
from ..query_side import QuerySide
from ..training_side import noise, perturbed, rows_of
from .derivatives import Outputs, along, bend

#: Modules whose outputs have kinks: their second derivative is nought where it exists, and what it lacks is no noise.
KINKS = (nn.ReLU, nn.ReLU6, nn.LeakyReLU, nn.PReLU, nn.RReLU, nn.Hardtanh, nn.Hardsigmoid, nn.Threshold, nn.MaxPool1d,
         nn.MaxPool2d, nn.MaxPool3d, nn.AdaptiveMaxPool1d, nn.AdaptiveMaxPool2d, nn.Softshrink, nn.Hardshrink)

#: What is said of them.
KINKED = (
    "The network has kinks ({kind}). Second derivatives are taken between them, and what the noise does at them is not "
    "in the curvature and noise terms."
)

#: What to do without second derivatives.
FIRST_ORDER = "Pass order=1 for the first-order term alone."


class SecondOrder:
    """Derivatives of the explained outputs of some queries.

    Args:
        side: The queries.
        names: The parameters to differentiate by.
    """

    def __init__(self, side: QuerySide, names: list[str]):
        self.side, self.names = side, names

    def _own(self, theta: Parameters) -> Parameters:
        return apart(theta, self.names)

    def rows(self, theta: Parameters, buffers: Parameters, d: Parameters) -> tuple[Parameters, Parameters]:
        r""":math:`\phi` and :math:`Hd`, for each parameter with shape (q c, *)."""
        side = self.side.functional.side

        def explained(moving: Parameters, x: tuple[Tensor, ...], beside: Tensor | None) -> Tensor:
            raw = self.side.network({**theta, **moving}, buffers, tuple(t.unsqueeze(0) for t in x))
            return self.side.functional(raw, None if beside is None else beside.unsqueeze(0)).squeeze(0)

        def gradients(moving: Parameters) -> Parameters:
            each = vmap(jacrev(explained), in_dims=(None, 0, None if side is None else 0))
            with Composed():
                return each(moving, self.side.inputs, side)

        phi, bent = jvp(gradients, (self._own(theta),), ({name: d[name] for name in self.names},))[:2]
        return ({name: phi[name].flatten(0, 1) for name in self.names},
                {name: bent[name].flatten(0, 1) for name in self.names})

    def along(self, theta: Parameters, buffers: Parameters, d: Parameters) -> Tensor:
        r""":math:`\langle\phi, d\rangle` for each output, with shape (q c,)."""
        return along(self._outputs(theta, buffers), self._own(theta), {name: d[name] for name in self.names})

    def bends(self, theta: Parameters, buffers: Parameters, us: Parameters, vs: Parameters | None = None,
              chunk: int | None = None) -> Tensor:
        r""":math:`u_i^T H v_i` for rows of directions, with shape (m, q c); v is u where it is left out."""
        f, own = self._outputs(theta, buffers), self._own(theta)
        if vs is None:
            return vmap(lambda u: bend(f, own, u, u), chunk_size=chunk)(us)
        return vmap(lambda u, v: bend(f, own, u, v), chunk_size=chunk)(us, vs)

    def difference(self, theta: Parameters, buffers: Parameters, d: Parameters, step: float) -> Tensor:
        r""":math:`d^T H d` by a central difference of three outputs, with shape (q c,)."""
        f = self._outputs(theta, buffers)
        at = lambda h: f({name: theta[name] + h * d[name] for name in self.names})
        return (at(step) + at(-step) - 2 * at(0.0)) / step**2

    def _outputs(self, theta: Parameters, buffers: Parameters) -> Outputs:
        def f(own: Parameters) -> Tensor:
            raw = self.side.network({**theta, **own}, buffers, self.side.inputs)
            return self.side.functional(raw, self.side.functional.side).flatten()

        return f

    def probe(self, theta: Parameters, buffers: Parameters, instead: str = FIRST_ORDER) -> None:
        """Checks that the network can be differentiated twice, by another automatic way and by differences.

        Args:
            theta: The parameters.
            buffers: The buffers.
            instead: What to do without second derivatives, as a sentence.

        Raises:
            ModelError: If it cannot.
        """
        two = SecondOrder(self.side.part(slice(0, 2)), self.names)
        # A direction that moves all numbers alike is one that a normalisation does not see.
        d = noise(theta, self.names)
        try:
            phi, bent = two.rows(theta, buffers, d)
            twice = two.bends(theta, buffers, {name: t[None] for name, t in d.items()})[0]
        except MISFITS as error:
            raise ModelError(
                "The second-order terms need a network that torch.func can differentiate twice, and this one it "
                f"cannot ({str(error).strip().splitlines()[0][:160]}). {instead}"
            ) from error
        plain = two.side.gradients(theta, buffers)
        scale = max(float(t.abs().max()) for t in plain)
        apart = max(float((phi[name] - g).abs().max()) for name, g in zip(two.side.names, plain, strict=True)
                    if name in phi)
        folded = sum(rows_of(bent[name]) @ d[name].flatten() for name in self.names)
        coarse = torch.finfo(twice.dtype).eps ** 0.5
        if apart > coarse * scale or float((folded - twice).abs().max()) > coarse * (1 + float(twice.abs().max())):
            raise ModelError(
                "Two ways to differentiate this network do not agree, so its second derivatives cannot be trusted: an "
                f"operation in it has a derivative of its own that is not that of its values. {instead}"
            )
        self.check(theta, buffers, instead)

    def check(self, theta: Parameters, buffers: Parameters, instead: str = FIRST_ORDER) -> None:
        """Compares the second derivatives of two queries with differences of their gradients.

        Raises:
            ModelError: If they differ.
        """
        side = self.side.part(slice(0, 2))
        # At the parameters themselves a branch that begins at nought would be taken for a difference.
        at, beside = (cast(t, torch.float64, side.inputs[0].device) for t in (perturbed(theta, self.names), buffers))
        side.inputs = cast(side.inputs, torch.float64, side.inputs[0].device)
        side.functional = side.functional.to(torch.float64)
        outputs = SecondOrder(side, self.names)._outputs(at, beside)

        def mixed(own: Parameters) -> Tensor:
            found = outputs(own)
            return found @ noise({"mix": found}, ["mix"])["mix"]

        check_bends(mixed, apart(at, self.names), "the outputs", instead)

    def note(self) -> str:
        """What a reader should know of the network's second derivatives."""
        modules = self.side.network.module(()).modules()
        kind = next((type(module).__name__ for module in modules if isinstance(module, KINKS)), None)
        return KINKED.format(kind=kind) if kind else ""
