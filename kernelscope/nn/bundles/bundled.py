r"""What bundling leaves: features that are fixed, and one matrix that was solved for.

.. math:: f(x) = M^T \Phi(x) + L^T \tilde x + c, \qquad \tilde x = (x - \mu) / s

A layer of this form stands in the place of a block, or of a network as a whole. The latter is a kernel machine in all
respects: it knows its kernel :math:`\Phi(x) \cdot \Phi(z)`, what each sample adds, and what it would say without some.
"""

from __future__ import annotations

import copy
import os
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, Self

import torch
from torch import Tensor, nn

from ...arguments import as_path, as_switch
from ...errors import DataError, StoreCorrupt
from ...features.base import FeatureMap
from ...kernels.of_features import FeatureKernel
from ...machine.contributions import Contributions
from ...machine.machine import KernelMachine
from ...result import as_float64, rows_of
from ...solvers.ridge import RidgePath
from ...storage import Store
from ..towers import Fourier, Neurons, Rectified
from .closed_form import summed

#: The towers that are kept with a bundled network.
KEPT: dict[str, type[Rectified] | type[Fourier]] = {"Rectified": Rectified, "Fourier": Fourier}


#: How far parameters may be from what was solved for, as a share of it.
CLOSE = 1e-5


class BundledLayer(nn.Module):
    r"""The layer :math:`M^T \Phi(x) + L^T \tilde x + c` on the last axis, with :math:`\tilde x = (x - \mu) / s`.

    Its towers are buffers; M, L and c are parameters, of which all can be trained further.

    Args:
        mean: What is subtracted from inputs, with shape (d,).
        scale: What they are divided by, a number.
        towers: The towers, of which each reads the one before; their composition is Phi.
        outputs: The number c of outputs.
        skip: Whether there is the linear map L.

    Example:
        >>> layer = BundledLayer(torch.zeros(2), torch.ones(()), [Rectified(torch.eye(2))], 1)
        >>> layer(torch.zeros(5, 3, 2)).shape, layer.size
        (torch.Size([5, 3, 1]), 2)
    """

    mean: Tensor
    scale: Tensor

    #: The modules in whose place it stands, in words.
    stands_for: str = ""

    def __init__(self, mean: Tensor, scale: Tensor, towers: Sequence[Rectified | Fourier | Neurons], outputs: int,
                 skip: bool = False):
        super().__init__()
        self.register_buffer("mean", mean.detach().clone())
        self.register_buffer("scale", scale.detach().clone())
        self.towers = nn.Sequential(*towers)
        self.size = towers[-1].size
        self.weight = nn.Parameter(mean.new_zeros(self.size, outputs))
        self.skip = nn.Parameter(mean.new_zeros(len(mean), outputs)) if skip else None
        self.constant = nn.Parameter(mean.new_zeros(outputs))

    def forward(self, x: Tensor) -> Tensor:
        near = (x - self.mean) / self.scale
        found = self.towers(near) @ self.weight + self.constant
        return found if self.skip is None else found + near @ self.skip

    def columns(self, x: Tensor) -> Tensor:
        """The columns that the parameters are fitted to, features before inputs before ones, with shape (n, p)."""
        near = (x - self.mean) / self.scale
        linear = [] if self.skip is None else [near]
        return torch.cat([self.towers(near), *linear, torch.ones_like(near[:, :1])], 1)

    @property
    def width(self) -> int:
        """The number of columns."""
        return self.size + 1 + (0 if self.skip is None else len(self.mean))

    @torch.no_grad()
    def assign(self, theta: Tensor) -> None:
        """Takes the coefficients of the columns, with shape (p, c), as parameters."""
        self.weight.copy_(theta[:self.size])
        self.constant.copy_(theta[-1])
        if self.skip is not None:
            self.skip.copy_(theta[self.size:-1])

    def coefficients(self) -> Tensor:
        """The parameters as the coefficients of the columns, with shape (p, c)."""
        linear = [] if self.skip is None else [self.skip]
        return torch.cat([self.weight, *linear, self.constant[None]]).detach()

    def exact(self) -> BundledLayer:
        """The same layer in double precision on the CPU: its own rounded directions, so that it is the same map."""
        return copy.deepcopy(self).to("cpu", torch.float64)

    def extra_repr(self) -> str:
        linear = "" if self.skip is None else ", with a linear skip"
        return f"{len(self.mean)} -> {len(self.constant)}, {self.size} features{linear}"


class TowerFeatures(FeatureMap):
    """The features of a bundled layer as a map, in double precision; with a skip its inputs stand beside them.

    Args:
        layer: The layer.

    Example:
        >>> layer = BundledLayer(torch.zeros(2), torch.ones(()), [Rectified(torch.eye(2))], 1)
        >>> TowerFeatures(layer).phi(torch.tensor([[3.0, -4.0]]))
        tensor([[3., 0.]], dtype=torch.float64)
    """

    def __init__(self, layer: BundledLayer):
        self.layer = layer.exact().eval().requires_grad_(False)
        self.size = layer.width - 1

    @torch.no_grad()
    def phi(self, x: Any) -> Tensor:
        points = self.points(x)
        given = points.part(0, len(points)).args
        if len(given) != 1 or not isinstance(given[0], Tensor):
            raise DataError("The features of a bundled network are those of one tensor of inputs; these points are "
                            "several, or taken by name. Pass a tensor with a row for each point.")
        rows = flat(given[0], len(self.layer.mean))
        return self.layer.columns(as_float64(rows))[:, :-1]


def flat(x: Tensor, d: int) -> Tensor:
    """Points as rows of d numbers.

    Raises:
        DataError: If they have another number of them.
    """
    rows = x.flatten(1) if x.ndim > 1 else x[:, None]
    if rows.shape[1] != d:
        raise DataError(f"This network was bundled for points of {d} numbers, and points of shape "
                        f"{tuple(x.shape[1:])} came. Pass points as those it was fitted to.")
    return rows


class BundledModel(nn.Module):
    r"""A network bundled as a whole: fixed random towers, and one matrix on the last of them.

    .. math:: f(x) = M^T\, \Phi_L(\dots \Phi_1(x)) + c = \sum_i k(x, x_i)\, \alpha_i + c,
              \qquad \alpha_i = \frac{y_i - f(x_i)}{n \lambda}

    It is made by :func:`~kernelscope.nn.bundle` with ``mode="full"``. Its samples are kept with it. What it
    would say of each without it comes as a tensor, where a :class:`~kernelscope.FeatureMachine` gives a result.

    Args:
        layer: The layer that it is.
        ridge: The ridge :math:`\lambda` that it was fitted with.
        samples: What it was fitted to, with shape (n, ...).
        targets: Their targets, with shape (n, c).

    Example:
        >>> import kernelscope as ks
        >>> train = ks.data.digits("train")
        >>> bundled, report = ks.nn.bundle(nn.Linear(64, 10), train.x, train.y, mode="full", features=32)
        >>> bundled.contributions(train.x[:2]).terms.shape
        torch.Size([2, 10, 1437])
        >>> bundled.leave_one_out().shape
        torch.Size([1437, 10])
    """

    def __init__(self, layer: BundledLayer, ridge: float, samples: Tensor, targets: Tensor):
        super().__init__()
        self.layer, self.ridge = layer, float(ridge)
        self.samples, self.targets = samples.detach().clone(), as_float64(targets)

    def forward(self, x: Tensor) -> Tensor:
        return self.layer(flat(x, len(self.layer.mean)))

    @property
    def features(self) -> TowerFeatures:
        """The map whose products are the kernel: the last tower, and with a skip the inputs beside it."""
        return TowerFeatures(self.layer)

    @property
    def kernel(self) -> FeatureKernel:
        r"""The kernel :math:`\Phi(x) \cdot \Phi(z)`."""
        return FeatureKernel(self.features)

    @property
    def trainable_parameters(self) -> int:
        """How many numbers were solved for."""
        return sum(p.numel() for p in self.parameters())

    @cached_property
    def path(self) -> RidgePath:
        """The fit for every ridge, from one factorisation."""
        columns = self._columns()
        # The constant alone is not penalised, so that all the rest is a kernel.
        return RidgePath(summed(columns, self.targets), torch.arange(columns.shape[1]) == columns.shape[1] - 1)

    @property
    def spectrum(self) -> Tensor:
        """The eigenvalues of the centred kernel matrix of the samples that are not nought, the largest first."""
        return self.path.spectrum

    def machine(self) -> KernelMachine:
        """The same function as a kernel machine: one coefficient for each sample and output, and the constant."""
        theta, alpha = self._solved(), self.path.duals(self._columns(), self.targets, self.ridge)
        return KernelMachine(self.kernel, self.samples, alpha, theta[-1])

    def contributions(self, x: Any, memory: int | str = "1GB") -> Contributions:
        """What each sample adds at points, with shape (q, c, n); with the constant they are the value.

        Args:
            x: The points.
            memory: How much the terms may use.
        """
        return self.machine().contributions(x, memory)

    def leave_one_out(self) -> Tensor:
        """What the network fitted to all other samples says of each, with shape (n, c); exact, without a refit.

        Raises:
            DataError: If its parameters were changed since they were solved for; so do the others.
        """
        self._solved()
        return self.path.left_out(self._columns(), self.targets, self.ridge)

    def without(self, rows: Any) -> BundledModel:
        """The network that is fitted to the other samples, with the same ridge; exact, without reading them again.

        Towers, and what inputs are centred with, stay as they are.

        Args:
            rows: The samples to leave out: a number, a slice, a list of numbers, or a mask.

        Raises:
            DataError: If none would be left.
        """
        self._solved()
        gone = rows_of(rows, len(self.samples))
        stays = torch.ones(len(self.samples), dtype=torch.bool)
        stays[gone] = False
        if not bool(stays.any()):
            raise DataError(f"All {len(self.samples)} samples would be left out, and nothing to fit to. Leave some.")
        sums = self.path.equations.copy()
        sums.add(self._columns()[~stays], self.targets[~stays], sign=-1)
        path = RidgePath(sums, self.path.free)
        rest = BundledModel(copy.deepcopy(self.layer), self.ridge, self.samples[stays], self.targets[stays])
        rest.layer.assign(path.coefficients(self.ridge))
        return rest

    def save(self, path: str | os.PathLike[str], overwrite: bool = False) -> Path:
        """Keeps the network in a folder: towers, what was solved for, and its samples. Nothing is pickled.

        Args:
            path: The folder.
            overwrite: Whether to replace what is there.
        """
        folder = as_path(path, "The folder of a bundled network", '"networks/digits"')
        towers = [type(tower).__name__ for tower in self.layer.towers]
        meta = {"towers": towers, "ridge": self.ridge, "skip": self.layer.skip is not None}
        tensors = {f"layer.{name}": value.detach().cpu() for name, value in self.layer.state_dict().items()}
        Store.create(folder, kind="bundled", meta=meta, overwrite=as_switch(overwrite, "overwrite"),
                     first=tensors | {"samples": self.samples.cpu(), "targets": self.targets}).close()
        return folder

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> Self:
        """Opens a network that was saved; its outputs are those it had, bit for bit.

        Args:
            path: The folder.

        Raises:
            StoreCorrupt: If it holds something else.
        """
        store = Store.open(path, kind="bundled")
        try:
            meta, tensors = store.meta, store.read(0)
            own = {name.removeprefix("layer."): value for name, value in tensors.items() if name.startswith("layer.")}
            towers = [tower_from(kind, own, f"towers.{i}.") for i, kind in enumerate(meta["towers"])]
            layer = BundledLayer(own["mean"], own["scale"], towers, len(own["constant"]), bool(meta["skip"]))
            layer.load_state_dict(own)
            return cls(layer, meta["ridge"], tensors["samples"], tensors["targets"])
        except (KeyError, IndexError, TypeError, RuntimeError) as error:
            raise StoreCorrupt(f"{path} lacks a part of a bundled network ({error}). Save it again.") from error

    def load_state_dict(self, *args: Any, **options: Any) -> Any:
        # Other directions have other columns.
        self.__dict__.pop("path", None)
        return super().load_state_dict(*args, **options)

    def extra_repr(self) -> str:
        return f"{self.trainable_parameters:,} parameters, {len(self.samples):,} samples, ridge {self.ridge:.2g}"

    def _solved(self) -> Tensor:
        """The coefficients, with shape (p, c), where the parameters are what was solved for."""
        theta, held = self.path.coefficients(self.ridge), self.layer.coefficients()
        close = max(CLOSE, 8 * torch.finfo(held.dtype).eps)
        if not float((as_float64(held) - theta).norm()) <= close * float(theta.norm()):
            raise DataError("The parameters of this network are no longer what was solved for: they were trained, or "
                            "loaded from another one. What samples add is known of the solution alone; bundle again.")
        return theta

    def _columns(self) -> Tensor:
        """The columns of the samples in double precision."""
        features = self.features.phi(self.samples)
        return torch.cat([features, torch.ones_like(features[:, :1])], 1)


def tower_from(kind: str, tensors: dict[str, Tensor], prefix: str) -> Rectified | Fourier:
    """A random tower of its kind and of the tensors that were kept."""
    rows, shifts = tensors[f"{prefix}rows"], tensors.get(f"{prefix}shifts")
    return Rectified(rows, shifts) if KEPT[kind] is Rectified else Fourier(rows)
