r"""Per-sample gradients of common layers from one batched pass.

For a layer whose output is linear in its parameters, the gradient of a sample follows from the layer's input :math:`a`
and the gradient :math:`b` at its output alone: :math:`\sum_t b_t a_t^T` for a linear layer or, with unfolded patches, a
convolution; :math:`\sum_t b_t \odot \hat a_t` for a normalisation's scale. One forward pass of the whole batch and one
backward pass for each output give all samples at once, without transforming the module. A layer that is used more than
once, or shares its parameters, has the sum over its uses.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.func import functional_call

from ..checkpointing import without_checkpoints
from ..network import Inputs, Network, Parameters

#: From the layer, its input (n, ...) and the gradients at its output (n, c, ...) to rows (n, c, *) by own name.
Rule = Callable[[nn.Module, Tensor, Tensor], Parameters]


class LayerGradients:
    """Gradients of every sample by every parameter, for networks whose parameters all belong to known layers.

    Args:
        network: The network.
        training: The submodules in train mode.
        names: The parameters to differentiate by.
    """

    def __init__(self, network: Network, training: tuple[str, ...], names: list[str]):
        self._module = copy.deepcopy(network.module(training))
        self._names = names
        known = {id(p): name for name, p in self._module.named_parameters()}
        self._layers: list[tuple[nn.Module, dict[str, str]]] = []
        for module in self._module.modules():
            own = {key: known[id(p)] for key, p in module.named_parameters(recurse=False) if known[id(p)] in names}
            if own:
                self._layers.append((module, own))

    @staticmethod
    def covers(network: Network, training: tuple[str, ...], names: list[str]) -> bool:
        """Whether every parameter belongs to a layer whose rule is known here."""
        model = network.module(training)
        wanted = {id(p) for name, p in model.named_parameters() if name in names}
        # A tied parameter has one name and several owners; all of them must be known.
        owners = [module for module in model.modules()
                  if any(id(p) in wanted for p in module.parameters(recurse=False))]
        return all(type(module) in RULES and _plain(module) for module in owners)

    def __call__(self, parameters: Parameters, buffers: Parameters, inputs: Inputs,
                 values: Callable[[Any], Tensor]) -> Parameters:
        """The gradients of ``values(outputs)``, with shape (n, c), as rows with shape :math:`(n c, *)`."""
        seen: list[_Use] = []
        hooks = [module.register_forward_hook(_watch(seen, own)) for module, own in self._layers]
        try:
            with torch.enable_grad(), without_checkpoints():
                state = {**parameters, **{name: b.clone() for name, b in buffers.items()}}
                explained = values(functional_call(self._module, state, inputs))
                columns = explained.sum(0).unbind()
        finally:
            for hook in hooks:
                hook.remove()
        anchors = [use.anchor for use in seen if use.anchor is not None]
        for j, column in enumerate(columns):
            for use in seen:
                use.column = j
            if anchors and column.requires_grad:
                torch.autograd.grad(column, anchors, retain_graph=j + 1 < len(columns), allow_unused=True)
        rows: Parameters = {}
        for use in seen:
            gradients = use.gradients(len(columns))
            if gradients is None:
                continue
            for key, found in RULES[type(use.module)](use.module, use.input, gradients).items():
                if key in use.own:
                    flat = found.flatten(0, 1)
                    name = use.own[key]
                    rows[name] = rows[name] + flat if name in rows else flat
        count = explained.shape[0] * explained.shape[1]
        return {name: rows[name] if name in rows else parameters[name].new_zeros(count, *parameters[name].shape)
                for name in self._names}


class _Use:
    """One call of a layer: its input, and the gradients that come back to its output."""

    def __init__(self, module: nn.Module, own: dict[str, str], given: Tensor):
        self.module, self.own, self.input = module, own, given.detach()
        self.anchor: Tensor | None = None
        self.column = 0
        self._found: dict[int, Tensor] = {}

    def receive(self, gradient: Tensor) -> None:
        self._found[self.column] = gradient

    def gradients(self, count: int) -> Tensor | None:
        """The gradients at the output, with shape (n, count, ...); an output that does not use the layer has zero."""
        if not self._found:
            return None
        zero = torch.zeros_like(next(iter(self._found.values())))
        return torch.stack([self._found.get(j, zero) for j in range(count)], 1)


def _watch(seen: list[_Use], own: dict[str, str]) -> Callable[[nn.Module, Any, Tensor], Tensor]:
    def hook(module: nn.Module, args: Any, output: Tensor) -> Tensor:
        use = _Use(module, own, args[0])
        if not output.requires_grad:
            # A first layer: what lies before it needs no gradient, and a copy may be changed in place.
            use.anchor = output.detach().requires_grad_()
            output = use.anchor.clone()
        output.register_hook(use.receive)
        seen.append(use)
        return output

    return hook


def _plain(module: nn.Module) -> bool:
    return not hasattr(module, "parametrizations") and getattr(module, "padding_mode", "zeros") == "zeros" and not (
        isinstance(module, nn.Embedding) and (module.max_norm is not None or module.scale_grad_by_freq
                                              or module.sparse))


def _linear(layer: nn.Module, a: Tensor, b: Tensor) -> Parameters:
    n, c = b.shape[:2]
    a, b = a.reshape(n, -1, a.shape[-1]), b.reshape(n, c, -1, b.shape[-1])
    if a.shape[1] == 1:
        # Of one position the sum has one term; a product of this shape is several times slower as a matrix product.
        return {"weight": b.transpose(2, 3) * a.unsqueeze(1), "bias": b[:, :, 0]}
    weight = b.transpose(2, 3).reshape(n, -1, b.shape[2]) @ a
    return {"weight": weight.view(n, c, -1, a.shape[-1]), "bias": b.sum(2)}


def _convolution(layer: nn.Module, a: Tensor, b: Tensor) -> Parameters:
    assert isinstance(layer, nn.Conv1d | nn.Conv2d)
    n, c, out = b.shape[:3]
    if isinstance(layer, nn.Conv1d):
        a = a.unsqueeze(2)
    lead = (1,) * (4 - layer.weight.ndim)
    kernel, stride, dilation = (lead + tuple(getattr(layer, key)) for key in ("kernel_size", "stride", "dilation"))
    left, right = _padding(layer)
    a = F.pad(a, [p for pair in reversed(list(zip(left, right, strict=True))) for p in pair])
    groups = layer.groups
    patches = F.unfold(a, kernel, dilation=dilation, stride=stride)
    length = b[0, 0, 0].numel()
    patches = patches.view(n, groups, -1, patches.shape[-1])[..., :length]
    b = b.reshape(n, c, groups, out // groups, length).transpose(1, 2).reshape(n, groups, -1, length)
    weight = (b @ patches.transpose(2, 3)).view(n, groups, c, out // groups, -1).transpose(1, 2)
    bias = b.sum(3).view(n, groups, c, -1).transpose(1, 2).reshape(n, c, out)
    return {"weight": weight.reshape(n, c, *layer.weight.shape), "bias": bias}


def _padding(layer: nn.Conv1d | nn.Conv2d) -> tuple[tuple[int, ...], tuple[int, ...]]:
    lead = (0,) * (4 - layer.weight.ndim)
    if layer.padding == "valid":
        return (0, 0), (0, 0)
    if layer.padding == "same":
        both = [d * (k - 1) for d, k in zip(layer.dilation, layer.kernel_size, strict=True)]
        return lead + tuple(p // 2 for p in both), lead + tuple(p - p // 2 for p in both)
    sides = lead + tuple(int(p) for p in layer.padding)
    return sides, sides


def _layer_norm(layer: nn.Module, a: Tensor, b: Tensor) -> Parameters:
    assert isinstance(layer, nn.LayerNorm)
    hat = F.layer_norm(a, layer.normalized_shape, eps=layer.eps).unsqueeze(1)
    between = tuple(range(2, b.ndim - len(layer.normalized_shape)))
    both = (b * hat, b)
    weight, bias = (t.sum(between) if between else t for t in both)
    return {"weight": weight, "bias": bias}


def _group_norm(layer: nn.Module, a: Tensor, b: Tensor) -> Parameters:
    assert isinstance(layer, nn.GroupNorm)
    hat = F.group_norm(a, layer.num_groups, eps=layer.eps).unsqueeze(1)
    return {"weight": (b * hat).flatten(3).sum(3) if b.ndim > 3 else b * hat,
            "bias": b.flatten(3).sum(3) if b.ndim > 3 else b}


def _embedding(layer: nn.Module, a: Tensor, b: Tensor) -> Parameters:
    assert isinstance(layer, nn.Embedding)
    n, c = b.shape[:2]
    rows = b.new_zeros(n, c, *layer.weight.shape)
    b = b.reshape(n, c, -1, b.shape[-1])
    index = a.reshape(n, 1, -1, 1).expand_as(b)
    if layer.padding_idx is not None:
        b = b.masked_fill(index == layer.padding_idx, 0.0)
    return {"weight": rows.scatter_add_(2, index, b)}


RULES: dict[type[nn.Module], Rule] = {
    nn.Linear: _linear, nn.Conv1d: _convolution, nn.Conv2d: _convolution, nn.LayerNorm: _layer_norm,
    nn.GroupNorm: _group_norm, nn.Embedding: _embedding,
}
