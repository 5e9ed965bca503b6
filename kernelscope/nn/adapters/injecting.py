"""Adapters placed after layers of a model, of which everything else is frozen.

An adapter becomes a child of the layer that it follows, and a hook of that layer applies it. So the names and the
places of all other parameters stay as they were, and copying, moving and saving the model take the adapters along.
"""

from __future__ import annotations

import copy
from collections.abc import Iterable, Iterator
from fnmatch import fnmatchcase
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from ...arguments import as_seed, as_switch, what_came
from ...errors import DataError, ModelError
from ...network import PART
from .adapter import SNNKAdapter, merging_refused

#: The name of an adapter among the children of the layer that it follows.
CHILD = "snnk_adapter"

#: Attributes that tell how many numbers a layer gives on its last axis.
WIDTHS = ("out_features", "nf", "embedding_dim")


class Injected:
    """A model with adapters in it: what is trained, and the way back.

    Attributes:
        model: The model with its adapters, to be trained and used as before.
        adapters: The adapters, by the name of the layer that each follows.

    Example:
        >>> model = nn.Sequential(nn.Linear(4, 16), nn.ReLU(), nn.Linear(16, 3))
        >>> injected = inject(model, ["0", "2"], features=2)
        >>> injected.adapters["2"], injected.count
        (SNNKAdapter(3, features=2, form='added', 9 trainable parameters), 57)
        >>> injected.remove()
        Sequential(
          (0): Linear(in_features=4, out_features=16, bias=True)
          (1): ReLU()
          (2): Linear(in_features=16, out_features=3, bias=True)
        )
    """

    def __init__(
        self,
        model: nn.Module,
        adapters: dict[str, SNNKAdapter],
        hooks: list[RemovableHandle],
        before: dict[str, bool],
    ):
        self.model, self.adapters = model, adapters
        # Which parameters were trained before.
        self._hooks, self._before = hooks, before

    def __repr__(self) -> str:
        kept = sum(p.numel() for p in self.model.parameters()) - self.count
        adapters = sum(p.numel() for a in self.adapters.values() for p in a.parameters())
        beside = f" and {self.count - adapters:,} of the model" if self.count > adapters else ""
        n = len(self.adapters)
        return f"{n} adapter{'s' * (n != 1)} with {adapters:,} parameters{beside} are trained; {kept:,} are frozen."

    def named_parameters(self) -> Iterator[tuple[str, nn.Parameter]]:
        """What is trained: the adapters, and what was named in ``train``, by their names in the model."""
        return ((name, p) for name, p in self.model.named_parameters() if p.requires_grad)

    def parameters(self) -> Iterator[nn.Parameter]:
        """What is trained, for an optimizer."""
        return (p for _, p in self.named_parameters())

    @property
    def count(self) -> int:
        """The number of numbers that are trained."""
        return sum(p.numel() for p in self.parameters())

    def remove(self) -> nn.Module:
        """Takes the adapters out and lets be trained what was before; gives the model back.

        Parameters that were named in ``train`` keep what they learned.
        """
        for hook in self._hooks:
            hook.remove()
        for name in self.adapters:
            layer = self.model.get_submodule(name)
            if isinstance(getattr(layer, CHILD, None), SNNKAdapter):
                delattr(layer, CHILD)
        for name, p in self.model.named_parameters():
            p.requires_grad_(self._before.get(name, p.requires_grad))
        self.adapters, self._hooks = {}, []
        return self.model

    def merge(self) -> None:
        """Refuses: adapters of this kind are no part of a weight matrix.

        Raises:
            ModelError: Always, with the reason.
        """
        raise merging_refused()


def inject(
    model: nn.Module,
    targets: str | Iterable[str],
    features: int = 8,
    *,
    train: str | Iterable[str] = (),
    inputs: Any = None,
    kind: str = "orthogonal",
    form: str = "added",
    seed: int = 0,
    in_place: bool = False,
) -> Injected:
    """Places an adapter after each of some layers, and freezes everything else.

    Each layer gets an adapter of its own with directions of its own. A layer's first tensor is what its adapter takes,
    where it gives several. Outputs are those of the model, bit for bit, until something is trained. Where torch chooses
    another way to compute for frozen parameters, as ``torch.nn.TransformerEncoderLayer`` does in evaluation with
    gradients switched on, they are off by the round-off between both ways, some 1e-7 in single precision.

    Args:
        model: A model; a copy of it gets the adapters, and it stays as it is.
        targets: The names of layers, as :meth:`torch.nn.Module.named_modules` gives them; ``*`` stands for anything
            between two dots.
        features: The number of random features of each adapter.
        train: The names of parameters that are trained too, or of layers for all of theirs, such as ``"head"``.
        inputs: A batch for the model, or a tuple of its arguments; needed only where a layer does not tell how many
            numbers it gives.
        kind: How directions are drawn.
        form: Which form adapters have, see :class:`SNNKAdapter`.
        seed: Which directions.
        in_place: Change the model itself, not a copy.

    Raises:
        DataError: If an argument is not what it must be, or a name fits nothing.
        ModelError: If a layer gives no tensor, does not tell its width, or has an adapter already.

    Example:
        >>> model = nn.Sequential(nn.Linear(4, 16), nn.ReLU(), nn.Linear(16, 3))
        >>> injected = inject(model, "0", features=2, train="2")
        >>> injected
        1 adapter with 48 parameters and 51 of the model are trained; 80 are frozen.
        >>> x = torch.randn(5, 4)
        >>> torch.equal(injected.model(x), model(x))
        True
        >>> optimizer = torch.optim.Adam(injected.parameters())
    """
    if not isinstance(model, nn.Module):
        raise DataError(f"Adapters are placed in a torch.nn.Module; {what_came(model)} came. Pass the model itself.")
    seed, in_place = as_seed(seed), as_switch(in_place, "in_place")
    _check_names(model, targets)
    names = _fitting(targets, [name for name, _ in model.named_modules() if name], "targets", "layer")
    trained = _fitting(train, [name for name, _ in model.named_parameters()], "train", "parameter")
    for name in names:
        if isinstance(getattr(model.get_submodule(name), CHILD, None), SNNKAdapter):
            raise ModelError(f"The layer {name!r} has an adapter already. Take it out first with .remove(), or name "
                             "other layers.")
    widths = _widths(model, names, inputs)
    draw = torch.Generator().manual_seed(seed)
    seeds = torch.randint(0, 2**31, (len(names),), generator=draw).tolist()
    made = {}
    for name, own in zip(names, seeds, strict=True):
        device, dtype = place(model.get_submodule(name), model)
        made[name] = SNNKAdapter(widths[name], features, kind=kind, seed=own, form=form, device=device, dtype=dtype)
    return placed(model if in_place else copy.deepcopy(model), made, trained)


def placed(model: nn.Module, adapters: dict[str, SNNKAdapter], trained: Iterable[str]) -> Injected:
    """A model whose layers are followed by adapters, and in which only these and some parameters are trained."""
    before = {name: p.requires_grad for name, p in model.named_parameters()}
    trained, hooks = set(trained), []
    for name, p in model.named_parameters():
        p.requires_grad_(name in trained)
    for name, adapter in adapters.items():
        layer = model.get_submodule(name)
        adapter.train(layer.training)
        layer.add_module(CHILD, adapter)
        if not _is_chain(layer):
            hooks.append(layer.register_forward_hook(_adapted))
    return Injected(model, adapters, hooks, before)


def _adapted(layer: nn.Module, _: Any, output: Any) -> Any:
    # The adapter is looked up where the layer is: a copy of the model uses its own.
    adapter = getattr(layer, CHILD)
    if isinstance(output, tuple) and type(output) is tuple:
        return (adapter(output[0]), *output[1:])
    return adapter(output)


# What reads a model through a copy, such as a recording, has to keep it.
setattr(_adapted, PART, True)


def _is_chain(layer: nn.Module) -> bool:
    """Whether a layer applies its children one after the other: then one more at the end needs no hook."""
    return type(layer).forward is nn.Sequential.forward


def _fitting(patterns: str | Iterable[str], names: list[str], argument: str, what: str) -> list[str]:
    """The names that patterns fit, in the order of the names."""
    came = what_came(patterns)
    wanted = [patterns] if isinstance(patterns, str) else list(patterns) if isinstance(patterns, Iterable) else [None]
    if not all(isinstance(pattern, str) for pattern in wanted):
        raise DataError(f"{argument} must be the name of a {what}, or several names; {came} came.")
    if argument == "targets" and not wanted:
        raise DataError("targets is empty: name at least one layer that an adapter follows.")
    for pattern in wanted:
        if not any(_fits(name, str(pattern), what) for name in names):
            some = ", ".join(repr(name) for name in names[:8])
            more = ", …" if len(names) > 8 else ""
            raise DataError(f"{argument}={pattern!r} fits no {what} of the model. It has {some}{more}.")
    return [name for name in names if any(_fits(name, str(pattern), what) for pattern in wanted)]


def _check_names(model: nn.Module, targets: Any) -> None:
    """Whether no layer is named that the model has under another name already, by which its adapter goes."""
    first = {id(layer): name for name, layer in model.named_modules()}
    named = [targets] if isinstance(targets, str) else targets if isinstance(targets, list | tuple | set) else []
    for name, layer in model.named_modules(remove_duplicate=False):
        if name in named and first[id(layer)] != name:
            raise DataError(f"The layer {name!r} is the layer {first[id(layer)]!r} under another name, and a layer has "
                            f"one adapter, which is applied wherever it is used. Name it {first[id(layer)]!r} alone.")


def _fits(name: str, pattern: str, what: str) -> bool:
    """Whether a name is one of the pattern's, part by part; a parameter's name may go on."""
    parts, wanted = name.split("."), pattern.split(".")
    longer = len(parts) > len(wanted) and what == "parameter"
    return (longer or len(parts) == len(wanted)) and all(map(fnmatchcase, parts, wanted))


def place(layer: nn.Module, model: nn.Module) -> tuple[torch.device, torch.dtype]:
    """Where a layer's numbers lie and of which type they are."""
    for module in (layer, model):
        for p in module.parameters():
            if p.is_floating_point():
                return p.device, p.dtype
    return torch.device("cpu"), torch.get_default_dtype()


def _widths(model: nn.Module, names: list[str], inputs: Any) -> dict[str, int]:
    """How many numbers layers give on their last axis: what they say, or what they do."""
    said = {name: _said(model.get_submodule(name)) for name in names}
    if inputs is not None:
        said |= _seen(model, names, inputs)
    for name, width in said.items():
        if width is None:
            kind = type(model.get_submodule(name)).__name__
            raise ModelError(f"The layer {name!r}, a {kind}, does not tell how many numbers it gives. Pass a batch "
                             "that the model takes: inject(..., inputs=batch).")
    return {name: width for name, width in said.items() if width is not None}


def _said(layer: nn.Module) -> int | None:
    if _is_chain(layer):
        last = [child for child in layer.children() if not isinstance(child, nn.Dropout | nn.Identity)]
        return _said(last[-1]) if last else None
    if isinstance(layer, nn.LayerNorm):
        return layer.normalized_shape[-1]
    return next((n for n in (getattr(layer, name, None) for name in WIDTHS) if isinstance(n, int)), None)


def _seen(model: nn.Module, names: list[str], inputs: Any) -> dict[str, int | None]:
    """The widths of what layers give for some inputs, computed with a copy."""
    model = copy.deepcopy(model).eval()
    found: dict[str, int | None] = {}

    def watch(name: str) -> RemovableHandle:
        def see(_: nn.Module, __: Any, output: Any) -> None:
            first = output[0] if isinstance(output, tuple) and output else output
            if not isinstance(first, Tensor) or first.ndim == 0:
                raise ModelError(f"The layer {name!r} gives {what_came(output)}, and an adapter follows one that gives "
                                 "a tensor. Name a layer inside it.")
            found[name] = int(first.shape[-1])

        return model.get_submodule(name).register_forward_hook(see)

    for name in names:
        watch(name)
    with torch.no_grad(), torch.random.fork_rng():
        model(**inputs) if isinstance(inputs, dict) else model(*(inputs if isinstance(inputs, tuple) else (inputs,)))
    for name in names:
        if name not in found:
            raise ModelError(f"The layer {name!r} is not used for these inputs, so an adapter after it would learn "
                             "nothing. Name layers that are used.")
    return found
