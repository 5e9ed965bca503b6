r"""How the gradient of each sample follows from a function's input and the gradient at its output.

A rule reads the arguments of one function of torch (its input, the parameters by their role, the rest), and turns the
input and the gradients at the output into the factors of every sample's gradient by each role.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from .factors import Factor, Outer, Rows
from .layout import Layout
from .patches import Padding, patches


@dataclass(frozen=True, eq=False)
class Call:
    """One call of a function: its input, its parameters by role, and its other arguments."""

    input: Tensor
    roles: dict[str, Tensor]
    options: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, eq=False)
class Seen:
    """What a rule works with: the input, the gradients at the output with shape (c, *), and where the samples are."""

    call: Call
    gradient: Tensor
    count: int
    inside: Layout
    outside: Layout

    def input(self) -> Tensor:
        """The input with the samples first."""
        return self.inside.apply(self.call.input, self.count)

    def output(self) -> Tensor:
        """The gradients with shape (n, c, *)."""
        return self.outside.apply(self.gradient, self.count, lead=1)


@dataclass(frozen=True)
class Rule:
    """How to read a call, and how to find the factors.

    Attributes:
        read: From the arguments to a call, or ``None`` where the call is not of the known form.
        factors: From what was seen to a factor for each role.
        outer: The roles whose factors are outer products, and may be given transposed.
        features_last: Whether a sample's features stand along the last axis of the output, positions before them.
    """

    read: Callable[..., Call | None]
    factors: Callable[[Seen], dict[str, Factor]]
    outer: tuple[str, ...] = ()
    features_last: bool = False


# -- products --------------------------------------------------------------------------------------------------------


def _read_linear(input: Tensor, weight: Tensor, bias: Tensor | None = None) -> Call:
    return _call(input, weight=weight, bias=bias)


def _read_matmul(input: Any, other: Any) -> Call | None:
    return _call(input, weight=other) if isinstance(other, Tensor) and other.ndim == 2 else None


def _read_addmm(input: Tensor, mat1: Tensor, mat2: Tensor, *, beta: float = 1, alpha: float = 1) -> Call | None:
    plain = beta == 1 and alpha == 1 and input.ndim == 1
    return _call(mat1, weight=mat2, bias=input) if plain else None


def _products(first: bool) -> Callable[[Seen], dict[str, Factor]]:
    def factors(seen: Seen) -> dict[str, Factor]:
        a, b = seen.input(), seen.output()
        n, c = b.shape[:2]
        a, b = a.reshape(n, 1, -1, a.shape[-1]), b.reshape(n, c, 1, -1, b.shape[-1])
        weight = Outer(a, b, first)
        # At one position a bias is one more input, which is 1: its product is had with that of the weight.
        bias = Outer(a.new_ones(n, 1, 1, 1), b) if weight.single else Rows(b[:, :, 0].sum(2))
        return {"weight": weight, "bias": bias}

    return factors


# -- convolutions ----------------------------------------------------------------------------------------------------


def _read_convolution(input: Tensor, weight: Tensor, bias: Tensor | None = None, stride: Any = 1, padding: Any = 0,
                      dilation: Any = 1, groups: int = 1) -> Call | None:
    axes = weight.ndim - 2
    if input.ndim != weight.ndim:
        return None
    kernel, steps = tuple(weight.shape[2:]), _each(dilation, axes)
    if padding == "same":
        totals = [step * (width - 1) for step, width in zip(steps, kernel, strict=True)]
        around = [(p // 2, p - p // 2) for p in totals]
    else:
        around = [(p, p) for p in _each(0 if padding == "valid" else padding, axes)]
    return _call(input, weight=weight, bias=bias, kernel=kernel, stride=_each(stride, axes), dilation=steps,
                 groups=groups, padding=around)


def _convolution(seen: Seen) -> dict[str, Factor]:
    groups = seen.call.options["groups"]
    a = seen.inside.apply(_patches(seen.call.input, seen.call.options), seen.count)
    b = seen.output()
    a, b = _positions(a), _channels(b, seen.outside, groups)
    # Where the stride leaves a rest, there are no more outputs than patches.
    return {"weight": Outer(a[:, :, :b.shape[3]], b), "bias": Rows(_sum_positions(b))}


def _read_transposed(input: Tensor, weight: Tensor, bias: Tensor | None = None, stride: Any = 1, padding: Any = 0,
                     output_padding: Any = 0, groups: int = 1, dilation: Any = 1) -> Call | None:
    axes = weight.ndim - 2
    if input.ndim != weight.ndim:
        return None
    return _call(input, weight=weight, bias=bias, kernel=tuple(weight.shape[2:]), stride=_each(stride, axes),
                 dilation=_each(dilation, axes), groups=groups, padding=[(p, p) for p in _each(padding, axes)])


def _transposed(seen: Seen) -> dict[str, Factor]:
    options = seen.call.options
    a = seen.inside.apply(seen.call.input, seen.count)
    n, c = seen.count, len(seen.gradient)
    folded = seen.gradient.flatten(0, 1)
    cut = _patches(folded, options).unflatten(0, (c, -1))
    b = seen.outside.apply(cut, n, lead=1)
    between = 0 if seen.outside.fold is None else 1
    b = b.movedim(2 + between, 2) if between else b
    b = b.reshape(n, c, options["groups"], -1, b.shape[-1]) if not between else b.flatten(3, 4)
    a = _channels(a.unsqueeze(1), seen.inside, options["groups"])[:, 0]
    bias = seen.output()
    bias = bias.flatten(3).sum(3) if not between else bias.movedim(2, 3).flatten(3).sum(3)
    return {"weight": Outer(a, b[:, :, :, :a.shape[2]], first=True), "bias": Rows(bias)}


def _patches(x: Tensor, options: dict[str, Any]) -> Tensor:
    padding: Padding = options["padding"]
    return patches(x, options["kernel"], options["stride"], padding, options["dilation"], options["groups"])


def _positions(a: Tensor) -> Tensor:
    """Patches (n, [m,] g, L, d) as (n, g, [m] L, d): images that share a sample are more positions."""
    return a if a.ndim == 4 else a.transpose(1, 2).flatten(2, 3)


def _channels(b: Tensor, layout: Layout, groups: int) -> Tensor:
    """Values (n, c, [m,] d, *) as (n, c, g, [m] L, d / g)."""
    if layout.fold is None:
        b = b.unsqueeze(2)
    n, c, m, d = b.shape[:4]
    b = b.reshape(n, c, m, groups, d // groups, -1)
    return b.permute(0, 1, 3, 2, 5, 4).reshape(n, c, groups, -1, d // groups)


def _sum_positions(b: Tensor) -> Tensor:
    return b.sum(3).flatten(2)


# -- tables ----------------------------------------------------------------------------------------------------------


def _read_embedding(input: Tensor, weight: Tensor, padding_idx: int | None = None, max_norm: float | None = None,
                    norm_type: float = 2.0, scale_grad_by_freq: bool = False, sparse: bool = False) -> Call | None:
    if max_norm is not None or scale_grad_by_freq:
        return None
    if padding_idx is not None and padding_idx < 0:
        padding_idx += len(weight)
    return _call(input, weight=weight, padding=padding_idx, size=len(weight))


def _embedding(seen: Seen) -> dict[str, Factor]:
    a, b = seen.input().reshape(seen.count, -1), seen.output()
    b = b.reshape(*b.shape[:2], 1, -1, b.shape[-1])
    padding = seen.call.options["padding"]
    if padding is not None:
        b = b.masked_fill((a == padding).view(len(a), 1, 1, -1, 1), 0.0)
    return {"weight": Outer(a, b, first=True, size=seen.call.options["size"])}


# -- normalisations --------------------------------------------------------------------------------------------------


def _read_layer_norm(input: Tensor, normalized_shape: Any, weight: Tensor | None = None, bias: Tensor | None = None,
                     eps: float = 1e-5) -> Call:
    shape = tuple(normalized_shape)
    return _call(input, weight=weight, bias=bias, own=len(shape), normal=lambda x: F.layer_norm(x, shape, eps=eps))


def _read_rms_norm(input: Tensor, normalized_shape: Any, weight: Tensor | None = None,
                   eps: float | None = None) -> Call:
    shape = tuple(normalized_shape)
    return _call(input, weight=weight, own=len(shape), normal=lambda x: F.rms_norm(x, shape, eps=eps))


def _trailing(seen: Seen) -> dict[str, Factor]:
    """A scale and a shift along the last axes."""
    own = seen.call.options["own"]
    b = seen.output()
    normal = seen.inside.apply(seen.call.options["normal"](seen.call.input), seen.count).unsqueeze(1)
    between = tuple(range(2, b.ndim - own))
    scale, shift = ((t.sum(between) if between else t).flatten(2) for t in (b * normal, b))
    return {"weight": Rows(scale), "bias": Rows(shift)}


def _read_group_norm(input: Tensor, num_groups: int, weight: Tensor | None = None, bias: Tensor | None = None,
                     eps: float = 1e-5) -> Call:
    return _call(input, weight=weight, bias=bias, normal=lambda x: F.group_norm(x, num_groups, eps=eps))


def _read_batch_norm(input: Tensor, running_mean: Tensor | None, running_var: Tensor | None,
                     weight: Tensor | None = None, bias: Tensor | None = None, training: bool = False,
                     momentum: float = 0.1, eps: float = 1e-5) -> Call | None:
    if training:
        return None
    return _call(input, weight=weight, bias=bias, normal=lambda x: F.batch_norm(x, running_mean, running_var, eps=eps))


def _read_instance_norm(input: Tensor, running_mean: Tensor | None = None, running_var: Tensor | None = None,
                        weight: Tensor | None = None, bias: Tensor | None = None, use_input_stats: bool = True,
                        momentum: float = 0.1, eps: float = 1e-5) -> Call:
    return _call(input, weight=weight, bias=bias,
                 normal=lambda x: F.instance_norm(x, running_mean, running_var, None, None, use_input_stats, eps=eps))


def _channelwise(seen: Seen) -> dict[str, Factor]:
    """A scale and a shift for each channel, which stand along the axis after the samples."""
    b = seen.output()
    normal = seen.inside.apply(seen.call.options["normal"](seen.call.input), seen.count).unsqueeze(1)
    scale, shift = (_by_channel(t, seen.outside) for t in (b * normal, b))
    return {"weight": Rows(scale), "bias": Rows(shift)}


def _read_prelu(input: Tensor, weight: Tensor) -> Call:
    return _call(input, weight=weight)


def _prelu(seen: Seen) -> dict[str, Factor]:
    """A slope for negative numbers, one for all or one for each channel."""
    below = seen.inside.apply(seen.call.input.clamp(max=0), seen.count).unsqueeze(1)
    slopes = _by_channel(seen.output() * below, seen.outside) if seen.call.input.ndim > 1 else seen.output() * below
    return {"weight": Rows(slopes.sum(2, keepdim=True) if seen.call.roles["weight"].numel() == 1 else slopes)}


def _by_channel(t: Tensor, layout: Layout) -> Tensor:
    axis = 2 if layout.fold is None else 3
    others = tuple(k for k in range(2, t.ndim) if k != axis)
    return t.sum(others) if others else t


# -- one number after the other --------------------------------------------------------------------------------------


def _read_add(input: Any, other: Any, *, alpha: float = 1) -> Call | None:
    if not isinstance(input, Tensor) or not isinstance(other, Tensor) or alpha != 1:
        return None
    return Call(input, {"other": other, "input": input})


def _read_mul(input: Any, other: Any) -> Call | None:
    if not isinstance(input, Tensor) or not isinstance(other, Tensor):
        return None
    return Call(input, {"other": other, "input": input}, {"times": True})


def _read_expand(input: Tensor, *sizes: Any, implicit: bool = False) -> Call:
    return Call(input, {"input": input})


def _elementwise(seen: Seen) -> dict[str, Factor]:
    """A sum or a product with a tensor that is broadcast."""
    found: dict[str, Factor] = {}
    for role, p in seen.call.roles.items():
        gradient = seen.gradient
        if "times" in seen.call.options:
            gradient = gradient * seen.call.roles["input" if role == "other" else "other"]
        axis = seen.outside.axis
        assert axis is not None
        shape = (1,) * (gradient.ndim - 1 - p.ndim) + tuple(p.shape)
        # Along the axis of the samples a parameter that all of them share has one entry.
        if shape[axis] != 1 or seen.outside.fold is not None:
            continue
        b = seen.outside.apply(gradient, seen.count, lead=1)
        own = shape[:axis] + shape[axis + 1:]
        summed = tuple(k + 2 for k, size in enumerate(own) if size == 1 and b.shape[k + 2] != 1)
        rows = b.sum(summed) if summed else b
        found[role] = Rows(rows.flatten(2) if rows.ndim > 2 else rows.unsqueeze(2))
    return found


def _call(input: Tensor, weight: Tensor | None = None, bias: Tensor | None = None, **options: Any) -> Call:
    roles = {role: p for role, p in (("weight", weight), ("bias", bias)) if p is not None}
    return Call(input, roles, options)


def _each(value: Any, axes: int) -> tuple[int, ...]:
    numbers = tuple(value) if isinstance(value, Sequence) else (value,)
    return tuple(int(v) for v in (numbers * axes if len(numbers) == 1 else numbers))


_LINEAR = Rule(_read_linear, _products(first=False), ("weight",), features_last=True)
_MATMUL = Rule(_read_matmul, _products(first=True), ("weight",), features_last=True)
_CONVOLUTION = Rule(_read_convolution, _convolution)
_TRANSPOSED = Rule(_read_transposed, _transposed)
_CHANNELS: dict[Any, Callable[..., Call | None]] = {
    F.group_norm: _read_group_norm, F.batch_norm: _read_batch_norm, F.instance_norm: _read_instance_norm,
}

RULES: dict[Any, Rule] = {
    F.linear: _LINEAR,
    **{f: _MATMUL for f in (torch.matmul, torch.mm, torch.Tensor.matmul, torch.Tensor.mm, torch.Tensor.__matmul__)},
    torch.addmm: Rule(_read_addmm, _products(first=True), ("weight",), features_last=True),
    **{f: _CONVOLUTION for f in (F.conv1d, F.conv2d, F.conv3d)},
    **{f: _TRANSPOSED for f in (F.conv_transpose1d, F.conv_transpose2d, F.conv_transpose3d)},
    F.prelu: Rule(_read_prelu, _prelu),
    F.embedding: Rule(_read_embedding, _embedding, ("weight",)),
    F.layer_norm: Rule(_read_layer_norm, _trailing),
    F.rms_norm: Rule(_read_rms_norm, _trailing),
    **{f: Rule(read, _channelwise) for f, read in _CHANNELS.items()},
    **{f: Rule(_read_add, _elementwise) for f in (torch.add, torch.Tensor.add, torch.Tensor.__add__,
                                                  torch.Tensor.__radd__)},
    **{f: Rule(_read_mul, _elementwise) for f in (torch.mul, torch.Tensor.mul, torch.Tensor.__mul__,
                                                  torch.Tensor.__rmul__)},
    torch.Tensor.expand: Rule(_read_expand, _elementwise),
}
