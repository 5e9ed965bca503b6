r"""Layers that are kernels: inputs and parameters meet in one product only.

.. math:: f(Wx + b) \approx \Phi(x)\, \Psi^T + L x + c

A row of :math:`\Psi` stands for a neuron (w, b). The tower :math:`\Phi` is fixed, so the layer is linear in all that it
learns, and :math:`\Phi` with x and 1 beside it are the features of a kernel.

References:
    | Scalable Neural Network Kernels (Sehanobish et al., 2024)
"""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from ...arguments import as_choice, as_count, as_path, what_came
from ...errors import DataError, StoreCorrupt, StoreError
from ...features.base import FeatureMap
from ...features.directions import directions
from ...kernels.of_features import FeatureKernel
from ...machine.reading import digest_of
from ...storage import write_atomically
from ..towers import Neurons, Tower, Universal, Waves
from .activations import Activation, as_activation

if TYPE_CHECKING:
    from .report import ConversionReport

#: The towers that a layer may have.
TOWERS = ("fourier", "rectified", "neurons", "universal")

#: What the header of a saved layer calls itself.
FORMAT = "kernelscope layer 2"

#: The words that describe one.
WORDS = {"in_features", "out_features", "features", "tower", "activation", "skip", "inner"}


class SNNKLinear(nn.Module):
    r"""A linear map with a function after it, as products of features: :math:`\Phi(x)\,\Psi^T + Lx + c`.

    The coefficients :math:`\Psi`, the linear skip L and the constant c are parameters; rows of the tower are buffers.
    A new layer has random rows and small random coefficients; :meth:`from_linear` makes one of a trained layer.

    Args:
        in_features: The numbers d of an input.
        out_features: The numbers l of an output.
        features: How many features m.
        tower: ``"fourier"``, ``"rectified"``, ``"neurons"`` or ``"universal"``.
        activation: The function of a tower of neurons: a name, a module or a function.
        skip: Whether there is a linear skip; or its rank, which makes it the product of two thin matrices.
        inner: For a universal tower the numbers of an input after balancing; d if not given.
        seed: Which random numbers.
        kind: How rows are drawn, see ``features.directions``.

    Raises:
        DataError: If an argument is none that can be taken.

    References:
        | Scalable Neural Network Kernels (Sehanobish et al., 2024)

    Example:
        >>> layer = SNNKLinear(64, 128, features=32)
        >>> layer(torch.ones(5, 64)).shape
        torch.Size([5, 128])
        >>> layer
        SNNKLinear(64 -> 128, 32 neurons of gelu, linear skip, 12,416 parameters)
    """

    norms: Tensor
    skip_rows: Tensor

    def __init__(self, in_features: int, out_features: int, features: int = 64, *, tower: str = "neurons",
                 activation: Any = "gelu", skip: bool | int = True, inner: int | None = None, seed: int = 0,
                 kind: str = "orthogonal"):
        super().__init__()
        self.in_features, self.out_features = as_count(in_features, "in_features", 1), as_count(
            out_features, "out_features", 1)
        self.features = as_count(features, "features")
        self.tower_name = as_choice(tower, "tower", TOWERS)
        self.activation_name, function = as_activation(activation)
        self.skip_rank = as_rank(skip, self.in_features)
        self.inner = self.in_features if inner is None else as_count(inner, "inner", 1)
        self.tower = self._tower(function)
        self.coefficients = nn.Parameter(torch.zeros(self.out_features, self.tower.size))
        width = self.in_features if self.skip_rank is None else self.skip_rank
        self.skip = nn.Parameter(torch.zeros(self.out_features, width)) if width else None
        if self.skip_rank:
            self.register_buffer("skip_rows", torch.zeros(self.skip_rank, self.in_features))
        self.constant = nn.Parameter(torch.zeros(self.out_features))
        # Without points to look at, every input counts as seen.
        self.register_buffer("norms", torch.tensor([0.0, math.inf]))
        self._drawn(seed, kind)

    @classmethod
    def from_linear(cls, linear: nn.Module, activation: Any, x_calibration: Tensor, features: int = 64,
                    mode: str = "ridge", **options: Any) -> tuple[SNNKLinear, ConversionReport]:
        """Makes a layer of a trained one, and says how good it is: :func:`kernelscope.nn.convert` with the same words.

        Args:
            linear: The linear map: a ``torch.nn.Linear``, or a layer with ``weight`` with shape (l, d) and ``bias``.
            activation: The function after it: a name, a module or a function.
            x_calibration: Inputs to the layer, with shape (*, d).
            features: How many features m.
            mode: ``"ridge"``, ``"cur"``, ``"analytic"`` or ``"trainable"``.
            options: What else :func:`kernelscope.nn.convert` takes.

        Returns:
            The layer and its :class:`ConversionReport`.
        """
        # The one door that goes up: a layer is made by what converts.
        from .conversion import convert

        return convert(linear, activation, x_calibration, features, mode, **options)

    def forward(self, x: Tensor) -> Tensor:
        """The outputs at points with shape (*, d), with shape (*, l).

        Raises:
            DataError: If the points have another number of coordinates, or are complex.
        """
        if x.shape[-1:] != (self.in_features,) or x.is_complex():
            raise DataError(f"The layer takes real points of shape (*, {self.in_features}); {tuple(x.shape)} of "
                            f"{x.dtype} came. Look at the layer before it.")
        found = nn.functional.linear(self.tower(x), self.coefficients, self.constant)
        return found if self.skip is None else found + nn.functional.linear(self._skipped(x), self.skip)

    def outside(self, x: Tensor) -> Tensor:
        """Which points are longer or shorter than all that the layer was fitted to, with shape (*,)."""
        length = x.norm(dim=-1)
        # What was measured in other digits may be off by their round-off.
        slack = 8 * torch.finfo(length.dtype).eps
        low, high = self.norms.to(length) * torch.tensor([1 - slack, 1 + slack]).to(length)
        return (length < low) | (length > high)

    @property
    def feature_map(self) -> FeatureMap:
        r"""The features :math:`(\Phi(x), x, 1)` in which the layer is linear, as a map."""
        return LayerFeatures(self)

    @property
    def kernel(self) -> FeatureKernel:
        """The kernel whose machine the layer is: products of :attr:`feature_map`."""
        return FeatureKernel(self.feature_map)

    @property
    def multiplications(self) -> int:
        """How many multiplications an input takes; what was converted took d l."""
        d, l = self.in_features, self.out_features
        inner = self.tower.balance.numel() if isinstance(self.tower, Universal) else 0
        width = 0 if self.skip is None else self.skip.shape[1]
        return inner + self.tower.rows.numel() + l * (self.tower.size + width) + (self.skip_rank or 0) * d

    def extra_repr(self) -> str:
        of = f" of {self.activation_name or 'a function'}" if self.tower_name == "neurons" else " features"
        skip = {None: "linear skip", 0: "no skip"}.get(self.skip_rank, f"linear skip of rank {self.skip_rank}")
        count = sum(p.numel() for p in self.parameters())
        return (f"{self.in_features} -> {self.out_features}, {self.tower.size} {self.tower_name}{of}, {skip}, "
                f"{count:,} parameters")

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.extra_repr()})"

    def save(self, path: str | Path) -> Path:
        """Keeps the layer in one safetensors file, whose header says what is needed to build it, and a checksum.

        Raises:
            DataError: If the path is none.
        """
        from safetensors.torch import save

        place = as_path(path, "The file of a layer", '"layer.safetensors"')
        words = {"in_features": self.in_features, "out_features": self.out_features, "features": self.features,
                 "tower": self.tower_name, "activation": self.activation_name,
                 "skip": True if self.skip_rank is None else self.skip_rank, "inner": self.inner}
        held = {name: value.detach().cpu().contiguous() for name, value in self.state_dict().items()}
        said = json.dumps(words)
        header = {"format": FORMAT, "layer": said, "checksum": _checksum(said, held)}
        write_atomically(place, save(held, header))
        return place

    @classmethod
    def load(cls, path: str | Path, activation: Any = None) -> SNNKLinear:
        """Opens a saved layer; nothing is unpickled.

        Args:
            path: The file.
            activation: The function of a tower of neurons, where it was one of the user's own, which no file holds.

        Raises:
            StoreCorrupt: If the file is none of a layer, or its bytes are not those that were written.
            StoreError: If there is no such file.
            DataError: If the function is needed and did not come.
        """
        from safetensors import SafetensorError, safe_open

        place = as_path(path, "The file of a layer", '"layer.safetensors"')
        if place.exists() and not place.is_file():
            # A pipe would be waited at for ever.
            raise StoreError(f"{place} is a folder, a pipe or a device, and a layer is kept in a file. Pass the path "
                             'that .save gave back, for example "layer.safetensors".')
        try:
            with safe_open(str(place), "pt") as file:
                header = file.metadata() or {}
                held = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
            words = json.loads(header["layer"]) if header.get("format") == FORMAT else None
            if words is not None and set(words) != WORDS:
                raise ValueError(f"it is described by other words than {', '.join(sorted(WORDS))}")
        except OSError as error:
            raise StoreError(f"{place} cannot be read as a file ({error}). Pass the path that .save gave back, for "
                             'example "layer.safetensors".') from error
        except (SafetensorError, ValueError, KeyError, TypeError) as error:
            raise StoreCorrupt(f"{place} is no safetensors file of a layer ({error}). Save the layer again.") from error
        if words is None:
            raise StoreCorrupt(f"{place} holds no layer of this version (its format is {header.get('format')!r}, and "
                               f"{FORMAT!r} is needed). Save the layer again.")
        if header.get("checksum") != _checksum(header["layer"], held):
            raise StoreCorrupt(f"The checksum of {place} does not agree with its bytes: it was changed after it was "
                               "written. Save the layer again, or restore the file from a copy.")
        if words["activation"] is None and activation is None:
            raise DataError(f"The layer in {place} has a function of its user's own, which no file holds. Pass it: "
                            "SNNKLinear.load(path, activation=function).")
        own = as_activation(activation)[1] if words["activation"] is None else words["activation"]
        try:
            rows, wide = held["tower.rows"], held["coefficients"]
            # Before room is made for them: numbers in a header may be any.
            said = words["in_features"], words["inner"], words["out_features"]
            there = held.get("tower.balance", rows).shape[1], rows.shape[1], len(wide)
            if said != there or words["features"] - wide.shape[1] not in (0, 1):
                raise ValueError("its header and its tensors are of other sizes")
            layer = cls(**words | {"activation": own})
            layer.to(wide.dtype).load_state_dict(held)
        except (KeyError, IndexError, TypeError, ValueError, RuntimeError, DataError) as error:
            raise StoreCorrupt(f"{place} lacks a part of a layer, or has one too many ({error}). Save the layer "
                               "again.") from error
        return layer

    def _tower(self, function: Activation) -> Tower:
        d, m = self.in_features, self.features
        match self.tower_name:
            case "fourier":
                return Waves(m, d)
            case "rectified" | "neurons":
                chosen = torch.relu if self.tower_name == "rectified" else function
                return Neurons(torch.zeros(m, d), torch.zeros(m), chosen)
        return Universal(m, d, self.inner)

    def _skipped(self, x: Tensor) -> Tensor:
        return nn.functional.linear(x, self.skip_rows) if self.skip_rank else x

    @torch.no_grad()
    def _drawn(self, seed: int, kind: str) -> None:
        """Random rows of about unit length, and coefficients as a linear layer has them."""
        tower = self.tower
        count, d = tower.rows.shape
        if count:
            tower.place(directions(count, d, kind, seed) / math.sqrt(d), torch.zeros(count))
        if isinstance(tower, Universal):
            tower.balance.copy_(torch.eye(self.inner, self.in_features))
        draw = torch.Generator().manual_seed(seed)
        for p in (self.coefficients, self.skip):
            if p is not None and p.numel():
                p.copy_(torch.randn(p.shape, generator=draw) / math.sqrt(p.shape[1]))
        if self.skip_rank:
            self.skip_rows.copy_(torch.eye(self.skip_rank, self.in_features))


class LayerFeatures(FeatureMap):
    r"""The features :math:`(\Phi(x), x, 1)` of a layer: what stands beside its parameters.

    Args:
        layer: The layer.
    """

    def __init__(self, layer: SNNKLinear):
        self.layer = layer
        self.size = layer.tower.size + (0 if layer.skip is None else layer.skip.shape[1]) + 1

    def phi(self, x: Any) -> Tensor:
        """The features, with shape (n, p)."""
        (x,), _, _ = self.points(x).part(0, len(self.points(x)))
        with torch.no_grad():
            x = torch.as_tensor(x).to(self.layer.coefficients)
            skipped = [] if self.layer.skip is None else [self.layer._skipped(x)]
            return torch.cat([self.layer.tower(x), *skipped, x.new_ones(len(x), 1)], 1)


def _checksum(said: str, held: dict[str, Tensor]) -> str:
    """That of what a file says and of its tensors, by their names."""
    names = sorted(held)
    return digest_of(torch.tensor(list(json.dumps([said, names]).encode())), *(held[name] for name in names))


def as_rank(skip: Any, d: int) -> int | None:
    """The rank of a linear skip: ``None`` for one of full rank, 0 for none.

    Raises:
        DataError: If it is no rank.
    """
    if isinstance(skip, bool):
        return None if skip else 0
    rank = as_count(skip, "skip")
    if rank > d:
        raise DataError(f"skip={what_came(skip)} is the rank of a map from {d} numbers, which is at most {d}. "
                        "Pass skip=True for a map of full rank.")
    return rank
