r"""Stages of convolutional networks of infinite width: all layers between two poolings in one go.

Between two poolings, every slice of the covariance of two images, all pixels (h, w) with (h + dh, w + dw), evolves
alone. A program takes one slice through all layers, of the covariance K and of the tangent kernel T, and writes what is
left after pooling. It is compiled by numba for a processor and by triton for a GPU; where these are not installed,
torch computes the same.

Up to the first pooling numbers have the precision of the images, and K is carried as its deficit from the product of
the roots of two variances, in which nothing cancels: see :mod:`.stage`. Afterwards they are in double precision.
No derivatives are taken.
"""

from __future__ import annotations

from collections.abc import Sequence
from importlib.util import find_spec
from types import ModuleType

import torch
from torch import Tensor

from ....arguments import as_count
from ....errors import DataError
from . import reference
from .stage import Affine, Stage, Units

__all__ = ["Affine", "Stage", "Units", "compiled", "of_covariances", "of_images", "of_pixels", "of_units",
           "of_vectors", "units"]


def of_images(stage: Stage, x: Tensor, z: Tensor, i: Tensor, j: Tensor,
              tangent: bool = True) -> tuple[Tensor, Tensor | None]:
    r"""Covariances of pairs of images after the first stage of a network, pooled.

    .. math:: K^0_{hw,h'w'} = \langle x_{hw}, z_{h'w'} \rangle / C, \qquad T^0 = 0

    Args:
        stage: The layers and the pooling after them.
        x: Images with shape :math:`(n, C, H, W)`; float64 is computed as such, anything else in float32.
        z: Images with shape :math:`(m, C, H, W)`.
        i: Which of x each pair takes, with shape :math:`(B,)`.
        j: Which of z.
        tangent: Whether T is wanted.

    Returns:
        K and T, with shape :math:`(B, H/p, W/p, H/p, W/p)`, in float64; ``None`` for T where it is not wanted.

    Raises:
        DataError: If shapes do not fit, or pairs name images that are not there.

    References:
        | On Exact Computation with an Infinitely Wide Neural Net (Arora et al., 2019)

    Example:
        >>> import torch
        >>> x, first = torch.ones(1, 3, 4, 4), torch.tensor([0])
        >>> K, T = of_images(Stage((Affine(1, 2.0, 0.0, 0.0, 1.0),), 4), x, x, first, first)
        >>> K.shape, round(K.item(), 6), round(T.item(), 6)
        (torch.Size([1, 1, 1, 1, 1]), 1.0, 1.0)
    """
    x, z = _images(x, z)
    _check_stage(stage, x.shape[-2:])
    i, j = _pairs(i, j, len(x), len(z))
    with torch.no_grad():
        return _program(x.device).of_images(stage, x, z, i, j, tangent)


def of_covariances(stage: Stage, K: Tensor, T: Tensor | None, left: Tensor, right: Tensor, i: Tensor,
                   j: Tensor) -> tuple[Tensor, Tensor | None]:
    """Covariances of pairs after a later stage, from those before it.

    Args:
        stage: The layers and the pooling after them.
        K: Covariances of pairs with shape :math:`(B, H, W, H, W)`, the pixels of the left image first.
        T: Tangent kernels likewise; ``None`` where they are not wanted.
        left: Variances of left images, with shape :math:`(n, H, W)`: the diagonals of their own covariances.
        right: Variances of right images, with shape :math:`(m, H, W)`.
        i: Which of the left images each pair takes, with shape :math:`(B,)`.
        j: Which of the right ones.

    Returns:
        K and T, with shape :math:`(B, H/p, W/p, H/p, W/p)`, in float64; ``None`` for T if it was not given.

    Raises:
        DataError: If shapes do not fit, or pairs name images that are not there.

    Example:
        >>> import torch
        >>> one, first = torch.ones(1, 2, 2, 2, 2, dtype=torch.float64), torch.tensor([0])
        >>> q = torch.ones(1, 2, 2, dtype=torch.float64)
        >>> K, T = of_covariances(Stage((Affine(1, 2.0, 0.0, 0.0, 1.0),), 2), one, one, q, q, first, first)
        >>> round(K.item(), 6), round(T.item(), 6)
        (1.0, 2.0)
    """
    if left.dim() != 3 or right.dim() != 3 or left.shape[1:] != right.shape[1:]:
        raise DataError("Variances of left and right images have shapes (n, H, W) and (m, H, W); these have "
                        f"{tuple(left.shape)} and {tuple(right.shape)}.")
    _check_stage(stage, left.shape[-2:])
    i, j = _pairs(i, j, len(left), len(right))
    shape = len(i), *left.shape[1:], *right.shape[1:]
    for name, given in (("K", K), ("T", T)):
        if given is not None and given.shape != shape:
            raise DataError(f"{name} has a pixel of the left image and one of the right for each pair, with shape "
                            f"{shape}; this has {tuple(given.shape)}.")
    with torch.no_grad():
        return _program(K.device).of_covariances(stage, K, T, left, right, i, j)


def of_pixels(layers: Sequence[Affine], x: Tensor, z: Tensor, tangent: bool = True) -> tuple[Tensor, Tensor | None]:
    """Kernels of all pairs of images for layers without pooling, as means over equal pixels.

    Args:
        layers: The layers.
        x: Images with shape :math:`(n, C, H, W)`; float64 is computed as such, anything else in float32.
        z: Images with shape :math:`(m, C, H, W)`.
        tangent: Whether T is wanted.

    Returns:
        K and T, with shape :math:`(n, m)`, in float64; ``None`` for T where it is not wanted.

    Raises:
        DataError: If shapes do not fit.

    References:
        | Bayesian Deep Convolutional Networks with Many Channels are Gaussian Processes (Novak et al., 2019)

    Example:
        >>> import torch
        >>> x = torch.ones(2, 3, 4, 4)
        >>> K, T = of_pixels((Affine(1, 2.0, 0.0, 0.0, 1.0),), x, x[:1])
        >>> [round(k, 6) for k in K.flatten().tolist()], T.shape
        ([1.0, 1.0], torch.Size([2, 1]))
    """
    x, z = _images(x, z)
    _check_layers(layers)
    with torch.no_grad():
        return _program(x.device).of_pixels(layers, x, z, tangent)


def of_vectors(layers: Sequence[Affine], lack: Tensor, a: Tensor, b: Tensor,
               tangent: bool = True) -> tuple[Tensor, Tensor | None]:
    """Kernels of all pairs of vectors for dense layers, from the deficits of their covariances.

    It is made for a GPU; on a processor ``of_units`` is.

    Args:
        layers: The layers, taken as dense ones.
        lack: :math:`a_i b_j - K^0_{ij}`, not negative, with shape :math:`(n, m)`; may be overwritten.
        a: Roots of the variances of the rows, with shape :math:`(n,)`.
        b: Roots of the variances of the columns, with shape :math:`(m,)`.
        tangent: Whether T is wanted.

    Returns:
        K and T, with shape :math:`(n, m)`, in the precision of ``lack``; ``None`` for T where it is not wanted.

    Raises:
        DataError: If shapes or precisions do not fit.

    Example:
        >>> import torch
        >>> lack, a = torch.tensor([[0.0, 1.0], [1.0, 0.0]]), torch.ones(2)
        >>> K, T = of_vectors((Affine(1, 2.0, 0.0, 0.0, 1.0),), lack, a, a)
        >>> K[0, 0].item(), round(K[0, 1].item(), 5)
        (1.0, 0.31831)
    """
    if lack.shape != (*a.shape, *b.shape) or a.dim() != 1:
        raise DataError("Deficits have one row for each root on the left and one column for each on the right; these "
                        f"have shape {tuple(lack.shape)}, for roots with shapes {tuple(a.shape)} and {tuple(b.shape)}.")
    if lack.dtype not in (torch.float32, torch.float64):
        raise DataError(f"Deficits are float32 or float64, not {lack.dtype}. Convert them with .float().")
    _check_layers(layers)
    with torch.no_grad():
        return (_program(lack.device) if lack.is_cuda else reference).of_vectors(layers, lack, a, b, tangent)


def units(vectors: Tensor, directions: Tensor) -> Units:
    """Vectors as units, for ``of_units``.

    Args:
        vectors: The vectors, in float32 or float64, with shape :math:`(n, d)`.
        directions: Four directions that many of them share, orthonormal or nought, with shape :math:`(4, d)`.

    Example:
        >>> import torch
        >>> u = units(torch.tensor([[3.0, 4.0]]), torch.eye(4)[:, :2])
        >>> u.scales, u.coordinates, u.squares
        (tensor([0.2000]), tensor([[0.6000, 0.8000, 0.0000, 0.0000]]), tensor([0.]))
    """
    from . import processor

    with torch.no_grad():
        return processor.units(vectors, directions)


def of_units(layers: Sequence[Affine], readout: Sequence[float], near: Units, far: Units, close: float,
             tangent: bool = True, out: Tensor | None = None) -> Tensor:
    r"""Kernels of all pairs of vectors for dense layers, from units to the readout in one pass, on a processor.

    What a cosine lacks to 1 is :math:`|p - q|^2 / 2`, of which rounding leaves little as a difference of products. So
    units are split into coordinates in a few directions that many share, which are subtracted, and what these leave,
    whose products are small where vectors are much alike; and pairs that are still too close to parallel or opposite
    for that are computed from their difference or their sum.

    Args:
        layers: The layers, taken as dense ones; at least one.
        readout: Of the layers after them, :math:`w, b, r, s, e`, by which kernels are :math:`w K + b` and
            :math:`r T + s K + e`.
        near: The units of the rows.
        far: Those of the columns, in the same precision.
        close: Below what share of the mean of both squares half a squared distance is taken from a difference.
        tangent: Whether T is wanted.
        out: Memory for what is returned.

    Returns:
        K and T, or K alone, with shape :math:`(2, n, m)` or :math:`(1, n, m)`, in the precision of the units.

    Example:
        >>> import torch
        >>> u = units(torch.eye(2), torch.zeros(4, 2))
        >>> K, T = of_units((Affine(1, 2.0, 0.0, 0.0, 1.0),), (1.0, 0.0, 1.0, 1.0, 0.0), u, u, 1e-3)
        >>> round(K[0, 0].item(), 6), round(K[0, 1].item(), 6)
        (0.5, 0.159155)
    """
    from . import processor

    with torch.no_grad():
        return processor.of_units(layers, readout, near, far, close, tangent, out)


def compiled(device: torch.device) -> bool:
    """Whether there is something that compiles the loops for a device: numba for a processor, triton for a GPU."""
    return find_spec({"cpu": "numba", "cuda": "triton"}.get(device.type, "numba")) is not None and device.type in (
        "cpu", "cuda")


def _program(device: torch.device) -> ModuleType:
    """Who computes on a device."""
    # Imported here, since neither numba nor triton is part of what the package needs.
    if device.type == "cuda" and find_spec("triton") is not None:
        from . import gpu
        return gpu
    if device.type == "cpu" and find_spec("numba") is not None:
        from . import processor
        return processor
    return reference


def _images(x: Tensor, z: Tensor) -> tuple[Tensor, Tensor]:
    if x.dim() != 4 or z.dim() != 4 or x.shape[1:] != z.shape[1:]:
        raise DataError("Images have shapes (n, channels, height, width), alike but for n; these have "
                        f"{tuple(x.shape)} and {tuple(z.shape)}.")
    kind = torch.float64 if torch.float64 in (x.dtype, z.dtype) else torch.float32
    return x.detach().to(kind), z.detach().to(kind)


def _pairs(i: Tensor, j: Tensor, n: int, m: int) -> tuple[Tensor, Tensor]:
    if i.dim() != 1 or i.shape != j.shape:
        raise DataError("Pairs are named by two tensors of equal length, one for either image; these have shapes "
                        f"{tuple(i.shape)} and {tuple(j.shape)}.")
    for name, numbers, count in (("i", i, n), ("j", j, m)):
        if len(numbers) and not 0 <= int(numbers.min()) <= int(numbers.max()) < count:
            raise DataError(f"Pairs name images from 0 to {count - 1} in {name}; these go from {int(numbers.min())} to "
                            f"{int(numbers.max())}.")
    return i.long(), j.long()


def _check_stage(stage: Stage, size: torch.Size) -> None:
    _check_layers(stage.layers)
    p = as_count(stage.pool, "pool", 1)
    if size[0] % p or size[1] % p:
        raise DataError(f"A pooling of side {p} needs images whose sides are multiples of it; these are {size[0]} by "
                        f"{size[1]}. Crop or pad them.")


def _check_layers(layers: Sequence[Affine]) -> None:
    for layer in layers:
        if as_count(layer.side, "side", 1) % 2 == 0:
            raise DataError(f"Filters have an odd side, so that they have a middle; this one has {layer.side}.")
        if layer.weight < 0 or layer.bias < 0:
            raise DataError(f"Variances are not negative; these are {layer.weight} of weights and {layer.bias} of "
                            "biases.")
