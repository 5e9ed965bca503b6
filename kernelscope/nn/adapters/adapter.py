r"""A small trainable layer beside a frozen one, linear in what is trained.

.. math:: x \mapsto x + \Psi \Phi(x) + b, \qquad \Phi(x) = \sqrt{2/m}\, \max(0, G x)

The m directions G are random and stay as they were drawn; :math:`\Psi` and b are trained, :math:`d (m + 1)` numbers in
place of the :math:`2 d r + r + d` of an adapter with r hidden neurons. They begin at nought, so that a network with
adapters begins as the network that it was.

References:
    | Scalable Neural Network Kernels (Sehanobish et al., 2024)
    | Parameter-Efficient Transfer Learning for NLP (Houlsby et al., 2019)
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ...arguments import as_choice, as_count, as_seed, what_came
from ...errors import DataError, ModelError
from ...features.arc_cosine import rectified
from ...features.directions import KINDS, directions

#: What the d numbers beside Psi do: they are added, or they scale what Psi gives, channel by channel.
FORMS = ("added", "scaled")

#: The standard deviation of Psi's first entries where a scale of nought silences it.
SPREAD = 0.02


class SNNKAdapter(nn.Module):
    r"""An adapter whose inputs meet its parameters in one product, :math:`x + \Psi \Phi(x) + b`.

    Before it is trained it gives back its input, bit for bit. Random numbers come from a generator of its own, and
    computing draws none.

    Args:
        d: The numbers of each input, on its last axis.
        features: The number m of random features.
        kind: How directions are drawn, as for :func:`~kernelscope.features.directions.directions`.
        seed: Which ones.
        form: ``"added"`` as above, linear in what is trained; or ``"scaled"`` for
            :math:`x + s \odot \Psi \Phi(x)` with as many numbers, s nought at first and :math:`\Psi` random.
        device: Where its tensors lie.
        dtype: Their type; torch's default one if left out.

    Attributes:
        directions: G, with shape (m, d), a buffer: it is kept and moved with the parameters.
        psi: :math:`\Psi`, with shape (d, m).
        vector: b or s, with shape (d,).

    Raises:
        DataError: If an argument is not what it must be.

    References:
        | Scalable Neural Network Kernels (Sehanobish et al., 2024)

    Example:
        >>> adapter = SNNKAdapter(64, features=8)
        >>> adapter
        SNNKAdapter(64, features=8, form='added', 576 trainable parameters)
        >>> x = torch.randn(2, 5, 64)
        >>> torch.equal(adapter(x), x)
        True
    """

    directions: Tensor

    def __init__(
        self,
        d: int,
        features: int = 8,
        *,
        kind: str = "orthogonal",
        seed: int = 0,
        form: str = "added",
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ):
        super().__init__()
        self.d, self.features = as_count(d, "d", 1), as_count(features, "features", 1)
        self.kind, self.seed, self.form = as_choice(kind, "kind", KINDS), as_seed(seed), as_choice(form, "form", FORMS)
        dtype = torch.get_default_dtype() if dtype is None else dtype
        if not dtype.is_floating_point:
            raise DataError(f"An adapter computes with real numbers; dtype={dtype} came. Pass for example "
                            "dtype=torch.float32.")
        draw = torch.Generator().manual_seed(self.seed)
        rows = directions(self.features, self.d, self.kind, draw)
        psi = torch.zeros(self.d, self.features, dtype=torch.float64)
        if self.form == "scaled":
            # At nought as its scale is, it would have no gradient, and neither would the scale.
            psi = SPREAD * torch.randn(self.d, self.features, generator=draw, dtype=torch.float64)
        self.register_buffer("directions", rows.to(device=device, dtype=dtype))
        self.psi = nn.Parameter(psi.to(device=device, dtype=dtype))
        self.vector = nn.Parameter(torch.zeros(self.d, device=device, dtype=dtype))

    def phi(self, x: Tensor) -> Tensor:
        r"""The features :math:`\Phi(x)`, with shape (*, m) for inputs with shape (*, d).

        Raises:
            DataError: If the inputs have another number of entries on their last axis.
        """
        if not isinstance(x, Tensor) or x.ndim == 0 or x.shape[-1] != self.d:
            came = f"a tensor with shape {tuple(x.shape)}" if isinstance(x, Tensor) else what_came(x)
            raise DataError(f"This adapter takes tensors whose last axis has {self.d} entries; {came} came. Make one "
                            "for this layer with SNNKAdapter(d=..., features=...).")
        return rectified(F.linear(x, self.directions)) * math.sqrt(2 / self.features)

    def forward(self, x: Tensor) -> Tensor:
        if self.form == "scaled":
            return x + self.vector * F.linear(self.phi(x), self.psi)
        return x + F.linear(self.phi(x), self.psi, self.vector)

    def merge(self) -> None:
        """Refuses: an adapter of this kind is no part of a weight matrix.

        Raises:
            ModelError: Always, with the reason.
        """
        raise merging_refused()

    def extra_repr(self) -> str:
        count = self.psi.numel() + self.vector.numel()
        return f"{self.d}, features={self.features}, form={self.form!r}, {count:,} trainable parameters"


def merging_refused() -> ModelError:
    """Why adapters are not merged into the weights beside them."""
    return ModelError(
        "These adapters cannot be merged into the weights beside them: what they add is not linear in their input, so "
        "that no matrix does the same. Keep the layer, which costs 2 m d products for each input, or use an adapter "
        "that is linear, such as LoRA."
    )
