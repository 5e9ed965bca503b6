"""The trace kernel in other people's ways, each with the settings among which its best is chosen."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call, grad, jacrev, vmap
from torch.utils.data import DataLoader, TensorDataset

import kernelscope as ks

#: From points to the kernel.
Kernel = Callable[[Tensor], Tensor]

#: How many bytes of Jacobian a contender may hold; the machine should keep some.
ROOM = 6e9


def ours(model: nn.Module, outputs: int, setting: Any) -> Kernel:
    """The tangent kernel of this package."""
    return ks.kernels.Tangent(model)


def by_jacrev(model: nn.Module, outputs: int, chunk: int | None) -> Kernel:
    """The recipe of torch's tutorial: Jacobians of all points, then their products parameter by parameter."""
    parameters = {name: p.detach() for name, p in model.named_parameters()}
    jacobians = vmap(jacrev(lambda own, point: functional_call(model, own, (point[None],))[0]), (None, 0),
                     chunk_size=chunk)

    def kernel(x: Tensor) -> Tensor:
        _fits(model, len(x) * outputs)
        found = jacobians(parameters, x).values()
        return torch.stack([torch.einsum("Naf,Maf->NM", j.flatten(2), j.flatten(2)) for j in found]).sum(0)

    return kernel


def by_gradients(model: nn.Module, outputs: int, chunk: int | None) -> Kernel:
    """Per-sample gradients of one output at a time."""
    parameters = {name: p.detach() for name, p in model.named_parameters()}
    one = lambda own, point, c: functional_call(model, own, (point[None],))[0, c]

    def rows(x: Tensor, c: int) -> Iterator[Tensor]:
        _fits(model, len(x))
        found = vmap(grad(lambda own, point: one(own, point, c)), (None, 0), chunk_size=chunk)(parameters, x)
        yield from found.values()

    return lambda x: _summed(x, (each for c in range(outputs) for each in rows(x, c)))


def by_nngeometry(model: nn.Module, outputs: int, setting: tuple[bool, int]) -> Kernel:
    """Gram matrices of NNGeometry: of all outputs at once, or of each by itself."""
    from nngeometry.gram import GramMatrix

    at_once, size = setting

    def kernel(x: Tensor) -> Tensor:
        loader = DataLoader(TensorDataset(x.clone(), torch.zeros(len(x))), batch_size=min(size, len(x)))
        if at_once:
            return GramMatrix(model, loader).to_torch().diagonal(dim1=0, dim2=2).sum(-1)
        one = lambda c: GramMatrix(model, loader, function=lambda *d: model(d[0])[:, [c]]).to_torch()[0, :, 0]
        return torch.stack([one(c) for c in range(outputs)]).sum(0)

    return kernel


def by_backpack(model: nn.Module, outputs: int, setting: Any) -> Kernel:
    """BackPACK's gradients of every sample, one output at a time."""
    from backpack import backpack, extend
    from backpack.extensions import BatchGrad

    extended = extend(model)

    def rows(x: Tensor, c: int) -> Iterator[Tensor]:
        with backpack(BatchGrad()):
            extended(x)[:, c].sum().backward()
        for p in extended.parameters():
            yield p.grad_batch
            del p.grad_batch
            p.grad = None

    return lambda x: _summed(x, (each for c in range(outputs) for each in rows(x, c)))


def by_opacus(model: nn.Module, outputs: int, mode: str) -> Kernel:
    """Opacus' gradients of every sample, one output at a time."""
    from opacus import GradSampleModule

    # It keeps gradients in train mode only; no network here behaves otherwise in it.
    sampled = GradSampleModule(copy.deepcopy(model).train(), loss_reduction="sum", force_functorch=mode == "functorch")

    def rows(x: Tensor, c: int) -> Iterator[Tensor]:
        sampled(x)[:, c].sum().backward()
        for p in sampled.parameters():
            yield p.grad_sample
            p.grad_sample = p.grad = None

    return lambda x: _summed(x, (each for c in range(outputs) for each in rows(x, c)))


def by_asdl(model: nn.Module, outputs: int, setting: Any) -> Kernel:
    """The kernel of asdfghjkl by products of the layers' Gram matrices."""
    from asdl import empirical_class_wise_hadamard_ntk

    return lambda x: empirical_class_wise_hadamard_ntk(model, x).sum(-1)


#: Each way with the settings among which its best is chosen.
WAYS: dict[str, tuple[Callable[[nn.Module, int, Any], Kernel], tuple[Any, ...]]] = {
    "kernelscope": (ours, (None,)),
    "torch.func jacrev": (by_jacrev, (None, 16, 64)),
    "torch.func vmap(grad)": (by_gradients, (None, 16, 64)),
    "nngeometry": (by_nngeometry, ((True, 4096), (False, 4096), (False, 64))),
    "backpack": (by_backpack, (None,)),
    "opacus": (by_opacus, ("hooks", "functorch")),
    "asdfghjkl": (by_asdl, (None,)),
}


def _summed(x: Tensor, rows: Iterable[Tensor]) -> Tensor:
    """The sum of products of gradients with themselves."""
    total = torch.zeros(len(x), len(x))
    for each in rows:
        total += each.flatten(1) @ each.flatten(1).T
    return total


def _fits(model: nn.Module, rows: int) -> None:
    size = 4 * rows * sum(p.numel() for p in model.parameters())
    if size > ROOM:
        raise MemoryError(f"its Jacobian would take {size / 1e9:.0f} GB")


def reference(model: nn.Module, x: Tensor, outputs: int) -> Tensor:
    """The kernel of Jacobians in float64, one gradient after the other."""
    exact = model.double()
    total = torch.zeros(len(x), len(x), dtype=torch.float64)
    for c in range(outputs):
        rows = torch.stack(list(_gradients(exact, x.double(), c)))
        total += rows @ rows.T
    return total


def _gradients(model: nn.Module, x: Tensor, c: int) -> Iterator[Tensor]:
    for point in x:
        found = torch.autograd.grad(model(point[None])[0, c], list(model.parameters()))
        yield torch.cat([g.flatten() for g in found])
